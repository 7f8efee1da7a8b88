"""What a GPU would be told and asked: launches and waits of a computation on a device that is not there.

Launches take the CPU some 5 µs each; where the host waits for the device, this has nothing to do until it is told more.
Both are counted by the place in the library that they come from. An operation of torch counts as one launch, although
some, such as sorting, are several.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pretend_cuda
import torch
from cuda_on_host import HostKernel
from pretend_cuda import is_there
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import anipot

_PACKAGE = str(Path(anipot.__file__).parent)
#: Operations that do nothing on the device, beside those that return views.
_FREE = {
    *("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "detach_", "alias", "set_"),
    *("_unsafe_view", "_reshape_alias", "lift_fresh", "resize_", "is_same_size", "_has_same_storage_numel"),
}
#: Those whose size or result the host wants to know.
_WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "is_nonzero"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "histc"),
}
#: Functions that bring numbers of the host to the device, from memory that is not pinned.
_MADE_OF_NUMBERS = {"tensor", "as_tensor", "new_tensor", "frombuffer"}


@dataclass
class Launches:
    """Operations and kernels, and reasons to wait, by place."""

    launches: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def num_launches(self) -> int:
        return self.launches.total()

    @property
    def num_waits(self) -> int:
        return self.waits.total()

    def clear(self) -> None:
        self.launches.clear()
        self.waits.clear()


def _place() -> str:
    """Return the function of the library that is running, or the node of the graph."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            node = torch._C._current_autograd_node() if torch._C._current_graph_task_id() != -1 else None
            where = f"{Path(name).relative_to(_PACKAGE)}:{frame.f_code.co_name}"
            return where if node is None else f"{where} / {node.name()}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


class _Watch(TorchDispatchMode):
    """Sees operations below autograd, which belong to the call that was heard of last; all of a graph are there."""

    def __init__(self, found: Launches) -> None:
        super().__init__()
        self.found, self.there = found, False

    def hear(self, name: str, given: list[Tensor], goal: bool, kwargs: dict[str, Any]) -> None:
        self.there = goal or any(map(is_there, given))
        there = bool(given) and is_there(given[0])
        # Only what is pinned comes while the host goes on.
        unseen = kwargs.get("non_blocking") and getattr(given[0], "_pinned", False)
        brought = goal and not there and name in ("to", "cuda") and not unseen
        if brought or (goal and name in _MADE_OF_NUMBERS):
            self.found.waits[_place(), "to the device"] += 1
        elif there and (name in ("tolist", "cpu", "numpy") or (name == "to" and not goal)):
            self.found.waits[_place(), name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.there and torch._C._current_graph_task_id() == -1:
            return result
        name = func._schema.name.partition("::")[2]
        masks = name in ("index", "index_put", "index_put_") and any(
            t.dtype in (torch.bool, torch.uint8) for t in pretend_cuda._tensors(args[1])
        )
        repeats = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in _WAITING or masks or repeats:
            self.found.waits[_place(), name] += 1
        if not func.is_view and name not in _FREE:
            self.found.launches[_place(), name] += 1
        return result


@contextmanager
def launches() -> Iterator[Launches]:
    """Count inside this context, which must be one of ``pretend_cuda``."""
    found = Launches()
    watch = _Watch(found)
    launch = HostKernel.launch

    def counted(kernel: HostKernel, *args: Any, **kwargs: Any) -> None:
        found.launches[_place(), kernel.name] += 1
        launch(kernel, *args, **kwargs)

    pretend_cuda.listeners.append(watch.hear)
    try:
        with mock.patch.object(HostKernel, "launch", counted), watch:
            yield found
    finally:
        pretend_cuda.listeners.remove(watch.hear)
