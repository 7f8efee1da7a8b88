"""Errors as a table: one line for each part of a benchmark, as in the COMP6 papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anipot.training.evaluation import OutputErrors, Sums

#: Errors of the lines of a table, by the name of the line.
Lines = Mapping[str, Mapping[str, OutputErrors]]


def table(lines: Lines, error_unit: str = "kcal/mol") -> str:
    """Return a table of MAE / RMSE: energies, relative energies and forces, then other properties.

    Relative energies are the differences of all pairs of conformers of each molecule.
    """
    columns = _columns(lines, error_unit)
    rows = [["", "structures", *(title for title, _ in columns)]]
    for name, found in lines.items():
        structures = max((int(one.total.count) for one in found.values() if not one.output.of.per_atom), default=0)
        rows.append([name, str(structures or ""), *(text(found) for _, text in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    aligned = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        aligned.append("  ".join(cells).rstrip())
    return "\n".join(aligned)


def _columns(lines: Lines, error_unit: str) -> list[tuple[str, Any]]:
    known = {name: one.output for found in lines.values() for name, one in found.items()}
    order = [name for name in ("energies", "forces", "stress") if name in known]
    columns: list[tuple[str, Any]] = []
    for name in [*order, *(name for name in known if name not in order)]:
        output = known[name]
        unit, factor = output.unit(error_unit), output.factor(error_unit)
        columns.append((f"{name} ({unit})", _text(name, "total", factor)))
        if name == "energies" and any("energies" in f and f["energies"].relative.count for f in lines.values()):
            columns.append((f"relative energies ({unit})", _text(name, "relative", factor)))
    return columns


def _text(name: str, what: str, factor: float) -> Any:
    def text(found: Mapping[str, OutputErrors]) -> str:
        sums: Sums = getattr(found[name], what) if name in found else Sums()
        return f"{sums.mae * factor:.3f} / {sums.rmse * factor:.3f}" if sums.count else ""

    return text


def together(lines: Lines) -> dict[str, OutputErrors]:
    """Return the errors of all lines as one."""
    total: dict[str, OutputErrors] = {}
    for found in lines.values():
        for name, one in found.items():
            into = total.setdefault(name, OutputErrors(one.output))
            for what in ("total", "per_atom", "relative"):
                _add(getattr(into, what), getattr(one, what))
            for what in ("by_element", "by_size"):
                for key, sums in getattr(one, what).items():
                    _add(getattr(into, what).setdefault(key, Sums()), sums)
            into.points = one.points if not len(into.points) else _joined(into.points, one.points)
    return total


def _add(into: Sums, more: Sums) -> None:
    into.count += more.count
    into.size += more.size
    into.square += more.square


def _joined(one: Any, other: Any) -> Any:
    import numpy as np

    return np.concatenate([one, other])
