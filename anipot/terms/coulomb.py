"""Electrostatics of point charges, fixed or from a network: every pair of a molecule, or an Ewald sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from anipot.elements import atomic_numbers
from anipot.environments import Environments
from anipot.exact import ExactBuffers
from anipot.head import Charges
from anipot.head.ani_model import input_width
from anipot.neighbors import brute_force, displacements
from anipot.representation import CosineCutoff
from anipot.structures import System
from anipot.terms.pairwise import near_pairs, real_coordinates, shared_by_atoms
from anipot.units import COULOMB


class ErfDamping(nn.Module):
    """f(r) = erf(r / 2σ): the charges are Gaussians of standard deviation σ rather than points.

    Parameters
    ----------
    sigma
        σ, Å.

    >>> ErfDamping(0.5)(torch.tensor([1.0, 10.0]))
    tensor([0.8427, 1.0000])
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, in Å, got {sigma}")
        self.sigma = float(sigma)

    def forward(self, distances: Tensor) -> Tensor:
        return torch.erf(distances / (2 * self.sigma))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class ShortRangeExclusion(nn.Module):
    """f(r) = 1 − f_c(r): nothing at r = 0, everything beyond the cutoff, where a network no longer looks.

    Parameters
    ----------
    cutoff
        Å.
    cutoff_function
        ``CosineCutoff()`` (default) or any module that takes (distances, cutoff).

    >>> ShortRangeExclusion(5.2)(torch.tensor([2.6, 6.0]))
    tensor([0.5000, 1.0000])
    """

    def __init__(self, cutoff: float, cutoff_function: nn.Module | None = None) -> None:
        super().__init__()
        if not 0 < cutoff < math.inf:
            raise ValueError(f"cutoff must be positive and finite, in Å, got {cutoff}")
        self.cutoff = float(cutoff)
        self.cutoff_function = CosineCutoff() if cutoff_function is None else cutoff_function

    def forward(self, distances: Tensor) -> Tensor:
        inside = distances < self.cutoff
        excluded = self.cutoff_function(torch.where(inside, distances, 0.0), self.cutoff)
        return torch.where(inside, 1 - excluded, 1.0)

    def extra_repr(self) -> str:
        return f"cutoff={self.cutoff}"


class Coulomb(ExactBuffers):
    r"""Electrostatic energy of charges on the atoms.

        E = ½ Σ_{i≠j} k q_i q_j f(r_ij) / r_ij,  k = e²/(4πε₀)

    over all pairs of a molecule, without a cutoff. For a periodic system the sum runs over all images as well, and is
    computed by Ewald's method (doi:10.1002/andp.19213690304; conducting surroundings), with real space up to
    ``cutoff`` and reciprocal space as far as ``accuracy`` asks for:

        E = ½ Σ_{i≠j} k q_i q_j (erfc(r_ij / √2 σ) + f(r_ij) − 1) / r_ij
          + 2πk/V Σ_{K≠0} exp(−σ² K² / 2) / K² |Σ_i q_i exp(iK·r_i)|² − k Σ_i q_i² / √(2π) σ − πk σ² Q² / V

    The last term belongs to the uniform background that neutralises a cell of charge Q.

    Parameters
    ----------
    elements
        Symbols, in the order of the element indices.
    charges
        Fixed charges in e, by symbol or in the order of the elements; or a network that takes features (n, F) and
        returns charges (n, 1); or an ``ANIModel`` with such a network for each element.
    neutral
        Whether every molecule is made neutral: what its charges add up to is taken from all its atoms alike.
    damping
        f: a module that takes distances in Å, ``ErfDamping(sigma)`` or ``ShortRangeExclusion(cutoff)``, so that the
        short range is left to the network. None for point charges.
    cutoff
        Å. Infinite for molecules alone: all pairs are searched, and vectors are all that is looked at. Finite where
        periodic systems come as well: it is then the range of the real-space sum, and cheapest at about a quarter to
        half of the length of the cell. It changes no result beyond ``accuracy``.
    accuracy
        Relative error of the Ewald sum: what is left of the screened interaction at the cutoff.

    Attributes
    ----------
    charges
        (E,) fixed charges, or None.
    network
        What the charges come from, or None.

    Raises
    ------
    ModuleNotFoundError
        For a finite cutoff without torch-pme.
    ValueError
        For charges that do not fit the elements; a damping that is not 1 at the cutoff of an Ewald sum; a periodic
        system with an infinite cutoff; and a system that is periodic along one or two axes.

    Notes
    -----
    Hartree, float64, twice differentiable with respect to coordinates, cells and weights of the network.

    Examples
    --------
    >>> from anipot.environments import Environments
    >>> from anipot.neighbors import Pairs
    >>> coulomb = Coulomb(["H", "O"], {"H": 0.4, "O": -0.8})
    >>> pairs = Pairs(torch.tensor([0, 1]), torch.tensor([1, 0]), None)
    >>> vectors = torch.tensor([[2.0, 0, 0], [-2.0, 0, 0]])
    >>> coulomb.atomic_energies(Environments(torch.tensor([0, 1]), pairs, vectors, torch.empty(2, 0)))
    tensor([-0.0423, -0.0423], dtype=torch.float64)
    """

    charges: Tensor | None

    def __init__(
        self,
        elements: Sequence[str],
        charges: Mapping[str, float] | Sequence[float] | Tensor | nn.Module,
        *,
        neutral: bool = False,
        damping: nn.Module | None = None,
        cutoff: float = math.inf,
        accuracy: float = 1e-9,
    ) -> None:
        super().__init__()
        self.elements = tuple(elements)
        atomic_numbers(self.elements)  # which refuses what is no element
        self.network = charges if isinstance(charges, nn.Module) else None
        fixed = None if isinstance(charges, nn.Module) else _fixed_charges(self.elements, charges)
        self.register_buffer("charges", fixed)
        known = getattr(self.network, "num_species", None)
        if known is not None and known != len(self.elements):
            raise ValueError(f"the network of the charges is made for {known} elements, not {len(self.elements)}")
        self.neutral = bool(neutral)
        self.damping = damping
        self.cutoff, self.accuracy = float(cutoff), float(accuracy)
        if not self.cutoff > 0:
            raise ValueError(f"the cutoff of Coulomb must be positive, in Å, or infinite, got {cutoff}")
        if not 1e-14 <= self.accuracy <= 1e-2:
            raise ValueError(f"accuracy must lie between 1e-14 and 1e-2, got {accuracy}")
        if self.needs_positions:
            _library()
            self._check_damping()

    @property
    def needs_features(self) -> bool:
        """Whether charges come from a network on the features of the atoms."""
        return self.network is not None

    @property
    def needs_positions(self) -> bool:
        """Whether it looks at more than vectors: reciprocal space does."""
        return self.cutoff < math.inf

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def smearing(self) -> float:
        """Standard deviation σ in Å of the Gaussians that split an Ewald sum."""
        return self.cutoff / math.sqrt(-2 * math.log(self.accuracy))

    def _check_damping(self) -> None:
        if self.damping is None:
            return
        left = 1 - float(self.damping(torch.tensor([self.cutoff], dtype=torch.float64)))
        if abs(left) > max(self.accuracy, 1e-12):
            raise ValueError(
                f"the damping leaves out {left:.1e} of the interaction at the cutoff of the Ewald sum, "
                f"{self.cutoff} Å; no more than its accuracy, {self.accuracy}, may be left: give it a larger cutoff"
            )

    def atomic_charges(self, environments: Environments) -> Tensor:
        """Return the charges (N,) in e, float64; 0 for ghosts."""
        species = environments.species
        charges = self._raw_charges(environments)
        if not self.neutral:
            return charges
        shape = environments.whole_system("Coulomb with neutral=True").species.shape
        real = (species >= 0).double().view(shape)
        per_atom = charges.view(shape).sum(-1, keepdim=True) / real.sum(-1, keepdim=True).clamp(min=1)
        return charges - (real * per_atom).reshape(-1)

    @property
    def num_features(self) -> int | None:
        """Length of the features that the network of the charges takes, or None if it does not tell."""
        return None if self.network is None else input_width(self.network)

    def _raw_charges(self, environments: Environments) -> Tensor:
        species, features = environments.species, environments.features
        if self.charges is not None:
            return torch.where(species < 0, 0.0, self.charges[species.clamp(min=0)])
        network: Any = self.network
        if isinstance(network, Charges):  # those of a dipole, say
            return network.from_environments(environments).reshape(-1).double()
        if hasattr(network, "atomic_energies"):
            found = network.atomic_energies(species, features)
            if found.dim() != 2 or len(found) != 1:
                raise ValueError(f"the charges must come from one model, got {tuple(found.shape)} from an ensemble")
            return found[0].double()
        weight = next(network.parameters(), features)
        found = network(features.to(weight.dtype))
        if found.shape != (len(species), 1):
            raise ValueError(f"the network of the charges must return {(len(species), 1)}, got {tuple(found.shape)}")
        return torch.where(species < 0, 0.0, found[:, 0].double())

    def atomic_energies(self, environments: Environments) -> Tensor:
        """Return half the energy of each atom in the potential of all others (N,), Hartree, float64; 0 for ghosts.

        Raises
        ------
        ValueError
            For systems that it cannot compute, naming the molecule.
        """
        charges = self.atomic_charges(environments)
        if not self.needs_positions:
            if environments.pairs.shift is not None:
                raise ValueError(
                    "Coulomb with an infinite cutoff computes molecules, and these are periodic; "
                    "give it a finite cutoff for an Ewald sum"
                )
            center, neighbor, distances = near_pairs(environments.pairs, environments.vectors, math.inf)
            return self._direct(charges, center, neighbor, distances)
        system = environments.whole_system("Coulomb with a finite cutoff")
        repeats = _fully_periodic(system)  # (B,)
        energies = self._molecules(charges, system, ~repeats)
        if bool(repeats.any()):
            energies = energies + self._crystals(charges, environments, system, repeats)
        return energies

    def _direct(self, charges: Tensor, center: Tensor, neighbor: Tensor, distances: Tensor) -> Tensor:
        """Return (N,) of pairs as they are."""
        energies = COULOMB * charges[center] * charges[neighbor] / distances
        if self.damping is not None:
            energies = energies * self.damping(distances)
        return shared_by_atoms(center, energies, len(charges))

    def _molecules(self, charges: Tensor, system: System, chosen: Tensor) -> Tensor:
        """Return (N,) of the molecules chosen (B,), whose pairs reach beyond the list of the potential."""
        real = (system.species >= 0) & chosen[:, None]
        coordinates = real_coordinates(system)
        pairs = brute_force(coordinates.detach(), real, None, None, math.inf)
        distances = displacements(pairs, coordinates, None, None).norm(dim=-1)
        return self._direct(charges, pairs.center, pairs.neighbor, distances)

    def _crystals(self, charges: Tensor, environments: Environments, system: System, chosen: Tensor) -> Tensor:
        """Return (N,) of the periodic molecules chosen (B,)."""
        assert system.cell is not None
        num_molecules, num_atoms = system.species.shape
        center, neighbor, distances = near_pairs(environments.pairs, environments.vectors, self.cutoff)
        ends = torch.searchsorted(center, num_atoms * torch.arange(num_molecules + 1, device=center.device)).tolist()
        coordinates, real = real_coordinates(system), system.species >= 0
        energies = charges.new_zeros(len(charges))
        rank = real.cumsum(-1) - 1  # of an atom among the real ones of its molecule
        for b in (chosen & real.any(-1)).nonzero().squeeze(1).tolist():
            slots = real[b].nonzero().squeeze(1)
            part = slice(ends[b], ends[b + 1])
            near = torch.stack([rank[b][center[part] - b * num_atoms], rank[b][neighbor[part] - b * num_atoms]], 1)
            q = charges[slots + b * num_atoms]
            own = self._ewald(q, system.cell[b].double(), coordinates[b, slots], near, distances[part])
            energies = energies.index_add(0, slots + b * num_atoms, own)
        return energies

    def _ewald(self, q: Tensor, cell: Tensor, x: Tensor, near: Tensor, distances: Tensor) -> Tensor:
        """Return (n,) of one crystal without ghosts, given its pairs (p, 2) within the cutoff."""
        pme = _library()
        potential = pme.CoulombPotential(smearing=self.smearing, prefactor=COULOMB)
        # The wavelength plays no part, since the vectors of reciprocal space are given.
        calculator = pme.EwaldCalculator(potential, lr_wavelength=self.smearing, full_neighbor_list=True).to(x.device)
        k = _reciprocal_vectors(cell, self.cutoff / self.smearing**2)
        energies = q * calculator(q[:, None], cell, x, near, distances, kvectors=k)[:, 0]
        if self.damping is None:
            return energies
        center, neighbor = near.unbind(1)
        left_out = COULOMB * q[center] * q[neighbor] * (1 - self.damping(distances)) / distances
        return energies - shared_by_atoms(center, left_out, len(q))

    def extra_repr(self) -> str:
        kind = "charges of a network" if self.charges is None else f"charges={self.charges.tolist()}"
        ewald = f", accuracy={self.accuracy}" if self.needs_positions else ""
        return f"{', '.join(self.elements)}; {kind}, neutral={self.neutral}, cutoff={self.cutoff}{ewald}"


def _fixed_charges(elements: tuple[str, ...], charges: Mapping[str, float] | Sequence[float] | Tensor) -> Tensor:
    if isinstance(charges, Mapping):
        missing = [element for element in elements if element not in charges]
        unknown = [element for element in charges if element not in elements]
        if missing or unknown:
            raise ValueError(
                f"charges are needed for {', '.join(elements)}, all of them and no others, got {dict(charges)}"
            )
        charges = [charges[element] for element in elements]
    values = torch.as_tensor(charges, dtype=torch.float64).detach().clone().reshape(-1)
    if len(values) != len(elements) or not torch.isfinite(values).all():
        raise ValueError(f"charges must be {len(elements)} finite numbers, one for each element, got {values.tolist()}")
    return values


def _fully_periodic(system: System) -> Tensor:
    """Return (B,) which molecules are periodic, and refuse slabs and wires."""
    if system.pbc is None:
        return torch.zeros(len(system.species), dtype=torch.bool, device=system.species.device)
    partly = system.pbc.any(-1) & ~system.pbc.all(-1)
    if partly.any():
        b = int(partly.nonzero()[0])
        raise ValueError(
            f"molecule {b} has pbc {system.pbc[b].tolist()}: an Ewald sum needs all three axes periodic or none; "
            "a slab or a wire can be computed in a cell with vacuum and pbc along all axes, approximately"
        )
    return system.pbc.all(-1)


def _reciprocal_vectors(cell: Tensor, longest: float) -> Tensor:
    """Return all vectors K (k, 3) of the reciprocal lattice shorter than ``longest`` Å⁻¹, without 0.

    torch-pme would take them from a box of half that size that is not symmetric, and whose shape jumps with the cell.
    """
    reciprocal = 2 * math.pi * torch.linalg.inv(cell).T  # rows
    # K · a_i = 2π n_i, so that |n_i| ≤ |K| |a_i| / 2π
    most = (longest * cell.detach().norm(dim=-1) / (2 * math.pi)).floor().long().tolist()
    axes = [torch.arange(-n, n + 1, device=cell.device, dtype=cell.dtype) for n in most]
    counts = torch.cartesian_prod(*axes)
    squared = (counts @ reciprocal.detach()).square().sum(-1)
    keep = (squared < longest * longest) & (counts != 0).any(-1)
    return counts[keep] @ reciprocal


def _library() -> Any:
    try:
        return import_module("torchpme")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Coulomb with a finite cutoff needs the package torch-pme for its Ewald sum: pip install anipot[ewald]",
            name=error.name,
        ) from error
