"""Writing data sets: into this library's layout, extended XYZ, or a database of ASE; what is interrupted goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from anipot.data.blocks import DataError
from anipot.data.memory import ASE_RESULTS, atoms_of_block
from anipot.data.view import DatasetSource, identity
from anipot.elements import atomic_number
from anipot.units import HARTREE_TO_EV

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset

#: Endings of files, and what is then written.
FORMATS = {".h5": "store", ".hdf5": "store", ".xyz": "extxyz", ".extxyz": "extxyz", ".db": "ase_db"}
#: Structures after which an interrupted file goes on.
_STEP = 1000


def save(
    dataset: AtomsDataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = True,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> int:
    """Write a data set to a file, after its transforms, and return the number of structures.

    The file appears when it is whole. A call that was interrupted, by a kill too, is gone on with by the same call.

    Parameters
    ----------
    dataset
        What to write.
    path
        Its ending decides: ``.h5`` this library's layout, in Å and Hartree with units in the file; ``.xyz`` and
        ``.extxyz`` extended XYZ in Å and eV, as ASE has them; ``.db`` a database of ASE in Å and eV, with units,
        shapes and self energies in its metadata as SchNetPack reads them.
    overwrite
        Replace a finished file.
    progress
        Whether to show a bar.
    metadata
        Facts to travel along, for what can hold them; ``self_energies`` by symbol in Hartree among others.
    options
        Of ``anipot.data.store.copy``: ``precision="single"``.

    Raises
    ------
    FileExistsError
        If the file is there.
    DataError
        If what was interrupted is of other data.
    ValueError
        For another ending.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} has the ending {path.suffix!r}; known are {', '.join(FORMATS)}")
    if kind == "store":
        from anipot.data.store import copy

        source = DatasetSource(dataset)
        return copy(source, path, metadata=metadata, overwrite=overwrite, progress=progress, **options)
    if options:
        raise ValueError(f"{', '.join(options)} is for files of this library's layout, .h5")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; overwrite=True replaces it")
    facts = {**dataset.source.metadata, **(metadata or {})}
    write = _write_extxyz if kind == "extxyz" else _write_ase_db
    partial = Path(f"{path}.partial")
    lock = FileLock(f"{partial}.lock", timeout=0)
    try:
        with lock:
            journal = _Journal(partial, identity(dataset))
            write(dataset, partial, journal, facts, progress)
            os.replace(partial, path)
            journal.path.unlink()
    except Timeout as error:
        raise DataError(f"{path} is being written by another process") from error
    Path(lock.lock_file).unlink(missing_ok=True)
    return len(dataset)


class _Journal:
    """How far a file is written, beside it; a file that is there must be of the same data."""

    def __init__(self, partial: Path, data: str) -> None:
        self.path = Path(f"{partial}.json")
        self.facts: dict[str, Any] = {"data": data, "done": 0, "bytes": 0}
        if self.path.exists() and partial.exists():
            found = json.loads(self.path.read_text("utf-8"))
            if found["data"] != data:
                raise DataError(f"{partial} is an interrupted copy of something else; remove it to begin anew")
            if os.path.getsize(partial) >= found["bytes"] > 0:
                self.facts = found
                return
        for begun in (partial, Path(f"{partial}-journal")):  # SQLite would take up the latter
            begun.unlink(missing_ok=True)
        self.write(0, 0)

    def write(self, done: int, size: int) -> None:
        """Say that so many structures are on the disk, in a file of that size."""
        self.facts |= {"done": done, "bytes": size}
        new = Path(f"{self.path}.new")
        new.write_text(json.dumps(self.facts), "utf-8")
        os.replace(new, self.path)


def _chunks(dataset: AtomsDataset, done: int, path: Path, progress: bool) -> Iterator[list[Any]]:
    quantities = dataset.quantities
    with tqdm(total=len(dataset), initial=done, desc=str(path), unit="structures", disable=not progress) as bar:
        for start, stop in pairwise([*range(done, len(dataset), _STEP), len(dataset)]):
            rows = dataset.selection.at(np.arange(start, stop))
            frames = [
                atoms_of_block(block, i, quantities) for _, block in dataset.pieces(rows) for i in range(len(block))
            ]
            yield frames
            bar.update(len(frames))


def _write_extxyz(dataset: AtomsDataset, path: Path, journal: _Journal, facts: Any, progress: bool) -> None:
    from ase.io.extxyz import write_xyz

    path.touch()
    os.truncate(path, journal.facts["bytes"])  # what came after was not yet counted
    done = journal.facts["done"]
    with open(path, "a", encoding="utf-8") as file:
        for frames in _chunks(dataset, done, path, progress):
            write_xyz(file, frames)
            file.flush()
            os.fsync(file.fileno())
            done += len(frames)
            journal.write(done, os.path.getsize(path))


def _write_ase_db(dataset: AtomsDataset, path: Path, journal: _Journal, facts: Any, progress: bool) -> None:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    database = connect(path, type="db", use_lock_file=False)
    if not journal.facts["bytes"]:
        database.metadata = _metadata(dataset, facts)
        journal.write(0, os.path.getsize(path))  # only now are all tables there
    for frames in _chunks(dataset, len(database), path, progress):  # transactions are whole or not there
        with database:
            for atoms in frames:
                results = {} if atoms.calc is None else atoms.calc.results
                arrays = {key: atoms.arrays[key] for key in atoms.arrays if key in dataset.quantities}
                data = {key: np.atleast_1d(value) for key, value in {**atoms.info, **arrays, **results}.items()}
                plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
                if "energy" in results:  # a column, by which ASE can search
                    plain.calc = SinglePointCalculator(plain, energy=results["energy"])
                database.write(plain, data=data)


def _metadata(dataset: AtomsDataset, facts: Mapping[str, Any]) -> dict[str, Any]:
    units, shapes = {}, {}
    for name, quantity in dataset.quantities.items():
        key, unit = ASE_RESULTS.get(name, (name, quantity.unit))
        units[key] = unit.replace("Å", "Ang")  # as SchNetPack spells it
        shapes[key] = list(quantity.shape) or [1]
    kept = {name: fact for name, fact in facts.items() if _is_json(fact)}
    metadata = {"_distance_unit": "Ang", "_property_unit_dict": units, "_property_shape_dict": shapes, **kept}
    references = facts.get("self_energies")
    if isinstance(references, Mapping):
        table = [0.0] * 119
        for element, energy in references.items():
            table[atomic_number(element)] = energy * HARTREE_TO_EV
        metadata["atomrefs"] = {"energy": table}
    return metadata


def _is_json(fact: object) -> bool:
    try:
        json.dumps(fact)
    except (TypeError, ValueError):
        return False
    return True
