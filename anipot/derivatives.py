"""Energies and their derivatives: forces, stress, Hessians, and what the members of an ensemble think of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from anipot.elements import symbol
from anipot.energy import EnergyShifter
from anipot.engine import Engine, Values, engine_of
from anipot.hessian import gradient_graph, hessian_of, native_hessian
from anipot.kernels.messages import first_derivatives_of_geometry
from anipot.known import within_a_call
from anipot.lattice import volume
from anipot.neighbors import Pairs, checked_displacements, find_pairs, gradient_by_coordinates
from anipot.potential import Potential
from anipot.separate import terms_alone, terms_stand_alone
from anipot.structures import SpeciesConverter, System, check_charge

#: Bytes that the atoms computed together may take for features, networks and their gradients. Larger systems are
#: computed in blocks of atoms, with the same result: peak memory stays bounded, and small blocks stay in the caches.
BLOCK_BYTES = 256 * 2**20

#: The parts and the potential made of them, for each ``Sequential`` seen.
_potentials: WeakKeyDictionary[torch.nn.Module, tuple[list[torch.nn.Module], Potential]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SinglePoint:
    """What ``single_point`` returns; whatever was not asked for is None. Lengths in Å, energies in Hartree.

    Energies are float64, other values have the dtype of the coordinates. Rows of ghosts are 0.
    """

    #: (B, A) as given.
    species: Tensor
    #: (B,) total energies.
    energies: Tensor
    #: (B, A, 3) −dE/dx.
    forces: Tensor | None = None
    #: (B, 3, 3) (1/V) dE/dε, the sign of ASE: positive under tension.
    stress: Tensor | None = None
    #: (B, 3A, 3A) d²E/dx².
    hessian: Tensor | None = None
    #: (B, A) energies of the atoms, self energies included.
    atomic_energies: Tensor | None = None
    #: The value of each member and their spread.
    members: Members | None = None
    #: What the property heads say, by their names.
    properties: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Members:
    """Values of the members of an ensemble, and their standard deviations (unbiased; NaN for a single model)."""

    #: (M, B) total energies.
    energies: Tensor
    #: (M, B, A, 3)
    forces: Tensor | None = None
    #: (M, B, 3, 3)
    stress: Tensor | None = None
    #: (M, B, A)
    atomic_energies: Tensor | None = None
    #: (B,) standard deviation σ of the energies.
    energies_std: Tensor = field(init=False)
    #: (B,) σ/√N, the factor of query by committee (doi:10.1063/1.5023802).
    qbc: Tensor = field(init=False)
    #: (B, A, 3) or None.
    forces_std: Tensor | None = field(init=False)
    #: (B, 3, 3) or None.
    stress_std: Tensor | None = field(init=False)
    #: (B,) number of atoms of each molecule.
    num_atoms: Tensor = field(kw_only=True)

    def __post_init__(self) -> None:
        std = _spread(self.energies)
        object.__setattr__(self, "energies_std", std)
        object.__setattr__(self, "qbc", std / self.num_atoms.clamp(min=1).double().sqrt())
        object.__setattr__(self, "forces_std", None if self.forces is None else _spread(self.forces))
        object.__setattr__(self, "stress_std", None if self.stress is None else _spread(self.stress))


@within_a_call
def single_point(
    model: torch.nn.Module,
    species: Tensor,
    coordinates: Tensor,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    *,
    forces: bool = True,
    stress: bool = False,
    hessian: bool = False,
    atomic_energies: bool = False,
    members: bool = False,
    properties: bool | Sequence[str] = False,
    charge: float | Tensor = 0,
) -> SinglePoint:
    """Return energies and the derivatives asked for, from one forward and one backward pass.

    Nothing of the result carries a graph; to differentiate through a potential call it: ``model((species,
    coordinates), cell, pbc)``. Large systems are computed in blocks of atoms, so that memory stays bounded.

    Parameters
    ----------
    model
        A ``Potential``, or a ``Sequential`` of representation, head and ``EnergyShifter`` (``SpeciesConverter`` before
        them or not).
    species
        (B, A) atomic numbers, ghosts -1.
    coordinates
        (B, A, 3), Å.
    cell
        (3, 3) or (B, 3, 3), Å; rows are the lattice vectors.
    pbc
        (3,) or (B, 3), bool.
    forces, stress, hessian, atomic_energies
        What to compute.
    members
        Also return the energies, and where asked for forces, stress and atomic energies, of every member.
    properties
        Also return what the property heads say: all of them, or those named.
    charge
        Total charge; anything but 0 is refused.

    Returns
    -------
    SinglePoint

    Raises
    ------
    TypeError, ValueError
        For everything that cannot be computed, naming molecule and atom; for ``stress`` of a molecule that is not
        periodic.

    Examples
    --------
    >>> import torch
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Potential
    >>> networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
    >>> model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
    >>> water = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> result = single_point(model, *water, hessian=True)
    >>> result.energies.shape, result.forces.shape, result.hessian.shape
    (torch.Size([1]), torch.Size([1, 3, 3]), torch.Size([1, 9, 9]))
    """
    check_charge(charge)
    potential = as_potential(model)
    ask = Ask(forces, stress, hessian, atomic_energies, members, potential.property_names(properties))
    with torch.inference_mode(False):
        devices = vars(potential).get("_devices")  # of ``on_devices``
        if devices is not None:
            return devices.single_point(potential, species, coordinates, cell, pbc, ask)
        result = evaluate_natively(engine_of(potential), species, coordinates, cell, pbc, ask)
        if result is not None:
            return result
        system = potential.system(*_ordinary(species, coordinates, cell, pbc))
        return evaluate(potential, system, find_pairs(*system, potential.cutoff), ask, species)


class Ask(NamedTuple):
    """What ``evaluate`` computes."""

    forces: bool = True
    stress: bool = False
    hessian: bool = False
    atomic_energies: bool = False
    members: bool = False
    properties: tuple[str, ...] = ()


def as_potential(model: torch.nn.Module) -> Potential:
    """Return a ``Potential`` made of the parts of a ``Sequential`` (shared, not copied); a ``Potential`` as it is.

    Raises
    ------
    TypeError
        If the model is neither, naming what it is made of.
    """
    if isinstance(model, Potential):
        return model
    known = _potentials.get(model)
    if known is not None and known[0] == list(model.children()):
        return known[1]
    potential = _assembled(model)
    _potentials[model] = (list(model.children()), potential)
    return potential


def _assembled(model: torch.nn.Module) -> Potential:
    parts = list(model) if isinstance(model, torch.nn.Sequential) else []
    converter = parts[0] if parts and isinstance(parts[0], SpeciesConverter) else None
    parts = parts[1:] if converter else parts
    if not (2 <= len(parts) <= 3 and hasattr(parts[0], "from_pairs") and hasattr(parts[1], "atomic_energies")):
        made_of = [type(part).__name__ for part in model.children()]
        raise TypeError(
            "expected a Potential or a Sequential of [SpeciesConverter,] representation, head and EnergyShifter, "
            f"got {type(model).__name__} of {made_of}"
        )
    told = (getattr(part, "num_species", None) for part in (parts[1], parts[0]))
    num_species = next((n for n in told if n is not None), 0)
    # Without a converter species are indices and the names of the elements play no part.
    elements = converter.elements if converter else tuple(symbol(i + 1) for i in range(num_species))
    shifter = parts[2] if len(parts) == 3 else EnergyShifter([0.0] * len(elements))
    if not isinstance(shifter, EnergyShifter):
        raise TypeError(f"the last part of the Sequential must be an EnergyShifter, got {type(shifter).__name__}")
    potential = Potential(elements, parts[0], parts[1], shifter, periodic_table_index=converter is not None)
    return potential.to(shifter.self_energies.device)


def evaluate_natively(
    engine: Engine,
    species: Tensor,
    coordinates: Tensor,
    cell: Tensor | None,
    pbc: Tensor | None,
    ask: Ask,
    skin: float = 0.0,
    transfer: bool = False,
) -> SinglePoint | None:
    """Return what ``ask`` names, or None where the kernels do not compute it or find something wrong with the input.

    ``skin`` and ``transfer`` are those of ``Engine.evaluate``.
    """
    potential = engine.potential
    if not terms_stand_alone(potential):
        return None
    values = engine.evaluate(
        species,
        coordinates,
        cell,
        pbc,
        forces=ask.forces,
        stress=ask.stress,
        atomic_energies=ask.atomic_energies,
        members=ask.members,
        skin=skin,
        transfer=transfer,
    )
    if values is None:
        return None
    hessian = properties = None
    if not ask.hessian and not ask.properties and not len(potential.terms):
        return _result(species, values, None, ask)
    system = potential.system(*_ordinary(species, coordinates, cell, pbc))
    if ask.hessian:
        hessian = native_hessian(potential, system, find_pairs(*system, potential.representation.cutoff))  # type: ignore[arg-type]
        if hessian is None:
            return None
    if ask.properties:
        properties = _properties(potential, system, ask.properties)
    result = replace(_result(species, values, hessian, ask), properties=properties)
    if not len(potential.terms):
        return result
    alone = terms_alone(potential)
    of_terms = evaluate(
        alone, system, find_pairs(*system, alone.cutoff), ask._replace(members=False, properties=()), species
    )
    return _sum(result, of_terms)


def _properties(potential: Potential, system: System, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what property heads say, where nothing is differentiated and energies are known already."""
    with torch.no_grad():
        pairs = find_pairs(*system, potential.representation.cutoff)  # type: ignore[arg-type]
        vectors = checked_displacements(pairs, system.coordinates, system.cell, system.pbc)
        return potential.properties_of(system.species.reshape(-1), pairs, vectors, system, names)


def _result(species: Tensor, values: Values, hessian: Tensor | None, ask: Ask) -> SinglePoint:
    if not ask.members:
        return SinglePoint(species, values.energies, values.forces, values.stress, hessian, values.atomic_energies)
    atomic = values.atomic_energies
    return SinglePoint(
        species=species,
        energies=values.energies.mean(0),
        forces=None if values.forces is None else values.forces.mean(0),
        stress=None if values.stress is None else values.stress.mean(0),
        hessian=hessian,
        atomic_energies=None if atomic is None else atomic.mean(0),
        members=Members(values.energies, values.forces, values.stress, atomic, num_atoms=(species >= 0).sum(-1)),
    )


def _sum(one: SinglePoint, other: SinglePoint) -> SinglePoint:
    """Return the sum of two contributions, the second of which all members of the first have in common."""

    def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else a + b

    names = ("energies", "forces", "stress", "hessian", "atomic_energies")
    total = {name: add(getattr(one, name), getattr(other, name)) for name in names}
    members = one.members
    if members is not None:
        each = {name: add(getattr(members, name), getattr(other, name)) for name in (*names[:3], names[4])}
        members = Members(**each, num_atoms=members.num_atoms)  # type: ignore[arg-type]
    return SinglePoint(one.species, **total, members=members, properties=one.properties)  # type: ignore[arg-type]


def evaluate(potential: Potential, system: System, pairs: Pairs, ask: Ask, species: Tensor) -> SinglePoint:
    """Return what ``ask`` names for a checked system whose pairs are known (they may reach beyond the cutoff)."""
    if ask.stress:
        _check_stress(system)
    shape = system.species.shape
    with torch.no_grad():
        vectors = checked_displacements(pairs, system.coordinates, system.cell, system.pbc)
        pairs, vectors = _within(potential.cutoff, pairs, vectors)
    found = _atoms_and_gradients(potential, system, pairs, vectors, ask)
    atomic = found.atomic.view(len(found.atomic), *shape)  # (M, B, A)
    energies = atomic.sum(-1) + potential.shifter.sae(system.species)  # (M, B)
    atomic = atomic + potential.shifter.atomic(system.species)
    dtype = system.coordinates.dtype
    all_forces = forces_of(found, pairs, shape).to(dtype) if ask.forces else None
    all_stress = stress_of(found, vectors, pairs, system).to(dtype) if ask.stress else None
    spread = None
    if ask.members:
        atomic_members = atomic if ask.atomic_energies else None
        num_atoms = (system.species >= 0).sum(-1)
        spread = Members(energies, all_forces, all_stress, atomic_members, num_atoms=num_atoms)
    return SinglePoint(
        species=species,
        energies=energies.mean(0),
        forces=None if all_forces is None else all_forces.mean(0),
        stress=None if all_stress is None else all_stress.mean(0),
        hessian=hessian_of(potential, system, pairs) if ask.hessian else None,
        atomic_energies=atomic.mean(0) if ask.atomic_energies else None,
        members=spread,
        properties=found.properties if ask.properties else None,
    )


@torch.inference_mode(False)
def hessian_vector_product(
    model: torch.nn.Module,
    species: Tensor,
    coordinates: Tensor,
    direction: Tensor,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
) -> Tensor:
    """Return H·v (B, A, 3), Hartree/Å² times the unit of v, without forming the Hessian.

    Parameters
    ----------
    direction
        v (B, A, 3). Other parameters as for ``single_point``.

    Examples
    --------
    >>> import torch
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Potential
    >>> networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
    >>> model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
    >>> water = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> shift = torch.ones(1, 3, 3)  # moving the whole molecule costs nothing
    >>> bool((hessian_vector_product(model, *water, shift).abs() < 1e-4).all())
    True
    """
    potential = as_potential(model)
    system = potential.system(*_ordinary(species, coordinates, cell, pbc))
    if direction.shape != coordinates.shape:
        raise ValueError(
            f"direction must have the shape of coordinates, {tuple(coordinates.shape)}, got {tuple(direction.shape)}"
        )
    x, gradient = gradient_graph(potential, system, find_pairs(*system, potential.cutoff))
    ghosts = (system.species < 0)[..., None]
    (product,) = torch.autograd.grad(gradient, x, torch.where(ghosts, 0.0, direction.to(gradient.dtype)))
    return product


def _ordinary(*tensors: Any) -> tuple[Any, ...]:
    """Replace tensors that were made under ``torch.inference_mode``, through which nothing can be differentiated."""
    return tuple(t.clone() if isinstance(t, Tensor) and t.is_inference() else t for t in tensors)


def _spread(values: Tensor) -> Tensor:
    if values.numel() == 0:
        return values.new_zeros(values.shape[1:])
    if len(values) < 2:
        return torch.full_like(values[0], float("nan"))
    return values.std(0)


def _within(cutoff: float, pairs: Pairs, vectors: Tensor) -> tuple[Pairs, Tensor]:
    """Drop pairs beyond the cutoff, which a list with a skin holds."""
    x, y, z = vectors.unbind(-1)
    near = x * x + y * y + z * z < cutoff * cutoff
    if bool(near.all()):
        return pairs, vectors
    keep = near.nonzero().squeeze(1)
    shift = None if pairs.shift is None else pairs.shift[keep]
    return Pairs(pairs.center[keep], pairs.neighbor[keep], shift), vectors[keep]


class Found(NamedTuple):
    """Energies and gradients of a whole batch; G = M where members are asked for, else 1."""

    atomic: Tensor  # (M, N)
    of_vectors: Tensor  # (G, P, 3)
    of_coordinates: Tensor | None  # (G, B, A, 3) what does not go through the vectors; None where there is nothing
    virial: Tensor | None  # (G, B, 3, 3) of that part
    properties: dict[str, Tensor]


def _atoms_and_gradients(potential: Potential, system: System, pairs: Pairs, vectors: Tensor, ask: Ask) -> Found:
    species = system.species.reshape(-1)
    wants_gradient = ask.forces or ask.stress
    num_gradients = len(potential) if ask.members else 1
    parts = []
    for block in _blocks(potential, system, pairs, vectors, bool(ask.properties)):
        with torch.enable_grad(), first_derivatives_of_geometry():
            v = vectors[block.pairs].detach().requires_grad_(wants_gradient)
            own = _own_geometry(potential, system, block, wants_gradient)
            atomic, properties = _block_energies(potential, species, pairs, v, block, own, ask.properties)  # (M, n)
            totals = (atomic if ask.members else atomic.mean(0, keepdim=True)).sum(-1)
        gradients = []
        for g in range(num_gradients if wants_gradient else 0):
            gradients.append(geometry_gradients(totals[g], v, own, g + 1 < num_gradients))
        parts.append((atomic.detach(), gradients, {name: value.detach() for name, value in properties.items()}))
    return _joined(parts, vectors.new_zeros(num_gradients, 0, 3), wants_gradient, potential.needs_positions)


def _joined(parts: list[Any], nothing: Tensor, wants_gradient: bool, positions: bool) -> Found:
    """Put blocks together again."""
    atomic = torch.cat([part[0] for part in parts], dim=1)
    properties = {name: torch.cat([part[2][name] for part in parts]) for name in parts[0][2]}
    if not wants_gradient:
        return Found(atomic, nothing, None, None, properties)
    stacked = [[torch.stack(one) for one in zip(*part[1], strict=True)] for part in parts]  # (G, ...) each
    joined = [torch.cat(one, dim=1) for one in zip(*stacked, strict=True)]
    of_coordinates, virial = joined[1:] if positions else (None, None)
    return Found(atomic, joined[0], of_coordinates, virial, properties)


def _own_geometry(potential: Potential, system: System, block: _Block, wants_gradient: bool) -> System | None:
    """Return the molecules of a block as leaves of a graph of their own; None where vectors are all there is."""
    if block.molecules is None:
        return None
    x = torch.where((system.species < 0)[..., None], 0.0, system.coordinates.detach())[block.molecules]
    cell = None if system.cell is None else system.cell[block.molecules].detach()
    pbc = None if system.pbc is None else system.pbc[block.molecules]
    if potential.needs_positions and wants_gradient:
        x = x.double().requires_grad_()
        cell = None if cell is None else cell.double().requires_grad_()
    return System(system.species[block.molecules], x, cell, pbc)


def geometry_gradients(
    total: Tensor, v: Tensor, own: System | None, retain_graph: bool, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return dE/dvectors; where positions count for themselves, also dE/dx and xᵀ dE/dx + cellᵀ dE/dcell."""
    if own is None or not own.coordinates.requires_grad:
        return (_gradient(total, v, retain_graph, create_graph),)
    leaves = [v, own.coordinates] + ([] if own.cell is None else [own.cell])
    if not total.requires_grad:  # nothing but ghosts
        total = total + 0 * own.coordinates.sum()
    found = _differentiate(total, leaves, retain_graph, create_graph)
    virial = own.coordinates.detach().mT @ found[1]
    if own.cell is not None:
        virial = virial + own.cell.detach().mT @ found[2]
    return found[0], found[1], virial


def _gradient(total: Tensor, v: Tensor, retain_graph: bool, create_graph: bool) -> Tensor:
    if len(v) == 0:
        return torch.zeros_like(v)
    return _differentiate(total, [v], retain_graph, create_graph)[0]


def _differentiate(total: Tensor, leaves: list[Tensor], retain: bool, create: bool) -> tuple[Tensor, ...]:
    """Return the gradients, zeros for what does not matter."""
    return torch.autograd.grad(
        total, leaves, retain_graph=retain, create_graph=create, allow_unused=True, materialize_grads=True
    )


class _Block(NamedTuple):
    """Ranges of pairs and atoms that are computed together, and of whole molecules where it consists of such."""

    pairs: slice
    atoms: slice
    molecules: slice | None


def _block_energies(
    potential: Potential,
    species: Tensor,
    pairs: Pairs,
    v: Tensor,
    block: _Block,
    own: System | None,
    properties: tuple[str, ...],
) -> tuple[Tensor, dict[str, Tensor]]:
    atoms = block.atoms
    center, neighbor = pairs.center[block.pairs], pairs.neighbor[block.pairs]
    if block.molecules is not None:
        shift = None if pairs.shift is None else pairs.shift[block.pairs]
        mine = (
            Pairs(center - atoms.start, neighbor - atoms.start, shift)
            if atoms.start
            else Pairs(center, neighbor, shift)
        )
        if not properties:
            return potential.members_from_vectors(species[atoms], mine, v, own), {}
        return potential.members_and_properties(species[atoms], mine, v, own, properties)
    return potential.energies_of_neighborhoods(species[atoms], center - atoms.start, species[neighbor], v), {}


def _blocks(potential: Potential, system: System, pairs: Pairs, vectors: Tensor, properties: bool) -> Iterator[_Block]:
    """Yield what is computed together, so that memory stays bounded and small blocks stay in the caches.

    Single atoms where the energy of an atom depends on its own neighbors and nothing else; whole molecules otherwise.
    """
    num_molecules, num_atoms = system.species.shape
    num_slots = num_molecules * num_atoms
    whole = _Block(slice(0, len(pairs.center)), slice(0, num_slots), slice(0, num_molecules))
    cost = potential.memory_estimate(pairs.center, vectors, num_slots) if num_slots else None
    if cost is None:
        yield whole
        return
    total = (cost * (0.5 if potential.dtype == torch.float32 else 1.0)).cumsum(0)
    limit = BLOCK_BYTES if potential.block_bytes is None else potential.block_bytes
    if int(total[-1]) <= limit:
        yield whole
        return
    step = 1 if potential.is_local and not properties else num_atoms
    edges = _edges(total, limit, step)
    pair_edges = torch.searchsorted(pairs.center, edges).tolist()
    for i, (start, stop) in enumerate(zip(edges.tolist(), edges[1:].tolist(), strict=False)):
        molecules = slice(start // num_atoms, stop // num_atoms) if step == num_atoms else None
        yield _Block(slice(pair_edges[i], pair_edges[i + 1]), slice(start, stop), molecules)


def _edges(total: Tensor, limit: int, step: int) -> Tensor:
    """Return the ends of blocks that cost about ``limit``, multiples of ``step``; ``total`` (N,) is the running sum."""
    num_blocks = -(-int(total[-1]) // limit)
    steps = total[-1] * torch.arange(1, num_blocks, device=total.device) / num_blocks
    cuts = torch.searchsorted(total, steps.to(total.dtype))
    ends = [cuts.new_zeros(1), torch.div(cuts, step, rounding_mode="floor") * step, cuts.new_full((1,), len(total))]
    return torch.unique_consecutive(torch.cat(ends))


def forces_of(found: Found, pairs: Pairs, shape: torch.Size) -> Tensor:
    """−dE/dr (G, B, A, 3): that of the vectors, and that of coordinates which count for themselves."""
    forces = 0.0 - gradient_by_coordinates(pairs, found.of_vectors, shape)  # no -0 where nothing acts
    return forces if found.of_coordinates is None else forces - found.of_coordinates


def stress_of(found: Found, vectors: Tensor, pairs: Pairs, system: System) -> Tensor:
    """(1/V) Σ v ⊗ dE/dv over the pairs of each molecule (doi:10.1103/PhysRevB.32.3792): (G, B, 3, 3)."""
    assert system.cell is not None  # _check_stress has seen to it
    gradients = found.of_vectors
    num_molecules, num_atoms = system.species.shape
    outer = vectors[None, :, :, None] * gradients[:, :, None, :]  # (G, P, 3, 3)
    virial = outer.new_zeros(len(gradients), num_molecules, 3, 3).index_add(1, pairs.center // num_atoms, outer)
    if found.virial is not None:
        virial = virial + found.virial
    virial = (virial + virial.transpose(-1, -2)) / 2  # symmetric already, but for rounding
    return virial / volume(system.cell.detach().double())[:, None, None]


def _check_stress(system: System) -> None:
    num_molecules = len(system.species)
    if system.cell is None or system.pbc is None:
        if num_molecules:
            raise ValueError("stress was asked for, but no molecule of the batch is periodic: pass cell and pbc")
        raise ValueError("stress was asked for an empty batch without cell and pbc")
    free = ~system.pbc.any(-1)
    if free.any():
        raise ValueError(f"stress was asked for, but molecule {int(free.nonzero()[0])} is not periodic along any axis")
    flat = volume(system.cell.detach()) == 0
    if flat.any():
        molecule = int(flat.nonzero()[0])
        raise ValueError(
            f"stress was asked for, but the cell of molecule {molecule} has no volume: "
            f"{system.cell[molecule].tolist()}; "
            "give the axes that are not periodic a length"
        )
