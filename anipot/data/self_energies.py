"""Energies of single atoms by least squares over compositions, from one pass and little memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.compositions import composition_counts, composition_keys
from anipot.data.permutation import mix
from anipot.elements import symbol

#: Energies that are kept of each composition for the robust fit.
SAMPLES = 32
#: Entries that are collected before they are put together.
_PENDING = 1 << 18


@dataclass
class _Sums:
    """For K compositions: keys (K,), atoms of each element (K, 119), and number, mean and squares of energies."""

    keys: NDArray[np.uint64]
    atoms: NDArray[np.uint16]
    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]  # of what is beyond the mean


class EnergiesByComposition:
    """Energies of all structures, collected by composition.

    Kept are the number, mean and variance of the energies of each composition, which is all that least squares need,
    and a random sample of ``SAMPLES`` energies of each for the robust fit: memory grows with the number of
    compositions, not with that of structures.

    Examples
    --------
    >>> from anipot.data.memory import block_of_arrays
    >>> collected = EnergiesByComposition()
    >>> collected.add(np.arange(2), block_of_arrays([1, 1], np.zeros((2, 2, 3)), energies=[-1.0, -1.2]))
    >>> collected.add(np.arange(2, 3), block_of_arrays([8, 1, 1], np.zeros((1, 3, 3)), energies=[-76.1]))
    >>> {element: round(value, 6) for element, value in collected.least_squares().items()}
    {'H': -0.55, 'O': -75.0}
    """

    def __init__(self) -> None:
        self._parts: list[_Sums] = []
        self._samples: list[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float64]]] = []
        self._pending = 0

    def add(self, rows: NDArray[np.int64], block: Block) -> None:
        """Take in a block; energies that are missing or infinite do not count.

        Parameters
        ----------
        rows
            (n,) numbers that pick the random sample: it is the same in whichever order blocks come.
        block
            With energies.
        """
        good = np.isfinite(block.properties["energies"])
        energies, species = block.properties["energies"][good], block.species[good]
        if not len(energies):
            return
        keys = composition_keys(species)
        found, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        count = np.bincount(inverse).astype(np.float64)
        mean = np.bincount(inverse, energies) / count
        squares = np.bincount(inverse, (energies - mean[inverse]) ** 2).astype(np.float64)
        self._parts.append(_Sums(found, composition_counts(species[first]).astype(np.uint16), count, mean, squares))
        self._samples.append((keys, mix(rows[good].astype(np.uint64)), energies))
        self._pending += len(keys)
        if self._pending > _PENDING:
            self._join()

    def _join(self) -> None:
        if self._parts:
            self._parts = [_joined(self._parts)]
            keys, random, energies = (np.concatenate(column) for column in zip(*self._samples, strict=True))
            self._samples = [_sampled(keys, random, energies)]
        self._pending = 0

    @property
    def sums(self) -> _Sums | None:
        """All that is known, or None without any energy."""
        self._join()
        return self._parts[0] if self._parts else None

    @property
    def num_compositions(self) -> int:
        """How many compositions have energies."""
        return 0 if self.sums is None else len(self.sums.keys)

    @property
    def determined(self) -> bool:
        """Whether the compositions tell all elements apart, so that there is one best self energy for each."""
        if (sums := self.sums) is None:
            return False
        atoms = sums.atoms[:, sums.atoms.any(axis=0)].astype(np.float64)
        return int(np.linalg.matrix_rank(atoms)) == atoms.shape[1]

    def least_squares(self) -> dict[str, float]:
        """Return the self energy of each element in Hartree that fits all energies best, in the sense of least squares.

        It is exact: the means of compositions, weighted by their numbers, have the same solution as all energies. Where
        elements cannot be told apart, as C and H in data that hold methane alone, it is that of the smallest norm.
        """
        if (sums := self.sums) is None:
            return {}
        elements = np.flatnonzero(sums.atoms.any(axis=0))
        values = _solve(sums.atoms[:, elements].astype(np.float64), sums.mean, sums.count)
        return {symbol(int(z)): float(e) for z, e in zip(elements, values, strict=True)}

    def robust(self) -> dict[str, float]:
        """Return self energies in Hartree that single absurd energies do not move.

        Least squares with the loss of Huber, whose width follows the median of the residuals of energies per atom, over
        the sample of each composition, weighted as the composition.
        """
        if (sums := self.sums) is None:
            return {}
        elements = np.flatnonzero(sums.atoms.any(axis=0))
        keys, _, energies = self._samples[0]
        place = np.searchsorted(sums.keys, keys)
        atoms = sums.atoms[:, elements].astype(np.float64)[place]
        weights = (sums.count / np.bincount(place, minlength=len(sums.keys)))[place]
        sizes = atoms.sum(axis=1)
        values = _solve(atoms, *_medians(keys, energies, weights))
        for _ in range(50):
            residuals = (energies - atoms @ values) / sizes
            spread = 1.4826 * _weighted_median(np.abs(residuals), weights)
            down = np.minimum(1.0, 1.345 * max(spread, 1e-12) / np.maximum(np.abs(residuals), 1e-300))
            new = _solve(atoms, energies, weights * down)
            done = np.abs(new - values).max() < 1e-10
            values = new
            if done:
                break
        return {symbol(int(z)): float(e) for z, e in zip(elements, values, strict=True)}

    def spread_per_atom(self, self_energies: dict[str, float]) -> tuple[float, float]:
        """Return the median of (E − Σ self energies) / atoms over all structures, and its robust standard deviation."""
        if (sums := self.sums) is None:
            return float("nan"), float("nan")
        keys, _, energies = self._samples[0]
        place = np.searchsorted(sums.keys, keys)
        weights = (sums.count / np.bincount(place, minlength=len(sums.keys)))[place]
        residuals = (energies - _shift(sums, self_energies)[place]) / sums.atoms.sum(axis=1)[place]
        median = _weighted_median(residuals, weights)
        return median, 1.4826 * _weighted_median(np.abs(residuals - median), weights)

    def residual(self, self_energies: dict[str, float]) -> tuple[float, float]:
        """Return mean and standard deviation in Hartree of E − Σ self energies over all structures, exactly."""
        if (sums := self.sums) is None:
            return float("nan"), float("nan")
        means = sums.mean - _shift(sums, self_energies)
        total = sums.count.sum()
        mean = float((sums.count * means).sum() / total)
        squares = sums.squares.sum() + (sums.count * (means - mean) ** 2).sum()
        return mean, float(np.sqrt(squares / total))


def _shift(sums: _Sums, self_energies: dict[str, float]) -> NDArray[np.float64]:
    """Return Σ self energies (K,) of each composition."""
    elements = np.flatnonzero(sums.atoms.any(axis=0))
    return sums.atoms[:, elements] @ np.array([self_energies[symbol(int(z))] for z in elements])


def _joined(parts: list[_Sums]) -> _Sums:
    """Return the parts as one with each composition once."""
    keys, atoms = (np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "atoms"))
    count, mean, squares = (np.concatenate([getattr(part, n) for part in parts]) for n in ("count", "mean", "squares"))
    found, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    total = np.bincount(inverse, count).astype(np.float64)
    # Means are averaged as distances from the first, which loses no digits of energies of 1e3 Hartree.
    common = mean[first] + np.bincount(inverse, count * (mean - mean[first][inverse])) / total
    spread = np.bincount(inverse, squares + count * (mean - common[inverse]) ** 2).astype(np.float64)
    return _Sums(found, atoms[first], total, common, spread)


def _sampled(
    keys: NDArray[np.uint64], random: NDArray[np.uint64], energies: NDArray[np.float64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float64]]:
    """Return the entries with the smallest random numbers of each key."""
    order = np.lexsort((random, keys))
    sorted_ = keys[order]
    starts = np.flatnonzero(np.append(True, sorted_[1:] != sorted_[:-1]))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    kept = order[place < SAMPLES]
    return keys[kept], random[kept], energies[kept]


def _solve(
    atoms: NDArray[np.float64], energies: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    root = np.sqrt(weights)
    found = np.linalg.lstsq(atoms * root[:, None], energies * root, rcond=1e-10)[0]
    return np.asarray(found, dtype=np.float64)


def _medians(
    keys: NDArray[np.uint64], energies: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for every entry the median energy of its composition, where the robust fit begins, and its weight."""
    order = np.lexsort((energies, keys))
    sorted_ = keys[order]
    starts = np.flatnonzero(np.append(True, sorted_[1:] != sorted_[:-1]))
    lengths = np.diff(np.append(starts, len(order)))
    medians = energies[order[starts + lengths // 2]]
    result = np.empty_like(energies)
    result[order] = np.repeat(medians, lengths)
    return result, weights


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(total, total[-1] / 2)]])
