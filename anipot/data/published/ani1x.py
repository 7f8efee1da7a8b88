"""ANI-1x and ANI-1ccx: conformers that an ensemble asked for, by density functionals and coupled cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from anipot.data.blocks import Source
from anipot.data.download import RemoteFile
from anipot.data.published import energies
from anipot.data.published.base import Bad, Published
from anipot.data.published.labels import Label
from anipot.data.source import open_source

_RELEASE = RemoteFile(
    "ani1x-release.h5",
    (
        "https://ndownloader.figshare.com/files/18112775",
        "https://springernature.figshare.com/ndownloader/files/18112775",
    ),
    "md5:98090dd6679106da861f52bed825ffb7",
    5_590_846_027,
)
_DZ = (
    Label("energies", "wb97x_dz.energy", "Hartree", "total energy"),
    Label("forces", "wb97x_dz.forces", "Hartree/Å", "forces"),
    Label("dipole", "wb97x_dz.dipole", "e*Å", "dipole"),
    Label("cm5_charges", "wb97x_dz.cm5_charges", "e", "CM5 charges", per_atom=True),
    Label("hirshfeld_charges", "wb97x_dz.hirshfeld_charges", "e", "Hirshfeld charges", per_atom=True),
)
_TZ = (
    Label("energies", "wb97x_tz.energy", "Hartree", "total energy"),
    Label("forces", "wb97x_tz.forces", "Hartree/Å", "forces"),
    Label("dipole", "wb97x_tz.dipole", "e*Å", "dipole"),
    Label("mbis_charges", "wb97x_tz.mbis_charges", "e", "MBIS charges", per_atom=True),
)
_CCX = (
    Label("energies", "ccsd(t)_cbs.energy", "Hartree", "total energy, CCSD(T)*/CBS"),
    Label("dft_energies", "wb97x_dz.energy", "Hartree", "total energy, wB97X/6-31G(d)"),
    Label("dft_forces", "wb97x_dz.forces", "Hartree/Å", "forces, wB97X/6-31G(d)", per_atom=True, shape=(3,)),
)


class _Release(Published):
    """A part of the file that holds both data sets."""

    release = "ani1x"
    homepage = "https://doi.org/10.6084/m9.figshare.c.4712477"
    license = "CC0"
    precision = "single"
    partly_labelled = True
    self_energies_of = energies.TORCHANI_SOURCE

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        return (_RELEASE,)

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the release."""
        fields = {label.name: label.field for label in self.labels}
        return open_source(files[_RELEASE.name], layout="ani1x", fields=fields)


class ANI1x(_Release):
    """5 million conformers of 64 thousand molecules of H, C, N, O, energies and forces.

    Parameters
    ----------
    level
        ``"wb97x_dz"``, wB97X/6-31G(d), at which the ANI-1x potential was trained, or ``"wb97x_tz"``, wB97X/def2-TZVPP.
        Conformers without an energy at that level are left out.
    folder
        Where data are kept; the cache by default.

    Examples
    --------
    >>> ANI1x("wb97x_tz").level_of_theory
    'wB97X/def2-TZVPP'
    """

    key = "ani1x"
    title = "ANI-1x"
    text = "5M conformers of 64k molecules (H, C, N, O), chosen by active learning, energies and forces"
    citations = ("10.1038/s41597-020-0473-z", "10.1063/1.5023802")
    variants: ClassVar[Mapping[str, str]] = {"wb97x_dz": "wB97X/6-31G(d)", "wb97x_tz": "wB97X/def2-TZVPP"}

    def __init__(self, level: str = "wb97x_dz", *, folder: str | Path | None = None):
        super().__init__(level, folder=folder)
        self.labels = _DZ if self.variant == "wb97x_dz" else _TZ
        self.level_of_theory = self.variants[self.variant]
        self.self_energies = {s: energies.TORCHANI[self.level_of_theory][s] for s in ("H", "C", "N", "O")}


class ANI1ccx(_Release):
    """500 thousand conformers of ANI-1x with coupled-cluster energies.

    Parameters
    ----------
    folder
        Where data are kept; the cache by default.

    Examples
    --------
    >>> [label.name for label in ANI1ccx().labels]
    ['energies', 'dft_energies', 'dft_forces']
    """

    key = "ani1ccx"
    title = "ANI-1ccx"
    text = "500k conformers of ANI-1x (H, C, N, O) with coupled-cluster energies, and DFT beside them"
    citations = ("10.1038/s41597-020-0473-z", "10.1038/s41467-019-10827-4")
    level_of_theory = "CCSD(T)*/CBS"
    labels = _CCX
    self_energies = energies.TORCHANI["CCSD(T)*/CBS"]

    def __init__(self, *, folder: str | Path | None = None):
        super().__init__(folder=folder)
