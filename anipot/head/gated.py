"""Networks on features that turn with the molecule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anipot.environments import Environments


class GatedBlock(nn.Module):
    """Gated equivariant block: invariant features switch those that turn (doi:10.48550/arXiv.2102.03150, fig. 3).

    Parameters
    ----------
    num_scalars, num_vectors
        Lengths of the input.
    scalars_out, vectors_out
        Lengths of the output.
    num_hidden
        Width of the hidden layer.
    last
        Whether scalars leave without an activation.
    """

    def __init__(
        self, num_scalars: int, num_vectors: int, scalars_out: int, vectors_out: int, num_hidden: int, last: bool
    ) -> None:
        super().__init__()
        self.mix = nn.Linear(num_vectors, 2 * vectors_out, bias=False)
        self.context = nn.Sequential(
            nn.Linear(num_scalars + vectors_out, num_hidden),
            nn.SiLU(),
            nn.Linear(num_hidden, scalars_out + vectors_out),
        )
        self.split = scalars_out, vectors_out
        self.activation = nn.Identity() if last else nn.SiLU()

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return scalars (n, scalars_out) and vectors (n, 3, vectors_out)."""
        V, U = self.mix(v).chunk(2, dim=-1)
        norm = torch.sqrt((V * V).sum(1) + 1e-8)  # the root has no derivative at 0
        scalars, gates = self.context(torch.cat([s, norm], dim=-1)).split(self.split, dim=-1)
        return self.activation(scalars), gates[:, None] * U


class GatedNetwork(nn.Module):
    """Two gated blocks from the features of an atom to one number and one vector.

    Parameters
    ----------
    num_features
        F of both kinds of features.
    num_hidden
        F/2 by default.

    Examples
    --------
    >>> import torch
    >>> scalar, vector = GatedNetwork(32)(torch.rand(5, 32), torch.rand(5, 3, 32))
    >>> scalar.shape, vector.shape
    (torch.Size([5]), torch.Size([5, 3]))
    """

    def __init__(self, num_features: int, num_hidden: int | None = None) -> None:
        super().__init__()
        if num_features < 1 or (num_hidden is not None and num_hidden < 1):
            raise ValueError(f"num_features and num_hidden must be positive, got {num_features} and {num_hidden}")
        self.num_features = num_features
        self.num_hidden = hidden = max(1, num_features // 2) if num_hidden is None else num_hidden
        self.blocks = nn.ModuleList(
            [
                GatedBlock(num_features, num_features, hidden, hidden, num_features, last=False),
                GatedBlock(hidden, hidden, 1, 1, hidden, last=True),
            ]
        )

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n,) and (n, 3) of features (n, F) and (n, 3, F)."""
        weight = next(self.parameters())
        s, v = s.to(weight.dtype), v.to(weight.dtype)
        for block in self.blocks:
            s, v = block(s, v)
        return s.squeeze(-1), v.squeeze(-1)

    def molecules(self, environments: Environments) -> tuple[Tensor, Tensor]:
        """Return (B, A) and (B, A, 3), 0 for ghosts.

        Raises
        ------
        TypeError
            If the representation has no features that turn.
        """
        if environments.equivariant is None:
            raise TypeError("a GatedNetwork needs features that turn with the molecule, as PaiNN returns them")
        shape = environments.molecules.shape
        s, v = self(environments.features, environments.equivariant)
        real = environments.species >= 0
        return torch.where(real, s, 0.0).view(shape), torch.where(real[:, None], v, 0.0).view(*shape, 3)
