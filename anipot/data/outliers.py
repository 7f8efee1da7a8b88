"""Energies far from all others."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.compositions import composition_counts
from anipot.data.faults import Fault
from anipot.data.self_energies import EnergiesByComposition
from anipot.elements import MAX_ATOMIC_NUMBER, atomic_number

#: Hartree per atom: equal energies would make any other an outlier.
SMALLEST_SPREAD = 1e-6


class TypicalEnergies:
    """What energies per atom are usual once self energies are taken off, by a fit that bad ones do not move.

    Parameters
    ----------
    numbered
        Rows and blocks of the data, those with elements that are none left out.
    limit
        How many robust standard deviations an energy may be away from the median.
    """

    def __init__(self, numbered: Iterable[tuple[NDArray[np.int64], Block]], limit: float) -> None:
        collected = EnergiesByComposition()
        for rows, block in numbered:
            collected.add(rows, block)
        self.limit = limit
        self.table = np.zeros(MAX_ATOMIC_NUMBER + 1)
        values = collected.robust()
        for element, energy in values.items():
            self.table[atomic_number(element)] = energy
        self.median, spread = collected.spread_per_atom(values)
        self.spread = max(spread, SMALLEST_SPREAD)

    def fault(self, block: Block, impossible: NDArray[np.bool_]) -> Fault:
        """Find energies beyond the limit among the structures that are not impossible anyway."""
        counts = composition_counts(np.where(impossible[:, None], -1, block.species))
        energies = block.properties["energies"]
        with np.errstate(invalid="ignore"):
            off = (energies - counts @ self.table) / np.maximum(counts.sum(axis=1), 1) - self.median
            far = np.isfinite(off) & ~impossible & (np.abs(off) > self.limit * self.spread)
        return Fault(
            "energies",
            far,
            lambda i: (
                f"its energy of {energies[i]:.6f} Hartree is {off[i]:+.4g} Hartree per atom off the median, "
                f"{abs(off[i]) / self.spread:.3g} robust standard deviations"
            ),
        )
