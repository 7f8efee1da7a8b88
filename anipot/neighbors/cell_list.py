"""Neighbors in linear time and memory: atoms sorted into bins no smaller than the cutoff.

One search serves a whole batch, each molecule with its own cell and periodic axes. Bins follow the cell vectors along
periodic axes and the extent of the molecule along others. Only occupied bins exist, as sorted keys, so two atoms a
kilometre apart cost nothing. A cell smaller than the cutoff is one bin, visited through as many images as needed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from anipot.lattice import complete_cell, heights
from anipot.neighbors.pairs import Pairs, sorted_pairs

#: Candidate pairs looked at together; bounds the memory of the search at about 100 bytes each.
CANDIDATES_AT_ONCE = 2_000_000
#: Bins along one axis at most, so that three indices and a molecule fit into one 64-bit key.
MAX_BINS = 2**15


class _Grid(NamedTuple):
    """Per molecule: lattice (B, 3, 3), bins (B, 3) along each axis, and reach (B, 3) in bins to either side."""

    lattice: Tensor
    bins: Tensor
    reach: Tensor


def cell_list(coordinates: Tensor, real: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float) -> Pairs:
    """Return all pairs closer than ``cutoff``; arguments as for ``brute_force``."""
    num_molecules, num_atoms = real.shape
    slots = real.reshape(-1).nonzero().squeeze(1)  # (n,)
    if len(slots) == 0:
        empty = slots.new_empty(0)
        return Pairs(empty, empty, None if pbc is None else slots.new_empty(0, 3))
    molecule = slots // num_atoms
    x = coordinates.reshape(-1, 3).index_select(0, slots).double()
    periodic = torch.zeros(num_molecules, 3, dtype=torch.bool, device=x.device) if pbc is None else pbc
    lattice = complete_cell(x.new_zeros(num_molecules, 3, 3) if cell is None else cell, periodic)

    fractional = (x[:, None, :] @ torch.linalg.inv(lattice)[molecule]).squeeze(1)  # Å along axes that do not repeat
    wrap = torch.where(periodic[molecule], -fractional.floor(), 0.0)
    fractional = fractional + wrap
    low, span = _extent(fractional, molecule, periodic)
    grid = _grid(lattice, span, periodic, cutoff)
    bin_ = ((fractional - low[molecule]) / span[molecule] * grid.bins[molecule]).long()
    bin_ = torch.minimum(bin_.clamp(min=0), grid.bins[molecule] - 1)

    inside = x + (wrap[:, None, :] @ lattice[molecule]).squeeze(1)
    i, j, image = _near(inside, bin_, molecule, periodic, grid, cutoff)
    wrap = wrap.long()
    pairs = sorted_pairs(slots[i], slots[j], image + wrap[j] - wrap[i], real.numel())
    return pairs if pbc is not None else pairs._replace(shift=None)


def _extent(fractional: Tensor, molecule: Tensor, periodic: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the bins of each molecule start and how far they reach, (B, 3) each, in fractional units."""
    index = molecule[:, None].expand(-1, 3)
    empty = torch.zeros_like(periodic, dtype=fractional.dtype)
    low = empty.scatter_reduce(0, index, fractional, "amin", include_self=False)
    high = empty.scatter_reduce(0, index, fractional, "amax", include_self=False)
    span = torch.where(periodic, 1.0, (high - low).clamp(min=1e-6))
    return torch.where(periodic, 0.0, low), span


def _grid(lattice: Tensor, span: Tensor, periodic: Tensor, cutoff: float) -> _Grid:
    extent = span * heights(lattice)  # (B, 3) Å between the first and the last face
    bins = (extent / cutoff).floor().clamp(1, MAX_BINS)
    reach = (cutoff * bins / extent).ceil()
    reach = torch.where(periodic, reach, torch.minimum(reach, bins - 1))
    return _Grid(lattice, bins.long(), reach.long())


def _near(
    inside: Tensor, bin_: Tensor, molecule: Tensor, periodic: Tensor, grid: _Grid, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return atoms i, j and the image (P, 3) through which j is near i."""
    scale = grid.bins.amax(0)
    key = _key(molecule, bin_, scale)
    order = torch.argsort(key, stable=True)
    key = key[order]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    visits = (2 * grid.reach + 1).prod(-1)[molecule]  # (n,) bins that each atom looks into
    for start, stop in _blocks(visits, CANDIDATES_AT_ONCE):
        i, target, image = _visited(start, stop, visits, bin_, molecule, periodic, grid)
        goal = _key(molecule[i], target, scale)
        first = torch.searchsorted(key, goal)
        counts = torch.searchsorted(key, goal, right=True) - first
        for a, b in _blocks(counts, CANDIDATES_AT_ONCE):
            visit, member = _ragged(counts[a:b])
            left, right, through = i[a:b][visit], order[first[a:b][visit] + member], image[a:b][visit]
            vectors = inside[right] - inside[left]
            vectors = vectors + (through.to(vectors.dtype)[:, None, :] @ grid.lattice[molecule[left]]).squeeze(1)
            near = (vectors * vectors).sum(-1) < cutoff * cutoff
            near &= (left != right) | (through != 0).any(-1)
            found.append((left[near], right[near], through[near]))
    left, right, through = (torch.cat(parts) for parts in zip(*found, strict=True))
    return left, right, through


def _visited(
    start: int, stop: int, visits: Tensor, bin_: Tensor, molecule: Tensor, periodic: Tensor, grid: _Grid
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each visit of the atoms start … stop: the atom, the bin (V, 3) and the image (V, 3) it stands for."""
    which, number = _ragged(visits[start:stop])
    atom = which + start
    reach = grid.reach[molecule[atom]]
    width = 2 * reach + 1
    offset = torch.stack(
        [number // (width[:, 1] * width[:, 2]), number // width[:, 2] % width[:, 1], number % width[:, 2]], dim=-1
    )
    target = bin_[atom] + offset - reach
    bins = grid.bins[molecule[atom]]
    image = target.div(bins, rounding_mode="floor")
    keep = ((image == 0) | periodic[molecule[atom]]).all(-1)
    return atom[keep], (target - image * bins)[keep], image[keep]


def _key(molecule: Tensor, bin_: Tensor, scale: Tensor) -> Tensor:
    return ((molecule * scale[0] + bin_[:, 0]) * scale[1] + bin_[:, 1]) * scale[2] + bin_[:, 2]


def _ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return for counts [2, 0, 1] the owners [0, 0, 2] and the running numbers [0, 1, 0]."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - first[owner]


def _blocks(counts: Tensor, limit: int) -> list[tuple[int, int]]:
    """Cut 0 … len(counts) into ranges whose counts add up to no more than ``limit`` (or that hold one item)."""
    total = counts.cumsum(0)
    if len(counts) == 0 or int(total[-1]) <= limit:
        return [(0, len(counts))]
    edges = [0]
    while edges[-1] < len(counts):
        before = int(total[edges[-1] - 1]) if edges[-1] else 0
        stop = int(torch.searchsorted(total, torch.tensor(before + limit, device=total.device), right=True))
        edges.append(min(max(stop, edges[-1] + 1), len(counts)))
    return list(pairwise(edges))
