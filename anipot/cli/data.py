"""``anipot data``: look into data sets, check, divide and convert them."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from anipot.cli import data_fetch, data_report
from anipot.cli.common import check_folder, open_data
from anipot.cli.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Add the ``data`` command to the parser of ``anipot``."""
    parser = subparsers.add_parser("data", help="look into, check, divide and convert data sets", description=__doc__)
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    data_fetch.add_parsers(commands)

    command = commands.add_parser("info", help="what a file holds: layout, sizes, elements, labels and their units")
    _add_files(command)
    command.add_argument("--quick", action="store_true", help="do not read the structures, only what the file says")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_info)

    command = commands.add_parser("stats", help="info, self energies, spreads of energies and forces")
    _add_files(command)
    _add_part(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_stats)

    command = commands.add_parser("check", help="look for bad records; exit code 1 if there are any")
    _add_files(command)
    _add_part(command)
    _add_checks(command)
    command.set_defaults(run=_check)

    command = commands.add_parser("split", help="divide a data set and write which rows belong to which part")
    _add_files(command)
    command.add_argument("--part", dest="parts", action="append", metavar="NAME=SIZE", help=_SIZES)
    command.add_argument("--folds", type=int, metavar="K", help="K equal parts for cross-validation instead")
    command.add_argument("--by", default="conformer", help="conformer, group, formula, block or order")
    command.add_argument("--block", type=int, default=1000, help="rows that stay together with --by block")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("-o", "--output", required=True, help=".json")
    command.set_defaults(run=_split)

    command = commands.add_parser("convert", help="write a data set into another file; call again to resume")
    _add_files(command)
    _add_part(command)
    _add_checks(command)
    command.add_argument(
        "-o", "--output", required=True, help=".h5 (this library's layout), .xyz, .extxyz or .db (ASE)"
    )
    command.add_argument("--on-bad", choices=("refuse", "skip", "keep"), default="refuse", help="bad records")
    command.add_argument("--single", action="store_true", help="float32 for all but scalars (.h5)")
    command.add_argument("--overwrite", action="store_true", help="replace a finished file")
    command.set_defaults(run=_convert)


_SIZES = "a fraction such as train=0.8, a number of structures, or -1 for the rest (default: 0.8, 0.1, 0.1)"


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="files or folders, read as one data set")
    parser.add_argument("--layout", help="of the files; told from what is in them by default")
    text = "where a label is, such as energies='wb97x_dz.energy [Hartree]'; forces=-KEY for gradients, +KEY for forces"
    parser.add_argument("--field", action="append", default=[], metavar="NAME=KEY", help=text)
    parser.add_argument("--length", help="unit of coordinates, where the file does not say it")
    parser.add_argument("--pbc", nargs=3, choices="TF", help="which axes are periodic, where the file does not say it")


def _add_part(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", metavar="FILE", help="file of a split, of which to take a part")
    parser.add_argument("--part", metavar="NAME", help="which part")


def _add_checks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--elements", nargs="+", metavar="SYMBOL", help="that may occur; any by default")
    parser.add_argument("--max-force", type=float, default=10.0, help="Hartree/Å (default: 10)")
    parser.add_argument("--min-distance", type=float, default=0.3, help="Å (default: 0.3)")
    parser.add_argument("--max-deviation", type=float, help="of energies per atom, in robust standard deviations")
    parser.add_argument("--duplicates", action="store_true", help="look for structures that come twice")
    parser.add_argument("--bad", metavar="CSV", help="write where all bad records stand")


def _open(args: argparse.Namespace) -> Any:
    from anipot.data import read_split

    dataset = open_data(args.files, args)
    split, part = getattr(args, "split", None), getattr(args, "part", None)
    if (split is None) != (part is None):
        raise UsageError("--split and --part come together")
    if split is None:
        return dataset
    parts = read_split(split, dataset)
    if part not in parts:
        raise UsageError(f"{split} has no part {part!r}; it has {', '.join(parts)}")
    return parts[part]


def _progress(text: str) -> str | None:
    """Return what a bar says, where there is somebody to see it."""
    return text if sys.stderr.isatty() else None


def _info(args: argparse.Namespace) -> int:
    dataset = _open(args)
    found = None if args.quick else dataset.statistics(_progress("reading"))
    return data_report.show(dataset, found, args.json, spreads=False)


def _stats(args: argparse.Namespace) -> int:
    dataset = _open(args)
    return data_report.show(dataset, dataset.statistics(_progress("reading")), args.json, spreads=True)


def _limits(args: argparse.Namespace) -> dict[str, Any]:
    names = ("elements", "max_force", "min_distance", "max_deviation", "duplicates")
    return {name: getattr(args, name) for name in names} | {"log": args.bad}


def _check(args: argparse.Namespace) -> int:
    report = _open(args).check(progress=_progress("checking"), **_limits(args))
    print(report)
    return 1 if report.bad else 0


def _split(args: argparse.Namespace) -> int:
    from anipot.data import write_split

    check_folder(args.output)
    if not args.output.endswith(".json"):
        raise UsageError(f"{args.output} must end in .json")
    dataset = _open(args)
    if args.folds is not None:
        if args.parts:
            raise UsageError("--folds and --part exclude each other")
        pairs = dataset.folds(args.folds, args.by, args.seed, args.block)
        parts = {f"fold{i}": part for i, (_, part) in enumerate(pairs)}
    else:
        sizes = dict(map(_size, args.parts or ["train=0.8", "validation=0.1", "test=0.1"]))
        parts = dataset.split(sizes, args.by, args.seed, args.block)
    facts = {"by": args.by, "seed": args.seed, "command": shlex.join(["anipot", *args.argv])}
    if args.by == "block":
        facts["block"] = args.block
    write_split(args.output, parts, facts)
    for name, part in parts.items():
        print(f"{name}: {len(part)} of {len(dataset)}")
    return 0


def _size(text: str) -> tuple[str, float]:
    """Return the name and size of a part.

    >>> _size("train=0.8"), _size("test=100")
    (('train', 0.8), ('test', 100))
    """
    name, _, size = text.partition("=")
    try:
        return name, float(size) if "." in size or "e" in size else int(size)
    except ValueError as error:
        raise UsageError(f"--part is {text!r}; expected NAME=SIZE, {_SIZES}") from error


def _convert(args: argparse.Namespace) -> int:
    from anipot.data.export import FORMATS

    check_folder(args.output)
    options: dict[str, Any] = {"precision": "single"} if args.single else {}
    if not args.output.lower().endswith(tuple(FORMATS)):
        raise UsageError(f"{args.output} must end in one of {', '.join(FORMATS)}")
    dataset = _open(args)
    if args.on_bad != "keep":
        report = dataset.check(progress=_progress("checking"), **_limits(args))
        if report.bad:
            print(report, file=sys.stderr)
            if args.on_bad == "refuse":
                raise UsageError(
                    f"{report.bad} bad records; --on-bad skip leaves them out, keep takes them as they are"
                )
            dataset = dataset.select(dataset.selection - report.rows)
    try:
        count = dataset.save(args.output, overwrite=args.overwrite, progress=sys.stderr.isatty(), **options)
    except FileExistsError as error:
        raise UsageError(f"{args.output} exists; --overwrite replaces it") from error
    print(f"{args.output}: {count} structures")
    return 0
