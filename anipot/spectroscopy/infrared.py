"""Infrared intensities in the double-harmonic approximation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from anipot.potential import Potential
from anipot.units import ATOMIC_MASS, AVOGADRO, ELEMENTARY_CHARGE, SPEED_OF_LIGHT

#: Vacuum permittivity, F/m, from μ₀ = 4π·10⁻⁷ (exact in CODATA 2014).
_EPSILON_0 = 1 / (4e-7 * math.pi * SPEED_OF_LIGHT**2)
#: N_A/(12 ε₀ c²) e²/u in km/mol: the intensity of a mode whose dipole moment changes by 1 e/√u. It is 974.9, or
#: 42.26 for 1 D/(Å √u).
TO_KM_PER_MOL = AVOGADRO * ELEMENTARY_CHARGE**2 / (12 * _EPSILON_0 * SPEED_OF_LIGHT**2 * ATOMIC_MASS) / 1000


def intensities(
    polar: NDArray[np.float64], modes: NDArray[np.float64], reduced_masses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return integrated molar absorption coefficients (m,), km/mol: A = N_A/(12 ε₀ c²) |∂μ/∂Q|².

    Q is the mass-weighted coordinate of the mode. E. B. Wilson, J. C. Decius, P. C. Cross, Molecular Vibrations, 1955;
    by the same derivatives in doi:10.1021/acs.jcim.0c00451 (Listing 4).

    Parameters
    ----------
    polar
        (n, 3, 3) e: element [a, i, j] is ∂μ_i/∂x_aj, as ``atomic_polar_tensors`` returns them.
    modes
        (m, n, 3) displacements of norm 1.
    reduced_masses
        (m,) u.

    Examples
    --------
    >>> stretch = np.array([[[-1.0, 0, 0], [1, 0, 0]]]) / 2**0.5  # of charges ±e, each of 1 u
    >>> charges = np.array([-1.0, 1.0])[:, None, None] * np.eye(3)
    >>> intensities(charges, stretch, np.array([1.0])).round(1).tolist()
    [1949.8]
    """
    slope = np.einsum("aij,maj->mi", polar, modes) / np.sqrt(reduced_masses)[:, None]
    return TO_KM_PER_MOL * (slope**2).sum(-1)


def dipole_name(model: Potential, asked: bool | str, frames: Sequence[Atoms]) -> str | None:
    """Return the name of the dipole that intensities are made of, or None where none are asked for or to be had.

    Raises
    ------
    ValueError
        If they are asked for but there is no dipole, or a system is periodic.
    """
    if asked is False:
        return None
    periodic = next((i for i, atoms in enumerate(frames) if atoms.pbc.any()), None)
    if asked == "auto":
        return "dipole" if "dipole" in model.property_heads and periodic is None else None
    name = "dipole" if asked is True else str(asked)
    if name not in model.property_heads:
        known = ", ".join(model.property_heads) or "none"
        raise ValueError(f"infrared intensities need a property head named {name!r}; this model has {known}")
    if periodic is not None:
        raise ValueError(f"system {periodic} is periodic; infrared intensities are for free molecules")
    return name
