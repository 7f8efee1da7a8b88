"""Blocks of structures into flat tensors, with a last look at what no model could compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError
from anipot.data.packed import Packed
from anipot.data.quantities import Quantity
from anipot.elements import MAX_ATOMIC_NUMBER, symbol


def packed_bytes(structures: int, atoms: int, quantities: Iterable[Quantity], dtype: torch.dtype) -> int:
    """Return how much memory structures take when they are packed.

    >>> packed_bytes(10, 100, [Quantity("forces", per_atom=True, shape=(3,))], torch.float32)
    2660
    """
    per_atom, per_structure = 1 + 3 * dtype.itemsize, 16
    for quantity in quantities:
        size = int(np.prod(quantity.shape))
        if quantity.per_atom:
            per_atom += dtype.itemsize * size
        else:
            per_structure += 8 * size
    return structures * per_structure + atoms * per_atom


def pack(
    numbered: Iterable[tuple[NDArray[np.int64], Block]],
    quantities: Mapping[str, Quantity],
    structures: int,
    atoms: int,
    dtype: torch.dtype = torch.float32,
    periodic: bool = False,
) -> Packed:
    """Put blocks into flat tensors.

    Parameters
    ----------
    numbered
        Rows of the source and the blocks that hold them.
    quantities
        What the properties are. Properties that a block lacks are missing labels.
    structures, atoms
        How many there are in all, ghosts included: memory is taken once, before the first block is read.
    dtype
        Of coordinates, cells, and properties that atoms have each.
    periodic
        Whether to hold cells.

    Raises
    ------
    DataError
        For what no model can compute: coordinates that are not finite, numbers that are no element, ghosts before
        atoms, and properties of another shape. File, group and index are named.
    """
    width = np.dtype(str(dtype).removeprefix("torch."))
    start, index = np.zeros(structures + 1, np.int64), np.empty(structures, np.int64)
    species, coordinates = np.empty(atoms + 1, np.int8), np.empty((atoms + 1, 3), width)
    cell = np.zeros((structures, 3, 3), width) if periodic else None
    pbc = np.zeros((structures, 3), bool) if periodic else None
    labels = {
        name: np.empty((atoms + 1, *quantity.shape), width)
        if quantity.per_atom
        else np.empty((structures, *quantity.shape))
        for name, quantity in quantities.items()
    }
    n = a = 0
    for rows, block in numbered:
        real = _real(block)
        sizes = np.full(len(block), block.num_atoms) if real is None else real.sum(axis=1)
        mine = slice(n, n + len(block))
        theirs = slice(a, a + int(sizes.sum()))
        index[mine], start[n + 1 : mine.stop + 1] = rows, a + np.cumsum(sizes)
        species[theirs], coordinates[theirs] = _flat(block.species, real), _flat(block.coordinates, real)
        for name, quantity in quantities.items():
            values = _label(block, name, quantity)
            labels[name][theirs if quantity.per_atom else mine] = _flat(values, real) if quantity.per_atom else values
        if cell is not None and pbc is not None and block.cell is not None and block.pbc is not None:
            cell[mine], pbc[mine] = block.cell, block.pbc
        n, a = mine.stop, theirs.stop
    species[a], coordinates[a] = -1, 0.0  # the ghost
    for name, quantity in quantities.items():
        if quantity.per_atom:
            labels[name][a] = np.nan
    tensors = {name: torch.from_numpy(values) for name, values in labels.items()}
    return Packed(
        torch.from_numpy(start),
        torch.from_numpy(species[: a + 1]),
        torch.from_numpy(coordinates[: a + 1]),
        {name: values[: a + 1] for name, values in tensors.items() if quantities[name].per_atom},
        {name: values for name, values in tensors.items() if not quantities[name].per_atom},
        torch.from_numpy(index),
        None if cell is None else torch.from_numpy(cell),
        None if pbc is None else torch.from_numpy(pbc),
    )


def _flat(values: NDArray[Any], real: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return (n, a, ...) as (N, ...), without ghosts."""
    return values.reshape(-1, *values.shape[2:]) if real is None else values[real]


def _label(block: Block, name: str, quantity: Quantity) -> NDArray[np.float64]:
    shape = (len(block), *((block.num_atoms,) if quantity.per_atom else ()), *quantity.shape)
    values = block.properties.get(name)
    if values is None:
        return np.full(shape, np.nan)
    if values.shape != shape:
        raise DataError(f"{block.where(0)} …: {name} have shape {values.shape}; expected {shape}")
    return values


def _real(block: Block) -> NDArray[np.bool_] | None:
    """Return (n, a) which atoms are no ghosts, None if all are; refuse what no model can compute."""
    species = block.species
    real: NDArray[np.bool_] | None = None
    if species.size and not (species.min() > 0 and species.max() <= MAX_ATOMIC_NUMBER):
        real = species > 0
        followed = np.maximum.accumulate(real[:, ::-1], axis=1)[:, ::-1]  # by an atom, or is one
        unknown = (species < -1) | (species > MAX_ATOMIC_NUMBER) | (followed & ~real)
        _refuse(block, unknown, lambda i, j: f"is {symbol(int(species[i, j]))}; ghosts, -1, may only follow the atoms")
    bad = np.logical_not(np.isfinite(block.coordinates).all(axis=2))
    if real is not None:
        bad = bad & real
    _refuse(block, bad, lambda i, j: f"stands at {block.coordinates[i, j].tolist()}; expected finite coordinates in Å")
    return None if real is None or bool(real.all()) else real


def _refuse(block: Block, bad: NDArray[np.bool_], message: Callable[[int, int], str]) -> None:
    if bad.any():
        i, j = np.argwhere(bad)[0].tolist()
        raise DataError(
            f"{block.where(i)}: atom {j} {message(i, j)}. AtomsDataset.checked(on_bad='skip') leaves such records out"
        )
