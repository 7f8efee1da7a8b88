"""Cells: checks, volume, heights. Rows of ``cell`` are the lattice vectors, as in ASE."""

from __future__ import annotations

import torch
from torch import Tensor

#: A cell counts as singular when its periodic vectors span less than this part of the box with the same edges.
SINGULAR = 1e-8


def volume(cell: Tensor) -> Tensor:
    """Return the volume (...,) of cells (..., 3, 3): the absolute value, so that left-handed cells are fine.

    >>> import torch
    >>> volume(-2 * torch.eye(3))
    tensor(8.)
    """
    return torch.linalg.det(cell).abs()


def heights(cell: Tensor) -> Tensor:
    """Return the distances (..., 3) between opposite faces of cells (..., 3, 3)."""
    return torch.linalg.inv(cell).norm(dim=-2).reciprocal()


def complete_cell(cell: Tensor, pbc: Tensor) -> Tensor:
    """Replace the rows of axes that are not periodic by unit vectors at right angles to all other rows.

    What stands in those rows (zeros, as ASE writes them, or the edges of a box with vacuum) has no meaning for the
    neighbors of an atom, and must not have any.

    Parameters
    ----------
    cell
        (B, 3, 3).
    pbc
        (B, 3) bool.

    Returns
    -------
    Tensor
        (B, 3, 3), float64.
    """
    rows = torch.where(pbc[..., None], cell.double(), 0.0)
    done = pbc.clone()
    for axis in range(3):
        j, k = (axis + 1) % 3, (axis + 2) % 3
        normal = _unit_normal(rows[:, j], rows[:, k])
        rows[:, axis] = torch.where(done[:, axis, None], rows[:, axis], normal)
        done[:, axis] = True
    return rows


def _unit_normal(a: Tensor, b: Tensor) -> Tensor:
    """Return unit vectors (B, 3) perpendicular to a and b, either or both of which may be zero."""
    # Candidates: a × b, else a (or b) × the axis that it is least aligned with, else any axis.
    lone = torch.where(a.norm(dim=-1, keepdim=True) > 0, a, b)
    least = torch.nn.functional.one_hot(lone.abs().argmin(-1), 3).to(lone)
    normal = torch.linalg.cross(a, b)
    for candidate in (torch.linalg.cross(lone, least), least):
        normal = torch.where(normal.norm(dim=-1, keepdim=True) > 0, normal, candidate)
    return normal / normal.norm(dim=-1, keepdim=True)


def check_cell(coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return checked cell (B, 3, 3) and pbc (B, 3), or None for both where nothing is periodic."""
    if pbc is None:
        if cell is not None:
            raise ValueError(
                "a cell was given without pbc; say along which axes it repeats, e.g. pbc=[True, True, True]"
            )
        return None, None
    num_molecules = coordinates.shape[0]
    if not isinstance(pbc, Tensor):
        pbc = torch.as_tensor(pbc, device=coordinates.device)
    if pbc.dtype != torch.bool:
        raise TypeError(f"pbc must be bool, one value for each cell vector, got {pbc.dtype}")
    pbc = _batched(pbc.to(coordinates.device), "pbc", (3,), num_molecules)
    if cell is None:
        if pbc.any():
            molecule = int(pbc.any(-1).nonzero()[0])
            raise ValueError(f"molecule {molecule} has pbc {pbc[molecule].tolist()}, but no cell was given")
        return None, None
    if not isinstance(cell, Tensor) or cell.dtype != coordinates.dtype:
        seen = cell.dtype if isinstance(cell, Tensor) else type(cell).__name__
        raise TypeError(f"cell must be a tensor of the dtype of the coordinates, {coordinates.dtype}, got {seen}")
    if cell.device != coordinates.device:
        raise ValueError(f"cell is on {cell.device} but coordinates on {coordinates.device}")
    cell = _batched(cell, "cell", (3, 3), num_molecules)
    if not pbc.any():
        return None, None
    _check_not_singular(cell.detach(), pbc)
    return cell, pbc


def _batched(tensor: Tensor, name: str, shape: tuple[int, ...], num_molecules: int) -> Tensor:
    if tuple(tensor.shape) == shape:
        return tensor.expand(num_molecules, *shape)
    if tuple(tensor.shape) != (num_molecules, *shape):
        raise ValueError(f"{name} must have shape {shape} or {(num_molecules, *shape)}, got {tuple(tensor.shape)}")
    return tensor


def _check_not_singular(cell: Tensor, pbc: Tensor) -> None:
    rows = torch.where(pbc[..., None], cell.double(), 0.0)
    finite = torch.isfinite(rows).all(-1).all(-1)
    full = complete_cell(torch.where(finite[:, None, None], rows, 0.0), pbc)
    good = finite & (volume(full) > SINGULAR * full.norm(dim=-1).prod(-1))
    if not good.all():
        molecule = int((~good).nonzero()[0])
        raise ValueError(
            f"molecule {molecule} has a singular cell: its vectors {cell[molecule].tolist()} along the periodic axes "
            f"{pbc[molecule].tolist()} must be finite, not zero and linearly independent"
        )
