"""QM7-X as it was released: a group for each structure, in a group for each molecule.

Units of keys are those of its README (Hoja et al., Sci. Data 2021, 8, 43). Files are read structure by structure: one
that is used more than once is better copied (``anipot.data.store.copy``) before.
"""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import Fields, Keys, coordinates, length_factor, species, values
from anipot.data.layouts.hdf5 import Handle

COORDINATES, SPECIES = "atXYZ", "atNUM"
UNITS = {
    COORDINATES: "Å",
    "sRMSD": "Å",
    **dict.fromkeys(("ePBE0+MBD", "eDFTB+MBD", "eAT", "ePBE0", "eMBD", "eTS", "eNN", "eKIN", "eNE", "eEE"), "eV"),
    **dict.fromkeys(("eXC", "eX", "eC", "eXX", "eKSE", "eH", "eL", "HLgap", "KSE"), "eV"),
    **dict.fromkeys(("totFOR", "vdwFOR", "pbe0FOR"), "eV/Å"),
    **dict.fromkeys(("DIP", "vDIP"), "e*Å"),
    **dict.fromkeys(("vTQ", "vIQ", "vEQ"), "e*Å^2"),
    **dict.fromkeys(("mC6", "atC6"), "Hartree*bohr^6"),
    **dict.fromkeys(("mPOL", "mTPOL", "hVOL", "atPOL"), "bohr^3"),
    **dict.fromkeys(("hDIP", "hVDIP"), "e*bohr"),
    "hCHG": "e",
    "vdwR": "bohr",
}
DEFAULTS = {
    "energies": "ePBE0+MBD",
    "forces": "totFOR",
    "dipole": "vDIP",
    "charges": "hCHG",
    "polarizability": "mTPOL",
}


class Qm7xSource(FileSource):
    """One of the eight HDF5 files of QM7-X.

    Parameters
    ----------
    path
        The file.
    fields
        What to read, and under which name; energies, forces, dipole, charges and polarizability by default.
    length
        Unit of coordinates, if it is not Å.
    """

    layout = "qm7x"
    grouped_by_molecule = True

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None):
        super().__init__(path)
        self._length = length_factor(path, length, UNITS[COORDINATES])
        self._handle = Handle(path)
        self.groups = tuple(self._group(name) for name in self._handle.file)
        first = self._structures(self.groups[0].name)[0]
        found = [key for key in self._handle.labels(first) if key not in (COORDINATES, SPECIES)]
        self._reads(Keys(path, found, UNITS, {}).choose(fields, DEFAULTS))
        self.close()

    def close(self) -> None:
        self._handle.close()

    def _read(self, group: int, rows: slice | NDArray[np.int64], chosen: NDArray[np.int64]) -> Block:
        part = self.groups[group]
        names = self._structures(part.name)
        read = [self._structure(names[row], part.num_atoms) for row in chosen.tolist()]
        n, a = len(read), part.num_atoms
        properties = {
            column.quantity.name: np.array([labels[i] for _, _, labels in read]).reshape(column.quantity.shape_of(n, a))
            for i, column in enumerate(self.columns)
        }
        return Block(
            np.array([elements for elements, _, _ in read], dtype=np.int64).reshape(n, a),
            np.array([positions for _, positions, _ in read]).reshape(n, a, 3),
            properties,
            group=part.name,
            rows=chosen,
            file=self.path,
        )

    def _structures(self, molecule: str) -> list[str]:
        return [f"{molecule}/{name}" for name in self._handle.file[molecule]]

    def _group(self, molecule: str) -> Group:
        item = self._handle.file[molecule]
        if not isinstance(item, h5py.Group) or not len(item):
            raise DataError(f"{self._handle.where(molecule)}: no structures")
        first = self._handle.shape(f"{molecule}/{next(iter(item))}", SPECIES)
        return Group(molecule, len(item), int(np.prod(first)))

    def _structure(
        self, name: str, atoms: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], list[NDArray[np.float64]]]:
        where = self._handle.where(name)
        elements = species(self._handle.read(name, SPECIES).ravel(), where, SPECIES)
        if len(elements) != atoms:
            raise DataError(f"{where}, key {SPECIES!r}: {len(elements)} atoms, expected {atoms} as in the others")
        positions = coordinates(self._handle.read(name, COORDINATES)[None], self._length, 1, atoms, where, COORDINATES)
        labels = []
        for column in self.columns:
            found = self._handle.read(name, column.key)
            scalar = not column.quantity.per_atom and not column.quantity.shape
            labels.append(values(found.ravel() if scalar else found[None], column, 1, atoms, where)[0])
        return elements, positions[0], labels
