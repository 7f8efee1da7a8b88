"""Neighbors by trying everything: the definition of the fast search, and the choice for small batches."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.lattice import complete_cell, heights
from anipot.neighbors.pairs import Pairs, sorted_pairs


def brute_force(coordinates: Tensor, real: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float) -> Pairs:
    """Return all pairs closer than ``cutoff``, in time and memory that grow with the square of the atoms.

    Parameters
    ----------
    coordinates
        (B, A, 3).
    real
        (B, A) bool, False for ghosts.
    cell, pbc
        (B, 3, 3) and (B, 3), or None for both.
    """
    if cell is None or pbc is None:
        return _free(coordinates.double(), real, cutoff)
    num_molecules, num_atoms = real.shape
    parts = [_one(coordinates[b].double(), real[b], cell[b], pbc[b], cutoff) for b in range(num_molecules)]
    start = [b * num_atoms for b in range(num_molecules)]
    if not parts:
        return _free(coordinates.double(), real, cutoff)
    center = torch.cat([c + s for (c, _, _), s in zip(parts, start, strict=True)])
    neighbor = torch.cat([n + s for (_, n, _), s in zip(parts, start, strict=True)])
    return sorted_pairs(center, neighbor, torch.cat([shift for _, _, shift in parts]), real.numel())


def _free(coordinates: Tensor, real: Tensor, cutoff: float) -> Pairs:
    num_atoms = real.shape[1]
    both = real[:, :, None] & real[:, None, :] & ~torch.eye(num_atoms, dtype=torch.bool, device=real.device)
    vectors = coordinates[:, None, :, :] - coordinates[:, :, None, :]  # (B, A, A, 3)
    near = both & ((vectors * vectors).sum(-1) < cutoff * cutoff)
    molecule, i, j = near.nonzero(as_tuple=True)
    return Pairs(molecule * num_atoms + i, molecule * num_atoms + j, None)


def _one(x: Tensor, real: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return center, neighbor and shift of one molecule with coordinates (A, 3)."""
    lattice = complete_cell(cell[None], pbc[None])[0]
    fractional = torch.where(real[:, None], x, 0.0) @ torch.linalg.inv(lattice)
    wrap = torch.where(pbc, -fractional.floor(), 0.0)  # (A, 3) lattice vectors that bring each atom into the cell
    inside = x + wrap @ lattice
    # Fractional distances inside the cell are below 1, hence one image more than the cutoff alone would need.
    reach = torch.where(pbc, (cutoff / heights(lattice)).floor() + 1, 0.0).long().tolist()
    axes = [torch.arange(-n, n + 1, device=x.device) for n in reach]
    images = torch.cartesian_prod(*axes).to(x.dtype)  # (S, 3)
    vectors = inside[None, None] - inside[None, :, None] + (images @ lattice)[:, None, None]  # (S, A, A, 3)
    home = (images == 0).all(-1)[:, None, None] & torch.eye(len(x), dtype=torch.bool, device=x.device)
    near = ((vectors * vectors).sum(-1) < cutoff * cutoff) & real[:, None] & real[None, :] & ~home
    image, i, j = near.nonzero(as_tuple=True)
    return i, j, (images[image] + wrap[j] - wrap[i]).long()
