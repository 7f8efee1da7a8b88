"""Blocks of structures into flat tensors, with a last look at what no model could compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anipot.data.blocks import Block, DataError
from anipot.data.packed import Packed
from anipot.data.quantities import Quantity
from anipot.elements import MAX_ATOMIC_NUMBER, symbol


def bytes_per_structure(num_atoms: float, quantities: Iterable[Quantity], dtype: torch.dtype) -> float:
    """Return how much memory a structure of some atoms takes when it is packed."""
    width, per_atom, per_structure = dtype.itemsize, 1 + 3 * dtype.itemsize, 16
    for quantity in quantities:
        size = int(np.prod(quantity.shape))
        if quantity.per_atom:
            per_atom += width * size
        else:
            per_structure += 8 * size
    return num_atoms * per_atom + per_structure


def pack(
    numbered: Iterable[tuple[NDArray[np.int64], Block]],
    quantities: Mapping[str, Quantity],
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
    species, coordinates, sizes, index = [np.full(1, -1, np.int8)], [np.zeros((1, 3), width)], [], []
    cells, pbcs = [np.zeros((0, 3, 3), width)], [np.zeros((0, 3), bool)]
    labels = {name: [_nothing(quantity, width)] for name, quantity in quantities.items()}
    for rows, block in numbered:
        real = _real(block)
        index.append(rows)
        sizes.append(np.full(len(block), block.num_atoms) if real is None else real.sum(axis=1))
        species.append(_flat(block.species, real).astype(np.int8))
        coordinates.append(_flat(block.coordinates, real).astype(width))
        for name, quantity in quantities.items():
            values = _label(block, quantity)
            labels[name].append(_flat(values, real).astype(width) if quantity.per_atom else values)
        if periodic:
            cells.append(np.zeros((len(block), 3, 3), width) if block.cell is None else block.cell.astype(width))
            pbcs.append(np.zeros((len(block), 3), bool) if block.pbc is None else block.pbc)
    ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))
    return Packed(
        torch.from_numpy(ends),
        _joined(species[1:] + species[:1]),  # the ghost goes to the end
        _joined(coordinates[1:] + coordinates[:1]),
        {name: _joined(values[1:] + values[:1]) for name, values in labels.items() if quantities[name].per_atom},
        {name: _joined(values) for name, values in labels.items() if not quantities[name].per_atom},
        _joined([np.zeros(0, np.int64), *index]),
        _joined(cells) if periodic else None,
        _joined(pbcs) if periodic else None,
    )


def _joined(values: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(values))


def _nothing(quantity: Quantity, width: np.dtype[Any]) -> NDArray[Any]:
    """Return what a ghost has of a quantity (1, ...), or no structure (0, ...)."""
    if quantity.per_atom:
        return np.full((1, *quantity.shape), np.nan, width)
    return np.zeros((0, *quantity.shape))


def _flat(values: NDArray[Any], real: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return (n, a, ...) as (N, ...), without ghosts."""
    return values.reshape(-1, *values.shape[2:]) if real is None else values[real]


def _label(block: Block, quantity: Quantity) -> NDArray[np.float64]:
    shape = (len(block), *((block.num_atoms,) if quantity.per_atom else ()), *quantity.shape)
    values = block.properties.get(quantity.name)
    if values is None:
        return np.full(shape, np.nan)
    if values.shape != shape:
        raise DataError(f"{block.where(0)} …: {quantity.name} have shape {values.shape}; expected {shape}")
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
