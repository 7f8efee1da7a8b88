"""ANI-2x and data sets of TorchANI 2: groups of structures of one size or one formula, each with its own species.

Energies are in Hartree, ``forces`` are forces in Hartree/Å. Other labels have no agreed units.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from anipot.data.layouts.columns import Fields
from anipot.data.layouts.hdf5_groups import GroupedFile


class GroupedSource(GroupedFile):
    """A file of ANI-2x, or one written by ``ANIDataset`` of TorchANI 2."""

    layout = "grouped"
    species_keys = ("species", "numbers")

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None):
        super().__init__(path, fields, length)
        self.grouped_by_molecule = self._handle.file.attrs.get("grouping") == "by_formula"
        self.close()

    def unit(self, key: str, group: str) -> str | None:
        return {"coordinates": "Å", "energies": "Hartree", "forces": "Hartree/Å"}.get(key)

    def defaults(self, found: Collection[str]) -> Mapping[str, str]:
        return {"energies": "energies", "forces": "forces"}
