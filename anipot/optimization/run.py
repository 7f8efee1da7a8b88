"""Relaxation of many systems at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from ase import Atoms, units
from tqdm import tqdm

from anipot.frames import Systems, frames_of
from anipot.models import potential_of
from anipot.optimization.advance import Run
from anipot.optimization.batch import Batch
from anipot.optimization.fire import FIRE
from anipot.optimization.inputs import check_frames
from anipot.optimization.lbfgs import LBFGS, Uniform
from anipot.optimization.preconditioner import MOST_ATOMS, Preconditioner
from anipot.optimization.result import Optimized
from anipot.units import HARTREE_TO_EV

#: Atoms that are computed at a time on a CPU, whose caches they should fit in, and on other devices.
BATCH_ATOMS, BATCH_ATOMS_ELSEWHERE = 4096, 65536


def optimize(
    systems: Systems,
    model: torch.nn.Module | str,
    *,
    method: str = "lbfgs",
    fmax: float = 0.01,
    steps: int = 1000,
    cell: bool = False,
    pressure: float = 0.0,
    precondition: bool | None = None,
    memory: int = 30,
    batch_size: int | None = None,
    path: bool = False,
    progress: bool = False,
) -> list[Optimized]:
    """Relax systems, all at once: those that are done leave the batch, and others take their places.

    Steps are quasi-Newton steps (L-BFGS) on top of a model Hessian that is known before any force
    (``anipot.optimization.model_hessian``), which takes less than half the steps of ASE's L-BFGS on molecules. A step
    that raises the energy is taken back and shortened.

    Parameters
    ----------
    systems
        ``Atoms``, a list of them, the name of a file, or species (B, A) and coordinates (B, A, 3) of a padded batch,
        with cell and pbc if it repeats. They are not changed. Atoms held by ``FixAtoms`` do not move.
    model
        A ``Potential``, or a name or path for ``anipot.load``; computed on its device.
    method
        ``"lbfgs"`` or ``"fire"``.
    fmax
        eV/Å; done when no atom feels a larger force.
    steps
        After so many steps a system is given up, and marked.
    cell
        Whether cells relax too, with the coordinates and the measure of ``ase.filters.FrechetCellFilter``.
    pressure
        GPa from outside, on cells that relax.
    precondition
        Whether L-BFGS starts from the model Hessian; otherwise it starts from 70 eV/Å² in all directions and takes the
        steps of ASE. By default where cells stay and no system has more than 100 atoms, for which matrices pay.
    memory
        Steps that L-BFGS remembers.
    batch_size
        Systems computed at a time; by default as many as have 4096 atoms together on a CPU, 65536 elsewhere.
    path
        Whether to keep every geometry.
    progress
        Whether to show a bar of the systems that are done.

    Returns
    -------
    list of Optimized
        In the order of the systems. Those that did not converge say why: too many steps, an energy that rises whichever
        way, energies or forces that are not finite; their ``atoms`` are the last good ones.

    Raises
    ------
    TypeError, ValueError
        For systems that cannot be computed, naming them, and for options out of range.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> found = anipot.optimize([molecule("H2O"), molecule("CH3OH")], anipot.load())
    >>> [one.converged for one in found], found[1].atoms.get_chemical_formula()
    ([True, True], 'CH4O')
    """
    potential = potential_of(model)
    _check_options(method, fmax, steps, memory, batch_size)
    _check_pressure(pressure, cell)
    frames = frames_of(systems)
    check_frames(frames, potential, cell)
    if not frames:
        return []
    outside = pressure * units.GPa / HARTREE_TO_EV if cell else None
    order = sorted(range(len(frames)), key=lambda i: -len(frames[i]))
    most = batch_size or _batch_size(frames, potential.device)
    with torch.inference_mode(False), torch.no_grad():
        batch = Batch(frames, order[:most], potential, outside)
        optimizer, metric = _optimizer(batch, frames, method, precondition, memory)
        run = Run(batch, order[most:], optimizer, metric, fmax, steps, path)
        with tqdm(total=len(frames), desc="relaxed", unit="system", disable=not progress) as bar:
            while len(run.found) < len(frames):
                bar.update(run.advance())
    return [run.found[i] for i in range(len(frames))]


def _batch_size(frames: Sequence[Atoms], device: torch.device) -> int:
    atoms = BATCH_ATOMS if device.type == "cpu" else BATCH_ATOMS_ELSEWHERE
    return max(1, atoms * len(frames) // max(1, sum(map(len, frames))))


def _optimizer(
    batch: Batch, frames: Sequence[Atoms], method: str, precondition: bool | None, memory: int
) -> tuple[LBFGS | FIRE, Preconditioner | None]:
    if method == "fire":
        if precondition:
            raise ValueError("precondition=True is for method 'lbfgs'; 'fire' knows no Hessian")
        return FIRE(batch.x), None
    if precondition is None:
        precondition = batch.cells is None and max(map(len, frames)) <= MOST_ATOMS
    metric = Preconditioner(batch.x, batch.lead) if precondition else None
    return LBFGS(batch.x, metric or Uniform(), memory), metric


def _check_pressure(pressure: float, cell: bool) -> None:
    if not math.isfinite(pressure):
        raise ValueError(f"pressure must be a finite number of GPa, got {pressure}")
    if pressure and not cell:
        raise ValueError(f"a pressure of {pressure:g} GPa acts on cells that relax: set cell=True")


def _check_options(method: str, fmax: float, steps: int, memory: int, batch_size: int | None) -> None:
    if method not in ("lbfgs", "fire"):
        raise ValueError(f"method must be 'lbfgs' or 'fire', got {method!r}")
    if not fmax > 0:
        raise ValueError(f"fmax must be above 0 eV/Å, got {fmax}")
    for name, value, least in (("steps", steps, 0), ("memory", memory, 1), ("batch_size", batch_size, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
