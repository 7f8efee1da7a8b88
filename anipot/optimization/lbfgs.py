"""L-BFGS for many systems at a time, each with a memory and a trust radius of its own."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from anipot.units import HARTREE_TO_EV

#: Curvature before anything is known, that of ASE: 70 eV/Å², in Hartree/Å².
CURVATURE = 70.0 / HARTREE_TO_EV
#: Å that an atom moves in one step at most, as in ASE.
MAX_STEP = 0.2
#: Hartree by which the energy may rise above the lowest so far: more than rounding in float32, less than matters.
RISE = 1e-5
#: What is left of a step that went up, and how fast steps may grow again.
SHRINK, GROW = 0.35, 1.5
#: Å of the largest step below which it is no use to shorten it further.
SHORTEST = 1e-5


class Metric(Protocol):
    """What is known of the curvature before the first step."""

    def solve(self, gradients: Tensor) -> Tensor:
        """Return H⁻¹ g (B, R, 3)."""

    def keep(self, rows: Tensor, width: int) -> None:
        """Go on with some rows of the batch, and with the first places of each."""


class Uniform:
    """One curvature in all directions, Hartree/Å²."""

    def __init__(self, curvature: float = CURVATURE) -> None:
        self.curvature = curvature

    def solve(self, gradients: Tensor) -> Tensor:
        return gradients / self.curvature

    def keep(self, rows: Tensor, width: int) -> None:
        pass


class LBFGS:
    """L-BFGS without a line search, after Nocedal (doi:10.1090/S0025-5718-1980-0572855-7).

    Without a preconditioner and as long as energies fall, steps are those of ``ase.optimize.LBFGS``. Other than there,
    pairs without positive curvature are left out, and a step that raises the energy is taken back and shortened.

    Parameters
    ----------
    x
        (B, R, 3) start, Å; only shape, dtype and device count.
    metric
        Curvature before the first step.
    memory
        Number of steps that are remembered.
    max_step
        Å that an atom moves in one step at most.
    """

    def __init__(self, x: Tensor, metric: Metric, memory: int, max_step: float = MAX_STEP) -> None:
        rows, width = x.shape[:2]
        self.metric, self.max_step = metric, max_step
        self.base, self.gradient = torch.zeros_like(x), torch.zeros_like(x)
        self.energy = x.new_full((rows,), torch.inf)
        self.moves, self.changes = x.new_zeros(memory, rows, 3 * width), x.new_zeros(memory, rows, 3 * width)
        self.rho = x.new_zeros(memory, rows)  # 0 for steps that are not remembered
        self.radius = x.new_full((rows,), max_step)
        self.known = torch.zeros(rows, dtype=torch.bool, device=x.device)
        self.restarted = self.known.clone()
        #: Rows whose energy rises however short the step.
        self.stuck = self.known.clone()
        self.taken = 0

    def step(self, x: Tensor, energies: Tensor, forces: Tensor) -> Tensor:
        """Return the next geometries from energies (B,), Hartree, and forces (B, R, 3), Hartree/Å, at x (B, R, 3)."""
        move = x - self.base
        self._remember(move, -forces - self.gradient)
        worse = self.known & ~(energies <= self.energy + RISE)
        radius = torch.where(worse, SHRINK * _longest(move), (GROW * self.radius).clamp(max=self.max_step))
        self.radius = radius
        keep = worse[:, None, None]
        self.base, self.gradient = torch.where(keep, self.base, x), torch.where(keep, self.gradient, -forces)
        self.energy = torch.where(self.known, torch.minimum(self.energy, energies), energies)
        self.known[:] = True
        if (radius < SHORTEST).any():
            self._restart(radius < SHORTEST)
        step = -self._solve()
        up = (step * self.gradient).sum((1, 2)) > 0  # rounding has spoilt the memory
        if up.any():
            self.rho[:, up] = 0.0
            step = -self._solve()
        longest = _longest(step).clamp(min=torch.finfo(step.dtype).tiny)
        return self.base + step * (self.radius / longest).clamp(max=1.0)[:, None, None]

    def rejects(self, row: int, energy: float) -> bool:
        """Whether a step of a row to this energy, Hartree, would be taken back."""
        return bool(self.known[row]) and not energy <= float(self.energy[row]) + RISE

    def _restart(self, rows: Tensor) -> None:
        """Forget what led nowhere; a row to which this happens again is stuck."""
        self.stuck |= rows & self.restarted
        self.restarted |= rows
        self.rho[:, rows] = 0.0
        self.radius[rows] = 0.1 * self.max_step

    def _remember(self, move: Tensor, change: Tensor) -> None:
        curvature = (move * change).sum((1, 2))
        enough = 1e-6 * torch.sqrt((move**2).sum((1, 2)) * (change**2).sum((1, 2)))
        usable = self.known & (curvature > enough)
        if self.taken or usable.any():
            place = self.taken % len(self.rho)
            self.moves[place], self.changes[place] = move.flatten(1), change.flatten(1)
            self.rho[place] = torch.where(usable, 1 / curvature, 0.0)
            self.taken += 1

    def _solve(self) -> Tensor:
        """Return H⁻¹ g by the two loops over the steps that are remembered."""
        q, newest_first = self.gradient.flatten(1), [(self.taken - 1 - i) % len(self.rho) for i in range(self._filled)]
        steps = [(self.moves[i], self.changes[i], self.rho[i]) for i in newest_first]
        weights = []
        for move, change, rho in steps:
            weight = (torch.linalg.vecdot(move, q) * rho)[:, None]
            q = torch.addcmul(q, change, weight, value=-1)
            weights.append(weight)
        q = self.metric.solve(q.view(self.gradient.shape)).flatten(1)
        for (move, change, rho), weight in zip(reversed(steps), reversed(weights), strict=True):
            q = torch.addcmul(q, move, weight - (torch.linalg.vecdot(change, q) * rho)[:, None])
        return q.view(self.gradient.shape)

    @property
    def _filled(self) -> int:
        return min(self.taken, len(self.rho))

    def forget(self, rows: Tensor) -> None:
        """Start anew in some rows, which hold other systems from now on."""
        self.rho[:, rows] = 0.0
        self.moves[:, rows] = 0.0  # no NaN of one system may meet the next
        self.changes[:, rows] = 0.0
        self.base[rows] = 0.0
        self.gradient[rows] = 0.0
        self.radius[rows] = self.max_step
        for flags in (self.known, self.restarted, self.stuck):
            flags[rows] = False

    def keep(self, rows: Tensor, width: int) -> None:
        """Go on with some rows of the batch, and with the first places of each."""
        self.metric.keep(rows, width)
        self.base, self.gradient = self.base[rows, :width], self.gradient[rows, :width]
        self.moves, self.changes = self.moves[:, rows, : 3 * width], self.changes[:, rows, : 3 * width]
        self.rho = self.rho[:, rows]
        self.energy, self.radius = self.energy[rows], self.radius[rows]
        self.known, self.restarted, self.stuck = self.known[rows], self.restarted[rows], self.stuck[rows]


def _longest(step: Tensor) -> Tensor:
    """Return how far the atom that moves most moves (B,)."""
    return torch.linalg.vector_norm(step, dim=-1).amax(-1)
