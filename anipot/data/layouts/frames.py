"""Structures that come one by one, as Atoms of ASE, put together by size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts.columns import Column, Fields, missing, species, values
from anipot.data.quantities import Field

#: Frames that are looked at for what a file holds.
_PROBED = 20
#: Arrays of ASE that are the structure, not labels.
_STRUCTURE = ("numbers", "positions")


def by_size(sizes: NDArray[np.int64]) -> tuple[tuple[Group, ...], tuple[NDArray[np.int64], ...]]:
    """Return one group for each number of atoms, and the numbers of the frames in it.

    >>> groups, frames = by_size(np.array([3, 5, 3]))
    >>> groups[0], frames[0].tolist()
    (Group(name='003', size=2, num_atoms=3), [0, 2])
    """
    order = np.argsort(sizes, kind="stable")
    atoms, starts = np.unique(sizes[order], return_index=True)
    frames = np.split(order, starts[1:])
    groups = (Group(f"{n:03d}", len(part), n) for n, part in zip(atoms.tolist(), frames, strict=True))
    return tuple(groups), tuple(frames)


def spread(total: int) -> NDArray[np.int64]:
    """Return some frames all over a file, which are looked at for what it holds."""
    return np.unique(np.linspace(0, total - 1, min(_PROBED, total)).astype(np.int64))


def probe(read: Callable[[NDArray[np.int64]], list[dict[str, Any]]], frames: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return what frames hold, without those that cannot be read: a file may be opened to find out which these are.

    Raises
    ------
    DataError
        If none of them can be read.
    """
    try:
        return read(frames)
    except DataError:
        found: list[dict[str, Any]] = []
        for frame in frames if len(frames) > 1 else ():
            with suppress(DataError):
                found += read(np.array([frame]))
        if not found:
            raise
        return found


def keys_of(
    probed: Iterable[Mapping[str, Any]], fields: Fields | None, search: Callable[[str], Iterable[Mapping[str, Any]]]
) -> set[str]:
    """Return the keys of some frames, and those that the user names if ``search`` comes upon a frame with them."""
    found = {key for entry in probed for key in entry}
    for name, value in (fields or {}).items():
        key = Field.parse(name, value).key
        if key not in found and any(key in entry for entry in search(key)):
            found.add(key)
    return found


def labels(atoms: Atoms) -> dict[str, Any]:
    """Return all that may be a label, wherever ASE puts it: results of a calculator, arrays, info."""
    found: dict[str, Any] = dict(atoms.info)
    found.update((key, array) for key, array in atoms.arrays.items() if key not in _STRUCTURE)
    if atoms.calc is not None:
        found.update((key, result) for key, result in atoms.calc.results.items() if result is not None)
    return found


def block(
    frames: Sequence[Atoms],
    found: Sequence[Mapping[str, Any]],
    rows: NDArray[np.int64],
    columns: Sequence[Column],
    length: float,
    group: Group,
    file: str,
) -> Block:
    """Return frames of one size as a block.

    Parameters
    ----------
    frames
        Structures of ``group.num_atoms`` atoms.
    found
        Their labels. One that a frame lacks is missing: NaN.
    rows
        Numbers of the frames in the file.
    columns, length
        What to take of the labels; factor from lengths of the file to Å.

    Raises
    ------
    DataError
        For a label of another shape, with the number of its frame.
    """
    n, a = len(frames), group.num_atoms
    where = [f"{file}, frame {row}" for row in rows.tolist()]
    for atoms, place in zip(frames, where, strict=True):
        if len(atoms) != a:
            raise DataError(f"{place}: {len(atoms)} atoms, expected {a}")
    properties = {c.quantity.name: missing(c.quantity, n, a) for c in columns}
    for i, (entry, place) in enumerate(zip(found, where, strict=True)):
        for column in columns:
            if (value := entry.get(column.key)) is not None:
                # some programs write an axis for the one structure
                array = value if np.shape(value) == column.quantity.shape_of(1, a) else [value]
                properties[column.quantity.name][i] = values(array, column, 1, a, place, ase=True)[0]
    pbc = np.array([atoms.pbc for atoms in frames], dtype=np.bool_).reshape(n, 3)
    return Block(
        np.stack([species(atoms.numbers, place, "numbers") for atoms, place in zip(frames, where, strict=True)])
        if n
        else np.zeros((0, a), np.int64),
        np.array([atoms.positions for atoms in frames]).reshape(n, a, 3) * length,
        properties,
        cell=np.array([atoms.cell.array for atoms in frames]) * length if pbc.any() else None,
        pbc=pbc if pbc.any() else None,
        group=group.name,
        rows=rows,
        file=file,
    )
