"""FIRE for many systems at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.units import HARTREE_TO_EV

#: Time steps at the start and at most, in Å (u/eV)^½ with masses of 1 u, and the other constants: those of ASE.
STEP, LONGEST_STEP = 0.1, 1.0
WAIT, FASTER, SLOWER = 5, 1.1, 0.5
MIXING, LESS_MIXING = 0.1, 0.99
#: Å that a whole system moves in one step at most.
MAX_STEP = 0.2


class FIRE:
    """Fast inertial relaxation engine (doi:10.1103/PhysRevLett.97.170201): the steps of ``ase.optimize.FIRE``.

    Parameters
    ----------
    x
        (B, R, 3) start, Å; only shape, dtype and device count.
    max_step
        Å that a whole system moves in one step at most.
    """

    def __init__(self, x: Tensor, max_step: float = MAX_STEP) -> None:
        self.max_step = max_step
        self.velocity = torch.zeros_like(x)
        self.time_step, self.mixing = x.new_full((len(x),), STEP), x.new_full((len(x),), MIXING)
        self.downhill = x.new_zeros(len(x), dtype=torch.long)
        self.started = x.new_zeros(len(x), dtype=torch.bool)
        #: No row is ever stuck: velocities are stopped where forces point back.
        self.stuck = self.started.clone()

    def step(self, x: Tensor, energies: Tensor, forces: Tensor) -> Tensor:
        """Return the next geometries from forces (B, R, 3), Hartree/Å, at the present ones."""
        forces = forces * HARTREE_TO_EV
        down = (forces * self.velocity).sum((1, 2)) > 0
        patient = down & (self.downhill > WAIT)
        mixing = self.mixing[:, None, None]
        along = forces * (_length(self.velocity) / _length(forces).clamp(min=1e-30))
        mixed = (1 - mixing) * self.velocity + mixing * along
        self.velocity = torch.where(down[:, None, None], mixed, 0.0)
        faster = torch.where(patient, (FASTER * self.time_step).clamp(max=LONGEST_STEP), self.time_step)
        slower = torch.where(self.started, SLOWER * self.time_step, self.time_step)
        self.time_step = torch.where(down, faster, slower)
        less = torch.where(patient, LESS_MIXING * self.mixing, self.mixing)
        self.mixing = torch.where(down, less, MIXING)
        self.downhill = torch.where(down, self.downhill + 1, 0)
        self.started[:] = True
        time_step = self.time_step[:, None, None]
        self.velocity = self.velocity + time_step * forces
        step = time_step * self.velocity
        return x + step * (self.max_step / _length(step).clamp(min=1e-30)).clamp(max=1.0)

    def rejects(self, row: int, energy: float) -> bool:
        """No step is taken back."""
        return False

    def forget(self, rows: Tensor) -> None:
        """Start anew in some rows, which hold other systems from now on."""
        self.velocity[rows], self.time_step[rows], self.mixing[rows] = 0.0, STEP, MIXING
        self.downhill[rows], self.started[rows] = 0, False

    def keep(self, rows: Tensor, width: int) -> None:
        """Go on with some rows of the batch, and with the first places of each."""
        self.velocity = self.velocity[rows, :width]
        self.time_step, self.mixing = self.time_step[rows], self.mixing[rows]
        self.downhill, self.started, self.stuck = self.downhill[rows], self.started[rows], self.stuck[rows]


def _length(step: Tensor) -> Tensor:
    """Return the norms of whole systems (B, 1, 1)."""
    return torch.linalg.vector_norm(step, dim=(1, 2), keepdim=True)
