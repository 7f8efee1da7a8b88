"""The whole potential as one native call: search, AEVs, networks of all members, and their gradient.

An engine serves a ``Potential`` of an ``AEVComputer`` and dense networks on the CPU, without its energy terms. It reads
the weights where torch keeps them at every call, so that nothing packed can become stale. What it remembers between
calls (addresses, sizes, activations) is compared with the model after every call, for the elements that took part; if
anything differs, the result is thrown away and computed again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from functools import partial
from itertools import chain
from operator import is_not
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anipot.energy import EnergyShifter
from anipot.head import CELU, ANIModel, Ensemble
from anipot.head.dense import GLOBAL_HOOKS, Layer, NotCovered, common_dtype, dense_layers, hooks_of, replaced
from anipot.kernels import library
from anipot.kernels.library import AevSpec, HeadSpec, LayerSpec, ResultSpec, SystemSpec, choices
from anipot.kernels.specs import AEV_CONSTANTS, address, fill_aev, fill_system
from anipot.potential import Potential
from anipot.representation import AEVComputer
from anipot.representation.cutoffs import NATIVE_CUTOFFS
from anipot.structures import SpeciesConverter

#: What an activation is made of besides its type.
_WITH_ATTRIBUTES: dict[str, Any] = {"alpha": CELU | nn.CELU, "approximate": nn.GELU}


class Values(NamedTuple):
    """What a call returns: the mean over members, or with ``members`` every value with a leading axis M."""

    energies: Tensor
    atomic_energies: Tensor | None
    forces: Tensor | None
    stress: Tensor | None


class Engine:
    """Native evaluation of one potential; not shared between threads at the same time (others wait for nothing: they
    take the torch path).

    Parameters
    ----------
    potential
        Any potential; ``evaluate`` returns None for those that the kernels do not cover.
    """

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self._plan: _Plan | None = None
        self._reason = ""
        self._lock = threading.Lock()

    def covers(self) -> str:
        """Return "" if the native path computes this potential as it is now, else why not."""
        if library() is None:
            from anipot.kernels import backends

            return backends()[0].reason
        if self._plan is None or self._plan.constants_changed() or self._plan.changed(everything=True):
            self._update()
        return self._reason

    def evaluate(
        self,
        species: Tensor,
        coordinates: Tensor,
        cell: Tensor | None,
        pbc: Tensor | None,
        *,
        forces: bool,
        stress: bool,
        atomic_energies: bool,
        members: bool,
        skin: float = 0.0,
    ) -> Values | None:
        """Return energies and gradients, or None where the torch path has to compute them, or say what is wrong.

        Parameters
        ----------
        species
            (B, A) as the potential takes them: atomic numbers or element indices.
        coordinates, cell, pbc
            As for ``single_point``.
        skin
            Å; above 0 the list of neighbors is kept for the next call.
        """
        native = library()
        if native is None or not _plain(species, coordinates, cell, pbc) or not self._lock.acquire(blocking=False):
            return None
        try:
            ask = (forces, stress, atomic_energies, members)
            for _ in range(2):  # again where the model has changed since the last call
                plan = self._plan or self._update()
                if plan is None:
                    return None
                if not plan.constants_changed():
                    values = plan.run(native, species, coordinates, cell, pbc, ask, skin)
                    if not plan.changed():
                        return values
                self._update()
            return None
        finally:
            self._lock.release()

    @property
    def searches(self) -> int:
        """Number of neighbor searches so far."""
        native = library()
        return 0 if native is None or self._plan is None else int(native.anipot_searches(self._plan.handle))

    def _update(self) -> _Plan | None:
        old, self._plan = self._plan, None
        try:
            self._plan = _Plan(self._potential, old)
            self._reason = ""
        except NotCovered as reason:
            self._reason = str(reason)
        return self._plan

    @property
    def potential(self) -> Potential:
        """The potential that is evaluated."""
        return self._potential

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None  # a copy of the potential makes its own

    def __reduce__(self) -> Any:
        return type(None), ()  # addresses mean nothing in another process


def engine_of(potential: Potential) -> Engine:
    """Return the engine that a potential keeps for itself."""
    engine = potential.__dict__.get("_engine")
    if engine is None or engine.potential is not potential:  # a shallow copy has the engine of the original
        engine = potential.__dict__["_engine"] = Engine(potential)
    return engine


def _plain(species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> bool:
    """Whether shapes and types are those that the kernels read; all else is for the checks of the torch path."""
    if not (isinstance(species, Tensor) and isinstance(coordinates, Tensor)):
        return False
    shape = coordinates.shape
    if species.dtype is not torch.int64 or len(shape) != 3 or shape[:2] != species.shape or shape[2] != 3:
        return False
    dtype = coordinates.dtype
    if not (dtype is torch.float32 or dtype is torch.float64) or shape[0] == 0 or shape[1] == 0:
        return False
    if not (species.is_cpu and coordinates.is_cpu):
        return False
    if cell is None and pbc is None:
        return True
    if not (isinstance(cell, Tensor) and isinstance(pbc, Tensor) and cell.is_cpu and pbc.is_cpu):
        return False
    if cell.dtype is not dtype or pbc.dtype is not torch.bool:
        return False
    return cell.shape in ((3, 3), (shape[0], 3, 3)) and pbc.shape in ((3,), (shape[0], 3))


class _Plan:
    """Addresses and sizes of a potential's parts, and how to see at once that they are no longer right."""

    def __init__(self, potential: Potential, old: _Plan | None) -> None:
        _check_methods(potential)  # first: where these are others, there need not be such parts
        aev, head, shifter = potential.representation, potential.head, potential.shifter
        if potential.device.type != "cpu":
            raise NotCovered(f"the model is on {potential.device}")
        if type(aev) is not AEVComputer:
            raise NotCovered(f"the representation is a {type(aev).__name__}, not an AEVComputer")
        if aev.radial_length == 0 or aev.angular_length == 0:
            raise NotCovered(f"the AEVs have no {'angular' if aev.radial_length else 'radial'} terms")
        cutoff_kind = NATIVE_CUTOFFS.get(type(aev.cutoff_function))
        if cutoff_kind is None:
            raise NotCovered(f"the cutoff function is a {type(aev.cutoff_function).__name__}")
        members = list(head) if type(head) is Ensemble else [head]
        self.aev, self.shifter, self.potential = aev, shifter, potential
        _check_parts(potential)
        self._cutoff_function = aev.cutoff_function
        self._constants = self._read_constants()
        self.num_members, self.num_species = len(members), len(potential.elements)
        networks = [network for member in members for network in _networks(member, self.num_species)]
        layers = [dense_layers(network, aev.num_features) for network in networks]
        self.dtype = common_dtype(layers)
        self._watches = self._watch(members, networks)
        #: Memory that the addresses point to stays alive, whatever happens to the model.
        self._alive = [t.detach() for network in layers for layer in network for t in layer[:2] if t is not None]
        self._alive += [t.detach() for part in (aev, shifter, potential.converter) for t in part.buffers()]
        self._specs = self._head_spec(layers)
        wide = self.dtype is torch.float64
        self.wide: bool = wide
        self._made_for = choices()
        #: With the memory and the list of neighbors that it has.
        usable = old is not None and old.wide == wide and old._made_for == self._made_for
        self.owner: _Handle = old.owner if old is not None and usable else _Handle(wide)
        self.handle = self.owner.handle
        self._aev_spec, self._system, self._result = AevSpec(), SystemSpec(), ResultSpec()
        self._present = (ctypes.c_int32 * self.num_species)()
        self._result.present = self._present
        fill_aev(self._aev_spec, aev, cutoff_kind)
        table = potential.converter.index_of
        self._system.index_of = table.data_ptr() if potential.periodic_table_index else None
        self._system.num_index = len(table) - 1
        self._arguments = tuple(map(address, (self._aev_spec, self._head, self._system, self._result)))

    def _head_spec(self, layers: list[list[Layer]]) -> Any:
        flat = [layer for network in layers for layer in network]
        specs = (LayerSpec * len(flat))(
            *(
                LayerSpec(
                    layer.weight.data_ptr(),
                    None if layer.bias is None else layer.bias.data_ptr(),
                    layer.parameter,
                    layer.weight.shape[1],
                    layer.weight.shape[0],
                    layer.activation,
                )
                for layer in flat
            )
        )
        ends = [0]
        for network in layers:
            ends.append(ends[-1] + len(network))
        first = (ctypes.c_int32 * len(ends))(*ends)
        self._head = HeadSpec(
            self.num_members,
            self.num_species,
            first,
            specs,
            self.shifter.self_energies.data_ptr(),
            self.shifter.fit_intercept,
        )
        return specs, first

    def _watch(self, members: list[Any], networks: list[nn.Module]) -> list[_Watch]:
        """Return what to look at for all elements, and then for each."""
        potential = self.potential
        heads = members if members[0] is potential.head else [potential.head, *members]
        common = [potential, *self.aev.modules(), *heads, self.shifter, potential.converter]
        elements = [networks[e :: self.num_species] for e in range(self.num_species)]
        return [_Watch(common)] + [_Watch([m for network in group for m in network.modules()]) for group in elements]

    def constants_changed(self) -> bool:
        """Whether plain numbers of the model differ from those of the structures."""
        return self._constants != self._read_constants()

    def _read_constants(self) -> tuple[Any, ...]:
        aev, function = self.aev, self._cutoff_function
        order, eps = getattr(function, "order", 2), getattr(function, "eps", 0.0)
        return aev.Rcr, aev.Rca, order, eps, self.potential.periodic_table_index, self.shifter.fit_intercept, choices()

    def changed(self, everything: bool = False) -> bool:
        """Whether anything that the last call has used is not what it was when the plan was made."""
        common, *elements = self._watches
        present = self._present[:]
        return common.changed() or any(
            watch.changed() for watch, used in zip(elements, present, strict=True) if used or everything
        )

    def run(
        self,
        native: Any,
        species: Tensor,
        coordinates: Tensor,
        cell: Tensor | None,
        pbc: Tensor | None,
        ask: tuple[bool, bool, bool, bool],
        skin: float,
    ) -> Values | None:
        forces, stress, atomic_energies, members = ask
        shape: tuple[int, ...] = tuple(species.shape)
        lead = (self.num_members,) if members else ()
        alive = fill_system(self._system, species, coordinates, cell, pbc)
        empty, result, dtype = coordinates.new_empty, self._result, coordinates.dtype
        energies = empty((*lead, shape[0]), dtype=torch.float64)
        result.energies = energies.data_ptr()
        atomic = force = stresses = None
        result.atomic_energies = result.forces = result.stress = None
        if atomic_energies:
            atomic = empty((*lead, *shape), dtype=torch.float64)
            result.atomic_energies = atomic.data_ptr()
        if forces:
            force = empty((*lead, *shape, 3), dtype=dtype)
            result.forces = force.data_ptr()
        if stress:
            stresses = empty((*lead, shape[0], 3, 3), dtype=dtype)
            result.stress = stresses.data_ptr()
        result.members, result.threads, result.skin = members, torch.get_num_threads(), skin
        code = native.anipot_evaluate(self.handle, *self._arguments)
        del alive
        return Values(energies, atomic, force, stresses) if code == 0 else None


class _Handle:
    """Owner of the native object."""

    def __init__(self, wide: bool) -> None:
        self._native = library()
        self.handle = self._native.anipot_new_engine(wide)
        if not self.handle:
            raise MemoryError("no memory for a native engine")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._native.anipot_delete_engine(self.handle)


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
