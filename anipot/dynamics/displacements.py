"""Mean-square displacements and diffusion, through MDAnalysis (extra ``liquid``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anipot.dynamics.correlation import Array
from anipot.dynamics.liquid import atoms_of, mdanalysis
from anipot.dynamics.temperature import BOLTZMANN
from anipot.dynamics.trajectory import Trajectory
from anipot.plots import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Of a cubic cell in the correction of Yeh and Hummer (doi:10.1021/jp0477147).
MADELUNG = 2.837297


@dataclass(frozen=True)
class Diffusion:
    """Mean-square displacement and what follows from it.

    Attributes
    ----------
    times
        (L,) ps.
    displacements
        (L,) Å², mean over atoms and origins of time.
    coefficient, error
        10⁻⁹ m²/s: a sixth of the slope, and the standard error of its mean over blocks of the trajectory.
    fitted
        ps, from where to where the slope was taken.
    """

    times: Array
    displacements: Array
    coefficient: float
    error: float
    fitted: tuple[float, float]

    def without_size(self, length: float, temperature: float, viscosity: float) -> float:
        """Return the coefficient in a cubic box without end: D + 2.837 kT/(6πηL) (Yeh, Hummer, doi:10.1021/jp0477147).

        Parameters
        ----------
        length
            Of the box, Å.
        temperature
            K.
        viscosity
            mPa s, of the same model; 0.896 for water at 298 K.
        """
        added = MADELUNG * BOLTZMANN * temperature / (6 * math.pi * viscosity * 1e-3 * length * 1e-10)
        return self.coefficient + added * 1e9

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw displacements and the fitted line; needs matplotlib."""
        ax = axes_or_new(ax)
        ax.plot(self.times, self.displacements)
        inside = (self.times >= self.fitted[0]) & (self.times <= self.fitted[1])
        slope, start = np.polyfit(self.times[inside], self.displacements[inside], 1)
        ax.plot(
            self.times[inside], start + slope * self.times[inside], "--", label=f"D = {self.coefficient:.3g} nm²/µs"
        )
        ax.set(xlabel="time, ps", ylabel="mean-square displacement, Å²")
        ax.margins(x=0)
        ax.legend()
        return ax


def diffusion(
    trajectory: Trajectory,
    element: str | Sequence[int],
    fit: tuple[float, float] | None = None,
    blocks: int = 4,
) -> Diffusion:
    """Return the mean-square displacement of some atoms, and their coefficient of diffusion by Einstein's relation.

    Jumps across cells and the drift of the center of mass are taken out first.

    Parameters
    ----------
    trajectory
        From a run at constant energy, or with a thermostat so weak that it leaves diffusion alone.
    element
        Symbol, or indices of atoms, such as the oxygens of water.
    fit
        ps, from where to where displacements are a line; 10 % to 50 % of a block by default.
    blocks
        Into how many pieces the trajectory is cut for the error.

    Raises
    ------
    ImportError
        Without MDAnalysis and tidynamics.
    ValueError
        For atoms that are not there, a single atom, and a trajectory too short for its blocks or the fit.

    Examples
    --------
    >>> import numpy as np
    >>> steps = np.random.default_rng(0).normal(scale=0.1, size=(4000, 200, 3))  # Å, every 10 fs: D = σ²/2Δ
    >>> walk = Trajectory(np.full(200, 8), np.ones(200), steps.cumsum(0), 10.0)
    >>> found = diffusion(walk, "O")  # 0.01 Å² / (2 · 10 fs) = 5 · 10⁻⁹ m²/s
    >>> bool(abs(found.coefficient - 5) < 0.3)
    True
    """
    chosen = atoms_of(trajectory, element) if isinstance(element, str) else np.asarray(element)
    if len(trajectory.masses) < 2:
        raise ValueError(f"{trajectory.name} has one atom, which stands still where the center of mass does")
    paths = trajectory.unwrapped()
    paths = (paths - np.average(paths, axis=1, weights=trajectory.masses)[:, None])[:, chosen]
    length = len(trajectory) // max(blocks, 1)
    spacing = trajectory.interval * 1e-3
    low, high = fit or (0.1 * length * spacing, 0.5 * length * spacing)
    first, last = math.ceil(low / spacing - 1e-9), math.floor(high / spacing + 1e-9)
    if blocks < 1 or not 0 <= first < last < length:
        raise ValueError(
            f"a line from {low:g} to {high:g} ps cannot be fitted to {blocks} blocks of {length * spacing:g} ps; "
            f"{trajectory.name} has {trajectory.duration * 1e-3:g} ps"
        )
    means = [_displacements(trajectory, paths[i * length : (i + 1) * length]) for i in range(blocks)]
    time = np.arange(length) * spacing
    slopes = [float(np.polyfit(time[first : last + 1], mean[first : last + 1], 1)[0]) for mean in means]
    error = float(np.std(slopes, ddof=1)) / math.sqrt(blocks) if blocks > 1 else math.nan
    # 1 Å²/ps = 10 · 10⁻⁹ m²/s
    mean = np.asarray(np.mean(means, axis=0), dtype=np.float64)
    return Diffusion(time.astype(np.float64), mean, 10 * float(np.mean(slopes)) / 6, 10 * error / 6, (low, high))


def _displacements(trajectory: Trajectory, paths: Array) -> Array:
    """Return the mean over atoms and origins of squared displacements, for each lag."""
    library = mdanalysis()
    universe = library.Universe.empty(paths.shape[1], trajectory=True)
    universe.load_new(paths, order="fac", dt=trajectory.interval * 1e-3)
    return np.asarray(library.analysis.msd.EinsteinMSD(universe, fft=True).run().results.timeseries)
