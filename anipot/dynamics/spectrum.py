"""A spectrum of a trajectory: its area, its peaks, its picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anipot.plots import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
#: Decadic molar absorption, L/(mol cm), of 1 km/mol spread over 1 cm⁻¹: 10⁵ cm/mol over 10³ cm³/L and ln 10.
DECADIC = 100 / math.log(10)


@dataclass(frozen=True)
class DynamicsSpectrum:
    """A spectrum of a trajectory.

    Attributes
    ----------
    wavenumbers
        (P,) cm⁻¹.
    values
        (P,) of a power spectrum the density of vibrational modes (cm, their number per cm⁻¹), of an infrared one the
        decadic molar absorption coefficient, L/(mol cm).
    kind
        ``"power"`` or ``"infrared"``.
    temperature
        K.
    resolution
        cm⁻¹, the full width at half maximum of a sharp line.
    """

    wavenumbers: Array
    values: Array
    kind: str
    temperature: float
    resolution: float

    def __repr__(self) -> str:
        last, about = self.wavenumbers[-1], f"{self.temperature:.0f} K, resolution {self.resolution:g} cm^-1"
        return f"DynamicsSpectrum({self.kind}, 0 to {last:.0f} cm^-1, {about})"

    @property
    def label(self) -> str:
        """What the values are, with their unit."""
        return "molar absorption, L/(mol cm)" if self.kind == "infrared" else "density of modes, cm"

    def area(self, low: float = 0.0, high: float = math.inf) -> float:
        """Return the area from ``low`` to ``high`` cm⁻¹: a number of modes, or an integrated intensity in km/mol."""
        inside = (self.wavenumbers >= low) & (self.wavenumbers <= high)
        found = float(np.trapezoid(self.values[inside], self.wavenumbers[inside]))
        return found / DECADIC if self.kind == "infrared" else found

    def peaks(self, least: float = 0.02) -> Array:
        """Return (n,) cm⁻¹ where the spectrum has maxima that stand out by ``least`` of the largest value."""
        from scipy.signal import find_peaks

        found, _ = find_peaks(self.values, prominence=least * self.values.max())
        return np.array([_vertex(self.wavenumbers, self.values, i) for i in found])

    def plot(self, ax: Axes | None = None, label: str | None = None) -> Axes:
        """Draw the spectrum; needs matplotlib."""
        ax = axes_or_new(ax)
        ax.plot(self.wavenumbers, self.values, linewidth=1, label=label)
        ax.set(xlabel="wavenumber, cm$^{-1}$", ylabel=self.label)
        ax.margins(x=0)
        if label is not None:
            ax.legend()
        return ax


def _vertex(x: Array, y: Array, i: int) -> float:
    """Return where the parabola through a maximum and its neighbors has its top."""
    left, middle, right = y[i - 1 : i + 2]
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    return float(x[i] + shift * (x[i + 1] - x[i - 1]) / 2)
