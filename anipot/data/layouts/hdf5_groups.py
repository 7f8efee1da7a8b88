"""HDF5 files in which a group holds arrays of many structures: what ANI-1, ANI-1x, ANI-2x and SPICE have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import (
    Column,
    Fields,
    Keys,
    coordinates,
    length_factor,
    missing,
    species,
    values,
)
from anipot.data.layouts.hdf5 import Handle
from anipot.data.quantities import Field

#: Groups that are looked at for what a file holds.
_PROBED = 50


class GroupedFile(FileSource):
    """Groups of arrays: coordinates (n, a, 3), species (a,) or (n, a), labels (n, ...).

    Layouts say by class attributes which keys they have, and what their publication says of these.

    Parameters
    ----------
    path
        The file.
    fields
        What to read, and under which name; by default what is unambiguous in this layout.
    length
        Unit of coordinates, if it is not the one of the layout.

    Raises
    ------
    DataError
        If a group lacks its structures, or their shapes do not fit.
    """

    coordinates_key: ClassVar[str] = "coordinates"
    species_keys: ClassVar[tuple[str, ...]] = ("species",)
    #: Whether a group has one molecule, and not each structure its own species.
    one_molecule: ClassVar[bool] = False
    #: Whether groups may lack labels that others have.
    may_lack: ClassVar[bool] = False
    #: Of keys that are a quantity or its negative (``Keys.negate``).
    negate: ClassVar[Mapping[str, bool | None]] = {}

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None):
        super().__init__(path)
        self._handle = Handle(path)
        names = list(self._handle.leaves(self.coordinates_key))
        if not names:
            raise DataError(f"{path}: no groups with arrays")
        self._species_key = self._find_species(names[0])
        self.groups = tuple(group for name in names if (group := self._group(name)).size)
        found = self._labels(names, fields)
        units = {key: unit for key in found if (unit := self.unit(key, found[key])) is not None}
        keys = Keys(path, found, units, self.negate)
        self._reads(keys.choose(fields, self.defaults(found) if fields is None else {}))
        first = names[0]
        self._length = length_factor(path, length, self.unit(self.coordinates_key, first), repr(self.coordinates_key))
        self.close()

    def unit(self, key: str, group: str) -> str | None:
        """Return the unit of a key, known from the publication or stated in a group that has it."""
        raise NotImplementedError

    def defaults(self, found: Collection[str]) -> Mapping[str, str]:
        """Return what is read when the user does not say: names of quantities to keys, of which some may be missing."""
        raise NotImplementedError

    def close(self) -> None:
        self._handle.close()

    def _read(self, group: int, rows: slice | NDArray[np.int64], chosen: NDArray[np.int64]) -> Block:
        part = self.groups[group]
        name, size, atoms = part.name, part.size, part.num_atoms
        n, where = len(chosen), self._handle.where(name)
        if self.one_molecule:
            elements = species(self._handle.read(name, self._species_key), where, self._species_key)
            elements = np.repeat(elements[None], n, axis=0)
        else:
            found = self._handle.read(name, self._species_key, rows, size)
            elements = species(found, where, self._species_key, chosen)
        positions = self._handle.read(name, self.coordinates_key, rows, size)
        return Block(
            elements,
            coordinates(positions, self._length, n, atoms, where, self.coordinates_key),
            {column.quantity.name: self._label(column, part, rows, n) for column in self.columns},
            group=name,
            rows=chosen,
            file=self.path,
        )

    def _label(self, column: Column, group: Group, rows: slice | NDArray[np.int64], n: int) -> NDArray[np.float64]:
        if self.may_lack and not self._handle.has(group.name, column.key):
            return missing(column.quantity, n, group.num_atoms)
        found = self._handle.read(group.name, column.key, rows, group.size)
        return values(found, column, n, group.num_atoms, self._handle.where(group.name))

    def _find_species(self, group: str) -> str:
        for key in self.species_keys:
            if self._handle.has(group, key):
                return key
        raise self._handle.missing(group, self.species_keys[0])

    def _group(self, name: str) -> Group:
        shape = self._handle.shape(name, self.coordinates_key)
        if len(shape) != 3 or shape[2] != 3:
            place = f"{self._handle.where(name)}, key {self.coordinates_key!r}"
            raise DataError(f"{place}: shape {shape}, expected (n, atoms, 3)")
        found, expected = self._handle.shape(name, self._species_key), shape[self.one_molecule : 2]
        if found != expected:
            raise DataError(
                f"{self._handle.where(name)}, key {self._species_key!r}: shape {found}, expected {expected}"
            )
        return Group(name, shape[0], shape[1])

    def _labels(self, names: list[str], fields: Fields | None) -> dict[str, str]:
        """Return keys of labels, each with a group that has it."""
        structure = (self._species_key, self.coordinates_key)
        found: dict[str, str] = {}
        for name in names[: _PROBED if self.may_lack else 1]:
            for key in self._handle.labels(name):
                if key not in structure:
                    found.setdefault(key, name)
        for name, value in (fields or {}).items() if self.may_lack else ():
            key = Field.parse(name, value).key
            if key not in found and (holder := next((n for n in names if self._handle.has(n, key)), None)):
                found[key] = holder
        return found
