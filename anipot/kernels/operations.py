"""How the kernels become torch operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anipot.known import forgetting

_library = torch.library.Library("anipot", "FRAGMENT")


def define(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    gradient: Callable[..., Any] | None = None,
    keep: Callable[..., Any] | None = None,
    batched: Callable[..., Any] | None = None,
    devices: Sequence[str] = ("CPU",),
) -> None:
    """Define ``anipot::...`` with its kernel for these devices, shapes for the compiler, gradient and batching.

    Without a rule of its own an operation is batched call after call, since its rows are many already.
    """
    name = schema.partition("(")[0]
    _library.define(schema)
    for device in devices:
        _library.impl(name, kernel, device)
    torch.library.register_fake(f"anipot::{name}", fake, lib=_library)
    if gradient is not None:  # else: integers
        torch.library.register_autograd(f"anipot::{name}", gradient, setup_context=keep, lib=_library)
    if hasattr(torch.library, "register_vmap"):  # torch 2.5 and later
        torch.library.register_vmap(f"anipot::{name}", batched or one_by_one(name), lib=_library)


def define_opaque(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define ``anipot::...`` that runs Python no compiler looks into, on any device and without a gradient."""
    name = schema.partition("(")[0]
    _library.define(schema)
    _library.impl(name, forgetting()(run), "CompositeExplicitAutograd")
    torch.library.register_fake(f"anipot::{name}", fake, lib=_library)


def one_by_one(name: str) -> Callable[..., Any]:
    """Return the rule for vmap that calls an operation once for each entry of the batch."""

    def take(argument: Any, dim: Any, i: int) -> Any:
        return argument if dim is None or isinstance(dim, list) else argument.select(dim, i)

    def rule(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        operation = getattr(torch.ops.anipot, name)
        calls = [operation(*(take(a, d, i) for a, d in zip(args, dims, strict=True))) for i in range(info.batch_size)]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        return tuple(torch.stack(parts) for parts in zip(*calls, strict=True)), (0,) * len(calls[0])

    return rule
