"""ISO17: trajectories of isomers of C7O2H10."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import DataError, Source
from anipot.data.download import RemoteFile
from anipot.data.published import archives
from anipot.data.published.base import Bad, Published
from anipot.data.published.frames import Numbered
from anipot.data.published.labels import Label
from anipot.data.source import open_source

#: Databases of the archive, by what is chosen.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "trajectories": ("reference", "test_within", "test_other"),
    "equilibrium": ("reference_eq", "test_eq"),
}
_IDS = {"train": "train_ids.txt", "validation": "validation_ids.txt"}


class ISO17(Published):
    """Trajectories of 129 isomers of C7O2H10, 5000 frames each, energies and forces.

    Parameters
    ----------
    part
        ``"trajectories"``, or ``"equilibrium"`` for the minima alone.
    folder
        Where data are kept; the cache by default.

    Notes
    -----
    Published splits, as in the SchNet article: ``reference`` is 80 % of the frames of 80 % of the isomers, of which
    ``train`` and ``validation`` are parts; ``test_within`` are other frames of these, ``test_other`` other isomers. No
    checksum is published; that of the first download is put on record.

    Examples
    --------
    >>> ISO17().files()[0].name
    'iso17.tar.gz'
    """

    key = "iso17"
    title = "ISO17"
    text = "645k frames of trajectories of 129 isomers of C7O2H10, energies and forces"
    homepage = "http://quantum-machine.org/datasets/"
    license = "not stated; the authors ask to be cited"
    citations = ("10.48550/arXiv.1706.08566", "10.1038/ncomms13890", "10.1038/sdata.2014.22")
    level_of_theory = "PBE+TS, FHI-aims"
    variants: ClassVar[Mapping[str, str]] = {
        "trajectories": "645,000 frames",
        "equilibrium": "the isomers at their minima",
    }
    labels = (
        Label("energies", "total_energy", "eV", "total energy"),
        Label("forces", "atomic_forces", "eV/Å", "forces"),
    )

    def __init__(self, part: str = "trajectories", *, folder: str | Path | None = None):
        super().__init__(part, folder=folder)

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        places = tuple(f"{scheme}://www.quantum-machine.org/datasets/iso17.tar.gz" for scheme in ("https", "http"))
        return (RemoteFile("iso17.tar.gz", places),)

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the databases, one after the other."""
        (archive,) = files.values()
        databases = {f"{part}.db": self.unpacked / f"{part}.db" for part in _PARTS[self.variant]}
        lists = {name: self.unpacked / name for name in _IDS.values()} if self.variant == "trajectories" else {}
        archives.take(archive, {**databases, **lists}, progress)
        fields = {label.name: label.field for label in self.labels}
        return Numbered(open_source(list(databases.values()), layout="ase_db", fields=fields, length="Å"))

    def published_splits(self, files: Mapping[str, Path], source: Source) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each database, and of the parts of the first."""
        found, start = {}, 0
        if len(source.groups) != len(_PARTS[self.variant]):
            raise DataError(f"{', '.join(source.paths)}: structures of several sizes, expected isomers")
        for part, group in zip(_PARTS[self.variant], source.groups, strict=True):
            found[part] = np.arange(start, start + group.size)
            start += group.size
        if self.variant == "trajectories":
            found |= _chosen({part: self.unpacked / name for part, name in _IDS.items()}, len(found["reference"]))
        return found


def _chosen(lists: Mapping[str, Path], size: int) -> dict[str, NDArray[np.int64]]:
    """Return rows for lists of numbers that ASE gives to the rows of a database, which begin with 1.

    Raises
    ------
    DataError
        If a number is beyond the end.
    """
    found = {part: np.loadtxt(path, dtype=np.int64, ndmin=1) for part, path in lists.items()}
    every = np.concatenate(list(found.values()))
    first = 0 if every.min() == 0 else 1
    if every.min() < 0 or every.max() - first >= size:
        raise DataError(f"{', '.join(map(str, lists.values()))}: numbers {every.min()} to {every.max()} of {size} rows")
    return {part: numbers - first for part, numbers in found.items()}
