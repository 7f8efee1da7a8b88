"""The whole potential in one go: search, AEVs, networks of all members, and their gradient.

An engine serves a ``Potential`` of an ``AEVComputer`` and dense networks, without its energy terms: on the CPU as one
native call, on a GPU as one CUDA graph. It reads the weights where torch keeps them at every call, so that nothing
packed can become stale. What it remembers between calls (addresses, sizes, activations) is compared with the model
after every call, for the elements that took part; if anything differs, the result is thrown away and computed again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anipot.engine.cpu import CpuPlan
from anipot.engine.parts import Parts, Request, Values
from anipot.head.dense import NotCovered
from anipot.kernels import cpu_backend, library
from anipot.kernels.cuda import program as cuda_kernels
from anipot.kernels.cuda.errors import CaptureError, KernelError
from anipot.kernels.cuda.support import give_up
from anipot.potential import Potential

if TYPE_CHECKING:
    from anipot.engine.cuda import CudaPlan

__all__ = ["Engine", "Values", "engine_of"]


class Engine:
    """Evaluation of one potential; not shared between threads at the same time (others wait for nothing: they take the
    torch path).

    Parameters
    ----------
    potential
        Any potential; ``evaluate`` returns None for those that the kernels do not cover.
    """

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self._plan: CpuPlan | CudaPlan | None = None
        self._reason = ""
        self._lock = threading.Lock()

    def covers(self) -> str:
        """Return "" if the kernels compute this potential as it is now, else why not."""
        kind = self._kind()
        if kind is None:
            return self._why_none()
        plan = self._plan
        everything = [True] * len(self._potential.elements)
        if type(plan) is not kind or plan.constants_changed() or plan.parts.changed(everything):
            self._update(kind)
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
        transfer: bool = False,
    ) -> Values | None:
        """Return energies and gradients, or None where the torch path has to compute them, or say what is wrong.

        Parameters
        ----------
        species
            (B, A) as the potential takes them: atomic numbers or element indices.
        coordinates, cell, pbc
            As for ``single_point``.
        skin
            Å; above 0 the list of neighbors is kept for the next call, where the plan keeps lists.
        transfer
            Whether structures in the memory of the CPU may be computed on the potential's GPU: results are on the CPU
            then, after one transfer each way.
        """
        kind = self._kind()
        if kind is None or not _plain(species, coordinates, cell, pbc):
            return None
        if coordinates.device != self._potential.device and not (transfer and coordinates.is_cpu):
            return None
        if not self._lock.acquire(blocking=False):
            return None
        try:
            ask = Request(forces, stress, atomic_energies, members)
            for _ in range(2):  # again where the model has changed since the last call
                plan = self._plan if type(self._plan) is kind else self._update(kind)
                if plan is None:
                    return None
                if not plan.constants_changed():
                    values = plan.run(species, coordinates, cell, pbc, ask, skin)
                    if not plan.changed():
                        return values
                self._update(kind)
            return None
        except KernelError as error:
            device = self._potential.device
            if device.type == "cuda" and not isinstance(error, CaptureError):
                give_up(device.index, str(error))  # the next call warns, and is torch's
            return None
        finally:
            self._lock.release()

    @property
    def searches(self) -> int:
        """Number of neighbor searches so far."""
        return 0 if self._plan is None else self._plan.searches

    def _kind(self) -> type[CpuPlan] | type[CudaPlan] | None:
        place = self._potential.shifter.self_energies
        if cuda_kernels.wanted(place):
            from anipot.engine.cuda import CudaPlan  # nobody else needs to import it

            return CudaPlan
        return CpuPlan if place.is_cpu and library() is not None else None

    def _why_none(self) -> str:
        device = self._potential.device
        if device.type == "cpu":
            return cpu_backend().reason
        return cuda_kernels.reason(device) if device.type == "cuda" else f"the model is on {device}"

    def _update(self, kind: type[CpuPlan] | type[CudaPlan]) -> CpuPlan | CudaPlan | None:
        old, self._plan = self._plan, None
        try:
            self._plan = kind(Parts(self._potential), old)
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
    if species.device != coordinates.device:
        return False
    if cell is None and pbc is None:
        return True
    if not (isinstance(cell, Tensor) and isinstance(pbc, Tensor) and cell.device == pbc.device == coordinates.device):
        return False
    if cell.dtype is not dtype or pbc.dtype is not torch.bool:
        return False
    return cell.shape in ((3, 3), (shape[0], 3, 3)) and pbc.shape in ((3,), (shape[0], 3))
