"""Elements of structures: how many atoms of each, and one number that tells compositions apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anipot.data.permutation import mix
from anipot.elements import MAX_ATOMIC_NUMBER

#: One random number for each atomic number; 0 for a ghost, which index 0 and -1 (the last) stand for.
_WEIGHTS = mix(np.arange(MAX_ATOMIC_NUMBER + 2, dtype=np.uint64))
_WEIGHTS[[0, -1]] = 0


def composition_keys(species: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a number (n,) for each structure of species (n, a) that is the same for all of one composition.

    Sums of random numbers modulo 2⁶⁴: a million compositions collide with a probability of 3e-8.

    >>> keys = composition_keys(np.array([[8, 1, 1], [1, 8, 1], [8, 1, -1]]))
    >>> bool(keys[0] == keys[1]), bool(keys[0] == keys[2])
    (True, False)
    """
    if species.size and (species.min() < -1 or species.max() > MAX_ATOMIC_NUMBER):
        raise ValueError(f"species lie in {species.min()} … {species.max()}; expected atomic numbers, ghosts -1")
    with np.errstate(over="ignore"):
        return _WEIGHTS[species].sum(axis=1, dtype=np.uint64)


def composition_counts(species: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many atoms (n, 119) of each atomic number the structures of species (n, a) have.

    >>> composition_counts(np.array([[8, 1, 1, -1]]))[0, :9].tolist()
    [0, 2, 0, 0, 0, 0, 0, 0, 1]
    """
    width = MAX_ATOMIC_NUMBER + 1
    places = np.arange(len(species))[:, None] * width + np.maximum(species, 0)
    counts = np.bincount(places.reshape(-1), minlength=len(species) * width).reshape(len(species), width)
    counts[:, 0] = 0
    return counts
