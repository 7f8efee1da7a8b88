"""``anipot vib``: normal modes of a molecule."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from anipot.cli.common import Place, add_common, check_ending, check_frame, load, read_frames, write_atomically
from anipot.cli.errors import RunError, UsageError
from anipot.cli.opt import relax

#: Forces (eV/Å) above which a geometry is no stationary point, and its frequencies mean little.
LARGE_FORCE = 0.05


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("vib", help="frequencies and normal modes")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", "--output", help=".json with frequencies, modes, force constants and reduced masses")
    parser.add_argument("--index", default="0", help="which frame (default: 0)")
    parser.add_argument("--opt", action="store_true", help="relax first, to 0.001 eV/Å")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the frequencies and the zero-point energy."""
    check_ending(args.output, (".json",))
    model = load(args)
    frames = list(read_frames(args.file, args.index))
    if len(frames) != 1:
        raise UsageError(f"{args.file}: vib takes one frame, but --index {args.index!r} gives {len(frames)}")
    where, atoms = frames[0]
    check_frame(where, atoms, model.elements)
    if atoms.pbc.any():
        raise UsageError(f"{where} is periodic; vib is for free molecules")
    if args.opt:
        atoms.calc = model.ase()
        if not relax(atoms, 0.001, 1000, "BFGS", False):
            raise RunError(f"{where} did not relax to 0.001 eV/Å in 1000 steps")
    values = _analyse(model, atoms, where, args.opt)
    _print(values)
    if args.output is not None:
        write_atomically(args.output, lambda path: _write(path, values))
    return 0


def _write(path: str, values: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(values, indent=1) + "\n")


def _analyse(model: Any, atoms: Any, where: Place, relaxed: bool) -> dict[str, Any]:
    import torch
    from ase import units

    from anipot import single_point, vibrational_analysis
    from anipot.units import HARTREE_TO_EV

    species = torch.tensor(atoms.numbers, dtype=torch.long, device=model.device)[None]
    coordinates = torch.tensor(atoms.positions, device=model.device)[None]
    try:
        result = single_point(model, species, coordinates, hessian=True)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    fmax = float(result.forces[0].norm(dim=-1).max()) * HARTREE_TO_EV  # type: ignore[index]
    if fmax > LARGE_FORCE and not relaxed:
        print(f"anipot: warning: forces reach {fmax:.3f} eV/Å at {where}; relax it first (--opt)", file=sys.stderr)
    masses = torch.tensor(atoms.get_masses())
    hessian = result.hessian[0].double().cpu()  # type: ignore[index]
    modes = vibrational_analysis(masses, hessian, project=coordinates[0].cpu())
    zpe = 0.5 * float(modes.freqs.clamp(min=0).sum()) * units.invcm
    return {
        "frequencies_per_cm": modes.freqs.tolist(),
        "reduced_masses_u": modes.rmasses.tolist(),
        "force_constants_mdyne_per_angstrom": modes.fconstants.tolist(),
        "modes": modes.modes.tolist(),
        "zero_point_energy_ev": zpe,
        "zero_point_energy_kcal_per_mol": zpe / (units.kcal / units.mol),
        "fmax_ev_per_angstrom": fmax,
    }


def _print(values: dict[str, Any]) -> None:
    for i, frequency in enumerate(values["frequencies_per_cm"]):
        print(f"{i:5d} {frequency:12.2f} cm^-1{'  imaginary' if frequency < 0 else ''}")
    zpe, kcal = values["zero_point_energy_ev"], values["zero_point_energy_kcal_per_mol"]
    print(f"zero-point energy {zpe:.6f} eV = {kcal:.4f} kcal/mol")
