"""Which structures to keep: by size, elements, energies, forces and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError
from anipot.elements import atomic_number


@dataclass(frozen=True)
class Limits:
    """Within these limits a structure is kept.

    A label that is missing is within no limit of its value.

    Attributes
    ----------
    elements
        Symbols; structures that hold any other element are left out.
    min_atoms, max_atoms
        Numbers of atoms.
    max_force
        Hartree/Å: largest length of a force on an atom.
    min_energy, max_energy
        Hartree: of the energies as they are after the transforms.
    has
        Names of labels that must not be missing.

    Examples
    --------
    >>> from anipot.data.memory import block_of_arrays
    >>> water = block_of_arrays([8, 1, 1], np.zeros((2, 3, 3)), energies=[-76.0, 5.0])
    >>> Limits(elements=("H", "O"), max_energy=0.0)(water).tolist()
    [True, False]
    """

    elements: Sequence[str] | None = None
    min_atoms: int | None = None
    max_atoms: int | None = None
    max_force: float | None = None
    min_energy: float | None = None
    max_energy: float | None = None
    has: str | Sequence[str] = ()

    def __call__(self, block: Block) -> NDArray[np.bool_]:
        """Return (n,) which structures of a block are within the limits."""
        real = block.species > 0
        keep = np.ones(len(block), dtype=bool)
        if self.elements is not None:
            known = [atomic_number(element) for element in self.elements]
            keep &= (~real | np.isin(block.species, known)).all(axis=1)
        sizes = real.sum(axis=1)
        if self.min_atoms is not None:
            keep &= sizes >= self.min_atoms
        if self.max_atoms is not None:
            keep &= sizes <= self.max_atoms
        if self.max_force is not None:
            lengths = np.linalg.norm(_label(block, "forces"), axis=2)
            keep &= (np.where(real, lengths, 0.0) <= self.max_force).all(axis=1)
        if self.min_energy is not None:
            keep &= _label(block, "energies") >= self.min_energy
        if self.max_energy is not None:
            keep &= _label(block, "energies") <= self.max_energy
        for name in (self.has,) if isinstance(self.has, str) else self.has:
            values = _label(block, name)
            keep &= ~np.isnan(values.reshape(len(block), -1)).all(axis=1)
        return keep


def _label(block: Block, name: str) -> NDArray[np.float64]:
    if name not in block.properties:
        raise DataError(f"cannot filter by {name}: the data hold {', '.join(block.properties) or 'no labels'}")
    return block.properties[name]
