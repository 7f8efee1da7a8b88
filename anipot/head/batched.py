"""Energies by networks in few large products, with torch's own operations: for devices where calls cost most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from anipot import known
from anipot.head.dense import Layer, NotCovered, dense_layers, watched
from anipot.head.networks import CELU, Gaussian, ShiftedSoftplus

#: By the numbers of ``anipot.head.dense``; each takes the parameter of the layer.
_ACTIVATIONS: dict[int, Callable[[float], Callable[[Tensor], Tensor]]] = {
    1: CELU,
    2: lambda _: torch.tanh,
    3: lambda _: nn.functional.silu,
    4: lambda _: ShiftedSoftplus(),
    5: lambda _: Gaussian(),
    6: lambda _: nn.functional.gelu,
    7: lambda _: partial(nn.functional.gelu, approximate="tanh"),
}


def batched_energies(members: Sequence[nn.ModuleList], species: Tensor, features: Tensor) -> Tensor:
    """Return atomic energies (M, N), float64, of M models over the same elements; 0 for species < 0.

    Rows are sorted by element, by the host, which asks for them if it does not know them; members with layers of the
    same sizes are computed together. Other networks are called one after the other.

    Parameters
    ----------
    members
        Networks of all elements, for each member.
    species, features
        (N,) and (N, F).
    """
    found = known.species_on_host(species)
    atoms = [np.flatnonzero(found == element) for element in range(len(members[0]))]
    energies = features.new_zeros(len(members), len(species), dtype=torch.float64)
    if not any(map(len, atoms)):
        return energies
    index = known.send(np.concatenate(atoms), species.device)
    rows = features.index_select(0, index).split([len(some) for some in atoms])
    values = [_energies([member[e] for member in members], x) for e, x in enumerate(rows) if len(x)]
    return energies.index_copy(1, index, torch.cat(values, dim=1).double())


def _energies(networks: list[nn.Module], x: Tensor) -> Tensor:
    """Return the energies (M, n) of one element."""
    together = _together(networks, x.shape[1])
    if together is None:
        values = [network(x).view(1, -1) for network in networks]
        return torch.cat(values) if len(values) > 1 else values[0]
    h, count = x, len(networks)
    for i, layers in enumerate(together):
        weight, bias = torch.stack([layer.weight for layer in layers]), None
        if layers[0].bias is not None:
            bias = torch.stack([layer.bias for layer in layers if layer.bias is not None])
        if i == 0:  # one product with the same rows for all members
            flat = nn.functional.linear(h, weight.flatten(0, 1), None if bias is None else bias.flatten())
            h = flat.reshape(len(x), count, -1).transpose(0, 1)  # (M, n, width)
        elif bias is None:
            h = torch.bmm(h, weight.transpose(1, 2))
        else:
            h = torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2))
        if layers[0].activation:
            h = _ACTIVATIONS[layers[0].activation](layers[0].parameter)(h)
    return h.squeeze(2)


def _together(networks: list[nn.Module], width: int) -> list[tuple[Layer, ...]] | None:
    """Return for each layer those of all networks, or None where they are not alike, not plain, or looked at."""
    if len(networks) == 1 or any(map(watched, networks)):
        return None
    try:
        layers = [dense_layers(network, width) for network in networks]
    except NotCovered:
        return None
    alike = {tuple((a.weight.shape, a.bias is None, a.activation, a.parameter) for a in network) for network in layers}
    return list(zip(*layers, strict=True)) if len(alike) == 1 else None
