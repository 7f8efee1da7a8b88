"""The compiler of CUDA C++ that is a library: found where a CUDA build of torch, pip, conda or a toolkit has put it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from anipot.kernels.cuda.errors import CompilationError, KernelError

#: Major versions that are looked for where torch asks for none, the newest first.
MAJORS = (13, 12)

#: Options of every program. Sums may be fused with products, as everywhere; nothing is computed with fewer digits.
OPTIONS = ("--std=c++17",)

_WINDOWS = sys.platform == "win32"


@dataclass(frozen=True)
class Compiler:
    """A library of NVRTC.

    Attributes
    ----------
    library
        Its functions.
    path
        File it was loaded from, or its name where the system has found it.
    version
        Major and minor.
    architectures
        Numbers of the compute capabilities it has machine code for, such as 90 for 9.0, in ascending order.
    """

    library: Any
    path: str
    version: tuple[int, int]
    architectures: tuple[int, ...]

    @property
    def name(self) -> str:
        """Such as ``NVRTC 13.0``."""
        return "NVRTC {}.{}".format(*self.version)

    def target(self, architecture: int) -> str:
        """Return what is compiled for a device: machine code, or PTX for one that is newer than the compiler.

        Raises
        ------
        KernelError
            If the device is older than what the compiler knows.
        """
        if architecture in self.architectures:
            return f"sm_{architecture}"
        older = [known for known in self.architectures if known < architecture]
        if not older:
            oldest = self.architectures[0]
            raise KernelError(f"{self.name} compiles for sm_{oldest} and later, and the device is sm_{architecture}")
        return f"compute_{older[-1]}"

    def compile(
        self, name: str, source: str, headers: Mapping[str, str], macros: Mapping[str, Any], target: str
    ) -> bytes:
        """Return machine code, or PTX, of a program.

        Parameters
        ----------
        name
            Of the program, for messages.
        source
            CUDA C++.
        headers
            Texts of the files that it includes, by their names.
        macros
            Values by names: int, float, bool or str.
        target
            As from ``target``.

        Raises
        ------
        CompilationError
            If the source does not compile; with the log of the compiler.
        KernelError
            If the compiler fails.
        """
        call, program = self._call, c_void_p()
        texts, names = ((c_char_p * len(headers))(*(x.encode() for x in part)) for part in (headers.values(), headers))
        call("nvrtcCreateProgram", byref(program), source.encode(), f"{name}.cu".encode(), len(headers), texts, names)
        try:
            options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={target}", *definitions(macros))]
            failed = self.library.nvrtcCompileProgram(program, len(options), (c_char_p * len(options))(*options))
            if failed:
                log = self._get("ProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()
                given = " ".join(definitions(macros)) or "no macros"
                raise CompilationError(
                    f"{self.name} ({self.path}) cannot compile {name}.cu for {target} with {given}: "
                    f"{self._error(failed)}\n{log}"
                )
            return self._get("CUBIN" if target.startswith("sm_") else "PTX", program)
        finally:
            self.library.nvrtcDestroyProgram(byref(program))

    def _get(self, what: str, program: c_void_p) -> bytes:
        size = c_size_t()
        self._call(f"nvrtcGet{what}Size", program, byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, data)
        return data.raw

    def _call(self, function: str, *arguments: Any) -> None:
        failed = getattr(self.library, function)(*arguments)
        if failed:
            raise KernelError(f"{function} of {self.name} ({self.path}): {self._error(failed)}")

    def _error(self, code: int) -> str:
        return self.library.nvrtcGetErrorString(code).decode()


def definitions(macros: Mapping[str, Any]) -> list[str]:
    """Return macros as options of a compiler, in the order of their names."""
    values = {name: int(value) if isinstance(value, bool) else value for name, value in macros.items()}
    return [f"-D{name}={values[name]}" for name in sorted(values)]


@cache
def compiler() -> Compiler:
    """Return the compiler of the CUDA version of torch; of any version where torch is built without CUDA.

    Code of another major version may be unknown to the driver, which torch needs in its own version only.

    Raises
    ------
    KernelError
        If there is none; with what to do about it.
    """
    for found in installed():
        return found
    majors = _majors()
    names = " or ".join(name for major in majors for name in _names(major))
    package = "nvidia-cuda-nvrtc-cu12" if majors[-1] == 12 else "nvidia-cuda-nvrtc"
    raise KernelError(
        f"NVRTC, the compiler of CUDA kernels, is not found ({names}, which come with torch's own CUDA packages); "
        f"`pip install {package}` brings it"
    )


def installed(majors: tuple[int, ...] | None = None) -> Iterator[Compiler]:
    """Yield the compiler of each major version that can be loaded; by default those that ``compiler`` may take."""
    for major in _majors() if majors is None else majors:
        for path in _candidates(major):
            found = _load(path)
            if found is not None:
                yield found
                break


def _majors() -> tuple[int, ...]:
    version = torch.version.cuda
    return (int(version.split(".")[0]),) if version else MAJORS


def _names(major: int) -> list[str]:
    """Return names of the library's file."""
    if _WINDOWS:
        return ["nvrtc64_112_0.dll" if major == 11 else f"nvrtc64_{major}0_0.dll"]
    return ["libnvrtc.so.11.2" if major == 11 else f"libnvrtc.so.{major}"]


def _candidates(major: int) -> Iterator[str]:
    """Yield files that exist, then names that the system may know, then what NVIDIA's own finder says."""
    for folder in _folders(major):
        for name in _names(major):
            if (folder / name).is_file():
                yield str(folder / name)
    yield from _names(major)  # loaded already, or where the system's loader looks
    path = _pathfinder()
    if path is not None and Path(path).name in _names(major):
        yield path


def _folders(major: int) -> Iterator[Path]:
    """Yield folders: of wheels beside torch or elsewhere on the path, of torch itself, of conda, of a toolkit."""
    inside = ["bin", "bin/x86_64"] if _WINDOWS else ["lib"]
    for site in dict.fromkeys([Path(torch.__file__).parents[1], *map(Path, sys.path)]):
        for package in (f"cu{major}", "cuda_nvrtc"):
            yield from (site / "nvidia" / package / part for part in inside)
    yield Path(torch.__file__).parent / "lib"
    yield Path(sys.prefix, "Library/bin" if _WINDOWS else "lib")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable], "bin" if _WINDOWS else "lib64")


def _pathfinder() -> str | None:
    """Return where ``cuda.pathfinder`` finds the library: it comes with recent CUDA builds of torch."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return load_nvidia_dynamic_lib("nvrtc").abs_path
    except (ImportError, RuntimeError):  # not there; not found
        return None


@cache
def _load(path: str) -> Compiler | None:
    folder = Path(path).parent
    try:
        if _WINDOWS and folder.is_absolute():
            os.add_dll_directory(str(folder))  # type: ignore[attr-defined, unused-ignore]
        library = ctypes.CDLL(path)
        major, minor, count = c_int(), c_int(), c_int()
        library.nvrtcGetErrorString.restype = c_char_p
        failed = library.nvrtcVersion(byref(major), byref(minor)) or library.nvrtcGetNumSupportedArchs(byref(count))
        architectures = (c_int * count.value)()
        if failed or library.nvrtcGetSupportedArchs(architectures):
            return None
    except (OSError, AttributeError):  # not a library of this machine; older than CUDA 11.2
        return None
    return Compiler(library, path, (major.value, minor.value), tuple(sorted(architectures)))
