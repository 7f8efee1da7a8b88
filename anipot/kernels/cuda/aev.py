"""The kernels of AEVs: the operations of ``anipot.kernels.aev`` on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from anipot.kernels.cuda.errors import KernelError
from anipot.kernels.cuda.program import Arguments, Program, fill, i64, pointer, precision, program

THREADS, WARPS = 128, 4
#: Angular neighbors that have room in shared memory (near.h).
NEAR = 128
#: Bytes of shared memory that a row of gradients may take.
_STAGED = 24 * 1024
#: Numbers, as a bound, that the kernels keep in shared memory whatever the sizes.
_STATIC_NUMBERS = 2600
#: Angular terms of a pair of elements, which the lanes of a warp keep in registers.
_MOST_TERMS = 2048


class AevArguments(Arguments):
    """Those of both kernels of aev.cu (aev_arguments.h)."""

    _fields_ = (
        ("num_species", i64),
        ("starts", pointer),
        ("counts", pointer),
        ("stride", i64),
        ("neighbor_kind", pointer),
        ("vectors", pointer),
        ("tangents", pointer),
        ("constants", pointer),
        ("radial_column", pointer),
        ("angular_column", pointer),
        ("atom_of", pointer),
        ("first", i64),
        ("width", i64),
        ("features", pointer),
        ("gradient", pointer),
        ("groups", i64),
        ("rows", i64),
        ("radial", i64),
        ("out", pointer),
        ("num_pairs", i64),
        ("scratch", pointer),
        ("triples", i64),
    )


def macros(
    sizes: Sequence[int], dtype: torch.dtype, dual: bool = False, crowded: bool = False, staged: bool = True
) -> dict[str, int]:
    """Return what the source is compiled with, from the sizes of ``anipot.kernels.aev.constants_and_sizes``.

    ``dual`` is for second derivatives, ``crowded`` for atoms that may have more than ``NEAR`` neighbors; rows of
    gradients are ``staged`` in shared memory where they have room.
    """
    _, cutoff_kind, order, *numbers = sizes
    names = ("N_ETAR", "N_SHFR", "N_ETAA", "N_ZETA", "N_SHFA", "N_SHFZ")
    found = dict(zip(names, numbers, strict=True)) | {"SMOOTH_CUTOFF": order if cutoff_kind == 1 else 0}
    options = {"ANIPOT_DUAL": dual, "ANIPOT_CROWDED": crowded, "ANIPOT_UNSTAGED": not staged}
    return found | precision(dtype) | {name: 1 for name, wanted in options.items() if wanted}


def variants() -> list[tuple[str, dict[str, int]]]:
    """Return what the published models need: the name of a source and its macros."""
    published = ([4, 0, 2, 1, 16, 1, 1, 4, 8], [7, 0, 2, 1, 16, 1, 1, 8, 4], [4, 1, 2, 1, 16, 1, 1, 8, 4])
    kinds = ((False, False), (False, True), (True, True))  # of a step; of operations and their second derivatives
    return [
        ("aev", macros(sizes, dtype, dual, crowded))
        for sizes in published
        for dtype in (torch.float32, torch.float64)
        for dual, crowded in kinds
    ]


@cache
def aev_program(
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    dual: bool = False,
    crowded: bool = False,
    staged: bool = True,
) -> Program:
    """Return the source compiled for one set of sizes; options are those of ``macros``."""
    return program("aev", macros(sizes, dtype, dual, crowded, staged), device)


def ready(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device, operations: bool = True) -> bool:
    """Whether the kernels compute AEVs of these sizes: in a step, or as ``operations`` with second derivatives.

    Where they cannot be compiled nothing is ``wanted`` on the device from then on.
    """
    try:
        limit = program("probe", {}, device).shared_limit  # what is too large is not even compiled: it takes a minute
        if not _fits(sizes, dtype, operations, limit):
            return False
        aev_program(sizes, dtype, device, crowded=operations)
    except KernelError:
        return False
    return True


def _fits(sizes: Sequence[int], dtype: torch.dtype, dual: bool, limit: int) -> bool:
    static = (2 if dual else 1) * dtype.itemsize * _STATIC_NUMBERS
    return math.prod(sizes[5:]) <= _MOST_TERMS and static + forward_memory(sizes, dtype, dual, 0)[1] <= limit


def _starts_bytes(sizes: Sequence[int]) -> int:
    return 4 * ((sizes[0] + 4) // 4 * 4)


def forward_memory(sizes: Sequence[int], dtype: torch.dtype, dual: bool, limit: int) -> tuple[int, int]:
    """Return how many triples each warp of the forward kernel takes at once, and the bytes of dynamic shared memory.

    As many as lanes, or what has room in ``limit`` bytes; but one at least.
    """
    *_, n_eta, n_zeta, n_shift, n_angle = sizes
    factors = (n_eta * n_shift + n_zeta * n_angle) | 1
    each = WARPS * factors * dtype.itemsize * (2 if dual else 1)
    triples = max(1, min(32, (limit - _starts_bytes(sizes)) // each))
    return triples, _starts_bytes(sizes) + triples * each


def row_bytes(sizes: Sequence[int], dtype: torch.dtype, width: int, radial: int) -> int:
    """Return the shared memory of a row of gradients (gradient_rows.h); ``radial`` columns are of radial terms."""
    unit, terms = 16 // dtype.itemsize, math.prod(sizes[5:])
    of_pair = (-(-terms // unit) | 1) * unit
    return dtype.itemsize * (-(-radial // unit) * unit + (width - radial) // terms * of_pair)


def backward_bytes(sizes: Sequence[int], dtype: torch.dtype, width: int, radial: int) -> int:
    """Return the dynamic shared memory of the backward kernel."""
    row = row_bytes(sizes, dtype, width, radial)
    return _starts_bytes(sizes) + (row if row <= _STAGED else 0)


def is_staged(sizes: Sequence[int], dtype: torch.dtype, width: int, radial: int) -> bool:
    """Whether a row of gradients is kept in shared memory."""
    return row_bytes(sizes, dtype, width, radial) <= _STAGED


def columns(sizes: Sequence[int], present: Sequence[bool] | None = None) -> tuple[list[int], list[int], int]:
    """Return where the terms of each element, and of each pair of elements, begin; and the width of a row.

    Those of elements that are not ``present`` are left out, which -1 tells; the rest stands in its own order.
    """
    num_species, _, _, *n = sizes
    there = [True] * num_species if present is None else list(present)
    per_radial, per_angular = n[0] * n[1], n[2] * n[3] * n[4] * n[5]
    width, radial = 0, [-1] * num_species
    for e in range(num_species):
        if there[e]:
            radial[e], width = width, width + per_radial
    angular = [-1] * num_species**2
    for e in range(num_species):
        for f in range(e, num_species):
            if there[e] and there[f]:
                angular[e * num_species + f], width = width, width + per_angular
    return radial, angular, width


@cache
def _all_columns(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, int]:
    radial, angular, width = columns(sizes)
    tables = [torch.tensor(values, dtype=torch.int32, device=device) for values in (radial, angular)]
    return tables[0], tables[1], width


def scratch_bytes(num_pairs: int, dtype: torch.dtype, dual: bool) -> int:
    """Return the memory that atoms of more than ``NEAR`` neighbors need."""
    number = dtype.itemsize * (2 if dual else 1)
    return num_pairs * (6 + -(-16 // number)) * number


def call(what: int, pairs: Sequence[Any], gradient: Tensor | None, tangent: Tensor | None) -> Tensor:
    """Return the result of an operation: 0 forward, 1 backward, 2 tangent, 3 backward of the tangent.

    Parameters are those of ``anipot.kernels.aev``.
    """
    center, neighbor_species, vectors, constants, sizes, num_atoms = pairs
    sizes, dtype, device = tuple(map(int, sizes)), vectors.dtype, vectors.device
    forward, dual = what in (0, 2), tangent is not None
    radial, angular, width = _all_columns(sizes, device)
    vectors = vectors.contiguous()
    kinds = neighbor_species.to(torch.int32).contiguous()
    starts = torch.searchsorted(center.contiguous(), torch.arange(num_atoms + 1, device=device))
    tangent = None if tangent is None else tangent.to(dtype).contiguous()
    gradient = None if gradient is None else gradient.to(dtype).contiguous()
    constants = constants.contiguous()
    out = vectors.new_empty((num_atoms, width) if forward else vectors.shape)
    scratch = torch.empty(scratch_bytes(len(center), dtype, dual), dtype=torch.uint8, device=device)
    num_radial = sizes[0] * sizes[3] * sizes[4]
    arguments = fill(
        AevArguments(num_species=sizes[0], width=width, groups=1, rows=num_atoms, radial=num_radial),
        num_pairs=len(center),
        starts=starts,
        neighbor_kind=kinds,
        vectors=vectors,
        tangents=tangent,
        constants=constants,
        radial_column=radial,
        angular_column=angular,
        features=out if forward else None,
        gradient=gradient,
        out=None if forward else out,
        scratch=scratch,
    )
    staged = is_staged(sizes, dtype, width, num_radial)
    found = aev_program(sizes, dtype, device, dual, crowded=True, staged=staged)
    kernel = found.kernel("aev_forward" if forward else "aev_backward")
    if forward:
        arguments.triples, shared = forward_memory(sizes, dtype, dual, kernel.shared_limit)
    else:
        shared = backward_bytes(sizes, dtype, width, num_radial)
    kernel.launch(num_atoms, THREADS, arguments, shared)
    return out
