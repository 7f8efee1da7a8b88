"""Heads for values of single atoms, such as charges and chemical shifts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anipot.environments import Environments
from anipot.head.ani_model import check_known, input_width
from anipot.head.gated import GatedNetwork
from anipot.head.networks import AtomicNetwork
from anipot.structures import SpeciesFeatures


class AtomicProperty(nn.Module):
    """Values of atoms from their features: partial charges, chemical shifts, …

    Parameters
    ----------
    networks
        One network for all elements, or one for each in the order of the element indices, with None for elements that
        have no such property. Each takes (n, F) and returns (n, k).

    Notes
    -----
    Atoms without a network get NaN, so that nobody takes them for a prediction; ``mask`` tells where they are. Ghosts
    get 0.

    Examples
    --------
    >>> import torch
    >>> shifts = AtomicProperty.chemical_shifts(num_features=560, num_species=5)
    >>> shifts((torch.tensor([[0, 1, -1]]), torch.rand(1, 3, 560))).shape
    torch.Size([1, 3])
    """

    #: There is a value for each atom, not one for a molecule.
    per_atom = True

    def __init__(self, networks: nn.Module | Sequence[nn.Module | None]) -> None:
        super().__init__()
        common = isinstance(networks, nn.Module) and not isinstance(networks, nn.ModuleList)
        given: list[Any] = [networks] if common else list(networks)  # type: ignore[arg-type]
        self.elemental = not common
        if not any(network is not None for network in given):
            raise ValueError("AtomicProperty needs a network, or one for each element")
        self.networks = nn.ModuleList(nn.Identity() if network is None else network for network in given)
        self.labelled = tuple(network is not None for network in given)

    @classmethod
    def chemical_shifts(cls, num_features: int, num_species: int) -> AtomicProperty:
        """Return the head of TorchANI's article (doi:10.1021/acs.jcim.0c00451): one hidden layer of 256 ELU units."""
        return cls([AtomicNetwork((num_features, 256, 1), nn.ELU()) for _ in range(num_species)])

    @property
    def num_species(self) -> int | None:
        """Number of elements, or None if any will do."""
        return len(self.networks) if self.elemental else None

    @property
    def num_features(self) -> int | None:
        """Length of the features, or None if the networks do not tell."""
        return next((input_width(n) for n, used in zip(self.networks, self.labelled, strict=True) if used), None)

    def forward(self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None) -> Tensor:
        """Return the values (B, A), or (B, A, k) if there are several; ``cell`` and ``pbc`` are not used."""
        species, features = SpeciesFeatures(*input_)
        check_known(self, species)
        values = self.values(species.reshape(-1), features.flatten(0, 1))
        return values.view(*species.shape, *values.shape[1:])

    def from_environments(self, environments: Environments) -> Tensor:
        """Return the values (B, A) or (B, A, k)."""
        values = self.values(environments.species, environments.features)
        return values.view(*environments.molecules.shape, *values.shape[1:])

    def values(self, species: Tensor, features: Tensor) -> Tensor:
        """Return the values (N,) or (N, k) of N flat slots in the dtype of the networks."""
        weight = next(self.networks.parameters(), features)
        features = features.to(weight.dtype)
        kinds = species if self.elemental else torch.where(species >= 0, 0, -1)
        index: list[Tensor] = []
        values: list[Tensor] = []
        for element, (network, used) in enumerate(zip(self.networks, self.labelled, strict=True)):
            atoms = (kinds == element).nonzero().squeeze(1)
            if used and (len(atoms) or not values):  # an empty one tells the number of values
                index.append(atoms)
                values.append(network(features.index_select(0, atoms)))
        found = torch.cat(values)
        out = found.new_zeros(len(species), found.shape[-1]).index_copy(0, torch.cat(index), found)
        out = torch.where(self.mask(species)[:, None] | (species < 0)[:, None], out, torch.nan)
        return out.squeeze(-1) if out.shape[-1] == 1 else out

    def mask(self, species: Tensor) -> Tensor:
        """Return where there are values: real atoms of elements that have a network; shape as ``species``."""
        if not self.elemental:
            return species >= 0
        return (species >= 0) & torch.tensor(self.labelled, device=species.device)[species.clamp(min=0)]


class Charges(AtomicProperty):
    """Partial charges in e, (B, A).

    Parameters
    ----------
    networks
        As for ``AtomicProperty``; or a ``GatedNetwork``, whose scalars are the charges.
    neutral
        Whether the mean over each molecule is taken away, so that it has no charge.

    Examples
    --------
    >>> import torch
    >>> charges = Charges(torch.nn.Linear(8, 1))
    >>> bool(charges((torch.tensor([[0, 1, -1]]), torch.rand(1, 3, 8))).sum().abs() < 1e-6)
    True
    """

    def __init__(self, networks: nn.Module | Sequence[nn.Module | None], neutral: bool = True) -> None:
        super().__init__(networks)
        if not all(self.labelled):
            raise ValueError("every element needs a network: an atom without a charge leaves the dipole unknown")
        self.neutral = neutral

    def forward(self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None) -> Tensor:
        return self.neutralized(input_[0], super().forward(input_))

    def from_environments(self, environments: Environments) -> Tensor:
        network = self.networks[0]
        if isinstance(network, GatedNetwork):
            return self.neutralized(environments.molecules, network.molecules(environments)[0])
        return self.neutralized(environments.molecules, super().from_environments(environments))

    def neutralized(self, species: Tensor, charges: Tensor) -> Tensor:
        """Return charges (B, A) of molecules that are neutral, if they are to be."""
        if not self.neutral:
            return charges
        real = species >= 0
        excess = charges.sum(-1) / real.sum(-1).clamp(min=1)
        return torch.where(real, charges - excess[:, None], 0.0)
