"""ANI-2x: ANI-1x with sulfur and halogens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from anipot.data.blocks import Source
from anipot.data.download import RemoteFile
from anipot.data.published import archives, energies
from anipot.data.published.base import Bad, Published
from anipot.data.published.labels import Label
from anipot.data.source import open_source

#: By the name of a level of theory: the name in the release, and the checksum where it is known.
_LEVELS: Mapping[str, tuple[str, str | None]] = {
    "wB97X/6-31G(d)": ("wB97X-631Gd", "md5:cb1d9effb3d07fc1cc6ced7cd0b1e1f2"),
    "wB97X/def2-TZVPP": ("wB97X-def2TZVPP", None),
    "wB97M-D3BJ/def2-TZVPP": ("wB97MD3BJ-def2TZVPP", None),
    "wB97M-V/def2-TZVPP": ("wB97MV-def2TZVPP", None),
    "B97-3c/def2-mTZVP": ("B973c-def2mTZVP", None),
}
_ENERGIES = Label("energies", "energies", "Hartree", "total energy")
_FORCES = Label("forces", "forces", "Hartree/Å", "forces")


class ANI2x(Published):
    """9.6 million conformers of H, C, N, O, F, S, Cl.

    Parameters
    ----------
    level
        Level of theory: ``"wB97X/6-31G(d)"``, at which the ANI-2x potential was trained, or one of ``variants``. Forces
        come with the first and with B97-3c.
    folder
        Where data are kept; the cache by default.

    Notes
    -----
    The checksum is known for the first level only; that of the first download of another is put on record.

    Examples
    --------
    >>> ANI2x().files()[0].name
    'ANI-2x-wB97X-631Gd.tar.gz'
    """

    key = "ani2x"
    title = "ANI-2x"
    text = "9.6M conformers (H, C, N, O, F, S, Cl), chosen by active learning, energies and forces"
    homepage = "https://doi.org/10.5281/zenodo.10108942"
    license = "CC-BY-4.0"
    citations = ("10.1021/acs.jctc.0c00121", "10.5281/zenodo.10108942")
    variants: ClassVar[Mapping[str, str]] = {level: f"release {name}" for level, (name, _) in _LEVELS.items()}
    precision = "single"
    self_energies_of = energies.TORCHANI_SOURCE

    def __init__(self, level: str = "wB97X/6-31G(d)", *, folder: str | Path | None = None):
        super().__init__(level, folder=folder)
        self.level_of_theory = self.variant
        self._name, self._checksum = _LEVELS[self.variant]
        forces = self._name in ("wB97X-631Gd", "B973c-def2mTZVP")
        self.labels = (_ENERGIES, _FORCES) if forces else (_ENERGIES,)
        self.self_energies = energies.TORCHANI[self.level_of_theory]
        self.expected = 9_651_712 if self._name == "wB97X-631Gd" else None

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        name = f"ANI-2x-{self._name}.tar.gz"
        places = (
            f"https://zenodo.org/records/10108942/files/{name}?download=1",
            f"https://zenodo.org/api/records/10108942/files/{name}/content",
        )
        return (RemoteFile(name, places, self._checksum),)

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the file in the archive."""
        (archive,) = files.values()
        file = self.unpacked / f"ANI-2x-{self._name}.h5"
        archives.take(archive, {f"final_h5/{file.name}": file}, progress)
        return open_source(file, layout="grouped", fields={label.name: label.field for label in self.labels})
