"""The engine of a GPU: steps of fixed composition, from their second call on as CUDA graphs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from anipot.engine.parts import Parts, Request, Values
from anipot.engine.proof import fault
from anipot.engine.step import Step
from anipot.head.dense import NotCovered
from anipot.kernels.cuda.aev import ready
from anipot.kernels.cuda.search import NEIGHBORS, NOT_FINITE, ONE_SPOT, OVERFLOW
from anipot.kernels.cuda.support import give_up, setting
from anipot.kernels.specs import AEV_CONSTANTS

#: What is asked for: whether there are cells, which results, and their dtype.
Kind = tuple[bool, Request, torch.dtype]

#: Steps that are kept: a dynamics needs one, several structures taking turns some more.
_KEPT = 4
#: Neighbors of an atom that there is room for at first: more than liquids and molecules have within 5.2 Å.
_CAPACITY = 96


class CudaPlan:
    """The steps that a potential has computed last, for the same atoms again.

    Parameters
    ----------
    parts
        What the potential is made of.
    old
        The plan before the potential changed.

    Raises
    ------
    NotCovered
        If the kernels do not compute such parts.
    """

    def __init__(self, parts: Parts, old: object) -> None:
        self.parts = parts
        _check(parts)
        self._versions = _versions(parts)
        self._runs: list[_Run] = []
        self._changed = False
        #: What the last step that there is no memory for was asked for.
        self._refused: tuple[Any, Tensor] | None = None
        #: Number of neighbor searches so far: one for each call.
        self.searches = 0

    def constants_changed(self) -> bool:
        """Whether plain numbers of the model differ from those that the plan was made of."""
        return self.parts.constants_changed()

    def changed(self) -> bool:
        """Whether anything that the last call has used is not what it was when the plan was made."""
        return self._changed

    def _differs(self, present: list[bool]) -> bool:
        return self.parts.changed(present) or self._versions != _versions(self.parts)

    def run(
        self,
        species: Tensor,
        coordinates: Tensor,
        cell: Tensor | None,
        pbc: Tensor | None,
        ask: Request,
        skin: float,
    ) -> Values | None:
        """Return the values, or None where torch has to compute them, or say what is wrong with the input."""
        periodic = cell is not None and pbc is not None
        if ask.stress and not periodic:
            return None
        run = self._run_for(species, (periodic, ask, coordinates.dtype))
        if run is None:
            return None
        self.searches += 1
        while True:
            run.start(coordinates, cell, pbc)
            self._changed = self._differs(run.present)  # while the device computes
            values = run.finish(coordinates.device)
            if values is not None or not run.too_small:
                return values
            run = self._larger(run, species)

    def _larger(self, run: _Run, species: Tensor) -> _Run:
        """Return a run with more room for neighbors in the place of one."""
        self._runs.remove(run)
        index, kind, capacity = run.index, run.kind, -(-int(1.25 * run.needed) // 8) * 8
        run.clear()  # before memory for the other is taken
        self._runs.insert(0, self._made(species, index, kind, capacity))
        return self._runs[0]

    def _run_for(self, species: Tensor, kind: Kind) -> _Run | None:
        for i, run in enumerate(self._runs):
            if run.kind == kind and run.serves(species):
                if i:
                    self._runs.insert(0, self._runs.pop(i))
                return run
        if self._refused is not None and self._refused[0] == kind and _same(species, self._refused[1]):
            self._changed = self._differs([True] * self.parts.num_species)  # there may be room for others
            return None
        index = self._element_indices(species)
        if index is None:
            return None
        self._runs[_KEPT - 1 :] = []  # before memory for another is taken
        try:
            self._runs.insert(0, self._made(species, index, kind, _CAPACITY))
        except NotCovered:  # these atoms by these networks, for want of shared memory
            self._refused = kind, species.clone()
            return None
        return self._runs[0]

    def _made(self, species: Tensor, index: Tensor, kind: Kind, capacity: int) -> _Run:
        try:
            return _Run(self.parts, species, index, kind, capacity)
        except torch.cuda.OutOfMemoryError:
            if not self._runs:
                raise
        self._runs.clear()  # the memory of steps for other atoms is worth less than this one
        return _Run(self.parts, species, index, kind, capacity)

    def _element_indices(self, species: Tensor) -> Tensor | None:
        """Return element indices on the device, or None where some are not known."""
        potential = self.parts.potential
        index = species.to(potential.device, copy=True)  # which stays what it is when the user's is written to
        if potential.periodic_table_index:
            index = potential.converter.lookup(index)
        if bool(((index < -1) | (index >= self.parts.num_species)).any()):
            return None
        return index


def _versions(parts: Parts) -> list[int]:
    """Return how often the constants of the AEVs were written to: unlike weights, they are copied into a step."""
    constants = (getattr(parts.aev, name) for name in AEV_CONSTANTS)
    return [0 if t.is_inference() else t._version for t in constants]


def _check(parts: Parts) -> None:
    if any(len(network) < 2 for network in parts.layers):
        raise NotCovered("a network has one layer")
    device = parts.potential.device
    if not ready(tuple(parts.of_aev[1]), parts.dtype, device, operations=False):
        raise NotCovered("the AEVs have no kernel, or more constants than it has memory for")
    if wrong := fault(parts):
        give_up(device.index, wrong)
        raise NotCovered(wrong)


class _Run:
    """A step for certain atoms, with the graph made of it."""

    def __init__(self, parts: Parts, species: Tensor, index: Tensor, kind: Kind, capacity: int) -> None:
        self.index, self.kind = index, kind
        #: The tensor itself, which is most of the time the one that comes again, and what is in it.
        self._given = None if species.is_inference() else (species, species._version)
        self._kept = species.clone()
        #: Neighbors that an atom had in the last call, at most.
        self.needed = 0
        self._to_capture, self._calls = _can_capture(index.device), 0
        self._graph: torch.cuda.CUDAGraph | None = None
        periodic, ask, dtype = kind
        self._step = Step(parts, index, periodic, ask, dtype, capacity)
        self.present = self._step.present

    @property
    def too_small(self) -> bool:
        """Whether the last call had more neighbors than there is room for."""
        return self.needed > self._step.capacity

    def clear(self) -> None:
        """Let go of the memory; nothing can be computed any more."""
        del self._graph, self._step

    def serves(self, species: Tensor) -> bool:
        """Whether these are the atoms of the step."""
        if self._given is not None and species is self._given[0] and species._version == self._given[1]:
            return True
        return _same(species, self._kept)

    def start(self, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> None:
        """Launch the kernels."""
        self._step.load(coordinates, cell, pbc)
        self._calls += 1
        if self._calls == 2 and self._to_capture:
            with torch.cuda.device(self._step.device):
                self._graph = _captured(self._step)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._step.launch()

    def finish(self, place: torch.device) -> Values | None:
        """Wait, and return the values; None where torch has to look at the input, or where it is ``too_small``."""
        # One transfer for everything where the results go to the CPU; else for the report alone.
        outputs = self._step.outputs
        values = outputs.views(outputs.buffer.to(place, copy=True))
        status = values.pop("status").tolist()
        wrong = status[ONE_SPOT] or status[NOT_FINITE] or status[OVERFLOW]
        self.needed = 0 if wrong else status[NEIGHBORS]
        if wrong or self.too_small:
            return None
        _, ask, _ = self.kind
        if not ask.members:
            values = {name: tensor[0] for name, tensor in values.items()}
        return Values(values["energies"], *(values.get(name) for name in Step.NAMES[1:]))


def _same(species: Tensor, kept: Tensor) -> bool:
    return species.shape == kept.shape and species.device == kept.device and torch.equal(species, kept)


def _can_capture(device: torch.device) -> bool:
    return device.type == "cuda" and setting() != "launches"


def _captured(step: Step) -> torch.cuda.CUDAGraph | None:
    """Return the launches of a step as a graph; None, with a warning, where torch cannot make one."""
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(step.device)
    stream = torch.cuda.Stream(step.device)
    stream.wait_stream(current)
    try:
        # Not torch.cuda.graph, which first collects garbage and empties torch's cache: nothing here takes memory.
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                step.launch()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        warnings.warn(f"no CUDA graph could be made, so that kernels are launched one by one: {error}", stacklevel=2)
        return None
    finally:
        current.wait_stream(stream)
    return graph
