"""Hessians of many systems: padded batches of like sizes, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from anipot.derivatives import single_point
from anipot.potential import Potential
from anipot.response import atomic_polar_tensors
from anipot.structures import pad

#: Bytes that the Hessians of one batch may take.
BATCH_BYTES = 128 * 2**20
#: Systems of one batch have at least this fraction of the atoms of the largest.
LIKE_SIZES = 0.75


class Batch(NamedTuple):
    """Some of the systems, as ``single_point`` takes them."""

    #: Which.
    indices: list[int]
    species: Tensor
    coordinates: Tensor
    cell: Tensor | None
    pbc: Tensor | None


class Derivatives(NamedTuple):
    """Of one system of n atoms, at the mean over members. Å, Hartree, e."""

    energy: float
    forces: NDArray[np.float64]  # (n, 3)
    hessian: NDArray[np.float64]  # (3n, 3n)
    polar: NDArray[np.float64] | None  # (n, 3, 3) derivatives of the dipole moment


def batches(frames: Sequence[Atoms], model: Potential) -> Iterator[Batch]:
    """Yield the systems from the largest down, in batches that pad little and take little memory."""
    waiting = sorted(range(len(frames)), key=lambda i: -len(frames[i]))
    while waiting:
        largest = len(frames[waiting[0]])
        most = max(1, BATCH_BYTES // (8 * (3 * largest) ** 2))
        taken = [i for i in waiting[:most] if len(frames[i]) >= LIKE_SIZES * largest]
        waiting = waiting[len(taken) :]
        yield _batch(taken, [frames[i] for i in taken], model)


def _batch(indices: list[int], frames: list[Atoms], model: Potential) -> Batch:
    molecules = [(torch.as_tensor(a.numbers, dtype=torch.long), torch.as_tensor(a.positions)) for a in frames]
    species, coordinates = (tensor.to(model.device) for tensor in pad(molecules))
    if not model.periodic_table_index:
        species = model.converter.convert(species)
    if not any(atoms.pbc.any() for atoms in frames):
        return Batch(indices, species, coordinates, None, None)
    cell = torch.as_tensor(np.stack([atoms.cell.array for atoms in frames]), device=model.device)
    pbc = torch.as_tensor(np.stack([atoms.pbc for atoms in frames]), device=model.device)
    return Batch(indices, species, coordinates, cell, pbc)


def derivatives_of(model: Potential, batch: Batch, sizes: Sequence[int], dipole: str | None) -> list[Derivatives]:
    """Return energies, forces, Hessians and, with the name of a dipole, its derivatives, without ghosts."""
    try:
        result = single_point(model, *batch[1:], hessian=True)
    except ValueError as error:  # which knows rows of the batch only
        why = re.sub(r"\bmolecule (\d+)", lambda row: f"system {batch.indices[int(row[1])]}", str(error))
        raise ValueError(why) from error
    assert result.forces is not None
    assert result.hessian is not None
    polar = None if dipole is None else atomic_polar_tensors(model, batch.species, batch.coordinates, dipole=dipole)
    found = []
    for b, n in enumerate(sizes):
        found.append(
            Derivatives(
                float(result.energies[b]),
                _numpy(result.forces[b, :n]),
                _numpy(result.hessian[b, : 3 * n, : 3 * n]),
                None if polar is None else _numpy(polar[b, :n]),
            )
        )
    return found


def curvatures(
    model: Potential, batch: Batch, directions: Sequence[NDArray[np.float64]]
) -> Iterator[list[NDArray[np.float64]]]:
    """Yield, member by member, the curvature v · H v of its energy along the directions (m, n, 3) of each system."""
    for member in model:
        hessian = single_point(member, *batch[1:], forces=False, hessian=True).hessian
        assert hessian is not None
        each = []
        for b, vectors in enumerate(directions):
            size = 3 * vectors.shape[1]
            flat = vectors.reshape(len(vectors), size)
            each.append(np.einsum("mi,ij,mj->m", flat, _numpy(hessian[b, :size, :size]), flat, optimize=True))
        yield each


def _numpy(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()
