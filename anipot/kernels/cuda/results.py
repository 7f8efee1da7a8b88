"""Energies, forces and stress of a step, from the energies of atoms and the gradients by the vectors of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from anipot.kernels.cuda.program import Arguments, fill, i64, pointer, precision, program
from anipot.kernels.cuda.search import Search

#: Atoms whose energies one block adds up.
CHUNK_ATOMS = 1024
WARPS, CHUNK_THREADS, SUMS = 8, 256, 10


def variants() -> list[tuple[str, dict[str, int]]]:
    """Return all sources and macros that are compiled."""
    return [("results", precision(dtype)) for dtype in (torch.float32, torch.float64)]


class ResultsArguments(Arguments):
    """Those of all kernels of results.cu."""

    _fields_ = (
        *((name, i64) for name in ("n", "capacity", "num_slots", "num_molecules", "num_chunks")),
        *((name, i64) for name in ("members", "mean", "rows", "wide", "one_chunk")),
        *(
            (name, pointer)
            for name in (
                *("kind", "slot", "chunk_molecule", "chunk_first", "molecule_chunk"),
                *("count", "neighbor", "vectors", "gradients", "fixed", "virial"),
                *("row_energies", "row_of", "self_energies", "intercept", "volume", "partial"),
                *("energies", "atomic_energies", "forces", "stress", "status"),
            )
        ),
    )


class Results:
    """What is computed at every step of a fixed composition, in buffers that stay where they are.

    Sums are added up in one order, or in fixed point, so that a step has the same bits at every repetition.

    Parameters
    ----------
    search
        The lists that the gradients belong to.
    self_energies
        (E,) float64, Hartree.
    members
        Networks whose energies are given, M.
    intercept
        (1,) float64, energy of every molecule that has an atom; or None.
    each
        Return the results of every member, instead of those of their mean.
    forces, stress, atomic_energies
        What to compute besides energies.
    dtype
        Of forces and stress.
    outputs
        Where results go, by their names; without them memory is taken here.
    """

    #: (O, B) float64, where O is M if the members are asked for and 1 if not.
    energies: Tensor
    #: (O, B * A) float64 with self energies; 0 for ghosts.
    atomic_energies: Tensor | None
    #: (O, B * A, 3) Hartree/Å; 0 for ghosts.
    forces: Tensor | None
    #: (O, B, 3, 3) Hartree/Å³: what ``anipot.derivatives.stress_of`` says.
    stress: Tensor | None

    def __init__(
        self,
        search: Search,
        self_energies: Tensor,
        *,
        members: int = 1,
        intercept: Tensor | None = None,
        each: bool = False,
        forces: bool = True,
        stress: bool = False,
        atomic_energies: bool = False,
        dtype: torch.dtype = torch.float32,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> None:
        if search.neighbor is None or search.vectors is None:
            raise ValueError("results need a search that lists neighbors and vectors: give it a capacity")
        atoms, device = search.atoms, search.atoms.device
        self.search, self.outputs = search, members if each else 1
        shape = self.outputs, atoms.num_molecules, atoms.num_slots, atoms.num_atoms
        self._program = program("results", precision(search.vectors.dtype), device)

        def zeros(wanted: bool, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor | None:
            return torch.zeros(shape, dtype=dtype, device=device) if wanted else None

        count, num_molecules, num_slots, n = shape
        places: Mapping[str, Tensor | None] = outputs or {
            "energies": zeros(True, count, num_molecules),
            "atomic_energies": zeros(atomic_energies, count, num_slots),
            "forces": zeros(forces, count, num_slots, 3, dtype=dtype),
            "stress": zeros(stress, count, num_molecules, 3, 3, dtype=dtype),
        }
        for name in ("energies", "atomic_energies", "forces", "stress"):
            setattr(self, name, places.get(name))
        chunks = [
            (b, first, min(CHUNK_ATOMS, size - first))
            for b, size in enumerate(atoms.sizes)
            for first in range(0, max(size, 1), CHUNK_ATOMS)
        ]
        chunks_of = [-(-max(size, 1) // CHUNK_ATOMS) for size in atoms.sizes]
        tables = {
            "chunk_molecule": [b for b, _, _ in chunks],
            "chunk_first": [0, *accumulate(size for _, _, size in chunks)],
            "molecule_chunk": [0, *accumulate(chunks_of)],
        }
        self._kept = {
            **{name: torch.tensor(values, dtype=torch.int32, device=device) for name, values in tables.items()},
            "fixed": zeros(forces, count, n, 3, dtype=torch.int64),
            "virial": zeros(stress, count, n, 9),
            "partial": zeros(True, count, len(chunks), SUMS),
            "self_energies": self_energies.to(device, torch.float64).contiguous(),
            "intercept": None if intercept is None else intercept.to(device, torch.float64).contiguous(),
        }
        self._num_chunks = len(chunks)
        self._one_chunk = all(count == 1 for count in chunks_of)
        sizes = {
            **{"n": n, "capacity": search.neighbor.shape[1], "num_slots": num_slots, "num_molecules": num_molecules},
            **{"num_chunks": len(chunks), "members": members, "mean": not each},
            **{"wide": dtype == torch.float64, "one_chunk": self._one_chunk},
        }
        lists = {name: getattr(search, name) for name in ("count", "neighbor", "vectors", "volume", "status")}
        results = {name: getattr(self, name) for name in ("energies", "atomic_energies", "forces", "stress")}
        self._arguments = fill(
            ResultsArguments(**sizes), kind=atoms.kind, slot=atoms.slot, **lists, **results, **self._kept
        )

    def launch(self, row_energies: Tensor, row_of: Tensor, gradients: Tensor | None = None) -> None:
        """Compute.

        Parameters
        ----------
        row_energies
            (M, R) float64, without self energies.
        row_of
            (n,) int32, the row of each atom.
        gradients
            (O, n, capacity, 3) dE/dvector of the members, or of their mean, of the type of the vectors. Needed for
            forces and stress.
        """
        fill(self._arguments, row_energies=row_energies, rows=row_energies.shape[1], row_of=row_of, gradients=gradients)
        n = self.search.atoms.num_atoms
        if self.forces is not None or self.stress is not None:
            if gradients is None:
                raise ValueError("forces and stress need the gradients by the vectors of pairs, got None")
            self._run("results_pairs", -(-n // WARPS), 32 * WARPS)
        self._run("results_atoms", self._num_chunks, CHUNK_THREADS)
        if not self._one_chunk:
            self._run("results_molecules", self.search.atoms.num_molecules, 32)

    def _run(self, kernel: str, blocks: int, threads: int) -> None:
        self._program.kernel(kernel).launch((blocks, self.outputs), threads, self._arguments)
