"""What SchNet and PaiNN share: features that start from the element and are refined by what the neighbors send."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from anipot.neighbors import Pairs
from anipot.representation.cutoffs import CosineCutoff
from anipot.representation.parts import features_of
from anipot.structures import SpeciesFeatures


def without_ghosts(species: Tensor, features: Tensor) -> Tensor:
    """Return features (N, F) with 0 for ghosts. Nobody sees a ghost, so that it is enough to do this at the end."""
    return torch.where((species < 0)[:, None], 0.0, features)


class MessagePassing(nn.Module):
    """Base of representations that start from an embedding of the element and pass messages between neighbors.

    Parameters
    ----------
    num_species
        Number of elements E.
    num_features
        Length F of the features.
    num_interactions
        Number of rounds T.
    basis
        Module that turns distances (P,) into (P, K), with ``num_functions``.
    cutoff
        Å; ``math.inf`` for all pairs of a molecule, and then no cutoff function.
    cutoff_function
        Module that takes (distances, cutoff) or None for no decay, which is allowed for an infinite cutoff only.

    Raises
    ------
    ValueError
        For numbers that make no sense.
    """

    #: Bytes of one block: small enough for the caches.
    block_bytes = 64 * 2**20

    def __init__(
        self,
        num_species: int,
        num_features: int,
        num_interactions: int,
        basis: nn.Module,
        cutoff: float,
        cutoff_function: nn.Module | None,
    ) -> None:
        super().__init__()
        sizes = {"num_species": num_species, "num_features": num_features, "num_interactions": num_interactions}
        for name, size in sizes.items():
            if int(size) != size or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size}")
        if not cutoff > 0:
            raise ValueError(f"cutoff must be positive (Å), got {cutoff}")
        if math.isinf(cutoff) != (cutoff_function is None):
            raise ValueError(
                "a finite cutoff needs a cutoff function and an infinite one has none, got "
                f"cutoff = {cutoff} Å and cutoff_function = {cutoff_function}"
            )
        self.num_species, self.num_features, self.num_interactions = num_species, num_features, num_interactions
        self.cutoff = float(cutoff)
        self.cutoff_function = cutoff_function
        self.basis = basis
        self.embedding = nn.Embedding(num_species, num_features)

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
            As ``check_system``; also for species beyond ``num_species``, for two atoms on one spot, and for a periodic
            molecule where the cutoff is infinite.
        """
        return features_of(self, input_, cell, pbc, self.embedding.weight.dtype)

    def from_pairs(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> Tensor:
        """Return the features (N, F) of N flat slots with element indices ``species`` (N,), given vectors (P, 3)."""
        raise NotImplementedError

    def embed(self, species: Tensor) -> Tensor:
        """Return the features (N, F) to start from; those of ghosts, whom nobody sees, are anything."""
        embedded: Tensor = self.embedding(species.clamp(min=0))
        return embedded

    def decay(self, distances: Tensor) -> Tensor | None:
        """Return the factors (P, 1) of the cutoff function, or None without one."""
        if self.cutoff_function is None:
            return None
        return self.cutoff_function(distances, self.cutoff)[:, None]

    def _bytes_per_pair(self) -> int:
        raise NotImplementedError

    def memory_estimate(self, center: Tensor, vectors: Tensor, num_atoms: int) -> Tensor:
        """Return roughly the bytes (N,) that the features of each atom and their gradient take in float64."""
        pairs = torch.bincount(center, minlength=num_atoms)
        return pairs * self._bytes_per_pair() + 8 * 12 * self.num_interactions * self.num_features

    def extra_repr(self) -> str:
        return f"num_species={self.num_species}, num_features={self.num_features}, cutoff={self.cutoff:g}"


def interactions(build: Callable[[], nn.Module], number: int, shared: bool) -> nn.ModuleList:
    """Return ``number`` blocks; the same one every time if ``shared``."""
    if not shared:
        return nn.ModuleList(build() for _ in range(number))
    block = build()
    return nn.ModuleList([block] * number)


def decay_of(cutoff: float, given: nn.Module | None) -> nn.Module | None:
    """Return the cutoff function to use where none was given: a cosine, or none for an infinite cutoff."""
    if given is not None or math.isinf(cutoff):
        return given
    return CosineCutoff()


def own(activation: nn.Module) -> nn.Module:
    """Return a copy, so that no two layers share a module."""
    return copy.deepcopy(activation)
