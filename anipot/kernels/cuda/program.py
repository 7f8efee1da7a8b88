"""Sources of kernels, compiled for a device once in each process, and launched on torch's current stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from anipot.kernels.cuda import support
from anipot.kernels.cuda.arguments import Arguments, Grid, as_grid, f64, fill, i64, pointer, precision
from anipot.kernels.cuda.build import SOURCES, environment, loaded
from anipot.kernels.cuda.errors import CaptureError, CompilationError, KernelError
from anipot.kernels.library import switched_off

__all__ = [
    "SOURCES",
    "Arguments",
    "Grid",
    "Kernel",
    "Program",
    "as_grid",
    "f64",
    "fill",
    "i64",
    "identity",
    "on_host",
    "pointer",
    "precision",
    "program",
    "reason",
    "wanted",
]


class Kernel(Protocol):
    """A function of a program."""

    #: Bytes of dynamic shared memory that a block may ask for.
    shared_limit: int

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
#: What the compiler has said of programs that it refused.
_refused: dict[Any, str] = {}


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
    """Whether the kernels compute what is in the memory of this tensor.

    On a GPU where they cannot be compiled or loaded, one warning says why. Within ``reference_path()`` nothing is
    wanted.
    """
    if switched_off():
        return False
    if tensor.is_cuda:
        return support.works(tensor.get_device())
    return _host is not None and tensor.is_cpu


def reason(device: torch.device) -> str:
    """Return why nothing is ``wanted`` on a CUDA device; "" where it is. Nothing is warned of."""
    return "switched off by reference_path()" if switched_off() else support.reason(device)


def identity(device: torch.device) -> dict[str, Any] | None:
    """Return what results of the kernels depend on beside macros, as JSON can say it; None on the host, in tests."""
    return None if _host is not None else environment(device.index)


def program(name: str, macros: Mapping[str, Any], device: torch.device) -> Program:
    """Return a source compiled with these macros for a device.

    Parameters
    ----------
    name
        Of the file in ``SOURCES``, without its ending.
    macros
        Values by names: int, float, bool or str.
    device
        A CUDA device; within ``on_host`` any.

    Raises
    ------
    CompilationError
        If the compiler refuses it. One warning says so; it is not compiled again.
    KernelError
        If it cannot be loaded, or the compiler fails. Nothing is ``wanted`` on the device from then on.
    """
    if _host is not None:
        return _host(name, macros)
    if device.type != "cuda":
        raise KernelError(f"{name} is a program for CUDA devices, not for {device}")
    index = torch.cuda.current_device() if device.index is None else device.index
    key = name, tuple(sorted(macros.items())), index
    if key in _refused:
        raise CompilationError(_refused[key])
    try:
        return loaded(name, macros, index)
    except CompilationError as error:
        _refused[key] = str(error)
        support.notice(f"{error}. torch operations compute instead; please report it.")
        raise
    except KernelError as error:
        if not isinstance(error, CaptureError):
            support.give_up(index, str(error))
        raise
