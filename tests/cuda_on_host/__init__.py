"""The CUDA kernels compiled for the host, so that their algorithms are tested where there is no GPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anipot.kernels.cuda.program import SOURCES, Arguments, Grid, as_grid, on_host

COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", "-DANIPOT_HOST=1"]

needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs a C++ compiler; no {COMPILER}")

#: What tests run with, unless they say otherwise.
SEED = int(os.environ.get("CUDA_ON_HOST_SEED", "1"))
#: Order in which threads run between barriers.
_seed = 0


class HostKernel:
    """A kernel that runs on the host."""

    def __init__(self, library: Any, name: str) -> None:
        self._library, self._function, self.name = library, getattr(library, name), name
        self._threads = getattr(library, f"{name}_threads")()
        self._size = getattr(library, f"{name}_size")()

    @property
    def shared_limit(self) -> int:
        return HostProgram.shared_limit

    def launch(self, grid: Grid, threads: int, arguments: Arguments, shared: int = 0) -> None:
        assert threads == self._threads, f"{self.name} is bound to {self._threads} threads, launched with {threads}"
        assert ctypes.sizeof(arguments) == self._size, f"{self.name}: the structures of Python and C++ differ"
        assert shared <= self.shared_limit, f"{self.name} asks for {shared} bytes of shared memory"
        grid = as_grid(grid)
        if 0 not in grid:
            body = ctypes.cast(self._function, ctypes.c_void_p)
            sizes = [ctypes.c_longlong(n) for n in grid]
            self._library.anipot_host_launch(
                body, *sizes, threads, ctypes.c_longlong(shared), ctypes.byref(arguments), ctypes.c_uint(_seed)
            )


class HostProgram:
    """A source compiled for the host."""

    multiprocessors = 4
    shared_limit = 99 * 1024

    def __init__(self, library: Any) -> None:
        self._library = library

    @functools.cache  # noqa: B019
    def kernel(self, name: str) -> HostKernel:
        return HostKernel(self._library, name)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"anipot-cuda-on-host-{os.getuid()}")
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


@functools.cache
def _built(name: str, macros: tuple[tuple[str, Any], ...]) -> HostProgram:
    here = Path(__file__).parent
    files = sorted([*SOURCES.iterdir(), here / "cuda_on_host.h"])
    command = [COMPILER, *FLAGS, f"-I{here}", f"-I{SOURCES}", *(f"-D{key}={value}" for key, value in macros)]
    digest = hashlib.sha256(repr(command).encode() + b"".join(path.read_bytes() for path in files))
    target = _folder() / f"{name}-{digest.hexdigest()[:24]}.so"
    if not target.exists():
        scratch = target.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-x", "c++", str(SOURCES / f"{name}.cu"), "-o", str(scratch)], check=True)
        os.replace(scratch, target)
    return HostProgram(ctypes.CDLL(str(target)))


def build(name: str, macros: Mapping[str, Any]) -> HostProgram:
    """Return a source compiled with these macros."""
    return _built(name, tuple(sorted(macros.items())))


@contextmanager
def cuda_on_host(seed: int = SEED) -> Iterator[None]:
    """Compute with the CUDA kernels, compiled for the host, inside this context.

    Seed 0 lets all warps go on together; with others, some are slow.
    """
    global _seed
    before, _seed = _seed, seed
    try:
        with on_host(build):
            yield
    finally:
        _seed = before
