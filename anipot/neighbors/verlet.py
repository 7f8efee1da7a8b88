"""Reuse of a pair list from step to step: searched once with a skin, valid until it provably may not be."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.lattice import complete_cell
from anipot.neighbors.pairs import Pairs
from anipot.neighbors.search import find_pairs
from anipot.structures import System


class VerletList:
    """A neighbor list for a sequence of similar structures.

    Pairs are searched up to ``cutoff + skin`` and kept while no pair outside that list can have come within
    ``cutoff``. With F the map from the cell of the search to the cell of now and u the displacements that remain
    after it, a vector of length d becomes no shorter than σ_min(F) d − 2 max|u|; hence the list is valid while

        σ_min(F) (cutoff + skin) − 2 max|u| ≥ cutoff

    which covers a changing cell (NPT) as well as moving atoms.

    Parameters
    ----------
    cutoff
        Å.
    skin
        Å; 0 searches at every call.
    """

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        if cutoff <= 0 or skin < 0:
            raise ValueError(f"cutoff must be positive and skin not negative, got {cutoff} and {skin}")
        self.cutoff = cutoff
        self.skin = skin
        #: Number of searches so far.
        self.searches = 0
        self._system: System | None = None
        self._pairs: Pairs | None = None

    def find_pairs(self, system: System) -> Pairs:
        """Return a list that holds all pairs within ``cutoff`` and possibly some up to ``cutoff + skin`` and beyond."""
        if self._pairs is None or not self._valid(system):
            self._system = _copy(system)
            self._pairs = find_pairs(*system, self.cutoff + self.skin)
            self.searches += 1
        return self._pairs

    def _valid(self, now: System) -> bool:
        then = self._system
        if then is None or self.skin == 0 or not _same(now.species, then.species) or not _same(now.pbc, then.pbc):
            return False
        moved, squeeze = self._moved(now, then)
        return bool((squeeze * (self.cutoff + self.skin) - 2 * moved >= self.cutoff).all())

    def _moved(self, now: System, then: System) -> tuple[Tensor, Tensor]:
        """Return max|u| (B,) and σ_min(F) (B,)."""
        old, new = then.coordinates.double(), now.coordinates.detach().double()
        squeeze = torch.ones(len(old), dtype=torch.float64, device=old.device)
        if now.cell is not None and then.cell is not None and now.pbc is not None and not _same(now.cell, then.cell):
            lattice = complete_cell(now.cell.detach(), now.pbc)
            deformation = torch.linalg.inv(complete_cell(then.cell, now.pbc)) @ lattice  # (B, 3, 3)
            old = old @ deformation
            squeeze = torch.linalg.svdvals(deformation)[:, -1]
        moved = torch.where((now.species >= 0)[..., None], new - old, 0.0).norm(dim=-1)
        return (moved.amax(-1) if moved.shape[1] else squeeze * 0), squeeze


def _copy(system: System) -> System:
    cell, pbc = (None if t is None else t.detach().clone() for t in (system.cell, system.pbc))
    return System(system.species.clone(), system.coordinates.detach().clone(), cell, pbc)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.device == b.device and torch.equal(a, b)
