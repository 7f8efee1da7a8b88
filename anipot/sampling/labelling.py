"""Label the structures of a data set; a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anipot.data.blocks import Block, DataError, Source
from anipot.data.quantities import QUANTITIES
from anipot.data.store import StoreWriter
from anipot.sampling.labellers import Labeller, Labels

#: Seconds of work that a kill may cost.
_FLUSH = 30.0


@dataclass(frozen=True)
class LabelReport:
    """How many structures were labelled, how many failed, how often for which reason, and where all failures stand."""

    labelled: int
    failed: int
    reasons: dict[str, int]
    failures: str | None


def label(
    source: Source,
    output: str | os.PathLike[str],
    labeller: Labeller,
    *,
    keep: Sequence[str] = ("id",),
    metadata: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> LabelReport:
    """Compute labels for all structures of a source and write those that could be labelled.

    Parameters
    ----------
    source
        Structures; labels that they have are not used.
    output
        ``.h5``, the store layout. Failures are listed beside it in ``<output>.failed.jsonl``.
    labeller
        ``PotentialLabeller`` or ``CalculatorLabeller``.
    keep
        Other quantities of the source to carry over, where it has them.
    metadata
        Facts to travel along; ``level_of_theory`` is the name of the labeller if it is not among them.
    resume, overwrite
        Go on with an interrupted run, or replace an earlier file.
    progress
        Whether to show a bar; None asks whether there is a terminal.

    Returns
    -------
    LabelReport

    Raises
    ------
    FileExistsError
        If there is an earlier output and neither ``resume`` nor ``overwrite`` is set.
    DataError
        If a resumed run was begun with another source or labeller.
    """
    from tqdm import tqdm

    output = Path(output)
    if resume and output.exists() and not Path(f"{output}.partial").exists():
        raise FileExistsError(f"{output} is complete; there is nothing to resume")
    kept = [name for name in keep if name in source.quantities and name not in labeller.properties]
    quantities = {name: source.quantities[name] for name in kept} | {n: QUANTITIES[n] for n in labeller.properties}
    facts = {"level_of_theory": labeller.name, "structures": [os.path.basename(p) for p in source.paths]}
    begin: dict[str, Any] = {"run": _digest(source, labeller), "group": 0, "row": 0}
    failed = _Failures(Path(f"{output}.failed.jsonl"))
    quiet = None if progress is None else not progress
    total = sum(group.size for group in source.groups)
    with StoreWriter(output, quantities, facts | dict(metadata or {}), resume=resume, overwrite=overwrite) as writer:
        position: dict[str, Any] = writer.position or begin
        if position["run"] != begin["run"]:
            raise DataError(f"{output}.partial was begun with other structures or another labeller")
        failed.restart(position["group"], position["row"])
        done = sum(group.size for group in source.groups[: position["group"]]) + position["row"]
        written = time.monotonic()
        with tqdm(total=total, initial=done, unit="structure", disable=quiet) as bar:
            for (group, row), (block, labels) in _labelled(source, labeller, position):
                good = _finite(labels, len(block))
                failed.add(block, labels, good, group, row)
                values = {name: block.properties[name] for name in kept} | labels.values
                where = position | {"group": group, "row": row + len(block)}
                writer.append(replace(block, properties=values).take(good), where)
                if time.monotonic() - written > _FLUSH:
                    writer.flush()
                    written = time.monotonic()
                bar.update(len(block))
                bar.set_postfix_str(f"{failed.count} failed" if failed.count else "", refresh=False)
        labelled = writer.rows
    return LabelReport(labelled, failed.count, failed.reasons(), failed.close())


def _labelled(
    source: Source, labeller: Labeller, position: Mapping[str, Any]
) -> Iterator[tuple[tuple[int, int], tuple[Block, Labels]]]:
    """Yield group and first row of each block, and the block with its labels."""
    places: list[tuple[int, int]] = []

    def blocks() -> Iterator[Block]:
        for i, group in enumerate(source.groups):
            if i < position["group"]:
                continue
            first = position["row"] if i == position["group"] else 0
            for row in range(first, group.size, labeller.rows):
                places.append((i, row))
                yield source.read(i, slice(row, min(row + labeller.rows, group.size)))

    for found in labeller.label(blocks()):  # may take blocks ahead, but keeps their order
        yield places.pop(0), found


def _finite(labels: Labels, n: int) -> np.ndarray:
    """Return which of n structures have finite labels and did not fail."""
    good = np.ones(n, dtype=bool)
    for values in labels.values.values():
        good &= np.isfinite(values.reshape(n, -1)).all(1)
    good[list(labels.failures)] = False
    return good


class _Failures:
    """A line of JSON for each structure that could not be labelled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reasons: Counter[str] = Counter()
        self._file: Any = None

    @property
    def count(self) -> int:
        return self._reasons.total()

    def restart(self, group: int, row: int) -> None:
        """Keep what an earlier run listed before this place; the rest is computed again."""
        kept = []
        if (group, row) != (0, 0) and self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the line that a kill cut
                    continue
                if (entry["group"], entry["row"]) < (group, row):
                    kept.append(line + "\n")
                    self._reasons[entry["reason"]] += 1
        new = self.path.with_name(f".{self.path.name}.new")
        new.write_text("".join(kept), "utf-8")
        os.replace(new, self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def add(self, block: Block, labels: Labels, good: np.ndarray, group: int, row: int) -> None:
        for i in np.flatnonzero(~good).tolist():
            reason = labels.failures.get(i, "labels hold NaN or infinite numbers")
            self._reasons[reason] += 1
            entry = {"group": group, "row": row + i, "where": block.where(i), "reason": reason}
            if np.isfinite(block.properties.get("id", np.full(len(block), np.nan))[i]):
                entry["id"] = int(block.properties["id"][i])
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()

    def reasons(self) -> dict[str, int]:
        return dict(self._reasons.most_common())

    def close(self) -> str | None:
        """Return where failures are listed; where there are none, nothing stays."""
        self._file.close()
        if self.count:
            return str(self.path)
        self.path.unlink()
        return None


def _digest(source: Source, labeller: Labeller) -> str:
    files = [(os.path.basename(path), os.path.getsize(path)) for path in source.paths]
    groups = [(group.name, group.size, group.num_atoms) for group in source.groups]
    text = repr((files, groups, labeller.signature, tuple(labeller.properties)))
    return hashlib.sha256(text.encode()).hexdigest()
