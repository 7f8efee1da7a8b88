"""What a data set holds: sizes, elements, spreads of labels, self energies, from one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.compositions import composition_counts
from anipot.data.quantities import Quantity
from anipot.data.self_energies import EnergiesByComposition
from anipot.elements import symbol

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset


@dataclass
class Spread:
    """The values of one quantity, component by component, without those that are missing.

    Attributes
    ----------
    unit
        Of all that follows but the counts.
    structures
        That have the label.
    missing
        Structures that have not.
    mean, std, rms, min, max
        Of the components.
    largest
        The greatest length of a vector, for what are vectors; else that of a value.
    """

    unit: str
    structures: int = 0
    missing: int = 0
    mean: float = 0.0
    std: float = 0.0
    rms: float = 0.0
    min: float = float("inf")
    max: float = float("-inf")
    largest: float = 0.0


@dataclass
class Statistics:
    """What one pass over a data set finds.

    Attributes
    ----------
    structures, atoms
        Their numbers.
    sizes
        Structures by number of atoms.
    elements
        Atoms by symbol.
    structures_with
        Structures by the symbols that they hold.
    periodic
        Structures that repeat along any axis.
    compositions
        How many there are among the structures with energies.
    quantities
        A ``Spread`` for each.
    self_energies
        Hartree: least squares over all energies, exactly; of the smallest norm where elements cannot be told apart.
    robust_self_energies
        Hartree: the same, not moved by single absurd energies.
    self_energies_determined
        Whether the compositions tell all elements apart.
    energy_mean, energy_std
        Hartree: of energies less ``self_energies``, over all structures.
    energy_std_per_atom
        Hartree: robust standard deviation of the same per atom, by ``robust_self_energies``.
    """

    structures: int = 0
    atoms: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)
    structures_with: dict[str, int] = field(default_factory=dict)
    periodic: int = 0
    compositions: int = 0
    quantities: dict[str, Spread] = field(default_factory=dict)
    self_energies: dict[str, float] = field(default_factory=dict)
    robust_self_energies: dict[str, float] = field(default_factory=dict)
    self_energies_determined: bool | None = None
    energy_mean: float | None = None
    energy_std: float | None = None
    energy_std_per_atom: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and mappings, as JSON has them; spreads of nothing are None."""
        facts = asdict(self)
        facts["sizes"] = {str(size): count for size, count in self.sizes.items()}
        for spread in facts["quantities"].values():
            if not spread["structures"]:
                spread |= dict.fromkeys(("mean", "std", "rms", "min", "max", "largest"))
        return facts


def statistics(dataset: AtomsDataset, progress: str | None = None) -> Statistics:
    """Read a data set once, after its transforms, and count.

    Parameters
    ----------
    dataset
        What to read.
    progress
        What a progress bar says; none by default.

    Examples
    --------
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([8, 1, 1], np.zeros((4, 3, 3)), energies=[-76.0, -76.2, np.nan, -76.1])
    >>> found = statistics(dataset)
    >>> found.elements, found.quantities["energies"].missing, round(found.energy_std, 4)
    ({'H': 8, 'O': 4}, 1, 0.0816)
    """
    found = Statistics()
    sizes: Counter[int] = Counter()
    atoms = np.zeros(len(composition_counts(np.zeros((1, 1), dtype=np.int64))[0]), dtype=np.int64)
    holders = np.zeros_like(atoms)
    quantities = dataset.quantities
    moments = {name: _Moments(quantity) for name, quantity in quantities.items()}
    energies = EnergiesByComposition()
    for rows, block in dataset.numbered_blocks(progress=progress):
        counts = composition_counts(block.species)
        atoms += counts.sum(axis=0)
        holders += (counts > 0).sum(axis=0)
        sizes.update(counts.sum(axis=1).tolist())
        if block.pbc is not None:
            found.periodic += int(block.pbc.any(axis=1).sum())
        for name, values in block.properties.items():
            moments[name].add(values, block)
        if "energies" in block.properties:
            energies.add(rows, block)
    found.structures, found.atoms = sum(sizes.values()), int(atoms.sum())
    found.sizes = dict(sorted(sizes.items()))
    present = np.flatnonzero(atoms).tolist()
    found.elements = {symbol(z): int(atoms[z]) for z in present}
    found.structures_with = {symbol(z): int(holders[z]) for z in present}
    found.quantities = {name: moment.spread(found.structures) for name, moment in moments.items()}
    found.compositions = energies.num_compositions
    if found.compositions:
        found.self_energies, found.robust_self_energies = energies.least_squares(), energies.robust()
        found.self_energies_determined = energies.determined
        found.energy_mean, found.energy_std = energies.residual(found.self_energies)
        found.energy_std_per_atom = energies.spread_per_atom(found.robust_self_energies)[1]
    return found


class _Moments:
    """Number, mean and sum of squares of the components of a quantity, as they come."""

    def __init__(self, quantity: Quantity) -> None:
        self.quantity = quantity
        self.structures = self.count = 0
        self.mean = self.squares = 0.0
        self.range = [float("inf"), float("-inf"), 0.0]

    def add(self, values: NDArray[np.float64], block: Block) -> None:
        """Take in the values of a block; those of ghosts do not count."""
        finite = np.isfinite(values)
        if self.quantity.per_atom:
            finite &= (block.species > 0).reshape(block.species.shape + (1,) * (values.ndim - 2))
        self.structures += int(finite.reshape(len(values), -1).any(axis=1).sum())
        good = values if bool(finite.all()) else values[finite]
        if not good.size:
            return
        mean = float(good.mean())
        squares = float(np.square(good - mean).sum())
        total = self.count + good.size
        step = mean - self.mean
        self.squares += squares + step * step * self.count * good.size / total
        self.mean += step * good.size / total
        self.count = total
        known = np.where(finite, values, 0.0)
        largest = float((np.linalg.norm(known, axis=-1) if self.quantity.shape == (3,) else np.abs(known)).max())
        self.range = [
            min(self.range[0], float(good.min())),
            max(self.range[1], float(good.max())),
            max(self.range[2], largest),
        ]

    def spread(self, structures: int) -> Spread:
        """Return what was found among that many structures."""
        variance = self.squares / max(self.count, 1)
        low, high, largest = self.range
        return Spread(
            self.quantity.unit,
            self.structures,
            structures - self.structures,
            self.mean,
            float(np.sqrt(variance)),
            float(np.sqrt(variance + self.mean**2)),
            low,
            high,
            largest,
        )


def energies_by_composition(dataset: AtomsDataset, progress: str | None = None) -> EnergiesByComposition:
    """Read a data set once for its energies alone.

    Raises
    ------
    ValueError
        If it has no energies.
    """
    if "energies" not in dataset.quantities:
        held: Mapping[str, Quantity] = dataset.quantities
        raise ValueError(f"self energies need energies; the data set has {', '.join(held) or 'no labels'}")
    found = EnergiesByComposition()
    for rows, block in dataset.numbered_blocks(progress=progress):
        if "energies" in block.properties:
            found.add(rows, block)
    if not found.num_compositions:
        raise ValueError("self energies need energies; all of them are missing")
    return found
