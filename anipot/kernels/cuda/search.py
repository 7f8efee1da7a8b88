"""Neighbor search on the device, for a fixed composition: no allocation and no waiting from step to step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from anipot import known
from anipot.kernels.cuda.composition import Composition
from anipot.kernels.cuda.program import Arguments, f64, fill, i64, pointer, precision, program

#: Atoms up to which a molecule is searched without bins, in a single launch (DIRECT_ATOMS of search.cu).
DIRECT_ATOMS = 512
#: Atoms per bin that there is room for: bins of liquids hold more.
ATOMS_PER_BIN = 2
#: Atoms whose neighbors a block looks for.
WARPS = 8
#: What the device reports (common.h).
NEIGHBORS, ONE_SPOT, NOT_FINITE, OVERFLOW, STATUS_SIZE = 0, 1, 2, 3, 4

_NUMBERS_OF_LATTICE = 36


def variants() -> list[tuple[str, dict[str, int]]]:
    """Return all sources and macros that are compiled."""
    return [("search", precision(dtype)) for dtype in (torch.float32, torch.float64)]


class SearchArguments(Arguments):
    """Those of all kernels of search.cu."""

    _fields_ = (
        *((name, i64) for name in ("n", "num_bins", "capacity")),
        ("cutoff", f64),
        *(
            (name, pointer)
            for name in (
                *("coordinates", "cell", "pbc"),
                *("kind", "slot", "molecule", "molecule_start", "block_molecule", "block_first", "bin_first"),
                *("lattice", "volume", "head", "bin_count", "bin_start", "next", "bin_of", "wrap", "inside"),
                *("sorted", "single", "sorted_inside"),
                *("count", "neighbor", "neighbor_kind", "vectors", "shift", "start", "status"),
                *("pair_center", "pair_neighbor", "pair_shift"),
            )
        ),
    )


class Search:
    """Lists of all neighbors closer than a cutoff, in buffers that stay where they are.

    Lists do not depend on the order in which threads run, and are the same at every repetition.

    Parameters
    ----------
    atoms
        Who is there.
    cutoff
        Å, finite.
    capacity
        Neighbors of an atom that there is room for. What does not fit is counted in ``status``, and not written.
        Without one, neighbors are counted and not listed.
    dtype
        Of the vectors.
    shift
        Whether to list how many lattice vectors away neighbors are.
    status
        (4,) int32 that reports are made to; the largest values stay there until the caller clears them.
    """

    #: Neighbors of an atom that there is room for; 0 where they are only counted.
    capacity: int
    #: (n) int32, no more than there is room for.
    count: Tensor
    #: (n, capacity) int32: the atom, and its element. Nothing is written behind the last neighbor.
    neighbor: Tensor | None = None
    neighbor_kind: Tensor | None = None
    #: (n, capacity, 3) from the atom to its neighbor, Å.
    vectors: Tensor | None = None
    #: (n, capacity, 3) int32 lattice vectors added to the neighbor's position.
    shift: Tensor | None = None
    #: (4,) int32: the largest number of neighbors; whether two atoms stand on one spot; whether a coordinate or cell is
    #: not finite (1) or a cell singular (2); whether there are more images than can be searched.
    status: Tensor
    #: (B,) float64 of the cells as they are given, Å³; 1 without cells.
    volume: Tensor
    #: Whether ``pairs`` has found that no two atoms stand on one spot.
    apart = False

    def __init__(
        self,
        atoms: Composition,
        cutoff: float,
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        shift: bool = False,
        status: Tensor | None = None,
    ) -> None:
        if not 0 < cutoff < math.inf:
            raise ValueError(f"the cutoff of a neighbor search must be positive and finite, got {cutoff}")
        self.atoms, self.capacity = atoms, 0 if capacity is None else capacity
        self.is_direct = max(atoms.sizes, default=0) <= DIRECT_ATOMS
        self._program = program("search", precision(dtype), atoms.device)
        self._arguments = SearchArguments(n=atoms.num_atoms, cutoff=cutoff)
        n = atoms.num_atoms
        self.count = self._integers(n)
        self.status = self._integers(STATUS_SIZE).zero_() if status is None else status
        self.volume = torch.ones(atoms.num_molecules, dtype=torch.float64, device=atoms.device)
        self._kept = self._direct_buffers() if self.is_direct else self._bin_buffers()
        fill(
            self._arguments,
            **{name: getattr(atoms, name) for name in ("kind", "slot", "molecule", "molecule_start")},
            **self._kept,
            capacity=2**31 - 1 if capacity is None else capacity,
            count=self.count,
            status=self.status,
            volume=self.volume,
        )
        if capacity is not None:
            self.neighbor = self._integers(n, capacity)
            self.neighbor_kind = self._integers(n, capacity)
            self.vectors = torch.empty(n, capacity, 3, dtype=dtype, device=atoms.device)
            self.shift = self._integers(n, capacity, 3) if shift else None
            names = ("neighbor", "neighbor_kind", "vectors", "shift")
            fill(self._arguments, **{name: getattr(self, name) for name in names})

    def launch(self, coordinates: Tensor, cell: Tensor | None = None, pbc: Tensor | None = None) -> None:
        """Search.

        Parameters
        ----------
        coordinates
            (B, A, 3) float64, Å. Those of ghosts are not looked at.
        cell
            (B, 3, 3) float64; rows of axes that do not repeat are not looked at.
        pbc
            (B, 3) bool.
        """
        wide, narrow = torch.float64, torch.bool
        for name, tensor, dtype in (("coordinates", coordinates, wide), ("cell", cell, wide), ("pbc", pbc, narrow)):
            if tensor is not None and not (tensor.dtype == dtype and tensor.is_contiguous()):
                raise TypeError(f"{name} must be contiguous and {dtype}, got {tensor.dtype}, strides {tensor.stride()}")
        if (cell is None) != (pbc is None):
            raise ValueError("cell and pbc must both be given, or neither")
        self._inputs = coordinates, cell, pbc  # read once more by ``pairs``
        fill(self._arguments, coordinates=coordinates, cell=cell, pbc=pbc)
        if not self.is_direct:
            self._run("search_lattice", self.atoms.num_molecules, 1024)
            self._run("search_place", self._blocks(256), 256)
            self._run("search_scan", 1, 1024)
            self._run("search_order", self._blocks(256), 256)
        self._list()

    def pairs(self, periodic: bool) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return center (P,), neighbor (P,) and shift (P, 3) or None of what ``launch`` has counted, int64, ordered.

        None where it found something that it does not search. Waits for the device.
        """
        start = torch.nn.functional.pad(self.count.cumsum(0), (1, 0))  # (n + 1) int64
        told = torch.cat([start[-1:], self.status]).tolist()
        total, status = told[0], told[1:]
        if status[NOT_FINITE] or status[OVERFLOW]:
            return None
        self.apart = not status[ONE_SPOT]
        self.neighbor, self.shift = self._integers(total), self._integers(total, 3)
        center = torch.empty(total, dtype=torch.int64, device=self.atoms.device)
        neighbor, shift = torch.empty_like(center), center.new_empty(total, 3) if periodic else None
        fill(self._arguments, neighbor=self.neighbor, shift=self.shift, start=start)
        fill(self._arguments, pair_center=center, pair_neighbor=neighbor, pair_shift=shift)
        self._list()
        self._run("search_pairs", self._blocks(WARPS), 32 * WARPS)
        return center, neighbor, shift

    def _list(self) -> None:
        if self.is_direct:
            self._run("search_direct", len(self._kept["block_first"]), 32 * WARPS)
        else:
            self._run("search_bins", self._blocks(WARPS), 32 * WARPS)

    def _run(self, kernel: str, blocks: int, threads: int) -> None:
        self._program.kernel(kernel).launch(blocks, threads, self._arguments)

    def _blocks(self, atoms_per_block: int) -> int:
        return -(-self.atoms.num_atoms // atoms_per_block)

    def _integers(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=self.atoms.device)

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.atoms.device)

    def _direct_buffers(self) -> dict[str, Tensor]:
        """Blocks for every ``WARPS`` atoms of a molecule, and one for a molecule without atoms: its cell counts too."""
        blocks = -(-np.maximum(np.array(self.atoms.sizes, dtype=np.int32), 1) // WARPS)
        molecule = np.repeat(np.arange(len(blocks)), blocks)
        first = np.arange(len(molecule)) - (blocks.cumsum() - blocks)[molecule]
        sent = known.send(np.stack([molecule, WARPS * first]).astype(np.int32), self.atoms.device)
        return {"block_molecule": sent[0], "block_first": sent[1]}

    def _bin_buffers(self) -> dict[str, Tensor]:
        n = self.atoms.num_atoms
        first = [0, *accumulate(max(1, int(size / ATOMS_PER_BIN)) for size in self.atoms.sizes)]
        self._arguments.num_bins = first[-1]
        doubles = {
            "lattice": (self.atoms.num_molecules, _NUMBERS_OF_LATTICE),
            "inside": (n, 3),
            "sorted_inside": (n, 3),
        }
        integers = {
            **dict.fromkeys(("next", "bin_of", "sorted"), (n,)),
            **dict.fromkeys(("head", "bin_count"), (first[-1],)),
            "bin_start": (first[-1] + 1,),
            "wrap": (n, 3),
        }
        return {
            "bin_first": self._tensor(first),
            "single": torch.empty(n, 4, dtype=torch.float32, device=self.atoms.device),
            **{name: torch.empty(s, dtype=torch.float64, device=self.atoms.device) for name, s in doubles.items()},
            **{name: self._integers(*shape) for name, shape in integers.items()},
        }


def find_pairs(
    real: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float
) -> tuple[tuple[Tensor, Tensor, Tensor | None], bool] | None:
    """Return center (P,), neighbor (P,) and shift (P, 3) of all pairs, and whether no two atoms stand on one spot.

    Arguments are those of ``anipot.kernels.pairs.find_pairs``. None where something in the input has to be looked at by
    the search written in torch.

    Raises
    ------
    KernelError
        If the kernels cannot be compiled or loaded.
    """
    if not cutoff > 0:
        return None
    one_kind = (known.species_on_host(real) > 0).astype(np.int8) - 1
    search = Search(Composition.of_known(one_kind, real.device), cutoff)
    periodic = cell is not None and pbc is not None
    if cell is None or pbc is None:
        search.launch(coordinates.double().contiguous())
    else:
        search.launch(coordinates.double().contiguous(), cell.double().contiguous(), pbc.contiguous())
    found = search.pairs(periodic)
    return None if found is None else (found, search.apart)
