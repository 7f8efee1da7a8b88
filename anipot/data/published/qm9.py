"""QM9: 134 kilo molecules of up to nine C, N, O and F at their minima."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from anipot.data.blocks import Block, DataError, Source
from anipot.data.download import RemoteFile
from anipot.data.memory import MemorySource
from anipot.data.published import archives, qm9_xyz
from anipot.data.published.base import Bad, Published
from anipot.data.published.labels import Label

_FIGSHARE = ("https://ndownloader.figshare.com/files/", "https://springernature.figshare.com/ndownloader/files/")
_ARCHIVE, _LIST = "dsgdb9nsd.xyz.tar.bz2", "uncharacterized.txt"
_U0: Mapping[str, float] = {"H": -0.500273, "C": -37.846772, "N": -54.583861, "O": -75.064579, "F": -99.718730}
_MOLECULES, _UNCHARACTERIZED = 133_885, 3054


class QM9(Published):
    """134 kilo organic molecules of H, C, N, O, F with up to nine heavy atoms, at minima of B3LYP.

    Parameters
    ----------
    selection
        ``"characterized"`` leaves out the 3054 molecules whose geometry failed a consistency check, which leaves
        130 831; ``"all"`` keeps them.
    folder
        Where data are kept; the cache by default.

    Examples
    --------
    >>> QM9().self_energies["H"]
    -0.500273
    >>> QM9().fetch()                                                   # doctest: +SKIP
    """

    key = "qm9"
    title = "QM9"
    text = "134k organic molecules (H, C, N, O, F; up to 9 heavy atoms) at their minima, with 15 properties"
    homepage = "https://doi.org/10.6084/m9.figshare.c.978904.v5"
    license = "CC0"
    citations = ("10.1038/sdata.2014.22", "10.1021/ci300415d")
    level_of_theory = "B3LYP/6-31G(2df,p)"
    variants: ClassVar[Mapping[str, str]] = {
        "characterized": "130,831 molecules",
        "all": "133,885 molecules, 3,054 of which failed the consistency check",
    }
    labels = (
        Label("energies", "U0", "Hartree", "internal energy at 0 K"),
        Label("internal_energy", "U", "Hartree", "internal energy at 298.15 K"),
        Label("enthalpy", "H", "Hartree", "enthalpy at 298.15 K"),
        Label("free_energy", "G", "Hartree", "free energy at 298.15 K"),
        Label("heat_capacity", "Cv", "cal/mol/K", "heat capacity at 298.15 K"),
        Label("zero_point_energy", "zpve", "Hartree", "zero point vibrational energy"),
        Label("homo", "homo", "Hartree", "energy of the highest occupied orbital"),
        Label("lumo", "lumo", "Hartree", "energy of the lowest empty orbital"),
        Label("gap", "gap", "Hartree", "their difference"),
        Label("dipole_magnitude", "mu", "D", "length of the dipole", here="e*Å"),
        Label("isotropic_polarizability", "alpha", "bohr^3", "isotropic polarizability", here="Å^3"),
        Label("spatial_extent", "r2", "bohr^2", "electronic spatial extent", here="Å^2"),
        Label("rotational_constants", "A, B, C", "GHz", "rotational constants", shape=(3,)),
        Label("charges", "q", "e", "Mulliken charges"),
        Label("gdb_index", "index", "1", "number in GDB-9, from 1 on"),
    )
    self_energies = _U0
    self_energies_of = "U0 of single atoms, atomref.txt of the release"
    #: Other properties of single atoms, Hartree and cal/mol/K, from the same table.
    atom_references: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "energies": _U0,
        "internal_energy": {"H": -0.498857, "C": -37.845355, "N": -54.582445, "O": -75.063163, "F": -99.717314},
        "enthalpy": {"H": -0.497912, "C": -37.844411, "N": -54.581501, "O": -75.062219, "F": -99.716370},
        "free_energy": {"H": -0.510927, "C": -37.861317, "N": -54.598897, "O": -75.079532, "F": -99.733544},
        "heat_capacity": {"H": 2.981, "C": 2.981, "N": 2.981, "O": 2.981, "F": 2.981},
        "zero_point_energy": {"H": 0.0, "C": 0.0, "N": 0.0, "O": 0.0, "F": 0.0},
    }

    def __init__(self, selection: str = "characterized", *, folder: str | Path | None = None):
        super().__init__(selection, folder=folder)
        self.expected = _MOLECULES - (0 if self.variant == "all" else _UNCHARACTERIZED)

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        archive = RemoteFile(
            _ARCHIVE,
            tuple(f"{place}3195389" for place in _FIGSHARE),
            "sha256:3a63848ac80691bdb8d41834b575afad345b9300d7a2db0c38adb7f6eaa8360c",
            86_144_227,
        )
        listed = RemoteFile(
            _LIST,
            tuple(f"{place}3195404" for place in _FIGSHARE),
            "sha256:3aa5115d540b356de94791d4a74c3bf1ed91c469ecf52a4f5d7cc0506fe02e24",
            486_752,
        )
        return (archive,) if self.variant == "all" else (archive, listed)

    def facts(self) -> dict[str, object]:
        """Return what is written into the store beside the structures."""
        return {**super().facts(), "atom_references": self.atom_references}

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Read all molecules."""
        skipped: frozenset[int] = frozenset()
        if _LIST in files:
            skipped = qm9_xyz.parse_uncharacterized(files[_LIST].read_text("utf-8"), str(files[_LIST]))
        found: dict[int, list[qm9_xyz.Molecule]] = {}
        for molecule in _molecules(files[_ARCHIVE], bad, progress):
            if molecule.index not in skipped:
                found.setdefault(len(molecule.species), []).append(molecule)
        factors = {label.name: label.factor for label in self.labels}
        blocks = [_block(found[size], factors, str(files[_ARCHIVE])) for size in sorted(found)]
        source = MemorySource(blocks, {label.name: label.quantity for label in self.labels})
        source.paths = [str(files[_ARCHIVE])]
        return source


def _molecules(archive: Path, bad: Bad, progress: bool) -> Iterator[qm9_xyz.Molecule]:
    with archives.reading(archive):
        for name, stream in archives.members(archive, lambda name: name.endswith(".xyz"), progress):
            where = f"{archive}, {name}"
            try:
                yield qm9_xyz.parse(stream.read().decode("utf-8"), where)
            except (DataError, UnicodeDecodeError) as error:
                bad(where, str(error))


def _block(molecules: list[qm9_xyz.Molecule], factors: Mapping[str, float], file: str) -> Block:
    molecules.sort(key=lambda molecule: molecule.index)
    table = np.array([molecule.properties for molecule in molecules])
    column = {key: table[:, i] for i, key in enumerate(qm9_xyz.PROPERTIES)}
    index = np.array([molecule.index for molecule in molecules])
    properties = {
        **{label.name: column[label.key] for label in QM9.labels if label.key in column},
        "rotational_constants": table[:, :3],
        "charges": np.array([molecule.charges for molecule in molecules]),
        "gdb_index": index.astype(np.float64),
    }
    return Block(
        np.array([molecule.species for molecule in molecules]),
        np.array([molecule.coordinates for molecule in molecules]),
        {name: values * factors[name] for name, values in properties.items()},
        rows=index,
        file=file,
    )
