"""Small dense networks for single atoms, and the activations of the published potentials."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anipot.kernels import messages as kernels

#: From so many numbers on the native activation costs less than the call.
_MANY = 8192


class CELU(nn.Module):
    """max(0, x) + min(0, α (exp(x/α) − 1)) (doi:10.48550/arXiv.1704.07483).

    torch's own float64 CELU rounds α to float32 in its backward on a CPU, a relative error of 1e-8 in forces. Here
    float64 is exact; float32 takes torch's fused version.

    >>> import torch
    >>> CELU(0.1)(torch.tensor([1.0, -1.0]))
    tensor([ 1.0000, -0.1000])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        self.alpha = float(alpha)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64:
            return nn.functional.celu(x, self.alpha)
        # The gradient of relu at 0 is 0 and that of clamp(max=0) is 1, so at x = 0 they add up to 1.
        return torch.relu(x) + self.alpha * torch.expm1(x.clamp(max=0) / self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Gaussian(nn.Module):
    """exp(−x²), the activation of the first ANI potentials.

    >>> import torch
    >>> Gaussian()(torch.zeros(1))
    tensor([1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-x * x)


class ShiftedSoftplus(nn.Module):
    """ln(½ exp(x) + ½), the activation of SchNet (doi:10.1063/1.5019779).

    >>> import torch
    >>> ShiftedSoftplus()(torch.zeros(1))
    tensor([0.])
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and x.numel() >= _MANY and kernels.covers(x):
            return kernels.softplus(x)
        return nn.functional.softplus(x) - math.log(2.0)


class AtomicNetwork(nn.Module):
    """A dense network from the features of an atom to its energy.

    Parameters
    ----------
    sizes
        Widths from the input to the output, such as (384, 160, 128, 96, 1).
    activation
        Module or function applied after every layer but the last.
    bias
        Whether layers have a bias.

    Examples
    --------
    >>> import torch
    >>> AtomicNetwork((384, 160, 128, 96, 1), activation=CELU(0.1))(torch.rand(5, 384)).shape
    torch.Size([5, 1])
    """

    def __init__(self, sizes: Sequence[int], activation: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.sizes = tuple(int(size) for size in sizes)
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes must be at least two positive widths, from input to output, got {self.sizes}")
        if not callable(activation):
            raise TypeError(f"activation must be a module such as CELU(0.1), got {activation!r}")
        pairs = zip(self.sizes[:-1], self.sizes[1:], strict=True)
        self.linears = nn.ModuleList(nn.Linear(n_in, n_out, bias=bias) for n_in, n_out in pairs)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs (n, sizes[-1]) for features (n, sizes[0])."""
        h = features
        for linear in self.linears[:-1]:
            h = self.activation(linear(h))
        return self.linears[-1](h)
