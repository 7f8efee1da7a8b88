"""From a source to a program that is loaded: compiled once on a machine, loaded once in a process."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from anipot.kernels.cuda import cache as disk
from anipot.kernels.cuda import nvrtc
from anipot.kernels.cuda.driver import CudaProgram, device
from anipot.kernels.cuda.errors import CaptureError

#: Where the sources are.
SOURCES = Path(__file__).parent / "source"

_INCLUDE = re.compile(r'^#include "(.+?)"', re.MULTILINE)

Key = tuple[str, tuple[str, ...], int]

_programs: dict[Key, CudaProgram] = {}
_locks: dict[Key, threading.Lock] = {}
_guard = threading.Lock()


def machine_code(name: str, macros: Mapping[str, Any], architecture: int, compiler: nvrtc.Compiler) -> bytes:
    """Return a source compiled for an architecture, from the disk if it was compiled before.

    Parameters
    ----------
    name
        Of the file in ``SOURCES``, without its ending.
    macros
        Values by names.
    architecture
        Such as 90 for compute capability 9.0.
    compiler
        That is to be used.

    Raises
    ------
    CompilationError
        If the source does not compile.
    KernelError
        If the compiler does not know the architecture, or fails.
    """
    source, headers, target = _text(f"{name}.cu"), _headers(f"{name}.cu"), compiler.target(architecture)
    key = {
        "source": source,
        "headers": headers,
        "macros": nvrtc.definitions(macros),
        "options": nvrtc.OPTIONS,
        "target": target,
        "compiler": compiler.version,
    }
    return disk.cached(f"{name}-{target}", key, lambda: compiler.compile(name, source, headers, macros, target))


@cache
def _text(name: str) -> str:
    return (SOURCES / name).read_text("utf-8")


@cache
def _headers(name: str) -> dict[str, str]:
    """Return the texts of all that a file includes, by their names; but not what only a host has."""
    found: dict[str, str] = {}
    for header in _INCLUDE.findall(_text(name)):
        if (SOURCES / header).is_file():
            found |= {header: _text(header), **_headers(header)}
    return found


def environment(index: int) -> dict[str, Any]:
    """Return what the results of all kernels depend on: sources, compiler, driver and device, as JSON can say it."""
    texts = [_text(path.name) for path in sorted(SOURCES.iterdir()) if path.is_file()]
    return {
        "sources": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
        "options": nvrtc.OPTIONS,
        "compiler": nvrtc.compiler().version,
        "driver": device(index).driver.version(),
        "device": [torch.cuda.get_device_name(index), device(index).architecture],
    }


def loaded(name: str, macros: Mapping[str, Any], index: int) -> CudaProgram:
    """Return a program on a device; of several threads that ask for it, one makes it.

    Raises
    ------
    KernelError
        If it cannot be compiled or loaded.
    CaptureError
        If that would be within the capture of a CUDA graph.
    """
    key = (name, tuple(nvrtc.definitions(macros)), index)
    found = _programs.get(key)
    if found is not None:
        return found
    if capturing():
        raise CaptureError(f"{name} cannot be loaded while a CUDA graph is captured: run what is captured once before")
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if key not in _programs:
            place = device(index)
            code = machine_code(name, macros, place.architecture, nvrtc.compiler())
            _programs[key] = CudaProgram(name, code, place)
        return _programs[key]


def capturing() -> bool:
    """Whether what torch's current stream is told goes into a graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
