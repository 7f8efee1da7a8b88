"""Buffers that stay in float64 whatever the dtype of the module around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose buffers follow ``.to(device)`` but not ``.float()``.

    Published constants and self energies are decimal numbers; once rounded to float32 they stay rounded after
    ``model.double()``. A self energy of −460 Hartree alone would lose 1e-5 Hartree.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self
