"""Whether the kernels compute on a device, and why not."""

from __future__ import annotations

import os
import threading
import warnings

import torch

from anipot.kernels.cuda.build import capturing, loaded
from anipot.kernels.cuda.driver import device as device_of
from anipot.kernels.cuda.errors import KernelError
from anipot.kernels.cuda.nvrtc import compiler

#: Why there are no kernels on a device, by its number: "" where there are.
_reasons: dict[int, str] = {}
_noticed: set[str] = set()
_guard = threading.Lock()


def setting() -> str:
    """Return what ANIPOT_CUDA says: "" for all that there is, "launches" for no CUDA graphs, "none" for no kernels."""
    return os.environ.get("ANIPOT_CUDA", "")


def _forbidden() -> str:
    """Return how the environment forbids kernels, or ""."""
    wanted = setting()
    if wanted in ("", "launches"):
        return ""
    return f"ANIPOT_CUDA={wanted}" + ("" if wanted == "none" else " is not known; expected none or launches")


def no_devices() -> str:
    """Return why torch computes on no CUDA device at all; "" if it does."""
    if torch.version.hip is not None:
        return "this build of torch is for AMD's GPUs (ROCm), which the kernels do not cover"
    if torch.version.cuda is None:
        return "this build of torch is without CUDA"
    if not torch.cuda.is_available():
        return f"torch is built for CUDA {torch.version.cuda} and finds no device"
    return ""


def reason(device: torch.device | int) -> str:
    """Return why kernels cannot be compiled, loaded or launched on a CUDA device; "" if they can.

    The answer is found once, by means of a small program, and kept.
    """
    index = device if isinstance(device, int) else device.index
    if index is None:
        why = no_devices()
        if why:
            return why
        index = torch.cuda.current_device()
    if index not in _reasons:
        if capturing():
            return "they cannot be loaded while a CUDA graph is captured: run what is captured once before"
        with _guard:
            if index not in _reasons:
                _reasons[index] = _examine(index)
    return _reasons[index]


def _examine(index: int) -> str:
    why = no_devices() or _forbidden()
    if why:
        return why
    try:
        loaded("probe", {}, index).kernel("probe")
    except KernelError as error:
        return str(error)
    return ""


def give_up(index: int, why: str) -> None:
    """Let torch compute on a device from now on."""
    _reasons[index] = why


def notice(message: str) -> None:
    """Warn of something once."""
    if message not in _noticed:
        _noticed.add(message)
        warnings.warn(message, stacklevel=4)


def works(index: int) -> bool:
    """Whether kernels compute on a device; where not, one warning says why."""
    why = reason(index)
    if why:
        notice(
            f"no CUDA kernels on cuda:{index}: {why}. torch operations compute instead, which takes longer and more "
            "memory. `anipot doctor` shows what is found."
        )
    return not why


#: A compiler takes the answer as it is when it traces: what ``torch.compiler.assume_constant_result`` sets.
works._dynamo_marked_constant = True  # type: ignore[attr-defined]


def description(index: int) -> str:
    """Return device and compiler in words, where ``reason`` is ""."""
    name = torch.cuda.get_device_name(index)
    return f"kernels for {name} (sm_{device_of(index).architecture}), compiled by {compiler().name}"
