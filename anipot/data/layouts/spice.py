"""SPICE: a group for each molecule, units as attributes of the arrays, gradients of the energy.

Not all molecules have all labels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from anipot.data.layouts.hdf5_groups import GroupedFile


class SpiceSource(GroupedFile):
    """A file of SPICE. ``dft_total_gradient`` becomes forces."""

    layout = "spice"
    one_molecule = True
    grouped_by_molecule = True
    may_lack = True
    coordinates_key = "conformations"
    species_keys = ("atomic_numbers",)
    negate: ClassVar[Mapping[str, bool | None]] = {"dft_total_gradient": True}

    def unit(self, key: str, group: str) -> str | None:
        unit = self._handle.file[f"{group}/{key}"].attrs.get("units")
        return None if unit is None else str(unit)

    def defaults(self, found: Collection[str]) -> Mapping[str, str]:
        return {
            "energies": "dft_total_energy",
            "forces": "dft_total_gradient",
            "dipole": "scf_dipole",
            "charges": "mbis_charges",
        }
