"""``anipot evaluate``: errors of a model on data."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from anipot.cli.common import load_named, open_data
from anipot.cli.errors import UsageError

_HELP = """
Each FILE, each file or folder in a FOLDER, and each published data set is a line of the table; relative energies are
compared where the data tell which structures are conformers of one molecule.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("evaluate", help="errors of a model on data", description=__doc__, epilog=_HELP)
    parser.add_argument("model", metavar="MODEL", help="name of a model, path of a file, or folder of a run")
    parser.add_argument("data", nargs="+", metavar="DATA", help="files, folders, or names such as comp6:drugbank")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="for errors.json and pictures")
    parser.add_argument("--layout", help="of the files; told from what is in them by default")
    field = "where a label is, such as energies='energy [eV]'"
    parser.add_argument("--field", action="append", default=[], metavar="NAME=KEY", help=field)
    parser.add_argument("--length", help="unit of coordinates, where the file does not say it")
    parser.add_argument("--pbc", nargs=3, choices="TF", help="which axes are periodic, where the file does not say it")
    parser.add_argument("--split", metavar="FILE", help="file of a split, of which to take a part; split.json of a run")
    parser.add_argument("--part", default="test", metavar="NAME", help="which part (default: test)")
    parser.add_argument("--unit", default="kcal/mol", help="of energies (default: kcal/mol)")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default=None, help="such as cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "float64"), default=None, help="of the networks")
    parser.add_argument("--no-table", action="store_true", help="write files only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute errors, print a table and write files."""
    from anipot.training.evaluation import evaluate, outputs_for
    from anipot.training.table import table, together

    model = load_named(_model(args.model), args.device, args.dtype)
    lines = {}
    for name, dataset in list(_subsets(args)):  # all are opened before the first is computed
        outputs = outputs_for(model, dataset)
        if not outputs:
            known = ", ".join(dataset.quantities) or "none"
            raise UsageError(f"{name} has no label that {args.model} predicts; it has {known}")
        bar = name if sys.stderr.isatty() else None
        while name in lines:  # files of one name in several folders
            name += "'"
        lines[name] = evaluate(model, dataset, outputs, batch_size=args.batch_size, progress=bar)
    every = {**lines, "total": together(lines)} if len(lines) > 1 else lines
    if not args.no_table:
        print(table(every, args.unit))
    if args.output:
        _write(Path(args.output), every, args)
    return 0


def _model(name: str) -> str:
    inside = Path(name) / "model.safetensors"
    return str(inside) if inside.is_file() else name


def _subsets(args: argparse.Namespace) -> Any:
    """Yield name and data set of each line."""
    from anipot.data import read_split

    for place in args.data:
        path = Path(place)
        if not path.exists():
            yield place, _published(place)
            continue
        for part in _parts(path):
            dataset = open_data(str(part), args)
            if args.split:
                parts = read_split(args.split, dataset)
                if args.part not in parts:
                    raise UsageError(f"{args.split} has no part {args.part!r}; it has {', '.join(parts)}")
                dataset = parts[args.part]
            yield part.stem, dataset


def _published(name: str) -> Any:
    from anipot.data import published

    try:
        published.find(name)
    except ValueError as error:
        raise UsageError(f"there is no file or folder {name}; {error}") from error
    return published.load(name)


def _parts(path: Path) -> list[Path]:
    from anipot.data.source import ENDINGS

    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS or (p.is_dir() and _holds(p)))
    if not found:
        raise UsageError(f"{path} holds no data files, which end in {', '.join(ENDINGS)}")
    return found


def _holds(folder: Path) -> bool:
    from anipot.data.source import ENDINGS

    return any(p.suffix.lower() in ENDINGS for p in folder.iterdir())


def _write(folder: Path, lines: Any, args: argparse.Namespace) -> None:
    from anipot.training.evaluation import to_json
    from anipot.training.pictures import draw

    folder.mkdir(parents=True, exist_ok=True)
    errors = {"model": args.model, "data": args.data, "errors": {name: to_json(found) for name, found in lines.items()}}
    (folder / "errors.json").write_text(json.dumps(errors, indent=1, ensure_ascii=False), encoding="utf-8")
    draw(folder, list(lines.values())[-1], args.unit)
