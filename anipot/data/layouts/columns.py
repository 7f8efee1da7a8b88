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
        DataError
            For a key that is not there, and where a unit or a sign is neither known nor said.
        """
        if fields is None:
            fields = {name: key for name, key in defaults.items() if key in self.found}
        columns, problems = [], []
        for name, value in fields.items():
            try:
                columns.append(self._column(name, Field.parse(name, value)))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise DataError(f"{self.path}: {'; '.join(problems)} (fields={{}} reads no labels); it has {self.known()}")
        return tuple(columns)

    def known(self) -> str:
        """Return the keys in words."""
        names = sorted(self.found)
        parts = [f"{name} [{self.units[name]}]" if self.units.get(name) else name for name in names[:_SHOWN]]
        return ", ".join(parts) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "no labels"

    def _column(self, name: str, field: Field) -> Column:
        quantity, key = field.quantity, field.key
        assert quantity is not None
        if key not in self.found:
            raise ValueError(f"there is no {key!r} (for {name})")
        negate = self.negate.get(key, False) if field.negate is None else field.negate
        if negate is None:
            raise ValueError(
                f"{key!r} holds forces in some files of this layout and gradients in others; "
                f"say fields={{{name!r}: {{'key': {key!r}, 'negate': True or False}}}}"
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


def values(array: ArrayLike, column: Column, n: int, atoms: int, where: str) -> NDArray[np.float64]:
    """Return labels of ``n`` structures in units of this library, float64.

    Scalars may come with an axis of their own, symmetric tensors as six components in the order of Voigt or as nine.

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
    expected = (n, atoms, *quantity.shape) if quantity.per_atom else (n, *quantity.shape)
    lead = expected[: len(expected) - len(quantity.shape)]
    if found.shape == (*expected, 1):
        found = found[..., 0]
    elif quantity.shape == (3, 3) and found.shape == (*lead, 6):
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


def species(array: ArrayLike, where: str, key: str = "species") -> NDArray[np.int64]:
    """Return atomic numbers of symbols (str or bytes) or of numbers.

    Raises
    ------
    DataError
        If one of them is no element.
    """
    found = np.asarray(array)
    try:
        if found.dtype.kind in "SOU":
            return _numbers_of_symbols(found)
        if found.dtype.kind not in "iuf" or (found.dtype.kind == "f" and np.any(found != np.rint(found))):
            raise ValueError(f"{found.dtype} are no atomic numbers")
        numbers = found.astype(np.int64)
        wrong = np.flatnonzero((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER))
        if len(wrong):
            place = tuple(int(i) for i in np.unravel_index(wrong[0], numbers.shape))
            raise ValueError(f"{int(numbers[place])} at {list(place)} is no atomic number")
        return numbers
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{where}, key {key!r}: {error}") from error


def _numbers_of_symbols(found: NDArray[Any]) -> NDArray[np.int64]:
    names, inverse = np.unique(found.astype(str).ravel(), return_inverse=True)
    numbers = np.array([atomic_number(name.strip()) for name in names.tolist()], dtype=np.int64)
    return numbers[inverse].reshape(found.shape)
