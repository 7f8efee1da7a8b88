"""ANI-1: 22 million conformers of small molecules."""

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


class ANI1(Published):
    """22 million conformers of 57 462 molecules of H, C, N, O with up to eight heavy atoms.

    Parameters
    ----------
    heavy_atoms
        Largest number of C, N and O in a molecule, 1 to 8.
    folder
        Where data are kept; the cache by default.

    Notes
    -----
    No checksum is published; that of the first download is put on record (``anipot.data.download.fetch``). The
    conformers of high energy, which the files hold beside the others, are left out.

    Examples
    --------
    >>> ANI1(4).path.name
    'ani1-4.h5'
    """

    key = "ani1"
    title = "ANI-1"
    text = "22M off-equilibrium conformers of 57k molecules (H, C, N, O; up to 8 heavy atoms), energies"
    homepage = "https://doi.org/10.6084/m9.figshare.c.3846712"
    license = "as stated at its homepage"
    citations = ("10.1038/sdata.2017.193", "10.1039/C6SC05720A")
    level_of_theory = "wB97X/6-31G(d)"
    variants: ClassVar[Mapping[str, str]] = {
        str(n): f"molecules of up to {n} heavy atoms" if n > 1 else "methane, ammonia, water" for n in range(8, 0, -1)
    }
    precision = "single"
    labels = (Label("energies", "energies", "Hartree", "total energy"),)
    self_energies = energies.ANI1
    self_energies_of = energies.ANI1_SOURCE

    def __init__(self, heavy_atoms: int | str = 8, *, folder: str | Path | None = None):
        super().__init__(str(heavy_atoms), folder=folder)

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        places = ("https://ndownloader.figshare.com/files/9057631", "https://figshare.com/ndownloader/files/9057631")
        return (RemoteFile("ANI1_release.tar.gz", places),)

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the files of up to so many heavy atoms."""
        names = [f"ani_gdb_s{n:02d}.h5" for n in range(1, int(self.variant) + 1)]
        taken = {name: self.unpacked / name for name in names}
        archives.take(files["ANI1_release.tar.gz"], taken, progress)
        fields = {label.name: label.field for label in self.labels}
        return open_source(list(taken.values()), layout="ani1", fields=fields)
