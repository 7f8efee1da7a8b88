"""Splits as files: which rows of which data belong to which part, and how they were chosen."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anipot.data.blocks import DataError
from anipot.data.rows import Rows

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset

FORMAT = "anipot split"
VERSION = 1
#: Parts of more structures are written as bits, compressed, instead of as numbers.
LISTED = 100_000


def write_split(
    path: str | os.PathLike[str], parts: Mapping[str, AtomsDataset], facts: Mapping[str, Any] | None = None
) -> None:
    """Write a split to a JSON file.

    Parameters
    ----------
    path
        The file; it appears whole or not at all.
    parts
        Data sets of one source, by name.
    facts
        How they were chosen: method, seed, command.

    Raises
    ------
    ValueError
        If the parts are of different sources.

    Examples
    --------
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([1, 1], np.zeros((10, 2, 3)))
    >>> file = getfixture("tmp_path") / "split.json"
    >>> write_split(file, dataset.split({"train": 8, "test": 2}, seed=5), {"seed": 5})
    >>> {name: len(part) for name, part in read_split(file, dataset).items()}
    {'train': 8, 'test': 2}
    """
    prints = {part.fingerprint for part in parts.values()}
    if len(prints) != 1:
        raise ValueError("the parts of a split must be at least one, and all of the same source")
    first = next(iter(parts.values()))
    content = {
        "format": FORMAT,
        "version": VERSION,
        **(facts or {}),
        "data": {
            "files": [os.path.basename(file) for file in first.source.paths],
            "rows": first.num_rows,
            "fingerprint": first.fingerprint,
        },
        "parts": {name: _to_json(part.selection) for name, part in parts.items()},
    }
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            file.write("\n")
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def read_split(path: str | os.PathLike[str], dataset: AtomsDataset) -> dict[str, AtomsDataset]:
    """Return the parts of a data set that a file names.

    Parameters
    ----------
    path
        What ``write_split`` wrote. Besides, a JSON file with nothing but lists of rows, ``{"train": [0, 5, ...]}``, and
        a text file with a number on each line, or .npy or .npz with numbers, as splits are published: parts are then
        called as the arrays in the file, or ``"rows"``.
    dataset
        What the rows are of. Those that do not belong to it, since they were filtered out, are left out.

    Raises
    ------
    DataError
        If the file cannot be read, or was made for data of other groups or sizes.
    """
    try:
        stated, rows = _read(os.fspath(path), dataset.num_rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(f"{path} cannot be read as a split: {error}") from error
    if stated and stated.get("fingerprint") != dataset.fingerprint:
        of = ", ".join(stated.get("files", [])) or "other data"
        raise DataError(
            f"{path} splits {stated.get('rows')} rows of {of}, but the data set has {dataset.num_rows} rows in groups "
            "of other names or sizes: rows would mean other structures"
        )
    every = len(dataset) == dataset.num_rows
    return {name: dataset.select(part if every else part & dataset.selection) for name, part in rows.items()}


def _read(path: str, size: int) -> tuple[dict[str, Any], dict[str, Rows]]:
    if path.endswith(".json"):
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content.get("format") != FORMAT:
            return {}, {name: Rows.of(size, rows) for name, rows in content.items()}
        if content["version"] > VERSION:
            raise ValueError(f"it is of version {content['version']}, later than {VERSION}")
        if content["data"]["rows"] != size:  # says so before a row is out of range
            return content["data"], {}
        return content["data"], {name: _from_json(part, size) for name, part in content["parts"].items()}
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as arrays:
            return {}, {name: Rows.of(size, arrays[name]) for name in arrays}
    numbers = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path, delimiter=",")
    if np.any(numbers != np.rint(numbers)):
        raise ValueError("expected whole numbers")
    return {}, {"rows": Rows.of(size, numbers)}


def _to_json(rows: Rows) -> dict[str, Any]:
    if len(rows) <= LISTED:
        return {"count": len(rows), "rows": rows.between(0, rows.size).tolist()}
    bits = base64.b85encode(zlib.compress(rows.to_bytes())).decode()
    return {"count": len(rows), "bits": bits}


def _from_json(part: Mapping[str, Any], size: int) -> Rows:
    if "rows" in part:
        rows = Rows.of(size, part["rows"])
    else:
        rows = Rows.from_bytes(size, zlib.decompress(base64.b85decode(part["bits"])))
    if len(rows) != part["count"]:
        raise ValueError(f"a part has {len(rows)} rows, but should have {part['count']}")
    return rows
