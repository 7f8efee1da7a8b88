"""Several models whose mean is the answer and whose spread says how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anipot.environments import Environments
from anipot.head.ani_model import ANIModel, members_atomic_energies, sum_atoms
from anipot.structures import SpeciesEnergies


class Ensemble(nn.ModuleList):
    """The mean of several heads, such as the eight of a published ANI potential.

    Parameters
    ----------
    models
        Heads of one kind: ``ANIModel`` s or others over the same elements and features.

    Examples
    --------
    >>> import torch
    >>> from anipot import ANIModel, AtomicNetwork, CELU
    >>> members = [ANIModel([AtomicNetwork((8, 4, 1), CELU(0.1))]) for _ in range(3)]
    >>> ensemble = Ensemble(members)
    >>> len(ensemble), ensemble((torch.tensor([[0, -1]]), torch.rand(1, 2, 8))).energies.shape
    (3, torch.Size([1]))
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        if not models:
            raise ValueError("Ensemble needs at least one model")
        told = (getattr(model, "num_species", None) for model in models)
        lengths = sorted({length for length in told if length is not None})
        if len(lengths) > 1:
            raise ValueError(
                f"all members of an Ensemble must know the same elements, got models of {lengths} elements"
            )
        for name in ("num_features", "extensive", "per_atom"):
            values = {getattr(model, name, None) for model in models} - {None}
            if len(values) > 1:
                raise ValueError(f"all members of an Ensemble must be alike, got {name} of {sorted(values, key=str)}")
        super().__init__(models)

    @property
    def num_species(self) -> int | None:
        """Number of elements, or None if any will do."""
        return _told(self, "num_species")

    @property
    def num_features(self) -> int | None:
        """Length of the features, or None if the members do not tell."""
        return _told(self, "num_features")

    @property
    def extensive(self) -> bool:
        """Whether the values of two systems add up."""
        return all(getattr(member, "extensive", True) for member in self)

    @property
    def per_atom(self) -> bool:
        """Whether there is a value for each atom, not one for a molecule."""
        return all(getattr(member, "per_atom", False) for member in self)

    def from_environments(self, environments: Environments) -> Tensor:
        """Return the mean of the members, where these are heads of a property."""
        return torch.stack([member.from_environments(environments) for member in self]).mean(0)  # type: ignore[operator]

    def forward(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesEnergies:
        """Return the mean energies (B,), Hartree, float64; ``cell`` and ``pbc`` are accepted and not used."""
        if self.extensive:
            return sum_atoms(self, input_)
        values = [member(input_).energies for member in self]
        return SpeciesEnergies(input_[0], torch.stack(values).mean(0))

    def atomic_energies(self, species: Tensor, features: Tensor, sparse: bool = False) -> Tensor:
        """Return the members' energies (M, N) of N flat slots, float64, 0 for ghosts; ``sparse`` as ``ANIModel``."""
        members: list[Any] = list(self)
        if all(type(member) is ANIModel for member in members):
            return members_atomic_energies(members, species, features, sparse)
        return torch.cat([member.atomic_energies(species, features) for member in members])


def _told(members: nn.ModuleList, name: str) -> int | None:
    """Return what the first member tells that has it, or None."""
    return next((value for member in members if (value := getattr(member, name, None)) is not None), None)
