"""What a potential says about a batch, all of it from one graph, for losses and for errors."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from anipot.derivatives import Found, forces_of, geometry_gradients, single_point, stress_of
from anipot.ensembles import EnsemblePotential
from anipot.neighbors import Pairs, neighborhoods
from anipot.potential import Potential
from anipot.structures import System

#: What comes from the energy; other names are those of property heads.
OF_ENERGY = ("energies", "forces", "stress")


class BatchLike(Protocol):
    """What is used of a batch: ``anipot.data.Batch``, or anything with these attributes."""

    @property
    def species(self) -> Tensor:
        """(B, A) atomic numbers, ghosts -1."""

    @property
    def coordinates(self) -> Tensor:
        """(B, A, 3) Å."""

    @property
    def cell(self) -> Tensor | None:
        """(B, 3, 3) Å, or None."""

    @property
    def pbc(self) -> Tensor | None:
        """(B, 3), or None."""

    @property
    def properties(self) -> dict[str, Tensor]:
        """Labels (B, ...) or (B, A, ...); NaN where there is none."""


def predict(potential: Potential, batch: BatchLike, names: Collection[str], *, graph: bool = True) -> dict[str, Tensor]:
    """Return what a potential says about a batch.

    Parameters
    ----------
    potential
        The mean of its members is what counts.
    batch
        Species (B, A), coordinates (B, A, 3), cells and pbc.
    names
        ``"energies"``, ``"forces"``, ``"stress"`` and names of property heads.
    graph
        Whether the values are to be differentiated with respect to weights, as for a loss. Without it they come from
        ``single_point``, which is faster and bounds its memory.

    Returns
    -------
    dict
        Energies (B,) in Hartree, forces (B, A, 3) in Hartree/Å, stress (B, 3, 3) in Hartree/Å³ with NaN for molecules
        that are not periodic, and what the heads return.

    Raises
    ------
    ValueError
        If the potential has no such property; and as ``single_point``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import torch
    >>> from anipot import Atomwise, EnergyShifter, Potential, SchNet
    >>> model = Potential(["H", "O"], SchNet(2, 16), Atomwise.pyramid(16), EnergyShifter([-0.5, -75.0]))
    >>> x = torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> water = SimpleNamespace(species=torch.tensor([[8, 1, 1]]), coordinates=x, cell=None, pbc=None, properties={})
    >>> found = predict(model, water, ["energies", "forces"])
    >>> found["forces"].shape, found["forces"].requires_grad
    (torch.Size([1, 3, 3]), True)
    """
    heads = potential.property_names([name for name in names if name not in OF_ENERGY])
    if not graph:
        return _values(potential, batch, names, heads)
    system = potential.system(batch.species, batch.coordinates, batch.cell, batch.pbc)
    with torch.enable_grad():
        pairs, vectors = neighborhoods(system, potential.cutoff)
        if not any(name in names for name in OF_ENERGY):
            return _properties(potential, system, pairs, vectors, heads)
        differentiate = "forces" in names or "stress" in names
        own = _leaves(potential, system) if differentiate else system
        vectors = vectors.detach().requires_grad_(differentiate)
        flat = own.species.reshape(-1)
        members, found = potential.members_and_properties(flat, pairs, vectors, own, heads)
        atomic = members.mean(0).view(own.species.shape)
        found["energies"] = atomic.sum(-1) + potential.shifter.sae(own.species)
        if differentiate:
            found |= _slopes(atomic.sum(), pairs, vectors, own, names)
    return {name: found[name] for name in names}


def _values(
    potential: Potential, batch: BatchLike, names: Collection[str], heads: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return numbers without a graph."""
    periodic = batch.pbc is not None and bool(batch.pbc.any(-1).all())
    if "stress" in names and not periodic:  # single_point refuses a batch some of which has no stress
        with torch.inference_mode(False):
            found = predict(potential, _ordinary(batch), names)
            return {name: value.detach() for name, value in found.items()}
    result = single_point(
        potential,
        batch.species,
        batch.coordinates,
        batch.cell,
        batch.pbc,
        forces="forces" in names,
        stress="stress" in names,
        properties=heads,
    )
    of_energy = {"energies": result.energies, "forces": result.forces, "stress": result.stress}
    known = of_energy | (result.properties or {})
    return {name: value for name in names if (value := known[name]) is not None}


class _Batch(NamedTuple):
    """A batch of which only the geometry is known."""

    species: Tensor
    coordinates: Tensor
    cell: Tensor | None
    pbc: Tensor | None
    properties: dict[str, Tensor]


def _ordinary(batch: BatchLike) -> _Batch:
    """Return tensors through which one can differentiate, also if they were made under ``torch.inference_mode``."""
    cell, pbc = (None if t is None else t.clone() for t in (batch.cell, batch.pbc))
    return _Batch(batch.species.clone(), batch.coordinates.clone(), cell, pbc, {})


def _properties(
    potential: Potential, system: System, pairs: Pairs, vectors: Tensor, heads: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return properties alone; energies are not computed where they need not be."""
    flat = system.species.reshape(-1)
    if isinstance(potential, EnsemblePotential) or potential.overridden():
        return potential.members_and_properties(flat, pairs, vectors, system, heads)[1]
    environments = potential.environments(flat, pairs, vectors, system)
    return {name: potential.property_heads[name].from_environments(environments) for name in heads}  # type: ignore[operator]


def _leaves(potential: Potential, system: System) -> System:
    """Return the batch with coordinates and cells to be differentiated by, where energies see these themselves."""
    if not potential.needs_positions:
        return system
    x = torch.where((system.species < 0)[..., None], 0.0, system.coordinates).double()
    cell = None if system.cell is None else system.cell.detach().double().requires_grad_()
    return System(system.species, x.requires_grad_(), cell, system.pbc)


def _slopes(total: Tensor, pairs: Pairs, vectors: Tensor, system: System, names: Collection[str]) -> dict[str, Tensor]:
    """Return forces and stress with a graph of their own."""
    parts = geometry_gradients(total, vectors, system, retain_graph=True, create_graph=True)
    of_vectors, of_coordinates, virial = (*(part[None] for part in parts), None, None)[:3]
    assert of_vectors is not None
    found = Found(total, of_vectors, of_coordinates, virial, {})
    slopes = {}
    if "forces" in names:
        slopes["forces"] = forces_of(found, pairs, system.species.shape)[0]
    if "stress" in names:
        slopes["stress"] = _stress(found, vectors.detach(), pairs, system)
    return slopes


def _stress(found: Found, vectors: Tensor, pairs: Pairs, system: System) -> Tensor:
    """Return the stress (B, 3, 3), NaN for molecules that have none."""
    missing = found.of_vectors.new_full((len(system.species), 3, 3), float("nan"))
    if system.cell is None or system.pbc is None:
        return missing
    periodic = system.pbc.any(-1)[:, None, None]
    one = torch.eye(3, dtype=system.cell.dtype, device=system.cell.device)  # an empty cell would make NaN of gradients
    solid = system._replace(cell=torch.where(periodic, system.cell.detach(), one))
    return torch.where(periodic, stress_of(found, vectors, pairs, solid)[0], missing)
