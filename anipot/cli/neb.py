"""``anipot neb``: the path between two structures, and the transition state on it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from anipot.cli.common import Place, add_common, add_folder, check_frame, load, open_folder, read_frames
from anipot.cli.errors import RunError, UsageError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("neb", help="reaction path between two structures")
    parser.add_argument("file", metavar="START", help="reactant; or a file of two frames, reactant and product")
    parser.add_argument("end", metavar="END", nargs="?", help="product, with the same atoms in the same order")
    parser.add_argument("--between", metavar="FILE", help="a guess of the transition state")
    parser.add_argument("--images", type=int, default=9, help="ends included (default: 9)")
    parser.add_argument("--fmax", type=float, default=0.05, help="largest force on the band, eV/Å (default: 0.05)")
    parser.add_argument("--steps", type=int, default=1000, help="most steps (default: 1000)")
    parser.add_argument("--no-relax", action="store_true", help="take the ends as they are")
    parser.add_argument("--ts", action="store_true", help="refine the highest image to the transition state (Sella)")
    add_folder(parser)
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the barriers; leave the path, numbers and a picture; exit code 1 if something did not converge."""
    import ase.io

    from anipot.optimization import reaction_path, transition_state
    from anipot.workfolder import can_draw

    if args.ts:
        _check_sella()
    model = load(args)
    start, end, between = _structures(args, model)
    folder = open_folder(args)
    for file in filter(None, (args.end, args.between)):
        folder.add_input(file)
    with folder.undone_by_failure():
        path = reaction_path(
            start,
            end,
            model,
            images=args.images,
            fmax=args.fmax,
            steps=args.steps,
            relax_ends=not args.no_relax,
            between=between,
        )
    ase.io.write(folder / "path.xyz", path.images, format="extxyz")
    if can_draw():
        folder.save_picture("path", path.plot())
    values: dict[str, Any] = {
        "model": args.model,
        "converged": path.converged,
        "steps": path.steps,
        "fmax_ev_per_angstrom": path.fmax,
        "barrier_ev": path.barrier,
        "reverse_barrier_ev": path.reverse_barrier,
        "highest_image": path.highest,
        "lengths_angstrom": path.lengths,
        "energies_ev": path.energies,
    }
    print(f"barrier {path.barrier:.4f} eV, reverse {path.reverse_barrier:.4f} eV, at image {path.highest}")
    state = transition_state(path.images[path.highest], model) if args.ts else None
    if state is not None:
        ase.io.write(folder / "transition_state.xyz", state.atoms, format="extxyz")
        values["transition_state"] = _record(state)
        print(f"transition state: {state.why or f'imaginary mode of {-state.frequencies[0]:.0f} cm⁻¹'}")
    folder.write_results(values)
    print(f"more in {folder.path}")
    if not path.converged:
        raise RunError(f"forces on the band reach {path.fmax:.3g} eV/Å after {path.steps} steps")
    if state is not None and not state.converged:
        raise RunError(f"no transition state: {state.why}")
    return 0


def _check_sella() -> None:
    from importlib.util import find_spec

    if find_spec("sella") is None:
        raise UsageError("--ts needs Sella: pip install anipot[ts]")


def _structures(args: argparse.Namespace, model: Any) -> tuple[Any, Any, Any]:
    """Return reactant, product and the guess between them, or None."""
    found = list(read_frames(args.file)) if args.end is None else [*_one(args.file), *_one(args.end)]
    if len(found) != 2:
        raise UsageError(f"{args.file} holds {len(found)} frames; expected two, reactant and product, or a second file")
    if args.between is not None:
        found += _one(args.between)
    for where, atoms in found:
        check_frame(where, atoms, model.elements)
    frames = [atoms for _, atoms in found]
    return frames[0], frames[1], frames[2] if args.between is not None else None


def _one(file: str) -> list[tuple[Place, Any]]:
    """Return the last frame of a file, as of a relaxation that ends in it."""
    frames = list(read_frames(file))
    if len(frames) > 1:
        print(f"anipot: {Path(file).name} holds {len(frames)} frames; the last is taken", file=sys.stderr)
    return frames[-1:]


def _record(state: Any) -> dict[str, Any]:
    """Return the numbers of a transition state."""
    return {
        "converged": state.converged,
        "why": state.why,
        "energy_ev": state.atoms.get_potential_energy(),
        "frequencies_per_cm": state.frequencies,
        "barriers_from_both_sides_ev": state.barriers,
    }
