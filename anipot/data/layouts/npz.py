"""Tables in npz files: MD17, rMD17 and sGDML, QM7-X, and arrays under any names, padded or not.

Species are (a,), for one molecule, or (n, a) with zeros or negative numbers behind the last atom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts import qm7x
from anipot.data.layouts.arrays import Arrays
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import Column, Fields, Keys, coordinates, length_factor, species, values
from anipot.data.layouts.frames import by_size
from anipot.data.quantities import Field

#: Names under which structures are found.
_STRUCTURE = {
    "species": ("z", "nuclear_charges", "atNUM", "atomic_numbers", "numbers", "Z", "species", "symbols"),
    "coordinates": ("R", "coords", "atXYZ", "coordinates", "positions", "pos"),
    "cell": ("cell", "lattice", "cells"),
    "pbc": ("pbc",),
}
_RMD17 = {"coords": "Å", "energies": "kcal/mol", "forces": "kcal/mol/Å"}

Pbc = bool | Sequence[bool]


class NpzSource(FileSource):
    """A table of structures.

    Parameters
    ----------
    path
        The file.
    fields
        Names of quantities to keys, with units where the file does not say them. ``species``, ``coordinates``, ``cell``
        and ``pbc`` may be given as well, for files with keys that are not known.
    length
        Unit of coordinates and cells. sGDML says it (``r_unit``), and the papers of rMD17 and QM7-X do.
    pbc
        Whether the axes are periodic, for files with cells that do not say it.

    Raises
    ------
    DataError
        If there are no structures, arrays do not fit each other, or a unit is not known.
    """

    layout = "npz"
    rows_of_file = True

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None, pbc: Pbc | None = None):
        super().__init__(path)
        self._arrays = Arrays(path)
        said = dict(fields or {})
        self._keys = {name: self._find(name, said.pop(name, None)) for name in _STRUCTURE}
        units, defaults, lengths = self._known()
        self._length = length_factor(path, length, lengths)
        found = [k for k, dtype in self._arrays.dtypes.items() if dtype.kind in "iufb" and k not in self._keys.values()]
        self._reads(Keys(path, found, units, {}).choose(None if fields is None else said, defaults))
        self.groups, self._frames = self._sizes()
        periodic = self._periodic(pbc)
        self._pbc = periodic if periodic is not None and periodic.any() else None
        self.periodic = self._pbc is not None
        facts = {"name": self._arrays.text("name"), "level_of_theory": self._arrays.text("theory")}
        self.metadata = {name: fact for name, fact in facts.items() if fact}

    def _read(self, group: int, rows: slice | NDArray[np.int64], chosen: NDArray[np.int64]) -> Block:
        part = self.groups[group]
        frames = self._frames[group][chosen]
        n, a = len(frames), part.num_atoms
        key = self._required("species")
        elements = self._arrays[key]
        if elements.ndim == 2:
            elements = species(elements[frames, :a], self.path, key, frames)
        else:
            elements = np.repeat(species(elements, self.path, key)[None], n, axis=0)
        key = self._required("coordinates")
        pbc = self._pbc
        return Block(
            elements,
            coordinates(self._arrays[key][frames, :a], self._length, n, a, self.path, key),
            {column.quantity.name: self._label(column, frames, part) for column in self.columns},
            cell=None if pbc is None else self._cells(frames),
            pbc=None if pbc is None else np.array(pbc[frames] if pbc.ndim == 2 else np.tile(pbc, (n, 1)), np.bool_),
            group=part.name,
            rows=frames,
            file=self.path,
        )

    def _label(self, column: Column, frames: NDArray[np.int64], part: Group) -> NDArray[np.float64]:
        total, width = self._arrays.shapes[self._required("coordinates")][:2]
        found = self._arrays[column.key]
        if found.shape[:1] != (total,) or (column.quantity.per_atom and found.shape[1:2] != (width,)):
            expected = column.quantity.shape_of(total, width)
            raise DataError(f"{self.path}, key {column.key!r}: shape {found.shape}, expected {expected}")
        found = found[frames, : part.num_atoms] if column.quantity.per_atom else found[frames]
        return values(found, column, len(frames), part.num_atoms, f"{self.path}, {part.num_atoms} atoms")

    def _cells(self, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        key = self._required("cell")
        cells = np.asarray(self._arrays[key], dtype=np.float64) if len(self._arrays.shapes[key]) == 2 else None
        if cells is None:
            return np.asarray(self._arrays[key][frames], dtype=np.float64) * self._length
        if key == "lattice":  # sGDML writes vectors as columns
            cells = cells.T
        return np.tile(cells * self._length, (len(frames), 1, 1))

    def _required(self, name: str) -> str:
        key = self._keys[name]
        assert key is not None
        return key

    def _find(self, name: str, said: Any) -> str | None:
        if said is not None:
            key = Field.parse(name, said).key
            if key not in self._arrays:
                raise DataError(f"{self.path}: there is no {key!r} (for {name}); it has {self._listed()}")
            return key
        found = [key for key in _STRUCTURE[name] if key in self._arrays]
        if len(found) == 1 or (not found and name in ("cell", "pbc")):
            return found[0] if found else None
        seen = f"several arrays that may be {name} ({', '.join(found)})" if found else f"no {name}"
        raise DataError(f"{self.path} has {seen}; say fields={{'{name}': key, ...}}; it has {self._listed()}")

    def _listed(self) -> str:
        return ", ".join(f"{name} {shape}" for name, shape in self._arrays.shapes.items()) or "no arrays"

    def _known(self) -> tuple[Mapping[str, str], Mapping[str, str], str | None]:
        """Return units of labels, what is read by default, and the unit of lengths, as far as the layout says them."""
        if self._keys["coordinates"] == qm7x.COORDINATES:
            return qm7x.UNITS, qm7x.DEFAULTS, qm7x.UNITS[qm7x.COORDINATES]
        if "old_indices" in self._arrays and self._keys["coordinates"] == "coords":
            return _RMD17, {"energies": "energies", "forces": "forces"}, _RMD17["coords"]
        lengths, energies = self._arrays.text("r_unit"), self._arrays.text("e_unit")
        units = {}
        if energies:
            units["E"] = energies
            if lengths:
                units["F"] = f"{energies}/{lengths}"
        names = {"energies": ("E", "energies", "energy"), "forces": ("F", "forces", "force")}
        defaults = {name: key for name, keys in names.items() for key in reversed(keys) if key in self._arrays}
        return units, defaults, lengths

    def _sizes(self) -> tuple[tuple[Group, ...], tuple[NDArray[np.int64], ...]]:
        key, of_species = self._required("coordinates"), self._required("species")
        shape, elements = self._arrays.shapes[key], self._arrays.shapes[of_species]
        if len(shape) != 3 or shape[2] != 3:
            raise DataError(f"{self.path}, key {key!r}: shape {shape}, expected (n, atoms, 3)")
        if shape[0] == 0:
            raise DataError(f"{self.path}: no structures")
        if elements not in (shape[:2], shape[1:2]):
            raise DataError(f"{self.path}, key {of_species!r}: shape {elements}, expected {shape[:2]} or {shape[1:2]}")
        if elements == shape[1:2]:
            return by_size(np.full(shape[0], shape[1]))
        found = self._arrays[of_species]
        there = found != "" if found.dtype.kind in "SU" else found > 0
        sizes = there.sum(axis=1)
        wrong = np.flatnonzero((sizes == 0) | (there[:, 1:] & ~there[:, :-1]).any(axis=1))
        if len(wrong):
            place = f"{self.path}, index {int(wrong[0])}, key {of_species!r}"
            raise DataError(f"{place}: {found[wrong[0]].tolist()}, expected atoms, and padding behind them only")
        return by_size(sizes)

    def _periodic(self, said: Pbc | None) -> NDArray[np.bool_] | None:
        """Return which axes are periodic, (3,) or (n, 3); None for free molecules."""
        cell, key = self._keys["cell"], self._keys["pbc"]
        if cell is None:
            if said is None or not np.any(said):
                return None
            raise DataError(f"{self.path}: pbc={said}, but no cells; it has {self._listed()}")
        total = self._arrays.shapes[self._required("coordinates")][0]
        if self._arrays.shapes[cell] not in ((3, 3), (total, 3, 3)):
            raise DataError(f"{self.path}, key {cell!r}: shape {self._arrays.shapes[cell]}, expected {(total, 3, 3)}")
        if said is not None:
            return np.broadcast_to(np.asarray(said, dtype=np.bool_), (3,))
        if key is not None:
            pbc = np.asarray(self._arrays[key], dtype=np.bool_)
            if pbc.shape not in ((3,), (total, 3)):
                raise DataError(f"{self.path}, key {key!r}: shape {pbc.shape}, expected {(total, 3)}")
            return pbc
        if cell == "lattice":  # of sGDML, where it means all axes
            return np.ones(3, dtype=np.bool_)
        raise DataError(
            f"{self.path} has cells ({cell!r}) but does not say which axes are periodic; say pbc=True or False"
        )
