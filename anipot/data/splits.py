"""Parts of a data set for training, validation and test: by conformer, group, formula, blocks of rows or order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anipot.data.compositions import composition_keys
from anipot.data.permutation import key, mix, permuted
from anipot.data.rows import RowsBuilder

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset

#: What may be divided: single structures; whole groups of the file; all of a formula; runs of rows; the order itself.
METHODS = ("conformer", "group", "formula", "block", "order")

#: For each block of the data set in turn: the rows, and the number of the unit that each belongs to.
_Units = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]


def split(
    dataset: AtomsDataset, parts: Mapping[str, float], by: str = "conformer", seed: int = 0, block: int = 1000
) -> dict[str, AtomsDataset]:
    """Divide a data set.

    Parameters
    ----------
    dataset
        What to divide.
    parts
        By name: a fraction (a float up to 1.0) of the data set, or a number of structures (an integer). -1 stands for
        what is left, once.
    by
        What stays together. ``"conformer"``: nothing, counts are exact. ``"group"``, ``"formula"``: groups of the file,
        or structures of one formula, so that those of a test were never seen; ``"block"``: runs of ``block``
        consecutive rows, as neighbours in a trajectory are alike. Counts are then those of the nearest whole units.
        ``"order"``: the parts follow one another as the rows do, the first in time for training.
    seed
        Of the random choice; ``"order"`` makes none.
    block
        Rows of a run, for ``by="block"``; runs end where groups do.

    Returns
    -------
    dict
        Of data sets, which share no structure. Where fractions add up to less than 1 some are in none.

    Raises
    ------
    ValueError
        For a method that is not known, and parts that ask for more than there is.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([1, 1], np.zeros((1000, 2, 3)))
    >>> {name: len(part) for name, part in split(dataset, {"train": 0.9, "test": 50}, seed=1).items()}
    {'train': 900, 'test': 50}
    """
    if by not in METHODS:
        raise ValueError(f"by is {by!r}; expected one of {', '.join(METHODS)}")
    if block < 1:
        raise ValueError(f"block is {block}; expected at least 1")
    edges = part_edges(len(dataset), parts)
    if by in ("conformer", "order"):
        total = len(dataset)

        def part_of(positions: NDArray[np.int64]) -> NDArray[np.int64]:
            place = positions if by == "order" else permuted(positions, total, key(seed))
            return np.searchsorted(edges, place, side="right")

        return _selected(dataset, parts, _by_position(dataset), part_of)
    units = {"group": _by_group, "formula": _by_formula}.get(by) or (lambda dataset: _by_block(dataset, block))
    names, counts = _count(units(dataset))
    order = np.argsort(permuted(np.arange(len(names)), len(names), key(seed)))
    ends = np.cumsum(counts[order])
    part = np.empty(len(names), dtype=np.int64)
    part[order] = np.searchsorted(edges, ends - counts[order] / 2, side="right")  # by where its middle falls
    return _selected(dataset, parts, units(dataset), lambda unit: part[np.searchsorted(names, unit)])


def part_edges(total: int, parts: Mapping[str, float]) -> NDArray[np.int64]:
    """Return the positions at which the parts of ``total`` structures end; fractions are rounded so that they fit.

    >>> part_edges(10, {"a": 0.33, "b": 0.33, "c": 0.34}).tolist()
    [3, 7, 10]
    >>> part_edges(10, {"a": 2, "b": -1, "c": 0.1}).tolist()
    [2, 9, 10]
    """
    counts: dict[str, int] = {}
    fraction = 0.0
    for name, size in parts.items():
        if isinstance(size, int) and size >= 0:
            counts[name] = size
        elif isinstance(size, float) and 0 <= size <= 1:
            counts[name] = round((fraction + size) * total) - round(fraction * total)
            fraction += size
        elif size != -1:
            raise ValueError(f"part {name!r} is {size!r}; expected a fraction, 0.0 to 1.0, a count, or -1 for the rest")
    rest = [name for name in parts if name not in counts]
    left = total - sum(counts.values())
    if left < 0 or fraction > 1 + 1e-9:
        raise ValueError(f"the parts {dict(parts)} are more than the {total} structures that there are")
    if len(rest) > 1:
        raise ValueError(f"only one part can be -1, all that is left; got {', '.join(rest)}")
    counts |= dict.fromkeys(rest, left)
    return np.cumsum([counts[name] for name in parts], dtype=np.int64)


def folds(
    dataset: AtomsDataset, count: int, by: str = "conformer", seed: int = 0, block: int = 1000
) -> list[tuple[AtomsDataset, AtomsDataset]]:
    """Divide a data set for cross-validation: ``count`` pairs of a part and all others, those for training first.

    Parameters are those of ``split``.
    """
    if count < 2:
        raise ValueError(f"cross-validation takes at least 2 folds, got {count}")
    parts = {str(i): 1.0 / count for i in range(count - 1)} | {"rest": -1}
    return [
        (dataset.select(dataset.selection - part.selection), part)
        for part in split(dataset, parts, by, seed, block).values()
    ]


def _selected(
    dataset: AtomsDataset,
    parts: Mapping[str, float],
    units: _Units,
    part_of: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> dict[str, AtomsDataset]:
    builders = [RowsBuilder(dataset.num_rows) for _ in parts]
    for rows, unit in units:
        part = part_of(unit)
        for number, builder in enumerate(builders):
            builder.add(rows[part == number])
    return {name: dataset.select(builder.rows()) for name, builder in zip(parts, builders, strict=True)}


def _count(units: _Units) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of all units, ascending, and how many structures each has."""
    found: dict[int, int] = {}
    for _, unit in units:
        for name, count in zip(*(part.tolist() for part in np.unique(unit, return_counts=True)), strict=True):
            found[name] = found.get(name, 0) + count
    names = np.array(sorted(found), dtype=np.int64)
    return names, np.array([found[name] for name in names.tolist()], dtype=np.int64)


def _windows(dataset: AtomsDataset) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield the rows of a data set, and how many came before, without reading the structures."""
    done = 0
    for start in range(0, dataset.num_rows, 1 << 16):
        rows = dataset.selection.between(start, start + (1 << 16))
        yield rows, done
        done += len(rows)


def _by_position(dataset: AtomsDataset) -> _Units:
    for rows, done in _windows(dataset):
        yield rows, np.arange(done, done + len(rows))


def _by_group(dataset: AtomsDataset) -> _Units:
    for rows, _ in _windows(dataset):
        yield rows, dataset.group_of(rows)


def _by_block(dataset: AtomsDataset, size: int) -> _Units:
    first = np.cumsum([0, *(-(-group.size // size) for group in dataset.source.groups)])  # number of the first run
    for rows, _ in _windows(dataset):
        group = dataset.group_of(rows)
        yield rows, first[group] + (rows - dataset.offsets[group]) // size


def _by_formula(dataset: AtomsDataset) -> _Units:
    for rows, block in dataset.numbered_blocks():
        yield rows, mix(composition_keys(block.species)).view(np.int64)
