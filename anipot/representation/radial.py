"""Bases in which networks see distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anipot.exact import ExactBuffers


class GaussianBasis(ExactBuffers):
    """exp(−γ_k (r − μ_k)²) (SchNet, doi:10.1063/1.5019779, eq. 8).

    Parameters
    ----------
    centers
        μ_k in Å.
    gammas
        γ_k in Å⁻², one for all or one each.

    Raises
    ------
    ValueError
        For no functions at all, exponents that are not positive, or numbers of them that do not fit.

    Examples
    --------
    >>> import torch
    >>> GaussianBasis([0.0, 1.0], 10.0)(torch.tensor([1.0]))
    tensor([[4.5400e-05, 1.0000e+00]])
    """

    centers: Tensor
    gammas: Tensor

    def __init__(self, centers: Sequence[float] | Tensor, gammas: Sequence[float] | Tensor | float) -> None:
        super().__init__()
        mu = torch.as_tensor(centers, dtype=torch.float64).detach().clone().reshape(-1)
        gamma = torch.as_tensor(gammas, dtype=torch.float64).detach().clone().reshape(-1)
        if len(mu) == 0 or not torch.isfinite(mu).all():
            raise ValueError(f"centers must be one or more finite numbers (Å), got {mu.tolist()}")
        if len(gamma) not in (1, len(mu)):
            raise ValueError(f"gammas must be one number or {len(mu)}, one for each center, got {len(gamma)}")
        if not (gamma > 0).all() or not torch.isfinite(gamma).all():
            raise ValueError(f"gammas must be positive (Å⁻²), got {gamma.tolist()}")
        self.register_buffer("centers", mu, persistent=False)
        self.register_buffer("gammas", gamma.expand(len(mu)).clone(), persistent=False)

    @classmethod
    def equidistant(cls, num_functions: int, stop: float, start: float = 0.0) -> GaussianBasis:
        """Return centers from ``start`` to ``stop`` (Å) as wide as they are apart: γ = 1 / (2 Δ²)."""
        if num_functions < 2 or not start < stop:
            raise ValueError(f"expected at least 2 functions and start < stop, got {num_functions}, {start}, {stop}")
        centers = torch.linspace(start, stop, num_functions, dtype=torch.float64)
        return cls(centers, 0.5 / float(centers[1] - centers[0]) ** 2)

    @property
    def num_functions(self) -> int:
        """Number of functions K."""
        return len(self.centers)

    def forward(self, distances: Tensor) -> Tensor:
        """Return the functions (P, K) of distances (P,) in Å."""
        offset = distances[:, None] - self.centers.to(distances.dtype)
        return torch.exp(-self.gammas.to(distances.dtype) * offset * offset)

    def extra_repr(self) -> str:
        return f"{self.num_functions} functions, {float(self.centers[0]):g} to {float(self.centers[-1]):g} Å"


class BesselBasis(nn.Module):
    """sin(n π r / r_c) / r, n = 1 … K (PaiNN, doi:10.48550/arXiv.2102.03150, eq. 10; DimeNet, arXiv:2003.03123).

    Parameters
    ----------
    num_functions
        K.
    cutoff
        r_c in Å.

    Examples
    --------
    >>> import torch
    >>> BesselBasis(2, 5.0)(torch.tensor([2.5]))
    tensor([[ 4.0000e-01, -3.4969e-08]])
    """

    def __init__(self, num_functions: int, cutoff: float) -> None:
        super().__init__()
        if num_functions < 1 or not 0 < cutoff < math.inf:
            raise ValueError(f"expected at least 1 function and a positive cutoff (Å), got {num_functions}, {cutoff}")
        self.num_functions, self.cutoff = int(num_functions), float(cutoff)

    def forward(self, distances: Tensor) -> Tensor:
        """Return the functions (P, K) of distances (P,) in Å."""
        n = torch.arange(1, self.num_functions + 1, dtype=distances.dtype, device=distances.device)
        return torch.sin(distances[:, None] * (n * (math.pi / self.cutoff))) / distances[:, None]

    def extra_repr(self) -> str:
        return f"{self.num_functions} functions, {self.cutoff:g} Å"
