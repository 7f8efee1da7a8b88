"""What is read of a file: keys, units and signs settled before anything is read, shapes checked when it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anipot.data.blocks import DataError
from anipot.data.quantities import QUANTITIES, Field, Quantity
from anipot.data.units import conversion
from anipot.elements import MAX_ATOMIC_NUMBER, atomic_number

#: Rows and columns of the components xx yy zz yz xz xy.
_VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
_SHOWN = 40

Fields = Mapping[str, Field | str | Mapping[str, Any]]


class MissingLabel(DataError):
    """A file has no such label: all that is wrong with ``names``, the quantities that were asked for."""

    def __init__(self, message: str, names: Collection[str] = ()):
        super().__init__(message)
        self.names = tuple(names)


@dataclass(frozen=True)
class Column:
    """A quantity, the key under which a file has it, and the factor from the numbers of the file to ours."""

    quantity: Quantity
    key: str
    factor: float


@dataclass(frozen=True)
class Keys:
    """What a file has, and what is known of it.

    Attributes
    ----------
    path
        For messages.
    found
        Names of arrays that may be labels.
    units
        As stated by the file or by the publication of its layout.
    negate
        Sign of keys that could be a quantity or its negative: True where the file holds gradients for forces. None
        where files of this layout disagree.
    """

    path: str
    found: Collection[str]
    units: Mapping[str, str]
    negate: Mapping[str, bool | None]

    def choose(self, fields: Fields | None, defaults: Mapping[str, str]) -> tuple[Column, ...]:
        """Return what to read: what the user names, else ``defaults`` (names of quantities to keys) as far as found.

        Raises
        ------
        MissingLabel
            For a key that is not there.
        DataError
            Where a unit or a sign is neither known nor said.
        """
        if fields is None:
            fields = {name: key for name, key in defaults.items() if key in self.found}
        columns, problems, without, absent = [], [], {}, {}
        for name, value in fields.items():
            try:
                field = Field.parse(name, value)
                assert field.quantity is not None
                if field.key not in self.found:
                    absent[name] = f"there is no {field.key!r} (for {name})"
                elif self._lacks_unit(name, field):
                    without[name] = f"{field.key} [{field.quantity.unit}]"
                else:
                    columns.append(self._column(name, field))
            except ValueError as error:
                problems.append(str(error))
        if without:
            example = ", ".join(f"{name!r}: {text!r}" for name, text in without.items())
            problems.append(f"units of {', '.join(without)} are not in the file; say them, as in fields={{{example}}}")
        hint = f"(fields={{}} reads no labels); it has {self.known()}"
        if problems:
            raise DataError(f"{self.path}: {'; '.join([*problems, *absent.values()])} {hint}")
        if absent:
            raise MissingLabel(f"{self.path}: {'; '.join(absent.values())} {hint}", absent)
        return tuple(columns)

    def _lacks_unit(self, name: str, field: Field) -> bool:
        assert field.quantity is not None
        return field.unit is None and field.key not in self.units and field.quantity.unit != "1"

    def known(self) -> str:
        """Return the keys in words."""
        names = sorted(self.found)
        parts = [f"{name} [{self.units[name]}]" if self.units.get(name) else name for name in names[:_SHOWN]]
        return ", ".join(parts) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "no labels"

    def _column(self, name: str, field: Field) -> Column:
        quantity, key = field.quantity, field.key
        assert quantity is not None
        negate = self.negate.get(key, False) if field.negate is None else field.negate
        if negate is None:
            raise ValueError(
                f"{key!r} holds forces in some files of this layout and gradients in others; "
                f"say fields={{{name!r}: '+{key}'}} or '-{key}'"
            )
        unit = self.units.get(key)
        if name not in QUANTITIES and quantity.unit == (field.unit or "1"):  # of no unit of ours: as it is in the file
            quantity = replace(quantity, unit=field.unit or unit or "1")
            return Column(quantity, key, -1.0 if negate else 1.0)
        return Column(quantity, key, Field(key, field.unit, negate, quantity).factor(unit))


def length_factor(path: str, said: str | None, stated: str | None, what: str = "coordinates") -> float:
    """Return the factor from the lengths of a file to Å; what the user says goes before what the file states."""
    unit = said or stated
    if unit is None:
        raise DataError(f"{path}: the unit of {what} is not in the file; say it, for example length='Å'")
    try:
        return conversion(unit, "Å", what)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def values(array: ArrayLike, column: Column, n: int, atoms: int, where: str, ase: bool = False) -> NDArray[np.float64]:
    """Return labels of ``n`` structures in units of this library, float64.

    Scalars may come with an axis of their own, tensors as nine components, and the stress of ASE as six: xx yy zz yz xz
    xy. Six of others are refused, since there is no order that all agree on.

    Raises
    ------
    DataError
        For numbers of another shape, or none at all.
    """
    quantity = column.quantity
    try:
        found = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}, key {column.key!r}: expected numbers ({error})") from error
    expected = quantity.shape_of(n, atoms)
    lead = expected[: len(expected) - len(quantity.shape)]
    if found.shape == (*expected, 1):
        found = found[..., 0]
    elif ase and quantity.name == "stress" and found.shape == (*lead, 6):
        found = found[..., _VOIGT]
    elif quantity.shape == (3, 3) and found.shape == (*lead, 9):
        found = found.reshape(expected)
    if found.shape != expected:
        raise DataError(f"{where}, key {column.key!r}: shape {found.shape}, expected {expected} for {quantity.name}")
    return found * column.factor


def coordinates(array: ArrayLike, factor: float, n: int, atoms: int, where: str, key: str) -> NDArray[np.float64]:
    """Return coordinates (n, atoms, 3) in Å, float64.

    Raises
    ------
    DataError
        For numbers of another shape, or none at all.
    """
    column = Column(Quantity("coordinates", "Å", per_atom=True, shape=(3,)), key, factor)
    return values(array, column, n, atoms, where)


def species(
    array: ArrayLike, where: str, key: str = "species", rows: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return atomic numbers of symbols (str or bytes) or of numbers.

    Parameters
    ----------
    array
        Symbols or numbers, (a,) or (n, a).
    where, key
        For messages.
    rows
        Numbers of the n structures in the file, for messages.

    Raises
    ------
    DataError
        If one of them is no element.
    """
    found = np.asarray(array)
    if found.dtype.kind in "SOU":
        names, inverse = np.unique(found.astype(str).ravel(), return_inverse=True)
        known = np.array([_number(name) for name in names.tolist()], dtype=np.int64)
        numbers = known[inverse].reshape(found.shape)
    elif found.dtype.kind in "iuf":
        numbers = np.where(np.isfinite(found), found, 0).astype(np.int64)
        numbers = np.where(numbers == found, numbers, 0)
    else:
        raise DataError(f"{where}, key {key!r}: {found.dtype}, expected symbols or atomic numbers")
    wrong = np.argwhere((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        row = "" if len(place) < 2 else f"index {int(place[0] if rows is None else rows[place[0]])}, "
        raise DataError(f"{where}, {row}key {key!r}: {found[place]!r} of atom {place[-1]} is no element")
    return numbers


def _number(name: str) -> int:
    try:
        return atomic_number(name.strip())
    except ValueError:
        return 0


def missing(quantity: Quantity, n: int, atoms: int) -> NDArray[np.float64]:
    """Return labels that are not there: NaN, in the shape of ``n`` structures."""
    return np.full(quantity.shape_of(n, atoms), np.nan)
