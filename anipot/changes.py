"""Whether a potential is still what it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

#: Attributes of modules that are compared, besides tensors and modules within.
_PLAIN = (bool, int, float, str, tuple)


class Seen:
    """What a potential was made of, kept alive, so that nothing new can stand in its place unseen."""

    def __init__(self, potential: nn.Module) -> None:
        self._modules = list(potential.modules())
        self._tensors, self._versions, self._numbers = _look(self._modules)

    def differs(self, potential: nn.Module) -> bool:
        """Whether modules, tensors, what is in them, or plain attributes are others now."""
        modules = list(potential.modules())
        if len(modules) != len(self._modules) or any(a is not b for a, b in zip(modules, self._modules, strict=True)):
            return True
        tensors, versions, numbers = _look(modules)
        same = len(tensors) == len(self._tensors) and all(a is b for a, b in zip(tensors, self._tensors, strict=True))
        return not same or versions != self._versions or numbers != self._numbers


def _look(modules: Sequence[nn.Module]) -> tuple[list[Tensor], list[Any], list[Any]]:
    tensors = [t for m in modules for d in (m._parameters, m._buffers) for t in d.values() if t is not None]
    versions = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    attributes = [value for m in modules for value in vars(m).values() if isinstance(value, (*_PLAIN, dict))]
    numbers = [len(value) if isinstance(value, dict) else value for value in attributes]  # of hooks, how many there are
    return tensors, versions, numbers
