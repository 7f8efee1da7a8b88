"""Join the results of any program to the structures that were chosen, by their ids and their geometries."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Source
from anipot.data.memory import blocks_of_atoms
from anipot.data.quantities import QUANTITIES, Quantity
from anipot.data.store import StoreWriter
from anipot.sampling.geometry import superpose
from anipot.sampling.picked import ID, text_id

_ID = re.compile(r"id-([0-9a-f]{13})(?![0-9a-f])")
_SHOWN = 5
#: What turns with a molecule.
_TURNING = ("forces", "dipole", "stress", "polarizability")


@dataclass
class JoinReport:
    """What came of the results.

    Attributes
    ----------
    joined
        Structures with labels.
    missing
        Ids of structures without a result.
    problems
        Results that were not used: where, and why.
    """

    joined: int = 0
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.joined} joined"]
        if self.missing:
            parts.append(f"{len(self.missing)} without a result ({_some(self.missing)})")
        if self.problems:
            parts.append(f"{len(self.problems)} results not used ({_some(self.problems)})")
        return ", ".join(parts)


class _Result(NamedTuple):
    where: str
    identity: int | None
    atoms: Any


def join(
    picked: Source,
    results: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    fields: Mapping[str, Any] | None = None,
    tolerance: float = 0.01,
    incomplete: bool = False,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> JoinReport:
    """Write a training set: the structures of ``picked`` with the labels that other programs found for them.

    A result belongs to the structure whose id stands in its ``info["id"]`` or in its path (``id-0123456789abc.out``,
    ``id-0123456789abc/orca.out``). Elements must be the same in the same order. A program may have turned and shifted
    the molecule; labels that have a direction are turned back.

    Parameters
    ----------
    picked
        With the quantity ``id``, as ``sample`` writes it.
    results
        Files that ASE reads, or folders of them. Of a file with an id in its name the last frame counts.
    output
        ``.h5``, the store layout.
    fields
        Names of quantities to ``"key [unit]"`` where a result has them (``"REF_energy [Hartree]"``). By default what
        ASE reads as results of a calculator, in eV and Å.
    tolerance
        How far an atom may be from its place, Å.
    incomplete
        Whether to write what can be joined although structures have no result, or results cannot be used.
    metadata
        Facts to travel along, such as the level of theory.
    overwrite
        Replace an earlier output.

    Returns
    -------
    JoinReport

    Raises
    ------
    DataError
        If something is missing or does not fit, unless ``incomplete``: nothing is written then.
    """
    if "id" not in picked.quantities:
        raise DataError(f"{', '.join(picked.paths)} has no ids; expected what 'anipot sample' wrote")
    where = _rows_of(picked)
    report = JoinReport()
    found: dict[int, tuple[str, dict[str, NDArray[np.float64]]]] = {}
    quantities: dict[str, Quantity] = {}
    for result in _results(results, report, progress):
        _take(result, picked, where, found, quantities, report, fields or {}, tolerance)
    report.joined = len(found)
    report.missing = [text_id(number) for number in where if number not in found]
    if (report.missing or report.problems) and not incomplete:
        raise DataError(f"{report}; nothing was written (incomplete=True writes what there is)")
    facts = {**picked.metadata, **(metadata or {})}
    with StoreWriter(output, {"id": ID} | quantities, facts, overwrite=overwrite) as writer:
        for block in _joined(picked, {number: values for number, (_, values) in found.items()}, quantities):
            writer.append(block)
    return report


def _rows_of(picked: Source) -> dict[int, tuple[int, int]]:
    """Return group and row of each id."""
    where: dict[int, tuple[int, int]] = {}
    for i, group in enumerate(picked.groups):
        for start in range(0, group.size, 4096):
            block = picked.read(i, slice(start, min(start + 4096, group.size)))
            for row, number in enumerate(block.properties["id"], start=start):
                if not np.isfinite(number) or int(number) in where:
                    raise DataError(f"{block.where(row - start)}: the id {number} is missing or stands twice")
                where[int(number)] = (i, row)
    return where


# ---------------------------------------------------------------------------------------------------------------------
# Results


def _results(paths: Sequence[str | os.PathLike[str]], report: JoinReport, progress: bool | None) -> Iterator[_Result]:
    """Yield the frames of all files."""
    import ase.io
    from tqdm import tqdm

    files = [file for path in paths for file in _files(Path(path))]
    for file in tqdm(files, unit="file", disable=None if progress is None else not progress):
        named = _identity_of(str(file))
        try:
            frames = ase.io.read(file, index="-1" if named is not None else ":")
        except Exception as error:  # the readers of ASE raise whatever their parsers stumble over
            report.problems.append(f"{file} cannot be read: {type(error).__name__}: {error}")
            continue
        for i, atoms in enumerate(frames if isinstance(frames, list) else [frames]):
            said = _identity_of(str(atoms.info.get("id", "")))
            yield _Result(
                str(file) if named is not None else f"{file}, frame {i}", said if said is not None else named, atoms
            )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    return [path]


def _identity_of(text: str) -> int | None:
    """Return the id that stands in a text, the last one if there are several.

    >>> _identity_of("results/id-00000000000ff/orca.out")
    255
    """
    found = _ID.findall(text)
    return int(found[-1], 16) if found else None


def _take(
    result: _Result,
    picked: Source,
    where: Mapping[int, tuple[int, int]],
    found: dict[int, tuple[str, dict[str, NDArray[np.float64]]]],
    quantities: dict[str, Quantity],
    report: JoinReport,
    fields: Mapping[str, Any],
    tolerance: float,
) -> None:
    """Keep the labels of a result, or say why not."""
    number = result.identity
    if number is None:
        report.problems.append(f"{result.where} has no id, neither in its info nor in its path")
    elif number not in where:
        report.problems.append(f"{result.where}: {text_id(number)} is not among the structures")
    elif number in found:
        report.problems.append(f"{result.where}: a second result for {text_id(number)}, after {found[number][0]}")
    else:
        group, row = where[number]
        try:
            labels, kinds = _labels(result.atoms, fields)
            rotation = _rotation(result.atoms, picked.read(group, slice(row, row + 1)), tolerance)
        except ValueError as error:
            report.problems.append(f"{result.where} ({text_id(number)}): {error}")
            return
        quantities.update(kinds)
        found[number] = result.where, {name: _turned(name, values, rotation) for name, values in labels.items()}


def _labels(atoms: Any, fields: Mapping[str, Any]) -> tuple[dict[str, NDArray[np.float64]], dict[str, Quantity]]:
    """Return the labels of a frame, in our units."""
    if fields:  # keys may stand among the results of a calculator, in info or in arrays
        results = {} if atoms.calc is None else atoms.calc.results
        atoms = atoms.copy()
        for key, value in results.items():
            is_array = np.ndim(value) > 0 and len(value) == len(atoms)
            (atoms.arrays if is_array else atoms.info).setdefault(key, value)
    blocks, kinds = blocks_of_atoms([atoms], fields)
    values = {name: array[0] for name, array in blocks[0].properties.items() if not np.isnan(array).all()}
    if "energies" not in values:
        known = ", ".join([*({} if atoms.calc is None else atoms.calc.results), *atoms.info]) or "nothing"
        raise ValueError(f"no energy; it holds {known}")
    bad = [name for name, array in values.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"{bad[0]} hold NaN or infinite numbers")
    return values, {name: kinds[name] for name in values}


def _rotation(atoms: Any, structure: Block, tolerance: float) -> NDArray[np.float64]:
    """Return how the result is to be turned to stand like the structure."""
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
    if apart > tolerance:
        raise ValueError(f"an atom is {apart:.3g} Å from its place, however turned; up to {tolerance:g} Å is allowed")
    return rotation


def _turned(name: str, values: NDArray[np.float64], rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    if name not in _TURNING:
        return values
    return rotation @ values @ rotation.T if QUANTITIES[name].shape == (3, 3) else values @ rotation.T


# ---------------------------------------------------------------------------------------------------------------------
# Joined structures


def _joined(
    picked: Source, found: Mapping[int, Mapping[str, NDArray[np.float64]]], quantities: Mapping[str, Quantity]
) -> Iterator[Block]:
    """Yield the structures that have labels, in the order of ``picked``; labels that one lacks are NaN."""
    for i, group in enumerate(picked.groups):
        for start in range(0, group.size, 4096):
            block = picked.read(i, slice(start, min(start + 4096, group.size)))
            ids = block.properties["id"]
            rows = np.flatnonzero([int(number) in found for number in ids])
            if not len(rows):
                continue
            properties = {"id": ids[rows]}
            for name, quantity in quantities.items():
                shape = ((block.num_atoms,) if quantity.per_atom else ()) + quantity.shape
                values = [found[int(ids[row])].get(name) for row in rows]
                properties[name] = np.stack([np.full(shape, np.nan) if v is None else v for v in values])
            yield replace(block.take(rows), properties=properties)


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more
