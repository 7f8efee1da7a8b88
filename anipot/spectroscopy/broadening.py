"""Spectra as they are drawn: lines of a given width under which the area is the intensity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anipot.plots import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHAPES = ("lorentzian", "gaussian")
#: Decadic molar absorption, L/(mol cm), of 1 km/mol spread over 1 cm⁻¹: 10⁵ cm/mol over 10³ cm³/L and ln 10.
_DECADIC = 100 / math.log(10)


@dataclass(frozen=True)
class Spectrum:
    """Sticks and the broadened curve.

    The curve of an infrared spectrum is the decadic molar absorption coefficient, L/(mol cm); without intensities it is
    the density of modes, 1/cm⁻¹.
    """

    #: (P,) cm⁻¹.
    wavenumbers: NDArray[np.float64]
    #: (P,)
    values: NDArray[np.float64]
    #: (m,) cm⁻¹; imaginary modes are not in.
    frequencies: NDArray[np.float64]
    #: (m,) km/mol, or 1 for each mode.
    heights: NDArray[np.float64]
    #: "infrared" or "modes".
    kind: str
    #: (m,) cm⁻¹: error bars of the frequencies, or None.
    frequencies_std: NDArray[np.float64] | None = None

    @property
    def label(self) -> str:
        """What the curve is, with its unit."""
        return "molar absorption, L/(mol cm)" if self.kind == "infrared" else "density of modes, cm"

    def plot(self, ax: Axes | None = None, label: str | None = None) -> Axes:
        """Draw the curve, with the sticks below it or, of an infrared spectrum, on an axis to the right.

        Error bars of frequencies, where there are any, stand below the curve. Needs matplotlib.
        """
        new = ax is None
        ax = axes_or_new(ax)
        if new:
            ax.figure.set_size_inches(7.5, 3.5)  # type: ignore[union-attr]
        (line,) = ax.plot(self.wavenumbers, self.values, linewidth=1, label=label)
        color, top = line.get_color(), max(float(self.values.max(initial=0.0)), 1e-12)
        place = np.full(len(self.frequencies), -0.05 * top)
        if self.frequencies_std is not None:
            errors = self.frequencies_std
            ax.errorbar(self.frequencies, place, xerr=errors, fmt="none", ecolor="0.4", elinewidth=1, capsize=2)
        if self.kind == "infrared":
            sticks = ax.twinx()
            sticks.vlines(self.frequencies, 0, self.heights, color=color, alpha=0.5, linewidth=1)
            sticks.set_ylabel("intensity, km/mol")
            highest = max(float(self.heights.max(initial=0.0)), 1e-12)
            sticks.set_ylim(-0.1 * highest, 1.1 * highest)  # 0 where that of the curve is
        else:
            ax.vlines(self.frequencies, place - 0.03 * top, place + 0.03 * top, color=color, linewidth=1)
        ax.set(xlabel="wavenumber, cm$^{-1}$", ylabel=self.label, ylim=(-0.1 * top, 1.1 * top))
        if label is not None:
            ax.legend()
        return ax


def broadened(
    frequencies: ArrayLike, heights: ArrayLike, grid: ArrayLike, width: float = 10.0, shape: str = "lorentzian"
) -> NDArray[np.float64]:
    """Return Σ height · line(grid − frequency) (P,), where each line has an area of 1.

    Parameters
    ----------
    frequencies, heights
        (m,) cm⁻¹ and anything.
    grid
        (P,) cm⁻¹.
    width
        cm⁻¹, full width at half maximum.
    shape
        ``"lorentzian"`` or ``"gaussian"``.

    Raises
    ------
    ValueError
        For another shape, and a width that is not positive.

    Examples
    --------
    >>> curve = broadened([1000.0], [2.0], np.arange(0.0, 2000.0), width=20, shape="gaussian")
    >>> round(float(curve.sum()), 6)
    2.0
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}")
    away = np.asarray(grid, dtype=float)[:, None] - np.asarray(frequencies, dtype=float)[None]
    if shape == "lorentzian":
        lines = width / (2 * math.pi) / (away**2 + (width / 2) ** 2)
    else:
        sigma = width / math.sqrt(8 * math.log(2))
        lines = np.exp(-0.5 * (away / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return lines @ np.asarray(heights, dtype=float)


def spectrum(
    frequencies: NDArray[np.float64],
    intensities: NDArray[np.float64] | None,
    width: float = 10.0,
    shape: str = "lorentzian",
    grid: ArrayLike | None = None,
    frequencies_std: NDArray[np.float64] | None = None,
) -> Spectrum:
    """Return the spectrum of modes; the grid is every cm⁻¹ from 0 to 300 above the last by default."""
    real = frequencies > 0
    last = frequencies.max(initial=0.0)
    points = np.arange(0.0, math.ceil(last) + 301.0) if grid is None else np.asarray(grid, dtype=float)
    heights = np.ones(int(real.sum())) if intensities is None else intensities[real]
    curve = broadened(frequencies[real], heights, points, width, shape)
    return Spectrum(
        wavenumbers=points,
        values=curve if intensities is None else _DECADIC * curve,
        frequencies=frequencies[real],
        heights=heights,
        kind="modes" if intensities is None else "infrared",
        frequencies_std=None if frequencies_std is None else frequencies_std[real],
    )
