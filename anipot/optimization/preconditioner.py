"""The inverse of a model Hessian for each system of a batch, made anew where a system has changed its shape."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.optimization.lbfgs import CURVATURE
from anipot.optimization.model_hessian import model_hessian
from anipot.units import HARTREE_TO_EV

#: 1/Å: what is added to the curvature in all directions, in Hartree/Å², for each Hartree/Å of the largest force; and
#: least and most of it (0.5 and 70 eV/Å²). Far from a minimum, long steps along soft directions lead to other minima
#: than a path downhill; near it they save steps. With 10 and 20 eV/Å² there, steps are fewer by 40 %, but 8 % of
#: conformers of drugs leave the minimum that ASE finds, not 4 %.
STIFFENING = 100.0
SOFTEST, STIFFEST = 0.5 / HARTREE_TO_EV, CURVATURE
#: Part of that at which the model Hessian is made anew.
SOFTER = 0.4
#: Å that an atom may move before the model Hessian of its system is made anew.
MOVED = 0.3
#: Atoms of a system above which matrices would take more time than they save.
MOST_ATOMS = 100


class Preconditioner:
    """H⁻¹ of the model Hessian (``model_hessian``) of every system.

    Parameters
    ----------
    x
        (B, R, 3) start; only shape and device count.
    lead
        Places before the atoms, which hold the cell.
    """

    def __init__(self, x: Tensor, lead: int) -> None:
        rows, width = x.shape[:2]
        self.lead = lead
        #: float32: it only has to be roughly right, and half as much is read in every step.
        self.inverse = x.new_zeros(rows, 3 * width, 3 * width, dtype=torch.float32)
        self.made_for = x.new_full((rows, width - lead, 3), torch.inf)
        self.added = x.new_full((rows,), torch.inf)

    def refresh(
        self,
        numbers: Tensor,
        free: Tensor,
        forces: Tensor,
        coordinates: Tensor,
        cell: Tensor | None,
        pbc: Tensor | None,
    ) -> None:
        """Look which systems have moved, or feel far smaller forces, and make theirs anew.

        Parameters
        ----------
        numbers
            (B, A) atomic numbers, ghosts -1.
        free
            (B, A) bool: atoms that move.
        forces
            (B, R, 3), Hartree/Å.
        coordinates, cell, pbc
            (B, A, 3), and (B, 3, 3) and (B, 3) or None.
        """
        added = (STIFFENING * torch.linalg.vector_norm(forces, dim=-1).amax(-1)).clamp(SOFTEST, STIFFEST)
        near = torch.linalg.vector_norm(coordinates - self.made_for, dim=-1).amax(-1) <= MOVED
        rows = (~near | (added < SOFTER * self.added)).nonzero()[:, 0]
        if not len(rows):
            return
        cell, pbc = (None if part is None else part[rows] for part in (cell, pbc))
        hessian = model_hessian(numbers[rows], coordinates[rows], cell, pbc).float()
        moves = free[rows].repeat_interleave(3, dim=1)
        if not moves.all():
            hessian *= moves[:, :, None] & moves[:, None, :]
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal += torch.where(moves, added[rows, None], 1.0)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        inverse = torch.cholesky_inverse(factor)
        if (failed > 0).any():  # atoms on one spot have no model Hessian
            inverse[failed > 0] = torch.eye(inverse.shape[1], device=inverse.device) / CURVATURE
        atoms = 3 * self.lead
        self.inverse[rows, atoms:, atoms:] = inverse
        self.inverse[rows, :atoms, :atoms] = torch.eye(atoms, device=inverse.device) / CURVATURE
        self.made_for[rows], self.added[rows] = coordinates[rows], added[rows]

    def solve(self, gradients: Tensor) -> Tensor:
        """Return H⁻¹ g (B, R, 3)."""
        found = torch.bmm(self.inverse, gradients.flatten(1).float()[:, :, None])
        return found.view(gradients.shape).to(gradients.dtype)

    def forget(self, rows: Tensor) -> None:
        """Make those of some rows anew, which hold other systems from now on."""
        self.made_for[rows] = torch.inf

    def keep(self, rows: Tensor, width: int) -> None:
        """Go on with some rows of the batch, and with the first places of each."""
        self.inverse = self.inverse[rows, : 3 * width, : 3 * width].contiguous()
        self.made_for, self.added = self.made_for[rows, : width - self.lead], self.added[rows]
