"""Conversion factors between the units of this library (Å, Hartree) and those of others.

CODATA 2014 values, the set that ASE uses by default, so that an energy which passes through ASE comes back unchanged.
Multiply by ``HARTREE_TO_X`` to go from Hartree to X.
"""

import math

#: Speed of light, m/s (exact).
SPEED_OF_LIGHT = 299792458.0
#: Elementary charge, C (CODATA 2014).
ELEMENTARY_CHARGE = 1.6021766208e-19
#: Avogadro constant, 1/mol (CODATA 2014).
AVOGADRO = 6.022140857e23
#: Atomic mass constant, kg (CODATA 2014).
ATOMIC_MASS = 1.660539040e-27

#: Hartree in eV: the value of ``ase.units.Hartree``.
HARTREE_TO_EV = 27.211386024367243
#: Hartree in J.
HARTREE_TO_JOULE = HARTREE_TO_EV * ELEMENTARY_CHARGE
#: Hartree in kcal/mol (thermochemical calorie, 4.184 J).
HARTREE_TO_KCALMOL = HARTREE_TO_JOULE * AVOGADRO / 4184.0
#: Hartree in kJ/mol.
HARTREE_TO_KJMOL = HARTREE_TO_JOULE * AVOGADRO / 1000.0
#: Bohr radius in Å: the value of ``ase.units.Bohr``.
BOHR_TO_ANGSTROM = 0.5291772105638411
#: Coulomb constant e²/(4πε₀) in Hartree Å/e², which is Hartree × Bohr by the definition of both (CODATA 2014).
COULOMB = BOHR_TO_ANGSTROM

#: sqrt(Hartree / (Å² u)) as an angular frequency, expressed as a wavenumber in cm⁻¹: ω / (2πc).
SQRT_MHESSIAN_TO_INVERSE_CM = math.sqrt(HARTREE_TO_JOULE * 1e20 / ATOMIC_MASS) / (2 * math.pi * SPEED_OF_LIGHT * 100)
#: The same in meV: ħω.
SQRT_MHESSIAN_TO_MEV = (
    math.sqrt(HARTREE_TO_JOULE * 1e20 / ATOMIC_MASS) * 6.626070040e-34 / (2 * math.pi) / ELEMENTARY_CHARGE * 1000
)
#: Hartree/Å² in mDyne/Å (1 mDyne/Å = 100 N/m).
MHESSIAN_TO_FCONST = HARTREE_TO_JOULE * 1e20 / 100.0
