"""``anipot data fetch`` and ``anipot data list``: published data sets."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from anipot.cli.errors import UsageError

if TYPE_CHECKING:
    from anipot.data.published import Published


def add_parsers(commands: Any) -> None:
    """Add both commands to the parser of ``anipot data``."""
    command = commands.add_parser(
        "fetch", help="download, check and convert published data sets", description="Bring published data sets here."
    )
    command.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="such as qm9, md17:ethanol, comp6:drugbank; NAME:all is every part; `anipot data list` shows them",
    )
    command.add_argument("--folder", metavar="PATH", help="where data are kept (default: data in the cache)")
    command.add_argument("--file", metavar="PATH", help="documents of the Materials Project that are here already")
    command.add_argument(
        "--on-bad",
        choices=("skip", "refuse"),
        default="skip",
        help="leave out records that cannot be used and report them, or stop at the first (default: skip)",
    )
    command.add_argument("--delete-downloads", action="store_true", help="keep the converted files only")
    command.set_defaults(run=_fetch)

    command = commands.add_parser("list", help="show the published data sets, or what is known of one")
    command.add_argument("name", nargs="?", metavar="NAME", help="such as qm9 or md17:ethanol")
    command.add_argument("--folder", metavar="PATH", help="where data are kept (default: data in the cache)")
    command.set_defaults(run=_list)


def _fetch(args: argparse.Namespace) -> int:
    chosen = [dataset for name in args.names for dataset in _find(name, args.folder, args.file)]  # all before the first
    for dataset in chosen:
        path = dataset.fetch(on_bad=args.on_bad, keep_downloads=not args.delete_downloads)
        print(f"{dataset.facts()['name']}: {path}")
        _print_report(dataset)
    return 0


def _find(name: str, folder: str | None, file: str | None) -> list[Published]:
    from anipot.data import published

    options = {"folder": folder} if file is None else {"folder": folder, "file": file}
    key, _, variant = name.partition(":")
    kind = published.DATASETS.get(key.lower())
    try:
        if kind is not None and variant == "all" and "all" not in kind.variants:
            return [published.find(f"{key}:{each}", **options) for each in kind.variants]
        return [published.find(name, **options)]
    except ValueError as error:
        raise UsageError(str(error)) from error


def _print_report(dataset: Published) -> None:
    if not dataset.report_path.is_file():
        return
    report = json.loads(dataset.report_path.read_text("utf-8"))
    expected = report["expected"]
    note = "" if expected in (None, report["structures"]) else f", {expected:,} published"
    print(f"  {report['structures']:,} structures{note}")
    if report["bad"]:
        records = "record" if report["bad"] == 1 else "records"
        print(f"  {report['bad']:,} {records} left out, listed in {dataset.report_path}")


def _list(args: argparse.Namespace) -> int:
    from anipot.data import published

    if args.name is not None:
        return _show(args.name, args.folder)
    rows = [("NAME", "LICENCE", "HERE", "WHAT")]
    for kind in published.DATASETS.values():
        here = sum(path.is_file() for path in _paths(kind, args.folder))
        parts = len(kind.variants)
        rows.append((kind.key, kind.license, f"{here} of {parts}" if parts else "yes" if here else "no", kind.text))
    for row in rows:
        print(f"{row[0]:<16}  {row[1]:<44}  {row[2]:<7}  {row[3]}")
    return 0


def _paths(kind: type[Published], folder: str | None) -> list[Any]:
    from anipot.data import published

    names = [f"{kind.key}:{variant}" for variant in kind.variants] or [kind.key]
    return [published.find(name, folder=folder).path for name in names]


def _show(name: str, folder: str | None) -> int:
    """Print what is known of a data set; of a name that has parts, the parts and what they have in common."""
    from anipot.data import published

    key, _, variant = name.partition(":")
    kind = published.DATASETS.get(key.lower())
    if kind is None or variant or not kind.variants:
        (dataset,) = _find(name, folder, None)
    else:
        (dataset,) = _find(f"{key}:{next(iter(kind.variants))}", folder, None)
    print(f"{dataset.title}: {dataset.text}")
    print(f"homepage: {dataset.homepage}")
    print(f"licence: {dataset.license}")
    print(f"cite: {', '.join(dataset.citations)}")
    if variant or not dataset.variants:
        print(f"level of theory: {dataset.level_of_theory}")
        print(f"file: {dataset.path}{'' if dataset.path.is_file() else ' (not fetched yet)'}")
        for file in dataset.files():
            size = f"{file.size:,} bytes" if file.size else "size not known"
            print(f"download: {file.urls[0]} ({size}, {file.checksum or 'no published checksum'})")
    else:
        print("parts:")
        width = max(map(len, dataset.variants))
        for part, text in dataset.variants.items():
            print(f"  {dataset.key}:{part:<{width}}  {text}")
    print(f"properties:\n{published.table(dataset.labels)}")
    return 0
