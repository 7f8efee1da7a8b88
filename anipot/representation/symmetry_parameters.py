"""The parameters of symmetry functions: their checks, and the grids that give sensible ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

#: Equidistant grids of radii (Å) start here and end this much before the cutoff, where the cutoff function has little
#: left of a Gaussian. Centred Gaussians start further out: one of 0.5 Å would see nothing but clashes.
SHIFTED_START, CENTRED_START, MARGIN = 0.5, 1.0, 0.5


def radial_table(rows: Iterable[Any]) -> Tensor:
    """Return checked rows (γ, μ) as a tensor (R, 2), float64."""
    return _table("radial", rows, ("γ", "μ"), 0)


def angular_table(rows: Iterable[Any]) -> Tensor:
    """Return checked rows (γ, ζ, λ, μ) as a tensor (M, 4), float64; μ is 0 where a row has three numbers."""
    table = _table("angular", rows, ("γ", "ζ", "λ", "μ"), 1)
    for row, (_, zeta, sign, _) in enumerate(table.tolist()):
        if zeta < 1:
            raise ValueError(
                f"angular[{row}] has ζ = {zeta:g}, expected at least 1; below, atoms in a line have infinite forces"
            )
        if sign not in (1, -1):
            raise ValueError(f"angular[{row}] has λ = {sign:g}, expected 1 or -1")
    return table


def _table(name: str, rows: Iterable[Any], columns: Sequence[str], num_optional: int) -> Tensor:
    rows = rows.tolist() if isinstance(rows, Tensor) else list(rows)
    least = len(columns) - num_optional
    numbers = []
    for index, row in enumerate(rows):
        values = [float(value) for value in row] if isinstance(row, Iterable) else [float(row)]
        if not least <= len(values) <= len(columns):
            expected = " or ".join(f"({', '.join(columns[:n])})" for n in range(least, len(columns) + 1))
            raise ValueError(f"{name}[{index}] must be {expected}, got {len(values)} numbers: {row}")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name}[{index}] must be finite numbers, got {row}")
        if values[0] < 0:
            raise ValueError(f"{name}[{index}] has γ = {values[0]:g}, expected at least 0 (Å⁻²)")
        numbers.append(values + [0.0] * (len(columns) - len(values)))
    return torch.tensor(numbers, dtype=torch.float64).view(-1, len(columns))


def shifted_gaussians(cutoff: float, num: int) -> list[tuple[float, float]]:
    """Return (γ, μ) with μ on an equidistant grid and γ = 1 / (2 Δ²), where Δ is the spacing.

    >>> shifted_gaussians(5.0, 3)
    [(0.125, 0.5), (0.125, 2.5), (0.125, 4.5)]
    """
    radii = _grid(SHIFTED_START, cutoff, num)
    spacing = radii[1] - radii[0] if num > 1 else cutoff - MARGIN - SHIFTED_START
    return [(1 / (2 * spacing**2), r) for r in radii]


def centred_gaussians(cutoff: float, num: int) -> list[tuple[float, float]]:
    """Return (γ, μ) with μ = 0 and γ = 1 / (2 r²) for each radius r of an equidistant grid.

    >>> centred_gaussians(4.5, 2)
    [(0.5, 0.0), (0.03125, 0.0)]
    """
    return [(1 / (2 * r**2), 0.0) for r in _grid(CENTRED_START, cutoff, num)]


def angular_functions(cutoff: float, num_widths: int, zetas: Sequence[float]) -> list[tuple[float, float, float]]:
    """Return (γ, ζ, λ) for every γ of centred Gaussians, every ζ and λ = 1, −1; γ changes slowest, λ fastest.

    >>> angular_functions(4.5, 1, [1.0, 4.0])
    [(0.5, 1.0, 1.0), (0.5, 1.0, -1.0), (0.5, 4.0, 1.0), (0.5, 4.0, -1.0)]
    """
    gammas = [gamma for gamma, _ in centred_gaussians(cutoff, num_widths)]
    return [(gamma, zeta, sign) for gamma in gammas for zeta in zetas for sign in (1.0, -1.0)]


def _grid(start: float, cutoff: float, num: int) -> list[float]:
    if num < 0:
        raise ValueError(f"the number of Gaussians must not be negative, got {num}")
    stop = cutoff - MARGIN
    if num and not stop > start:
        raise ValueError(
            f"a grid of radii from {start:g} Å to {MARGIN:g} Å before the cutoff needs a cutoff above "
            f"{start + MARGIN:g} Å, got {cutoff:g}"
        )
    return torch.linspace(start, stop, num, dtype=torch.float64).tolist()
