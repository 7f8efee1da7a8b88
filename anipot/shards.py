"""How a batch is divided among several devices, and its results are put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from anipot.derivatives import Members, SinglePoint
from anipot.ensembles import EnsemblePotential
from anipot.head import Ensemble
from anipot.potential import Potential

#: Part of the work that each group of members does again: neighbors and features, roughly, of an ensemble of eight.
FEATURES = 0.15

_NAMES = ("energies", "forces", "stress", "hessian", "atomic_energies")
_OF_MEMBERS = ("energies", "forces", "stress", "atomic_energies")


def shards(costs: Sequence[float], count: int) -> list[slice]:
    """Return at most ``count`` runs of consecutive molecules whose costs are about the same; none is empty.

    Examples
    --------
    >>> shards([9, 3, 3, 3], 2)
    [slice(0, 1, None), slice(1, 4, None)]
    """
    total, done = float(sum(costs)), 0.0
    ends: list[int] = []
    for index, cost in enumerate(costs):
        wanted = total * (len(ends) + 1) / count
        # A molecule that crosses the line belongs to the side on which more of it lies.
        while len(ends) < count - 1 and done + cost / 2 > wanted:
            ends.append(index)
            wanted = total * (len(ends) + 1) / count
        done += cost
    bounds = [0, *ends, len(costs)]
    return [slice(a, b) for a, b in pairwise(bounds) if b > a]


def groups(members: int, count: int) -> list[range]:
    """Return at most ``count`` runs of members, as equal as can be.

    Examples
    --------
    >>> groups(8, 3)
    [range(0, 3), range(3, 6), range(6, 8)]
    """
    count = min(members, count)
    size, more = divmod(members, count)
    ends = [size * i + min(i, more) for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def by_members(costs: Sequence[float], rows: Sequence[slice], members: int, count: int) -> bool:
    """Whether groups of members are done sooner than runs of molecules."""
    if members < 2 or not sum(costs):
        return False
    molecules = max(sum(costs[run]) for run in rows) / sum(costs)
    return FEATURES + (1 - FEATURES) * len(groups(members, count)[0]) / members < molecules


def can_be_divided(potential: Potential) -> bool:
    """Whether the potential is the mean of members of which some can be computed alone."""
    if isinstance(potential, EnsemblePotential):
        return not potential.overridden(EnsemblePotential)
    return type(potential.head) is Ensemble and not potential.overridden()


def of_members(potential: Potential, which: range) -> Potential:
    """Return the potential of some of the members, which has all else in common with the given one."""
    found = copy(potential)
    found.__dict__.pop("_engine", None)
    found.__dict__["_modules"] = modules = dict(potential._modules)
    if isinstance(potential, EnsemblePotential):
        modules["members"] = torch.nn.ModuleList(potential[i] for i in which)
    else:
        modules["head"] = Ensemble([potential.head[i] for i in which])  # type: ignore[index]
    return found


def of_molecules(part: Tensor | None, rows: slice, axes: int) -> Tensor | None:
    """Return cells or pbc of some molecules; with ``axes`` axes they are those of all of them."""
    return part if part is None or part.dim() == axes else part[rows]


def joined_molecules(species: Tensor, parts: Sequence[SinglePoint]) -> SinglePoint:
    """Return the result of a batch from those of runs of its molecules."""

    def together(get: Callable[[Any], Tensor | None], axis: int) -> Tensor | None:
        found = [get(part) for part in parts]
        return None if found[0] is None else torch.cat(found, axis)  # type: ignore[arg-type]

    values = {name: together(lambda part, name=name: getattr(part, name), 0) for name in _NAMES}  # type: ignore[misc]
    members = properties = None
    if parts[0].members is not None:
        each = {name: together(lambda part, name=name: getattr(part.members, name), 1) for name in _OF_MEMBERS}  # type: ignore[misc]
        members = Members(**each, num_atoms=(species >= 0).sum(-1))  # type: ignore[arg-type]
    if parts[0].properties is not None:
        names = parts[0].properties
        properties = {name: torch.cat([part.properties[name] for part in parts]) for name in names}  # type: ignore[index]
    return SinglePoint(species, **values, members=members, properties=properties)  # type: ignore[arg-type]


def joined_members(species: Tensor, parts: Sequence[SinglePoint], sizes: Sequence[int]) -> SinglePoint:
    """Return the result of an ensemble from those of groups of its members, of which there are ``sizes``."""

    def mean(values: Sequence[Tensor | None]) -> Tensor | None:
        weighted = [size * value for size, value in zip(sizes, values, strict=True) if value is not None]
        return torch.stack(weighted).sum(0) / sum(sizes) if weighted else None

    found = {name: mean([getattr(part, name) for part in parts]) for name in _NAMES}
    members = properties = None
    if parts[0].members is not None:
        each: dict[str, Any] = {}
        for name in _OF_MEMBERS:
            values = [getattr(part.members, name) for part in parts]
            each[name] = None if values[0] is None else torch.cat(values)
        members = Members(**each, num_atoms=(species >= 0).sum(-1))
        found |= {name: value.mean(0) for name, value in each.items() if value is not None and found[name] is not None}
    if parts[0].properties is not None:
        names = parts[0].properties
        properties = {name: mean([part.properties[name] for part in parts]) for name in names}  # type: ignore[index]
    return SinglePoint(species, **found, members=members, properties=properties)  # type: ignore[arg-type]
