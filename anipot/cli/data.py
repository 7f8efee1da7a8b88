"""``anipot data``: look into data sets, check, divide and convert them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

from anipot.cli import data_fetch
from anipot.cli.common import check_folder
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
    text = "where a label is, such as energies='wb97x_dz.energy [Hartree]'; a minus before the key for gradients"
    parser.add_argument("--field", action="append", default=[], metavar="NAME=KEY", help=text)
    parser.add_argument("--length", help="unit of coordinates, where the file does not say it")


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
    from anipot.data import open as open_dataset
    from anipot.data import read_split

    fields = {}
    for text in args.field:
        name, equals, key = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--field is {text!r}; expected NAME=KEY or NAME='KEY [UNIT]'")
        fields[name.strip()] = key.strip()
    dataset = open_dataset(args.files, args.layout, fields or None, args.length)
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


def _facts(dataset: Any) -> dict[str, Any]:
    source = dataset.source
    sizes = [group.num_atoms for group in source.groups]
    return {
        "layout": source.layout,
        "files": list(source.paths),
        "structures": len(dataset),
        "groups": len(source.groups),
        "smallest": min(sizes, default=0),
        "largest": max(sizes, default=0),
        "periodic": source.periodic,
        "quantities": {
            name: {"unit": q.unit, "per_atom": q.per_atom, "shape": list(q.shape)}
            for name, q in dataset.quantities.items()
        },
        "metadata": {name: value for name, value in source.metadata.items() if name != "molecules"},
        "fingerprint": dataset.fingerprint,
    }


def _info(args: argparse.Namespace) -> int:
    dataset = _open(args)
    facts = _facts(dataset)
    found = None if args.quick else dataset.statistics(_progress("reading"))
    if args.json:
        print(json.dumps(facts | ({} if found is None else found.to_dict()), indent=1, default=str))
        return 0
    _print_facts(facts)
    if found is None:
        for name, quantity in facts["quantities"].items():
            print(f"  {name} [{quantity['unit']}]{' of each atom' if quantity['per_atom'] else ''}")
    else:
        _print_contents(found)
        for name, spread in found.quantities.items():
            print(f"  {name} [{spread.unit}]: {spread.structures} structures, missing in {spread.missing}")
    return 0


def _stats(args: argparse.Namespace) -> int:
    dataset = _open(args)
    facts, found = _facts(dataset), dataset.statistics(_progress("reading"))
    if args.json:
        print(json.dumps(facts | found.to_dict(), indent=1, default=str))
        return 0
    _print_facts(facts)
    _print_contents(found)
    for name, spread in found.quantities.items():
        print(f"  {name} [{spread.unit}]: {spread.structures} structures, missing in {spread.missing}")
        if spread.structures:
            print(
                f"    mean {spread.mean:.6g}, standard deviation {spread.std:.6g}, RMS {spread.rms:.6g}, "
                f"{spread.min:.6g} to {spread.max:.6g}, largest {spread.largest:.6g}"
            )
    if found.self_energies:
        _print_self_energies(found)
    return 0


def _print_facts(facts: dict[str, Any]) -> None:
    print(f"{', '.join(facts['files'])}: {facts['layout']}")
    sizes = f"{facts['smallest']} to {facts['largest']} atoms"
    print(f"{facts['structures']} structures of {sizes} in {facts['groups']} groups")
    for name, value in facts["metadata"].items():
        text = str(value)
        print(f"  {name}: {text if len(text) <= 200 else text[:200] + '…'}")


def _print_contents(found: Any) -> None:
    print(f"{found.atoms} atoms, {found.periodic} periodic structures")
    for element, count in found.elements.items():
        print(f"  {element}: {count} atoms in {found.structures_with[element]} structures")
    print("structures by number of atoms:")
    line = ""
    for size, count in found.sizes.items():
        part = f"  {size}: {count}"
        if len(line) + len(part) > 100:
            print(line)
            line = ""
        line += part
    print(line)
    print("labels:")


def _print_self_energies(found: Any) -> None:
    print(f"self energies from {found.compositions} compositions, Hartree (least squares; robust):")
    for element, energy in found.self_energies.items():
        print(f"  {element}: {energy:.8f}  {found.robust_self_energies[element]:.8f}")
    print(
        f"energies less self energies: mean {found.energy_mean:.6g}, standard deviation {found.energy_std:.6g} Hartree"
    )
    print(f"  per atom, robust standard deviation: {found.energy_std_per_atom:.6g} Hartree")


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
