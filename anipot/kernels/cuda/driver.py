"""The driver's interface: programs are loaded into the context that torch uses, and launched on its streams.

Loading leaves nothing for the first launch to do, so that it may be inside the capture of a CUDA graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_int, c_void_p
from functools import cache
from typing import Any

import torch

from anipot.kernels.cuda.arguments import Arguments, Grid, as_grid
from anipot.kernels.cuda.errors import KernelError

# Numbers of cuda.h, which do not change.
_MULTIPROCESSORS, _MAJOR, _MINOR, _SHARED_OPTIN = 16, 75, 76, 97
_MAX_THREADS, _STATIC_SHARED, _LOCAL_BYTES, _REGISTERS, _MAX_DYNAMIC_SHARED = 0, 1, 3, 4, 8
_INVALID_CONTEXT = 201
_MOST_BLOCKS = 2**31 - 1


class Driver:
    """The driver's library.

    Raises
    ------
    KernelError
        If there is none, or it finds no device.
    """

    def __init__(self, path: str = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1") -> None:
        try:
            self.library = ctypes.CDLL(path)
        except OSError as error:
            raise KernelError(f"the CUDA driver cannot be loaded: {error}") from error
        self.call("cuInit", 0)

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function and raise KernelError where it fails."""
        failed = getattr(self.library, function)(*arguments)
        if failed:
            raise KernelError(f"{function}: {self.message(failed)}")

    def message(self, code: int) -> str:
        """Return name and meaning of an error."""
        texts = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            getattr(self.library, function)(code, byref(text))
            texts.append((text.value or b"unknown error").decode())
        return f"{texts[0]} ({code}): {texts[1]}"

    def version(self) -> tuple[int, int]:
        """Return the newest version of CUDA that the driver knows."""
        number = c_int()
        self.call("cuDriverGetVersion", byref(number))
        return number.value // 1000, number.value % 1000 // 10


@cache
def driver() -> Driver:
    """Return the driver's library."""
    return Driver()


class Device:
    """A device and the context that all of a process use on it, torch as well."""

    def __init__(self, index: int) -> None:
        self.driver, self.index = driver(), index
        self._handle = c_int()
        self.context = c_void_p()
        self.driver.call("cuDeviceGet", byref(self._handle), index)
        self.driver.call("cuDevicePrimaryCtxRetain", byref(self.context), self._handle)
        self.multiprocessors = self.attribute(_MULTIPROCESSORS)
        self.shared_limit = self.attribute(_SHARED_OPTIN)
        self.architecture = 10 * self.attribute(_MAJOR) + self.attribute(_MINOR)

    def attribute(self, which: int) -> int:
        """Return a number that describes the device."""
        value = c_int()
        self.driver.call("cuDeviceGetAttribute", byref(value), which, self._handle)
        return value.value

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make its context that of this thread."""
        self.driver.call("cuCtxPushCurrent_v2", self.context)
        try:
            yield
        finally:
            self.driver.call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def bind(self) -> None:
        """Make its context that of this thread for good."""
        self.driver.call("cuCtxSetCurrent", self.context)


@cache
def device(index: int) -> Device:
    """Return a device by torch's number of it."""
    return Device(index)


class CudaProgram:
    """A program that is loaded on a device.

    Attributes
    ----------
    name
        For messages.
    multiprocessors
        Of the device.
    shared_limit
        Bytes of shared memory that a block may ask for.
    """

    def __init__(self, name: str, code: bytes, device: Device) -> None:
        self.name, self.device = name, device
        self.multiprocessors, self.shared_limit = device.multiprocessors, device.shared_limit
        self._module = c_void_p()
        self._kernels: dict[str, CudaKernel] = {}
        self._lock = threading.Lock()
        try:
            with device.current():
                device.driver.call("cuModuleLoadData", byref(self._module), code)
        except KernelError as error:
            raise KernelError(f"{name} cannot be loaded on cuda:{device.index}: {error}") from error

    def kernel(self, name: str) -> CudaKernel:
        """Return the kernel of a name; KernelError if there is none."""
        with self._lock:
            if name not in self._kernels:
                self._kernels[name] = CudaKernel(f"{self.name}.{name}", self._function(name), self.device)
            return self._kernels[name]

    def _function(self, name: str) -> c_void_p:
        function = c_void_p()
        try:
            with self.device.current():
                self.device.driver.call("cuModuleGetFunction", byref(function), self._module, name.encode())
        except KernelError as error:
            raise KernelError(f"{self.name} has no kernel {name}: {error}") from error
        return function


class CudaKernel:
    """A function of a program, loaded and ready.

    Attributes
    ----------
    name
        Of the program and of the function.
    registers, local_bytes, static_shared
        Of a thread, of a thread, and of a block.
    max_threads
        Of a block.
    """

    def __init__(self, name: str, function: c_void_p, device: Device) -> None:
        self.name, self.device = name, device
        self._function, self._index = function, device.index
        self._streams: dict[int, c_void_p] = {}
        with device.current():
            with contextlib.suppress(AttributeError):  # a driver before CUDA 12.4: asking for attributes loads as well
                device.driver.call("cuFuncLoad", function)
            self.max_threads, self.static_shared, self.local_bytes, self.registers = (
                self._attribute(which) for which in (_MAX_THREADS, _STATIC_SHARED, _LOCAL_BYTES, _REGISTERS)
            )
            self.shared_limit = device.shared_limit - self.static_shared
            device.driver.call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, self.shared_limit)
        self._launch = device.driver.library.cuLaunchKernel
        self._stream, self._current = torch._C._cuda_getCurrentRawStream, torch._C._cuda_getDevice

    def _attribute(self, which: int) -> int:
        value = c_int()
        self.device.driver.call("cuFuncGetAttribute", byref(value), which, self._function)
        return value.value

    def launch(self, grid: Grid, threads: int, arguments: Arguments, shared: int = 0) -> None:
        """Launch on torch's current stream of the device.

        Parameters
        ----------
        grid
            Blocks along one, two or three axes; nothing is launched if one of them is 0.
        threads
            Of a block.
        arguments
            They are copied: whoever calls may change them at once.
        shared
            Bytes of dynamic shared memory of a block.

        Raises
        ------
        KernelError
            If the launch is refused. What goes wrong later is reported by a later call, as always with CUDA.
        """
        x, y, z = (grid, 1, 1) if type(grid) is int else as_grid(grid)
        if not (x and y and z):
            return
        if self._current() != self._index:
            with self.device.current():
                failed = self._try(x, y, z, threads, arguments, shared)
        else:
            failed = self._try(x, y, z, threads, arguments, shared)
            if failed == _INVALID_CONTEXT:  # the first call of CUDA in this thread
                self.device.bind()
                failed = self._try(x, y, z, threads, arguments, shared)
        if failed:
            self._refused(self.device.driver.message(failed), (x, y, z), threads, shared)

    def _try(self, x: int, y: int, z: int, threads: int, arguments: Arguments, shared: int) -> int:
        # No `argtypes`: conversions by them take as long as all the rest. So what has 8 bytes must not be an int, and
        # other numbers have to fit into 32 bits.
        if not 0 < x <= _MOST_BLOCKS or not 0 <= shared <= self.shared_limit:
            self._refused("out of range", (x, y, z), threads, shared)
        stream = self._stream(self._index)
        try:
            handle = self._streams[stream]
        except KeyError:
            handle = self._streams[stream] = c_void_p(stream)
        return self._launch(self._function, x, y, z, threads, 1, 1, shared, handle, arguments.parameters(), None)

    def _refused(self, why: str, grid: tuple[int, int, int], threads: int, shared: int) -> None:
        raise KernelError(
            f"{self.name} cannot be launched on cuda:{self._index} with a grid of {grid}, {threads} threads (at most "
            f"{self.max_threads}) and {shared} bytes of dynamic shared memory (at most {self.shared_limit}): "
            f"{why}"
        )
