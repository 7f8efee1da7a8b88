"""Join the results of any program to the structures that were chosen, by their ids and their geometries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Source
from anipot.data.quantities import Quantity
from anipot.data.store import StoreWriter
from anipot.sampling.picked import ID, text_id
from anipot.sampling.results import NoEnergyError, Result, labels_of, read_results, rotation_onto, turned

#: Structures that are read at once.
_ROWS = 4096
_SHOWN = 5


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


def join(
    picked: Source,
    results: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    fields: Mapping[str, Any] | None = None,
    pattern: str = "*",
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
        Files that ASE reads, or folders of them. Of a file with an id in its path the last frame counts.
    output
        ``.h5``, the store layout.
    fields
        Names of quantities to ``"key [unit]"`` where a result has them (``"REF_energy [Hartree]"``). By default what
        ASE reads as results of a calculator, in eV and Å.
    pattern
        Which files in folders may be results, such as ``"*.out"``. Those that ASE does not read, and those without an
        energy, are passed over.
    tolerance
        How far an atom may be from its place, Å.
    incomplete
        Whether to write what can be joined although structures have no result, or results cannot be used.
    metadata
        Facts to travel along, such as the level of theory.
    overwrite
        Replace an earlier output.
    progress
        Whether to show a bar; None asks whether there is a terminal.

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
    matched = _Matched(picked, fields or {}, tolerance)
    for result in read_results(results, pattern, progress):
        matched.take(result)
    report = matched.report
    report.joined = len(matched.labels)
    report.missing = [text_id(number) for number in matched.places if number not in matched.labels]
    if (report.missing or report.problems) and not incomplete:
        raise DataError(f"{report}; nothing was written (incomplete=True writes what there is)")
    absent = [name for name in fields or {} if report.joined and name not in matched.quantities]
    if absent:
        keys = ", ".join(f"{name} ({fields[name]!r})" for name in absent if fields)
        raise DataError(f"no result has {keys}; nothing was written")
    facts = {**picked.metadata, **(metadata or {})}
    with StoreWriter(output, {"id": ID} | matched.quantities, facts, overwrite=overwrite) as writer:
        for block in matched.blocks():
            writer.append(block)
    return report


class _Matched:
    """The labels that were found, by id."""

    def __init__(self, picked: Source, fields: Mapping[str, Any], tolerance: float) -> None:
        self._picked, self._fields, self._tolerance = picked, fields, tolerance
        #: Group and row of each id.
        self.places = _places(picked)
        self.labels: dict[int, dict[str, NDArray[np.float64]]] = {}
        self.quantities: dict[str, Quantity] = {}
        self.report = JoinReport()
        self._from: dict[int, str] = {}

    def take(self, result: Result) -> None:
        """Keep the labels of a result, or say why not."""
        try:
            self._take(result)
        except NoEnergyError as error:
            if not result.searched:
                self._refuse(result, str(error))
        except ValueError as error:
            self._refuse(result, str(error))

    def _take(self, result: Result) -> None:
        number = result.identity
        if result.error:
            raise NoEnergyError(result.error)
        labels, kinds = labels_of(result.atoms, self._fields)
        if number is None:
            raise ValueError("no id, neither in its info nor in its path")
        if number not in self.places:
            raise ValueError("not among the structures")
        if number in self.labels:
            raise ValueError(f"a second result, after {self._from[number]}")
        group, row = self.places[number]
        rotation = rotation_onto(result.atoms, self._picked.read(group, slice(row, row + 1)), self._tolerance)
        self.quantities.update(kinds)
        self.labels[number] = {name: turned(name, values, rotation) for name, values in labels.items()}
        self._from[number] = result.where

    def _refuse(self, result: Result, reason: str) -> None:
        what = "" if result.identity is None else f" ({text_id(result.identity)})"
        self.report.problems.append(f"{result.where}{what}: {reason}")

    def blocks(self) -> Iterator[Block]:
        """Yield the structures that have labels, in the order of ``picked``; labels that one lacks are NaN."""
        for block in _blocks(self._picked):
            rows = np.flatnonzero([int(number) in self.labels for number in block.properties["id"]])
            if len(rows):
                chosen = block.take(rows)
                yield replace(chosen, properties=self._properties(chosen))

    def _properties(self, block: Block) -> dict[str, NDArray[np.float64]]:
        ids = block.properties["id"]
        properties = {"id": ids}
        for name, quantity in self.quantities.items():
            missing = np.full(((block.num_atoms,) if quantity.per_atom else ()) + quantity.shape, np.nan)
            properties[name] = np.stack([self.labels[int(number)].get(name, missing) for number in ids])
        return properties


def _places(picked: Source) -> dict[int, tuple[int, int]]:
    places: dict[int, tuple[int, int]] = {}
    for i, group in enumerate(picked.groups):
        for start in range(0, group.size, _ROWS):
            block = picked.read(i, slice(start, min(start + _ROWS, group.size)))
            for row, number in enumerate(block.properties["id"], start=start):
                if not np.isfinite(number) or int(number) in places:
                    raise DataError(f"{block.where(row - start)}: the id {number} is missing or stands twice")
                places[int(number)] = (i, row)
    return places


def _blocks(picked: Source) -> Iterator[Block]:
    for i, group in enumerate(picked.groups):
        for start in range(0, group.size, _ROWS):
            yield picked.read(i, slice(start, min(start + _ROWS, group.size)))


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more
