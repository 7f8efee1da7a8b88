"""``torchani.units``: factors and functions under the names of TorchANI 2.2 (CODATA 2014, as in ASE).

``sqrt_mhessian2invcm`` and ``sqrt_mhessian2milliev`` take frequencies, the square root of an eigenvalue divided by 2π.
Those of ``anipot.units`` take the square root itself.
"""

from __future__ import annotations

import math
from typing import Any

from anipot import units as _units

HARTREE_TO_EV = _units.HARTREE_TO_EV
EV_TO_JOULE = _units.ELEMENTARY_CHARGE
JOULE_TO_KCAL = 1 / 4184.0
HARTREE_TO_JOULE = _units.HARTREE_TO_JOULE
AVOGADROS_NUMBER = _units.AVOGADRO
SPEED_OF_LIGHT = _units.SPEED_OF_LIGHT
AMU_TO_KG = _units.ATOMIC_MASS
ANGSTROM_TO_METER = 1e-10
NEWTON_TO_MILLIDYNE = 1e8
HARTREE_TO_KCALMOL = _units.HARTREE_TO_KCALMOL
HARTREE_TO_KJOULEMOL = _units.HARTREE_TO_KJMOL
EV_TO_KCALMOL = HARTREE_TO_KCALMOL / HARTREE_TO_EV
EV_TO_KJOULEMOL = HARTREE_TO_KJOULEMOL / HARTREE_TO_EV
#: sqrt(Hartree / (u Å²)) as a frequency in cm⁻¹.
SQRT_MHESSIAN_TO_INVCM = 2 * math.pi * _units.SQRT_MHESSIAN_TO_INVERSE_CM
#: The same in meV.
SQRT_MHESSIAN_TO_MILLIEV = 2 * math.pi * _units.SQRT_MHESSIAN_TO_MEV
INVCM_TO_EV = SQRT_MHESSIAN_TO_MILLIEV / SQRT_MHESSIAN_TO_INVCM / 1000
#: Hartree/Å² in mDyne/Å.
MHESSIAN_TO_FCONST = _units.MHESSIAN_TO_FCONST


def hartree2ev(x: Any) -> Any:
    """Hartree to eV."""
    return x * HARTREE_TO_EV


def hartree2kcalmol(x: Any) -> Any:
    """Hartree to kcal/mol."""
    return x * HARTREE_TO_KCALMOL


def hartree2kjoulemol(x: Any) -> Any:
    """Hartree to kJ/mol."""
    return x * HARTREE_TO_KJOULEMOL


def ev2kcalmol(x: Any) -> Any:
    """eV to kcal/mol."""
    return x * EV_TO_KCALMOL


def ev2kjoulemol(x: Any) -> Any:
    """eV to kJ/mol."""
    return x * EV_TO_KJOULEMOL


def sqrt_mhessian2invcm(x: Any) -> Any:
    """Frequency in sqrt(Hartree / (u Å²)), the root of an eigenvalue divided by 2π, to cm⁻¹."""
    return x * SQRT_MHESSIAN_TO_INVCM


def sqrt_mhessian2milliev(x: Any) -> Any:
    """Frequency in sqrt(Hartree / (u Å²)), the root of an eigenvalue divided by 2π, to meV."""
    return x * SQRT_MHESSIAN_TO_MILLIEV


def mhessian2fconst(x: Any) -> Any:
    """Hartree/Å² to mDyne/Å."""
    return x * MHESSIAN_TO_FCONST
