"""The vectors of pairs as a native torch operation, linear in coordinates and cells, and so differentiable at will.

anipot::vectors            v = r_neighbor - r_center + shift · cell
anipot::vectors_backward   its transpose: from dE/dv to dE/dr and dE/dcell
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anipot.kernels.library import VectorsSpec, available, library, plain_autograd
from anipot.kernels.memory import empty
from anipot.kernels.operations import define
from anipot.kernels.specs import address

_ops = torch.ops.anipot


def _spec(center: Tensor, neighbor: Tensor, shift: Tensor | None, like: Tensor) -> VectorsSpec:
    spec = VectorsSpec()
    spec.num_pairs = len(center)
    spec.num_molecules, spec.num_atoms = like.shape[:2]
    spec.center, spec.neighbor = center.data_ptr(), neighbor.data_ptr()
    spec.shift = None if shift is None else shift.data_ptr()
    spec.wide, spec.threads = like.dtype == torch.float64, torch.get_num_threads()
    return spec


def _vectors(
    coordinates: Tensor, cell: Tensor | None, center: Tensor, neighbor: Tensor, shift: Tensor | None, spot: float
) -> tuple[Tensor, Tensor]:
    coordinates, cell = coordinates.contiguous(), None if cell is None else cell.contiguous()
    vectors = empty((len(center), 3), coordinates, torch.float64)
    spec = _spec(center, neighbor, shift, coordinates)
    closest = library().anipot_vectors(
        address(spec), coordinates.data_ptr(), None if cell is None else cell.data_ptr(), vectors.data_ptr(), spot
    )
    if closest < -1:
        raise MemoryError(f"no memory for the vectors of {len(center)} pairs")
    return vectors, center.new_tensor(closest)


def _vectors_backward(
    gradient: Tensor, coordinates: Tensor, cell: Tensor | None, center: Tensor, neighbor: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    gradient = gradient.double().contiguous()
    to_coordinates = torch.empty_like(coordinates, memory_format=torch.contiguous_format)
    to_cell = coordinates.new_empty(0 if cell is None else cell.shape)
    spec = _spec(center, neighbor, shift, coordinates)
    code = library().anipot_vectors_backward(
        address(spec), gradient.data_ptr(), to_coordinates.data_ptr(), None if cell is None else to_cell.data_ptr()
    )
    if code != 0:
        raise MemoryError(f"no memory for the gradient of {len(center)} vectors")
    return to_coordinates, to_cell


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    coordinates, cell, center, neighbor, shift, ctx.spot = inputs
    ctx.save_for_backward(coordinates, cell, center, neighbor, shift)


def _gradient(ctx: Any, gradient: Tensor, _: Any) -> tuple[Any, ...]:
    cell = ctx.saved_tensors[1]
    to_coordinates, to_cell = _ops.vectors_backward(gradient, *ctx.saved_tensors)
    return to_coordinates, None if cell is None else to_cell, None, None, None, None


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.has_cell = inputs[2] is not None
    ctx.save_for_backward(*inputs[3:])


def _backward_gradient(ctx: Any, to_coordinates: Tensor, to_cell: Tensor) -> tuple[Any, ...]:
    cell = to_cell if ctx.has_cell else None
    return _ops.vectors(to_coordinates, cell, *ctx.saved_tensors, 0.0)[0], None, None, None, None, None


_PAIRS = "Tensor center, Tensor neighbor, Tensor? shift"


def _fake_vectors(coordinates: Tensor, cell: Any, center: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return coordinates.new_empty((center.shape[0], 3), dtype=torch.float64), center.new_empty(())


def _fake_backward(gradient: Tensor, coordinates: Tensor, cell: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    return coordinates.new_empty(coordinates.shape), coordinates.new_empty(0 if cell is None else cell.shape)


# fmt: off
define(f"vectors(Tensor coordinates, Tensor? cell, {_PAIRS}, float spot) -> (Tensor, Tensor)",
       _vectors, _fake_vectors, _gradient, _keep)
define(f"vectors_backward(Tensor gradient, Tensor coordinates, Tensor? cell, {_PAIRS}) -> (Tensor, Tensor)",
       _vectors_backward, _fake_backward, _backward_gradient, _keep_backward)
# fmt: on


def vectors(
    coordinates: Tensor, cell: Tensor | None, center: Tensor, neighbor: Tensor, shift: Tensor | None, spot: float
) -> tuple[Tensor, Tensor]:
    """Return the vectors (P, 3), float64, and the first pair closer than ``spot`` Å or -1.

    Parameters
    ----------
    coordinates, cell
        (B, A, 3), and (B, 3, 3) with zeros along axes that are not periodic, or None.
    center, neighbor, shift
        As in ``anipot.neighbors.Pairs``.
    """
    return _ops.vectors(coordinates, cell, center, neighbor, shift, spot)


def gradient_by_coordinates(gradient: Tensor, like: Tensor, center: Tensor, neighbor: Tensor) -> Tensor:
    """Return dE/dr, of the shape and dtype of ``like`` (B, A, 3), from dE/dv (P, 3)."""
    return _ops.vectors_backward(gradient, like, None, center, neighbor, None)[0]


def covers(coordinates: Tensor, cell: Tensor | None, *pairs: Tensor | None) -> bool:
    """Whether the kernels are there and take these tensors."""
    if cell is not None and not (cell.is_cpu and cell.dtype is coordinates.dtype):
        return False
    if not plain_autograd(coordinates, *([] if cell is None else [cell])):
        return False
    if not available() or not coordinates.is_cpu or coordinates.dtype not in (torch.float32, torch.float64):
        return False
    return all(t is None or (t.is_cpu and t.is_contiguous() and t.dtype is torch.int64) for t in pairs)
