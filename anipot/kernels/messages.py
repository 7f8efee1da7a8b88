"""Sums over neighbors, the filters of SchNet and its activation as torch operations.

For features x and y of the atoms, filters W and coefficients u of pairs that stand for both of their directions, three
operations are the gradients of one form that is linear in each of its arguments (csrc/messages.h):

    anipot::gather         by y: what the neighbors send to each atom
    anipot::products       by W
    anipot::contractions   by u

so that their own derivatives, of any order, are these three again. x, y, W and u may have a batch before all other
dimensions, each for itself. ``anipot::incidence`` sorts pairs by atom, and
``anipot::softplus`` is a derivative of the shifted softplus, times a factor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anipot.kernels.library import FilterSpec, LayerSpec, MessageSpec, available, library, plain_autograd
from anipot.kernels.memory import empty
from anipot.kernels.operations import define, one_by_one
from anipot.kernels.specs import address

_ops = torch.ops.anipot
_GATHER, _PRODUCTS, _CONTRACTIONS = range(3)

#: Forms: as many components of x as of y; from one to three, and from three to one, which change their sign with the
#: direction of the pair.
EVEN, UP, DOWN = range(3)
#: The kind of the sum that goes the other way, from y to x, and its sign.
_ADJOINT = {EVEN: (EVEN, 1), UP: (DOWN, -1), DOWN: (UP, -1)}


class Graph(NamedTuple):
    """Pairs as the operations take them: see ``incidence``."""

    first: Tensor
    second: Tensor
    starts: Tensor
    entries: Tensor


#: Dimensions without those of a batch, which any of these may have before them.
_DIMENSIONS = {"x": 3, "y": 3, "w": 2, "u": 2}


def _rows(t: Tensor, name: str) -> Tensor:
    """Return a tensor of dense rows, which may stand apart: parts of wider rows stay where they are."""
    if name == "u":
        return t if t.stride()[-2:] == (t.shape[-1], 1) else t.contiguous()
    dense = t.stride(-1) == 1 and (name == "w" or t.stride(-2) == t.shape[-1] or t.shape[-2] == 1)
    return t if dense else t.contiguous()


def _run(what: int, out: Tensor, kind: int, graph: Sequence[Tensor], **tensors: Tensor | None) -> Tensor:
    alive = [t.contiguous() for t in graph]
    x = tensors["x"]
    assert x is not None
    spec = MessageSpec()
    spec.num_pairs = len(graph[0])
    spec.num_atoms, spec.components, spec.num_features = x.shape[-3:]
    spec.first, spec.second, spec.starts, spec.entries = (t.data_ptr() for t in alive)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        expected = {"x": x.shape[-1], "y": x.shape[-1], "w": x.shape[-1], "u": 1 if kind == EVEN else 3}[name]
        rows = x.shape[-3] if name in "xy" else spec.num_pairs
        if tensor.shape[-1] != expected or tensor.shape[-_DIMENSIONS[name]] != rows or tensor.dtype is not x.dtype:
            raise ValueError(
                f"{name} of messages is {tensor.dtype} {tuple(tensor.shape)}, x {x.dtype} {tuple(x.shape)}"
            )
        tensor = _rows(tensor, name)
        alive.append(tensor)
        setattr(spec, name, tensor.data_ptr())
        if name != "u":
            setattr(spec, f"{name}_stride", tensor.stride(-_DIMENSIONS[name]))
        if tensor.dim() > _DIMENSIONS[name]:
            setattr(spec, f"{name}_batch", tensor.stride(0))
    batched = out.dim() > (3 if what == _GATHER else 2)
    spec.num_batches, spec.out_batch = (len(out), out.stride(0)) if batched else (1, 0)
    spec.out, spec.kind = out.data_ptr(), kind
    spec.wide, spec.threads = out.dtype == torch.float64, torch.get_num_threads()
    if library().anipot_messages(what, address(spec)) != 0:
        raise MemoryError(f"no memory for the messages of {len(graph[0])} pairs")
    return out


def _batch(x: Tensor, *rest: tuple[Tensor | None, int]) -> tuple[Any, ...]:
    """Return the size of the batch in a tuple, or nothing, of tensors and of dimensions that they have without it."""
    for t, dimensions in ((x, 3), *rest):
        if t is not None and t.dim() > dimensions:
            return (t.shape[0],)
    return ()


def _shape_gathered(x: Tensor, w: Tensor, u: Tensor | None, *rest: Any) -> tuple[int, ...]:
    return (*_batch(x, (w, 2), (u, 2)), x.shape[-3], (x.shape[-2], 3, 1)[rest[-1]], x.shape[-1])


def _shape_products(x: Tensor, y: Tensor, u: Tensor | None, first: Tensor, *rest: Any) -> tuple[int, ...]:
    return (*_batch(x, (y, 3), (u, 2)), first.shape[0], x.shape[-1])


def _shape_contractions(x: Tensor, y: Tensor, w: Tensor, first: Tensor, *rest: Any) -> tuple[int, ...]:
    return (*_batch(x, (y, 3), (w, 2)), first.shape[0], 1 if rest[-1] == EVEN else 3)


def _fake(shape: Callable[..., tuple[int, ...]]) -> Callable[..., Tensor]:
    return lambda x, *rest: x.new_empty(shape(x, *rest))


def _gather(x: Tensor, w: Tensor, u: Tensor | None, *rest: Any) -> Tensor:
    return _run(_GATHER, empty(_shape_gathered(x, w, u, *rest), x), rest[-1], rest[:-1], x=x, w=w, u=u)


def _products(x: Tensor, y: Tensor, u: Tensor | None, *rest: Any) -> Tensor:
    return _run(_PRODUCTS, empty(_shape_products(x, y, u, *rest), x), rest[-1], rest[:-1], x=x, y=y, u=u)


def _contractions(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    return _run(_CONTRACTIONS, empty(_shape_contractions(x, y, w, *rest), x), rest[-1], rest[:-1], x=x, y=y, w=w)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.kind = inputs
    ctx.save_for_backward(*tensors)


def _backwards(y: Tensor, w: Tensor, u: Tensor | None, graph: Sequence[Tensor], kind: int) -> Tensor:
    """Return the gradient by x."""
    adjoint, sign = _ADJOINT[kind]
    out = _ops.gather(y, w, u, *graph, adjoint)
    return out if sign > 0 else -out


def _gradients(ctx: Any, arguments: Sequence[Tensor | None], *rules: Callable[[], Tensor]) -> tuple[Any, ...]:
    """Return the gradients that are needed, summed over a batch that the argument does not have; none of the pairs."""
    found: list[Tensor | None] = []
    for argument, needed, rule in zip(arguments, ctx.needs_input_grad, rules, strict=False):
        gradient = rule() if needed and argument is not None else None
        if gradient is not None and argument is not None and gradient.dim() > argument.dim():
            gradient = gradient.sum(0)
        found.append(gradient)
    return *found, *(None,) * 5


def _gather_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, w, u, *graph = ctx.saved_tensors
    return _gradients(
        ctx,
        (x, w, u),
        lambda: _backwards(g, w, u, graph, ctx.kind),
        lambda: _ops.products(x, g, u, *graph, ctx.kind),
        lambda: _ops.contractions(x, g, w, *graph, ctx.kind),
    )


def _products_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, y, u, *graph = ctx.saved_tensors
    return _gradients(
        ctx,
        (x, y, u),
        lambda: _backwards(y, g, u, graph, ctx.kind),
        lambda: _ops.gather(x, g, u, *graph, ctx.kind),
        lambda: _ops.contractions(x, y, g, *graph, ctx.kind),
    )


def _contractions_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, y, w, *graph = ctx.saved_tensors
    return _gradients(
        ctx,
        (x, y, w),
        lambda: _backwards(y, w, g, graph, ctx.kind),
        lambda: _ops.gather(x, w, g, *graph, ctx.kind),
        lambda: _ops.products(x, y, g, *graph, ctx.kind),
    )


def _batched(name: str, *dimensions: int) -> Callable[..., tuple[Tensor, int]]:
    """Return the rule for vmap of an operation whose first arguments have so many dimensions without a batch."""

    def rule(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        moved = [a if d is None else a.movedim(d, 0) for a, d in zip(args[:3], dims, strict=False)]
        twice = any(t is not None and t.dim() > n + 1 for t, n in zip(moved, dimensions, strict=True))
        mixed = any(
            d is None and a is not None and a.dim() > n for d, a, n in zip(dims, args, dimensions, strict=False)
        )
        if twice or mixed or any(d is not None for d in dims[3:]):
            return one_by_one(name)(info, dims, *args)
        return getattr(_ops, name)(*moved, *args[3:]), 0

    return rule


def _incidence(first: Tensor, second: Tensor, num_atoms: int) -> tuple[Tensor, Tensor]:
    starts, entries = _new_incidence(first, second, num_atoms)
    first, second = first.contiguous(), second.contiguous()
    library().anipot_incidence(
        first.data_ptr(), second.data_ptr(), len(first), num_atoms, starts.data_ptr(), entries.data_ptr()
    )
    return starts, entries


def _new_incidence(first: Tensor, second: Tensor, num_atoms: int) -> tuple[Tensor, Tensor]:
    return first.new_empty(num_atoms + 1), first.new_empty(2 * first.shape[0])


def _softplus(x: Tensor, factor: Tensor | None, order: int) -> Tensor:
    x, factor = x.contiguous(), None if factor is None else factor.to(x.dtype).contiguous()
    if not 0 <= order <= 4:
        raise NotImplementedError(
            "derivatives of the shifted softplus beyond the fourth have no native kernel; "
            "compute inside `with anipot.reference_path():`"
        )
    out = empty(x.shape, x)
    to_factor = None if factor is None else factor.data_ptr()
    threads = torch.get_num_threads()
    wide = x.dtype == torch.float64
    if library().anipot_softplus(order, x.data_ptr(), to_factor, out.data_ptr(), x.numel(), wide, threads) != 0:
        raise MemoryError(f"no memory for {x.numel()} activations")
    return out


def _keep_order(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, factor, ctx.order = inputs
    ctx.save_for_backward(x, factor)


def _softplus_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, factor = ctx.saved_tensors
    to_x = to_factor = None
    if ctx.needs_input_grad[0]:
        to_x = _ops.softplus(x, g if factor is None else g * factor, ctx.order + 1)
    if ctx.needs_input_grad[1]:
        to_factor = _ops.softplus(x, g, ctx.order)
    return to_x, to_factor, None


def _softplus_batched(info: Any, dims: tuple[Any, ...], x: Tensor, factor: Tensor | None, order: int) -> Any:
    moved = [
        None if t is None else t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip((x, factor), dims, strict=False)
    ]
    return _ops.softplus(*moved, order), 0


def _fake_softplus(x: Tensor, factor: Tensor | None, order: int) -> Tensor:
    return x.new_empty(x.shape)


_GRAPH = "Tensor first, Tensor second, Tensor starts, Tensor entries, int kind"

# fmt: off
define(f"gather(Tensor x, Tensor w, Tensor? u, {_GRAPH}) -> Tensor",
       _gather, _fake(_shape_gathered), _gather_gradient, _keep, _batched("gather", 3, 2, 2))
define(f"products(Tensor x, Tensor y, Tensor? u, {_GRAPH}) -> Tensor",
       _products, _fake(_shape_products), _products_gradient, _keep, _batched("products", 3, 3, 2))
define(f"contractions(Tensor x, Tensor y, Tensor w, {_GRAPH}) -> Tensor",
       _contractions, _fake(_shape_contractions), _contractions_gradient, _keep, _batched("contractions", 3, 3, 2))
define("softplus(Tensor x, Tensor? factor, int order) -> Tensor",
       _softplus, _fake_softplus, _softplus_gradient, _keep_order, _softplus_batched)
define("incidence(Tensor first, Tensor second, SymInt num_atoms) -> (Tensor, Tensor)", _incidence, _new_incidence)
# fmt: on


def covers(*tensors: Tensor) -> bool:
    """Whether the kernels are there and compute with these tensors, which have one dtype."""
    if not available():
        return False
    dtype = tensors[0].dtype
    if dtype not in (torch.float32, torch.float64) or any(not t.is_cpu or t.dtype is not dtype for t in tensors):
        return False
    return plain_autograd(*tensors)


def incidence(first: Tensor, second: Tensor, num_atoms: int) -> Graph:
    """Return pairs sorted by atom: entries 2 p where it is the first of pair p, 2 p + 1 where it is the second.

    Those of atom i stand from ``starts[i]`` to ``starts[i + 1]``.
    """
    return Graph(first, second, *_ops.incidence(first, second, num_atoms))


def gather(x: Tensor, w: Tensor, u: Tensor | None, graph: Graph, kind: int = EVEN) -> Tensor:
    """Return what the neighbors send to each atom, differentiable at will.

    Parameters
    ----------
    x
        (N, K, F).
    w, u
        Filters (P, F) and their coefficients: (P, 1) or None for ``EVEN``, else (P, 3).
    kind
        ``EVEN``: y_i = Σ_j u W ∘ x_j (N, K, F); ``UP``: y_ik = ± Σ_j u_k W ∘ x_j (N, 3, F), with the plus for the first
        atom of a pair; ``DOWN``: y_i = ± Σ_jk u_k W ∘ x_jk (N, 1, F).
    """
    return _ops.gather(x, w, u, *graph, kind)


def softplus(x: Tensor) -> Tensor:
    """Return ln(½ eˣ + ½)."""
    return _ops.softplus(x, None, 0)


# ---- filters, and no more than one derivative -----------------------------------------------------------------------

_state = threading.local()


@contextmanager
def first_derivatives_of_geometry() -> Iterator[None]:
    """Promise that what is computed inside is differentiated once, with respect to the geometry and nothing else."""
    before, _state.first_only = higher_derivatives(), True
    try:
        yield
    finally:
        _state.first_only = not before


def higher_derivatives() -> bool:
    """Whether derivatives other than the first of the geometry may be asked for."""
    return not getattr(_state, "first_only", False)


class Layer(NamedTuple):
    """Weight (n_out, n_in) and bias of a dense layer, and whether a shifted softplus follows."""

    weight: Tensor
    bias: Tensor | None
    activated: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer without what follows it."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


class FilterConstants(NamedTuple):
    """What filters of SchNet are made of, besides distances."""

    #: (K,) of Gaussians exp(−γ (r − μ)²), padded with zeros to a multiple of 16, in the dtype of the distances.
    centers: Tensor
    gammas: Tensor
    #: Two.
    layers: Sequence[Layer]
    #: Å; the number of the cutoff function in csrc/spec.h or -1 for none, its order and eps.
    cutoff: float
    cutoff_kind: int
    cutoff_order: int
    cutoff_eps: float


def filters_and_slopes(distances: Tensor, of: FilterConstants) -> tuple[Tensor, Tensor]:
    """Return the filters (P, F) at distances (P,) and their derivatives by the distance, without a graph."""
    distances = distances.detach().contiguous()
    constants, wide = (of.centers, of.gammas), distances.dtype == torch.float64
    layers = (LayerSpec * 2)()
    for layer, (weight, bias, activated) in zip(layers, of.layers, strict=True):
        layer.weight, layer.bias = weight.data_ptr(), None if bias is None else bias.data_ptr()
        layer.n_out, layer.n_in = weight.shape
        layer.activation = 4 if activated else 0
    filters, slopes = (empty((len(distances), of.layers[1][0].shape[0]), distances) for _ in range(2))
    spec = FilterSpec(
        len(distances), distances.data_ptr(), *(c.data_ptr() for c in constants), layers, filters.data_ptr(),
        slopes.data_ptr(), of.cutoff, of.cutoff_eps, of.cutoff_kind, of.cutoff_order, wide, torch.get_num_threads(),
    )  # fmt: skip
    if library().anipot_filters(address(spec)) != 0:
        raise MemoryError(f"no memory for the filters of {len(distances)} pairs")
    return filters, slopes


class InteractionConstants(NamedTuple):
    """What an interaction of SchNet is made of: the layer before the sum over neighbors, the two behind it, filters."""

    inward: Layer
    outward: Sequence[Layer]
    filters: FilterConstants


class _Interaction(torch.autograd.Function):
    """An interaction of SchNet as one node of the graph, differentiated once and not by the weights.

    For small molecules the calls of separate nodes take longer than the products.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, distances: Tensor, of: InteractionConstants, graph: Graph) -> Tensor:
        filters, slopes = filters_and_slopes(distances, of.filters)
        h = of.inward(x)
        z = of.outward[0](_gather(h[:, None], filters, None, *graph, EVEN)[:, 0])
        ctx.save_for_backward(h, z, filters, slopes)
        ctx.of, ctx.graph = of, graph
        return of.outward[1](_softplus(z, None, 0))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        h, z, filters, slopes = ctx.saved_tensors
        of: InteractionConstants = ctx.of
        g = _softplus(z, g @ of.outward[1].weight, 1)
        g = (g @ of.outward[0].weight)[:, None]
        to_x = to_distances = None
        if ctx.needs_input_grad[0]:
            to_x = _gather(g, filters, None, *ctx.graph, EVEN)[:, 0] @ of.inward.weight
        if ctx.needs_input_grad[1]:
            to_distances = _contractions(h[:, None], g, slopes, *ctx.graph, EVEN)[:, 0]
        return to_x, to_distances, None, None


def interaction(x: Tensor, distances: Tensor, of: InteractionConstants, graph: Graph) -> Tensor:
    """Return W₃ ssp(W₂ Σ_j W₁x_j ∘ W(r_ij) + b₂) + b₃ (N, F).

    It can be differentiated once by features and distances, and not by the weights.
    """
    return _Interaction.apply(x, distances, of, graph)
