"""What energy terms share: pairs within a cutoff of their own, sums of their energies, and the system behind them."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.environments import Environments
from anipot.neighbors import Pairs
from anipot.neighbors.traced import places
from anipot.structures import System


def near_pairs(pairs: Pairs, vectors: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return center (p,), neighbor (p,) and distances (p,) in Å of the pairs closer than ``cutoff``.

    The list of a potential reaches to the largest cutoff of all its parts.
    """
    squared = (vectors.detach() * vectors.detach()).sum(-1)
    near = places(squared < cutoff * cutoff)
    center, neighbor = pairs.center, pairs.neighbor
    if torch.compiler.is_compiling() or len(near) < len(center):
        center, neighbor, vectors = center[near], neighbor[near], vectors.index_select(0, near)
    return center, neighbor, vectors.double().norm(dim=-1)


def shared_by_atoms(center: Tensor, energies: Tensor, num_atoms: int) -> Tensor:
    """Return the energies (N,) of atoms: half the energy of every directed pair, so that each pair counts once."""
    return energies.new_zeros(num_atoms).index_add(0, center, 0.5 * energies)


def needed_system(environments: Environments, who: str) -> System:
    """Return the system.

    Raises
    ------
    ValueError
        If there is none, naming the term.
    """
    if environments.system is None:
        raise ValueError(
            f"{who} needs coordinates and cells, but was given vectors of pairs only; "
            "pass the system to members_from_vectors, or leave this term to the engine"
        )
    return environments.system


def real_coordinates(system: System) -> Tensor:
    """Return coordinates (B, A, 3), float64, with zeros for ghosts, whose own may be NaN."""
    return torch.where((system.species < 0)[..., None], 0.0, system.coordinates.double())
