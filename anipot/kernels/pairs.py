"""The native neighbor search."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from anipot.kernels.cuda import program, search
from anipot.kernels.cuda.errors import KernelError
from anipot.kernels.library import PairsResult, SystemSpec, library
from anipot.kernels.specs import address, fill_system


def find_pairs(
    real: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Return center (P,), neighbor (P,) and shift (P, 3) of all pairs closer than ``cutoff``, ordered by them.

    Arguments are those of ``anipot.neighbors.brute_force``. None where the kernels do not compute it: no library,
    another device, or something that the search written in torch has to look at.
    """
    found = find_and_check(real, coordinates, cell, pbc, cutoff)
    return None if found is None else found[0]


def find_and_check(
    real: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float
) -> tuple[tuple[Tensor, Tensor, Tensor | None], bool] | None:
    """Return the same, and whether it is known that no two atoms stand on one spot."""
    if torch._C._functorch.peek_interpreter_stack() is not None:  # torch.func hides the memory of its tensors
        return None
    if program.wanted(coordinates):
        try:
            return search.find_pairs(real, coordinates, cell, pbc, cutoff)
        except KernelError:  # a warning has said why
            return None
    native = library()
    if native is None or not coordinates.is_cpu or coordinates.dtype not in (torch.float32, torch.float64):
        return None
    spec = SystemSpec()
    species = real.long() - 1  # one kind of atom, and ghosts
    alive = fill_system(spec, species, coordinates, None if cell is None else cell.to(coordinates.dtype), pbc)
    found = ctypes.c_void_p()
    threads = torch.get_num_threads()
    count = native.anipot_find_pairs(address(spec), 1, cutoff, threads, ctypes.addressof(found))
    try:
        if count < 0:
            return None
        center = coordinates.new_empty(count, dtype=torch.long)
        neighbor = torch.empty_like(center)
        shift = None if pbc is None else center.new_empty(count, 3)
        result = PairsResult(center.data_ptr(), neighbor.data_ptr(), None if shift is None else shift.data_ptr())
        if native.anipot_copy_pairs(found, address(result), threads) != 0:
            raise MemoryError(f"no memory for {count} pairs")
        return (center, neighbor, shift), False
    finally:
        native.anipot_delete_list(found)
        del alive
