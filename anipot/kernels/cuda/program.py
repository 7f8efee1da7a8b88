"""Sources of kernels, compiled for a device once in each process, and launched on torch's current stream."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

#: Where the sources are.
SOURCES = Path(__file__).parent / "source"

pointer, i64, f64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double

Grid = int | tuple[int, ...]


class Arguments(ctypes.Structure):
    """What a kernel takes: fields of ``pointer``, ``i64`` and ``f64`` in the order of its structure."""


class Kernel(Protocol):
    """A function of a program."""

    def launch(self, grid: Grid, threads: int, arguments: Arguments, shared: int = 0) -> None:
        """Launch blocks of ``threads`` with ``shared`` bytes of dynamic memory; none for an empty grid."""


class Program(Protocol):
    """A source compiled for a device."""

    #: Of the device.
    multiprocessors: int
    #: Bytes of shared memory that a block may ask for.
    shared_limit: int

    def kernel(self, name: str) -> Kernel:
        """Return the kernel of a name."""


Builder = Callable[[str, Mapping[str, Any]], Program]

_host: Builder | None = None


@contextmanager
def on_host(builder: Builder) -> Iterator[None]:
    """Let tensors of the CPU be computed by the same sources compiled for the host, inside this context: for tests."""
    global _host
    before, _host = _host, builder
    try:
        yield
    finally:
        _host = before


def wanted(tensor: Tensor) -> bool:
    """Whether the kernels compute what is in the memory of this tensor."""
    return tensor.is_cuda or (_host is not None and tensor.is_cpu)


def program(name: str, macros: Mapping[str, Any], device: torch.device) -> Program:
    """Return a source compiled with these macros for a device."""
    if device.type == "cpu" and _host is not None:
        return _host(name, macros)
    raise NotImplementedError


def as_grid(grid: Grid) -> tuple[int, int, int]:
    """Return the blocks along each of three axes."""
    x, y, z = (*((grid,) if isinstance(grid, int) else grid), 1, 1)[:3]
    return x, y, z


def fill(arguments: Arguments, **values: Tensor | int | float | None) -> Arguments:
    """Set fields: the address of a tensor, a number, or null for None."""
    for name, value in values.items():
        setattr(arguments, name, value.data_ptr() if isinstance(value, Tensor) else value)
    return arguments
