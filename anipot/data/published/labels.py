"""Tables of what published data sets hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from anipot.data.quantities import QUANTITIES, Field, Quantity
from anipot.data.units import conversion


@dataclass(frozen=True)
class Label:
    """One property of a published data set.

    Attributes
    ----------
    name
        In this library.
    key
        In the published files.
    unit
        There; units that are none of this library (GHz, K) are kept.
    text
        What it is.
    here
        Unit in the store; by default that of ``QUANTITIES``, or else the published one.
    negate
        Whether the files hold the negative, as gradients are of forces.
    per_atom, shape
        As of ``Quantity``, for names that ``QUANTITIES`` does not have.
    """

    name: str
    key: str
    unit: str
    text: str
    here: str | None = None
    negate: bool = False
    per_atom: bool = False
    shape: tuple[int, ...] = ()

    @property
    def quantity(self) -> Quantity:
        """What is stored."""
        return QUANTITIES.get(self.name) or Quantity(self.name, self.here or self.unit, self.per_atom, self.shape)

    @property
    def field(self) -> Field:
        """Where a reader finds it."""
        return Field(self.key, self.unit, self.negate, self.quantity)

    @property
    def factor(self) -> float:
        """What published numbers are multiplied with."""
        sign = -1.0 if self.negate else 1.0
        return sign if self.quantity.unit == self.unit else sign * conversion(self.unit, self.quantity.unit, self.name)


def table(labels: Iterable[Label]) -> str:
    """Return a table of properties for people to read.

    >>> print(table([Label("energies", "E", "kcal/mol", "total energy")]))
    NAME      KEY  UNIT      HERE     WHAT
    energies  E    kcal/mol  Hartree  total energy
    """
    rows = [("NAME", "KEY", "UNIT", "HERE", "WHAT")]
    for label in labels:
        rows.append((label.name, f"{'-' * label.negate}{label.key}", label.unit, label.quantity.unit, label.text))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows)
