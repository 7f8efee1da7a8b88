"""What an optimisation leaves of one system."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray


@dataclass(frozen=True)
class Optimized:
    """One system, relaxed as far as it went.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> water = anipot.optimize(molecule("H2O"), anipot.load())[0]
    >>> water.converged, round(water.atoms.get_angle(1, 0, 2)) in range(102, 108)
    (True, True)
    """

    #: A copy of what was given, at the end; holds energy, forces and, if it repeats, stress, in the units of ASE.
    atoms: Atoms
    #: Whether the largest force fell below ``fmax``.
    converged: bool
    #: "" if so, else what happened.
    why: str
    #: (S + 1,) Hartree, at the start and after each of S steps; those of L-BFGS that went up were then taken back.
    energies: NDArray[np.float64]
    #: (S + 1,) eV/Å, the largest force on an atom (with cells: or on the deformation, as in ASE).
    forces_max: NDArray[np.float64]
    #: Every geometry, where it was asked for.
    path: list[Atoms] | None = None

    @property
    def steps(self) -> int:
        """Number of steps taken, S."""
        return len(self.energies) - 1

    @property
    def energy(self) -> float:
        """Hartree, of ``atoms``."""
        from ase.units import Hartree

        return float(self.atoms.get_potential_energy()) / Hartree

    @property
    def fmax(self) -> float:
        """eV/Å, the last of ``forces_max``."""
        return float(self.forces_max[-1])

    def __repr__(self) -> str:
        how = "converged" if self.converged else f"not converged: {self.why}"
        return f"Optimized({self.atoms.get_chemical_formula()}, {how}, {self.steps} steps, fmax {self.fmax:.3g} eV/Å)"
