"""ANI-1x and ANI-1ccx as they were released: a group for each formula, labels of many methods, NaN for missing ones.

Keys are ``method_basis.property``; their units are those of the paper (Smith et al., Sci. Data 2020, 7, 134).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from anipot.data.blocks import DataError
from anipot.data.layouts.hdf5_groups import GroupedFile

_UNITS = {
    "coordinates": "Å",
    "energy": "Hartree",
    "corr_energy": "Hartree",
    "forces": "Hartree/Å",
    "dipole": "e*Å",
    "quadrupole": "e*Å^2",
    "cm5_charges": "e",
    "hirshfeld_charges": "e",
    "mbis_charges": "e",
    "mbis_dipoles": "e*bohr",
    "mbis_quadrupoles": "e*bohr^2",
    "mbis_octupoles": "e*bohr^3",
    "mbis_volumes": "bohr^3",
}
#: Methods that are steps on the way to another.
_PARTS = ("hf_", "mp2_", "npno_", "tpno_")


class Ani1xSource(GroupedFile):
    """A file of ANI-1x or ANI-1ccx. Where it has energies of several methods, the user says which are meant."""

    layout = "ani1x"
    one_molecule = True
    grouped_by_molecule = True
    species_keys = ("atomic_numbers",)

    def unit(self, key: str, group: str) -> str | None:
        return _UNITS.get(key.rpartition(".")[2])

    def defaults(self, found: Collection[str]) -> Mapping[str, str]:
        methods = [
            k.removesuffix(".energy") for k in sorted(found) if k.endswith(".energy") and not k.startswith(_PARTS)
        ]
        if len(methods) > 1:
            example = "fields={'energies': 'wb97x_dz.energy', 'forces': 'wb97x_dz.forces'}"
            raise DataError(
                f"{self.path} has energies of {', '.join(methods)}; say which are meant, for example {example}"
            )
        if not methods:
            return {}
        return {"energies": f"{methods[0]}.energy", "forces": f"{methods[0]}.forces", "dipole": f"{methods[0]}.dipole"}
