"""A source whose rows keep their numbers in the store, for splits that are published as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, Group, Source
from anipot.data.layouts.base import numbers
from anipot.data.quantities import Quantity


class Numbered:
    """A source with one quantity more: ``frame``, the number of a row from the first of all on.

    Parameters
    ----------
    source
        Any source.
    """

    def __init__(self, source: Source):
        self._source = source
        self.sources = getattr(source, "sources", (source,))
        self.layout = source.layout
        self.paths: Sequence[str] = source.paths
        self.groups: Sequence[Group] = source.groups
        self.quantities: Mapping[str, Quantity] = {**source.quantities, "frame": Quantity("frame")}
        self.periodic = source.periodic
        self.metadata: Mapping[str, object] = source.metadata
        self._first = (0, *accumulate(group.size for group in source.groups))

    def read(self, group: int, rows: slice | NDArray[np.int64]) -> Block:
        """Return structures of a group, by a slice or by ascending numbers."""
        block = self._source.read(group, rows)
        frames = self._first[group] + numbers(rows, self.groups[group].size)
        return replace(block, properties={**block.properties, "frame": frames.astype(np.float64)})
