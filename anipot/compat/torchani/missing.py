"""What to say of names that TorchANI 2.2 has and this library has not."""

from __future__ import annotations

from collections.abc import Mapping


def missing(module: str, name: str, instead: Mapping[str, str]) -> AttributeError:
    """Return the error for ``module.name``, with what to use instead where there is something to say.

    >>> missing("torchani", "optim", {"optim": "use torch.optim"})
    AttributeError('anipot has no torchani.optim: use torch.optim')
    """
    if name in instead:
        return AttributeError(f"anipot has no {module}.{name}: {instead[name]}")
    return AttributeError(f"module 'anipot.compat.{module}' has no attribute {name!r}")
