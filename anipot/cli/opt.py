"""``anipot opt``: relaxation of every frame through ASE."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from anipot.cli.common import add_common, check_ending, check_frame, load, read_frames, write_atomically
from anipot.cli.errors import RunError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("opt", help="relax structures")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", "--output", required=True, help=".xyz, .extxyz or .traj")
    parser.add_argument("--index", default=":", help="which frames, as in ASE")
    parser.add_argument("--fmax", type=float, default=0.01, help="largest force at the end, eV/Å")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--optimizer", choices=("LBFGS", "BFGS", "FIRE"), default="LBFGS")
    parser.add_argument("--cell", action="store_true", help="relax the cell too")
    parser.add_argument("--trajectory", help="every step, .traj; one file, frame after frame")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Relax the frames; those that do not converge are written too, marked, and end in exit code 1."""
    import ase.io

    check_ending(args.output, (".xyz", ".extxyz", ".traj"))
    check_ending(args.trajectory, (".traj",))
    model = load(args)
    frames = list(read_frames(args.file, args.index))
    for where, atoms in frames:
        check_frame(where, atoms, model.elements, args.cell)
    calculator = model.ase()
    failed = []
    for i, (where, atoms) in enumerate(frames):
        atoms.calc = calculator
        converged = relax(atoms, args.fmax, args.steps, args.optimizer, args.cell, args.trajectory, append=i > 0)
        atoms.info["converged"] = converged
        if not converged:
            failed.append(where)
            print(f"anipot: {where} did not reach fmax {args.fmax:g} eV/Å in {args.steps} steps", file=sys.stderr)
        atoms.calc = freeze(atoms)
    kind = "traj" if args.output.lower().endswith(".traj") else "extxyz"
    write_atomically(args.output, lambda path: ase.io.write(path, [a for _, a in frames], format=kind))
    if failed:
        raise RunError(f"{len(failed)} of {len(frames)} frames did not converge; {args.output} marks them")
    return 0


def relax(
    atoms: Any, fmax: float, steps: int, optimizer: str, cell: bool, trajectory: str | None = None, append: bool = False
) -> bool:
    """Relax in place and return whether the forces fell below ``fmax`` (eV/Å)."""
    import ase.optimize
    from ase.filters import FrechetCellFilter
    from ase.io.trajectory import Trajectory

    target = FrechetCellFilter(atoms) if cell else atoms
    dynamics = getattr(ase.optimize, optimizer)(target, logfile=None)
    if trajectory is None:
        return bool(dynamics.run(fmax=fmax, steps=steps))
    with Trajectory(trajectory, "a" if append else "w", atoms) as file:
        dynamics.attach(file)
        return bool(dynamics.run(fmax=fmax, steps=steps))


def freeze(atoms: Any) -> Any:
    """Return a calculator that holds what was computed last, since the live one is shared by all frames."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.get_potential_energy()  # computes only what is not there
    names = ("energy", "free_energy", "forces", "stress")
    return SinglePointCalculator(atoms, **{k: v for k, v in atoms.calc.results.items() if k in names})
