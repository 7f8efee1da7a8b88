"""Databases of ASE (SQLite), with what SchNetPack writes about them: units and energies of single atoms."""

from __future__ import annotations

import os
import sqlite3
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import Column, Fields, Keys, length_factor
from anipot.data.layouts.frames import block, by_size, keys_of, labels, probe, spread
from anipot.elements import symbol

_REFERENCES = ("atomrefs", "atref_labels")
#: What SchNetPack writes for numbers that have no unit.
_WITHOUT = (None, "", "arb. unit", "arb. units", "1")
_DEFAULTS = {
    "energies": "energy",
    "forces": "forces",
    "stress": "stress",
    "dipole": "dipole",
    "charges": "charges",
}


class AseDbSource(FileSource):
    """A database of ASE.

    Parameters
    ----------
    path
        The file.
    fields
        Names of quantities to keys, with units unless the metadata have them (``_property_unit_dict``). Keys are those
        of the data of rows, their key-value pairs, and results of calculators.
    length
        Unit of positions and cells, unless the metadata have it (``_distance_unit``).

    Raises
    ------
    DataError
        If it is no such database, or a unit is not known.

    Notes
    -----
    Single-atom references of the energies (``atomrefs``) are ``metadata["self_energies"]``, by element in Hartree.
    """

    layout = "ase_db"
    rows_of_file = True

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None):
        super().__init__(path)
        self._ids, sizes, self.periodic = _index(path)
        self.groups, self._frames = by_size(sizes)
        with connect(path, type="db", use_lock_file=False) as database:
            stated = dict(database.metadata)
        units = {k: "1" if unit in _WITHOUT else str(unit) for k, unit in stated.get("_property_unit_dict", {}).items()}
        found = keys_of([*probe(self._labels, spread(len(sizes))), units], fields, self._all_labels)
        self._reads(Keys(path, found, units, {}).choose(fields, _DEFAULTS))
        self._length = length_factor(path, length, stated.get("_distance_unit"), "positions")
        self.metadata = _facts(stated, self.columns)

    def _read(self, group: int, rows: slice | NDArray[np.int64], chosen: NDArray[np.int64]) -> Block:
        numbers = self._frames[group][chosen]
        read = self._rows(numbers)
        structures, found = [atoms for atoms, _ in read], [entry for _, entry in read]
        return block(structures, found, numbers, self.columns, self._length, self.groups[group], self.path)

    def _labels(self, frames: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [entry for _, entry in self._rows(frames)]

    def _all_labels(self, _: str) -> Iterator[dict[str, Any]]:
        for part in np.array_split(np.arange(len(self._ids)), len(self._ids) // 1000 + 1):
            yield from probe(self._labels, part)

    def _rows(self, frames: NDArray[np.int64]) -> list[tuple[Atoms, dict[str, Any]]]:
        read = []
        with connect(self.path, type="db", use_lock_file=False) as database:
            for frame in frames.tolist():
                number = int(self._ids[frame])
                try:
                    row = database.get(id=number)
                    atoms = row.toatoms()
                    read.append((atoms, {**row.key_value_pairs, **_decoded(row.data), **labels(atoms)}))
                except Exception as error:  # whatever comes up when ASE decodes what is not whole
                    raise DataError(f"{self.path}, row {frame} (id {number}) cannot be read: {error!r}") from error
        return read


def is_ase_db(start: bytes, path: str) -> bool:
    """Return whether a file, of which the start is given, is a database of ASE."""
    if not start.startswith(b"SQLite format 3\0"):
        return False
    try:
        with closing(_connect(path)) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchall())
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} cannot be read as SQLite: {error}") from error


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)


def _index(path: str) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Return ids and numbers of atoms of all rows, and whether any is periodic; ASE itself would decode the rows."""
    _check_length(path)
    try:
        with closing(_connect(path)) as connection:
            found = connection.execute("SELECT id, natoms, pbc FROM systems ORDER BY id").fetchall()
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} cannot be read as a database of ASE: {error}") from error
    if not found:
        raise DataError(f"{path}: no rows")
    ids, sizes, pbc = np.array(found, dtype=np.int64).T
    return ids, sizes, bool(pbc.any())


def _check_length(path: str) -> None:
    """Refuse a file that is shorter than it says: SQLite finds out only when it comes upon a page that is not there."""
    with open(path, "rb") as file:
        head = file.read(100)
        found = file.seek(0, os.SEEK_END)
    pages, page = int.from_bytes(head[28:32], "big"), int.from_bytes(head[16:18], "big")
    expected = pages * (65536 if page == 1 else page)
    if head[24:28] == head[92:96] and found < expected:  # the number of pages is valid
        raise DataError(f"{path} ends after {found} bytes, expected {expected}")


def _decoded(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a row; SchNetPack before 1.0 wrote bytes as text, and shape and dtype beside them."""
    found = {}
    for key, value in data.items():
        if f"_dtype_{key}" in data:
            value = np.frombuffer(b64decode(value), dtype=data[f"_dtype_{key}"]).reshape(data[f"_shape_{key}"])
        if not key.startswith(("_dtype_", "_shape_")):
            found[key] = value
    return found


def _facts(stated: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, object]:
    """Return what the metadata say, with energies of single atoms by element, in Hartree."""
    facts: dict[str, object] = {k: v for k, v in stated.items() if not k.startswith("_") and k not in _REFERENCES}
    energies = next((column for column in columns if column.quantity.name == "energies"), None)
    references = stated.get("atomrefs")
    if energies is None or references is None:
        return facts
    if isinstance(references, Mapping):
        values = references.get(energies.key)
    else:  # a table with a column for each label
        names = list(stated.get("atref_labels", ()))
        values = np.asarray(references)[:, names.index(energies.key)] if energies.key in names else None
    if values is not None:
        of_atoms = np.asarray(values, dtype=np.float64).reshape(len(values), -1)[:, 0] * energies.factor
        facts["self_energies"] = {symbol(z): float(e) for z, e in enumerate(of_atoms.tolist()) if e and z}
    return facts
