"""What a model says of one geometry, in the units of ASE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from anipot.frames import defined_properties

if TYPE_CHECKING:
    from anipot.interfaces.ase import Calculator


@dataclass(frozen=True)
class Point:
    """Energy, forces and more of n atoms, by ``point_of``."""

    #: The geometry.
    atoms: Atoms
    #: eV.
    energy: float
    #: (n, 3) eV/Å.
    forces: NDArray[np.float64]
    #: (6,) eV/Å³, in the order and with the sign of ASE, of a system that repeats; else None.
    stress: NDArray[np.float64] | None
    #: eV, standard deviation over the members of an ensemble; None for a single model.
    energy_std: float | None
    #: (n, 3) eV/Å, the same of the forces.
    forces_std: NDArray[np.float64] | None
    #: What the property heads say, by their names; a dipole is in e·Å. No moments of a system that repeats.
    properties: dict[str, NDArray[np.float64]]

    @property
    def fmax(self) -> float:
        """eV/Å, the largest force on an atom."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    def __repr__(self) -> str:
        spread = "" if self.energy_std is None else f" ± {self.energy_std:.4f}"
        heads = f", {', '.join(self.properties)}" if self.properties else ""
        formula = self.atoms.get_chemical_formula()
        return f"Point({formula}, {self.energy:.4f}{spread} eV, fmax {self.fmax:.3g} eV/Å{heads})"

    def results(self) -> dict[str, Any]:
        """Return the numbers, with their units in the keys."""
        return {
            "formula": self.atoms.get_chemical_formula(),
            "energy_ev": self.energy,
            "forces_ev_per_angstrom": self.forces,
            "stress_ev_per_angstrom3": self.stress,
            "energy_std_ev": self.energy_std,
            "forces_std_ev_per_angstrom": self.forces_std,
            "properties": self.properties,
        }


def point_of(atoms: Atoms, calculator: Calculator) -> Point:
    """Return all that a model says of a geometry.

    Parameters
    ----------
    atoms
        The geometry.
    calculator
        Of the model, ``model.ase()``.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> point_of(molecule("H2O"), anipot.load().ase())
    Point(H2O, -2078... ± ... eV, fmax ... eV/Å, dipole)
    """
    names = defined_properties(calculator.model, atoms)
    calculator.calculate(atoms, names)
    values = dict(calculator.results)
    spread = calculator.get_spread(atoms) if len(calculator.model) > 1 else {}
    return Point(
        atoms=atoms.copy(),
        energy=values["energy"],
        forces=values["forces"],
        stress=values.get("stress"),
        energy_std=spread.get("energy_std"),
        forces_std=spread.get("forces_std"),
        properties={name: values[name] for name in names},
    )
