"""What the host knows of tensors on a device, so that it asks once in a call, and never for what it has sent itself.

Who asks a device waits until it has done all that it was told, and afterwards it has nothing to do until it is told
more. A training step that asks in a dozen places is a dozen times as long as its launches; one that asks once is not.

Nothing is believed for longer than a call (``remembering``), while which nobody writes to its tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

#: Between these are ghosts, element indices and atomic numbers; what is beyond stands at the ends.
LOWEST, HIGHEST = -2, 119


class _Now(threading.local):
    """By the identity of a tensor, in each thread: the tensor, its version when it was told of, and what it held."""

    told: dict[int, tuple[Tensor, int, NDArray[Any]]] | None = None


_now = _Now()


@contextmanager
def remembering() -> Iterator[None]:
    """Remember in this thread, until this context ends, what is told or asked for."""
    if _now.told is not None:
        yield
        return
    _now.told = {}
    try:
        yield
    finally:
        _now.told = None


def within_a_call(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function remember while it runs, unless a compiler traces it."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with remembering():
            return function(*args, **kwargs)

    return call


@contextmanager
def forgetting() -> Iterator[None]:
    """Know nothing inside this context: a compiler uses the same tensor for one thing after another."""
    before, _now.told = _now.told, None
    try:
        yield
    finally:
        _now.told = before


def tell(tensor: Tensor, values: NDArray[Any]) -> None:
    """Remember what is in a tensor, or what follows from it, unless it is written to."""
    if _now.told is not None and not tensor.is_cpu and not tensor.is_inference():  # of which nobody counts the writes
        _now.told[id(tensor)] = tensor, tensor._version, values


def told(tensor: Tensor) -> NDArray[Any] | None:
    """Return what is known of a tensor; None if nothing is."""
    known = (_now.told or {}).get(id(tensor))
    return known[2] if known is not None and known[1] == tensor._version else None


def _species_told(species: Tensor) -> NDArray[np.int8] | None:
    """Return what is known of species, or of those that they are a view of, all in another shape."""
    found, base = told(species), species._base if _now.told else None
    if found is None and base is not None and base.is_contiguous() and species.is_contiguous():
        same = (base.numel(), base.data_ptr(), base.dtype) == (species.numel(), species.data_ptr(), species.dtype)
        found = told(base) if same else None
    return None if found is None else found.reshape(species.shape)


def narrow(species: NDArray[Any]) -> NDArray[np.int8]:
    """Return species as they are kept here."""
    found: NDArray[np.int8] = np.clip(species, LOWEST, HIGHEST).astype(np.int8)
    return found


def species_on_host(species: Tensor) -> NDArray[np.int8]:
    """Return species, or a mask, between ``LOWEST`` and ``HIGHEST``; the device is asked if nobody has told."""
    values = _species_told(species)
    if values is None:
        small = species if species.dtype == torch.bool else species.clamp(LOWEST, HIGHEST)
        values = asked(small.to(torch.int8))
        tell(species, values)
    return values


def are_sound(species: Tensor, coordinates: Tensor) -> bool:
    """Whether no species on a device is below -1, and no real atom at a place that is not finite: one question.

    What is told of coordinates is at which places (B, A) they are finite.
    """
    values, finite = _species_told(species), told(coordinates)
    if values is None or finite is None:
        at_places = torch.isfinite(coordinates).all(-1).to(torch.int8)
        narrowed = species.clamp(LOWEST, HIGHEST).to(torch.int8)
        values, finite = asked(torch.stack([narrowed, at_places]))
        tell(species, values)
    return bool(values.min(initial=0) > LOWEST) and bool((finite.astype(bool) | (values < 0)).all())


def asked(tensor: Tensor) -> NDArray[Any]:
    """Return what a tensor on a device holds, also within the transforms of ``torch.func``, which hide its memory."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return tensor.cpu().numpy()
    return np.array(tensor.tolist(), str(tensor.dtype).removeprefix("torch.")).reshape(tensor.shape)


def send(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Return an array, or a tensor of the host, on a device, without waiting for it where this can be.

    Nobody may write to it until the device has it.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type != "cuda" or not tensor.is_cpu:
        return tensor.to(device)
    # What is pinned is read while the host goes on; torch sees to it that its memory serves nobody else till then.
    return tensor.pin_memory().to(device, non_blocking=True)
