"""What can be done to structures before they are batched: functions of a block that can be put one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError
from anipot.data.quantities import QUANTITIES, Quantity
from anipot.elements import MAX_ATOMIC_NUMBER, atomic_number, symbol

if TYPE_CHECKING:
    from anipot.potential import Potential


@dataclass(frozen=True)
class SubtractSelfEnergies:
    """Take the sum of self energies from the energies.

    Attributes
    ----------
    self_energies
        Hartree, by symbol. A structure with another element is an error.

    Examples
    --------
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([8, 1, 1], np.zeros((1, 3, 3)), energies=[-76.5])
    >>> dataset.with_transforms(SubtractSelfEnergies({"H": -0.5, "O": -75.0}))[0].properties["energies"]
    array([-0.5])
    """

    self_energies: Mapping[str, float]

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        table = np.full(MAX_ATOMIC_NUMBER + 2, np.nan)
        table[[0, -1]] = 0.0  # ghosts
        for element, energy in self.self_energies.items():
            table[atomic_number(element)] = energy
        return table

    def __call__(self, block: Block) -> Block:
        """Return the block with other energies."""
        sums = self._table[block.species].sum(axis=1)
        unknown = np.flatnonzero(np.isnan(sums))
        if len(unknown):
            i = int(unknown[0])
            number = next(int(z) for z in block.species[i] if np.isnan(self._table[z]))
            raise DataError(f"{block.where(i)}: {symbol(number)} has no self energy; known are {self._known()}")
        return _with(block, energies=_values(block, "energies") - sums)

    def _known(self) -> str:
        return ", ".join(self.self_energies)


@dataclass(frozen=True)
class SubtractBaseline:
    """Take what a potential says from energies, forces and stress, so that a network learns the difference.

    Attributes
    ----------
    potential
        A ``Potential`` of any kind, self energies included: a published model, or repulsion and dispersion alone
        (``anipot.separate.terms_alone``). Or the name or file of one, for ``anipot.load``.
    """

    potential: Potential | str

    @cached_property
    def _loaded(self) -> Potential:
        import anipot

        return anipot.load(self.potential) if isinstance(self.potential, str) else self.potential

    def __call__(self, block: Block) -> Block:
        """Return the block with other labels; those that are missing stay so."""
        names = ("energies", "forces", "stress")
        known = {name: block.properties[name].copy() for name in names if name in block.properties}
        periodic = np.zeros(len(block), dtype=np.bool_)
        if block.pbc is not None:
            periodic |= block.pbc.any(axis=1)
        for rows in (np.flatnonzero(periodic), np.flatnonzero(~periodic)):
            if len(rows):
                found = self._labels(
                    block.take(rows), [name for name in known if name != "stress" or periodic[rows[0]]]
                )
                for name, values in found.items():
                    known[name][rows] -= values
        return _with(block, **known)

    def _labels(self, block: Block, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return what the potential says about structures that are all periodic, or all free."""
        from anipot.derivatives import single_point

        cell = pbc = None
        if block.pbc is not None and block.cell is not None and block.pbc.any():
            cell, pbc = (torch.from_numpy(np.ascontiguousarray(array)) for array in (block.cell, block.pbc))
        found = single_point(
            self._loaded,
            torch.from_numpy(np.where(block.species > 0, block.species, -1)),
            torch.from_numpy(np.ascontiguousarray(block.coordinates)),
            cell,
            pbc,
            forces="forces" in names,
            stress="stress" in names,
        )
        return {name: getattr(found, name).numpy() for name in names}


@dataclass(frozen=True)
class RemoveOffset:
    """Take a constant from a quantity: the mean energy of one molecule, for example.

    Attributes
    ----------
    name
        Of the quantity.
    offset
        In its unit.
    per_atom
        Whether to take it once for each atom of a structure.

    Examples
    --------
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([1, 1], np.zeros((1, 2, 3)), energies=[-1.5])
    >>> dataset.with_transforms(RemoveOffset("energies", -0.5, per_atom=True))[0].properties["energies"]
    array([-0.5])
    """

    name: str
    offset: float
    per_atom: bool = False

    def __call__(self, block: Block) -> Block:
        """Return the block with other values."""
        values = _values(block, self.name)
        times = (block.species > 0).sum(axis=1).astype(np.float64) if self.per_atom else np.ones(len(block))
        shift = (self.offset * times).reshape(-1, *(1,) * (values.ndim - 1))
        return _with(block, **{self.name: values - shift})


@dataclass(frozen=True)
class MaskLabels:
    """Take labels as missing.

    Attributes
    ----------
    names
        Of the quantities.
    above
        Only in structures where the length of a vector (forces, dipole), or an absolute value, exceeds this; None: all.

    Examples
    --------
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([1], np.zeros((2, 1, 3)), forces=[[[9.0, 0, 0]], [[0.1, 0, 0]]])
    >>> dataset.with_transforms(MaskLabels("forces", above=1.0))[0].properties["forces"]
    array([[[nan, nan, nan]]])
    """

    names: str | Sequence[str]
    above: float | None = None

    def __call__(self, block: Block) -> Block:
        """Return the block with NaN for those labels."""
        changed = {}
        for name in (self.names,) if isinstance(self.names, str) else self.names:
            values = _values(block, name).copy()
            if self.above is None:
                values[:] = np.nan
            else:
                vectors = QUANTITIES.get(name, Quantity(name)).shape == (3,)
                sizes = np.linalg.norm(values, axis=-1) if vectors else np.abs(values)
                values[np.any(sizes.reshape(len(block), -1) > self.above, axis=1)] = np.nan
            changed[name] = values
        return _with(block, **changed)


@dataclass(frozen=True)
class Rename:
    """Give quantities other names: ``Rename({"energies_ccsd": "energies"})`` trains on those.

    Attributes
    ----------
    names
        New names by old ones. A name that is taken is an error, unless what has it is renamed or dropped as well.
    """

    names: Mapping[str, str]

    def __call__(self, block: Block) -> Block:
        """Return the block with other names."""
        return replace(block, properties=self._renamed(block.properties))

    def quantities(self, quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
        """Return what blocks hold afterwards."""
        renamed = self._renamed(quantities)
        for name, quantity in renamed.items():
            known = QUANTITIES.get(name, quantity)
            if (known.shape, known.per_atom, known.unit) != (quantity.shape, quantity.per_atom, quantity.unit):
                raise DataError(f"{quantity} cannot be named {name!r}, which is {known}")
        return {name: replace(quantity, name=name) for name, quantity in renamed.items()}

    def _renamed(self, old: Mapping[str, Any]) -> dict[str, Any]:
        missing = [name for name in self.names if name not in old]
        if missing:
            raise DataError(f"there is no {missing[0]!r} to rename; the data hold {', '.join(old)}")
        new = [self.names.get(name, name) for name in old]
        if len(set(new)) < len(new):
            twice = next(name for name in new if new.count(name) > 1)
            raise DataError(f"two quantities would be named {twice!r}; drop or rename one of them")
        return dict(zip(new, old.values(), strict=True))


@dataclass(frozen=True)
class Keep:
    """Keep some quantities and drop all others.

    Attributes
    ----------
    names
        Which to keep.
    """

    names: Sequence[str]

    def __call__(self, block: Block) -> Block:
        """Return the block with fewer properties."""
        return replace(block, properties={name: _values(block, name) for name in self.names})

    def quantities(self, quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
        """Return what blocks hold afterwards."""
        missing = [name for name in self.names if name not in quantities]
        if missing:
            raise DataError(f"there is no {missing[0]!r} to keep; the data hold {', '.join(quantities)}")
        return {name: quantities[name] for name in self.names}


def _values(block: Block, name: str) -> NDArray[np.float64]:
    if name not in block.properties:
        raise DataError(f"{block.where(0)} …: there are no {name}; the data hold {', '.join(block.properties)}")
    return block.properties[name]


def _with(block: Block, **changed: NDArray[np.float64]) -> Block:
    return replace(block, properties={**block.properties, **changed})
