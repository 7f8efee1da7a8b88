"""Distances that no molecule has, and molecules that are turned and put beside each other."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

#: Atoms closer than this share of the sum of their covalent radii stand inside each other.
CLOSEST = 0.65


@cache
def _radii() -> NDArray[np.float64]:
    from ase.data import covalent_radii

    return np.asarray(covalent_radii, dtype=float)


def collides(numbers: NDArray[np.int64], coordinates: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each of n geometries (n, a, 3), Å, of the same atoms (a,) whether two atoms stand inside each other.

    >>> collides(np.array([1, 1]), np.array([[[0, 0, 0], [0, 0, 0.74]], [[0, 0, 0], [0, 0, 0.2]]]))
    array([False,  True])
    """
    first, second = np.triu_indices(len(numbers), 1)
    radii = _radii()[numbers]
    limit = CLOSEST * (radii[first] + radii[second])
    distances = np.linalg.norm(coordinates[:, first] - coordinates[:, second], axis=-1)
    bad = ~np.isfinite(coordinates).all((1, 2))
    return bad | (distances < limit).any(-1)


def beside(
    one: NDArray[np.float64], other: NDArray[np.float64], closest: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return ``other`` (b, 3) turned at random and moved in a random direction away from ``one`` (a, 3).

    Parameters
    ----------
    closest
        Distance between the two nearest atoms of the two molecules, Å.
    rng
        Where the turn and the direction come from.

    Returns
    -------
    array
        (b, 3) Å.
    """
    from scipy.spatial.transform import Rotation

    turned = (other - other.mean(0)) @ Rotation.random(random_state=rng).as_matrix().T
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    # Atom j at r_j + s d touches the sphere around atom i at the larger root s of |r_j - r_i + s d| = closest.
    offsets = (turned[None] - (one - one.mean(0))[:, None]).reshape(-1, 3)
    along = offsets @ direction
    square = closest**2 - (offsets**2).sum(-1) + along**2
    roots = np.where(square >= 0, -along + np.sqrt(np.maximum(square, 0)), -np.inf)
    shift = roots.max()
    if not np.isfinite(shift):  # they pass each other at a distance: stop at the nearest point
        shift = -along[np.argmax(square)]
    return turned + one.mean(0) + shift * direction


def superpose(
    moved: NDArray[np.float64], fixed: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return how a geometry is turned and shifted onto another: ``moved @ rotation.T + shift``, without mirrors.

    Parameters
    ----------
    moved, fixed
        (a, 3) Å, the same atoms in the same order.

    Returns
    -------
    rotation, shift, deviation
        (3, 3), (3,) and the largest distance that is left between an atom here and there, Å.
    """
    from scipy.spatial.transform import Rotation

    centers = moved.mean(0), fixed.mean(0)
    if np.abs(moved - fixed).max() < 1e-6:  # do not turn by rounding what is in place
        rotation = np.eye(3)
    else:
        import warnings

        with warnings.catch_warnings():  # linear molecules: any turn about the axis will do
            warnings.simplefilter("ignore", UserWarning)
            rotation = Rotation.align_vectors(fixed - centers[1], moved - centers[0])[0].as_matrix()
    shift = centers[1] - centers[0] @ rotation.T
    left = np.linalg.norm(moved @ rotation.T + shift - fixed, axis=-1)
    return rotation, shift, float(left.max(initial=0.0))
