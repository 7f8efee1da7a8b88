"""Dense networks of all elements and members as one differentiable torch operation, twice differentiable in features.

With z the hidden values before the activations ("state"), E(x, W) the energies of rows of features x, seeds s and a
direction u of the features:

    anipot::networks                   E, and what the others need of it: the order of rows, z
    anipot::networks_features          zeros, whose gradient is that of E with respect to the features
    anipot::networks_backward          s · dE/dx
    anipot::networks_second            dE/dx · u, and the gradients of s · dE/dx · u with respect to z and W
    anipot::networks_rest              (s · dE/dz + t) dz/dx for a gradient t with respect to z
    anipot::networks_weight_gradient   s · dE/dW + t dz/dW

Energies are the sum of the first two: autograd runs the backward of a whole operation, and forces need only the half of
it that leads to the features. dE/dx depends on x through z alone; z is an output of the first operation, and for the
second a tensor of zeros stands for it, so that gradients with respect to z from everywhere are added up before they go
through the layers, once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anipot.kernels.library import HeadSpec, LayerSpec, RowsSpec, library
from anipot.kernels.memory import empty
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
        direction: Tensor | None = None,
        energies: Tensor | None = None,
        out: Tensor | None = None,
        gradients: Tensor | None = None,
    ) -> None:
        seeds = None if seeds is None else seeds.double().contiguous()
        direction = None if direction is None else direction.to(self.features.dtype).contiguous()
        pointers = (None if t is None else t.data_ptr() for t in (seeds, direction, energies, out))
        addresses = None if gradients is None else self._addresses(gradients)
        to_weights = None if addresses is None else (ctypes.c_void_p * len(addresses))(*addresses)
        code = library().anipot_networks(what, address(self.head), address(self.rows), *pointers, to_weights)
        if code != 0:
            raise MemoryError(f"no memory for the networks of {self.rows.num_rows} atoms")


def _energies_shape(features: Tensor, layout: Sequence[int]) -> tuple[int, int]:
    return layout[0], len(features)


def _state_shape(features: Tensor, layout: Sequence[int]) -> tuple[int, int, int]:
    return layout[0], len(features), _Layout.of(layout).state_width


def _new_energies(features: Tensor, layout: Sequence[int]) -> Tensor:
    return features.new_empty(_energies_shape(features, layout), dtype=torch.float64)


def _networks(features: Tensor, species: Tensor, *networks: Any) -> tuple[Tensor, ...]:
    energies, order, _ = _fake_networks(features, species, *networks, state=False)
    state = empty(_state_shape(features, networks[1]), features)
    Call((features, species, *networks), order, state).run(_FORWARD, energies=energies)
    return energies, order, state


def _split(rows: Sequence[Any]) -> tuple[tuple[Any, ...], Tensor, Tensor]:
    features, species, order, state, *networks = rows
    return (features, species, *networks), order, state


def _networks_features(features: Tensor, species: Tensor, order: Tensor, state: Tensor, *networks: Any) -> Any:
    zeros = features.new_zeros(()).expand(_state_shape(features, networks[1]))
    return _new_energies(features, networks[1]).zero_(), zeros


def _networks_backward(seeds: Tensor, zeros: Tensor | None, *rows: Any) -> Tensor:
    return _networks_rest(seeds, None, *rows)


def _networks_rest(seeds: Tensor, of_state: Tensor | None, *rows: Any) -> Tensor:
    out = empty(rows[0].shape, rows[0])
    Call(*_split(rows)).run(_BACKWARD, seeds, of_state, out=out)
    return out


def _networks_weight_gradient(seeds: Tensor, of_state: Tensor | None, *rows: Any) -> Tensor:
    out = empty(rows[4].shape, rows[4])
    Call(*_split(rows)).run(_WEIGHTS, seeds, of_state, gradients=out)
    return out


def _networks_second(of_weights: bool, tangent: Tensor, seeds: Tensor, *rows: Any) -> tuple[Tensor, Tensor, Tensor]:
    energies, of_state = _new_energies(rows[0], rows[5]), empty(_state_shape(rows[0], rows[5]), rows[0])
    gradients = empty(rows[4].shape, rows[4]) if of_weights else None
    Call(*_split(rows)).run(_SECOND, seeds, tangent, energies, of_state, gradients)
    return energies, of_state, rows[4].new_empty(0) if gradients is None else gradients


_ops = torch.ops.anipot

_NETWORKS = "Tensor weights, int[] layout, float[] parameters"
_KEPT = f"Tensor features, Tensor species, Tensor order, Tensor state, {_NETWORKS}"


_NOTHING = (None, None)  # layout, parameters


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.layout, ctx.parameters = inputs
    ctx.save_for_backward(*tensors)


def _saved(ctx: Any) -> tuple[Any, ...]:
    return (*ctx.saved_tensors, ctx.layout, ctx.parameters)


def _keep_networks(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    features, species, *networks = inputs
    _keep(ctx, (features, species, *output[1:], *networks), output)
    ctx.set_materialize_grads(False)  # zeros as large as the state would be made for it


def _networks_gradient(ctx: Any, seeds: Tensor | None, _: Any, of_state: Tensor | None) -> tuple[Any, ...]:
    features, _, _, _, _, layout, _ = rows = _saved(ctx)
    if seeds is None and of_state is None:
        return None, None, None, *_NOTHING
    seeds = _new_energies(features, layout).zero_() if seeds is None else seeds
    return None, None, _ops.networks_weight_gradient(seeds, of_state, *rows), *_NOTHING


def _keep_features(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _keep(ctx, (output[1], *inputs), output)
    ctx.set_materialize_grads(False)


def _networks_features_gradient(ctx: Any, seeds: Tensor | None, of_state: Tensor | None) -> tuple[Any, ...]:
    zeros, *rows = _saved(ctx)
    if of_state is not None:
        seeds = _new_energies(rows[0], rows[5]).zero_() if seeds is None else seeds
        return _ops.networks_rest(seeds, of_state, *rows), None, None, None, None, *_NOTHING
    gradient = None if seeds is None else _ops.networks_backward(seeds, zeros, *rows)
    return gradient, None, None, None, None, *_NOTHING


def _networks_backward_gradient(ctx: Any, tangent: Tensor) -> tuple[Any, ...]:
    seeds, _, *rows = _saved(ctx)
    of_weights = ctx.needs_input_grad[6]
    to_seeds, of_state, to_weights = _ops.networks_second(of_weights, tangent, seeds, *rows)
    return to_seeds, of_state, None, None, None, of_state, to_weights if of_weights else None, *_NOTHING


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _no_more_derivatives(ctx: Any, *_: Any) -> tuple[Any, ...]:
    raise NotImplementedError(
        "third derivatives of networks, and second ones with respect to weights, have no native kernel; "
        "compute inside `with anipot.reference_path():`"
    )


def _fake_networks(features: Tensor, species: Tensor, *networks: Any, state: bool = True) -> tuple[Tensor, ...]:
    order = species.new_empty((2, len(features)), dtype=torch.int64)
    shape = _state_shape(features, networks[1]) if state else (0,)
    return _new_energies(features, networks[1]), order, features.new_empty(shape)


def _like_features(*args: Any) -> Tensor:
    features = args[-7]
    return features.new_empty(features.shape)


def _like_weights(*args: Any) -> Tensor:
    return args[-3].new_empty(args[-3].shape)


def _fake_second(of_weights: bool, *args: Any) -> tuple[Tensor, ...]:
    features, layout, weights = args[-7], args[-2], _like_weights(*args)
    of_state = features.new_empty(_state_shape(features, layout))
    return _new_energies(features, layout), of_state, weights if of_weights else weights[:0].clone()


# fmt: off
define(f"networks(Tensor features, Tensor species, {_NETWORKS}) -> (Tensor, Tensor, Tensor)",
       _networks, _fake_networks, _networks_gradient, _keep_networks)
define(f"networks_features({_KEPT}) -> (Tensor, Tensor)",
       _networks_features, _networks_features, _networks_features_gradient, _keep_features)
define(f"networks_backward(Tensor seeds, Tensor? zeros, {_KEPT}) -> Tensor",
       _networks_backward, _like_features, _networks_backward_gradient, _keep)
define(f"networks_rest(Tensor seeds, Tensor? of_state, {_KEPT}) -> Tensor",
       _networks_rest, _like_features, _no_more_derivatives, _keep_nothing)
define(f"networks_weight_gradient(Tensor seeds, Tensor? of_state, {_KEPT}) -> Tensor",
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
    weights = networks.weights
    graph = torch.is_grad_enabled()
    if not (graph and (features.requires_grad or weights.requires_grad)) and len(features) > _ROWS:
        # Hidden values of all rows are for derivatives.
        parts = zip(features.split(_ROWS), species.split(_ROWS), strict=True)
        return torch.cat([_ops.networks(*part, *networks)[0] for part in parts], dim=1)
    values, order, state = _ops.networks(features.detach(), species, *networks)
    if graph and features.requires_grad:
        values = values + _ops.networks_features(features, species, order, state, *networks)[0]
    return values
