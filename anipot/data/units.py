"""Units of data files: products of powers of named units, turned into those of this library."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from anipot import units

_MOL = units.AVOGADRO
_KCAL = _MOL / units.HARTREE_TO_KCALMOL
_EV = 1 / units.HARTREE_TO_EV
_DEBYE = 1e-11 / units.SPEED_OF_LIGHT / units.ELEMENTARY_CHARGE  # e Å
_GPA = 1e9 * 1e-30 / units.HARTREE_TO_JOULE  # Hartree/Å³

#: Dimensions: powers of length, energy, charge, mass, time, and of what is counted apart (ppm of a shift).
_NONE, _LENGTH, _ENERGY, _CHARGE = (0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0)
_MASS, _TIME, _SHIFT, _PRESSURE = (0, 0, 0, 1, 0, 0), (0, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 1), (-3, 1, 0, 0, 0, 0)

_NAMES: dict[str, tuple[float, tuple[int, ...]]] = {
    "1": (1.0, _NONE),
    "mol": (_MOL, _NONE),
    **dict.fromkeys(("Å", "Å", "A", "Ang", "Angstrom", "angstrom", "Angstroms", "ang"), (1.0, _LENGTH)),
    **dict.fromkeys(("nm", "nanometer"), (10.0, _LENGTH)),
    **dict.fromkeys(("bohr", "Bohr", "a0"), (units.BOHR_TO_ANGSTROM, _LENGTH)),
    **dict.fromkeys(("Hartree", "hartree", "Hartrees", "Ha", "Eh"), (1.0, _ENERGY)),
    **dict.fromkeys(("mHartree", "mHa", "mEh"), (1e-3, _ENERGY)),
    **dict.fromkeys(("eV", "ev", "electronvolt"), (_EV, _ENERGY)),
    "meV": (_EV * 1e-3, _ENERGY),
    **dict.fromkeys(("Ry", "Rydberg"), (0.5, _ENERGY)),
    "kcal": (_KCAL, _ENERGY),
    "kJ": (_KCAL / 4.184, _ENERGY),
    **dict.fromkeys(("e", "elementary_charge"), (1.0, _CHARGE)),
    **dict.fromkeys(("D", "Debye", "debye"), (_DEBYE, (1, 0, 1, 0, 0, 0))),
    **dict.fromkeys(("u", "amu", "Da"), (1.0, _MASS)),
    "fs": (1.0, _TIME),
    "ps": (1e3, _TIME),
    "GPa": (_GPA, _PRESSURE),
    "kbar": (_GPA / 10, _PRESSURE),
    "bar": (_GPA * 1e-4, _PRESSURE),
    "ppm": (1.0, _SHIFT),
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FACTOR = re.compile(r"\s*([*·/ ]?)\s*(1|[^\W\d]+0?|Å)\s*(?:\^|\*\*)?\s*(-?\d+)?")


class Unit(NamedTuple):
    """The value of a unit in Å, Hartree, e, u, fs, and its dimension."""

    value: float
    dimension: tuple[int, ...]


def parse_unit(text: str) -> Unit:
    """Return what a unit is in the units of this library.

    Parameters
    ----------
    text
        Named units joined by ``*``, ``·``, a blank or ``/``, each with an integer power: ``kcal/mol/Å``, ``eV Å^-3``,
        ``e·bohr``. As in print, ``/`` takes what follows it alone.

    Raises
    ------
    ValueError
        Naming what is not known and what is.

    Examples
    --------
    >>> round(parse_unit("kcal/mol").value * 627.5094738898777, 12)
    1.0
    >>> parse_unit("eV/Å") == parse_unit("eV Å^-1")
    True
    """
    value = 1.0
    dimension: tuple[int, ...] = _NONE
    rest = text.strip().translate(_SUPERSCRIPTS)
    position = 0
    while position < len(rest) or not rest:
        match = _FACTOR.match(rest, position)
        if match is None or not match.group(2) or match.group(2) not in _NAMES:
            known = ", ".join(name for name in _NAMES if name.isascii())
            raise ValueError(
                f"cannot read the unit {text!r} at {rest[position:]!r}; known are {known}, joined by * and /"
            )
        power = int(match.group(3) or 1) * (-1 if match.group(1) == "/" else 1)
        factor, powers = _NAMES[match.group(2)]
        value *= math.pow(factor, power)
        dimension = tuple(a + power * b for a, b in zip(dimension, powers, strict=True))
        position = match.end()
    return Unit(value, dimension)


def conversion(unit: str, internal: str, what: str = "the quantity") -> float:
    """Return the factor that turns values in ``unit`` into values in ``internal``.

    Raises
    ------
    ValueError
        For a unit that is not known, or of another dimension.

    Examples
    --------
    >>> conversion("bohr", "Å")
    0.5291772105638411
    """
    given, wanted = parse_unit(unit), parse_unit(internal)
    if given.dimension != wanted.dimension:
        raise ValueError(f"{what} cannot be in {unit!r}: expected a unit like {internal!r}")
    return given.value / wanted.value
