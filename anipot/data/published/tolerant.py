"""Reading on where a reader refuses: the records that it refuses are told, the others are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Source
from anipot.data.layouts.base import numbers
from anipot.data.published.bad import Bad


class Tolerant:
    """A source that gives structures without finite coordinates for records that its reader refuses.

    What copies it keeps count of all rows that way, and leaves those out.

    Parameters
    ----------
    source
        Any source.
    bad
        Is told where each such record stands, and why it was refused.
    """

    def __init__(self, source: Source, bad: Bad):
        self._source = source
        self._bad = bad

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, group: int, rows: slice | NDArray[np.int64]) -> Block:
        """Return structures of a group, by a slice or by ascending numbers."""
        try:
            return self._source.read(group, rows)
        except DataError:
            return self._joined(group, [self._one(group, row) for row in numbers(rows, self.groups[group].size)])

    def _one(self, group: int, row: int) -> Block:
        try:
            return self._source.read(group, np.array([row]))
        except DataError as error:
            part = self.groups[group]
            atoms = part.num_atoms
            block = Block(
                np.ones((1, atoms), dtype=np.int64),
                np.full((1, atoms, 3), np.nan),
                {name: np.full(q.shape_of(1, atoms), np.nan) for name, q in self.quantities.items()},
                group=part.name,
                rows=np.array([row]),
                file=self._file(group),
            )
            self._bad(block.where(0), str(error))
            return block

    def _file(self, group: int) -> str:
        for source in getattr(self._source, "sources", (self._source,)):  # of several files, one after the other
            if group < len(source.groups):
                return str(source.paths[0])
            group -= len(source.groups)
        return ""

    def _joined(self, group: int, blocks: Sequence[Block]) -> Block:
        first = blocks[0]
        cells = [block.cell for block in blocks if block.cell is not None]
        pbcs = [block.pbc if block.pbc is not None else np.zeros((1, 3), dtype=np.bool_) for block in blocks]
        return Block(
            np.concatenate([block.species for block in blocks]),
            np.concatenate([block.coordinates for block in blocks]),
            {name: np.concatenate([block.properties[name] for block in blocks]) for name in first.properties},
            np.concatenate([np.zeros((1, 3, 3)) if b.cell is None else b.cell for b in blocks]) if cells else None,
            np.concatenate(pbcs) if cells else None,
            group=self.groups[group].name,
            rows=np.concatenate([block.rows for block in blocks]),
            file=self._file(group),
        )
