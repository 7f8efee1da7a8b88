"""``anipot opt``: relaxation of all frames of a file at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anipot.cli.common import (
    Place,
    add_common,
    add_folder,
    check_ending,
    check_frame,
    load,
    open_folder,
    read_frames,
    write_atomically,
)
from anipot.cli.errors import RunError, UsageError

if TYPE_CHECKING:
    from anipot.optimization import Optimized


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("opt", help="relax structures, all frames at once")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", "--output", help=".xyz, .extxyz or .traj, a copy of the relaxed frames")
    parser.add_argument("--index", default=":", help="which frames, as in ASE (default: all)")
    parser.add_argument("--fmax", type=float, default=0.01, help="largest force at the end, eV/Å (default: 0.01)")
    parser.add_argument("--steps", type=int, default=1000, help="most steps of a frame (default: 1000)")
    parser.add_argument("--method", choices=("lbfgs", "fire"), default="lbfgs")
    parser.add_argument("--no-precondition", action="store_true", help="L-BFGS without a model Hessian, as ASE does it")
    parser.add_argument("--cell", action="store_true", help="relax the cell too")
    parser.add_argument("--pressure", type=float, default=0.0, help="on cells that relax, GPa (default: 0)")
    parser.add_argument("--batch-size", type=int, help="frames computed at a time (default: by their sizes)")
    parser.add_argument("--trajectory", help="every step, .traj; one file, frame after frame")
    add_folder(parser)
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Relax the frames; those that do not converge are written too, marked, and end in exit code 1."""
    from anipot.optimization import optimize

    check_ending(args.output, (".xyz", ".extxyz", ".traj"))
    check_ending(args.trajectory, (".traj",))
    if args.pressure and not args.cell:
        raise UsageError("--pressure acts on cells that relax; give --cell too")
    model = load(args)
    frames = list(read_frames(args.file, args.index))
    for where, atoms in frames:
        check_frame(where, atoms, model.elements, args.cell)
    folder = open_folder(args)
    with folder.undone_by_failure():
        found = optimize(
            [atoms for _, atoms in frames],
            model,
            method=args.method,
            fmax=args.fmax,
            steps=args.steps,
            cell=args.cell,
            pressure=args.pressure,
            precondition=False if args.no_precondition else None,
            batch_size=args.batch_size,
            path=args.trajectory is not None,
            progress=sys.stderr.isatty(),
        )
    places = [where for where, _ in frames]
    _write(folder, args, places, found)
    failed = sum(not one.converged for one in found)
    print(f"{len(found) - failed} of {len(found)} frames converged; more in {folder.path}")
    if failed:
        raise RunError(f"{failed} of {len(found)} frames did not converge; {folder / 'optimized.xyz'} marks them")
    return 0


def _write(folder: Any, args: argparse.Namespace, places: Sequence[Place], found: Sequence[Optimized]) -> None:
    """Leave geometries, numbers and a picture, and name the frames that did not converge."""
    import ase.io

    from anipot.optimization.files import record, write_optimized

    for where, one in zip(places, found, strict=True):
        if not one.converged:
            print(f"anipot: {where} did not converge: {one.why}", file=sys.stderr)
    write_optimized(folder, found, args.fmax)
    frames = [
        {"file": where.file, "frame": where.frame} | record(one) for where, one in zip(places, found, strict=True)
    ]
    folder.write_results({"model": args.model, "fmax_ev_per_angstrom": args.fmax, "frames": frames})
    relaxed = [one.atoms for one in found]
    if args.output is not None:
        kind = "traj" if args.output.lower().endswith(".traj") else "extxyz"
        write_atomically(args.output, lambda path: ase.io.write(path, relaxed, format=kind))
    if args.trajectory is not None:
        steps = [atoms for one in found for atoms in one.path or ()]
        write_atomically(args.trajectory, lambda path: ase.io.write(path, steps, format="traj"))
