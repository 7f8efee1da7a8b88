"""What a potential of AEVs and dense networks is made of, as kernels need to know it, and whether it is still that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from itertools import chain
from operator import is_not
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from anipot.energy import EnergyShifter
from anipot.head import CELU, ANIModel, Ensemble
from anipot.head.dense import GLOBAL_HOOKS, NotCovered, common_dtype, dense_layers, hooks_of, replaced
from anipot.kernels.aev import constants_and_sizes
from anipot.kernels.specs import AEV_CONSTANTS
from anipot.potential import Potential
from anipot.representation import AEVComputer
from anipot.representation.cutoffs import NATIVE_CUTOFFS
from anipot.structures import SpeciesConverter

#: What an activation is made of besides its type.
_WITH_ATTRIBUTES: dict[str, Any] = {"alpha": CELU | nn.CELU, "approximate": nn.GELU}


T = TypeVar("T")


class Values(NamedTuple):
    """What an engine returns: the mean over members, or with ``members`` every value with a leading axis M."""

    energies: Tensor
    atomic_energies: Tensor | None
    forces: Tensor | None
    stress: Tensor | None


class Request(NamedTuple):
    """What an engine computes besides energies."""

    forces: bool
    stress: bool
    atomic_energies: bool
    members: bool


class Parts:
    """The parts of a potential that kernels cover.

    Parameters
    ----------
    potential
        Any.

    Raises
    ------
    NotCovered
        If some part is of a kind that kernels do not know, saying which.
    """

    def __init__(self, potential: Potential) -> None:
        _check_methods(potential)  # first: where these are others, there need not be such parts
        aev, head, shifter = potential.representation, potential.head, potential.shifter
        if type(aev) is not AEVComputer:
            raise NotCovered(f"the representation is a {type(aev).__name__}, not an AEVComputer")
        if aev.radial_length == 0 or aev.angular_length == 0:
            raise NotCovered(f"the AEVs have no {'angular' if aev.radial_length else 'radial'} terms")
        cutoff_kind = NATIVE_CUTOFFS.get(type(aev.cutoff_function))
        if cutoff_kind is None:
            raise NotCovered(f"the cutoff function is a {type(aev.cutoff_function).__name__}")
        members = list(head) if type(head) is Ensemble else [head]
        self.potential, self.aev, self.shifter, self.cutoff_kind = potential, aev, shifter, cutoff_kind
        _check_parts(potential)
        self._cutoff_function = aev.cutoff_function
        self._constants = self._read_constants()
        self.num_members, self.num_species = len(members), len(potential.elements)
        networks = [network for member in members for network in _networks(member, self.num_species)]
        #: Of all networks, member after member.
        self.layers = [dense_layers(network, aev.num_features) for network in networks]
        self.dtype = common_dtype(self.layers, potential.device)
        self._watches = self._watch(members, networks)
        #: Memory that addresses point to stays alive, whatever happens to the model.
        self._alive = [t.detach() for network in self.layers for layer in network for t in layer[:2] if t is not None]
        self._alive += [t.detach() for part in (aev, shifter, potential.converter) for t in part.buffers()]
        self._remembered: dict[Any, Any] = {}

    def _watch(self, members: list[Any], networks: list[nn.Module]) -> list[_Watch]:
        """Return what to look at for all elements, and then for each."""
        potential = self.potential
        heads = members if members[0] is potential.head else [potential.head, *members]
        common = [potential, *self.aev.modules(), *heads, self.shifter, potential.converter]
        elements = [networks[e :: self.num_species] for e in range(self.num_species)]
        return [_Watch(common)] + [_Watch([m for network in group for m in network.modules()]) for group in elements]

    def constants_changed(self) -> bool:
        """Whether plain numbers of the model differ from those that were read."""
        return self._constants != self._read_constants()

    def _read_constants(self) -> tuple[Any, ...]:
        aev, function = self.aev, self._cutoff_function
        order, eps = getattr(function, "order", 2), getattr(function, "eps", 0.0)
        return aev.Rcr, aev.Rca, order, eps, self.potential.periodic_table_index, self.shifter.fit_intercept

    @cached_property
    def of_aev(self) -> tuple[Tensor, list[int]]:
        """Constants and sizes of the AEVs, as ``anipot.kernels.aev.constants_and_sizes`` gives them."""
        return constants_and_sizes(self.aev, self.cutoff_kind)

    def remembered(self, what: Any, make: Callable[[], T]) -> T:
        """Return what kernels have made of these parts before, or what is made now."""
        if what not in self._remembered:
            self._remembered[what] = make()
        return self._remembered[what]

    def changed(self, present: Sequence[Any]) -> bool:
        """Whether modules, parameters, buffers or hooks are others, for the elements that are ``present`` (E)."""
        common, *elements = self._watches
        return common.changed() or any(watch.changed() for watch, used in zip(elements, present, strict=True) if used)


class _Watch:
    """Sees whether modules, parameters, buffers or hooks are others than they were.

    Every call pays for this, hence the flat lists and the C functions over them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._module_dicts = [m._modules for m in modules if m._modules]
        self._tensor_dicts: list[dict[str, Any]] = [d for m in modules for d in (m._parameters, m._buffers) if d]
        self._hook_dicts = [*GLOBAL_HOOKS, *hooks_of(modules)]
        self._all_dicts = [vars(m) for m in modules]  # which grow where a method is replaced
        self._modules = list(_values(self._module_dicts))
        self._attributes = {
            (m, name) for m in modules for name in ("alpha", "approximate") if isinstance(m, _WITH_ATTRIBUTES[name])
        }
        self._values = [getattr(m, name) for m, name in self._attributes]
        self._seen = self._look()
        if any(self._hook_dicts):
            raise NotCovered("a module of the model has a hook")
        if replaced(modules):
            raise NotCovered("a module of the model has a method of its own")

    def _look(self) -> list[Any]:
        tensors = list(filter(_is_there, _values(self._tensor_dicts)))  # a bias may be None
        looks = (Tensor.data_ptr, Tensor.stride, Tensor.numel)  # with the last two, shapes
        return [*chain.from_iterable(map(look, tensors) for look in looks), *map(len, self._all_dicts)]

    def changed(self) -> bool:
        return (
            any(self._hook_dicts)
            or self._modules != list(_values(self._module_dicts))
            or self._seen != self._look()
            or self._values != [getattr(m, name) for m, name in self._attributes]
        )


#: Faster than a comprehension over hundreds of tensors.
_is_there = partial(is_not, None)


def _values(dicts: list[Any]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, dicts))


def _check_methods(potential: Potential) -> None:
    """Refuse a potential that computes something else than its parts say."""
    if own := potential.overridden():
        raise NotCovered(f"{type(potential).__name__} has {' and '.join(own)} of its own")


def _check_parts(potential: Potential) -> None:
    """Refuse parts that compute something else than the kernels do, or keep their numbers in another way."""
    looking = [type(term).__name__ for term in potential.terms if getattr(term, "needs_features", True)]
    if looking:
        raise NotCovered(f"the potential has energy terms that look at the features: {', '.join(looking)}")
    for part, plain, names in (
        (potential.shifter, EnergyShifter, ("sae", "atomic")),
        (potential.converter, SpeciesConverter, ("convert",)),
    ):
        if any(getattr(type(part), name) is not getattr(plain, name) for name in names):
            raise NotCovered(f"{type(part).__name__} has {' or '.join(names)} of its own")
    constants = [getattr(potential.representation, name) for name in AEV_CONSTANTS]
    for tensor in (*constants, potential.shifter.self_energies):
        if tensor.dtype is not torch.float64 or not tensor.is_contiguous() or tensor.dim() != 1:
            raise NotCovered("constants of the AEVs or self energies are not float64 and contiguous")


def _networks(member: Any, num_species: int) -> list[nn.Module]:
    if type(member) is not ANIModel:
        raise NotCovered(f"the head is a {type(member).__name__}, not an ANIModel or an Ensemble of them")
    if len(member) != num_species:
        raise NotCovered(f"a member has networks of {len(member)} elements, the potential has {num_species}")
    return list(member)
