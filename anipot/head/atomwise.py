"""One network for the atoms of all elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anipot.environments import Environments
from anipot.exact import ExactBuffers
from anipot.head.ani_model import check_known, input_width, members_atomic_energies
from anipot.head.networks import AtomicNetwork, ShiftedSoftplus
from anipot.structures import SpeciesEnergies, SpeciesFeatures


class Atomwise(ExactBuffers):
    """A sum or mean over atoms of what one network makes of their features, whatever their element.

    y = Σ_i (stddev · N(x_i) + mean + atomref(element_i)), or the mean of the same over the atoms: extensive or
    intensive (SchNetPack, doi:10.1021/acs.jctc.8b00908).

    Parameters
    ----------
    network
        Module that takes (n, F) and returns (n, 1).
    aggregation
        "sum" for extensive properties such as energies, "mean" for intensive ones.
    mean, stddev
        Of the property per atom in the training data.
    atomref
        Value of each element, in the order of the element indices. Self energies of a potential are better left to its
        ``EnergyShifter``.

    Raises
    ------
    ValueError
        For another aggregation, or a ``stddev`` that is not positive.

    Examples
    --------
    >>> import torch
    >>> head = Atomwise.pyramid(32)
    >>> head((torch.tensor([[0, 1, -1]]), torch.rand(1, 3, 32))).energies.shape
    torch.Size([1])
    """

    mean: Tensor
    stddev: Tensor
    atomref: Tensor

    def __init__(
        self,
        network: nn.Module,
        aggregation: str = "sum",
        mean: float = 0.0,
        stddev: float = 1.0,
        atomref: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        if aggregation not in ("sum", "mean"):
            raise ValueError(f"aggregation must be 'sum' or 'mean', got {aggregation!r}")
        if not 0 < stddev < math.inf or not math.isfinite(mean):
            raise ValueError(f"stddev must be positive and mean finite, got {stddev} and {mean}")
        if isinstance(network, AtomicNetwork) and network.sizes[-1] != 1:
            raise ValueError(f"the network of Atomwise must return one value, got {network.sizes[-1]}")
        self.networks = nn.ModuleList([network])
        self.aggregation = aggregation
        self.register_buffer("mean", torch.tensor(float(mean), dtype=torch.float64))
        self.register_buffer("stddev", torch.tensor(float(stddev), dtype=torch.float64))
        values = torch.as_tensor([] if atomref is None else atomref, dtype=torch.float64)
        self.register_buffer("atomref", values.detach().clone().reshape(-1))

    @classmethod
    def pyramid(cls, num_features: int, activation: nn.Module | None = None, aggregation: str = "sum") -> Atomwise:
        """Return the head of SchNet: F → F/2 → 1, with a shifted softplus unless told otherwise."""
        activation = ShiftedSoftplus() if activation is None else activation
        return cls(AtomicNetwork((num_features, max(1, num_features // 2), 1), activation), aggregation)

    @property
    def extensive(self) -> bool:
        """Whether the values of two systems add up."""
        return self.aggregation == "sum"

    @property
    def num_species(self) -> int | None:
        """Number of elements, or None if any will do."""
        return len(self.atomref) or None

    @property
    def num_features(self) -> int | None:
        """Length of the features, or None if the network does not tell."""
        return input_width(self.networks[0])

    def forward(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesEnergies:
        """Return the sums or means (B,), float64; ``cell`` and ``pbc`` are accepted and not used."""
        species, features = SpeciesFeatures(*input_)
        check_known(self, species)
        atomic = self.atomic_energies(species.reshape(-1), features.flatten(0, 1)).view(species.shape)
        return SpeciesEnergies(species, self._aggregate(species, atomic))

    def from_environments(self, environments: Environments) -> Tensor:
        """Return the sums or means (B,), float64, as a property of each molecule."""
        species = environments.molecules
        return self._aggregate(
            species, self.atomic_energies(species.reshape(-1), environments.features).view_as(species)
        )

    def _aggregate(self, species: Tensor, atomic: Tensor) -> Tensor:
        total = atomic.sum(-1)
        return total if self.extensive else total / (species >= 0).sum(-1).clamp(min=1)

    def atomic_energies(self, species: Tensor, features: Tensor, sparse: bool = False) -> Tensor:
        """Return what each of N flat slots adds (1, N), float64; 0 for ghosts. ``sparse`` as for ``ANIModel``."""
        real = species >= 0
        values = members_atomic_energies([self.networks], torch.where(real, 0, -1), features, sparse)
        values = values * self.stddev + self.mean
        if len(self.atomref):
            values = values + self.atomref[species.clamp(min=0)]
        return torch.where(real, values, 0.0)

    def extra_repr(self) -> str:
        return f"aggregation={self.aggregation}, mean={float(self.mean):g}, stddev={float(self.stddev):g}"
