"""The neighbor search that the library uses: it picks the method, nobody has to."""

from __future__ import annotations

import math

from torch import Tensor

from anipot import known
from anipot.kernels import pairs as kernels
from anipot.neighbors.brute_force import brute_force
from anipot.neighbors.cell_list import cell_list
from anipot.neighbors.pairs import Pairs, checked_displacements, displacements
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
    return _find_and_check(species, coordinates, cell, pbc, cutoff)[0]


def _find_and_check(
    species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float
) -> tuple[Pairs, bool]:
    """Return the pairs, and whether the search has seen that no two atoms stand on one spot."""
    coordinates = coordinates.detach()
    if cutoff == math.inf:
        return _all_pairs(species, coordinates, pbc), False
    cell = None if cell is None else cell.detach()
    real = species >= 0
    if (known_species := known.told(species)) is not None:
        known.tell(real, known_species >= 0)
    found = kernels.find_and_check(real, coordinates, cell, pbc, cutoff)
    if found is not None:
        return Pairs(*found[0]), found[1]
    small = species.shape[0] * species.shape[1] ** 2 <= BRUTE_FORCE_LIMIT
    search = brute_force if cell is None and small else cell_list
    return search(coordinates, real, cell, pbc, cutoff), False


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
    pairs, apart = _find_and_check(*system, cutoff)
    vectors_of = displacements if apart else checked_displacements
    return pairs, vectors_of(pairs, *system[1:])
