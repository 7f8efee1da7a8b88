"""What energy terms share: pairs within a cutoff of their own, sums of their energies, and coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.neighbors import Pairs
from anipot.representation.parts import within
from anipot.structures import System


def near_pairs(pairs: Pairs, vectors: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return center (p,), neighbor (p,) and distances (p,) in Å of the pairs closer than ``cutoff``.

    The list of a potential reaches to the largest cutoff of all its parts.
    """
    center, neighbor, _, distances = within(cutoff, pairs.center, pairs.neighbor, vectors.double())
    return center, neighbor, distances


def shared_by_atoms(center: Tensor, energies: Tensor, num_atoms: int) -> Tensor:
    """Return the energies (N,) of atoms: half the energy of every directed pair, so that each pair counts once."""
    return energies.new_zeros(num_atoms).index_add(0, center, 0.5 * energies)


def real_coordinates(system: System) -> Tensor:
    """Return coordinates (B, A, 3), float64, with zeros for ghosts, whose own may be NaN."""
    return torch.where((system.species < 0)[..., None], 0.0, system.coordinates.double())
