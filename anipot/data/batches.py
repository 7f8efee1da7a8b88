"""Batches: shuffled, sorted by size, shared by processes, resumable, held in memory or read by workers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anipot.data.order import Order
from anipot.data.packed import Batch, Packed
from anipot.data.packing import pack, packed_bytes
from anipot.data.pools import Plan, PoolReader, num_atoms

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset

#: Consecutive rows that stay together in a pool when a data set is streamed. Neighbours in a file are alike, and a
#: batch should not consist of them; fewer cost more time to read.
CHUNK_ROWS = 256
#: Batches, and structures, of a pool at least.
POOL_BATCHES, POOL_ROWS = 32, 131072
#: Data sets that take less are held in memory.
MEMORY = 1 << 30


class Batches:
    """The batches of an epoch, each time it is iterated over.

    The order is a function of ``seed`` and the epoch alone: neither workers nor the number of processes change which
    structures a global batch holds.

    Parameters
    ----------
    dataset
        What to read.
    batch_size
        Structures of a batch on each process; the global batch holds ``batch_size`` · ``world``.
    shuffle
        Whether every epoch has a random order of its own.
    seed
        Of that order.
    bucket
        Whether batches hold structures of similar size. Pools of 32 batches or 131 072 structures, whichever is more,
        are drawn at random and sorted, so that any structure may meet any other of its size.
    drop_last
        Whether to leave out the batch that is not full.
    rank, world
        Every process takes each ``world``-th structure of the global batch. The last batch may leave some of them
        with no structure at all.
    workers
        Processes that read ahead. They are used only where the data do not fit into ``memory``.
    dtype
        Of coordinates, cells, and labels that atoms have each; labels of structures are float64.
    memory
        Bytes. Data sets that take less when packed are read once and held, by every process, after all transforms.
        Larger ones are read anew in every epoch, by random chunks of 256 consecutive rows; one pool is in memory, and
        one or two for each worker.

    Attributes
    ----------
    epoch
        Of the next iteration. It is counted up at the end of each; ``set_epoch`` sets it.
    held
        Whether the data are held in memory.

    Raises
    ------
    ValueError
        For a batch size, rank or world that make no sense, and for an empty data set.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([8, 1, 1], np.zeros((10, 3, 3)), energies=np.arange(10))
    >>> batches = dataset.batches(4, shuffle=True, seed=3)
    >>> len(batches), [len(batch) for batch in batches], sorted(i for b in batches for i in b.index.tolist())
    (3, [4, 4, 2], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    def __init__(
        self,
        dataset: AtomsDataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        bucket: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        dtype: torch.dtype = torch.float32,
        memory: int = MEMORY,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world or workers < 0:
            raise ValueError(
                f"batch_size must be at least 1, rank in 0 … world - 1 and workers at least 0; "
                f"got {batch_size}, {rank} of {world}, {workers}"
            )
        if not len(dataset):
            raise ValueError("the data set is empty; there are no batches")
        self.dataset, self.batch_size, self.workers, self.dtype = dataset, batch_size, workers, dtype
        self.rank, self.world = rank, world
        atoms, quantities = num_atoms(dataset), dataset.quantities
        self.held = packed_bytes(len(dataset), atoms, quantities.values(), dtype) <= memory
        edges = None if self.held else dataset.selection.before(dataset.chunks(CHUNK_ROWS))
        batch = batch_size * world
        pool = batch * max(POOL_BATCHES, -(-POOL_ROWS // batch))
        self.order = Order(len(dataset), batch, pool, shuffle, bucket, drop_last, seed, edges)
        if not len(self.order):
            raise ValueError(f"{len(dataset)} structures make no batch of {batch}, and drop_last leaves out the rest")
        self.epoch = 0
        self._done = 0  # batches of this epoch that were handed out
        self._resumed = False
        self._packed: Packed | None = None
        self._loader: DataLoader[Any] | None = None
        self._plan = Plan()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.order)

    #: Lightning looks for one where there is a ``sampler``.
    batch_sampler = None

    @property
    def sampler(self) -> Batches:
        """Itself: Lightning calls ``sampler.set_epoch`` before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; if it is the one of a state just loaded, stay where that is."""
        if epoch != self.epoch:
            self.epoch, self._done, self._resumed = int(epoch), 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return where in which epoch it is, and what the order depends on."""
        return {"epoch": self.epoch, "done": self._done, "order": self._facts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that were handed out; nothing that is skipped is read.

        Raises
        ------
        ValueError
            If the order would be another, naming what differs.
        """
        then, now = state["order"], self._facts()
        changed = [f"{name} was {then.get(name)} and is {now[name]}" for name in now if then.get(name) != now[name]]
        if changed:
            raise ValueError(f"the batches cannot go on where they stopped: {'; '.join(changed)}")
        self.epoch, self._done, self._resumed = int(state["epoch"]), int(state["done"]), True

    def _facts(self) -> dict[str, Any]:
        order = self.order
        return {
            "structures": order.count,
            "rows": zlib.crc32(self.dataset.selection.to_bytes()),
            "global batch": order.batch,
            "pool": order.pool,
            "shuffle": order.shuffle,
            "bucket": order.bucket,
            "drop_last": order.drop_last,
            "seed": order.seed,
            "held in memory": self.held,
        }

    def __iter__(self) -> Iterator[Batch]:
        if not self._resumed:
            self._done = 0
        elif self._done >= len(self):  # the state was that of the end of an epoch
            self.epoch, self._done = self.epoch + 1, 0
        self._resumed = False
        epoch = self.epoch
        first, skip = divmod(self._done, self.order.batches_of_pool)
        for packed, batches in self._pools(epoch, first):
            for positions in batches[skip:]:
                self._done += 1
                yield packed.batch(positions)
            skip = 0
        self.epoch, self._done = epoch + 1, 0

    def _pools(self, epoch: int, first: int) -> Iterator[tuple[Packed, list[Tensor]]]:
        """Yield structures, and the positions among them of each batch of this process, pool by pool."""
        pools = [(epoch, pool) for pool in range(first, self.order.num_pools)]
        if self.held:
            packed = self.hold()
            sizes = packed.num_atoms.numpy()
            for pool in pools:
                batches = self.order.batches(*pool, lambda positions: sizes[positions])
                yield packed, [torch.from_numpy(batch[self.rank :: self.world]) for batch in batches]
            return
        reader = PoolReader(self.dataset, self.order, self.rank, self.world, self.dtype)
        if not self.workers:
            read: Any = map(reader.__getitem__, pools)
        else:
            read = self._read_ahead(reader, pools)
        for packed, places, lengths in read:
            yield packed, list(places.split(lengths))

    def _read_ahead(self, reader: PoolReader, pools: list[tuple[int, int]]) -> DataLoader[Any]:
        if self._loader is None:
            self._loader = DataLoader(
                reader,
                batch_size=None,
                sampler=self._plan,
                num_workers=self.workers,
                prefetch_factor=1,
                persistent_workers=True,
            )
        self._plan.pools = pools
        return self._loader

    def hold(self) -> Packed:
        """Return the whole data set, packed; it is read the first time."""
        if self._packed is None:
            blocks, quantities = self.dataset.numbered_blocks(), self.dataset.quantities
            atoms = num_atoms(self.dataset)
            self._packed = pack(blocks, quantities, len(self.dataset), atoms, self.dtype, self.dataset.periodic)
        return self._packed
