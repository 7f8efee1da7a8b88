"""Pools of a data set, read from its files: by this process, or ahead by workers."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from anipot.data.order import Order
from anipot.data.packed import Packed
from anipot.data.packing import pack

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset


class Plan:
    """The pools that workers are to read next, which stay alive from epoch to epoch."""

    pools: list[tuple[int, int]]

    def __init__(self) -> None:
        self.pools = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pools)

    def __len__(self) -> int:
        return len(self.pools)


class PoolReader(Dataset[Any]):
    """Pools of a data set, read from its files: in this process or in a worker."""

    def __init__(self, dataset: AtomsDataset, order: Order, rank: int, world: int, dtype: torch.dtype) -> None:
        self.dataset, self.order, self.rank, self.world, self.dtype = dataset, order, rank, world, dtype
        self._process = os.getpid()

    def __getitem__(self, pool: tuple[int, int]) -> tuple[Packed, Tensor, list[int]]:
        if os.getpid() != self._process and self.dataset.source.paths:  # forked: open files must not be shared
            source = pickle.loads(pickle.dumps(self.dataset.source))
            self.dataset = type(self.dataset)(source, self.dataset.selection, self.dataset.transforms)
            self._process = os.getpid()
        dataset = self.dataset
        batches = self.order.batches(*pool, lambda at: dataset.sizes(dataset.selection.at(at)))
        mine = [batch[self.rank :: self.world] for batch in batches]
        flat = np.concatenate(mine)
        wanted = np.sort(flat)
        rows = dataset.selection.at(wanted)
        atoms = int(dataset.sizes(rows).sum())
        pieces = dataset.pieces(rows)
        packed = pack(pieces, dataset.quantities, len(rows), atoms, self.dtype, dataset.periodic)
        return packed, torch.from_numpy(np.searchsorted(wanted, flat)), [len(batch) for batch in mine]


def num_atoms(dataset: AtomsDataset) -> int:
    """Return how many atoms a data set has, as the groups of its source state it."""
    counts: NDArray[np.int64] = np.diff(dataset.selection.before(dataset.offsets))
    return sum(n * group.num_atoms for n, group in zip(counts.tolist(), dataset.source.groups, strict=True))
