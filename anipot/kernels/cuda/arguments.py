"""What is handed to a kernel."""

from __future__ import annotations

import ctypes
from typing import Any, TypeVar

import torch
from torch import Tensor

pointer, i64, f64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double

Grid = int | tuple[int, ...]

_ONE = ctypes.c_void_p * 1


class Arguments(ctypes.Structure):
    """What a kernel takes: fields of ``pointer``, ``i64`` and ``f64`` in the order of its structure."""

    _parameters: Any

    def parameters(self) -> Any:
        """Return the addresses of the parameters of a kernel that takes this structure, for ``cuLaunchKernel``."""
        try:
            return self._parameters
        except AttributeError:
            self._parameters = _ONE(ctypes.addressof(self))
            return self._parameters


A = TypeVar("A", bound=Arguments)


def as_grid(grid: Grid) -> tuple[int, int, int]:
    """Return the blocks along each of three axes."""
    x, y, z = (*((grid,) if isinstance(grid, int) else grid), 1, 1)[:3]
    return x, y, z


def precision(dtype: torch.dtype) -> dict[str, int]:
    """Return the macros that make `real` (common.h) a float or a double."""
    return {"ANIPOT_DOUBLE": 1} if dtype is torch.float64 else {}


def fill(arguments: A, **values: Tensor | int | float | None) -> A:
    """Set fields: the address of a tensor, a number, or null for None."""
    for name, value in values.items():
        setattr(arguments, name, value.data_ptr() if isinstance(value, Tensor) else value)
    return arguments
