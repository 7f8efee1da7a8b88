"""How a file of this library's layout is laid down: one array for each quantity and size, in chunks, compressed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import h5py
import numpy as np

from anipot.data.blocks import Block, DataError
from anipot.data.layouts.store import FORMAT, VERSION
from anipot.data.quantities import Quantity
from anipot.elements import MAX_ATOMIC_NUMBER

Precision = Literal["double", "single"]
#: A chunk is the least that is read: at most this many rows and bytes.
_ROWS, _BYTES = 1024, 2**20
_COMPRESSED: Mapping[str, Any] = {"compression": "lzf", "shuffle": True, "fletcher32": True}


def write_file(
    path: str | os.PathLike[str],
    quantities: Mapping[str, Quantity],
    totals: Mapping[int, int],
    blocks: Callable[[int], Iterable[Block]],
    facts: Mapping[str, Any],
    identity: str,
    precision: Precision = "double",
) -> None:
    """Write a whole file, to disk.

    Parameters
    ----------
    path
        A file that nobody reads yet.
    quantities
        What is written.
    totals
        Numbers of structures by number of atoms.
    blocks
        Gives the structures of a size in order, as often as it is asked.
    facts
        What goes under ``/_meta`` as JSON, by name.
    identity
        Tells one file from another of the same path.
    precision
        Of coordinates and of labels that are no scalars of a structure.
    """
    with h5py.File(path, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, grouping="by_num_atoms", id=identity)
        file.attrs["quantities"] = quantities_to_json(quantities)
        for name, fact in facts.items():
            file.create_dataset(f"_meta/{name}", data=json.dumps(fact), dtype=h5py.string_dtype())
        for atoms in sorted(totals):
            _write_group(file.create_group(f"{atoms:03d}"), quantities, totals[atoms], atoms, blocks(atoms), precision)
        file.flush()
    with open(path, "rb+") as written:
        os.fsync(written.fileno())


def quantities_to_json(quantities: Mapping[str, Quantity]) -> str:
    """Return quantities as they stand in the attribute of a file."""
    return json.dumps(
        {q.name: {"unit": q.unit, "per_atom": q.per_atom, "shape": list(q.shape)} for q in quantities.values()}
    )


def check_block(block: Block, quantities: Mapping[str, Quantity]) -> None:
    """Refuse a block whose arrays do not fit each other or what is to be written.

    Raises
    ------
    DataError
        Naming the array and both shapes.
    """
    n, atoms = block.species.shape
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {"coordinates": (block.coordinates, (n, atoms, 3))}
    if block.cell is not None or block.pbc is not None:
        expected |= {"cell": (block.cell, (n, 3, 3)), "pbc": (block.pbc, (n, 3))}
    if block.species.size and not 1 <= block.species.min() <= block.species.max() <= MAX_ATOMIC_NUMBER:
        raise DataError(f"{block.where(0)}: species that are no elements")
    for name, array in block.properties.items():
        if name not in quantities:
            raise DataError(f"{block.where(0)}: {name!r} is not among {', '.join(quantities) or 'no quantities'}")
        expected[name] = array, quantities[name].shape_of(n, atoms)
    for name, (array, shape) in expected.items():
        if np.shape(array) != shape:
            raise DataError(f"{block.where(0)}: {name} has the shape {np.shape(array)}, expected {shape}")


def _write_group(
    group: h5py.Group,
    quantities: Mapping[str, Quantity],
    n: int,
    atoms: int,
    blocks: Iterable[Block],
    precision: Precision,
) -> None:
    narrow = "f4" if precision == "single" else "f8"
    _create(group, "species", "i1", (n, atoms), n)
    _create(group, "coordinates", narrow, (n, atoms, 3), n, "Å")
    for quantity in quantities.values():
        shape = quantity.shape_of(n, atoms)
        _create(group, quantity.name, narrow if len(shape) > 1 else "f8", shape, n, quantity.unit)
    row = 0
    for block in blocks:
        rows = slice(row, row + len(block))
        group["species"][rows] = block.species
        group["coordinates"][rows] = block.coordinates
        for name in quantities:
            group[name][rows] = block.properties.get(name, np.nan)
        if block.cell is not None:
            if "cell" not in group:  # zero, and not periodic, for those before and after that have none
                _create(group, "cell", "f8", (n, 3, 3), n, "Å")
                _create(group, "pbc", "u1", (n, 3), n)
            group["cell"][rows] = block.cell
            group["pbc"][rows] = block.pbc
        row += len(block)
    assert row == n, f"{row} rows of {atoms} atoms, expected {n}"


def _create(group: h5py.Group, name: str, dtype: str, shape: tuple[int, ...], n: int, unit: str | None = None) -> None:
    bytes_of_row = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
    rows = max(1, min(n, _ROWS, _BYTES // max(bytes_of_row, 1)))
    data = group.create_dataset(
        name, shape, dtype, maxshape=(None, *shape[1:]), chunks=(rows, *shape[1:]), **_COMPRESSED
    )
    if unit is not None:
        data.attrs["units"] = unit
