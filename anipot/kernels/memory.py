"""Memory of large tensors, used again by the next of them.

The allocator gives blocks of megabytes back to the system as soon as they are free, and the system clears page after
page for the next call: a sixth of a training step. Here such blocks are kept, up to a limit, until the process ends.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

#: Bytes; tensors of other sizes are torch's own.
_SMALLEST, _LARGEST = 2**19, 2**28
#: Bytes that are kept while nobody uses them.
_KEPT = 2**28

#: The last freed first: caches may still hold it. Changed by single calls only, which needs no lock: a block is taken
#: by whoever removes it.
_free: list[mmap.mmap] = []


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialised tensor; with ``like``'s dtype if none is given."""
    dtype = like.dtype if dtype is None else dtype
    count = math.prod(shape)
    size = count * dtype.itemsize
    if not _SMALLEST <= size <= _LARGEST or sys.platform != "linux" or not like.is_cpu:
        return like.new_empty(shape, dtype=dtype)
    try:
        block = _take(size)
    except OSError:  # torch knows what to say
        return like.new_empty(shape, dtype=dtype)
    # The tensor's storage holds the lease, and when that goes the block is free again.
    lease = (ctypes.c_char * len(block)).from_buffer(block)
    weakref.finalize(lease, _give, block).atexit = False
    return torch.frombuffer(lease, dtype=dtype, count=count).resize_(shape)  # not a view, unlike the result of view()


def _take(size: int) -> mmap.mmap:
    for block in sorted(_free, key=len):
        if size <= len(block) <= 4 * size:  # batches sorted by size take turns, and kept memory should fit most
            with suppress(ValueError):  # another thread was faster
                _free.remove(block)
                return block
    step = 1 << (size.bit_length() - 4)
    block = mmap.mmap(-1, -(-size // step) * step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without large pages
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _give(block: mmap.mmap) -> None:
    _free.insert(0, block)
    while sum(map(len, _free)) > _KEPT:
        with suppress(IndexError):
            _free.pop()
