"""In which order structures come: a pure function of seed and epoch, whoever computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anipot.data.permutation import key, permuted

_CHUNKS, _ROWS, _BATCHES, _SHORT = range(4)


@dataclass(frozen=True)
class Order:
    """An epoch of n structures, cut into pools that are read at a time, and these into batches.

    Structures are drawn into pools at random; in a pool they are sorted by size, so that a batch needs little padding,
    and cut into batches, which come in random order. All of it is computed from the seed and the epoch by functions
    that hold no state, so that any process can begin anywhere.

    Attributes
    ----------
    count
        n.
    batch
        Structures of a batch, of all processes together.
    pool
        Structures of a pool, a multiple of ``batch``.
    shuffle
        Whether the order is random; else it is that of the file, but for sorting within a pool.
    bucket
        Whether batches hold structures of similar size.
    drop_last
        Whether to leave out the batch that is not full.
    seed
        Of all random choices.
    edges
        (C + 1,) positions at which chunks start, which are read as a whole: pools are then made of random chunks
        instead of random structures. None where structures can be had in any order.
    """

    count: int
    batch: int
    pool: int
    shuffle: bool
    bucket: bool
    drop_last: bool
    seed: int
    edges: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.count // self.batch if self.drop_last else -(-self.count // self.batch)

    @property
    def batches_of_pool(self) -> int:
        """Batches of every pool but the last."""
        return self.pool // self.batch

    @property
    def num_pools(self) -> int:
        """Pools of an epoch."""
        return -(-len(self) // self.batches_of_pool)

    def positions(self, epoch: int, pool: int) -> NDArray[np.int64]:
        """Return the positions (p,) of the structures in a pool, ascending."""
        start, stop = pool * self.pool, min((pool + 1) * self.pool, self.count)
        if not self.shuffle:
            return np.arange(start, stop, dtype=np.int64)
        if self.edges is None:
            return np.sort(permuted(np.arange(start, stop), self.count, key(self.seed, epoch, _ROWS)))
        num_chunks = len(self.edges) - 1
        chunks = permuted(np.arange(num_chunks), num_chunks, key(self.seed, epoch, _CHUNKS))
        ends = np.cumsum(np.diff(self.edges)[chunks])  # where the chunks of the epoch end, one after the other
        found = []
        for c in range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left")) + 1):
            first = int(self.edges[chunks[c]])
            begin = int(ends[c]) - int(self.edges[chunks[c] + 1]) + first
            found.append(first + np.arange(max(start - begin, 0), min(stop, int(ends[c])) - begin, dtype=np.int64))
        return np.sort(np.concatenate(found))

    def batches(
        self, epoch: int, pool: int, sizes: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    ) -> list[NDArray[np.int64]]:
        """Return the positions of every batch of a pool.

        Parameters
        ----------
        epoch, pool
            Which.
        sizes
            Returns the numbers of atoms of structures at some positions.
        """
        positions = self.positions(epoch, pool)
        n = len(positions)
        if self.shuffle:
            positions = positions[permuted(np.arange(n), n, key(self.seed, epoch, _ROWS, pool))]
        if self.bucket:  # those of one size stay in random order; small integers are sorted fastest
            positions = positions[np.argsort(sizes(positions).astype(np.int32), kind="stable")]
        cut = self._cut(n, epoch)
        if self.shuffle:
            cut = [cut[b] for b in permuted(np.arange(len(cut)), len(cut), key(self.seed, epoch, _BATCHES, pool))]
        return [positions[start:stop] for start, stop in cut]

    def _cut(self, n: int, epoch: int) -> list[tuple[int, int]]:
        """Return where batches of n structures start and stop; the short one is any of them, not always the largest."""
        full, rest = divmod(n, self.batch)
        if not rest:
            return [(b * self.batch, (b + 1) * self.batch) for b in range(full)]
        short = key(self.seed, epoch, _SHORT) % (full + 1) if self.shuffle and self.bucket else full
        cut, start = [], 0
        for b in range(full + 1):
            length = rest if b == short else self.batch
            if b != short or not self.drop_last:
                cut.append((start, start + length))
            start += length
        return cut
