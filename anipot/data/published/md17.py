"""MD17 and its revision: trajectories of small molecules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from anipot import units
from anipot.data.blocks import DataError, Source
from anipot.data.download import RemoteFile
from anipot.data.published import archives
from anipot.data.published.base import Bad, Published
from anipot.data.published.frames import Numbered
from anipot.data.published.labels import Label
from anipot.data.source import open_source

_DFT = "PBE+TS, FHI-aims"
#: Molecules: file, number of frames as sgdml.org counts them, level of theory.
_MD17: Mapping[str, tuple[str, int, str]] = {
    "aspirin": ("md17_aspirin.npz", 211_762, _DFT),
    "azobenzene": ("azobenzene_dft.npz", 99_999, _DFT),
    "benzene": ("md17_benzene2017.npz", 627_983, _DFT),
    "ethanol": ("md17_ethanol.npz", 555_092, _DFT),
    "malonaldehyde": ("md17_malonaldehyde.npz", 993_237, _DFT),
    "naphthalene": ("md17_naphthalene.npz", 326_250, _DFT),
    "paracetamol": ("paracetamol_dft.npz", 106_490, _DFT),
    "salicylic_acid": ("md17_salicylic.npz", 320_231, _DFT),
    "toluene": ("md17_toluene.npz", 442_790, _DFT),
    "uracil": ("md17_uracil.npz", 133_770, _DFT),
    "benzene2018": ("benzene2018_dft.npz", 49_863, _DFT),
    "aspirin_ccsd": ("aspirin_ccsd.zip", 1500, "CCSD/cc-pVDZ, Psi4"),
    "benzene_ccsd_t": ("benzene_ccsd_t.zip", 1500, "CCSD(T)/cc-pVDZ, Psi4"),
    "ethanol_ccsd_t": ("ethanol_ccsd_t.zip", 2000, "CCSD(T)/cc-pVTZ, Psi4"),
    "malonaldehyde_ccsd_t": ("malonaldehyde_ccsd_t.zip", 1500, "CCSD(T)/cc-pVDZ, Psi4"),
    "toluene_ccsd_t": ("toluene_ccsd_t.zip", 1501, "CCSD(T)/cc-pVDZ, Psi4"),
}
#: Single atoms, kcal/mol.
_ATOMS = {"H": -313.5150902000774, "C": -23622.587180094913, "N": -34219.46811826416, "O": -47069.30768969713}
_KCAL = 1 / units.HARTREE_TO_KCALMOL
_EV = 1 / units.HARTREE_TO_EV


class MD17(Published):
    """Trajectories of small molecules at 500 K, with energies and forces.

    Parameters
    ----------
    molecule
        Such as ``"ethanol"``; ``variants`` lists them. Those by coupled cluster have a published split into ``train``
        and ``test``.
    folder
        Where data are kept; the cache by default.

    Notes
    -----
    No checksums are published; those of the first download are put on record. Consecutive frames are alike: draw
    training data from all of a trajectory, a thousand frames at most.

    Examples
    --------
    >>> MD17("Ethanol").files()[0].urls[0]
    'https://www.quantum-machine.org/gdml/data/npz/md17_ethanol.npz'
    """

    key = "md17"
    title = "MD17"
    text = "trajectories of small molecules (H, C, N, O) at 500 K, energies and forces; some by coupled cluster"
    homepage = "http://www.sgdml.org/#datasets"
    license = "not stated; the authors ask to be cited"
    citations = ("10.1126/sciadv.1603015", "10.1038/s41467-018-06169-2")
    variants: ClassVar[Mapping[str, str]] = {name: f"{n:,} frames, {level}" for name, (_, n, level) in _MD17.items()}
    labels = (
        Label("energies", "E", "kcal/mol", "total energy"),
        Label("forces", "F", "kcal/mol/Å", "forces"),
    )

    def __init__(self, molecule: str, *, folder: str | Path | None = None):
        super().__init__(molecule, folder=folder)
        self._file, self.expected, self.level_of_theory = _MD17[self.variant]
        if self.level_of_theory == _DFT:
            self.self_energies = {symbol: energy * _KCAL for symbol, energy in _ATOMS.items()}
            self.self_energies_of = "single atoms, SchNetPack 2 (schnetpack.datasets.MD17)"

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        places = tuple(
            f"{place}/gdml/data/npz/{self._file}"
            for place in ("https://www.quantum-machine.org", "http://www.quantum-machine.org")
        )
        return (RemoteFile(self._file, (*places, f"http://www.sgdml.org/secure_proxy.php?file=data/npz/{self._file}")),)

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the file, or both files of an archive."""
        (path,) = files.values()
        fields = {label.name: label.field for label in self.labels}
        if path.suffix == ".npz":
            return open_source(path, layout="npz", fields=fields, length="Å")
        parts = {f"{path.stem}-{part}.npz": self.unpacked / f"{path.stem}-{part}.npz" for part in ("train", "test")}
        archives.take(path, parts, progress)
        return Numbered(open_source(list(parts.values()), layout="npz", fields=fields, length="Å"))

    def published_splits(self, files: Mapping[str, Path], source: Source) -> dict[str, NDArray[np.int64]]:
        """Return the rows of both files of an archive."""
        if len(source.groups) != 2:
            return {}
        train, test = (group.size for group in source.groups)
        return {"train": np.arange(train), "test": np.arange(train, train + test)}


_RMD17 = [name for name, (file, _, _) in _MD17.items() if not file.endswith(".zip") and name != "benzene2018"]


class RMD17(Published):
    """MD17 computed anew, without its numerical noise: 100 000 frames of each of ten molecules.

    Parameters
    ----------
    molecule
        Such as ``"ethanol"``; ``variants`` lists them.
    folder
        Where data are kept; the cache by default.

    Notes
    -----
    Five published splits of 1000 frames each: ``train_1`` and ``test_1`` to ``train_5`` and ``test_5``. The authors ask
    not to train on more, as the frames are those of a trajectory.

    Examples
    --------
    >>> RMD17("salicylic_acid").files()[0].size
    1066301513
    """

    key = "rmd17"
    title = "rMD17"
    text = "ten molecules of MD17 computed anew, 100,000 frames each, energies and forces, five splits"
    homepage = "https://doi.org/10.6084/m9.figshare.12672038.v3"
    license = "CC0"
    citations = ("10.1088/2632-2153/abba6f",)
    level_of_theory = "PBE/def2-SVP, ORCA 4"
    variants: ClassVar[Mapping[str, str]] = {
        name: f"{99_988 if name == 'azobenzene' else 100_000:,} frames" for name in _RMD17
    }
    labels = (
        Label("energies", "energies", "kcal/mol", "total energy"),
        Label("forces", "forces", "kcal/mol/Å", "forces"),
        Label("md17_frame", "old_indices", "1", "number of the frame in MD17"),
    )
    self_energies: Mapping[str, float] = {
        "H": -13.568422383046626 * _EV,
        "C": -1025.2770951782686 * _EV,
        "N": -1479.0665594928669 * _EV,
        "O": -2035.5709809589698 * _EV,
    }
    self_energies_of = "single atoms, dataset_ethanol/isolated_atoms.xyz of github.com/davkovacs/BOTNet-datasets"

    def __init__(self, molecule: str, *, folder: str | Path | None = None):
        super().__init__(molecule, folder=folder)
        self.expected = 99_988 if self.variant == "azobenzene" else 100_000

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded: one archive for all molecules."""
        places = (
            "https://ndownloader.figshare.com/files/23950376",
            "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2?download=1",
        )
        return (RemoteFile("rmd17.tar.bz2", places, "md5:cb1a927628d96f2e966025da4fb63d18", 1_066_301_513),)

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the file of the molecule."""
        (archive,) = files.values()
        file = f"rmd17_{self.variant.removesuffix('_acid')}.npz"
        taken = {f"npz_data/{file}": self.unpacked / file}
        taken |= {f"splits/{path.name}": path for path in self._indices().values()}
        archives.take(archive, taken, progress)
        fields = {label.name: label.field for label in self.labels}
        return Numbered(open_source(self.unpacked / file, layout="npz", fields=fields, length="Å"))

    def published_splits(self, files: Mapping[str, Path], source: Source) -> dict[str, NDArray[np.int64]]:
        """Return the rows of the five pairs of lists."""
        size = sum(group.size for group in source.groups)
        found = {}
        for name, path in self._indices().items():
            rows = np.atleast_1d(np.loadtxt(path, dtype=np.int64, delimiter=",", comments=None)).ravel()
            if len(rows) and (rows.min() < 0 or rows.max() >= size):
                raise DataError(f"{path.name}: row {rows.max()}, but {self!r} has {size} frames")
            found[name] = rows
        return found

    def _indices(self) -> dict[str, Path]:
        return {
            f"{part}_{i}": self.unpacked / f"index_{part}_{i:02d}.csv"
            for i in range(1, 6)
            for part in ("train", "test")
        }
