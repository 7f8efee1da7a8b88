"""The motion within a free molecule, without that of the molecule as a whole."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from anipot.dynamics.correlation import Array
from anipot.dynamics.guard import bonds, num_parts
from anipot.dynamics.trajectory import Trajectory

#: Ratio of extents below which a molecule counts as linear.
LINEAR = 1e-3


def body_frame(trajectory: Trajectory) -> Trajectory:
    """Return a trajectory as seen by someone who moves and turns with the molecule.

    Each frame is turned onto the first by the rotation of least mass-weighted squares (W. Kabsch,
    doi:10.1107/S0567739476001873); from velocities, those of the center of mass and of the rotation are taken away.

    Parameters
    ----------
    trajectory
        Of a free system. One that falls apart has no such frame, and gives a ``UserWarning``.

    Returns
    -------
    Trajectory
        With positions from the center of mass, and dipoles turned. A linear molecule is not turned, since the angle
        about its axis is undefined.

    Raises
    ------
    ValueError
        For a periodic system, whose axes stay where they are.

    Examples
    --------
    >>> import numpy as np
    >>> turn = [np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) for a in (0, 0.1, 0.2)]
    >>> x = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    >>> turning = Trajectory(np.array([6, 6, 6]), np.ones(3), np.array([x @ r.T for r in turn]), 0.5)
    >>> still = body_frame(turning).positions
    >>> bool(np.allclose(still, still[0]))
    True
    """
    if trajectory.periodic:
        raise ValueError(f"{trajectory.name} is periodic: a crystal or liquid does not turn as a whole")
    _check_whole(trajectory)
    masses = trajectory.masses
    arms = trajectory.positions - np.average(trajectory.positions, axis=1, weights=masses)[:, None]
    turns = _turns(arms, masses)
    velocities, dipoles = trajectory.velocities, trajectory.dipoles
    if velocities is not None:
        velocities = velocities - np.average(velocities, axis=1, weights=masses)[:, None]
        velocities = velocities - np.cross(rotation(arms, velocities, masses)[1][:, None], arms)
        velocities = velocities @ turns
    if dipoles is not None:
        dipoles = np.einsum("ti,tij->tj", dipoles, turns)
    return replace(trajectory, positions=arms @ turns, velocities=velocities, dipoles=dipoles)


def _check_whole(trajectory: Trajectory) -> None:
    """Warn of a molecule that is no longer one at the end."""
    from ase import Atoms

    first, last = (bonds(Atoms(trajectory.numbers, trajectory.positions[t])) for t in (0, -1))
    parts = [1 if bonded is None else num_parts(bonded) for bonded in (first, last)]
    if parts[0] != parts[1]:
        text = f"{trajectory.name} begins with {parts[0]} bonded parts and ends with {parts[1]}"
        warnings.warn(f"{text}; there is no frame that turns with all of them", UserWarning, stacklevel=3)


def _turns(arms: Array, masses: Array) -> Array:
    """Return matrices (T, 3, 3) from the right that turn each frame onto the first."""
    identity = np.broadcast_to(np.eye(3), (len(arms), 3, 3))
    if len(masses) < 3:
        return identity
    extents = np.linalg.svd(arms[0] * np.sqrt(masses)[:, None], compute_uv=False)
    if extents[1] < LINEAR * extents[0]:
        return identity
    left, _, right = np.linalg.svd(np.einsum("tni,nj,n->tij", arms, arms[0], masses))
    signs = np.ones((len(arms), 3))
    signs[:, 2] = np.sign(np.linalg.det(left @ right))  # a rotation, not a reflection
    return np.asarray((left * signs[:, None]) @ right)


def rotation(arms: Array, velocities: Array, masses: Array) -> tuple[Array, Array]:
    """Return angular momenta, u Å²/fs, and angular velocities, 1/fs, both (T, 3)."""
    angular = np.einsum("tni,n->ti", np.cross(arms, velocities), masses)
    inverse = np.linalg.pinv(inertia(arms, masses), rcond=LINEAR, hermitian=True)
    return angular, np.asarray((inverse @ angular[..., None])[..., 0])


def inertia(arms: Array, masses: Array) -> Array:
    """Return tensors of inertia (T, 3, 3), u Å², of positions (T, N, 3) from the center of mass."""
    squares = np.einsum("tni,tnj,n->tij", arms, arms, masses)
    return np.asarray(np.trace(squares, axis1=1, axis2=2)[:, None, None] * np.eye(3) - squares)
