"""COMP6: benchmarks for potentials of organic molecules."""

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

_COMMIT = "79f41c156f8e19506fe951b5513b98e7c534a503"
#: Benchmarks: what they are, their folder, and their files with the names that git gives to the contents.
_SUBSETS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "ANI-MD": (
        "trajectories of 14 drugs and 2 proteins at 300 K",
        "ANI-MD",
        {"ani_md_bench.h5": "d168ba5e9ed0155518d911c234e3db341760e4bb"},
    ),
    "DrugBank": (
        "837 drugs along normal modes",
        "DrugBank",
        {"drugbank_testset.h5": "6ba6de270d99dfcf6fc296ee0947244b1d217951"},
    ),
    "GDB7to9": (
        "1500 molecules of 7 to 9 heavy atoms along normal modes",
        "GDB07to09",
        {
            "gdb11_07_test500.h5": "777129cb224b69fe35d01572dee5a4b9a5a9f41a",
            "gdb11_08_test500.h5": "6e99a49470b6547e6befae4df386640dc8e0fbf9",
            "gdb11_09_test500.h5": "31bda868f13bcdf72c183ae106f05733fea8f9d8",
        },
    ),
    "GDB10to13": (
        "3000 molecules of 10 to 13 heavy atoms along normal modes",
        "GDB10to13",
        {
            "gdb11_10_test500.h5": "a8fd866275df29e0268f056fd041747cb56d695d",
            "gdb11_11_test500.h5": "34d83b10b212609aee3e4f0585ad63dd6245d452",
            "gdb13_12_test1000.h5": "ff0669cf835549efb94ac5cc8091d48c6925487c",
            "gdb13_13_test1000.h5": "06c126241dae123c54bf093026b7a37bcc3f5c87",
        },
    ),
    "S66x8": (
        "66 dimers at 8 distances",
        "s66x8",
        {"s66x8_wb97x6-31gd.h5": "60def9dae025577f94ecd8716720184e17e2cdd1"},
    ),
    "Tripeptides": (
        "248 tripeptides along normal modes",
        "Tripeptides",
        {"tripeptide_full.h5": "d9b89b3763bc5b85b12c81880e07ecece123cbaf"},
    ),
}


class COMP6(Published):
    """The six benchmarks on which ANI-1x was tested (COMP6v1): H, C, N, O, energies and forces.

    Parameters
    ----------
    subset
        One of ``variants``: ``"ANI-MD"``, ``"DrugBank"``, ``"GDB7to9"``, ``"GDB10to13"``, ``"S66x8"`` or
        ``"Tripeptides"``.
    folder
        Where data are kept; the cache by default.

    Notes
    -----
    The files hold gradients under the name of forces; the store holds forces. ``molecule`` tells which conformers are
    of one molecule, for errors of relative energies.

    Examples
    --------
    >>> COMP6("gdb7to9").path.name, len(COMP6("GDB7to9").files())
    ('comp6-GDB7to9.h5', 3)
    """

    key = "comp6"
    title = "COMP6"
    text = "six benchmarks for potentials of organic molecules (H, C, N, O), energies and forces"
    homepage = "https://github.com/isayev/COMP6"
    license = "MIT"
    citations = ("10.1063/1.5023802",)
    level_of_theory = "wB97X/6-31G(d)"
    variants: ClassVar[Mapping[str, str]] = {name: text for name, (text, _, _) in _SUBSETS.items()}
    precision = "single"
    labels = (
        Label("energies", "energies", "Hartree", "total energy"),
        Label("forces", "forces", "Hartree/Å", "forces; the files hold gradients", negate=True),
    )
    self_energies = energies.ANI1
    self_energies_of = energies.ANI1_SOURCE

    def __init__(self, subset: str, *, folder: str | Path | None = None):
        super().__init__(subset, folder=folder)
        _, self._place, self._names = _SUBSETS[self.variant]

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        place = f"https://raw.githubusercontent.com/isayev/COMP6/{_COMMIT}/COMP6v1/{self._place}"
        other = f"https://github.com/isayev/COMP6/raw/{_COMMIT}/COMP6v1/{self._place}"
        return tuple(
            RemoteFile(name, (f"{place}/{name}", f"{other}/{name}"), f"git:{blob}")
            for name, blob in self._names.items()
        )

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the files."""
        fields = {label.name: label.field for label in self.labels}
        return open_source(list(files.values()), layout="ani1", fields=fields)


class COMP6v2(Published):
    """The benchmarks of COMP6 with sulfur and halogens, on which ANI-2x was tested: all of them in one.

    Parameters
    ----------
    folder
        Where data are kept; the cache by default.

    Examples
    --------
    >>> COMP6v2().files()[0].checksum
    'md5:0a417148966022e72f54c135d8f3d4e7'
    """

    key = "comp6v2"
    title = "COMP6v2"
    text = "COMP6 with S, F, Cl, in one, energies and forces"
    homepage = "https://doi.org/10.5281/zenodo.10126157"
    license = "CC-BY-4.0"
    citations = ("10.1021/acs.jctc.0c00121", "10.5281/zenodo.10126157")
    level_of_theory = "wB97X/6-31G(d)"
    precision = "single"
    labels = (
        Label("energies", "energies", "Hartree", "total energy"),
        Label("forces", "forces", "Hartree/Å", "forces"),
    )
    self_energies = energies.TORCHANI["wB97X/6-31G(d)"]
    self_energies_of = energies.TORCHANI_SOURCE

    def __init__(self, *, folder: str | Path | None = None):
        super().__init__(folder=folder)

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        name = "COMP6v2_wB97X-631Gd.tar.gz"
        places = (
            f"https://zenodo.org/records/10126157/files/{name}?download=1",
            f"https://zenodo.org/api/records/10126157/files/{name}/content",
        )
        return (RemoteFile(name, places, "md5:0a417148966022e72f54c135d8f3d4e7"),)

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open the file in the archive."""
        (archive,) = files.values()
        file = self.unpacked / "COMP6v2_wB97X-631Gd.h5"
        archives.take(archive, {f"comp6v2_final_h5/{file.name}": file}, progress)
        return open_source(file, layout="grouped", fields={label.name: label.field for label in self.labels})
