"""The temperature of a trajectory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anipot.dynamics.body import LINEAR, inertia, rotation
from anipot.dynamics.correlation import Array
from anipot.dynamics.trajectory import Trajectory
from anipot.units import ATOMIC_MASS

#: J/K (CODATA 2014).
BOLTZMANN = 1.38064852e-23
#: u Å²/fs² in J.
ENERGY = ATOMIC_MASS * 1e10
#: Share of the kinetic energy below which motion as a whole counts as none.
STILL = 1e-4
#: The same of the mean over atoms, below which an atom was held in its place: derivatives of splines leave rounding.
HELD = 1e-12


def velocities_of(trajectory: Trajectory) -> Array:
    """Return velocities (T, N, 3), Å/fs; where a trajectory has none, slopes of a quintic spline through positions."""
    from scipy.interpolate import make_interp_spline

    if trajectory.velocities is not None:
        return trajectory.velocities
    degree = min(5, (len(trajectory) - 1) // 2 * 2 - 1)
    if degree < 1:
        raise ValueError(f"{trajectory.name} has {len(trajectory)} frames without velocities; three are needed")
    time = np.arange(len(trajectory)) * trajectory.interval
    return np.asarray(make_interp_spline(time, trajectory.unwrapped(), k=degree).derivative()(time))


def degrees_of_freedom(trajectory: Trajectory) -> int:
    """Return three for each atom that moves, less those of the whole system that do not; see ``unheld_degrees``.

    Atoms that never move are fixed, and hold the others: nothing else is taken away then.
    """
    held = len(held_atoms(trajectory))
    return 3 * (len(trajectory.masses) - held) if held else unheld_degrees(trajectory)


def held_atoms(trajectory: Trajectory) -> NDArray[np.int64]:
    """Return the indices of atoms that never move, where others do: they were fixed."""
    velocities = velocities_of(trajectory)
    each = np.einsum("tni,tni,n->n", velocities, velocities, trajectory.masses)
    return np.flatnonzero(each < HELD * each.mean())


def unheld_degrees(trajectory: Trajectory) -> int:
    """Return 3N, less 3 if the center of mass stands still, less 2 or 3 if a free system does not rotate."""
    velocities, masses = velocities_of(trajectory), trajectory.masses
    free = 3 * len(masses)
    if len(masses) == 1:
        return free
    kinetic = 0.5 * np.einsum("tni,tni,n->t", velocities, velocities, masses)
    momentum = np.einsum("tni,n->ti", velocities, masses)
    drifting = ((momentum**2).sum(-1) / (2 * masses.sum())).mean() > STILL * kinetic.mean()
    rotation, axes = (0.0, 0) if trajectory.periodic else _rotation(trajectory, velocities)
    still = rotation <= STILL * kinetic.mean()
    return free - (0 if drifting else 3) - (axes if still else 0)


def _rotation(trajectory: Trajectory, velocities: Array) -> tuple[float, int]:
    """Return the mean energy of rotation and the number of axes that a system can rotate about."""
    masses = trajectory.masses
    arms = trajectory.positions - np.average(trajectory.positions, axis=1, weights=masses)[:, None]
    moments = np.linalg.eigvalsh(inertia(arms[:1], masses)[0])
    axes = int((moments > LINEAR * moments.max()).sum())
    momentum, spin = rotation(arms, velocities, masses)
    return float(0.5 * (momentum * spin).sum(-1).mean()), axes


def kinetic_temperature(trajectory: Trajectory) -> float:
    """Return the temperature (K) of the mean kinetic energy, shared by the degrees of freedom that move.

    Parameters
    ----------
    trajectory
        Whether it drifts or rotates as a whole is looked at, not assumed.

    Examples
    --------
    >>> positions = np.zeros((3, 2, 3))
    >>> positions[:, 1, 0] = 0.7
    >>> velocities = np.zeros((3, 2, 3))
    >>> velocities[:, 0, 0], velocities[:, 1, 0] = 0.01, -0.01
    >>> molecule = Trajectory(np.array([1, 1]), np.ones(2), positions, 0.5, velocities)
    >>> degrees_of_freedom(molecule), round(kinetic_temperature(molecule))
    (1, 241)
    """
    velocities = velocities_of(trajectory)
    twice = np.einsum("tni,tni,n->", velocities, velocities, trajectory.masses) / len(velocities) * ENERGY
    return float(twice / (degrees_of_freedom(trajectory) * BOLTZMANN))
