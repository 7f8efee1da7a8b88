"""What several representations do in the same way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anipot.neighbors import Pairs, neighborhoods
from anipot.neighbors.traced import checked_neighborhoods, places
from anipot.structures import SpeciesFeatures, System, check_element_indices, check_system


def features_of(
    representation: Any, input_: tuple[Tensor, Tensor], cell: Tensor | None, pbc: Tensor | None
) -> SpeciesFeatures:
    """Return the features (B, A, F) of a batch, in the dtype of the coordinates and zero for ghosts.

    Parameters
    ----------
    representation
        Module with ``num_species``, ``cutoff`` and ``from_pairs``.
    input_, cell, pbc
        As for ``AEVComputer.forward``, which lists the errors too.
    """
    system, pairs, vectors = surroundings(input_, cell, pbc, representation.num_species, representation.cutoff)
    features = representation.from_pairs(system.species.reshape(-1), pairs, vectors.to(system.coordinates.dtype))
    return SpeciesFeatures(system.species, features.view(*system.species.shape, features.shape[-1]))


def surroundings(
    input_: tuple[Tensor, Tensor], cell: Tensor | None, pbc: Tensor | None, num_species: int, cutoff: float
) -> tuple[System, Pairs, Tensor]:
    """Return a checked batch of element indices, its pairs and their vectors."""
    if torch.compiler.is_compiling():
        return checked_neighborhoods(*input_, cell, pbc, num_species, cutoff)
    system = check_system(*input_, cell, pbc)
    check_element_indices(system.species, num_species)
    return system, *neighborhoods(system, cutoff)


def within(cutoff: float, center: Tensor, species: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep what is closer than the cutoff, and return the distances (P,) too."""
    squared = (vectors.detach() * vectors.detach()).sum(-1)
    near = places(squared < cutoff * cutoff)
    if torch.compiler.is_compiling() or len(near) < len(center):
        center, species, vectors = center[near], species[near], vectors.index_select(0, near)
    return center, species, vectors, vectors.norm(dim=-1)


def pair_channels(num_species: int) -> Tensor:
    """Return the (E, E) channel of each unordered pair of elements, counted along the upper triangle."""
    first, second = torch.triu_indices(num_species, num_species)
    table = torch.zeros(num_species, num_species, dtype=torch.long)
    table[first, second] = torch.arange(len(first))
    table[second, first] = torch.arange(len(first))
    return table
