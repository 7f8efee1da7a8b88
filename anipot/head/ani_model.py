"""One network for each element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anipot.environments import Environments
from anipot.head.batched import batched_energies
from anipot.head.dense import native_networks
from anipot.head.networks import AtomicNetwork
from anipot.kernels import networks as kernels
from anipot.neighbors.traced import places
from anipot.structures import SpeciesEnergies, SpeciesFeatures, check_element_indices


class ANIModel(nn.ModuleList):
    """Energies of atoms from their features, with one network for each element, summed over each molecule.

    E = Σ_i N_{element(i)}(features_i) (Behler and Parrinello, doi:10.1103/PhysRevLett.98.146401, eq. 1).

    Parameters
    ----------
    networks
        Modules that take (n, F) and return (n, 1), in the order of the element indices; a mapping is taken in its own
        order. ``None`` is not allowed: every element has a network.

    Notes
    -----
    Networks run in the dtype of their parameters; the sum over atoms is always float64.

    Examples
    --------
    >>> import torch
    >>> from anipot import AtomicNetwork, CELU
    >>> model = ANIModel([AtomicNetwork((8, 4, 1), CELU(0.1)) for _ in range(2)])
    >>> model((torch.tensor([[0, 1, -1]]), torch.rand(1, 3, 8))).energies.shape
    torch.Size([1])
    """

    def __init__(self, networks: Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        modules = list(networks.values()) if isinstance(networks, Mapping) else list(networks)
        if not modules:
            raise ValueError("ANIModel needs at least one network, one for each element")
        super().__init__(modules)

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self)

    @property
    def num_features(self) -> int | None:
        """Length of the features, or None if the networks do not tell."""
        return input_width(self[0])

    def forward(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesEnergies:
        """Return the energies (B,), Hartree, float64; ``cell`` and ``pbc`` are accepted and not used."""
        return sum_atoms(self, input_)

    def from_environments(self, environments: Environments) -> Tensor:
        """Return the sums (B,), float64, as a property of each molecule."""
        species = environments.molecules
        return self.atomic_energies(environments.species, environments.features)[0].view(species.shape).sum(-1)

    def atomic_energies(self, species: Tensor, features: Tensor, sparse: bool = False) -> Tensor:
        """Return the members' energies (1, N) of N flat slots, float64; 0 for ghosts.

        With ``sparse`` the gradient with respect to columns of features that are all zero may be left out: for
        features that have no slope where they are zero, such as those of elements that are not there.
        """
        return members_atomic_energies([self], species, features, sparse)


def sum_atoms(head: nn.Module, input_: tuple[Tensor, Tensor]) -> SpeciesEnergies:
    """Return the energies (B,) of a head that has ``atomic_energies``: mean over members, sum over atoms."""
    species, features = SpeciesFeatures(*input_)
    if species.dim() != 2 or features.dim() != 3 or features.shape[:2] != species.shape:
        raise ValueError(
            "species must have shape (molecules, atoms) and features (molecules, atoms, F), got "
            f"{tuple(species.shape)} and {tuple(features.shape)}"
        )
    check_known(head, species)
    atomic = head.atomic_energies(species.reshape(-1), features.flatten(0, 1))  # type: ignore[operator]
    return SpeciesEnergies(species, atomic.mean(0).view(species.shape).sum(-1))


def members_atomic_energies(
    members: Sequence[nn.ModuleList], species: Tensor, features: Tensor, sparse: bool = False
) -> Tensor:
    """Return atomic energies (M, N), float64, of M models over the same elements; ``sparse`` as for ``ANIModel``."""
    weight = next(members[0].parameters(), None)
    if weight is not None and weight.dtype != features.dtype:
        features = features.to(weight.dtype)
    if torch.compiler.is_compiling():
        return _traced_energies(members, species, features)
    networks = native_networks(members, species, features, sparse)
    if networks is not None:
        return kernels.energies(features, species, networks)
    if not features.is_cpu:
        return batched_energies(members, species, features)
    energies = features.new_zeros(len(members), len(species), dtype=torch.float64)
    index, values = [], []
    for element in range(len(members[0])):
        atoms = (species == element).nonzero().squeeze(1)
        if len(atoms) == 0:
            continue
        x = features.index_select(0, atoms)  # (n, F)
        index.append(atoms)
        values.append(torch.stack([member[element](x).view(-1) for member in members]))  # (M, n)
    if not index:
        return energies
    return energies.index_copy(1, torch.cat(index), torch.cat(values, dim=1).double())


def _traced_energies(members: Sequence[nn.ModuleList], species: Tensor, features: Tensor) -> Tensor:
    """Return the same for ``torch.compile``, which does not know how many atoms of an element there are."""
    energies = features.new_zeros(len(members), len(species), dtype=torch.float64)
    for element in range(len(members[0])):
        atoms = places(species == element)
        x = features.index_select(0, atoms)
        values = torch.stack([member[element](x).squeeze(-1) for member in members])
        energies = energies.index_copy(1, atoms, values.double())
    return energies


def check_known(head: Any, species: Tensor) -> None:
    """Refuse elements beyond those of a head, naming the atom."""
    if head.num_species is not None and not torch.compiler.is_compiling():
        check_element_indices(species, head.num_species)


def input_width(network: nn.Module) -> int | None:
    """Return the number of features that a network takes, or None if it does not tell."""
    if isinstance(network, AtomicNetwork):
        return network.sizes[0]
    return getattr(network, "in_features", getattr(network, "num_features", None))
