"""Dense layers as SchNet and PaiNN start them."""

from __future__ import annotations

from torch import nn


def dense(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer with weights after Glorot and Bengio (2010) and biases of 0."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
