"""ANI-1 as it was released: a group for each molecule of GDB-11, species as symbols, Å and Hartree.

Files of this layout that hold ``forces`` disagree about their sign, some have the gradient of the energy: it is to be
said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from anipot.data.layouts.hdf5_groups import GroupedFile


class Ani1Source(GroupedFile):
    """A file of ANI-1, of the tools of its authors (pyanitools), or of COMP6."""

    layout = "ani1"
    one_molecule = True
    grouped_by_molecule = True
    negate: ClassVar[Mapping[str, bool | None]] = {"forces": None}

    def unit(self, key: str, group: str) -> str | None:
        return {"coordinates": "Å", "energies": "Hartree", "forces": "Hartree/Å"}.get(key)

    def defaults(self, found: Collection[str]) -> Mapping[str, str]:
        return {"energies": "energies"}
