"""Watching a run: do the members still agree, and is the molecule still one?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import units
from numpy.typing import NDArray

#: Atoms closer than this multiple of the sum of their covalent radii count as bonded: 1.6 Å for C-H, 2.3 Å for C-C.
BONDED = 1.5
#: Free systems above this size are not looked through for their parts.
LARGEST = 2000
#: K; nothing that these potentials describe is as hot, whatever it was set to.
HOTTEST = 50_000.0


class DynamicsError(RuntimeError):
    """A run that cannot go on, or must not."""


@dataclass(frozen=True)
class Guard:
    """When the members of an ensemble disagree too much, a trajectory leaves what they were taught.

    Parameters
    ----------
    energy
        Threshold of ρ = σ/√N, kcal/mol: the standard deviation of the members' energies over the root of the number of
        atoms; 0.23 in the making of ANI-1x (doi:10.1063/1.5023802). None to leave it alone.
    force
        Threshold of the largest standard deviation of a force, eV/Å: the root of the sum over x, y and z of the
        variances between the members, for the atom where it is largest. None to leave it alone.
    action
        ``"stop"`` ends the run; ``"save"`` writes the frame to ``uncertain.xyz``, warns once, and goes on.

    Raises
    ------
    ValueError
        Without a threshold, or for one that is no positive number, or for an unknown action.

    Examples
    --------
    >>> Guard(energy=0.23).exceeded((0.3, 0.1))
    'rho = 0.3 kcal/mol is above 0.23 kcal/mol'
    """

    energy: float | None = None
    force: float | None = None
    action: str = "stop"

    def __post_init__(self) -> None:
        if self.action not in ("stop", "save"):
            raise ValueError(f"action must be 'stop' or 'save', got {self.action!r}")
        given = [value for value in (self.energy, self.force) if value is not None]
        if not given or not all(value > 0 for value in given):
            raise ValueError(f"a guard needs a threshold above 0, got energy={self.energy} and force={self.force}")

    def spread(self, atoms: Any) -> tuple[float, float]:
        """Return ρ (kcal/mol) and the largest standard deviation of a force (eV/Å)."""
        found = atoms.calc.get_spread(atoms)
        return found["qbc"] / (units.kcal / units.mol), float(np.linalg.norm(found["forces_std"], axis=1).max())

    def exceeded(self, spread: tuple[float, float]) -> str:
        """Return which threshold a spread is above, or an empty string; NaN is above every threshold."""
        limits = ((self.energy, "rho", "kcal/mol"), (self.force, "spread of a force", "eV/Å"))
        for value, (limit, name, unit) in zip(spread, limits, strict=True):
            if limit is not None and not value <= limit:
                return f"{name} = {value:.3g} {unit} is above {limit:.3g} {unit}"
        return ""


def check_sane(atoms: Any) -> None:
    """Refuse to go on with positions or energies that are no numbers, or a system that has exploded.

    Raises
    ------
    DynamicsError
        Naming what was seen.
    """
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.get_potential_energy()):
        raise DynamicsError("positions or energy are no longer finite numbers")
    if not atoms.get_temperature() < HOTTEST:
        raise DynamicsError(f"the temperature is {atoms.get_temperature():.3g} K: the system has exploded")


def bonds(atoms: Any) -> NDArray[np.bool_] | None:
    """Return which atoms (N, N) of a free system are bonded; None for a periodic or a very large one."""
    from ase.data import covalent_radii
    from scipy.spatial.distance import cdist

    if atoms.pbc.any() or len(atoms) > LARGEST:
        return None
    radii = covalent_radii[atoms.numbers]
    return np.asarray(cdist(atoms.positions, atoms.positions) < BONDED * (radii[:, None] + radii))


def num_parts(bonded: NDArray[np.bool_]) -> int:
    """Return into how many parts a system with these bonds falls.

    Examples
    --------
    >>> from ase import Atoms
    >>> num_parts(bonds(Atoms("H2", [[0, 0, 0], [0, 0, 3.0]])))
    2
    """
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(bonded, directed=False, return_labels=False))
