"""Several files as one source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import missing
from anipot.data.quantities import Quantity


class JoinedSource:
    """Sources one after the other.

    Quantities are those of all of them; where one lacks a label, it is missing (NaN). Facts are those on which all
    agree.

    Raises
    ------
    DataError
        If a quantity of the same name is not the same in all of them.
    """

    rows_of_file = False

    def __init__(self, sources: Sequence[FileSource]):
        self.sources = tuple(sources)
        self.paths: Sequence[str] = tuple(path for source in sources for path in source.paths)
        self.layout = "+".join(dict.fromkeys(source.layout for source in sources))
        self.groups: Sequence[Group] = tuple(group for source in sources for group in source.groups)
        self._first = (0, *accumulate(len(source.groups) for source in sources))
        self.grouped_by_molecule = all(source.grouped_by_molecule for source in sources)
        self.periodic = any(source.periodic for source in sources)
        self.quantities: Mapping[str, Quantity] = _common(sources)
        self.columns = tuple(dict.fromkeys(column for source in sources for column in source.columns))
        first, *others = (source.metadata for source in sources)
        self.metadata: Mapping[str, object] = {
            key: fact for key, fact in first.items() if all(key in other and other[key] == fact for other in others)
        }

    def read(self, group: int, rows: slice | NDArray[np.int64]) -> Block:
        """Return structures of a group, by a slice or by ascending numbers."""
        i = bisect_right(self._first, group) - 1
        block = self.sources[i].read(group - self._first[i], rows)
        absent = {
            name: missing(quantity, len(block), block.num_atoms)
            for name, quantity in self.quantities.items()
            if name not in block.properties
        }
        return replace(block, properties={**block.properties, **absent}) if absent else block

    def close(self) -> None:
        """Close what is open; the next ``read`` opens it again."""
        for source in self.sources:
            source.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.sources))})"


def _common(sources: Sequence[FileSource]) -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for source in sources:
        for name, quantity in source.quantities.items():
            if found.setdefault(name, quantity) != quantity:
                raise DataError(f"{source.path}: {name} is {quantity}, but {found[name]} in files before it")
    return found
