"""Point groups and symmetry numbers, by libmsym. Needs pymsym, ``pip install anipot[thermo]``."""

from __future__ import annotations

from typing import Any, NamedTuple

from ase import Atoms

from anipot.spectroscopy.rigid import is_linear, straightened

#: How far a relaxed geometry may be from its symmetry, relative to distances. Larger ones come last: the group with
#: most operations wins.
TOLERANCES = (1e-3, 3e-3, 1e-2)

#: Kinds of operations in libmsym.
IDENTITY, PROPER_ROTATION = 0, 1


class Symmetry(NamedTuple):
    """Of a rigid molecule."""

    #: Schoenflies symbol.
    point_group: str
    #: Number of proper rotations, 1 or more: orientations that cannot be told apart.
    number: int


def symmetry_of(atoms: Atoms) -> Symmetry:
    """Return the point group of a molecule and its symmetry number, in which isotopes count.

    Raises
    ------
    ImportError
        Without pymsym.

    Examples
    --------
    >>> from ase.build import molecule
    >>> symmetry_of(molecule("C6H6"))
    Symmetry(point_group='D6h', number=12)
    """
    if len(atoms) == 1:
        return Symmetry("Kh", 1)
    try:
        import pymsym
    except ImportError as error:
        raise ImportError(
            "symmetry numbers need pymsym: pip install anipot[thermo], or give symmetry_number"
        ) from error
    places = zip(atoms.symbols, straightened(atoms.positions).tolist(), atoms.get_masses(), strict=True)
    elements = [pymsym.Element(name=name, coordinates=x, mass=mass) for name, x, mass in places]
    found = [_operations(pymsym, elements, tolerance) for tolerance in TOLERANCES]
    name, kinds = max(found, key=lambda pair: len(pair[1]))
    if is_linear(atoms.positions):  # D0h and C0v, whose operations are too many to be listed
        return Symmetry("Dinfh", 2) if name == "D0h" else Symmetry("Cinfv", 1)
    return Symmetry(name, max(1, sum(kind in (IDENTITY, PROPER_ROTATION) for kind in kinds)))


def _operations(pymsym: Any, elements: list[Any], tolerance: float) -> tuple[str, list[int]]:
    """Return the name of the group and the kinds of its operations; C1 where libmsym finds nothing consistent."""
    limits = dict.fromkeys(("zero", "geometry", "angle", "eigfact"), tolerance)
    try:
        with pymsym.Context(elements=elements) as context:
            context.set_thresholds(**limits, equivalence=tolerance / 2, permutation=5 * tolerance)
            # Now, as the operations stand in memory of the context.
            return context.find_symmetry(), [int(one.type) for one in context.symmetry_operations]
    except Exception as error:  # libmsym raises for molecules without symmetry, and has two classes of that name
        if type(error).__name__ != "Error":
            raise
        return "C1", []
