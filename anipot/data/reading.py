"""Reading rows of a source in blocks, through transforms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from anipot.data.blocks import Block, DataError, Source
from anipot.data.quantities import Quantity
from anipot.data.rows import Rows

#: What is done to a block before it is used: it returns one of as many structures.
Transform = Callable[[Block], Block]
#: Rows that are read at a time.
BLOCK_ROWS = 4096
#: Rows that are read and dropped rather than read around.
_GAP = 256


class Reader:
    """Some rows of a source, with what is done to them on the way out.

    Parameters
    ----------
    source
        What ``open_source`` returns.
    selection
        The rows to read; all by default.
    transforms
        Applied to every block, in this order.
    """

    def __init__(self, source: Source, selection: Rows | None = None, transforms: Sequence[Transform] = ()) -> None:
        self.source = source
        self.transforms = tuple(transforms)
        #: (G + 1,) the row at which each group of the source starts, and the end.
        self.offsets = np.cumsum([0, *(group.size for group in source.groups)], dtype=np.int64)
        self._num_atoms = np.array([group.num_atoms for group in source.groups], dtype=np.int64)
        self.selection = Rows(self.num_rows) if selection is None else selection
        if self.selection.size != self.num_rows:
            raise ValueError(f"the selection is of {self.selection.size} rows, but the source has {self.num_rows}")

    @property
    def num_rows(self) -> int:
        """Rows of the source, whether they belong to this data set or not."""
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return len(self.selection)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """What the blocks hold beside species and coordinates, after the transforms."""
        found = dict(self.source.quantities)
        for transform in self.transforms:
            change = getattr(transform, "quantities", None)
            found = found if change is None else dict(change(found))
        return found

    @property
    def periodic(self) -> bool:
        """Whether any structure of the source may be periodic."""
        return self.source.periodic

    @property
    def fingerprint(self) -> str:
        """What tells sources apart whose rows mean something else: a hash of names and sizes of the groups."""
        text = "\n".join(f"{group.name}\t{group.size}\t{group.num_atoms}" for group in self.source.groups)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of atoms of rows of the source, as the groups state it, without reading them."""
        return self._num_atoms[self.group_of(rows)]

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return in which groups of the source rows stand."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def pieces(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Block]]:
        """Read ascending rows of the source; yield each block with the rows it holds, transformed."""
        if not len(rows):
            return
        group = self.group_of(rows)
        local = rows - self.offsets[group]
        cut = (np.diff(group) != 0) | (np.diff(local // BLOCK_ROWS) != 0) | (np.diff(local) > _GAP)
        edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(rows)]
        for start, stop in pairwise(edges):
            yield rows[start:stop], self._transformed(self._read(int(group[start]), local[start:stop]))

    def _read(self, group: int, wanted: NDArray[np.int64]) -> Block:
        """Return structures of a group; those between them are read along, unless one of these cannot be read."""
        first, last = int(wanted[0]), int(wanted[-1]) + 1
        whole = last - first == len(wanted)
        try:
            block = self.source.read(group, slice(first, last))
            block = block if whole else block.take(wanted - first)
        except DataError:
            if whole:
                raise
            block = self.source.read(group, wanted)
        if len(block) != len(wanted):
            name = self.source.groups[group].name
            raise DataError(f"group {name!r} gave {len(block)} structures for rows {first} … {last - 1}")
        return block

    def _transformed(self, block: Block) -> Block:
        n = len(block)
        for transform in self.transforms:
            block = transform(block)
            if len(block) != n:
                raise DataError(
                    f"the transform {transform!r} made {len(block)} structures of {n}; to leave some out use filter"
                )
        unknown = [name for name in block.properties if self.transforms and name not in self.quantities]
        if unknown:
            raise DataError(
                f"the transforms made {unknown[0]!r}, which the data do not hold; the one that makes it needs a method "
                "quantities, which returns what blocks hold afterwards"
            )
        return block

    def chunks(self, rows: int) -> NDArray[np.int64]:
        """Return where chunks of about that many consecutive rows of the source start, and the end.

        Large groups are cut at multiples of ``rows`` from their start, as files store them; small ones stand together.
        """
        starts = [0]
        for first, last in pairwise(self.offsets.tolist()):
            if last - starts[-1] <= rows:  # joins those before it
                continue
            if first > starts[-1]:
                starts.append(first)
            starts.extend(range(first + rows, last, rows))
        if starts[-1] < self.num_rows:
            starts.append(self.num_rows)
        return np.array(starts, dtype=np.int64)

    def blocks(self, size: int = BLOCK_ROWS, progress: str | None = None) -> Iterator[Block]:
        """Read everything once, in order.

        Parameters
        ----------
        size
            Most structures of a block.
        progress
            What a progress bar says; none by default.
        """
        for _, block in self.numbered_blocks(size, progress):
            yield block

    def numbered_blocks(
        self, size: int = BLOCK_ROWS, progress: str | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Block]]:
        """Read everything once, in order; yield the rows of the source beside each block."""
        bar = tqdm(total=len(self), desc=progress, unit="structures", unit_scale=True, disable=progress is None)
        with bar:
            for start, stop in pairwise(self.chunks(min(size, BLOCK_ROWS)).tolist()):
                for rows, block in self.pieces(self.selection.between(start, stop)):
                    yield rows, block
                    bar.update(len(rows))
