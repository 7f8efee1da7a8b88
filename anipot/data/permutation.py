"""A pseudo-random permutation of 0 … n-1 that is computed point by point, and keeps no table of n numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_U = np.uint64


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64 bits for each value that look random: the finalizer of SplitMix64, a bijection."""
    with np.errstate(over="ignore"):
        x = values + _U(0x9E3779B97F4A7C15)
        x = (x ^ (x >> _U(30))) * _U(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> _U(27))) * _U(0x94D049BB133111EB)
        return x ^ (x >> _U(31))


def key(*numbers: int) -> int:
    """Return one key made of several numbers, such as a seed, an epoch and a purpose.

    >>> key(0, 1) != key(1, 0)
    True
    """
    value = np.zeros(1, dtype=_U)
    for number in numbers:
        value = mix(value ^ np.array([number & 0xFFFFFFFFFFFFFFFF], dtype=_U))
    return int(value[0])


def permuted(positions: Any, size: int, seed: int) -> NDArray[np.int64]:
    """Return where a permutation of 0 … ``size`` - 1 sends positions.

    The permutation is a Feistel network over the next even number of bits; a value beyond ``size`` is sent on until it
    falls within (cycle walking). It depends on ``size`` and ``seed`` alone and is the same on every machine and for
    every release, since splits are recorded by their seed.

    Parameters
    ----------
    positions
        Integers in 0 … ``size`` - 1, of any shape.
    size
        What is permuted.
    seed
        Which of the permutations.

    Raises
    ------
    ValueError
        If a position lies outside.

    Examples
    --------
    >>> permuted([0, 1, 2, 3, 4], 5, seed=7).tolist()
    [4, 2, 1, 3, 0]
    """
    given = np.asarray(positions, dtype=np.int64)
    if given.size and (int(given.min()) < 0 or int(given.max()) >= size):
        raise ValueError(f"positions lie in {int(given.min())} … {int(given.max())}; expected 0 … {size - 1}")
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = mix(np.arange(_ROUNDS, dtype=_U) ^ _U(key(seed)))
    values = _network(given.astype(_U).reshape(-1), half, keys)
    outside = np.flatnonzero(values >= _U(size))
    while len(outside):  # at most a few times, since the network covers less than four times the size
        values[outside] = _network(values[outside], half, keys)
        outside = outside[values[outside] >= _U(size)]
    return values.astype(np.int64).reshape(given.shape)


def _network(values: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = _U((1 << half) - 1)
    left, right = values >> _U(half), values & mask
    for round_key in keys:
        left, right = right, left ^ (mix(right ^ round_key) & mask)
    return (left << _U(half)) | right
