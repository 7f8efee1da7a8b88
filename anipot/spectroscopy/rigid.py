"""Motions that cost no energy, which are no vibrations: of a whole molecule, and of parts of it that stand apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from anipot.neighbors import find_pairs
from anipot.potential import Potential

#: Å: atoms that stand closer than this to a line, in the mean square, are on it. A relaxation stops a little before a
#: linear molecule is straight, and must not cost it a vibration.
STRAIGHT = 0.01


class Part(NamedTuple):
    """Atoms of a system that do not feel any other."""

    #: (p,) their indices.
    atoms: NDArray[np.int64]
    #: (p, 3) Å, put together where a cell cuts them apart.
    positions: NDArray[np.float64]
    #: Whether they may also turn freely: not if they are bound to their periodic images.
    turns: bool


def parts_of(model: Potential, atoms: Atoms) -> list[Part]:
    """Return the parts of a system.

    Two atoms belong to one part if a chain of atoms leads from one to the other whose steps are within the cutoff of
    the model.
    """
    numbers = torch.as_tensor(atoms.numbers, dtype=torch.long)[None]
    positions = torch.as_tensor(atoms.positions, dtype=torch.float64)[None]
    cell = torch.as_tensor(atoms.cell.array)[None] if atoms.pbc.any() else None
    pbc = torch.as_tensor(atoms.pbc)[None] if atoms.pbc.any() else None
    pairs = find_pairs(numbers, positions, cell, pbc, model.cutoff)
    center, neighbor = pairs.center.numpy(), pairs.neighbor.numpy()
    graph = coo_array((np.ones(len(center), dtype=bool), (center, neighbor)), shape=(len(atoms),) * 2).tocsr()
    count, label = connected_components(graph, directed=False)
    members = [np.flatnonzero(label == i) for i in range(count)]
    if pairs.shift is None:
        return [Part(part, atoms.positions[part], True) for part in members]
    shift = pairs.shift.numpy()
    image = _images(graph, members, center, neighbor, shift)
    away = (image[neighbor] - image[center] != shift).any(-1)
    bound = set(label[center[away]].tolist())
    whole = atoms.positions + image @ atoms.cell.array
    return [Part(part, whole[part], i not in bound) for i, part in enumerate(members)]


def _images(graph: Any, members: list[Any], center: Any, neighbor: Any, shift: Any) -> NDArray[np.int64]:
    """Return the image (n, 3) of each atom that lies beside those of its part, going from neighbor to neighbor."""
    steps = dict(zip(zip(center.tolist(), neighbor.tolist(), strict=True), shift, strict=True))
    image = np.zeros((graph.shape[0], 3), dtype=np.int64)
    for part in members:
        order, before = breadth_first_order(graph, part[0])
        for atom in order[1:].tolist():
            image[atom] = image[before[atom]] + steps[int(before[atom]), atom]
    return image


def straightened(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positions (n, 3) on the line that they nearly are on, or as they are.

    >>> straightened(np.array([[0.0, 0, 0], [1, 1e-4, 0], [2, 0, 0]]))[:, 1].std() < 1e-12
    np.True_
    """
    middle = positions.mean(0)
    _, sizes, axes = np.linalg.svd(positions - middle)
    away = np.sqrt((sizes[1:] ** 2).sum() / len(positions))
    return middle + np.outer((positions - middle) @ axes[0], axes[0]) if away < STRAIGHT else positions


def is_linear(positions: NDArray[np.float64]) -> bool:
    """Whether there are two atoms or more, all on a line.

    >>> is_linear(np.eye(3)), is_linear(np.eye(2, 3))
    (False, True)
    """
    return len(positions) > 1 and bool(np.linalg.matrix_rank(_centered(straightened(positions)), tol=1e-6) < 2)


def rigid_motions(masses: NDArray[np.float64], free: NDArray[np.int64], parts: list[Part]) -> NDArray[np.float64]:
    """Return an orthonormal basis (3f, k) of the rigid motions of the f free atoms, in mass-weighted coordinates.

    Each part moves along three axes and, if it ``turns``, about them, as far as this leaves its fixed atoms where they
    are: one that is held at a single atom still turns about it.
    """
    row = {atom: i for i, atom in enumerate(free.tolist())}
    columns = [np.empty((3 * len(free), 0))]
    for part in parts:
        motions = _motions(straightened(part.positions), part.turns)  # (6, p, 3)
        is_free = np.array([atom in row for atom in part.atoms.tolist()])
        moving = part.atoms[is_free]
        held = motions[:, ~is_free].reshape(len(motions), 3 * int((~is_free).sum()))
        allowed = _null_space(held.T) @ motions[:, is_free].reshape(len(motions), 3 * len(moving))
        weighted = allowed.reshape(len(allowed), len(moving), 3) * np.sqrt(masses[moving])[None, :, None]
        full = np.zeros((len(weighted), len(free), 3))
        full[:, [row[atom] for atom in moving.tolist()]] = weighted
        columns.append(_basis(full.reshape(len(weighted), 3 * len(free)).T))
    return np.concatenate(columns, axis=1)


def _centered(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    return positions - positions.mean(0)


def _motions(positions: NDArray[np.float64], may_turn: bool) -> NDArray[Any]:
    """Return translations, and rotations about the middle, (3 or 6, n, 3)."""
    axes = np.eye(3)
    translations = np.repeat(axes[:, None, :], len(positions), axis=1)
    if not may_turn:
        return translations
    rotations = np.cross(axes[:, None, :], _centered(positions)[None])
    return np.concatenate([translations, rotations])


def _null_space(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return combinations (k, n) of n columns that give 0."""
    if not len(matrix):
        return np.eye(matrix.shape[1])
    _, sizes, right = np.linalg.svd(matrix)
    return right[int((sizes > 1e-6 * max(1.0, sizes.max(initial=0.0))).sum()) :]


def _basis(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an orthonormal basis of the columns."""
    if not vectors.size:
        return vectors[:, :0]
    left, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    return left[:, sizes > 1e-6 * max(1.0, sizes.max(initial=0.0))]
