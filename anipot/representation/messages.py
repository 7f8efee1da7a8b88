"""Sums over neighbors in which both directions of a pair share what depends on their distance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anipot.kernels import messages as kernels
from anipot.neighbors import Pairs
from anipot.neighbors.traced import places


class HalfPairs(NamedTuple):
    """Each pair once: two slots (P,) each, the vector from ``first`` to ``second`` (P, 3) and its length (P,), Å."""

    first: Tensor
    second: Tensor
    vectors: Tensor
    distances: Tensor
    #: For the native kernels; None where torch computes.
    graph: kernels.Graph | None


def half_pairs(pairs: Pairs, vectors: Tensor, cutoff: float, num_atoms: int) -> HalfPairs:
    """Return one of the two directions of each pair of ``num_atoms`` atoms that is closer than ``cutoff`` Å.

    An energy that depends on one of them only has its whole gradient there, and the same forces and stress.
    """
    first, second = pairs.center, pairs.neighbor
    x, y, z = vectors.detach().unbind(-1)
    # Of an atom and its own images, those whose first coordinate that is not 0 is positive.
    keep = (first < second) | ((first == second) & (4 * x.sign() + 2 * y.sign() + z.sign() > 0))
    if cutoff < torch.inf:
        keep = keep & (x * x + y * y + z * z < cutoff * cutoff)
    chosen = places(keep)
    vectors = vectors.index_select(0, chosen)
    first, second = first[chosen], second[chosen]
    native = kernels.covers(vectors) and first.is_cpu and first.dtype == torch.int64
    graph = kernels.incidence(first, second, num_atoms) if native else None
    return HalfPairs(first, second, vectors, vectors.norm(dim=-1), graph)


def convolve(x: Tensor, filters: Tensor, pairs: HalfPairs, factors: Tensor | None = None) -> Tensor:
    """Return y_i = Σ_j x_j ∘ W_ij c_ij of features (N, F) or (N, K, F), filters W (P, F) and factors c (P, 1)."""
    if pairs.graph is not None and _native(x, filters, factors):
        components = x if x.dim() == 3 else x[:, None]
        return kernels.gather(components, filters, factors, pairs.graph).view(x.shape)
    filters = filters if factors is None else filters * factors
    filters = filters if x.dim() == 2 else filters[:, None]
    out = x.new_zeros(x.shape, dtype=torch.result_type(x, filters))  # autocast may leave two dtypes
    out = out.index_add(0, pairs.first, x.index_select(0, pairs.second) * filters)
    return out.index_add(0, pairs.second, x.index_select(0, pairs.first) * filters)


def convolve_along(x: Tensor, filters: Tensor, directions: Tensor, pairs: HalfPairs) -> Tensor:
    """Return y_i = Σ_j u_ij ⊗ x_j ∘ W_ij (N, 3, F), with u (P, 3) from the first to the second atom of a pair."""
    if pairs.graph is not None and _native(x, filters, directions):
        return kernels.gather(x[:, None], filters, directions, pairs.graph, kernels.UP)
    turned = directions[:, :, None] * filters[:, None]  # (P, 3, F), changes its sign with the direction of the pair
    out = x.new_zeros(len(x), 3, x.shape[1], dtype=torch.result_type(x, turned))
    out = out.index_add(0, pairs.first, turned * x.index_select(0, pairs.second)[:, None])
    return out.index_add(0, pairs.second, turned * x.index_select(0, pairs.first)[:, None], alpha=-1)


def _native(*tensors: Tensor | None) -> bool:
    return kernels.covers(*(t for t in tensors if t is not None))
