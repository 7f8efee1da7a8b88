"""What data sets hold: names, shapes, units and signs of the quantities, and where a file has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from anipot.data.units import conversion


@dataclass(frozen=True)
class Quantity:
    """One kind of label.

    Attributes
    ----------
    name
        Such as ``energies``.
    unit
        Of this library: products of Å, Hartree, e.
    per_atom
        Whether there is one value for each atom; arrays are then (n, a, ...), otherwise (n, ...).
    shape
        Of one value: ``(3,)`` for a force or a dipole.
    """

    name: str
    unit: str = "1"
    per_atom: bool = False
    shape: tuple[int, ...] = ()

    def shape_of(self, n: int, atoms: int) -> tuple[int, ...]:
        """Return the shape of the labels of ``n`` structures."""
        return (n, atoms, *self.shape) if self.per_atom else (n, *self.shape)


#: The quantities that have a meaning of their own. Others may have any name, and are given with unit and shape.
QUANTITIES: Mapping[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        Quantity("energies", "Hartree"),
        Quantity("forces", "Hartree/Å", per_atom=True, shape=(3,)),
        Quantity("stress", "Hartree/Å^3", shape=(3, 3)),
        Quantity("charges", "e", per_atom=True),
        Quantity("dipole", "e*Å", shape=(3,)),
        Quantity("polarizability", "Å^3", shape=(3, 3)),
        Quantity("shifts", "ppm", per_atom=True),
        Quantity("total_charge", "e"),
    )
}


@dataclass(frozen=True)
class Field:
    """Where a file has a quantity, in which unit and with which sign.

    Attributes
    ----------
    key
        The name in the file.
    unit
        Of the values in the file; None where the file itself says it.
    negate
        Whether the values are those of the quantity with the other sign, as gradients are of forces.
    quantity
        What is meant; known names (``QUANTITIES``) need not say.

    Examples
    --------
    >>> Field.parse("forces", "-dft_total_gradient [Hartree/bohr]")
    Field(key='dft_total_gradient', unit='Hartree/bohr', negate=True, ...)
    """

    key: str
    unit: str | None = None
    negate: bool | None = None
    quantity: Quantity | None = None

    @classmethod
    def parse(cls, name: str, value: Field | str | Mapping[str, Any]) -> Field:
        """Return a field from what a user writes: ``"key [unit]"``, ``"-key [unit]"``, a mapping, or a field.

        A minus says that the key holds the negative, a plus that it does not, where a layout leaves that open.

        Raises
        ------
        ValueError
            If it cannot be read, or says nothing about a quantity that is not known.
        """
        if isinstance(value, str):
            text = value.strip()
            sign, text = (text[0], text[1:]) if text[:1] in ("-", "+") else ("", text)
            key, _, rest = text.partition("[")
            if rest and not rest.endswith("]"):
                raise ValueError(f"field {name!r} is {value!r}; expected 'key', 'key [unit]' or '-key [unit]'")
            value = cls(key.strip(), rest[:-1].strip() or None, negate=sign == "-" if sign else None)
        elif isinstance(value, Mapping):
            extra = {k: value[k] for k in ("per_atom", "shape") if k in value}
            unknown = set(value) - {"key", "unit", "negate", "per_atom", "shape"}
            if unknown or "key" not in value:
                raise ValueError(f"field {name!r} is {dict(value)}; expected key, and unit, negate, per_atom, shape")
            quantity = None
            if extra or name not in QUANTITIES:
                known = QUANTITIES.get(name, Quantity(name, str(value.get("unit", "1"))))
                shape = tuple(int(n) for n in extra.get("shape", known.shape))
                quantity = replace(known, per_atom=bool(extra.get("per_atom", known.per_atom)), shape=shape)
            value = cls(str(value["key"]), value.get("unit"), value.get("negate"), quantity)
        if value.quantity is None:
            quantity = QUANTITIES.get(name)
            if quantity is None:  # a scalar of each molecule, in its own unit
                quantity = Quantity(name, value.unit or "1")
            value = replace(value, quantity=quantity)
        return value

    def factor(self, file_unit: str | None = None) -> float:
        """Return what values of the file are to be multiplied with, given the unit that the file states.

        Raises
        ------
        ValueError
            If neither the file nor the user says the unit, or it does not fit.
        """
        assert self.quantity is not None
        unit = self.unit or file_unit
        if unit is None:
            if self.quantity.unit == "1":
                return 1.0
            raise ValueError(
                f"the unit of {self.key!r} ({self.quantity.name}) is not in the file; "
                f"say it, for example {self.quantity.name}='{self.key} [{self.quantity.unit}]'"
            )
        sign = -1.0 if self.negate else 1.0
        return sign * conversion(unit, self.quantity.unit, f"{self.quantity.name} ({self.key!r})")
