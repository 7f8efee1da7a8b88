"""``anipot zoo``: list, fetch, hand over, check and export models."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the ``zoo`` command to the parser of ``anipot``."""
    parser = subparsers.add_parser("zoo", help="list, fetch, import, check and export models", description=__doc__)
    commands = parser.add_subparsers(dest="zoo_command", metavar="COMMAND", required=True)

    command = commands.add_parser("list", help="show the models and which of them are cached")
    command.set_defaults(run=_list)

    command = commands.add_parser("pull", help="bring published models into the cache")
    command.add_argument("names", nargs="*", metavar="NAME", help="such as ani2x; all published models by default")
    command.set_defaults(run=_pull)

    command = commands.add_parser("import", help="bring models from files into the cache")
    command.add_argument("path", metavar="PATH", help="NeuroChem folder, zip or wheel; .safetensors; TorchANI .pt")
    command.add_argument("--name", help="name for a model of your own")
    command.set_defaults(run=_import)

    command = commands.add_parser("verify", help="check the cached models; exit code 1 if one is damaged")
    command.add_argument("name", nargs="?", metavar="NAME", help="all by default")
    command.set_defaults(run=_verify)

    command = commands.add_parser("path", help="print the folder of the cache, or the file of one cached model")
    command.add_argument("name", nargs="?", metavar="NAME")
    command.set_defaults(run=_path)

    command = commands.add_parser("export", help="write a model to one file")
    command.add_argument("name", metavar="NAME")
    command.add_argument("path", metavar="PATH", help="file that ends in .safetensors, or a folder")
    command.set_defaults(run=_export)


def _list(args: argparse.Namespace) -> int:
    from anipot import zoo

    rows = [("NAME", "ELEMENTS", "MEMBERS", "LEVEL OF THEORY", "CACHED")]
    for status in zoo.table(check=False):
        cached = "damaged" if status.problem else "shipped" if status.shipped else "yes" if status.cached else "no"
        rows.append((status.name, " ".join(status.elements), str(status.members), status.level_of_theory, cached))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _pull(args: argparse.Namespace) -> int:
    from anipot import zoo

    for name, path in zoo.pull(args.names or None).items():
        print(f"{name}: {path}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from anipot import zoo

    for name in zoo.import_path(args.path, args.name):
        print(f"imported {name}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from anipot import zoo

    checked = zoo.verify(args.name)
    for status in checked:
        print(f"{status.name}: {status.problem or 'ok'}")
    if not checked:
        print(f"{args.name} is not cached" if args.name else f"nothing is cached in {zoo.cache_dir()}")
    return 1 if any(status.problem for status in checked) else 0


def _path(args: argparse.Namespace) -> int:
    from anipot import zoo

    if args.name is None:
        print(zoo.cache_dir())
        return 0
    status = zoo.status(args.name)
    if not (status.cached or status.shipped):
        raise zoo.ZooError(f"{status.title} is not cached; `anipot zoo pull {status.name}` fetches it")
    print(status.path)
    return 0


def _export(args: argparse.Namespace) -> int:
    from anipot import zoo

    print(zoo.export(args.name, args.path))
    return 0
