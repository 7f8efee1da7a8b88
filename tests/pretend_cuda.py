"""Tensors that say they are on a GPU, in the memory of the CPU: so that code which mixes devices fails without a GPU.

Inside ``pretend_cuda()`` what is moved to "cuda", or made there, says so, and so does all that is computed from it.
Where torch would refuse tensors of two devices, so does this. Kernels for CUDA are those compiled for the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from cuda_on_host import cuda_on_host
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.overrides import TorchFunctionMode

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

#: Told of every call before it runs: its name, the tensors given, whether the result is there, and the keywords.
listeners: list[Callable[[str, list[torch.Tensor], bool, dict[str, Any]], None]] = []

_T = torch.Tensor
_DEVICE, _IS_CUDA, _IS_CPU = (getattr(_T, name).__get__ for name in ("device", "is_cuda", "is_cpu"))
_SET_DATA = _T.data.__set__
#: Functions that take tensors of two devices, and whose result is where the first of them is.
_LIKE_THE_FIRST = {"__getitem__", "index", "to", "type_as", "__deepcopy__"}
#: Those that return nothing new.
_IN_PLACE = {"copy_", "__setitem__", "__set__", "_has_compatible_shallow_copy_type"}


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor pretends to be on the GPU."""
    return getattr(tensor, "_on_cuda", False)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _named(value: Any) -> torch.device | None:
    """Return the device that an argument names."""
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu"):
        return torch.device(value)
    return None


class PretendCuda(TorchFunctionMode):
    """See the module."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == _DEVICE:
            return CUDA if is_there(args[0]) else CPU
        if func in (_IS_CUDA, _IS_CPU):
            return is_there(args[0]) == (func == _IS_CUDA)
        name = getattr(func, "__name__", "")
        if name == "_parse_to":
            return func(*args, **kwargs)
        if name == "pin_memory":
            pinned = args[0].detach()
            pinned._pinned = True
            return pinned
        if name == "get_device":
            return 0 if is_there(args[0]) else -1
        given = [*_tensors(args), *_tensors(kwargs)]
        there = any(map(is_there, given))
        if name == "numpy" and there:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if there and name not in _LIKE_THE_FIRST | _IN_PLACE:
            # What torch.vmap hands out is made where nobody is asked.
            strangers = [t for t in given if not (is_there(t) or is_batchedtensor(t)) and t.dim()]
            if strangers:
                raise RuntimeError(f"{name}: tensors on cuda:0 and cpu: {[tuple(t.shape) for t in given]}")
        if func == _SET_DATA:
            func(*args)
            args[0]._on_cuda = is_there(args[1])
            return None
        goal, args, kwargs = self._goal(name, args, kwargs)
        if goal is None:
            goal = is_there(given[0]) if given and name in _LIKE_THE_FIRST else there
        for listener in listeners:
            listener(name, given, goal, kwargs)
        result = func(*args, **kwargs)
        if name in ("cpu", "cuda", "to") and result is given[0] and goal != is_there(result):
            result = result.clone()
        if name in _IN_PLACE:
            return result
        for tensor in _tensors(result):
            if goal or is_there(tensor):
                tensor._on_cuda = goal
        return result

    def _goal(self, name: str, args: Any, kwargs: Any) -> tuple[bool | None, Any, Any]:
        """Return whether the result is on the GPU, if the call says so, and the call without it."""
        if name in ("cpu", "cuda"):
            return name == "cuda", args if name == "cpu" else args[:1], {}
        if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
            return is_there(args[1]), args, kwargs
        found = _named(kwargs.get("device"))
        if found is not None:
            kwargs["device"] = CPU
        if name == "to":
            named = [_named(a) for a in args]
            found = next((d for d in named if d is not None), found)
            args = tuple(CPU if d is not None else a for a, d in zip(args, named, strict=True))
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return (None if found is None else found.type == "cuda"), args, kwargs


_NEW_PARAMETER = torch.nn.Parameter.__new__


def _new_parameter(cls: type, data: Any = None, *args: Any, **kwargs: Any) -> Any:
    parameter = _NEW_PARAMETER(cls, data, *args, **kwargs)
    if isinstance(data, Tensor):
        parameter._on_cuda = is_there(data)
    return parameter


@contextlib.contextmanager
def pretend_cuda() -> Iterator[torch.device]:
    """Return a device that is not there, inside this context."""
    real = torch.cuda

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    names = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda device=None: Stream(),
    }
    with contextlib.ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(mock.patch.object(real, name, value))
        stack.enter_context(mock.patch("anipot.engine.cuda._can_capture", return_value=False))
        stack.enter_context(mock.patch("anipot.kernels.cuda.support.works", return_value=True))
        stack.enter_context(mock.patch.object(torch.nn.Parameter, "__new__", _new_parameter))
        stack.enter_context(cuda_on_host())
        stack.enter_context(PretendCuda())
        yield CUDA
