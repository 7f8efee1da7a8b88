"""One view on all files: some rows of a source, with what is done to them on the way out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Source
from anipot.data.memory import MemorySource, atoms_of_block, block_of_arrays, blocks_of_atoms
from anipot.data.quantities import Quantity
from anipot.data.rows import Rows, RowsBuilder

if TYPE_CHECKING:
    from ase import Atoms

    from anipot.data.batches import Batches
    from anipot.data.checks import CheckReport

#: What is done to a block before it is used: it returns one of as many structures.
Transform = Callable[[Block], Block]
#: Rows that are read at a time.
BLOCK_ROWS = 4096
#: Rows that are read and dropped rather than read around.
_GAP = 256


class AtomsDataset:
    """Structures and labels of a source, in Å and Hartree, read when they are needed.

    A data set is a view: which rows of the source belong to it, and the transforms that every block goes through.
    Selections are made from data sets and share the source. Rows keep the order of the source; memory is one bit for
    each row of the source once something is selected, and nothing before.

    Parameters
    ----------
    source
        What ``open_source`` returns.
    selection
        The rows that belong to it; all by default.
    transforms
        Applied in this order.

    Attributes
    ----------
    source, selection, transforms
        As given.
    report
        What ``checked`` found, else None.

    Examples
    --------
    >>> import numpy as np
    >>> water = np.random.default_rng(0).random((10, 3, 3))
    >>> dataset = AtomsDataset.from_arrays([8, 1, 1], water, energies=np.full(10, -76.4))
    >>> dataset
    AtomsDataset(10 structures of 3 atoms; energies; memory)
    >>> train, validation = dataset.split({"train": 0.8, "validation": 0.2}, seed=1).values()
    >>> len(train), validation[0].properties["energies"]
    (8, array([-76.4]))
    """

    def __init__(
        self,
        source: Source,
        selection: Rows | None = None,
        transforms: Sequence[Transform] = (),
        report: CheckReport | None = None,
    ) -> None:
        self.source = source
        self.transforms = tuple(transforms)
        self.report = report
        #: (G + 1,) the row at which each group of the source starts, and the end.
        self.offsets = np.cumsum([0, *(group.size for group in source.groups)], dtype=np.int64)
        self._num_atoms = np.array([group.num_atoms for group in source.groups], dtype=np.int64)
        self.selection = Rows(self.num_rows) if selection is None else selection
        if self.selection.size != self.num_rows:
            raise ValueError(f"the selection is of {self.selection.size} rows, but the source has {self.num_rows}")

    @classmethod
    def from_atoms(
        cls,
        frames: Iterable[Atoms],
        fields: Mapping[str, Any] | None = None,
        transforms: Sequence[Transform] = (),
    ) -> AtomsDataset:
        """Return a data set of ASE's atoms, with what their calculators hold as labels.

        Parameters
        ----------
        frames
            Results of calculators are in eV and Å. A frame without one has no labels.
        fields
            Further labels by name, each as ``"key [unit]"`` of ``atoms.info`` or, one for each atom, ``atoms.arrays``.
        transforms
            Applied to every block.
        """
        blocks, quantities = blocks_of_atoms(frames, fields or {})
        return cls(MemorySource(blocks, quantities), transforms=transforms)

    @classmethod
    def from_arrays(
        cls,
        species: Any,
        coordinates: Any,
        cell: Any = None,
        pbc: Any = None,
        quantities: Mapping[str, Quantity] | None = None,
        **properties: Any,
    ) -> AtomsDataset:
        """Return a data set of n structures of a atoms, from arrays in Å, Hartree and e.

        Parameters
        ----------
        species
            (n, a), or (a,) where all are alike: atomic numbers.
        coordinates
            (n, a, 3).
        cell, pbc
            (n, 3, 3) or (3, 3), and (n, 3) or (3,).
        quantities
            What properties of other names than those of ``QUANTITIES`` are.
        properties
            Arrays (n, ...) by name; NaN for a missing label.
        """
        return cls(MemorySource([block_of_arrays(species, coordinates, cell, pbc, **properties)], quantities))

    @property
    def num_rows(self) -> int:
        """Rows of the source, whether they belong to this data set or not."""
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return len(self.selection)

    def __repr__(self) -> str:
        present = self._num_atoms[np.diff(self.offsets) > 0]
        low, high = (int(present.min()), int(present.max())) if len(present) else (0, 0)
        sizes = f"{low}" if low == high else f"{low}-{high}"
        parts = f"{len(self)} structures of {sizes} atoms; {', '.join(self.quantities)}"
        return f"AtomsDataset({parts}; {self.source.layout})"

    @property
    def quantities(self) -> dict[str, Quantity]:
        """What the blocks hold beside species and coordinates, after the transforms."""
        found = dict(self.source.quantities)
        for transform in self.transforms:
            change = getattr(transform, "quantities", None)
            found = found if change is None else dict(change(found))
        return found

    @property
    def periodic(self) -> bool:
        """Whether any structure of the source may be periodic."""
        return self.source.periodic

    @property
    def fingerprint(self) -> str:
        """What tells sources apart whose rows mean something else: a hash of names and sizes of the groups."""
        text = "\n".join(f"{group.name}\t{group.size}\t{group.num_atoms}" for group in self.source.groups)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __getitem__(self, i: Any) -> Any:
        """Return one structure as a block, or the data set of those that a slice, a mask or numbers pick."""
        if isinstance(i, int | np.integer):
            if not -len(self) <= i < len(self):
                raise IndexError(f"there is no structure {i}; the data set has {len(self)}")
            ((_, block),) = self.pieces(self.selection.at([int(i) % len(self)]))
            return block
        return self.subset(np.arange(len(self))[i])

    def sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of atoms of rows of the source, as the groups state it, without reading them."""
        return self._num_atoms[self.group_of(rows)]

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return in which groups of the source rows stand."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def pieces(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Block]]:
        """Read ascending rows of the source; yield each block with the rows it holds, transformed."""
        if not len(rows):
            return
        group = self.group_of(rows)
        local = rows - self.offsets[group]
        cut = (np.diff(group) != 0) | (np.diff(local // BLOCK_ROWS) != 0) | (np.diff(local) > _GAP)
        edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(rows)]
        for start, stop in pairwise(edges):
            wanted = local[start:stop]
            block = self._span(int(group[start]), int(wanted[0]), int(wanted[-1]) + 1)
            if len(block) != stop - start:
                block = block.take(wanted - wanted[0])
            yield rows[start:stop], self._transformed(block)

    def _span(self, group: int, first: int, last: int) -> Block:
        block = self.source.read(group, slice(first, last))
        if len(block) != last - first:
            name = self.source.groups[group].name
            raise DataError(f"group {name!r} gave {len(block)} structures for the rows {first} … {last - 1}")
        return block

    def _transformed(self, block: Block) -> Block:
        n = len(block)
        for transform in self.transforms:
            block = transform(block)
            if len(block) != n:
                raise DataError(
                    f"the transform {transform!r} made {len(block)} structures of {n}; to leave some out use filter"
                )
        return block

    def chunks(self, rows: int) -> NDArray[np.int64]:
        """Return where chunks of about that many consecutive rows of the source start, and the end.

        Large groups are cut at multiples of ``rows`` from their start, as files store them; small ones stand together.
        """
        starts = [0]
        for first, last in pairwise(self.offsets.tolist()):
            if last - starts[-1] <= rows:  # joins those before it
                continue
            if first > starts[-1]:
                starts.append(first)
            starts.extend(range(first + rows, last, rows))
        if starts[-1] < self.num_rows:
            starts.append(self.num_rows)
        return np.array(starts, dtype=np.int64)

    def blocks(self, size: int = BLOCK_ROWS, progress: str | None = None) -> Iterator[Block]:
        """Read everything once, in order.

        Parameters
        ----------
        size
            Most structures of a block.
        progress
            What a progress bar says; none by default.
        """
        for _, block in self.numbered_blocks(size, progress):
            yield block

    def numbered_blocks(
        self, size: int = BLOCK_ROWS, progress: str | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Block]]:
        """Read everything once, in order; yield the rows of the source beside each block."""
        from tqdm import tqdm

        bar = tqdm(total=len(self), desc=progress, unit="structures", unit_scale=True, disable=progress is None)
        with bar:
            for start, stop in pairwise(self.chunks(min(size, BLOCK_ROWS)).tolist()):
                for rows, block in self.pieces(self.selection.between(start, stop)):
                    yield rows, block
                    bar.update(len(rows))

    def select(self, selection: Rows) -> AtomsDataset:
        """Return the data set of other rows of the same source."""
        return AtomsDataset(self.source, selection, self.transforms, self.report)

    def subset(self, positions: Any) -> AtomsDataset:
        """Return the data set of some structures, by their positions in this one; the order stays that of the file."""
        positions = np.asarray(positions, dtype=np.int64).reshape(-1)
        if len(positions) and not (-len(self) <= positions.min() and positions.max() < len(self)):
            raise IndexError(
                f"positions lie in {positions.min()} … {positions.max()}; there are {len(self)} structures"
            )
        positions = np.where(positions < 0, positions + len(self), positions)
        return self.select(Rows.of(self.num_rows, self.selection.at(positions)))

    def with_transforms(self, *transforms: Transform) -> AtomsDataset:
        """Return the data set with further transforms, applied after those that it has."""
        return AtomsDataset(self.source, self.selection, (*self.transforms, *transforms), self.report)

    def filter(self, predicate: Callable[[Block], NDArray[np.bool_]] | None = None, **limits: Any) -> AtomsDataset:
        """Return the data set of those structures that are within limits; reads everything once.

        Parameters
        ----------
        predicate
            Called with every block of n structures, after the transforms; returns (n,) which of them to keep.
        limits
            Those of ``anipot.data.filters.Limits``: ``elements``, ``min_atoms``, ``max_atoms``, ``max_force``,
            ``min_energy``, ``max_energy``, ``has``.

        Examples
        --------
        >>> dataset = AtomsDataset.from_arrays([1, 1], np.zeros((3, 2, 3)), energies=[-1.0, -1.1, np.nan])
        >>> len(dataset.filter(has="energies", max_energy=-1.05))
        1
        """
        from anipot.data.filters import Limits

        inside = Limits(**limits)
        kept = RowsBuilder(self.num_rows)
        for rows, block in self.numbered_blocks():
            keep = inside(block)
            if predicate is not None:
                keep &= np.asarray(predicate(block), dtype=bool)
            kept.add(rows[keep])
        return self.select(kept.rows())

    def split(
        self, parts: Mapping[str, float], by: str = "conformer", seed: int = 0, block: int = 1000
    ) -> dict[str, AtomsDataset]:
        """Divide the data set into named parts; see ``anipot.data.splits.split``."""
        from anipot.data.splits import split

        return split(self, parts, by, seed, block)

    def folds(
        self, count: int, by: str = "conformer", seed: int = 0, block: int = 1000
    ) -> list[tuple[AtomsDataset, AtomsDataset]]:
        """Return pairs for training and validation, for cross-validation; see ``anipot.data.splits.folds``."""
        from anipot.data.splits import folds

        return folds(self, count, by, seed, block)

    def batches(self, batch_size: int, **options: Any) -> Batches:
        """Return batches of padded tensors, in an order that a seed determines.

        Parameters
        ----------
        batch_size
            Structures of a batch on each process.
        options
            Those of ``Batches``: ``shuffle``, ``seed``, ``bucket``, ``drop_last``, ``rank``, ``world``, ``workers``,
            ``dtype``, ``memory``.
        """
        from anipot.data.batches import Batches

        return Batches(self, batch_size, **options)

    def to_atoms(self, i: int) -> Atoms:
        """Return structure ``i`` as ASE's atoms in eV and Å, with its labels as the results of a calculator."""
        return atoms_of_block(self[int(i)], 0, self.quantities)
