"""The engine of the CPU: the whole potential as one native call."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from anipot.engine.parts import Parts, Request, Values
from anipot.head.dense import Layer
from anipot.kernels import library
from anipot.kernels.library import AevSpec, HeadSpec, LayerSpec, ResultSpec, SystemSpec, choices
from anipot.kernels.specs import address, fill_aev, fill_system


class CpuPlan:
    """Addresses and sizes of a potential's parts as the native library takes them."""

    def __init__(self, parts: Parts, old: object) -> None:
        self.parts = parts
        self._specs = self._head_spec(parts.layers)
        wide = parts.dtype is torch.float64
        self.wide: bool = wide
        self._made_for = choices()
        #: With the memory and the list of neighbors that it has.
        usable = isinstance(old, CpuPlan) and old.wide == wide and old._made_for == self._made_for
        self.owner: _Handle = old.owner if isinstance(old, CpuPlan) and usable else _Handle(wide)
        self.handle = self.owner.handle
        self._aev_spec, self._system, self._result = AevSpec(), SystemSpec(), ResultSpec()
        self._present = (ctypes.c_int32 * parts.num_species)()
        self._result.present = self._present
        fill_aev(self._aev_spec, parts.aev, parts.cutoff_kind)
        table = parts.potential.converter.index_of
        self._system.index_of = table.data_ptr() if parts.potential.periodic_table_index else None
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
            self.parts.num_members,
            self.parts.num_species,
            first,
            specs,
            self.parts.shifter.self_energies.data_ptr(),
            self.parts.shifter.fit_intercept,
        )
        return specs, first

    def constants_changed(self) -> bool:
        """Whether plain numbers of the model differ from those of the structures."""
        return self._made_for != choices() or self.parts.constants_changed()

    def changed(self) -> bool:
        """Whether anything that the last call has used is not what it was when the plan was made."""
        return self.parts.changed(self._present[:])

    def run(
        self,
        species: Tensor,
        coordinates: Tensor,
        cell: Tensor | None,
        pbc: Tensor | None,
        ask: Request,
        skin: float,
    ) -> Values | None:
        forces, stress, atomic_energies, members = ask
        shape: tuple[int, ...] = tuple(species.shape)
        lead = (self.parts.num_members,) if members else ()
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
        code = self.owner.native.anipot_evaluate(self.handle, *self._arguments)
        del alive
        return Values(energies, atomic, force, stresses) if code == 0 else None

    @property
    def searches(self) -> int:
        """Number of neighbor searches so far."""
        return int(self.owner.native.anipot_searches(self.handle))


class _Handle:
    """Owner of the native object."""

    def __init__(self, wide: bool) -> None:
        self.native = library()
        self.handle = self.native.anipot_new_engine(wide)
        if not self.handle:
            raise MemoryError("no memory for a native engine")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.native.anipot_delete_engine(self.handle)
