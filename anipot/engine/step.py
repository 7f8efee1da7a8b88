"""One evaluation on a GPU for atoms that stay the same: all kernels over buffers that stay where they are."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from anipot.engine.packed import Packed
from anipot.engine.parts import Parts, Request
from anipot.engine.rows import Elements, RowBlock, Rows
from anipot.kernels.cuda.aev import NEAR, macros
from anipot.kernels.cuda.arguments import precision
from anipot.kernels.cuda.composition import Composition
from anipot.kernels.cuda.programs import compile_all
from anipot.kernels.cuda.results import Results
from anipot.kernels.cuda.search import STATUS_SIZE, Search


class Step:
    """Search, AEVs, networks and gradients of a batch.

    Nothing of ``launch`` waits for the device or takes memory, so that it can become part of a CUDA graph.

    Parameters
    ----------
    parts
        Of the potential; on the device.
    species
        (B, A) element indices on the device, ghosts -1.
    periodic
        Whether there are cells.
    ask
        What to compute.
    dtype
        Of forces and stress.
    capacity
        Neighbors of an atom that there is room for.
    """

    #: Results in the order of ``Values``.
    NAMES: ClassVar = ("energies", "atomic_energies", "forces", "stress")

    def __init__(
        self, parts: Parts, species: Tensor, periodic: bool, ask: Request, dtype: torch.dtype, capacity: int
    ) -> None:
        self.device, self.capacity = species.device, capacity
        self._parts = parts
        for_all, for_aevs = precision(parts.dtype), macros(parts.of_aev[1], parts.dtype, crowded=capacity > NEAR)
        programs = [("search", for_all), ("results", for_all), ("aev", for_aevs)]
        parts.remembered(("programs", capacity > NEAR), lambda: compile_all(programs, self.device))
        (num_molecules, num_slots), device = species.shape, species.device
        outputs = parts.num_members if ask.members else 1
        sizes = {"status": ((STATUS_SIZE,), torch.int32), "energies": ((outputs, num_molecules), torch.float64)}
        if ask.atomic_energies:
            sizes["atomic_energies"] = ((outputs, num_molecules, num_slots), torch.float64)
        if ask.forces:
            sizes["forces"] = ((outputs, num_molecules, num_slots, 3), dtype)
        if ask.stress:
            sizes["stress"] = ((outputs, num_molecules, 3, 3), dtype)
        #: What a call returns, and the status.
        self.outputs = Packed(sizes, device)
        self._coordinates = torch.zeros(num_molecules, num_slots, 3, dtype=torch.float64, device=device)
        self._cell = torch.zeros(num_molecules, 3, 3, dtype=torch.float64, device=device) if periodic else None
        self._pbc = torch.zeros(num_molecules, 3, dtype=torch.bool, device=device) if periodic else None
        #: What was copied from the CPU last, by where it went.
        self._loaded: dict[int, Tensor] = {}
        self._build(Composition.of(species), ask, dtype)

    def load(self, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> None:
        """Copy the input to where the kernels read it; from (B, A, 3), (B, 3, 3) or (3, 3), and (B, 3) or (3,)."""
        self._coordinates.copy_(coordinates.detach(), non_blocking=True)
        for to, given in ((self._cell, cell), (self._pbc, pbc)):
            if to is not None and given is not None:
                self._load_changed(to, given.detach())

    def _load_changed(self, to: Tensor, given: Tensor) -> None:
        """Copy what mostly is what it was, unless it is on the CPU, where looking takes less time than a transfer."""
        kept = self._loaded.pop(id(to), None)
        if given.is_cpu:
            self._loaded[id(to)] = kept if kept is not None and torch.equal(kept, given) else given.clone()
            if self._loaded[id(to)] is kept:
                return
        to.copy_(given, non_blocking=True)

    def _build(self, atoms: Composition, ask: Request, dtype: torch.dtype) -> None:
        parts, n = self._parts, atoms.num_atoms
        status, shifter = self.outputs.tensors["status"], parts.shifter
        constants = shifter.self_energies.detach()
        self._search = Search(atoms, parts.aev.Rcr, capacity=self.capacity, dtype=parts.dtype, status=status)
        self._results = Results(
            self._search,
            constants[: parts.num_species],
            members=parts.num_members,
            intercept=constants[parts.num_species :] if shifter.fit_intercept else None,
            each=ask.members,
            forces=ask.forces,
            stress=ask.stress,
            atomic_energies=ask.atomic_energies,
            dtype=dtype,
            outputs=self.outputs.tensors,
        )
        order = torch.argsort(atoms.kind, stable=True)
        self._atom_of = order.to(torch.int32)
        self._row_of = torch.empty_like(self._atom_of)
        self._row_of[order] = torch.arange(n, dtype=torch.int32, device=self.device)
        counts: list[int] = torch.bincount(atoms.kind, minlength=parts.num_species).tolist()
        #: Whether each element occurs.
        self.present = [count > 0 for count in counts]
        outputs = parts.num_members if ask.members else 1
        self._row_energies = torch.empty(parts.num_members, n, dtype=torch.float64, device=self.device)
        self._gradients, wanted = None, ask.forces or ask.stress
        if wanted:
            shape = (outputs, n, self.capacity, 3)
            self._gradients = torch.empty(shape, dtype=parts.dtype, device=self.device)
        elements = parts.remembered(
            ("elements", *self.present, wanted), lambda: Elements(parts, self.present, gradients=wanted)
        )
        rows = Rows(parts, self._search, self._atom_of, elements, self._gradients)
        self._blocks = [RowBlock(rows, first, stop, counts, ask) for first, stop in rows.blocks(n, outputs)]

    def launch(self) -> None:
        """Launch all kernels."""
        self.outputs.tensors["status"].zero_()
        self._search.launch(self._coordinates, self._cell, self._pbc)
        for block in self._blocks:
            block.launch(self._row_energies)
        self._results.launch(self._row_energies, self._row_of, self._gradients)
