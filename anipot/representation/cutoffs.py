"""Functions that bring a term to zero at a cutoff radius.

A cutoff function takes distances (Å, all below the cutoff) and the cutoff, and returns factors of the same shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class CosineCutoff(nn.Module):
    """f(r) = ½ cos(π r / r_c) + ½ (Behler and Parrinello, doi:10.1103/PhysRevLett.98.146401, eq. 4).

    >>> import torch
    >>> CosineCutoff()(torch.tensor([0.0, 2.6]), 5.2)
    tensor([1.0000, 0.5000])
    """

    def forward(self, distances: Tensor, cutoff: float) -> Tensor:
        return 0.5 * torch.cos(distances * (math.pi / cutoff)) + 0.5


class SmoothCutoff(nn.Module):
    """f(r) = exp(1 − 1 / (1 − (r / r_c)^n)): all derivatives vanish at the cutoff (n = 2: mollifier).

    Parameters
    ----------
    order
        n; even, 2 by default.
    eps
        Lower bound of the inner difference, which keeps the function finite at the cutoff.

    >>> import torch
    >>> SmoothCutoff()(torch.tensor([0.0, 5.2]), 5.2)
    tensor([1., 0.])
    """

    def __init__(self, order: int = 2, eps: float = 1e-10) -> None:
        super().__init__()
        if order < 2 or order % 2:
            raise ValueError(f"order must be even and at least 2, got {order}")
        self.order = order
        self.eps = eps

    def forward(self, distances: Tensor, cutoff: float) -> Tensor:
        return torch.exp(1 - 1 / (1 - (distances / cutoff) ** self.order).clamp(min=self.eps))

    def extra_repr(self) -> str:
        return f"order={self.order}, eps={self.eps}"


#: The name that SchNetPack gives to the same function, whose order there is 2.
MollifierCutoff = SmoothCutoff

#: Cutoff functions that the native kernels know, and the numbers that csrc/spec.h gives them.
NATIVE_CUTOFFS: dict[type, int] = {CosineCutoff: 0, SmoothCutoff: 1}
