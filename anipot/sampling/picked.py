"""Chosen structures as a data set without labels: a store and an extended XYZ file of the same structures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.memory import atoms_of_block
from anipot.data.quantities import Quantity
from anipot.data.store import StoreWriter
from anipot.sampling.explore import Picks
from anipot.sampling.state import identities
from anipot.units import HARTREE_TO_KCALMOL

#: Names a structure, for the results of other programs to be joined to: 13 hexadecimal digits as a number.
ID = Quantity("id")
#: ρ = σ/√N of query by committee.
QBC = Quantity("qbc", "Hartree")


def write_picked(
    picks: Iterable[Picks], output: str | os.PathLike[str], metadata: Mapping[str, Any], text: bool = True
) -> tuple[int, int]:
    """Write picks to ``output`` and, as extended XYZ, beside it; both replace what was there, each in one step.

    Parameters
    ----------
    picks
        In the order in which they are written.
    output
        ``.h5``.
    metadata
        Facts to travel along.
    text
        Whether to write extended XYZ.

    Returns
    -------
    written, duplicates
        A geometry that comes twice is written once.
    """
    seen: set[float] = set()
    duplicates = 0
    output = Path(output)
    beside = output.with_suffix(".extxyz") if text else None
    with (
        _replacing(beside) as file,
        StoreWriter(output, {"id": ID, "qbc": QBC}, metadata, overwrite=True) as writer,
    ):
        for part in picks:
            ids = identities(part.structures)
            fresh = _fresh(ids, seen)
            duplicates += len(ids) - len(fresh)
            block = _with_labels(part.structures, ids, part.rho).take(fresh)
            if file is not None:
                _write_frames(file, block, [part.origins[i] for i in fresh])
            writer.append(block)
    return len(seen), duplicates


def text_id(number: float) -> str:
    """Return an id as it stands in file names and extended XYZ, where bare digits would be read as a number.

    >>> text_id(255.0)
    'id-00000000000ff'
    """
    return f"id-{int(number):013x}"


def _fresh(ids: NDArray[np.float64], seen: set[float]) -> NDArray[np.int64]:
    """Return the rows whose ids were not there before, and remember them."""
    rows = []
    for row, number in enumerate(ids.tolist()):
        if number not in seen:
            seen.add(number)
            rows.append(row)
    return np.array(rows, dtype=np.int64)


def _with_labels(block: Block, ids: NDArray[np.float64], rho: NDArray[np.float64]) -> Block:
    properties = {"id": ids, "qbc": rho / HARTREE_TO_KCALMOL}
    return Block(block.species, block.coordinates, properties, block.cell, block.pbc)


def _write_frames(file: IO[str], block: Block, origins: list[str]) -> None:
    from ase.io.extxyz import write_xyz

    frames = []
    bare = Block(block.species, block.coordinates, {}, block.cell, block.pbc)
    for i, origin in enumerate(origins):
        atoms = atoms_of_block(bare, i)
        atoms.info["id"] = text_id(block.properties["id"][i])
        rho = float(block.properties["qbc"][i]) * HARTREE_TO_KCALMOL
        if np.isfinite(rho):
            atoms.info["qbc_kcalmol"] = rho
        atoms.info["origin"] = origin
        frames.append(atoms)
    if frames:
        write_xyz(file, frames)


@contextmanager
def _replacing(path: Path | None) -> Iterator[IO[str] | None]:
    """Open a new file that takes the place of an old one when it is whole."""
    if path is None:
        yield None
        return
    new = path.with_name(f".{path.name}.new")
    with open(new, "w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
