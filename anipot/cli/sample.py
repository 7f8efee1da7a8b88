"""``anipot sample``: choose structures that an ensemble has something to learn from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from anipot.cli.common import add_common, check_ending, check_frame, load, read_frames
from anipot.cli.errors import UsageError

_METHODS = ("modes", "dynamics", "dimers", "frames")


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("sample", help="choose new structures by query by committee")
    parser.add_argument("files", metavar="FILE", nargs="+", help="molecules to start from, or frames to choose from")
    parser.add_argument("-o", "--output", required=True, help=".h5, and the same structures as .extxyz")
    parser.add_argument("--method", choices=_METHODS, nargs="+", default=["modes", "dynamics"])
    parser.add_argument("--threshold", type=float, default=0.23, help="sigma/sqrt(N), kcal/mol (0 chooses everything)")
    parser.add_argument("--temperature", type=float, nargs=2, default=(50.0, 800.0), metavar=("LOW", "HIGH"), help="K")
    parser.add_argument("--conformers", type=int, default=100, help="by normal modes, of each molecule")
    parser.add_argument("--trajectories", type=int, default=4, help="of each molecule")
    parser.add_argument("--steps", type=int, default=2000, help="of a trajectory, at most")
    parser.add_argument("--interval", type=int, default=5, help="steps between questions to the committee")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--friction", type=float, default=0.01, help="1/fs")
    parser.add_argument("--start", choices=("trusted", "relaxed"), default="trusted", help="where trajectories start")
    parser.add_argument("--dimers", type=int, default=0, help="how many")
    parser.add_argument("--contact", type=float, nargs=2, default=(1.5, 4.5), metavar=("LOW", "HIGH"), help="Å")
    parser.add_argument("--limit", type=int, help="most conformers of one molecule that are chosen")
    parser.add_argument("--no-relax", action="store_true", help="take molecules as they are")
    parser.add_argument("--fmax", type=float, default=0.01, help="of relaxed molecules, eV/Å")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--no-text", action="store_true", help="no .extxyz")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same settings")
    again.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Choose structures, and say how many and of what."""
    from anipot.sampling import SampleSettings, sample

    check_ending(args.output, (".h5", ".hdf5"))
    settings = SampleSettings(
        methods=tuple(dict.fromkeys(args.method)),
        threshold=args.threshold,
        temperature=tuple(args.temperature),
        conformers=args.conformers,
        trajectories=args.trajectories,
        steps=args.steps,
        interval=args.interval,
        timestep=args.timestep,
        friction=args.friction,
        start=args.start,
        dimers=args.dimers,
        contact=tuple(args.contact),
        limit=args.limit,
        relax=not args.no_relax,
        fmax=args.fmax,
        seed=args.seed,
    )
    if args.resume and _is_complete(args.output):
        return 0
    model = load(args)
    molecules, names, frames = _inputs(args, model, tuple(settings.methods))
    try:
        report = sample(
            model,
            args.output,
            molecules,
            settings,
            names=names,
            frames=frames,
            resume=args.resume,
            overwrite=args.overwrite,
            workers=args.workers,
            text=not args.no_text,
        )
    except FileExistsError as error:
        raise UsageError(f"{error} (--resume, --overwrite)") from error
    for note in report.notes:
        print(f"anipot: {note}", file=sys.stderr)
    for kind, (tested, chosen) in report.totals.items():
        if tested:
            print(f"{kind}: {chosen} of {tested} chosen")
    again = f" ({report.duplicates} came twice)" if report.duplicates else ""
    beside = "" if args.no_text else f" and {Path(args.output).with_suffix('.extxyz')}"
    print(f"{report.chosen} structures in {args.output}{beside}{again}")
    return 0


def _is_complete(output: str) -> bool:
    if Path(output).exists() and not Path(f"{output}.state").exists():
        print(f"{output} is complete; there is nothing to resume")
        return True
    return False


def _inputs(args: argparse.Namespace, model: Any, methods: tuple[str, ...]) -> tuple[list[Any], list[str], Any]:
    """Return molecules with their names, and the source of frames."""
    frames = open_structures(args.files) if "frames" in methods else None
    molecules: list[Any] = []
    names: list[str] = []
    if set(methods) - {"frames"}:
        for file in args.files:
            for where, atoms in read_frames(file):
                check_frame(where, atoms, model.elements)
                molecules.append(atoms)
                names.append(str(where))
    return molecules, names, frames


def open_structures(files: list[str]) -> Any:
    """Return the structures of data files as a source without labels, but with ids where there are some."""
    from anipot.data.blocks import DataError
    from anipot.data.memory import MemorySource, blocks_of_atoms
    from anipot.data.source import open_source

    try:
        source = open_source(files, fields={})
    except DataError as error:  # not one of our layouts: perhaps ASE reads it
        try:
            frames = [atoms for file in files for _, atoms in read_frames(file)]
        except UsageError as other:
            raise UsageError(f"{error}; nor can ASE read it: {other}") from other
        for atoms in frames:
            atoms.calc = None
        return MemorySource(blocks_of_atoms(frames, {})[0])
    try:
        return open_source(files, fields={"id": "id"}) if source.layout == "store" else source
    except DataError:
        return source
