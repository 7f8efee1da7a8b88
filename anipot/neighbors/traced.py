"""Neighborhoods for ``torch.compile``: checks and search as operations that a compiler does not look into.

Both decide by what is in the tensors, which cannot be traced. As operations of their own they run as ever, errors
included, and hand over pairs whose number the compiler takes as unknown.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anipot.kernels.operations import define_opaque
from anipot.neighbors.pairs import Pairs, check_distances, displacements
from anipot.neighbors.search import find_pairs
from anipot.neighbors.triples import triples
from anipot.structures import System, check_element_indices, check_system


def _unknown() -> Any:
    return torch.library.get_ctx().new_dynamic_size()


def _checked_pairs(
    species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, num_species: int, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    system = check_system(species, coordinates.detach(), None if cell is None else cell.detach(), pbc)
    check_element_indices(system.species, num_species)
    pairs = find_pairs(*system, cutoff)
    check_distances(pairs, displacements(pairs, *system[1:]), species.shape[1])
    shift = pairs.center.new_zeros(len(pairs.center), 3) if pairs.shift is None else pairs.shift
    return pairs.center, pairs.neighbor, shift


def _fake_pairs(species: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    n = _unknown()
    return tuple(species.new_empty(shape, dtype=torch.long) for shape in ((n,), (n,), (n, 3)))  # type: ignore[return-value]


def _fake_triples(center: Tensor, num_centers: int) -> tuple[Tensor, Tensor]:
    n = _unknown()
    return center.new_empty(n), center.new_empty(n)


define_opaque(
    "checked_pairs(Tensor species, Tensor coordinates, Tensor? cell, Tensor? pbc, SymInt num_species, float cutoff) "
    "-> (Tensor, Tensor, Tensor)",
    _checked_pairs,
    _fake_pairs,
)
define_opaque(
    "places(Tensor mask) -> Tensor",
    lambda mask: mask.nonzero().squeeze(1),
    lambda mask: mask.new_empty(_unknown(), dtype=torch.long),
)
define_opaque("triples(Tensor center, SymInt num_centers) -> (Tensor, Tensor)", triples, _fake_triples)

_ops = torch.ops.anipot


def checked_neighborhoods(
    species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, num_species: int, cutoff: float
) -> tuple[System, Pairs, Tensor]:
    """Return a batch with cells (B, 3, 3), or without, its pairs and their vectors (P, 3).

    The errors are those of ``check_system``, ``check_element_indices`` and ``neighborhoods``.
    """
    center, neighbor, shift = _ops.checked_pairs(species, coordinates, cell, pbc, num_species, cutoff)
    num_molecules = species.shape[0]
    cell = None if cell is None else cell.expand(num_molecules, 3, 3)
    pbc = None if pbc is None else pbc.expand(num_molecules, 3)
    pairs = Pairs(center, neighbor, None if cell is None else shift)
    return System(species, coordinates, cell, pbc), pairs, displacements(pairs, coordinates, cell, pbc)


def places(mask: Tensor) -> Tensor:
    """Return where a mask (N,) is true, ascending."""
    return _ops.places(mask) if torch.compiler.is_compiling() else mask.nonzero().squeeze(1)


def all_triples(center: Tensor, num_centers: int) -> tuple[Tensor, Tensor]:
    """Return what ``triples`` does."""
    return _ops.triples(center, num_centers) if torch.compiler.is_compiling() else triples(center, num_centers)
