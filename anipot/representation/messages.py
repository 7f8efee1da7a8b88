"""Sums over neighbors in which both directions of a pair share what depends on their distance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anipot.neighbors import Pairs
from anipot.neighbors.traced import places


class HalfPairs(NamedTuple):
    """Each pair once: two slots (P,) each, the vector from ``first`` to ``second`` (P, 3) and its length (P,), Å."""

    first: Tensor
    second: Tensor
    vectors: Tensor
    distances: Tensor


def half_pairs(pairs: Pairs, vectors: Tensor, cutoff: float) -> HalfPairs:
    """Return one of the two directions of each pair closer than ``cutoff`` Å.

    An energy that depends on one of them only has its whole gradient there, and the same forces and stress.
    """
    first, second = pairs.center, pairs.neighbor
    keep = first < second
    if pairs.shift is not None:  # an atom and its own image: the shift whose first number that is not 0 is positive
        weights = pairs.shift.new_tensor([4, 2, 1])
        keep = keep | ((first == second) & ((pairs.shift.sign() * weights).sum(-1) > 0))
    if cutoff < torch.inf:
        keep = keep & ((vectors.detach() * vectors.detach()).sum(-1) < cutoff * cutoff)
    chosen = places(keep)
    vectors = vectors.index_select(0, chosen)
    return HalfPairs(first[chosen], second[chosen], vectors, vectors.norm(dim=-1))


def convolve(x: Tensor, filters: Tensor, pairs: HalfPairs) -> Tensor:
    """Return y_i = Σ_j x_j ∘ W_ij (N, F) of features (N, F) and the filters W (P, F) of each pair."""
    out = torch.zeros_like(x)
    out = out.index_add(0, pairs.first, x.index_select(0, pairs.second) * filters)
    return out.index_add(0, pairs.second, x.index_select(0, pairs.first) * filters)
