"""What several representations do in the same way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anipot.exact import ExactBuffers
from anipot.neighbors import Pairs, neighborhoods
from anipot.neighbors.traced import checked_neighborhoods, places
from anipot.structures import SpeciesFeatures, System, check_element_indices, check_system


class NeighborhoodFeatures(ExactBuffers):
    """Base of representations in which the features of an atom follow from its neighbors alone."""

    def forward(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesFeatures:
        """Return the features (B, A, F), zero for ghosts.

        Parameters
        ----------
        input_
            Species (B, A) as element indices, ghosts -1, and coordinates (B, A, 3) in Å.
        cell, pbc
            (3, 3) or (B, 3, 3) in Å, and (3,) or (B, 3) bool.

        Raises
        ------
        TypeError, ValueError
            As ``check_system``; also for species beyond ``num_species`` and for two atoms on one spot.
        """
        return features_of(self, input_, cell, pbc)

    def from_pairs(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> Tensor:
        """Return the features (N, F) of N flat slots with element indices ``species`` (N,), given vectors (P, 3)."""
        return self.from_neighborhoods(pairs.center, species[pairs.neighbor], vectors, len(species))

    def from_neighborhoods(self, center: Tensor, neighbor_species: Tensor, vectors: Tensor, num_atoms: int) -> Tensor:
        """Return the features (N, F) of N atoms, given the neighbors of each."""
        raise NotImplementedError


def features_of(
    representation: Any,
    input_: tuple[Tensor, Tensor],
    cell: Tensor | None,
    pbc: Tensor | None,
    dtype: torch.dtype | None = None,
) -> SpeciesFeatures:
    """Return the features (B, A, F) of a batch, zero for ghosts.

    Parameters
    ----------
    representation
        Module with ``num_species``, ``cutoff`` and ``from_pairs``.
    input_, cell, pbc
        As for ``NeighborhoodFeatures.forward``, which lists the errors too.
    dtype
        Of the vectors that it is given; that of the coordinates by default.
    """
    system, pairs, vectors = surroundings(input_, cell, pbc, representation.num_species, representation.cutoff)
    vectors = vectors.to(system.coordinates.dtype if dtype is None else dtype)
    features = representation.from_pairs(system.species.reshape(-1), pairs, vectors)
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
