"""Trains the models of a table in docs/results, and prints the table.

    python tools/study.py FILE.yaml [ROW ...] [--runs FOLDER] [--show] [--curves FILE.svg]

A study is a YAML file: ``common`` holds settings of ``anipot train``, ``rows`` what is different in each row, by its
name. ``$NAME`` in strings is a variable of the environment, ANIPOT_SHARED for the folder of data. Each row is a run of
``anipot train`` in FOLDER/STUDY/ROW, by default in ``runs``, which goes on where it was interrupted; a row that is done
is not trained again. ``--show`` prints the table of what is there. Without names all rows are trained, one after the
other; rows may be trained side by side by several of these commands. ``--curves`` draws learning curves of rows that
are called "NAME, N = 500".

``table`` lists the columns: a heading, and the places of its numbers in results.json, such as test|forces|meV/Å|mae.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
from typing import Any

import yaml

from anipot.training import read_settings, train


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--show", action="store_true", help="train nothing")
    parser.add_argument("--curves", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    study = expanded(yaml.safe_load(args.study.read_text(encoding="utf-8")))
    folder = args.runs / args.study.stem
    unknown = set(args.rows) - set(study["rows"])
    if unknown:
        parser.error(f"{args.study} has no {', '.join(sorted(unknown))}; it has {', '.join(study['rows'])}")
    if not args.show:
        for row in args.rows or study["rows"]:
            run(merged(study["common"], study["rows"][row] or {}), folder / name_of(row))
    print(table(study, folder))
    if args.curves:
        draw_curves(study, folder, args.curves)


def expanded(value: Any) -> Any:
    """Return plain data with variables of the environment in the place of ``$NAME``.

    Raises
    ------
    KeyError
        For one that is not set.
    """
    if isinstance(value, dict):
        return {key: expanded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [expanded(part) for part in value]
    if not isinstance(value, str):
        return value
    found = os.path.expandvars(value)
    if "$" in found:
        raise KeyError(f"{value}: set this variable to the folder of data")
    return found


def merged(common: Any, own: Any) -> Any:
    """Return settings of a row: mappings are joined, all else is replaced; a representation or head as a whole."""
    if not isinstance(common, dict) or not isinstance(own, dict) or "class" in own:
        return copy.deepcopy(own)
    return copy.deepcopy(common) | {key: merged(common.get(key), value) for key, value in own.items()}


def name_of(row: str) -> str:
    """Return the name of a row's folder.

    >>> name_of("ACSF, N = 500")
    'acsf_n_500'
    """
    return "_".join("".join(c if c.isalnum() else " " for c in row.lower()).split())


def run(settings: dict[str, Any], folder: Path) -> None:
    """Train a row, if it is not done."""
    if (folder / "results.json").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings | {"folder": str(folder)}, sort_keys=False, allow_unicode=True))
    train(read_settings(file))


def table(study: dict[str, Any], folder: Path) -> str:
    """Return the table in Markdown; – for what is not there."""
    columns = study["table"]
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    for row in study["rows"]:
        file = folder / name_of(row) / "results.json"
        found = json.loads(file.read_text()) if file.is_file() else None
        lines.append([row, *("–" if found is None else numbers(found, places) for places in columns.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def numbers(results: dict[str, Any], places: str | list[str]) -> str:
    """Return numbers of results.json.

    >>> numbers({"test": {"energies": {"mae": 0.25, "rmse": 0.5}}}, ["test|energies|mae", "test|energies|rmse"])
    '0.25 / 0.5'
    """
    found = []
    for place in [places] if isinstance(places, str) else places:
        value: Any = results
        for key in place.split("|"):
            value = value.get(key) if isinstance(value, dict) else None
        found.append(f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value))
    return " / ".join(found)


def draw_curves(study: dict[str, Any], folder: Path, file: Path) -> None:
    """Draw the first number of each column of errors over the number of structures."""
    from matplotlib.figure import Figure

    headings = [heading for heading, places in study["table"].items() if isinstance(places, list)]
    axes = Figure(figsize=(4 * len(headings), 3.4), layout="constrained").subplots(1, len(headings), squeeze=False)[0]
    for heading, ax in zip(headings, axes, strict=True):
        curves: dict[str, list[tuple[int, float]]] = {}
        for row in study["rows"]:
            results = json.loads((folder / name_of(row) / "results.json").read_text())
            name, size = row.split(", N = ")
            curves.setdefault(name, []).append((int(size), float(numbers(results, study["table"][heading][0]))))
        for name, points in curves.items():
            ax.plot(*zip(*points, strict=True), "o-", label=name)
        ax.set(xscale="log", yscale="log", xlabel="structures in the training")
        ax.set_ylabel(f"mean absolute error, {heading}")
        sizes = sorted({size for points in curves.values() for size, _ in points})
        ax.set_xticks(sizes, map(str, sizes), minor=False)
        ax.xaxis.set_minor_formatter("")
        for formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            formatter("{x:g}")
        ax.legend()
    axes[0].figure.savefig(file)


if __name__ == "__main__":
    main()
