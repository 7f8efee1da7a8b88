"""Which rows of a source belong to a data set: one bit for each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows between two running counts.
_STEP = 4096
_POPCOUNT = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


class Rows:
    """A set of the numbers 0 … size - 1, in ascending order.

    All of them take no memory; any other set takes one bit for each number and a count for every 4096.

    Parameters
    ----------
    size
        How many numbers there are.
    bits
        (ceil(size / 8),) bytes, the first number in the lowest bit; None for all numbers.

    Examples
    --------
    >>> rows = Rows.of(10, [7, 2, 3])
    >>> len(rows), rows.at([0, 2]).tolist(), rows.between(3, 8).tolist()
    (3, [2, 7], [3, 7])
    """

    def __init__(self, size: int, bits: NDArray[np.uint8] | None = None) -> None:
        self.size = size
        self.bits = bits
        self._before: NDArray[np.int64] | None = None
        if bits is not None:
            counts = np.add.reduceat(_POPCOUNT[bits], np.arange(0, len(bits), _STEP // 8), dtype=np.int64)
            self._before = np.concatenate([[0], np.cumsum(counts[: len(bits)])])

    @classmethod
    def of(cls, size: int, numbers: Any) -> Rows:
        """Return the set of some numbers.

        Raises
        ------
        ValueError
            If one is out of range or comes twice.
        """
        numbers = np.sort(np.asarray(numbers, dtype=np.int64).reshape(-1))
        if len(numbers) and (numbers[0] < 0 or numbers[-1] >= size):
            outside = numbers[0] if numbers[0] < 0 else numbers[-1]
            raise ValueError(f"there is no row {outside}; rows are numbered 0 … {size - 1}")
        twice = np.flatnonzero(numbers[1:] == numbers[:-1])
        if len(twice):
            raise ValueError(f"row {numbers[twice[0]]} is named more than once")
        builder = RowsBuilder(size)
        for part in np.split(numbers, np.searchsorted(numbers, np.arange(1 << 20, size, 1 << 20))):
            builder.add(part)
        return builder.rows()

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Rows:
        """Return the set that ``to_bytes`` gave."""
        bits = np.frombuffer(data, dtype=np.uint8)
        if len(bits) != -(-size // 8):
            raise ValueError(f"{len(bits)} bytes do not say which of {size} rows are meant")
        return cls(size, bits)

    def to_bytes(self) -> bytes:
        """Return one bit for each number, the first in the lowest bit of the first byte."""
        return self._bytes().tobytes()

    def __len__(self) -> int:
        return self.size if self._before is None else int(self._before[-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows):
            return NotImplemented
        return self.size == other.size and np.array_equal(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash((self.size, len(self)))

    def _bytes(self) -> NDArray[np.uint8]:
        if self.bits is not None:
            return self.bits
        return np.packbits(np.ones(self.size, dtype=np.uint8), bitorder="little")

    def __and__(self, other: Rows) -> Rows:
        """The numbers in both."""
        return Rows(self.size, self._bytes() & other._bytes())

    def __or__(self, other: Rows) -> Rows:
        """The numbers in either."""
        return Rows(self.size, self._bytes() | other._bytes())

    def __sub__(self, other: Rows) -> Rows:
        """The numbers that are not in the other."""
        return Rows(self.size, self._bytes() & ~other._bytes())

    def between(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the numbers of the set in ``start`` … ``stop`` - 1."""
        start, stop = max(start, 0), min(stop, self.size)
        if self.bits is None:
            return np.arange(start, stop, dtype=np.int64)
        first = start // 8
        found = np.flatnonzero(np.unpackbits(self.bits[first : -(-stop // 8)], bitorder="little")) + 8 * first
        return found[np.searchsorted(found, start) : np.searchsorted(found, stop)]

    def before(self, numbers: Any) -> NDArray[np.int64]:
        """Return how many numbers of the set are smaller than each of those given, which may be ``size``."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if self.bits is None:
            return numbers
        # transient: eight bytes for eight rows
        counts = np.concatenate([[0], np.cumsum(_POPCOUNT[self.bits], dtype=np.int64)])
        byte, bit = numbers // 8, (numbers % 8).astype(np.uint8)
        part = np.append(self.bits, np.uint8(0))[byte] & ((np.uint8(1) << bit) - np.uint8(1))
        return counts[byte] + _POPCOUNT[part]

    def at(self, positions: Any) -> NDArray[np.int64]:
        """Return the numbers that stand at positions of the ordered set."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= len(self)):
            raise IndexError(f"position {positions.max()} of {len(self)}")
        if self._before is None:
            return positions
        flat = positions.reshape(-1)
        block = np.searchsorted(self._before, flat, side="right") - 1
        found = np.empty(len(flat), dtype=np.int64)
        order = np.argsort(block, kind="stable")
        edges = np.flatnonzero(np.diff(block[order], prepend=-1, append=len(self._before)))
        for first, last in pairwise(edges.tolist()):
            members = order[first:last]
            b = int(block[members[0]])
            found[members] = self.between(b * _STEP, (b + 1) * _STEP)[flat[members] - self._before[b]]
        return found.reshape(positions.shape)


class RowsBuilder:
    """A set of rows that grows by runs of ascending numbers."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bits = np.zeros(-(-size // 8), dtype=np.uint8)

    def add(self, numbers: NDArray[np.int64]) -> None:
        """Add ascending numbers; memory is one byte for each number between the first and the last."""
        if not len(numbers):
            return
        first, last = int(numbers[0]) // 8, int(numbers[-1]) // 8 + 1
        mask = np.zeros(8 * (last - first), dtype=np.uint8)
        mask[numbers - 8 * first] = 1
        self._bits[first:last] |= np.packbits(mask, bitorder="little")

    def rows(self) -> Rows:
        """Return the set."""
        return Rows(self.size, self._bits)
