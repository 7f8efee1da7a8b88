"""Conformers as they come out of a file: arrays for some structures of equally many atoms, in Å and Hartree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anipot.data.quantities import Quantity


class DataError(ValueError):
    """A data set that cannot be used as it is; the message names file, group and index."""


@dataclass(frozen=True)
class Block:
    """n structures of a atoms each.

    Attributes
    ----------
    species
        (n, a) atomic numbers.
    coordinates
        (n, a, 3) Å, float64.
    properties
        Arrays (n, ...) or (n, a, ...) in the units of ``QUANTITIES``, float64; NaN stands for a missing label.
    cell, pbc
        (n, 3, 3) Å and (n, 3), or None for free molecules.
    group
        What the file calls the place where they stand.
    rows
        (n,) numbers within the group, for messages.
    file
        Path of the file.
    """

    species: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    properties: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    cell: NDArray[np.float64] | None = None
    pbc: NDArray[np.bool_] | None = None
    group: str = ""
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    file: str = ""

    def __len__(self) -> int:
        return len(self.species)

    @property
    def num_atoms(self) -> int:
        """Atoms of each structure."""
        return int(self.species.shape[1])

    def where(self, i: int) -> str:
        """Return where structure ``i`` of this block stands, for a message."""
        row = int(self.rows[i]) if len(self.rows) else i
        return ", ".join(
            part for part in (self.file, f"group {self.group!r}" if self.group else "", f"index {row}") if part
        )

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Block:
        """Return some of the structures, by number or by mask."""
        return replace(
            self,
            species=self.species[rows],
            coordinates=self.coordinates[rows],
            properties={name: values[rows] for name, values in self.properties.items()},
            cell=None if self.cell is None else self.cell[rows],
            pbc=None if self.pbc is None else self.pbc[rows],
            rows=self.rows[rows] if len(self.rows) else self.rows,
        )


@dataclass(frozen=True)
class Group:
    """A part of a file: ``size`` structures of ``num_atoms`` atoms each."""

    name: str
    size: int
    num_atoms: int


class Source(Protocol):
    """A file, or several, as groups of equally large structures that can be read in any order.

    ``read`` is the only method that touches the large arrays; opening a source reads sizes alone. A source can be sent
    to another process, which opens the files anew.
    """

    #: Name of the layout.
    layout: str
    #: Files that are read.
    paths: Sequence[str]
    #: In the order in which rows are counted.
    groups: Sequence[Group]
    #: What ``read`` returns beside species and coordinates.
    quantities: Mapping[str, Quantity]
    #: Whether any structure may be periodic.
    periodic: bool
    #: Facts of the file that travel along: level of theory, references, the self energies of single atoms.
    metadata: Mapping[str, object]

    def read(self, group: int, rows: slice | NDArray[np.int64]) -> Block:
        """Return structures of a group, by a slice or by ascending numbers, in units of this library."""
        ...
