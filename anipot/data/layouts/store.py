"""The layout of this library: HDF5, structures of one size together, all facts about them in the file.

::

    /                   format = "anipot data", version = 1, grouping = "by_num_atoms",
                        quantities (JSON: unit, per_atom, shape by name)
    /_meta              metadata (JSON), position (JSON) of what wrote it
    /009/species        (n, 9) int8
    /009/coordinates    (n, 9, 3) Å
    /009/cell, pbc      (n, 3, 3) Å and (n, 3), where there are periodic structures
    /009/energies, …    quantities, each with its unit as an attribute

TorchANI 2 reads such a file as it is.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import Column, Fields, Keys, coordinates, species, values
from anipot.data.layouts.hdf5 import Handle, open_file
from anipot.data.quantities import Quantity

FORMAT = "anipot data"
VERSION = 1
#: What is not a quantity.
STRUCTURE = ("species", "coordinates", "cell", "pbc")


class StoreSource(FileSource):
    """A file that ``anipot.data.store.StoreWriter`` wrote.

    Parameters
    ----------
    path
        The file.
    fields
        What to read, and under which name; everything by default. Units are in the file.

    Raises
    ------
    DataError
        If the file is not whole, or of a later version.
    """

    layout = "store"

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None):
        super().__init__(path)
        if length is not None:
            raise DataError(f"{path}: length={length!r}, but lengths are in Å in this layout")
        self._handle = Handle(path)
        self._stored = read_quantities(self._handle)
        self.metadata = read_fact(self._handle, "metadata") or {}
        found = Keys(path, self._stored, {name: quantity.unit for name, quantity in self._stored.items()}, {})
        self._reads(self._shaped(column) for column in found.choose(fields, {name: name for name in self._stored}))
        groups = []
        for name in self._handle.leaves():
            shape = self._handle.shape(name, "coordinates")
            if len(shape) != 3 or shape[2] != 3:
                raise DataError(f"{self._handle.where(name)}, key 'coordinates': shape {shape}, expected (n, atoms, 3)")
            groups.append(Group(name, shape[0], shape[1]))
            self.periodic |= self._handle.has(name, "cell")
        self.groups = tuple(sorted(groups, key=lambda group: group.num_atoms))
        self.close()

    def _shaped(self, column: Column) -> Column:
        """Shapes are those of the file."""
        stored, meant = self._stored[column.key], column.quantity
        return Column(Quantity(meant.name, meant.unit, stored.per_atom, stored.shape), column.key, column.factor)

    def close(self) -> None:
        self._handle.close()

    def _read(self, group: int, rows: slice | NDArray[np.int64], chosen: NDArray[np.int64]) -> Block:
        name, size, atoms = (part := self.groups[group]).name, part.size, part.num_atoms
        n, where = len(chosen), self._handle.where(name)
        found = {
            key: self._handle.read(name, key, rows, size)
            for key in ("species", "coordinates", *(column.key for column in self.columns))
        }
        periodic = self.periodic and self._handle.has(name, "cell")
        return Block(
            species(found["species"], where, rows=chosen),
            coordinates(found["coordinates"], 1.0, n, atoms, where, "coordinates"),
            {c.quantity.name: values(found[c.key], c, n, atoms, where) for c in self.columns},
            cell=np.asarray(self._handle.read(name, "cell", rows, size), np.float64) if periodic else None,
            pbc=np.asarray(self._handle.read(name, "pbc", rows, size), np.bool_) if periodic else None,
            group=name,
            rows=chosen,
            file=self.path,
        )


def is_store(handle: Handle) -> bool:
    """Return whether a file is of this layout."""
    return handle.file.attrs.get("format") == FORMAT


def read_quantities(handle: Handle) -> dict[str, Quantity]:
    """Return the quantities of a file.

    Raises
    ------
    DataError
        If it is of another layout or of a later version.
    """
    version = handle.file.attrs.get("version")
    if not is_store(handle) or not 1 <= int(version or 0) <= VERSION:
        raise DataError(f"{handle.path}: version {version} of {FORMAT!r}, expected {VERSION} or before")
    stated = json.loads(handle.file.attrs["quantities"])
    return {
        name: Quantity(name, entry["unit"], bool(entry["per_atom"]), tuple(entry["shape"]))
        for name, entry in stated.items()
    }


def read_fact(handle: Handle, name: str) -> Any:
    """Return what is written under ``/_meta`` as JSON, or None."""
    if f"_meta/{name}" not in handle.file:
        return None
    return json.loads(handle.file[f"_meta/{name}"].asstr()[()])


def identity(path: str | os.PathLike[str]) -> str:
    """Return what tells a file from another that was at the same path before."""
    with open_file(path) as file:
        return str(file.attrs.get("id"))
