"""``torchani.ase``: the calculator under the signature of TorchANI 2.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import all_changes
from torch import nn

from anipot.derivatives import as_potential
from anipot.interfaces.ase import Calculator as _Calculator
from anipot.potential import Potential

__all__ = ["Calculator"]


class Calculator(_Calculator):
    """``anipot.interfaces.ase.Calculator`` that takes species first.

    Parameters
    ----------
    species
        Symbols in the order of the element indices; they name the elements of a model without ``SpeciesConverter``.
    model
        A ``Potential``, or a ``Sequential`` of AEVs, networks and ``EnergyShifter``.
    overwrite
        Whether periodic atoms are moved into the cell, in the ``Atoms`` object itself.
    **options
        As for ``anipot.interfaces.ase.Calculator``.
    """

    def __init__(self, species: Sequence[str], model: nn.Module, overwrite: bool = False, **options: Any) -> None:
        super().__init__(_with_elements(tuple(species), as_potential(model)), **options)
        self.overwrite = overwrite

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute everything there is for ``atoms`` into ``results``."""
        if self.overwrite and atoms is not None:
            atoms.wrap(eps=0)  # before ASE takes its copy, so that its cache holds for the atoms as they now are
        super().calculate(atoms, properties, system_changes)


def _with_elements(species: tuple[str, ...], potential: Potential) -> Potential:
    """Return the potential with elements of these names; a difference matters only where nothing named them before."""
    if species == potential.elements:
        return potential
    if potential.periodic_table_index:
        raise ValueError(f"species are {list(species)}, but the model is made for {list(potential.elements)}")
    p = potential
    parts = (p.representation, p.head, p.shifter, p.name, p.details)
    more: dict[str, Any] = {"properties": dict(p.property_heads), "terms": list(p.terms)}
    return Potential(species, *parts, periodic_table_index=False, **more).to(p.device)
