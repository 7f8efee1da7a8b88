"""The neighbor search that the library uses: it picks the method, nobody has to."""

from __future__ import annotations

import math

from torch import Tensor

from anipot.kernels import pairs as kernels
from anipot.neighbors.brute_force import brute_force
from anipot.neighbors.cell_list import cell_list
from anipot.neighbors.pairs import Pairs, checked_displacements
from anipot.structures import System

#: Below this many candidate pairs, trying all of them in one product is faster than sorting atoms into bins.
BRUTE_FORCE_LIMIT = 500_000


def find_pairs(species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float) -> Pairs:
    """Return all pairs of real atoms (``species`` ≥ 0) closer than ``cutoff`` Å, which is infinite for all pairs.

    Parameters
    ----------
    species
        (B, A), ghosts -1.
    coordinates
        (B, A, 3) in Å.
    cell, pbc
        (B, 3, 3) and (B, 3), or None for both; as ``check_system`` returns them.

    Raises
    ------
    ValueError
        If the cutoff is infinite and a molecule periodic.
    """
    coordinates = coordinates.detach()
    if cutoff == math.inf:
        return _all_pairs(species, coordinates, pbc)
    cell = None if cell is None else cell.detach()
    found = kernels.find_pairs(species >= 0, coordinates, cell, pbc, cutoff)
    if found is not None:
        return Pairs(*found)
    small = species.shape[0] * species.shape[1] ** 2 <= BRUTE_FORCE_LIMIT
    search = brute_force if cell is None and small else cell_list
    return search(coordinates, species >= 0, cell, pbc, cutoff)


def _all_pairs(species: Tensor, coordinates: Tensor, pbc: Tensor | None) -> Pairs:
    if pbc is not None:
        b = int(pbc.any(-1).nonzero()[0])
        raise ValueError(
            f"molecule {b} has pbc {pbc[b].tolist()}, but an infinite cutoff is for molecules without periodic axes; "
            "a periodic system needs a finite one (for a Coulomb term, that of its Ewald sum)"
        )
    return brute_force(coordinates, species >= 0, None, None, cutoff=math.inf)


def neighborhoods(system: System, cutoff: float) -> tuple[Pairs, Tensor]:
    """Return the pairs of a checked batch and their vectors (P, 3), float64 and differentiable.

    Raises
    ------
    ValueError
        If two atoms stand on one spot.
    """
    pairs = find_pairs(*system, cutoff)
    return pairs, checked_displacements(pairs, system.coordinates, system.cell, system.pbc)
