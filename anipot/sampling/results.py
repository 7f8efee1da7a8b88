"""Results of other programs: which structure they belong to, and their labels in our units."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError
from anipot.data.memory import blocks_of_atoms
from anipot.data.quantities import QUANTITIES, Quantity
from anipot.sampling.geometry import superpose

_ID = re.compile(r"id-([0-9a-f]{13})(?![0-9a-f])")
#: What turns with a molecule.
_TURNING = ("forces", "dipole", "stress", "polarizability")


class Result(NamedTuple):
    """A frame, where it is from, and the id that is said there; or why there is no frame.

    ``searched`` tells files found in a folder, where others than results stand as well, from those that were named.
    """

    where: str
    searched: bool
    identity: int | None = None
    atoms: Any = None
    error: str = ""


class NoEnergyError(ValueError):
    """A frame without an energy is no result."""


def read_results(
    paths: Sequence[str | os.PathLike[str]], pattern: str = "*", progress: bool | None = None
) -> Iterator[Result]:
    """Yield the frames of files and, as far as their names fit ``pattern``, of the files in folders.

    Of a file with an id in its path the last frame counts.
    """
    import ase.io
    from tqdm import tqdm

    files = [entry for path in paths for entry in _files(Path(path), pattern)]
    for file, searched in tqdm(files, unit="file", disable=None if progress is None else not progress):
        named = identity_of(str(file))
        try:
            frames = ase.io.read(file, index=":" if named is None else "-1:")
        except Exception as error:  # the readers of ASE raise whatever their parsers stumble over
            yield Result(str(file), searched, named, error=f"cannot be read: {type(error).__name__}: {error}")
            continue
        for i, atoms in enumerate(frames):
            said = identity_of(str(atoms.info.get("id", "")))
            where = str(file) if named is not None else f"{file}, frame {i}"
            yield Result(where, searched, named if said is None else said, atoms)


def _files(path: Path, pattern: str) -> list[tuple[Path, bool]]:
    """Return files, and whether they were found in a folder."""
    if path.is_dir():
        return [(file, True) for file in sorted(path.rglob(pattern)) if file.is_file()]
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    return [(path, False)]


def identity_of(text: str) -> int | None:
    """Return the id that stands in a text, the last one if there are several.

    >>> identity_of("results/id-00000000000ff/orca.out")
    255
    """
    found = _ID.findall(text)
    return int(found[-1], 16) if found else None


def labels_of(atoms: Any, fields: Mapping[str, Any]) -> tuple[dict[str, NDArray[np.float64]], dict[str, Quantity]]:
    """Return the labels of a frame in our units, and what they are.

    Parameters
    ----------
    atoms
        As ASE read it.
    fields
        Names of quantities to ``"key [unit]"``; keys stand among the results of the calculator, in info or in arrays.

    Raises
    ------
    NoEnergyError
        If there is no energy.
    ValueError
        If labels hold NaN, or have shapes or units that do not fit.
    """
    results = {} if atoms.calc is None else atoms.calc.results
    held = ", ".join([*results, *atoms.info]) or "nothing"
    if fields:
        atoms = atoms.copy()
        for key, value in results.items():
            atoms.info.setdefault(key, value)
            if np.ndim(value) > 0 and len(value) == len(atoms):  # of atoms, or the dipole of three
                atoms.arrays.setdefault(key, np.asarray(value))
    blocks, kinds = blocks_of_atoms([atoms], fields)
    values = {name: array[0] for name, array in blocks[0].properties.items() if not np.isnan(array).all()}
    if "energies" not in values:
        raise NoEnergyError(f"no energy; it holds {held}")
    bad = [name for name, array in values.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"{bad[0]} hold NaN or infinite numbers")
    return values, {name: kinds[name] for name in values}


def rotation_onto(atoms: Any, structure: Block, tolerance: float) -> NDArray[np.float64]:
    """Return how a result is to be turned to stand like a structure (a block of one).

    Raises
    ------
    ValueError
        If elements are others or in another order, or an atom is farther than ``tolerance``, Å, from its place.
    """
    from ase import Atoms

    species, coordinates = structure.species[0], structure.coordinates[0]
    if atoms.numbers.tolist() != species.tolist():
        expected = Atoms(species).get_chemical_formula(mode="reduce")
        raise ValueError(f"atoms {atoms.get_chemical_formula(mode='reduce')}, expected {expected} in this order")
    apart = float(np.linalg.norm(atoms.positions - coordinates, axis=-1).max(initial=0.0))
    if apart <= tolerance:
        return np.eye(3)
    if structure.pbc is not None and structure.pbc.any():
        raise ValueError(f"an atom is {apart:.3g} Å from its place; up to {tolerance:g} Å is allowed")
    rotation, _, apart = superpose(atoms.positions, coordinates)
    if not apart <= tolerance:
        raise ValueError(f"an atom is {apart:.3g} Å from its place, however turned; up to {tolerance:g} Å is allowed")
    return rotation


def turned(name: str, values: NDArray[np.float64], rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a label of a molecule that is turned."""
    if name not in _TURNING:
        return values
    return rotation @ values @ rotation.T if QUANTITIES[name].shape == (3, 3) else values @ rotation.T
