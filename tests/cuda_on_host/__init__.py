"""The CUDA kernels compiled for the host, so that their algorithms are tested where there is no GPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anipot.kernels.cuda import build as sources
from anipot.kernels.cuda import nvrtc
from anipot.kernels.cuda.program import SOURCES, Arguments, Grid, as_grid, on_host
from cuda_on_host.ptx import translate

COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-ffp-contract=off", "-fno-strict-aliasing"]

needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs a C++ compiler; no {COMPILER}")

#: What tests run with, unless they say otherwise.
SEED = int(os.environ.get("CUDA_ON_HOST_SEED", "1"))
#: What is compiled for the host: the "source", or what NVRTC makes of it for an architecture, such as "compute_90".
KIND = os.environ.get("CUDA_ON_HOST", "source")
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
def _built(name: str, macros: tuple[tuple[str, Any], ...], kind: str) -> HostProgram:
    if kind == "source":
        text = (SOURCES / f"{name}.cu").read_text("utf-8")
        defined = (f"-D{key}={value}" for key, value in macros)
        target = compiled(f"{name}-{kind}", text, "-DANIPOT_HOST=1", "-Wno-unknown-pragmas", *defined)
    else:
        target = compiled(f"{name}-{kind}", translate(_ptx(name, macros, kind)))
    return HostProgram(ctypes.CDLL(str(target)))


def compiled(name: str, text: str, *options: str) -> Path:
    """Return the library made of a text in C++, which is kept for the next time."""
    here = Path(__file__).parent
    command = [COMPILER, *FLAGS, *options, f"-I{here}", f"-I{SOURCES}"]
    headers = [path.read_text("utf-8") for path in sorted([*SOURCES.glob("*.h"), *here.glob("*.h")])]
    digest = hashlib.sha256("".join([repr(command), text, *headers]).encode())
    target = _folder() / f"{name}-{digest.hexdigest()[:24]}.so"
    if not target.exists():
        scratch = target.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-x", "c++", "-", "-o", str(scratch)], input=text.encode(), check=True)
        os.replace(scratch, target)
    return target


def _ptx(name: str, macros: tuple[tuple[str, Any], ...], target: str) -> str:
    """Return a program as compilers give it to the driver of a device that they do not know."""
    for compiler in nvrtc.installed(nvrtc.MAJORS):
        if int(target.removeprefix("compute_")) not in compiler.architectures:
            continue
        file = f"{name}.cu"
        code = compiler.compile(name, sources._text(file), sources._headers(file), dict(macros), target)
        return code.rstrip(b"\0").decode()
    pytest.skip(f"needs NVRTC for {target}; the package nvidia-cuda-nvrtc-cu12 has it")


@contextmanager
def cuda_on_host(seed: int = SEED, kind: str = KIND) -> Iterator[None]:
    """Compute with the CUDA kernels, compiled for the host, inside this context.

    Seed 0 lets all warps go on together; with others, some are slow. The kind is as of ``KIND``.
    """
    global _seed
    before, _seed = _seed, seed
    try:
        with on_host(lambda name, macros: _built(name, tuple(sorted(macros.items())), kind)):
            yield
    finally:
        _seed = before
