"""Several devices of one machine for one potential: copies of it, and a thread for each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from anipot.changes import Seen
from anipot.derivatives import Ask, Members, SinglePoint, as_potential, single_point
from anipot.potential import Potential
from anipot.shards import (
    by_members,
    can_be_divided,
    groups,
    joined_members,
    joined_molecules,
    of_members,
    of_molecules,
    shards,
)


def on_devices(model: torch.nn.Module, devices: Iterable[torch.device | str] | None = None) -> Potential:
    """Return a potential that ``single_point`` computes on several devices at once.

    Batches are divided into runs of molecules with about as many atoms each; where that helps less, as for a single
    molecule, the members of an ensemble are divided. Results are those of one device up to the order of sums, and are
    where the model is, as are coordinates.

    Parameters
    ----------
    model
        A ``Potential``, or a ``Sequential`` that ``single_point`` takes. Its parts are shared with the potential that
        is returned; on devices other than its own there are copies, made when they are first needed.
    devices
        Such as ``["cuda:0", "cuda:1"]``; by default all CUDA devices that there are, or else the one of the model.

    Returns
    -------
    Potential
        Like the given one in everything else. ``anipot.optimize`` and all else that computes by ``single_point`` uses
        the devices; the ASE calculator and calls of the potential itself compute where the model is.

    Raises
    ------
    ValueError
        If there are no devices, or one that this machine does not have.

    Notes
    -----
    Copies are made anew after the weights, parts or constants of the model have changed. What torch does not count as
    a change, writing through ``tensor.data``, is not seen: call this function again.

    Training on several devices is a matter of ``trainer.devices``.

    Examples
    --------
    >>> import torch
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Potential, single_point
    >>> networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
    >>> model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
    >>> two = on_devices(model, ["cpu", "cpu"])  # in earnest ["cuda:0", "cuda:1"]
    >>> species, coordinates = torch.tensor([[8, 1, 1]] * 4), torch.rand(4, 3, 3)
    >>> one, both = (single_point(m, species, coordinates).energies for m in (model, two))
    >>> torch.allclose(one, both)
    True
    """
    potential = copy(as_potential(model))
    potential.__dict__["_devices"] = Devices(_chosen(devices, potential.device))
    return potential


def _chosen(devices: Iterable[torch.device | str] | None, home: torch.device) -> list[torch.device]:
    there = torch.cuda.device_count()
    if devices is None:
        found = [torch.device("cuda", i) for i in range(there)] or [home]
        return sorted(found, key=lambda device: device != home)  # the model's own first
    if isinstance(devices, str | torch.device):
        raise TypeError(f"devices must be a list of devices, got {devices!r}")
    found = []
    for given in devices:
        try:
            device = torch.device(given)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"devices holds {given!r}; expected such as 'cuda:1' or 'cpu'") from error
        if device.type == "cuda":
            index = device.index if device.index is not None else torch.cuda.current_device() if there else 0
            if index >= there:
                raise ValueError(f"devices holds {str(given)!r}, but there are {there} CUDA devices")
            device = torch.device("cuda", index)
        found.append(device)
    if not found:
        raise ValueError("devices is empty")
    return found


class Devices:
    """Copies of a potential on devices, and threads that compute with them.

    Parameters
    ----------
    devices
        One may occur several times.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = list(devices)
        self._lock = threading.Lock()
        self._seen: Seen | None = None
        self._copies: dict[Any, Potential] = {}
        self._threads: list[ThreadPoolExecutor] = []
        self._process = os.getpid()

    def __reduce__(self) -> Any:  # copies and threads are made anew in another process, and for a copied potential
        return type(self), (self.devices,)

    def single_point(
        self,
        potential: Potential,
        species: Tensor,
        coordinates: Tensor,
        cell: Tensor | None,
        pbc: Tensor | None,
        ask: Ask,
    ) -> SinglePoint:
        """Return what ``ask`` names, computed on all devices, or on one where there is nothing to divide."""
        with self._lock:
            self._follow(potential)
            if _dividable(species, coordinates, cell, pbc, potential.device):
                try:
                    found = self._divided(potential, species, coordinates, cell, pbc, ask)
                except (TypeError, ValueError):
                    found = None  # said again below, with the numbers that molecules have in the whole batch
                if found is not None:
                    return found
            return single_point(self._plain(potential), species, coordinates, cell, pbc, **ask._asdict())

    def _divided(
        self,
        potential: Potential,
        species: Tensor,
        coordinates: Tensor,
        cell: Tensor | None,
        pbc: Tensor | None,
        ask: Ask,
    ) -> SinglePoint | None:
        atoms = (species >= 0).sum(-1).tolist()
        costs = [n * n for n in atoms] if ask.hessian else atoms
        rows, members = shards(costs, len(self.devices)), len(potential) if can_be_divided(potential) else 1
        calls: list[Callable[[], SinglePoint]]
        if by_members(costs, rows, members, len(self.devices)):
            parts = groups(members, len(self.devices))
            calls = [
                self._call(self._copy(potential, slot, part), slot, (species, coordinates, cell, pbc), ask)
                for slot, part in enumerate(parts)
            ]
            found = self._run(calls, potential.device)
            return joined_members(species, found, [len(part) for part in parts])
        if len(rows) < 2 and potential.device in self.devices:
            return None
        calls = []
        for slot, run in enumerate(rows):
            batch = species[run], coordinates[run], of_molecules(cell, run, 2), of_molecules(pbc, run, 1)
            calls.append(self._call(self._copy(potential, slot), slot, batch, ask))
        return joined_molecules(species, self._run(calls, potential.device)) if calls else None

    def _call(
        self, copied: Potential, slot: int, batch: tuple[Tensor | None, ...], ask: Ask
    ) -> Callable[[], SinglePoint]:
        """Return what is computed on a device, with its input already on the way there."""
        device = self.devices[slot]
        # By this thread, whose streams the input may still be made in.
        moved = [None if part is None else part.to(device) for part in batch]
        # The caller's stream of the device, so that copies to it and from it need no other order.
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

        def call() -> SinglePoint:
            context: AbstractContextManager[Any] = nullcontext() if stream is None else torch.cuda.stream(stream)
            with context:
                return single_point(copied, *moved, **ask._asdict())  # type: ignore[arg-type]

        return call

    def _run(self, calls: Sequence[Callable[[], SinglePoint]], home: torch.device) -> list[SinglePoint]:
        """Return the results of all calls, the first of them by this thread, on one device."""
        if self._process != os.getpid():  # a fork, into which threads do not follow
            self._threads, self._process = [], os.getpid()
        while len(self._threads) < len(calls) - 1:
            # One thread for each: what CUDA libraries and OpenMP keep for a thread serves the next call as well.
            number, name = torch.get_num_threads(), f"anipot-{len(self._threads) + 1}"
            self._threads.append(ThreadPoolExecutor(1, name, torch.set_num_threads, (number,)))
        waiting = [thread.submit(call) for thread, call in zip(self._threads, calls[1:], strict=False)]
        try:
            first = calls[0]()
        finally:
            errors = [future.exception() for future in waiting]  # nobody computes on when this returns
        for error in errors:
            if error is not None:
                raise error
        return [_moved(found, home) for found in (first, *(future.result() for future in waiting))]

    def _plain(self, potential: Potential) -> Potential:
        """Return the potential itself, which does not look at devices any more."""
        if "plain" not in self._copies:
            self._copies["plain"] = plain = copy(potential)
            del plain.__dict__["_devices"]
        return self._copies["plain"]

    def _copy(self, potential: Potential, slot: int, members: range | None = None) -> Potential:
        """Return the potential, or some of its members, on the device of a slot."""
        if (slot, members) not in self._copies:
            device, whole = self.devices[slot], self._plain(potential)
            if members is not None:
                whole = of_members(whole, members)
            # Two slots of one device must not share what a potential keeps for itself.
            alone = device == potential.device and self.devices.index(device) == slot
            self._copies[slot, members] = whole if alone else deepcopy(whole).to(device)
        return self._copies[slot, members]

    def _follow(self, potential: Potential) -> None:
        """Forget all copies if the potential is not what it was."""
        if self._seen is None or self._seen.differs(potential):
            self._copies.clear()
            self._seen = Seen(potential)


def _dividable(
    species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, home: torch.device
) -> bool:
    """Whether shapes and devices are such that rows can be taken; what else may be wrong is found by each call."""
    given = [species, coordinates, *(part for part in (cell, pbc) if part is not None)]
    if not all(isinstance(part, Tensor) and part.device == home for part in given):
        return False
    if species.dim() != 2 or coordinates.dim() != 3 or species.shape != coordinates.shape[:2] or not species.numel():
        return False
    number = len(species)
    return all(
        part is None or part.dim() == axes or (part.dim() == axes + 1 and len(part) == number)
        for part, axes in ((cell, 2), (pbc, 1))
    )


def _moved(value: Any, device: torch.device) -> Any:
    """Return a result, or a part of it, with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    if isinstance(value, SinglePoint | Members):
        given = [one.name for one in fields(value) if one.init]
        return replace(value, **{name: _moved(getattr(value, name), device) for name in given})
    return value
