"""Chosen structures as a data set without labels: a store and an extended XYZ file of the same structures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from anipot.data.blocks import Block
from anipot.data.memory import atoms_of_block
from anipot.data.quantities import Quantity
from anipot.data.store import StoreWriter
from anipot.sampling.explore import Pick
from anipot.sampling.state import identity
from anipot.units import HARTREE_TO_KCALMOL

#: Names a structure, for the results of other programs to be joined to: 13 hexadecimal digits as a number.
ID = Quantity("id")
#: ρ = σ/√N of query by committee.
QBC = Quantity("qbc", "Hartree")
#: Structures that are held at a time.
_CHUNK = 1024


def write_picked(
    picks: Callable[[], Iterator[Pick]], output: str | os.PathLike[str], metadata: Mapping[str, Any]
) -> tuple[int, int]:
    """Write picks to ``output`` and, as extended XYZ, beside it; both replace what was there, each in one step.

    Parameters
    ----------
    picks
        Returns the picks from the first on.
    output
        ``.h5``.
    metadata
        Facts to travel along.

    Returns
    -------
    written, duplicates
        A geometry that comes twice is written once.
    """
    from ase.io.extxyz import write_xyz

    seen: set[int] = set()
    duplicates = 0
    output = Path(output)
    text = output.with_suffix(".extxyz")
    new = text.with_name(f".{text.name}.new")
    chosen = picks()
    with open(new, "w") as file, StoreWriter(output, {"id": ID, "qbc": QBC}, metadata, overwrite=True) as writer:
        while chunk := list(islice(chosen, _CHUNK)):
            fresh: list[tuple[int, Pick]] = []
            for pick in chunk:
                number = int(identity(pick.structure), 16)
                if number in seen:
                    duplicates += 1
                else:
                    seen.add(number)
                    fresh.append((number, pick))
            _write_frames(file, write_xyz, fresh)
            for block in _by_size(fresh):
                writer.append(block)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, text)
    return len(seen), duplicates


def text_id(number: float) -> str:
    """Return an id as it stands in file names and extended XYZ, where bare digits would be read as a number.

    >>> text_id(255.0)
    'id-00000000000ff'
    """
    return f"id-{int(number):013x}"


def _write_frames(file: IO[str], write_xyz: Any, picks: list[tuple[int, Pick]]) -> None:
    frames = []
    for number, pick in picks:
        atoms = atoms_of_block(pick.structure, 0)
        atoms.info["id"] = text_id(number)
        if np.isfinite(pick.rho):
            atoms.info["qbc_kcalmol"] = pick.rho
        atoms.info["origin"] = pick.origin
        frames.append(atoms)
    if frames:
        write_xyz(file, frames)


def _by_size(picks: list[tuple[int, Pick]]) -> Iterator[Block]:
    """Put structures of one size, all periodic or all not, into blocks."""
    kinds: dict[tuple[int, bool], list[tuple[int, Pick]]] = {}
    for number, pick in picks:
        kinds.setdefault((pick.structure.num_atoms, pick.structure.pbc is not None), []).append((number, pick))
    for (_, periodic), entries in kinds.items():
        blocks = [pick.structure for _, pick in entries]
        yield Block(
            species=np.concatenate([block.species for block in blocks]),
            coordinates=np.concatenate([block.coordinates for block in blocks]),
            properties={
                "id": np.array([float(number) for number, _ in entries]),
                "qbc": np.array([pick.rho for _, pick in entries]) / HARTREE_TO_KCALMOL,
            },
            cell=np.concatenate([block.cell for block in blocks if block.cell is not None]) if periodic else None,
            pbc=np.concatenate([block.pbc for block in blocks if block.pbc is not None]) if periodic else None,
        )
