"""A data set as a source: some rows, after their transforms, to be copied into another file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, Group
from anipot.data.quantities import Quantity

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset


class DatasetSource:
    """The structures of a data set, in the groups of its source, without those that were left out.

    Parameters
    ----------
    dataset
        What to show.
    """

    def __init__(self, dataset: AtomsDataset) -> None:
        self._dataset = dataset
        source = dataset.source
        self.layout = source.layout
        self.paths: Sequence[str] = source.paths
        #: Where each group starts among the structures of the data set.
        self._edges: NDArray[np.int64] = dataset.selection.before(dataset.offsets)
        counts = np.diff(self._edges).tolist()
        self.groups: Sequence[Group] = [replace(g, size=n) for g, n in zip(source.groups, counts, strict=True)]
        self.quantities: Mapping[str, Quantity] = dataset.quantities
        self.periodic = source.periodic
        self.metadata: Mapping[str, object] = source.metadata
        self.grouped_by_molecule = getattr(source, "grouped_by_molecule", False)
        self.rows_of_file = getattr(source, "rows_of_file", False)
        #: Where the file has the quantities; not known of what transforms made.
        self.columns = () if dataset.transforms else getattr(source, "columns", ())
        #: Tells what this gives from what other selections and transforms give.
        self.identity = identity(dataset)

    def read(self, group: int, rows: slice | NDArray[np.int64]) -> Block:
        """Return structures of a group, by a slice or by ascending numbers among those that are left."""
        numbers = np.arange(self.groups[group].size)[rows]
        if not len(numbers):
            return self._dataset.source.read(group, slice(0, 0))
        wanted = self._dataset.selection.at(self._edges[group] + numbers)
        return joined([block for _, block in self._dataset.pieces(wanted)])


def joined(blocks: Sequence[Block]) -> Block:
    """Return blocks of equally large structures as one; properties that one of them lacks are missing labels."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    names = dict.fromkeys(name for block in blocks for name in block.properties)
    like = {name: next(b.properties[name] for b in blocks if name in b.properties) for name in names}
    properties = {
        name: np.concatenate(
            [block.properties.get(name, np.full((len(block), *like[name].shape[1:]), np.nan)) for block in blocks]
        )
        for name in names
    }
    periodic = any(block.cell is not None for block in blocks)
    cells = [np.zeros((len(b), 3, 3)) if b.cell is None else b.cell for b in blocks]
    pbcs = [np.zeros((len(b), 3), dtype=bool) if b.pbc is None else b.pbc for b in blocks]
    return replace(
        first,
        species=np.concatenate([block.species for block in blocks]),
        coordinates=np.concatenate([block.coordinates for block in blocks]),
        properties=properties,
        cell=np.concatenate(cells) if periodic else None,
        pbc=np.concatenate(pbcs) if periodic else None,
        rows=np.concatenate([block.rows for block in blocks]),
    )


def identity(dataset: AtomsDataset) -> str:
    """Return a hash of all that decides what a data set gives: files, rows, quantities, transforms."""
    files = [(os.path.basename(path), os.path.getsize(path)) for path in dataset.source.paths]
    memory = getattr(dataset.source, "digest", None)  # of a source without files
    text = repr((files, memory, dataset.fingerprint, sorted(dataset.quantities), dataset.transforms))
    digest = hashlib.sha256(text.encode())
    size = dataset.num_rows
    for start, stop in pairwise([*range(0, size, 1 << 22), size]):
        digest.update(dataset.selection.between(start, stop).tobytes())
    return digest.hexdigest()
