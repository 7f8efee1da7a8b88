"""The native AEV as differentiable torch operations, twice differentiable in all arguments that are differentiable.

With F(v) the features of the vectors v, g = dE/dF and a direction u of the vectors:

    anipot::aev                    F
    anipot::aev_backward           g · dF/dv
    anipot::aev_tangent            dF/dv · u
    anipot::aev_backward_tangent   d/dv (g · dF/dv · u)

The gradient of the second is the third and the fourth, and that of the third the second and the fourth. Third
derivatives of F would be the gradient of the fourth; they are left to the torch path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anipot.kernels.cuda import aev as cuda_aev
from anipot.kernels.cuda import program as cuda
from anipot.kernels.library import AevSpec, PairsSpec, available, library, plain_autograd
from anipot.kernels.memory import empty
from anipot.kernels.operations import define
from anipot.kernels.specs import AEV_CONSTANTS, address

_FORWARD, _BACKWARD, _TANGENT, _BACKWARD_TANGENT = range(4)
_PAIRS = "Tensor center, Tensor neighbor_species, Tensor vectors, Tensor constants, SymInt[] sizes, SymInt num_atoms"


def constants_and_sizes(aev: Any, cutoff_kind: int) -> tuple[Tensor, list[int]]:
    """Return all numbers of an ``AEVComputer`` as one float64 tensor, and what is where."""
    function = aev.cutoff_function
    values = aev.Rcr, aev.Rca, getattr(function, "eps", 0.0)
    if aev.EtaR.is_cpu or torch.compiler.is_compiling():
        numbers = aev.EtaR.new_tensor(values, dtype=torch.float64)
    else:
        numbers = _on_device(values, aev.EtaR.device)
    arrays = [getattr(aev, name) for name in AEV_CONSTANTS]
    sizes = [aev.num_species, cutoff_kind, getattr(function, "order", 2), *map(len, arrays)]
    return torch.cat([numbers, *arrays]), sizes


#: Numbers on devices, which wait for them once.
_sent: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}


def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    found = _sent.get((numbers, device))
    if found is None:
        found = torch.tensor(numbers, dtype=torch.float64, device=device)
        if type(found) is Tensor:  # not one that a compiler makes up
            _sent[numbers, device] = found
    return found


def learned(aev: Any) -> bool:
    """Whether gradients with respect to the constants of an ``AEVComputer`` may be asked for; the kernels have none."""
    return torch.is_grad_enabled() and any(getattr(aev, name).requires_grad for name in AEV_CONSTANTS)


def spec_of(constants: Tensor, sizes: list[int]) -> AevSpec:
    """Return the structure of an AEV's constants, which must outlive it."""
    spec = AevSpec()
    spec.Rcr, spec.Rca, spec.cutoff_eps = constants[:3].tolist()
    spec.num_species, spec.cutoff_kind, spec.cutoff_order = sizes[:3]
    start = constants.data_ptr() + 3 * 8
    for name, length in zip(AEV_CONSTANTS, sizes[3:], strict=True):
        setattr(spec, f"num_{name}", length)
        setattr(spec, name, start)
        start += 8 * length
    return spec


def num_features(sizes: list[int]) -> int:
    """Return the length of a feature vector."""
    num_species, _, _, *n = sizes
    return num_species * n[0] * n[1] + num_species * (num_species + 1) // 2 * n[2] * n[3] * n[4] * n[5]


def pairs_of(
    center: Tensor, neighbor_species: Tensor, vectors: Tensor, constants: Tensor, sizes: list[int], num_atoms: int
) -> tuple[PairsSpec, tuple[Tensor, ...]]:
    """Return the structure of neighborhoods, and what must stay alive as long as it is used."""
    center, neighbor_species = center.long().contiguous(), neighbor_species.long().contiguous()
    vectors = vectors.contiguous()
    spec = PairsSpec()
    spec.num_pairs, spec.num_atoms = len(center), num_atoms
    spec.center, spec.neighbor_species = center.data_ptr(), neighbor_species.data_ptr()
    spec.vectors, spec.wide = vectors.data_ptr(), vectors.dtype == torch.float64
    spec.threads = torch.get_num_threads()
    return spec, (center, neighbor_species, vectors)


def _call(what: int, pairs: tuple[Any, ...], gradient: Tensor | None, tangent: Tensor | None) -> Tensor:
    if pairs[2].is_cuda or cuda.wanted(pairs[2]):
        return cuda_aev.call(what, pairs, gradient, tangent)
    of_pairs, alive = pairs_of(*pairs)
    vectors, (constants, sizes, num_atoms) = alive[2], pairs[3:]
    constants = constants.contiguous()
    gradient = None if gradient is None else gradient.to(vectors.dtype).contiguous()
    tangent = None if tangent is None else tangent.to(vectors.dtype).contiguous()
    shape = (num_atoms, num_features(sizes)) if what in (_FORWARD, _TANGENT) else vectors.shape
    out = empty(shape, vectors)
    spec = spec_of(constants, sizes)
    pointers = (None if t is None else t.data_ptr() for t in (gradient, tangent))
    if library().anipot_aev(what, address(spec), address(of_pairs), *pointers, out.data_ptr()) != 0:
        raise MemoryError(f"no memory for AEVs of shape {tuple(shape)}")
    return out


def _aev(*pairs: Any) -> Tensor:
    return _call(_FORWARD, pairs, None, None)


def _aev_backward(gradient: Tensor, *pairs: Any) -> Tensor:
    return _call(_BACKWARD, pairs, gradient, None)


def _aev_tangent(tangent: Tensor, *pairs: Any) -> Tensor:
    return _call(_TANGENT, pairs, None, tangent)


def _aev_backward_tangent(tangent: Tensor, gradient: Tensor, *pairs: Any) -> Tensor:
    return _call(_BACKWARD_TANGENT, pairs, gradient, tangent)


_ops = torch.ops.anipot


def _like_features(*args: Any) -> Tensor:
    vectors, _, sizes, num_atoms = args[-4:]
    return vectors.new_empty((num_atoms, num_features(sizes)))


def _like_vectors(*args: Any) -> Tensor:
    return args[-4].new_empty(args[-4].shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.sizes, ctx.num_atoms = inputs
    ctx.save_for_backward(*tensors)


def _saved(ctx: Any) -> tuple[Any, ...]:
    return (*ctx.saved_tensors, ctx.sizes, ctx.num_atoms)


_DEVICES = ("CPU", "CUDA")
_NOTHING = (None, None, None)  # constants, sizes, num_atoms


def _aev_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return None, None, _ops.aev_backward(g, *_saved(ctx)), *_NOTHING


def _aev_backward_gradient(ctx: Any, u: Tensor) -> tuple[Any, ...]:
    gradient, *pairs = _saved(ctx)
    to_gradient = _ops.aev_tangent(u, *pairs) if ctx.needs_input_grad[0] else None
    to_vectors = _ops.aev_backward_tangent(u, gradient, *pairs) if ctx.needs_input_grad[3] else None
    return to_gradient, None, None, to_vectors, *_NOTHING


def _aev_tangent_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    tangent, *pairs = _saved(ctx)
    to_tangent = _ops.aev_backward(g, *pairs) if ctx.needs_input_grad[0] else None
    to_vectors = _ops.aev_backward_tangent(tangent, g, *pairs) if ctx.needs_input_grad[3] else None
    return to_tangent, None, None, to_vectors, *_NOTHING


def _no_third_derivatives(ctx: Any, w: Tensor) -> tuple[Any, ...]:
    raise NotImplementedError(
        "third derivatives of AEVs have no native kernel; compute inside `with anipot.reference_path():`"
    )


def _side_by_side(name: str, num_leading: int) -> Any:
    """vmap: copies of the atoms side by side, behind ``num_leading`` other tensors."""

    def rule(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        size = info.batch_size
        moved = [
            a if d is None or not isinstance(a, Tensor) else a.movedim(d, 0) for a, d in zip(args, dims, strict=True)
        ]
        spread = [
            a if d is not None else a.expand(size, *a.shape)
            for a, d in zip(moved[: num_leading + 3], dims, strict=False)
        ]
        constants, sizes, num_atoms = moved[-3:]
        if dims[-3] is not None:
            raise NotImplementedError("vmap over the constants of an AEV")
        offset = torch.arange(size, device=spread[-1].device)[:, None] * num_atoms
        spread[num_leading] = spread[num_leading] + offset
        flat = [a.flatten(0, 1) for a in spread]
        out = getattr(_ops, name)(*flat, constants, sizes, size * num_atoms)
        return out.view(size, -1, out.shape[-1]), 0

    return rule


# fmt: off
define(f"aev({_PAIRS}) -> Tensor",
       _aev, _like_features, _aev_gradient, _keep, _side_by_side("aev", 0), _DEVICES)
define(f"aev_backward(Tensor gradient, {_PAIRS}) -> Tensor",
       _aev_backward, _like_vectors, _aev_backward_gradient, _keep, _side_by_side("aev_backward", 1), _DEVICES)
define(f"aev_tangent(Tensor tangent, {_PAIRS}) -> Tensor",
       _aev_tangent, _like_features, _aev_tangent_gradient, _keep, _side_by_side("aev_tangent", 1), _DEVICES)
define(f"aev_backward_tangent(Tensor tangent, Tensor gradient, {_PAIRS}) -> Tensor",
       _aev_backward_tangent, _like_vectors, _no_third_derivatives, _keep, _side_by_side("aev_backward_tangent", 2),
       _DEVICES)
# fmt: on


def aev(
    center: Tensor,
    neighbor_species: Tensor,
    vectors: Tensor,
    constants: Tensor,
    sizes: list[int],
    num_atoms: int,
) -> Tensor:
    """Return the features (N, F) of N atoms; see ``AEVComputer.from_neighborhoods``.

    ``constants`` and ``sizes`` are those of ``constants_and_sizes``.
    """
    return _ops.aev(center, neighbor_species, vectors, constants, sizes, num_atoms)


def ready(vectors: Tensor, sizes: list[int]) -> bool:
    """Whether the kernels for AEVs of these sizes are there, or could be compiled for the device of these vectors."""
    if torch.compiler.is_compiling() or not (vectors.is_cuda or cuda.wanted(vectors)):
        return True
    return cuda_aev.ready(tuple(sizes), vectors.dtype, vectors.device)


def covers(vectors: Tensor) -> bool:
    """Whether the kernels are there and compute with these vectors."""
    if vectors.dtype not in (torch.float32, torch.float64):
        return False
    there = cuda.wanted(vectors) or (vectors.is_cpu and available())
    return there and plain_autograd(vectors)
