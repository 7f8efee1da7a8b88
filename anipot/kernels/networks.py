"""Dense networks of all elements and members as one differentiable torch operation, twice differentiable in features.

With E(x, W) the energies of rows of features x, seeds s and a direction u of the features:

    anipot::networks                   E, and what the others need of it: the order of rows, the hidden values
    anipot::networks_weights           zeros, whose gradient is that of E with respect to the weights
    anipot::networks_backward          s · dE/dx
    anipot::networks_weight_gradient   s · dE/dW
    anipot::networks_second            dE/dx · u, and the gradients of s · dE/dx · u with respect to x and W

Energies are the sum of the first two: autograd runs the backward of a whole operation, and forces need only the half of
it that leads to the features.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anipot.kernels.library import HeadSpec, LayerSpec, RowsSpec, library
from anipot.kernels.operations import define
from anipot.kernels.specs import address

_FORWARD, _BACKWARD, _WEIGHTS, _SECOND = range(4)
#: Rows computed together where no graph is made.
_ROWS = 16384


class Networks(NamedTuple):
    """Networks of M members and E elements as the operations take them."""

    #: Weights and biases, layer after layer in one dimension, each padded to a multiple of 16 (``flat``).
    weights: Tensor
    #: M, E, whether gradients of columns of zeros may be left out; and of each network (member-major) the number of
    #: layers, 0 for those without rows, and of each layer n_in, n_out, activation and whether it has a bias.
    layout: list[int]
    #: A number for each activation.
    parameters: list[float]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return weights and biases as one tensor, part of their graph: lists of tensors are more than vmap can take."""
    parts = []
    for tensor in tensors:
        parts.append(tensor.reshape(-1))
        if tensor.numel() % 16:
            parts.append(tensor.new_zeros(_padded(tensor.numel()) - tensor.numel()))
    return torch.cat(parts)


def _padded(n: int) -> int:
    return -(-n // 16) * 16


class _Layout(NamedTuple):
    """A layout taken apart."""

    members: int
    num_species: int
    sparse: bool
    first_layer: list[int]
    layers: list[Sequence[int]]

    @classmethod
    def of(cls, layout: Sequence[int]) -> _Layout:
        first, layers, at = [0], [], 3
        for _ in range(layout[0] * layout[1]):
            end = at + 1 + 4 * layout[at]
            layers += [layout[i : i + 4] for i in range(at + 1, end, 4)]
            first.append(len(layers))
            at = end
        return cls(layout[0], layout[1], bool(layout[2]), first, layers)

    @property
    def state_width(self) -> int:
        """Number of hidden values of the largest network, each layer padded to 16."""
        ends = zip(self.first_layer[:-1], self.first_layer[1:], strict=True)
        return max((sum(_padded(layer[1]) for layer in self.layers[a : b - 1]) for a, b in ends), default=0)


class Call:
    """One call into the library: its structures, and what they point to."""

    def __init__(self, rows: Sequence[Any], order: Tensor, state: Tensor) -> None:
        features, species, weights, layout, parameters = rows
        self.features, self.species = features.contiguous(), species.long().contiguous()
        self.weights = weights.contiguous()
        self.layout = _Layout.of(layout)
        self.head = self._head(parameters)
        self.rows = RowsSpec()
        self.rows.num_rows, self.rows.num_features = features.shape
        self.rows.features, self.rows.species = self.features.data_ptr(), self.species.data_ptr()
        self.rows.order, self.rows.state = order.data_ptr(), state.data_ptr()
        self.rows.state_width = self.layout.state_width
        self.rows.wide, self.rows.threads = features.dtype == torch.float64, torch.get_num_threads()
        self.rows.sparse = self.layout.sparse

    def _head(self, parameters: Sequence[float]) -> HeadSpec:
        layout, addresses = self.layout, self._addresses(self.weights)
        self._layers = (LayerSpec * max(1, len(layout.layers)))()
        for i, (layer, (n_in, n_out, activation, _)) in enumerate(zip(self._layers, layout.layers, strict=False)):
            layer.weight, layer.bias = addresses[2 * i], addresses[2 * i + 1]
            layer.n_in, layer.n_out, layer.activation, layer.parameter = n_in, n_out, activation, parameters[i]
        self._first = (ctypes.c_int32 * len(layout.first_layer))(*layout.first_layer)
        return HeadSpec(layout.members, layout.num_species, self._first, self._layers, None, 0)

    def _addresses(self, weights: Tensor) -> list[int | None]:
        """Weight and bias of all layers, None where there is no bias."""
        at, size = weights.data_ptr(), weights.element_size()
        addresses: list[int | None] = []
        for n_in, n_out, _, bias in self.layout.layers:
            after = at + _padded(n_in * n_out) * size
            addresses += [at, after if bias else None]
            at = after + (_padded(n_out) * size if bias else 0)
        return addresses

    def run(
        self,
        what: int,
        seeds: Tensor | None = None,
        tangent: Tensor | None = None,
        energies: Tensor | None = None,
        out: Tensor | None = None,
        gradients: Tensor | None = None,
    ) -> None:
        seeds = None if seeds is None else seeds.double().contiguous()
        tangent = None if tangent is None else tangent.to(self.features.dtype).contiguous()
        pointers = (None if t is None else t.data_ptr() for t in (seeds, tangent, energies, out))
        addresses = None if gradients is None else self._addresses(gradients)
        to_weights = None if addresses is None else (ctypes.c_void_p * len(addresses))(*addresses)
        code = library().anipot_networks(what, address(self.head), address(self.rows), *pointers, to_weights)
        if code != 0:
            raise MemoryError(f"no memory for the networks of {self.rows.num_rows} atoms")


def _new_energies(features: Tensor, layout: Sequence[int]) -> Tensor:
    return features.new_empty((layout[0], len(features)), dtype=torch.float64)


def _new_outputs(features: Tensor, species: Tensor, weights: Any, layout: Any, parameters: Any) -> tuple[Tensor, ...]:
    # Bytes: no gradient is ever asked for what stands there.
    width = _Layout.of(layout).state_width * features.element_size()
    state = features.new_empty((layout[0], len(features), width), dtype=torch.uint8)
    return _new_energies(features, layout), species.new_empty((2, len(features)), dtype=torch.int64), state


def _networks(*rows: Any) -> tuple[Tensor, ...]:
    energies, order, state = _new_outputs(*rows)
    Call(rows, order, state).run(_FORWARD, energies=energies)
    return energies, order, state


def _split(rows: Sequence[Any]) -> tuple[tuple[Any, ...], Tensor, Tensor]:
    features, species, order, state, *networks = rows
    return (features, species, *networks), order, state


def _networks_backward(seeds: Tensor, *rows: Any) -> Tensor:
    out = torch.empty_like(rows[0], memory_format=torch.contiguous_format)
    Call(*_split(rows)).run(_BACKWARD, seeds, out=out)
    return out


def _networks_weights(features: Tensor, species: Tensor, order: Tensor, state: Tensor, *networks: Any) -> Tensor:
    return _new_energies(features, networks[1]).zero_()


def _networks_weight_gradient(seeds: Tensor, *rows: Any) -> Tensor:
    out = torch.empty_like(rows[4])
    Call(*_split(rows)).run(_WEIGHTS, seeds, gradients=out)
    return out


def _networks_second(of_weights: bool, tangent: Tensor, seeds: Tensor, *rows: Any) -> tuple[Tensor, Tensor, Tensor]:
    energies, out = _new_energies(rows[0], rows[5]), torch.empty_like(rows[0], memory_format=torch.contiguous_format)
    gradients = torch.empty_like(rows[4]) if of_weights else None
    Call(*_split(rows)).run(_SECOND, seeds, tangent, energies, out, gradients)
    return energies, out, rows[4].new_empty(0) if gradients is None else gradients


_ops = torch.ops.anipot

_NETWORKS = "Tensor weights, int[] layout, float[] parameters"
_KEPT = f"Tensor features, Tensor species, Tensor order, Tensor state, {_NETWORKS}"


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.layout, ctx.parameters = inputs
    ctx.save_for_backward(*tensors)


def _saved(ctx: Any) -> tuple[Any, ...]:
    return (*ctx.saved_tensors, ctx.layout, ctx.parameters)


def _keep_with_output(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, species, *networks = inputs
    _keep(ctx, (features, species, *output[1:], *networks), output)
    ctx.set_materialize_grads(False)  # zeros as large as the state would be made for it


_NOTHING = (None, None)  # layout, parameters


def _networks_gradient(ctx: Any, seeds: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if seeds is None:
        return None, None, None, *_NOTHING
    return _ops.networks_backward(seeds, *_saved(ctx)), None, None, *_NOTHING


def _networks_weights_gradient(ctx: Any, seeds: Tensor) -> tuple[Any, ...]:
    return None, None, None, None, _ops.networks_weight_gradient(seeds, *_saved(ctx)), *_NOTHING


def _networks_backward_gradient(ctx: Any, tangent: Tensor) -> tuple[Any, ...]:
    of_weights = ctx.needs_input_grad[5]
    to_seeds, to_features, to_weights = _ops.networks_second(of_weights, tangent, *_saved(ctx))
    return to_seeds, to_features, None, None, None, to_weights if of_weights else None, *_NOTHING


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _no_more_derivatives(ctx: Any, *_: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "third derivatives of networks, and second ones with respect to weights, have no native kernel; "
        "compute inside `with anipot.reference_path():`"
    )


def _like_features(*args: Any) -> Tensor:
    features = args[-7]
    return features.new_empty(features.shape)


def _like_weights(*args: Any) -> Tensor:
    return args[-3].new_empty(args[-3].shape)


def _fake_second(of_weights: bool, *args: Any) -> tuple[Tensor, ...]:
    weights = _like_weights(*args)
    return _new_energies(args[-7], args[-2]), _like_features(*args), weights if of_weights else weights[:0].clone()


# fmt: off
define(f"networks(Tensor features, Tensor species, {_NETWORKS}) -> (Tensor, Tensor, Tensor)",
       _networks, _new_outputs, _networks_gradient, _keep_with_output)
define(f"networks_weights({_KEPT}) -> Tensor",
       _networks_weights, lambda *args: _new_energies(args[-7], args[-2]), _networks_weights_gradient, _keep)
define(f"networks_backward(Tensor seeds, {_KEPT}) -> Tensor",
       _networks_backward, _like_features, _networks_backward_gradient, _keep)
define(f"networks_weight_gradient(Tensor seeds, {_KEPT}) -> Tensor",
       _networks_weight_gradient, _like_weights, _no_more_derivatives, _keep_nothing)
define(f"networks_second(bool of_weights, Tensor tangent, Tensor seeds, {_KEPT}) -> (Tensor, Tensor, Tensor)",
       _networks_second, _fake_second, _no_more_derivatives, _keep_nothing)
# fmt: on


def energies(features: Tensor, species: Tensor, networks: Networks) -> Tensor:
    """Return the energies (M, N), float64, of N rows of features (N, F); 0 for species < 0.

    Parameters
    ----------
    species
        (N,) element indices, int64.
    networks
        See ``Networks``.
    """
    weights, *rest = networks
    if not features.requires_grad:  # then nothing is to be computed but the gradient of the weights
        weights = weights.detach()
    needs_graph = torch.is_grad_enabled() and (features.requires_grad or networks.weights.requires_grad)
    if not needs_graph and len(features) > _ROWS:  # hidden values of all rows are for derivatives
        parts = zip(features.split(_ROWS), species.split(_ROWS), strict=True)
        return torch.cat([_ops.networks(*part, weights, *rest)[0] for part in parts], dim=1)
    values, order, state = _ops.networks(features, species, weights, *rest)
    if torch.is_grad_enabled() and networks.weights.requires_grad:
        values = values + _ops.networks_weights(features.detach(), species, order, state, *networks)
    return values
