"""What a network of an element is made of, as the native kernels want to know it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from anipot.head.networks import CELU, AtomicNetwork, Gaussian, ShiftedSoftplus
from anipot.kernels.library import library, plain_autograd
from anipot.kernels.networks import Networks, flat

#: Numbers that csrc/spec.h gives them.
ACTIVATIONS: dict[type, int] = {
    CELU: 1,
    nn.CELU: 1,
    nn.Tanh: 2,
    nn.SiLU: 3,
    ShiftedSoftplus: 4,
    Gaussian: 5,
    nn.GELU: 6,
}
_GELU_TANH = 7
_MAX_LAYERS = 32


class NotCovered(Exception):
    """The kernels do not know some part of a model; the message says which."""


class Layer(NamedTuple):
    """A dense layer and the activation that follows it: its number, 0 for none, and its parameter."""

    weight: Tensor
    bias: Tensor | None
    activation: int
    parameter: float


def dense_layers(network: nn.Module, num_features: int) -> list[Layer]:
    """Return the dense layers of a network, each with the activation that follows it."""
    if type(network) is AtomicNetwork:
        linears = list(network.linears)
        parts: list[nn.Module] = []
        for linear in linears[:-1]:
            parts += [linear, network.activation]
        parts.append(linears[-1])
    elif type(network) is nn.Sequential:
        parts = list(network)
    else:
        raise NotCovered(f"a network is a {type(network).__name__}, not an AtomicNetwork or a Sequential")
    layers: list[Layer] = []
    width = num_features
    for i, part in enumerate(parts):
        if type(part) is nn.Linear:
            weight, bias = part.weight, part.bias
            if weight.dim() != 2 or weight.shape[1] != width:
                raise NotCovered(f"a layer has a weight of shape {tuple(weight.shape)} and is given {width} values")
            width = weight.shape[0]
            if bias is not None and bias.shape != (width,):
                raise NotCovered(f"a layer of {width} values has a bias of shape {tuple(bias.shape)}")
            layers.append(Layer(part.weight, part.bias, 0, 0.0))
            continue
        if not layers or layers[-1].activation or i == len(parts) - 1:
            raise NotCovered(f"a network does not alternate linear layers and activations at its part {i}")
        kind = ACTIVATIONS.get(type(part))
        if kind is None:
            raise NotCovered(f"the activation {type(part).__name__} has no kernel")
        if type(part) is nn.GELU and part.approximate == "tanh":
            kind = _GELU_TANH
        layers[-1] = layers[-1]._replace(activation=kind, parameter=float(getattr(part, "alpha", 0.0)))
    if not 0 < len(layers) <= _MAX_LAYERS or width != 1:
        raise NotCovered(f"a network has {len(layers)} layers and {width} outputs")
    return layers


def common_dtype(networks: list[list[Layer]], device: torch.device) -> torch.dtype:
    """Return the dtype of all weights; they must stand on a device, one number after the other."""
    tensors = [t for network in networks for layer in network for t in (layer.weight, layer.bias) if t is not None]
    dtypes = {t.dtype for t in tensors}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        raise NotCovered(f"the weights are {', '.join(sorted(map(str, dtypes)))}")
    if not all(t.is_contiguous() and t.device == device for t in tensors):
        raise NotCovered(f"weights are not contiguous in the memory of {device}")
    return dtypes.pop()


def native_networks(
    members: Sequence[nn.ModuleList], species: Tensor, features: Tensor, sparse: bool
) -> Networks | None:
    """Return the networks of the elements that occur as the native operation takes them; None where torch computes.

    Parameters
    ----------
    members
        Networks of all elements, for each member.
    species, features
        (N,) and (N, F).
    sparse
        Whether gradients with respect to columns of zeros may be left out.
    """
    if library() is None or not (features.is_cpu and features.dim() == 2 and len(features)):
        return None
    if torch.is_autocast_enabled("cpu") or features.dtype not in (torch.float32, torch.float64):
        return None
    present = (torch.bincount(species.clamp(min=-1) + 1, minlength=len(members[0]) + 1)[1:] > 0).tolist()
    weights: list[Tensor] = []
    layout, parameters = [len(members), len(members[0]), int(sparse)], []
    try:
        for networks in members:
            for network, used in zip(networks, present, strict=False):
                layers = dense_layers(network, features.shape[1]) if used else []
                if len(layers) == 1 or watched(network):
                    return None
                layout.append(len(layers))
                for layer in layers:
                    bias = layer.bias is not None
                    layout += [layer.weight.shape[1], layer.weight.shape[0], layer.activation, bias]
                    weights += [layer.weight, layer.bias] if layer.bias is not None else [layer.weight]
                    parameters.append(layer.parameter)
    except NotCovered:
        return None
    if any(weight.dtype is not features.dtype or not weight.is_cpu for weight in weights):
        return None
    if not plain_autograd(features, *weights):
        return None
    return Networks(flat(weights), layout, parameters) if weights else None


#: Hooks that see every module called.
GLOBAL_HOOKS: list[dict[int, Any]] = [
    module_hooks._global_forward_hooks,
    module_hooks._global_forward_pre_hooks,
    module_hooks._global_backward_hooks,
    module_hooks._global_backward_pre_hooks,
]


def hooks_of(modules: Iterable[nn.Module]) -> list[dict[int, Any]]:
    """Return the hooks that see these modules called; what is not called has none to run."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [getattr(module, name) for module in modules for name in names]


def replaced(modules: Iterable[nn.Module]) -> bool:
    """Whether one of these modules has a method of its own that its type does not know."""
    return any(not _OWN.isdisjoint(vars(module)) for module in modules)


_OWN = frozenset(
    (
        "forward",
        "atomic_energies",
        "from_pairs",
        "from_neighborhoods",
        "sae",
        "atomic",
        "members_from_vectors",
        "members_and_properties",
        "environments",
    )
)


def watched(network: nn.Module) -> bool:
    """Whether something wants to see the modules called, or calls something else."""
    modules = list(network.modules())
    return any(GLOBAL_HOOKS) or any(hooks_of(modules)) or replaced(modules)
