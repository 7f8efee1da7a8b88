"""Symbols, atomic numbers and masses of the elements.

Symbols and masses are those of ASE (IUPAC 2016 standard weights), read from its data tables so that there is one
periodic table in a user's session, not two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

#: Largest atomic number that ``atomic_number`` and ``symbol`` know.
MAX_ATOMIC_NUMBER = 118

# fmt: off
_SYMBOLS = (
    "X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf",
    "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th",
    "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs",
    "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)
# fmt: on
_NUMBERS = {name: number for number, name in enumerate(_SYMBOLS)}


def symbol(atomic_number: int) -> str:
    """Return the symbol of an atomic number, or a description of a number that is no element.

    >>> symbol(17)
    'Cl'
    """
    return _SYMBOLS[atomic_number] if 0 < atomic_number <= MAX_ATOMIC_NUMBER else f"no element ({atomic_number})"


def atomic_number(element: str) -> int:
    """Return the atomic number of a symbol.

    Raises
    ------
    ValueError
        If no element has that symbol.

    >>> atomic_number("Cl")
    17
    """
    number = _NUMBERS.get(element, 0)
    if number == 0:
        raise ValueError(f"no element has the symbol {element!r}; symbols are written as in 'H', 'Cl'")
    return number


def atomic_numbers(elements: Sequence[str]) -> tuple[int, ...]:
    """Return the atomic numbers of several symbols.

    >>> atomic_numbers(["H", "C"])
    (1, 6)
    """
    return tuple(atomic_number(element) for element in elements)


@cache
def atomic_masses() -> tuple[float, ...]:
    """Return the standard atomic weights in u, indexed by atomic number (index 0 is 0).

    >>> atomic_masses()[8]
    15.999
    """
    from ase.data import atomic_masses as masses

    return (0.0, *(float(mass) for mass in masses[1:]))
