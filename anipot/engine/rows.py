"""AEVs, networks and their gradients on a GPU, for rows of atoms sorted by element."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anipot.engine.parts import Parts, Request
from anipot.head.dense import NotCovered
from anipot.kernels.cuda import aev
from anipot.kernels.cuda.network_plan import DoesNotFit
from anipot.kernels.cuda.networks import Networks, NetworkTables
from anipot.kernels.cuda.program import fill
from anipot.kernels.cuda.search import Search

#: Bytes that features and their gradients may take; more rows than that are computed one block after the other.
_BYTES = 4 * 2**30


class Elements:
    """What is the same for all atoms of some elements: columns of features, and networks.

    Parameters
    ----------
    parts
        Of the potential.
    present
        Whether each element occurs: columns of the others are left out.
    gradients
        Whether gradients are wanted.
    """

    def __init__(self, parts: Parts, present: Sequence[bool], *, gradients: bool) -> None:
        _, sizes = parts.of_aev
        radial, angular, self.width = aev.columns(sizes, present)
        device = parts.potential.device
        self.tables = [torch.tensor(table, dtype=torch.int32, device=device) for table in (radial, angular)]
        #: Number of columns of radial terms.
        self.radial = sum(present) * sizes[3] * sizes[4]
        every = range(0, len(parts.layers), parts.num_species)
        members = [parts.layers[first : first + parts.num_species] for first in every]
        layers = [[one if there else [] for one, there in zip(m, present, strict=True)] for m in members]
        try:
            self.networks = NetworkTables(layers, _kept_columns(radial, angular, sizes), gradients=gradients)
        except ValueError as error:
            raise NotCovered(str(error)) from error


class Rows:
    """What all blocks of rows have in common.

    Parameters
    ----------
    parts
        Of the potential.
    search
        The neighbors.
    atom_of
        (n,) int32, the atom of each row.
    elements
        Of these atoms.
    gradients
        (O, n, capacity, 3) where dE/dvector goes, or None.
    """

    def __init__(
        self,
        parts: Parts,
        search: Search,
        atom_of: Tensor,
        elements: Elements,
        gradients: Tensor | None,
    ) -> None:
        self.parts, self.device, self.elements = parts, atom_of.device, elements
        constants, sizes = parts.of_aev
        self.sizes, self.width = tuple(sizes), elements.width
        n, capacity = search.atoms.num_atoms, search.capacity
        self._scratch = None
        if capacity > aev.NEAR:
            size = aev.scratch_bytes(n * capacity, parts.dtype, dual=False)
            self._scratch = torch.empty(size, dtype=torch.uint8, device=self.device)
        self._kept = {
            "counts": search.count,
            "neighbor_kind": search.neighbor_kind,
            "vectors": search.vectors,
            "constants": constants.contiguous(),
            "radial_column": elements.tables[0],
            "angular_column": elements.tables[1],
            "atom_of": atom_of,
            "out": gradients,
            "scratch": self._scratch,
        }
        self._numbers = {"num_species": sizes[0], "stride": capacity, "width": self.width, "num_pairs": n * capacity}
        self._numbers["radial"] = elements.radial
        #: Whether a row of gradients has room in shared memory.
        self.staged = aev.is_staged(sizes, parts.dtype, self.width, elements.radial)
        options = {"crowded": capacity > aev.NEAR, "staged": self.staged}
        self.program = aev.aev_program(self.sizes, parts.dtype, self.device, **options)

    def arguments(self, first: int) -> aev.AevArguments:
        """Return what the kernels take, for rows from ``first`` on."""
        return fill(aev.AevArguments(**self._numbers, first=first), **self._kept)

    def blocks(self, num_rows: int, outputs: int) -> list[tuple[int, int]]:
        """Return the rows that are computed together, from … to."""
        each = self.width * self.parts.dtype.itemsize * (1 + outputs)
        step = max(1, _BYTES // max(1, each))
        return [(first, min(first + step, num_rows)) for first in range(0, num_rows, step)]


class RowBlock:
    """Rows from ``first`` to ``stop``, computed together.

    Parameters
    ----------
    rows
        What they have in common with others.
    counts
        Rows of each element, of all blocks.
    ask
        What to compute.
    """

    def __init__(self, rows: Rows, first: int, stop: int, counts: list[int], ask: Request) -> None:
        parts, device, dtype = rows.parts, rows.device, rows.parts.dtype
        self._slice, self._rows, num_rows = slice(first, stop), rows, stop - first
        mine, networks = _counts_between(counts, first, stop), rows.elements.networks
        assert networks.gradients == (ask.forces or ask.stress), "networks that were made for something else"
        try:
            self._networks = Networks(networks, mine, members=ask.members)
        except DoesNotFit as error:
            raise NotCovered(str(error)) from error
        self._features = torch.empty(num_rows, rows.width, dtype=dtype, device=device)
        self._energies = torch.empty(parts.num_members, num_rows, dtype=torch.float64, device=device)
        self._gradients = None
        self._outputs = parts.num_members if ask.members else 1
        groups = self._networks.groups
        if networks.gradients:
            self._gradients = torch.empty(groups, num_rows, rows.width, dtype=dtype, device=device)
        if not rows.staged and groups > self._outputs:
            raise NotCovered(f"rows of {rows.width} features do not fit into shared memory")
        self._arguments = fill(rows.arguments(first), features=self._features, gradient=self._gradients)
        self._arguments.groups = groups // self._outputs
        self._arguments.rows = num_rows
        limit = rows.program.kernel("aev_forward").shared_limit
        self._arguments.triples, self._forward_bytes = aev.forward_memory(rows.sizes, dtype, False, limit)
        self._backward_bytes = aev.backward_bytes(rows.sizes, dtype, rows.width, rows.elements.radial)

    def launch(self, row_energies: Tensor) -> None:
        """Write energies (M, n) of these rows, and the gradients by the vectors of their pairs."""
        program, num_rows = self._rows.program, len(self._features)
        program.kernel("aev_forward").launch(num_rows, aev.THREADS, self._arguments, self._forward_bytes)
        whole = num_rows == row_energies.shape[1]
        energies = row_energies if whole else self._energies
        self._networks.launch(self._features, energies, self._gradients)
        if not whole:
            row_energies[:, self._slice] = energies
        if self._gradients is not None:
            grid = (num_rows, self._outputs)
            program.kernel("aev_backward").launch(grid, aev.THREADS, self._arguments, self._backward_bytes)


def _counts_between(counts: list[int], first: int, stop: int) -> list[int]:
    """Return how many of the rows from ``first`` to ``stop`` belong to each element."""
    found, start = [], 0
    for count in counts:
        found.append(max(0, min(stop, start + count) - max(first, start)))
        start += count
    return found


def _kept_columns(radial: list[int], angular: list[int], sizes: list[int]) -> list[int]:
    """Return for each column that is kept its place among all of them."""
    all_radial, all_angular, _ = aev.columns(sizes)
    kept: list[int] = []
    for mine, every, length in (
        (radial, all_radial, math.prod(sizes[3:5])),
        (angular, all_angular, math.prod(sizes[5:])),
    ):
        for column, place in zip(mine, every, strict=True):
            kept += range(place, place + length) if column >= 0 else ()
    return kept
