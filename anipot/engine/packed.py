"""Tensors in one piece of memory, so that all of them are copied at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_ALIGNMENT = 16


class Packed:
    """Named tensors of several types that stand in one buffer.

    Parameters
    ----------
    parts
        Shape and dtype of each.
    device
        Where the buffer is.
    """

    def __init__(self, parts: Mapping[str, tuple[Sequence[int], torch.dtype]], device: torch.device) -> None:
        self._places: dict[str, tuple[int, int, Sequence[int], torch.dtype]] = {}
        end = 0
        for name, (shape, dtype) in parts.items():
            size = math.prod(shape) * dtype.itemsize
            self._places[name] = (end, end + size, shape, dtype)
            end = -(-(end + size) // _ALIGNMENT) * _ALIGNMENT
        self.buffer = torch.zeros(end, dtype=torch.uint8, device=device)
        #: The tensors themselves.
        self.tensors = self.views(self.buffer)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Return the tensors as they stand in a copy of the buffer."""
        return {
            name: buffer[start:stop].view(dtype).view(list(shape))
            for name, (start, stop, shape, dtype) in self._places.items()
        }
