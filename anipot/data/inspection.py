"""Looking at every record of a data set before it is used."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from anipot.data.blocks import Block, DataError
from anipot.data.checks import SHOWN, BadRecord, CheckReport, Checks
from anipot.data.faults import (
    Fault,
    distance_fault,
    label_faults,
    length_faults,
    structure_faults,
    structure_keys,
)
from anipot.data.outliers import TypicalEnergies
from anipot.data.rows import RowsBuilder
from anipot.elements import atomic_numbers

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset

_COLUMNS = ("kind", "file", "group", "index", "row", "message")
_Found = tuple[NDArray[np.int64], Block | DataError]


def check(
    dataset: AtomsDataset, checks: Checks | None = None, log: str | Path | None = None, progress: str | None = None
) -> CheckReport:
    """Look at every record of a data set, as it was before any transform.

    Parameters
    ----------
    dataset
        What to read.
    checks
        What is bad.
    log
        CSV file for all bad records, of which the report shows ten of each kind.
    progress
        What a progress bar says; none by default.

    Examples
    --------
    >>> from anipot.data import AtomsDataset
    >>> x = np.zeros((3, 2, 3))
    >>> x[:, 1, 2] = 0.74, 0.01, np.nan
    >>> print(check(AtomsDataset.from_arrays([1, 1], x)))
    2 of 3 records are bad
      coordinates: 1 (coordinates that are not finite)
        index 2: atom 1 stands at [0.0, 0.0, nan]
      distances: 1 (atoms on top of each other)
        index 1: two atoms are 0.01 Å apart
    """
    raw = type(dataset)(dataset.source, dataset.selection)
    with nullcontext() if log is None else open(log, "w", newline="", encoding="utf-8") as file:
        return _Inspection(raw, checks or Checks(), file).run(progress)


class _Inspection:
    """A look at all records, and what it has found so far."""

    def __init__(self, dataset: AtomsDataset, checks: Checks, log: IO[str] | None) -> None:
        self.dataset, self.checks = dataset, checks
        self.quantities = dataset.quantities
        self.elements = None if checks.elements is None else np.array(atomic_numbers(checks.elements))
        self.report = CheckReport(structures=len(dataset))
        self.bad = RowsBuilder(dataset.num_rows)
        self.shown: Counter[str] = Counter()
        self.log = None if log is None else csv.writer(log)
        if self.log:
            self.log.writerow(_COLUMNS)

    def run(self, progress: str | None) -> CheckReport:
        """Read everything, once or twice."""
        typical = None
        if self.checks.max_deviation is not None and "energies" in self.quantities:
            typical = TypicalEnergies(self._sound(progress), self.checks.max_deviation)
        keys = np.zeros(len(self.dataset) if self.checks.duplicates else 0, dtype=np.uint64)
        done = 0
        for rows, block in self._everything(progress):
            if isinstance(block, DataError):
                self._unreadable(rows, block)
            elif faults := list(length_faults(block, self.quantities)):
                self._bad(faults, rows, block)
            else:
                self._bad(self._faults(block, typical), rows, block)
                if len(keys):
                    keys[done : done + len(rows)] = structure_keys(block)
            done += len(rows)
        self.report.rows = self.bad.rows()
        if len(keys):
            self._duplicates(keys)
        self.report.bad = len(self.report.rows)
        return self.report

    def _everything(self, progress: str | None) -> Iterator[_Found]:
        with tqdm(total=len(self.dataset), desc=progress, unit="structures", disable=progress is None) as bar:
            for start, stop in pairwise(self.dataset.chunks(4096).tolist()):
                for rows, block in readable(self.dataset, self.dataset.selection.between(start, stop)):
                    yield rows, block
                    bar.update(len(rows))

    def _sound(self, progress: str | None) -> Iterator[tuple[NDArray[np.int64], Block]]:
        """Yield what a fit of energies can use."""
        for rows, block in self._everything(progress):
            if isinstance(block, Block) and not list(length_faults(block, self.quantities)):
                bad = np.any([fault.bad for fault in structure_faults(block, None)], axis=0)
                yield rows[~bad], block.take(~bad)

    def _faults(self, block: Block, typical: TypicalEnergies | None) -> list[Fault]:
        faults = list(structure_faults(block, self.elements))
        impossible = np.any([fault.bad for fault in faults], axis=0)
        faults += label_faults(block, self.quantities, self.checks.max_force)
        if self.checks.min_distance is not None:
            near = distance_fault(block, self.checks.min_distance)
            faults.append(near._replace(bad=near.bad & ~impossible))
        if typical is not None and "energies" in block.properties:
            faults.append(typical.fault(block, impossible))
        return faults

    def _bad(self, faults: list[Fault], rows: NDArray[np.int64], block: Block) -> None:
        for fault in faults:
            found = np.flatnonzero(fault.bad)
            self.report.counts[fault.kind] += len(found)
            self.bad.add(rows[found])
            self._tell(fault, found, rows, block)

    def _tell(self, fault: Fault, found: NDArray[np.int64], rows: NDArray[np.int64], block: Block) -> None:
        for i in self._told(fault.kind, found):
            index = int(block.rows[i]) if len(block.rows) else i
            self._write(BadRecord(fault.kind, block.file, block.group, index, int(rows[i]), fault.describe(i)))

    def _told(self, kind: str, found: NDArray[np.int64]) -> list[int]:
        """Return those that are described: all in a log, the first in a report."""
        told: list[int] = (found if self.log else found[: SHOWN - self.shown[kind]]).tolist()
        return told

    def _unreadable(self, rows: NDArray[np.int64], error: DataError) -> None:
        self.bad.add(rows)
        self.report.counts["unreadable"] += len(rows)
        paths = self.dataset.source.paths
        for row in self._told("unreadable", rows):
            number = int(self.dataset.group_of(np.array([row]))[0])
            index = row - int(self.dataset.offsets[number])
            group = self.dataset.source.groups[number].name
            file = paths[0] if len(paths) == 1 else ""
            self._write(BadRecord("unreadable", file, group, index, row, str(error)))

    def _write(self, record: BadRecord) -> None:
        if self.log:
            self.log.writerow([getattr(record, name) for name in _COLUMNS])
        if self.shown[record.kind] < SHOWN:
            self.shown[record.kind] += 1
            self.report.records.append(record)

    def _duplicates(self, keys: NDArray[np.uint64]) -> None:
        """Mark all but the first of equal structures; bad ones are equal to none."""
        selection = self.dataset.selection
        good = np.ones(len(keys), dtype=bool)
        good[selection.before(self.report.rows.between(0, self.dataset.num_rows))] = False
        copies, firsts = repeated(keys, good)
        rows, originals = selection.at(copies), selection.at(firsts)
        self.bad.add(rows)
        self.report.rows = self.bad.rows()
        self.report.counts["duplicates"] = len(rows)
        for found, block in self.dataset.pieces(rows if self.log else rows[:SHOWN]):
            same = originals[np.searchsorted(rows, found)].tolist()
            fault = Fault("duplicates", np.ones(len(found), bool), _same_as(same))
            self._tell(fault, np.arange(len(found)), found, block)


def _same_as(rows: list[int]) -> Callable[[int], str]:
    return lambda i: f"the same as row {rows[i]}"


def repeated(keys: NDArray[np.uint64], good: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of keys that came before, ascending, and where each came first; only good ones count.

    >>> copies, firsts = repeated(np.array([5, 7, 5, 5, 7], dtype=np.uint64), np.array([True, True, True, True, False]))
    >>> copies.tolist(), firsts.tolist()
    ([2, 3], [0, 0])
    """
    order = np.argsort(keys, kind="stable")
    order = order[good[order]]
    again = np.append(False, keys[order][1:] == keys[order][:-1])[: len(order)]
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
    copies, firsts = order[again], order[first[again]]
    place = np.argsort(copies)
    return copies[place], firsts[place]


def readable(dataset: AtomsDataset, rows: NDArray[np.int64]) -> Iterator[_Found]:
    """Read ascending rows of the source; yield those that cannot be read with the error, as few as it concerns."""
    if not len(rows):
        return
    try:
        found = list(dataset.pieces(rows))
    except DataError as error:
        group = dataset.group_of(rows[[0, -1]])
        if len(rows) == 1 or (group[0] == group[1] and _is_lost(dataset, int(group[0]))):
            yield rows, error
            return
        for part in np.array_split(rows, 2):
            yield from readable(dataset, part)
    else:
        yield from found


def _is_lost(dataset: AtomsDataset, group: int) -> bool:
    """Whether nothing of a group can be read, since its arrays do not fit each other."""
    try:
        dataset.source.read(group, slice(0, 0))
    except DataError:
        return True
    return False
