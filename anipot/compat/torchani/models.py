"""``torchani.models``: the published potentials as TorchANI 2.2 offers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

import anipot.models
from anipot.potential import Potential
from anipot.structures import SpeciesConverter, SpeciesEnergies

if TYPE_CHECKING:
    from anipot.compat.torchani.ase import Calculator
    from anipot.energy import EnergyShifter

__all__ = ["ANI1ccx", "ANI1x", "ANI2x", "BuiltinEnsemble", "BuiltinModel", "SpeciesEnergiesQBC"]


class SpeciesEnergiesQBC(NamedTuple):
    """Species (B, A), energies (B,) in Hartree, and their QBC factors σ/√N (B,)."""

    species: Tensor
    energies: Tensor
    qbcs: Tensor


class BuiltinModel(Potential):
    """``anipot.Potential`` with the names of TorchANI 2.2 beside its own."""

    @classmethod
    def of(cls, potential: Potential) -> BuiltinModel:
        """Return a potential under these names; its parts are shared, not copied."""
        p = potential
        args = (p.elements, p.representation, p.head, p.shifter, p.name, p.details, p.periodic_table_index)
        return cls(*args, properties=dict(p.property_heads), terms=list(p.terms)).to(p.device)

    @property
    def species(self) -> list[str]:
        """Symbols of the elements that the model knows."""
        return list(self.elements)

    @property
    def species_converter(self) -> SpeciesConverter:
        """From atomic numbers to element indices."""
        return self.converter

    @property
    def aev_computer(self) -> nn.Module:
        """From coordinates to AEVs."""
        return self.representation

    @property
    def neural_networks(self) -> nn.Module:
        """From AEVs to energies."""
        return self.head

    @property
    def energy_shifter(self) -> EnergyShifter:
        """Self energies."""
        return self.shifter

    @property
    def sae_dict(self) -> dict[str, float]:
        """Self energies (Hartree) by symbol."""
        return dict(zip(self.elements, self.shifter.self_energies.tolist(), strict=False))

    def species_to_tensor(self, symbols: Any) -> Tensor:
        """Return element indices (a,), whatever ``periodic_table_index`` is: TorchANI 2.2 does the same."""
        from anipot.compat.torchani.utils import ChemicalSymbolsToInts

        return ChemicalSymbolsToInts(self.elements)(symbols).to(self.device)

    def atomic_energies(
        self,
        species_coordinates: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        average: bool = True,
    ) -> SpeciesEnergies:
        """Return the energies of the atoms, self energies included: (B, A), or of every member (M, B, A)."""
        if average:
            return super().atomic_energies(species_coordinates, cell, pbc)
        system, atomic = self._members(species_coordinates, cell, pbc)
        atomic = atomic.view(len(self), *system.species.shape)
        return SpeciesEnergies(species_coordinates[0], atomic + self.shifter.atomic(system.species))

    def energies_qbcs(
        self,
        species_coordinates: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        unbiased: bool = True,
    ) -> SpeciesEnergiesQBC:
        """Return mean energies (B,) and QBC factors (B,), Hartree (doi:10.1063/1.5023802)."""
        if len(self) < 2:
            raise ValueError(f"QBC factors need an ensemble, but {self.name or 'this model'} has one member")
        species, energies = self.members_energies(species_coordinates, cell, pbc)
        num_atoms = (species >= 0).sum(-1).clamp(min=1)
        spread = energies.std(0, correction=int(unbiased))
        return SpeciesEnergiesQBC(species, energies.mean(0), spread / num_atoms.double().sqrt())

    def ase(self, **options: Any) -> Calculator:
        """Return an ASE calculator; see ``torchani.ase.Calculator``."""
        from anipot.compat.torchani.ase import Calculator

        return Calculator(self.species, self, **options)


#: One class serves for both: a single model is an ensemble of one.
BuiltinEnsemble = BuiltinModel


def ANI1x(periodic_table_index: bool = False, model_index: int | None = None) -> BuiltinModel:
    """Return ANI-1x; species are element indices unless ``periodic_table_index``, as in TorchANI 2.2."""
    return BuiltinModel.of(anipot.models.ANI1x(model_index, periodic_table_index, dtype=torch.get_default_dtype()))


def ANI1ccx(periodic_table_index: bool = False, model_index: int | None = None) -> BuiltinModel:
    """Return ANI-1ccx; species are element indices unless ``periodic_table_index``, as in TorchANI 2.2."""
    return BuiltinModel.of(anipot.models.ANI1ccx(model_index, periodic_table_index, dtype=torch.get_default_dtype()))


def ANI2x(periodic_table_index: bool = False, model_index: int | None = None) -> BuiltinModel:
    """Return ANI-2x; species are element indices unless ``periodic_table_index``, as in TorchANI 2.2."""
    return BuiltinModel.of(anipot.models.ANI2x(model_index, periodic_table_index, dtype=torch.get_default_dtype()))
