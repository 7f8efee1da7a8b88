"""Cells that relax with their atoms: positions before a deformation, and the logarithm of the deformation."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.lattice import volume

#: Places before the atoms that hold the deformation.
LEAD = 3


class Cells:
    """The coordinates of ``ase.filters.FrechetCellFilter`` for many systems at a time.

    With the deformation F = exp(U / n) of n atoms, positions are x Fᵀ and cells C Fᵀ of the starting cells C. The
    gradient by U follows from the Fréchet derivative of the exponential, which is a block of a larger exponential
    (doi:10.1137/080716426).

    Parameters
    ----------
    cell
        (B, 3, 3) at the start, Å.
    num_atoms
        (B,).
    pressure
        Hartree/Å³ from outside.
    """

    def __init__(self, cell: Tensor, num_atoms: Tensor, pressure: float = 0.0) -> None:
        self.cell, self.scale, self.pressure = cell, num_atoms.to(cell.dtype)[:, None, None], pressure

    def geometry(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions (B, A, 3) and cells (B, 3, 3) of U and positions before the deformation (B, 3 + A, 3)."""
        deformation = torch.linalg.matrix_exp(x[:, :LEAD] / self.scale).mT
        return x[:, LEAD:] @ deformation, self.cell @ deformation

    def energies(self, energies: Tensor, cell: Tensor) -> Tensor:
        """Return enthalpies (B,)."""
        return energies + self.pressure * volume(cell)

    def forces(self, x: Tensor, forces: Tensor, stress: Tensor, cell: Tensor) -> Tensor:
        """Return minus the gradients (B, 3 + A, 3) by x, of forces (B, A, 3) and stress (B, 3, 3)."""
        logarithm = x[:, :LEAD] / self.scale
        deformation = torch.linalg.matrix_exp(logarithm)
        pressure = self.pressure * torch.eye(3, dtype=stress.dtype, device=stress.device)
        virial = -volume(cell)[:, None, None] * (stress + pressure)
        by_deformation = torch.linalg.solve(deformation, virial, left=True).mT  # W F⁻ᵀ, since W is symmetric
        upper = torch.cat([logarithm.mT, by_deformation], dim=2)
        lower = torch.cat([torch.zeros_like(logarithm), logarithm.mT], dim=2)
        by_logarithm = torch.linalg.matrix_exp(torch.cat([upper, lower], dim=1))[:, :3, 3:]
        return torch.cat([by_logarithm / self.scale, forces @ deformation], dim=1)
