"""The pair list: who sees whom, through which periodic image; and the vectors, all the geometry there is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anipot.kernels import vectors as kernels

#: Two atoms closer than this (Å) stand on one spot: no potential here means anything, and directions are lost.
ONE_SPOT = 1e-6


class Pairs(NamedTuple):
    """Directed pairs closer than a cutoff, each in both directions, ordered by center, neighbor and shift.

    ``center`` and ``neighbor`` (P,) are slots b*A + a of the flattened batch; ghosts appear in none. ``shift`` (P, 3)
    counts lattice vectors, and is None where no molecule of the batch is periodic. The vector of a pair is
    r_neighbor − r_center + shift · cell.
    """

    center: Tensor
    neighbor: Tensor
    shift: Tensor | None


def displacements(pairs: Pairs, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> Tensor:
    """Return the vectors (P, 3) from center to neighbor, float64: the only differentiable geometry of the library.

    Differences are taken in float64 since float32 positions in a large box lose the digits of a bond.

    Parameters
    ----------
    coordinates
        (B, A, 3).
    cell, pbc
        (B, 3, 3) and (B, 3), or None.
    """
    return _displacements(pairs, coordinates, cell, pbc)[0]


def checked_displacements(pairs: Pairs, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> Tensor:
    """Return the same, and refuse two atoms on one spot as ``check_distances`` does."""
    vectors, closest = _displacements(pairs, coordinates, cell, pbc)
    if closest is None or int(closest) >= 0:
        check_distances(pairs, vectors, coordinates.shape[1])
    return vectors


def _displacements(
    pairs: Pairs, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the vectors, and where it is known whether two atoms stand on one spot: a number < 0 if not."""
    lattice = None
    if pairs.shift is not None and cell is not None and pbc is not None:
        lattice = torch.where(pbc[..., None], cell, 0.0)  # rows without periodicity may hold anything
    if kernels.covers(coordinates, lattice, *pairs):
        shift = None if lattice is None else pairs.shift
        return kernels.vectors(coordinates, lattice, pairs.center, pairs.neighbor, shift, ONE_SPOT)
    flat = coordinates.reshape(-1, 3).double()  # (B*A, 3)
    vectors = flat.index_select(0, pairs.neighbor) - flat.index_select(0, pairs.center)  # (P, 3)
    if pairs.shift is None or lattice is None:
        return vectors, None
    molecule = pairs.center // coordinates.shape[1]
    lattice = lattice.double()
    return vectors + (pairs.shift.to(lattice.dtype)[:, None, :] @ lattice.index_select(0, molecule)).squeeze(1), None


def gradient_by_coordinates(pairs: Pairs, gradients: Tensor, shape: torch.Size) -> Tensor:
    """Return dE/dr (G, B, A, 3) from dE/dv (G, P, 3), float64: the transpose of ``displacements``.

    Parameters
    ----------
    gradients
        By the vectors of all pairs, for G energies.
    shape
        (B, A) of the batch.
    """
    gradients = gradients.double()
    like = gradients.new_empty(*shape, 3)
    if kernels.covers(like, None, pairs.center, pairs.neighbor):
        found = [
            kernels.gradient_by_coordinates(gradient, like, pairs.center, pairs.neighbor) for gradient in gradients
        ]
        return torch.stack(found)
    out = gradients.new_zeros(len(gradients), shape.numel(), 3)
    out = out.index_add(1, pairs.neighbor, gradients).index_add(1, pairs.center, gradients, alpha=-1)
    return out.view(len(gradients), *shape, 3)


def check_distances(pairs: Pairs, vectors: Tensor, num_atoms: int) -> None:
    """Refuse two atoms on one spot, naming them.

    Raises
    ------
    ValueError
        With the molecule, both atoms and the image.
    """
    if len(vectors) == 0:
        return
    squared = (vectors.detach() * vectors.detach()).sum(-1)
    if float(squared.min()) < ONE_SPOT**2:
        worst = int(squared.argmin())
        (molecule, i), j = divmod(int(pairs.center[worst]), num_atoms), int(pairs.neighbor[worst]) % num_atoms
        image = "" if pairs.shift is None else f" (its image {pairs.shift[worst].tolist()})"
        distance = float(squared[worst]) ** 0.5
        raise ValueError(f"molecule {molecule}: atoms {i} and {j}{image} stand on one spot, {distance:.1e} Å apart")


def sorted_pairs(center: Tensor, neighbor: Tensor, shift: Tensor, num_slots: int) -> Pairs:
    """Order pairs by center, neighbor, shift: a molecule's sums then run in one order, however it was searched."""
    low = shift.amin(0) if len(shift) else shift.new_zeros(3)
    span = shift.amax(0) - low + 1 if len(shift) else shift.new_ones(3)
    code = ((shift[:, 0] - low[0]) * span[1] + shift[:, 1] - low[1]) * span[2] + shift[:, 2] - low[2]
    order = torch.argsort(code, stable=True)
    order = order[torch.argsort((center * num_slots + neighbor)[order], stable=True)]
    return Pairs(center[order], neighbor[order], shift[order])
