"""What the host knows of tensors on a device: it asks once, and never for what it has sent there itself.

Who asks a device waits until it has done all that it was told, and afterwards it has nothing to do until it is told
more. A training step that asks in a dozen places is a dozen times as long as its launches; one that asks once is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

#: Between these are ghosts, element indices and atomic numbers; what is beyond stands at the ends.
LOWEST, HIGHEST = -2, 119

#: By tensors as long as somebody holds them: their version then, and what they held.
_told: Any = WeakTensorKeyDictionary()


def tell(tensor: Tensor, values: NDArray[Any]) -> None:
    """Remember what is in a tensor, or what follows from it, until it is written to or gone."""
    if not tensor.is_cpu and not tensor.is_inference():  # of which nobody counts how often they are written to
        _told[tensor] = tensor._version, values


def told(tensor: Tensor) -> NDArray[Any] | None:
    """Return what is known of a tensor, or of the one of which it is all in another shape; None if nothing is."""
    if tensor.is_cpu or tensor.is_inference():
        return None
    whole = tensor
    if tensor not in _told and (base := tensor._base) is not None and base.is_contiguous() and tensor.is_contiguous():
        whole = base
    version, values = _told.get(whole, (-1, None))
    if values is None or version != tensor._version:
        return None
    if whole is not tensor and (whole.numel(), whole.data_ptr()) != (tensor.numel(), tensor.data_ptr()):
        return None
    found: NDArray[Any] = values.reshape(tensor.shape) if values.size == tensor.numel() else values
    return found


def narrow(species: NDArray[Any]) -> NDArray[np.int8]:
    """Return species as they are kept here."""
    found: NDArray[np.int8] = np.clip(species, LOWEST, HIGHEST).astype(np.int8)
    return found


def species_on_host(species: Tensor) -> NDArray[np.int8]:
    """Return species, or a mask, between ``LOWEST`` and ``HIGHEST``; the device is asked if nobody has told."""
    values = told(species)
    if values is None:
        small = species if species.dtype == torch.bool else species.clamp(LOWEST, HIGHEST)
        values = small.to(torch.int8).cpu().numpy()
        tell(species, values)
    return values


def are_sound(species: Tensor, coordinates: Tensor) -> bool:
    """Whether no species on a device is below -1, and no real atom at a place that is not finite: one question."""
    values, finite = told(species), told(coordinates)
    if values is None or finite is None:
        at_places = (torch.isfinite(coordinates).all(-1) | (species < 0)).all()
        narrowed = species.clamp(LOWEST, HIGHEST).to(torch.int8).flatten()
        answer = torch.cat([narrowed, at_places.to(torch.int8)[None]]).cpu().numpy()
        values, finite = answer[:-1].reshape(species.shape), answer[-1:].astype(bool)
        tell(species, values)
    return bool(values.min(initial=0) > LOWEST) and bool(finite.all())


def send(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Return an array, or a tensor of the host, on a device, without waiting for it where this can be."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type != "cuda" or not tensor.is_cpu:
        return tensor.to(device)
    # What is pinned is read while the host goes on; torch sees to it that its memory serves nobody else till then.
    return tensor.pin_memory().to(device, non_blocking=True)
