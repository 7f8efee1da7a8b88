"""Dipole moments and polarizabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anipot.elements import atomic_masses, atomic_numbers
from anipot.environments import Environments
from anipot.exact import ExactBuffers
from anipot.head.gated import GatedNetwork
from anipot.head.properties import Charges


class _Centered(ExactBuffers):
    """Positions relative to the center of mass."""

    #: There is no such moment of a periodic system.
    molecules_only = True
    masses: Tensor

    def __init__(self, elements: Sequence[str]) -> None:
        super().__init__()
        self.elements = tuple(elements)
        values = torch.tensor([atomic_masses()[z] for z in atomic_numbers(self.elements)], dtype=torch.float64)
        self.register_buffer("masses", values, persistent=False)

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self.elements)

    def positions(self, environments: Environments) -> Tensor:
        """Return (B, A, 3) Å, float64, from the center of mass; 0 for ghosts.

        Raises
        ------
        ValueError
            For a periodic molecule, which has no such moment.
        """
        system = environments.whole_system()
        if system.pbc is not None and system.pbc.any():
            molecule = int(system.pbc.any(-1).nonzero()[0])
            raise ValueError(f"molecule {molecule} is periodic: its moments depend on the choice of the cell")
        real = (system.species >= 0)[..., None]
        x = torch.where(real, system.coordinates.double(), 0.0)
        weight = torch.where(real, self.masses[system.species.clamp(min=0)][..., None], 0.0)
        total = weight.sum(1, keepdim=True)
        center = (weight * x).sum(1, keepdim=True) / torch.where(total > 0, total, 1.0)
        return torch.where(real, x - center, 0.0)


class DipoleMoment(_Centered):
    """μ = Σ_i q(x_i) (r_i − r_0), with r_0 the center of mass, in e·Å (SchNetPack, doi:10.1021/acs.jctc.8b00908).

    Parameters
    ----------
    network
        One network for all elements that takes (n, F) and returns latent charges (n, 1); or a ``GatedNetwork``, which
        returns dipoles of the atoms besides (PaiNN, doi:10.48550/arXiv.2102.03150, eq. 12).
    elements
        Symbols, in the order of the element indices: their masses are needed.
    magnitude
        Whether ‖μ‖ is returned.
    neutral
        Whether the charges are shifted so that each molecule has none.

    Notes
    -----
    ``head.charges`` is a head of its own: ``properties={"dipole": head, "charges": head.charges}`` returns both.

    Examples
    --------
    >>> import torch
    >>> from anipot import AtomicNetwork, Atomwise, EnergyShifter, Potential, SchNet, ShiftedSoftplus
    >>> elements = ["H", "O"]
    >>> dipole = DipoleMoment(AtomicNetwork((32, 16, 1), ShiftedSoftplus()), elements)
    >>> shifter = EnergyShifter([-0.5, -75.0])
    >>> model = Potential(elements, SchNet(2, 32), Atomwise.pyramid(32), shifter, properties={"dipole": dipole})
    >>> water = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> model.properties(water)["dipole"].shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        network: nn.Module | Sequence[nn.Module],
        elements: Sequence[str],
        magnitude: bool = False,
        neutral: bool = True,
    ) -> None:
        super().__init__(elements)
        self.charges = Charges(network, neutral)
        if self.charges.num_species not in (None, len(self.elements)):
            raise ValueError(f"expected one network for each of {len(self.elements)} elements, got {len(network)}")  # type: ignore[arg-type]
        self.magnitude = magnitude

    @property
    def gated(self) -> GatedNetwork | None:
        """The network, if it returns dipoles of the atoms too."""
        network = self.charges.networks[0]
        return network if isinstance(network, GatedNetwork) else None

    @property
    def num_features(self) -> int | None:
        """Length of the features, or None if the network does not tell."""
        return self.charges.num_features

    @property
    def neutral(self) -> bool:
        """Whether the charges are shifted so that each molecule has none."""
        return self.charges.neutral

    def from_environments(self, environments: Environments) -> Tensor:
        """Return the dipole moments (B, 3), or their magnitudes (B,), float64."""
        x = self.positions(environments)
        gated = self.gated
        if gated is None:
            moment = (self.charges.from_environments(environments).double()[..., None] * x).sum(1)
        else:
            species = environments.molecules
            q, own = gated.molecules(environments)  # (B, A), (B, A, 3)
            q = self.charges.neutralized(species, q)
            moment = (q.double()[..., None] * x + own.double()).sum(1)
        return moment.norm(dim=-1) if self.magnitude else moment

    def extra_repr(self) -> str:
        return f"magnitude={self.magnitude}, neutral={self.neutral}"


class ElementalDipoleMoment(DipoleMoment):
    """The same with one network for each element, in the order of ``elements``.

    Examples
    --------
    >>> from anipot import CELU, AtomicNetwork
    >>> head = ElementalDipoleMoment([AtomicNetwork((384, 64, 1), CELU(0.1)) for _ in "HCNO"], ["H", "C", "N", "O"])
    >>> head.num_species
    4
    """

    def __init__(
        self, networks: Sequence[nn.Module], elements: Sequence[str], magnitude: bool = False, neutral: bool = True
    ) -> None:
        super().__init__(list(networks), elements, magnitude, neutral)


class Polarizability(_Centered):
    """α = Σ_i α₀(s_i) 1 + ν(v_i) ⊗ r_i + r_i ⊗ ν(v_i) (PaiNN, doi:10.48550/arXiv.2102.03150, eq. 13).

    The article leaves the origin of r open; here it is the center of mass, so that moving a molecule changes nothing.

    Parameters
    ----------
    network
        A ``GatedNetwork``; needs a representation with features that turn, such as ``PaiNN``.
    elements
        Symbols, in the order of the element indices.

    Examples
    --------
    >>> from anipot import GatedNetwork
    >>> Polarizability(GatedNetwork(128), ["H", "C", "N", "O"]).num_features
    128
    """

    def __init__(self, network: GatedNetwork, elements: Sequence[str]) -> None:
        super().__init__(elements)
        self.network = network

    @property
    def num_features(self) -> int:
        """Length of the features."""
        return self.network.num_features

    def from_environments(self, environments: Environments) -> Tensor:
        """Return the polarizabilities (B, 3, 3), float64, in the unit of the data."""
        x = self.positions(environments)
        scalar, vector = self.network.molecules(environments)
        outer = (vector.double()[..., None] * x[..., None, :]).sum(1)
        isotropic = scalar.double().sum(1)[:, None, None] * torch.eye(3, dtype=torch.float64, device=x.device)
        return isotropic + outer + outer.mT
