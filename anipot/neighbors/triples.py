"""Triples: every two neighbors of one center."""

from __future__ import annotations

import torch
from torch import Tensor


def triples(center: Tensor, num_centers: int) -> tuple[Tensor, Tensor]:
    """Return the two pairs (T,) and (T,) of every triple j–i–k, each triple once, in linear time.

    Parameters
    ----------
    center
        (P,) center of each pair, ascending.
    num_centers
        Number of centers.

    Examples
    --------
    >>> import torch
    >>> triples(torch.tensor([0, 0, 0, 1]), 2)
    (tensor([0, 0, 1]), tensor([1, 2, 2]))
    """
    counts = torch.bincount(center, minlength=num_centers)
    first_pair = (counts.cumsum(0) - counts)[center]  # (P,) where the list of each pair's center starts
    position = torch.arange(len(center), device=center.device) - first_pair
    # A pair at position q of its center's list is the second of q triples: with positions 0 … q − 1.
    second = torch.repeat_interleave(position)
    start = position.cumsum(0) - position
    first = first_pair[second] + torch.arange(len(second), device=center.device) - start[second]
    return first, second
