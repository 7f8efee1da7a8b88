"""The files of QM9: XYZ with properties in the second line, and exponents that are written ``*^``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anipot.data.blocks import DataError
from anipot.elements import atomic_number

#: The fifteen properties of the second line, after the tag and the number of the molecule.
PROPERTIES = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")


@dataclass(frozen=True)
class Molecule:
    """One molecule as it is published, in the units of QM9.

    Attributes
    ----------
    index
        From 1 on, as in the name of its file.
    species
        Atomic numbers.
    coordinates
        Å, one row for each atom.
    charges
        Mulliken charges, e.
    properties
        In the order of ``PROPERTIES``.
    """

    index: int
    species: list[int]
    coordinates: list[list[float]]
    charges: list[float]
    properties: list[float]


def parse(text: str, where: str) -> Molecule:
    """Return the molecule in a file.

    Raises
    ------
    DataError
        With the line that is not as it should be.

    Examples
    --------
    >>> head = "1\\ngdb 7\\t" + "\\t".join(["0."] * 15)
    >>> text = head + "\\nH\\t0.5\\t-1.2*^-6\\t0\\t0\\n1.0\\nH\\tH\\nInChI=1S/H\\tInChI=1S/H\\n"
    >>> parse(text, "example").coordinates
    [[0.5, -1.2e-06, 0.0]]
    """
    lines = text.replace("*^", "e").splitlines()
    if not lines or not lines[0].strip().isdigit() or int(lines[0]) < 1:
        raise DataError(f"{where}, line 1: {lines[0] if lines else ''!r}, expected the number of atoms")
    atoms = int(lines[0])
    if len(lines) < atoms + 5:
        raise DataError(f"{where} has {len(lines)} lines, expected {atoms + 5} for {atoms} atoms")
    head = lines[1].split()
    if len(head) != 2 + len(PROPERTIES) or head[0] != "gdb" or not head[1].isdigit():
        raise DataError(f"{where}, line 2: {lines[1]!r}, expected 'gdb', a number and {len(PROPERTIES)} properties")
    properties = _numbers(head[2:], where, 2)
    species, rows = [], []
    for i, line in enumerate(lines[2 : atoms + 2], start=3):
        fields = line.split()
        if len(fields) != 5:
            raise DataError(f"{where}, line {i}: {line!r}, expected an element and four numbers")
        try:
            species.append(atomic_number(fields[0]))
        except ValueError as error:
            raise DataError(f"{where}, line {i}: {error}") from error
        rows.append(_numbers(fields[1:], where, i))
    return Molecule(int(head[1]), species, [row[:3] for row in rows], [row[3] for row in rows], properties)


def _numbers(fields: Sequence[str], where: str, line: int) -> list[float]:
    try:
        found = [float(field) for field in fields]
    except ValueError as error:
        raise DataError(f"{where}, line {line}: {error}") from error
    if not all(map(math.isfinite, found)):
        raise DataError(f"{where}, line {line}: {' '.join(fields)!r} are not all finite")
    return found


def parse_uncharacterized(text: str, where: str) -> frozenset[int]:
    """Return the numbers of the molecules that failed the consistency check: first in the rows of a table.

    Raises
    ------
    DataError
        If it is not such a table.
    """
    rows = [line.split() for line in text.splitlines()[9:-1]]
    if not rows or not all(row and row[0].isdigit() for row in rows):
        raise DataError(f"{where}: expected nine lines, a table that begins with numbers, and a last line")
    return frozenset(int(row[0]) for row in rows)
