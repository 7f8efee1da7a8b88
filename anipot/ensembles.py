"""Ensembles of whole potentials, which need not have anything in common but their elements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from anipot.energy import EnergyShifter
from anipot.neighbors import Pairs
from anipot.potential import Potential
from anipot.structures import SpeciesConverter, System


class EnsemblePotential(Potential):
    """The mean of several potentials, whose spread says how far to trust it.

    Members may differ in everything but their elements: four SchNets from four seeds, or a SchNet, a PaiNN and an ANI.
    It is used like any ``Potential``: called, by ``single_point``, through ASE, saved and loaded.

    Parameters
    ----------
    potentials
        For the same elements in the same order, on the same device. They are shared, not copied. One that is itself an
        ensemble counts as one member, with the mean of its own.
    name, details
        As for ``Potential``.

    Raises
    ------
    TypeError
        For something that is not a ``Potential``.
    ValueError
        For none, and for potentials that do not go together.

    Notes
    -----
    Self energies may differ and count as part of the members' energies; intercepts must be equal. Properties are means
    over the members, which must all have them.

    Members with the same constant representation, such as AEVs, and the same self energies are computed much faster
    as one ``Potential`` whose head is an ``Ensemble``: features are computed once, and natively.

    Examples
    --------
    >>> import torch
    >>> from anipot import Atomwise, EnergyShifter, Potential, SchNet
    >>> shifter = EnergyShifter([-0.5, -75.0])
    >>> members = [Potential(["H", "O"], SchNet(2, 16), Atomwise.pyramid(16), shifter) for _ in range(4)]
    >>> model = EnsemblePotential(members, "four seeds")
    >>> water = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> len(model), model.members_energies(water).energies.shape
    (4, torch.Size([4, 1]))
    """

    def __init__(
        self, potentials: Sequence[Potential], name: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        nn.Module.__init__(self)  # a Potential's own makes the parts that the members have
        members = list(potentials)
        _check_members(members)
        self.members = nn.ModuleList(members)
        self.name = name
        self.details = dict(details or {})

    @property
    def converter(self) -> SpeciesConverter:  # type: ignore[override]
        """From atomic numbers to element indices."""
        return self[0].converter

    @property
    def shifter(self) -> EnergyShifter:  # type: ignore[override]
        """Self energies of the first member; what others differ by is part of their energies."""
        return self[0].shifter

    @property
    def property_heads(self) -> dict[str, nn.Module]:  # type: ignore[override]
        """The first member's heads of those properties that all members have."""
        heads = self[0].property_heads.items()
        return {name: head for name, head in heads if all(name in member.property_heads for member in self)}

    @property
    def terms(self) -> list[nn.Module]:  # type: ignore[override]
        """Those of all members."""
        return [term for member in self for term in member.terms]

    @property
    def periodic_table_index(self) -> bool:
        """Whether species are atomic numbers or element indices; setting it sets it for all members."""
        return self[0].periodic_table_index

    @periodic_table_index.setter
    def periodic_table_index(self, value: bool) -> None:
        for member in self:
            member.periodic_table_index = value

    @property
    def cutoff(self) -> float:
        """The largest of the members."""
        return max(member.cutoff for member in self)

    @property
    def dtype(self) -> torch.dtype:
        """The widest of the members."""
        return reduce(torch.promote_types, (member.dtype for member in self))

    @property
    def is_local(self) -> bool:
        """Whether this is true of all members."""
        return not self.overridden(EnsemblePotential) and all(member.is_local for member in self)

    @property
    def needs_positions(self) -> bool:
        """Whether this is true of any member."""
        return any(member.needs_positions for member in self)

    @property
    def block_bytes(self) -> int | None:
        """The smallest that a member wishes for."""
        return min((member.block_bytes for member in self if member.block_bytes is not None), default=None)

    def memory_estimate(self, center: Tensor, vectors: Tensor, num_atoms: int) -> Tensor | None:
        """Return the sum over members, which are all there when gradients are computed."""
        estimates = [member.memory_estimate(center, vectors, num_atoms) for member in self]
        known = [estimate for estimate in estimates if estimate is not None]
        return torch.stack(known).sum(0) if len(known) == len(estimates) else None

    @property
    def network_bytes(self) -> int:
        """The sum over members."""
        return sum(member.network_bytes for member in self)

    def info(self) -> dict[str, Any]:
        """Return what there is to know, as ``Potential.info``, with ``potentials`` in place of the parts."""
        names = ("name", "representation", "head", "potentials", "members", "cutoff", "cutoff_note", "terms", "dtype")
        potentials = []
        for member in self:
            facts = member.info()
            potentials.append({name: facts[name] for name in names if name in facts})
        found = self._with_details({"potentials": potentials}, {})
        return {name: fact for name, fact in found.items() if name != "terms"}

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def __getitem__(self, index: int) -> Potential:  # type: ignore[override]
        """Return a member, the potential that was given."""
        member = self.members[self._member_index(index)]
        assert isinstance(member, Potential)
        return member

    def __iter__(self) -> Iterator[Potential]:  # type: ignore[override]
        return (self[i] for i in range(len(self)))

    def property_names(self, asked: bool | Sequence[str]) -> tuple[str, ...]:
        """Return the names of the properties asked for; with True all that every member has.

        Raises
        ------
        ValueError
            If there is no such property, or a member lacks it.
        """
        for name in () if isinstance(asked, bool) else (asked,) if isinstance(asked, str) else asked:
            lacking = [i for i, member in enumerate(self) if name not in member.property_heads]
            if 0 < len(lacking) < len(self):
                raise ValueError(f"member {lacking[0]} has no property {name!r}, and a mean needs all {len(self)}")
        return super().property_names(asked)

    def members_and_properties(
        self, species: Tensor, pairs: Pairs, vectors: Tensor, system: System | None, names: Sequence[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the members' energies (M, N) without the first one's self energies, and means of the properties."""
        energies, properties = [], []
        for index, member in enumerate(self):
            # Its parts look at no more than their own cutoffs, however far the pairs reach.
            found, values = member.members_and_properties(species, pairs, vectors, system, names)
            energies.append(found.mean(0) + self._offset(index, species))
            properties.append(values)
        return torch.stack(energies), {name: _mean(name, [values[name] for values in properties]) for name in names}

    def energies_of_neighborhoods(
        self, species: Tensor, center: Tensor, neighbor_species: Tensor, vectors: Tensor
    ) -> Tensor:
        """Return the members' energies (M, n) of n atoms without the first one's self energies; see ``Potential``."""
        energies = []
        for index, member in enumerate(self):
            found = member.energies_of_neighborhoods(species, center, neighbor_species, vectors)
            energies.append(found.mean(0) + self._offset(index, species))
        return torch.stack(energies)

    def _offset(self, index: int, species: Tensor) -> Tensor | float:
        """Return by how much the self energies of a member differ from those of the first (N,)."""
        own, first = self[index].shifter, self.shifter
        if own is first:
            return 0.0
        if not torch.compiler.is_compiling():
            _check_intercepts(index, own, first)  # again: self energies may have been set since
        return own.atomic(species) - first.atomic(species)

    def extra_repr(self) -> str:
        return f"{self.name or 'unnamed'}: {', '.join(self.elements)}; members: {len(self)}"


def _check_members(members: list[Potential]) -> None:
    if not members:
        raise ValueError("EnsemblePotential needs at least one potential")
    for index, member in enumerate(members):
        if not isinstance(member, Potential):
            raise TypeError(f"member {index} is a {type(member).__name__}, expected a Potential")
        for what in ("elements", "periodic_table_index", "device"):
            seen, expected = getattr(member, what), getattr(members[0], what)
            if seen != expected:
                raise ValueError(f"all members must have the same {what}: {expected} in member 0, {seen} in {index}")
        _check_intercepts(index, member.shifter, members[0].shifter)


def _check_intercepts(index: int, own: EnergyShifter, first: EnergyShifter) -> None:
    seen, expected = (float(s.self_energies[-1]) if s.fit_intercept else 0.0 for s in (own, first))
    if seen != expected:
        raise ValueError(
            f"all members must have the same intercept of self energies: {expected} in member 0, {seen} in {index}; "
            "members may differ by energies of atoms, not of molecules"
        )


def _mean(name: str, values: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(value.shape) for value in values})
    if len(shapes) > 1:
        raise ValueError(f"members have values of several shapes for the property {name!r}: {shapes}")
    dtype = reduce(torch.promote_types, (value.dtype for value in values))
    return torch.stack([value.to(dtype) for value in values]).mean(0)
