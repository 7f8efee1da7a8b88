"""One view on all files: some rows of a source, with what is done to them on the way out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, Source
from anipot.data.memory import MemorySource, atoms_of_block, block_of_arrays, blocks_of_atoms
from anipot.data.quantities import Quantity
from anipot.data.reading import Reader, Transform
from anipot.data.rows import Rows, RowsBuilder

if TYPE_CHECKING:
    from ase import Atoms

    from anipot.data.batches import Batches
    from anipot.data.checks import CheckReport
    from anipot.data.statistics import Statistics


class AtomsDataset(Reader):
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
        super().__init__(source, selection, transforms)
        self.report = report

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

    def __repr__(self) -> str:
        present = self._num_atoms[np.diff(self.offsets) > 0]
        low, high = (int(present.min()), int(present.max())) if len(present) else (0, 0)
        sizes = f"{low}" if low == high else f"{low}-{high}"
        parts = f"{len(self)} structures of {sizes} atoms; {', '.join(self.quantities)}"
        return f"AtomsDataset({parts}; {self.source.layout})"

    def __getitem__(self, i: Any) -> Any:
        """Return one structure as a block, or the data set of those that a slice, a mask or numbers pick."""
        if isinstance(i, int | np.integer):
            if not -len(self) <= i < len(self):
                raise IndexError(f"there is no structure {i}; the data set has {len(self)}")
            ((_, block),) = self.pieces(self.selection.at([int(i) % len(self)]))
            return block
        if isinstance(i, slice):
            return self.subset(np.arange(*i.indices(len(self))))
        return self.subset(np.arange(len(self))[i])

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

    def check(self, log: str | None = None, progress: str | None = None, **limits: Any) -> CheckReport:
        """Look at every record and report what is bad.

        Parameters
        ----------
        log
            CSV file for all bad records; the report shows ten of each kind.
        progress
            What a progress bar says; none by default.
        limits
            Those of ``anipot.data.checks.Checks``: ``elements``, ``max_force``, ``min_distance``, ``max_deviation``,
            ``duplicates``.
        """
        from anipot.data.checks import Checks
        from anipot.data.inspection import check

        return check(self, Checks(**limits), log, progress)

    def checked(self, on_bad: str = "refuse", **options: Any) -> AtomsDataset:
        """Return the data set without bad records, with the ``report`` of what was found.

        Parameters
        ----------
        on_bad
            ``"refuse"`` them with an error, or ``"skip"`` them.
        options
            As for ``check``.

        Raises
        ------
        BadRecords
            If there are any that are to be refused; the message counts them by kind and shows where they stand.
        """
        from anipot.data.checks import BadRecords

        if on_bad not in ("refuse", "skip"):
            raise ValueError(f"on_bad is {on_bad!r}; expected 'refuse' or 'skip'")
        report = self.check(**options)
        if report.bad and on_bad == "refuse":
            raise BadRecords(report)
        good = self.selection - report.rows if report.bad else self.selection
        return AtomsDataset(self.source, good, self.transforms, report)

    def statistics(self, progress: str | None = None) -> Statistics:
        """Read everything once; return sizes, elements, spreads of all quantities, and self energies."""
        from anipot.data.statistics import statistics

        return statistics(self, progress)

    def self_energies(self, robust: bool = False) -> dict[str, float]:
        """Return the energy of each element in Hartree that fits the energies best, from one pass.

        Parameters
        ----------
        robust
            Whether single absurd energies must not count: by the loss of Huber instead of least squares.
        """
        from anipot.data.statistics import energies_by_composition

        found = energies_by_composition(self)
        return found.robust() if robust else found.least_squares()

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

    def save(self, path: str | os.PathLike[str], **options: Any) -> int:
        """Write the data set to a file, after its transforms; see ``anipot.data.export.save``."""
        from anipot.data.export import save

        return save(self, path, **options)

    def to_atoms(self, i: int) -> Atoms:
        """Return structure ``i`` as ASE's atoms in eV and Å, with its labels as the results of a calculator."""
        return atoms_of_block(self[int(i)], 0, self.quantities)


def open_dataset(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    layout: str | None = None,
    fields: Mapping[str, Any] | None = None,
    length: str | None = None,
    pbc: bool | Sequence[bool] | None = None,
    transforms: Sequence[Transform] = (),
) -> AtomsDataset:
    """Open files as a data set; structures are read when they are needed.

    Parameters
    ----------
    path
        A file, several, or a folder of files that are read as one.
    layout, fields, length, pbc
        As for ``anipot.data.source.open_source``: told from the file where it says them.
    transforms
        Applied to every block that is read.

    Raises
    ------
    DataError
        For files that cannot be read, or do not say their units.
    """
    from anipot.data.source import open_source

    return AtomsDataset(open_source(path, layout, fields, length, pbc), transforms=transforms)
