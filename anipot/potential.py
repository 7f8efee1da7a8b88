"""A whole potential: converter, representation, head and self energies in one module, with what is known about it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from anipot.energy import EnergyShifter
from anipot.environments import Environments
from anipot.head import ANIModel, Ensemble
from anipot.known import within_a_call
from anipot.neighbors import Pairs, neighborhoods
from anipot.neighbors.traced import checked_neighborhoods
from anipot.representation import AEVComputer
from anipot.structures import (
    SpeciesConverter,
    SpeciesEnergies,
    System,
    check_charge,
    check_element_indices,
    check_system,
)

if TYPE_CHECKING:
    from anipot.interfaces.ase import Calculator

#: Methods that make energies; a subclass that has its own computes something else than its parts say.
_COMPUTING = (
    "members_and_properties",
    "members_from_vectors",
    "environments",
    "atomic_energies_of",
    "energies_of_neighborhoods",
)


#: Names that results have already, here, in ASE or in the files of the shell.
_RESERVED = {"energy", "energies", "free_energy", "forces", "stress", "hessian", "members", "file", "frame", "formula"}


def _named(properties: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return properties whose names can stand beside other results.

    Raises
    ------
    ValueError
        For a name that is taken or no Python name.
    """
    for name in properties:
        if name in _RESERVED or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"a property cannot be called {name!r}: the name is taken, or is no Python name")
    return dict(properties)


class Potential(nn.Module):
    """A potential that takes ``(species, coordinates)`` and returns energies.

    Parameters
    ----------
    elements
        Symbols, in the order of the element indices.
    representation
        Module such as ``AEVComputer``.
    head
        ``ANIModel``, ``Atomwise`` or an ``Ensemble`` of them.
    shifter
        Self energies.
    name
        Shown by ``info()``.
    details
        JSON-able facts that ``info()`` adds: level of theory, citation, source and checksum of the weights.
    periodic_table_index
        Whether species are atomic numbers (default) or element indices.
    properties
        Further heads on the same features, by the name of what they return: ``{"dipole": DipoleMoment(...)}``.
    terms
        Modules that add to the energy, such as ``ZBL``.

    Raises
    ------
    ValueError
        If the parts are made for different elements or features, or the head does not sum over atoms.

    Examples
    --------
    >>> import torch
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter
    >>> networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
    >>> shifter = EnergyShifter([-0.6, -38.1, -54.7, -75.2])
    >>> model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), shifter)
    >>> water = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> model(water).energies.dtype
    torch.float64
    """

    def __init__(
        self,
        elements: Sequence[str],
        representation: nn.Module,
        head: nn.Module,
        shifter: EnergyShifter,
        name: str = "",
        details: Mapping[str, Any] | None = None,
        periodic_table_index: bool = True,
        *,
        properties: Mapping[str, nn.Module] | None = None,
        terms: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.converter = SpeciesConverter(elements)
        self.representation = representation
        self.head = head
        self.shifter = shifter
        self.property_heads = nn.ModuleDict(_named(properties or {}))
        self.terms = nn.ModuleList([terms] if isinstance(terms, nn.Module) else terms)
        self.name = name
        self.details = dict(details or {})
        self.periodic_table_index = periodic_table_index
        self._check_parts()
        self._check_consistent()

    def _check_parts(self) -> None:
        """Refuse modules in places that they do not fit."""
        places: list[tuple[str, nn.Module, tuple[str, ...]]]
        places = [("representation", self.representation, ("cutoff", "from_pairs"))]
        places += [("head", self.head, ("atomic_energies",))]
        places += [(f"property {k!r}", v, ("from_environments",)) for k, v in self.property_heads.items()]
        places += [("term", term, ("cutoff", "atomic_energies")) for term in self.terms]
        for place, module, needed in places:
            lacking = [name for name in needed if not hasattr(module, name)]
            if lacking:
                raise TypeError(f"{type(module).__name__} cannot be the {place}: it has no {' and no '.join(lacking)}")

    def _check_consistent(self) -> None:
        num_species = len(self.elements)
        heads = [("head", self.head), *((f"property head {k!r}", v) for k, v in self.property_heads.items())]
        terms = [(f"term {type(term).__name__}", term) for term in self.terms]
        parts = [("representation", self.representation), *heads]
        counts = [(part, getattr(module, "num_species", None)) for part, module in parts + terms]
        counts.append(("shifter", len(self.shifter.self_energies) - self.shifter.fit_intercept))
        for part, count in counts:
            if count is not None and count != num_species:
                raise ValueError(
                    f"the {part} is made for {count} elements, but {num_species} were given: {self.elements}"
                )
        for part, term in terms:
            elements = getattr(term, "elements", self.elements)
            if tuple(elements) != self.elements:
                raise ValueError(f"the {part} is made for {elements}, but the potential for {self.elements}")
        length = getattr(self.representation, "num_features", None)
        for part, module in heads + terms:
            expected = getattr(module, "num_features", None)
            if length is not None and expected is not None and expected != length:
                raise ValueError(f"the {part} takes {expected} features, but the representation returns {length}")
        if not getattr(self.head, "extensive", True):
            raise ValueError(
                "the head returns the mean over atoms, but energies are sums; put it among the `properties`"
            )
        for part, module in parts:
            own = tuple(getattr(module, "elements", self.elements))
            if own != self.elements:
                raise ValueError(f"the {part} is made for the elements {own}, but {self.elements} were given")

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements that the potential knows."""
        return self.converter.elements

    @property
    def cutoff(self) -> float:
        """Distance in Å beyond which two atoms do not see each other."""
        return max(float(part.cutoff) for part in (self.representation, *self.terms))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the networks; energies are float64 always."""
        return next((p.dtype for p in self.head.parameters()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Where the potential computes."""
        return self.shifter.self_energies.device

    @property
    def is_local(self) -> bool:
        """Whether the energy of an atom follows from its neighbors alone: then a few atoms can be computed at a time.

        ``energies_of_neighborhoods`` does so then; properties are computed for whole molecules all the same.
        """
        plain = not (len(self.terms) or self.overridden())
        return plain and hasattr(self.representation, "from_neighborhoods")

    @property
    def needs_positions(self) -> bool:
        """Whether energies depend on coordinates and cells in other ways than through the vectors of pairs."""
        return any(getattr(term, "needs_positions", False) for term in self.terms)

    @property
    def block_bytes(self) -> int | None:
        """Bytes that atoms which are computed together should take, where the representation has a wish."""
        return getattr(self.representation, "block_bytes", None)

    def memory_estimate(self, center: Tensor, vectors: Tensor, num_atoms: int) -> Tensor | None:
        """Return roughly the bytes (N,) that each atom and its gradient take in float64; None if nobody knows.

        Parameters
        ----------
        center, vectors
            (P,) and (P, 3) of all pairs.
        num_atoms
            N.
        """
        if not hasattr(self.representation, "memory_estimate"):
            return None
        features: Tensor = self.representation.memory_estimate(center, vectors, num_atoms)  # type: ignore[operator]
        return features + self.network_bytes

    @property
    def network_bytes(self) -> int:
        """Roughly the bytes that one atom takes in the networks of all members and their gradient, in float64."""
        hidden = sum(p.shape[0] for p in self.head.parameters() if p.dim()) // max(1, len(self.elements))
        return 8 * 4 * hidden

    @classmethod
    def overridden(cls, plain: type[Potential] | None = None) -> list[str]:
        """Return the methods that compute energies in another way than those of ``plain``, ``Potential`` by default."""
        return [name for name in _COMPUTING if getattr(cls, name) is not getattr(plain or Potential, name)]

    def info(self) -> dict[str, Any]:
        """Return what there is to know: parts, elements, cutoffs, units, level of theory, citation, source, checksum.

        All of it is JSON: where a cutoff is infinite it is None, and ``cutoff_note`` says so.
        """
        names = ("Rcr", "Rca", "angular_cutoff")
        cutoffs = {name: getattr(self.representation, name) for name in names if hasattr(self.representation, name)}
        parts = {"representation": _brief(self.representation), "head": _brief(self.head)}
        return self._with_details(parts, cutoffs)

    def _with_details(self, parts: Mapping[str, Any], cutoffs: Mapping[str, float]) -> dict[str, Any]:
        """Return ``info`` of what the potential is made of."""
        note = {"cutoff_note": "infinite: all pairs of a molecule"} if math.isinf(self.cutoff) else {}
        facts = {
            "name": self.name,
            "elements": list(self.elements),
            "members": len(self),
            **parts,
            "cutoff": self.cutoff,
            **note,
            **cutoffs,
            "units": {"length": "angstrom", "energy": "hartree"},
            "charge": "neutral molecules only",
            **({"properties": {k: _brief(v) for k, v in self.property_heads.items()}} if self.property_heads else {}),
            **({"terms": [_brief(term) for term in self.terms]} if self.terms else {}),
            "dtype": str(self.dtype).removeprefix("torch."),
            "parameters": sum(p.numel() for p in self.parameters()),
        }
        known: dict[str, Any] = _finite(facts | {k: v for k, v in self.details.items() if k not in facts})
        return known

    def __len__(self) -> int:
        """Number of members."""
        return len(self.head) if isinstance(self.head, Ensemble) else 1

    def __getitem__(self, index: int) -> Self:
        """Return one member as a potential of its own; weights are shared with this one.

        It has the same property heads and terms as this one.
        """
        index = self._member_index(index)
        head = self.head[index] if isinstance(self.head, Ensemble) else self.head
        name = f"{self.name}[{index}]" if len(self) > 1 else self.name
        args = (self.elements, self.representation, head, self.shifter, name, self.details, self.periodic_table_index)
        member = type(self)(*args, properties=dict(self.property_heads), terms=list(self.terms))
        return member.to(self.device).train(self.training)

    def _member_index(self, index: int) -> int:
        """Return the index of a member, counted from 0, or refuse it."""
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(f"a member is chosen by an integer, got {index!r}")
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"{self.name or 'this potential'} has {len(self)} members, 0 to {len(self) - 1}; got {index}"
            )
        return index % len(self)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    @within_a_call
    def forward(
        self,
        species_coordinates: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        *,
        charge: float | Tensor = 0,
    ) -> SpeciesEnergies:
        """Return the energies of a batch; differentiable with respect to coordinates, cell and weights, twice.

        Parameters
        ----------
        species_coordinates
            Atomic numbers (B, A), ghosts -1, and coordinates (B, A, 3) in Å.
        cell
            (3, 3) or (B, 3, 3) in Å; rows are the lattice vectors.
        pbc
            (3,) or (B, 3) bool.
        charge
            Total charge; anything but 0 is refused.

        Returns
        -------
        SpeciesEnergies
            The species as given, and energies (B,) in Hartree, float64.

        Raises
        ------
        TypeError, ValueError
            For everything that cannot be computed: see ``check_system`` and ``SpeciesConverter``.
        """
        check_charge(charge)
        species = species_coordinates[0]
        system, atomic = self._members(species_coordinates, cell, pbc)
        atomic = atomic.mean(0).view(species.shape)
        return SpeciesEnergies(species, atomic.sum(-1) + self.shifter.sae(system.species))

    @within_a_call
    def atomic_energies(
        self, species_coordinates: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesEnergies:
        """Return the species and the energy of each atom (B, A), self energies included; 0 for ghosts."""
        system, atomic = self._members(species_coordinates, cell, pbc)
        atomic = atomic.mean(0).view(system.species.shape)
        return SpeciesEnergies(species_coordinates[0], atomic + self.shifter.atomic(system.species))

    @within_a_call
    def members_energies(
        self, species_coordinates: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesEnergies:
        """Return the species and the energies (M, B) of every member."""
        system, atomic = self._members(species_coordinates, cell, pbc)
        energies = atomic.view(len(self), *system.species.shape).sum(-1)
        return SpeciesEnergies(species_coordinates[0], energies + self.shifter.sae(system.species))

    def system(self, species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> System:
        """Check a batch and turn atomic numbers into element indices."""
        system = check_system(species, coordinates, cell, pbc)
        if coordinates.device != self.device:
            raise ValueError(f"coordinates are on {coordinates.device} but the model on {self.device}")
        if self.periodic_table_index:
            return system._replace(species=self.converter.convert(species))
        check_element_indices(species, len(self.elements))
        return system

    def properties(
        self,
        species_coordinates: tuple[Tensor, Tensor],
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return what the property heads say (all, or those named), differentiable like the energies.

        Raises
        ------
        ValueError
            If there is no such property head.
        """
        system, pairs, vectors = self._surroundings(species_coordinates, cell, pbc)
        names = self.property_names(True if names is None else names)
        return self.members_and_properties(system.species.reshape(-1), pairs, vectors, system, names)[1]

    def property_names(self, asked: bool | Sequence[str]) -> tuple[str, ...]:
        """Return the names of the property heads asked for: all, none or some.

        Raises
        ------
        ValueError
            If there is no such property head.
        """
        known = tuple(self.property_heads)
        if isinstance(asked, bool):
            return known if asked else ()
        names = (asked,) if isinstance(asked, str) else tuple(asked)
        for name in names:
            if name not in known:
                raise ValueError(f"this potential has no property {name!r}; it has {', '.join(known) or 'none'}")
        return names

    def members_from_vectors(
        self, species: Tensor, pairs: Pairs, vectors: Tensor, system: System | None = None
    ) -> Tensor:
        """Return the members' energies (M, N) of N flat slots without self energies, given the pairs and their vectors.

        This is the whole potential behind the geometry: engines that bring neighbors and vectors enter here. Only terms
        that look at more than vectors need the ``system``.
        """
        return self.members_and_properties(species, pairs, vectors, system)[0]

    def members_and_properties(
        self, species: Tensor, pairs: Pairs, vectors: Tensor, system: System | None, names: Sequence[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the members' energies (M, N) without self energies, and the properties named."""
        environments = self.environments(species, pairs, vectors, system)
        energies = self.atomic_energies_of(species, environments.features)
        for term in self.terms:
            energies = energies + term.atomic_energies(environments).double()  # type: ignore[operator]
        return energies, self._heads_of(environments, names)

    def properties_of(
        self, species: Tensor, pairs: Pairs, vectors: Tensor, system: System | None, names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return the properties named, without energies, from what ``members_and_properties`` takes."""
        return self._heads_of(self.environments(species, pairs, vectors, system), names)

    def _heads_of(self, environments: Environments, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: self.property_heads[name].from_environments(environments) for name in names}  # type: ignore[operator]

    def environments(
        self, species: Tensor, pairs: Pairs, vectors: Tensor, system: System | None = None
    ) -> Environments:
        """Return what the representation sees around N flat slots, given the pairs and their vectors."""
        narrow = vectors.to(self.dtype)
        equivariant = None
        if hasattr(self.representation, "scalars_and_vectors"):
            features, equivariant = self.representation.scalars_and_vectors(species, pairs, narrow)  # type: ignore[operator]
        else:
            features = self.representation.from_pairs(species, pairs, narrow)  # type: ignore[operator]
        return Environments(species, pairs, vectors, features, equivariant, system)

    def energies_of_neighborhoods(
        self, species: Tensor, center: Tensor, neighbor_species: Tensor, vectors: Tensor
    ) -> Tensor:
        """Return the members' energies (M, n) of n atoms without self energies, where the potential ``is_local``.

        Parameters
        ----------
        species
            (n,) element indices.
        center
            (P,) ascending, 0 … n − 1.
        neighbor_species, vectors
            (P,) and (P, 3) of the neighbors.
        """
        representation = self.representation
        features = representation.from_neighborhoods(center, neighbor_species, vectors.to(self.dtype), len(species))  # type: ignore[operator]
        return self.atomic_energies_of(species, features)

    def atomic_energies_of(self, species: Tensor, features: Tensor) -> Tensor:
        """Return the members' energies (M, N) of N flat slots without self energies, given their features (N, F)."""
        plain = type(self.head) in (ANIModel, Ensemble) and "atomic_energies" not in vars(self.head)
        if plain and type(self.representation) is AEVComputer:
            return self.head.atomic_energies(species, features, sparse=True)  # type: ignore[operator]
        return self.head.atomic_energies(species, features)  # type: ignore[operator]

    def _surroundings(
        self, species_coordinates: tuple[Tensor, Tensor], cell: Tensor | None, pbc: Tensor | None
    ) -> tuple[System, Pairs, Tensor]:
        if torch.compiler.is_compiling():
            species, coordinates = species_coordinates
            if self.periodic_table_index:
                species = self.converter.convert(species)
            return checked_neighborhoods(species, coordinates, cell, pbc, len(self.elements), self.cutoff)
        system = self.system(*species_coordinates, cell, pbc)
        return system, *neighborhoods(system, self.cutoff)

    def _members(
        self, species_coordinates: tuple[Tensor, Tensor], cell: Tensor | None, pbc: Tensor | None
    ) -> tuple[System, Tensor]:
        system, pairs, vectors = self._surroundings(species_coordinates, cell, pbc)
        return system, self.members_from_vectors(system.species.reshape(-1), pairs, vectors, system)

    def species_to_tensor(self, symbols: str | Sequence[str]) -> Tensor:
        """Return the species (a,) of symbols such as ["C", "H", "H"]: atomic numbers, or element indices."""
        from anipot.elements import atomic_numbers

        numbers = torch.tensor(atomic_numbers(list(symbols)), dtype=torch.long, device=self.device)
        return numbers if self.periodic_table_index else self.converter.convert(numbers)

    def ase(self, **options: Any) -> Calculator:
        """Return an ASE calculator; see ``anipot.interfaces.ase.Calculator`` for the options."""
        from anipot.interfaces.ase import Calculator

        return Calculator(self, **options)

    def save(self, path: Any) -> None:
        """Write one safetensors file from which ``anipot.load`` rebuilds the potential."""
        from anipot.storage import save_model

        save_model(self, path)

    def extra_repr(self) -> str:
        more = {"properties": list(self.property_heads), "terms": [type(term).__name__ for term in self.terms]}
        rest = "".join(f"; {what}: {', '.join(names)}" for what, names in more.items() if names)
        return f"{self.name or 'unnamed'}: {', '.join(self.elements)}; members: {len(self)}{rest}"


def _brief(module: nn.Module) -> str:
    """Return a module in one line, without its submodules."""
    if isinstance(module, Ensemble):
        return f"{len(module)} × {_brief(module[0])}"
    settings = module.extra_repr()
    return f"{type(module).__name__}({settings})" if settings else type(module).__name__


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by None."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
