"""Structure and diffusion of liquids, through MDAnalysis (extra ``liquid``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anipot.dynamics.correlation import Array
from anipot.dynamics.temperature import BOLTZMANN
from anipot.dynamics.trajectory import Trajectory
from anipot.plots import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Of a cubic cell in the correction of Yeh and Hummer (doi:10.1021/jp0477147).
MADELUNG = 2.837297
#: Å; farther than this nobody looks unless asked to.
FAR = 10.0


@dataclass(frozen=True)
class RadialDistribution:
    """How often two kinds of atoms are found at a distance.

    Attributes
    ----------
    distances
        (P,) Å, middles of the bins.
    values
        (P,) g(r), 1 for atoms that do not see each other.
    neighbors
        (P,) mean number of atoms of the second kind around one of the first, up to the end of each bin.
    names
        Of the two kinds.
    """

    distances: Array
    values: Array
    neighbors: Array
    names: tuple[str, str]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw g(r); needs matplotlib."""
        ax = _axes(ax)
        ax.plot(self.distances, self.values, label="-".join(self.names))
        ax.axhline(1, color="0.7", linewidth=0.8)
        ax.set(xlabel="distance, Å", ylabel="g(r)")
        ax.margins(x=0)
        ax.legend()
        return ax


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
        ax = _axes(ax)
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


def radial_distribution(
    trajectory: Trajectory, one: str, other: str, last: float | None = None, width: float = 0.05
) -> RadialDistribution:
    """Return the radial distribution function of two elements.

    Parameters
    ----------
    trajectory
        With three periodic axes; its cells may change.
    one, other
        Symbols, which may be the same.
    last
        Å, the largest distance; by default 10, or half of the smallest height of a cell, beyond which an atom would
        meet the image of a neighbor.
    width
        Å, of a bin.

    Raises
    ------
    ImportError
        Without MDAnalysis.
    ValueError
        For free systems, elements that are not there, and distances beyond half of the cell.

    Examples
    --------
    >>> import numpy as np
    >>> ideal = np.random.default_rng(0).random((50, 100, 3)) * 10
    >>> cells, pbc = np.repeat(10 * np.eye(3)[None], 50, 0), np.ones(3, dtype=bool)
    >>> gas = Trajectory(np.full(100, 8), np.ones(100), ideal, 1.0, cells=cells, pbc=pbc)
    >>> bool(abs(radial_distribution(gas, "O", "O").values[40:].mean() - 1) < 0.01)
    True
    """
    analysis = _mdanalysis()
    if trajectory.cells is None or trajectory.pbc is None or not trajectory.pbc.all():
        raise ValueError(f"{trajectory.name} has no three periodic axes, which a density needs")
    half = 0.5 * min(1 / np.linalg.norm(np.linalg.inv(cell), axis=0).max() for cell in trajectory.cells)
    last = min(FAR, half) if last is None else last
    if not 0 < last <= half * (1 + 1e-9):
        raise ValueError(f"the last distance must be between 0 and half of the cell, {half:.2f} Å, got {last:g} Å")
    universe = _universe(trajectory, trajectory.positions)
    first, second = (universe.atoms[_atoms_of(trajectory, symbol)] for symbol in (one, other))
    block = (1, 1) if one == other else None  # an atom is not its own neighbor
    bins = max(1, round(last / width))
    found = analysis.rdf.InterRDF(first, second, nbins=bins, range=(0.0, last), exclusion_block=block).run().results
    neighbors = np.cumsum(found.count) / (len(trajectory) * len(first))
    return RadialDistribution(np.array(found.bins), np.array(found.rdf), neighbors, (one, other))


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
        For atoms that are not there, and a trajectory too short for its blocks or the fit.

    Examples
    --------
    >>> import numpy as np
    >>> steps = np.random.default_rng(0).normal(scale=0.1, size=(4000, 200, 3))  # Å, every 10 fs: D = σ²/2Δ
    >>> walk = Trajectory(np.full(200, 8), np.ones(200), steps.cumsum(0), 10.0)
    >>> found = diffusion(walk, "O")  # 0.01 Å² / (2 · 10 fs) = 5 · 10⁻⁹ m²/s
    >>> bool(abs(found.coefficient - 5) < 0.3)
    True
    """
    chosen = _atoms_of(trajectory, element) if isinstance(element, str) else np.asarray(element)
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
    analysis = _mdanalysis()
    universe = analysis.Universe.empty(paths.shape[1], trajectory=True)
    universe.load_new(paths, order="fac", dt=trajectory.interval * 1e-3)
    return np.asarray(analysis.msd.EinsteinMSD(universe, fft=True).run().results.timeseries)


def _universe(trajectory: Trajectory, positions: Array) -> Any:
    from ase.geometry import cell_to_cellpar

    universe = _mdanalysis().Universe.empty(len(trajectory.numbers), trajectory=True)
    assert trajectory.cells is not None
    # MDAnalysis knows lengths and angles of cells only: positions are turned into the axes that it takes for them.
    boxes = np.array([cell_to_cellpar(cell) for cell in trajectory.cells])
    standard = np.array([_standard(box) for box in boxes])
    turned = positions @ np.linalg.inv(trajectory.cells) @ standard
    universe.load_new(turned, order="fac", dimensions=boxes, dt=trajectory.interval * 1e-3)
    return universe


def _standard(box: Array) -> Array:
    from ase.geometry import cellpar_to_cell

    return np.asarray(cellpar_to_cell(box, ab_normal=(0, 0, 1), a_direction=(1, 0, 0)))


def _atoms_of(trajectory: Trajectory, symbol: str) -> NDArray[np.int64]:
    from ase.data import atomic_numbers, chemical_symbols

    found = np.flatnonzero(trajectory.numbers == atomic_numbers.get(symbol, -1))
    if not len(found):
        there = ", ".join(sorted({chemical_symbols[number] for number in trajectory.numbers}))
        raise ValueError(f"{trajectory.name} has no atoms {symbol!r}; it has {there}")
    return found


def _mdanalysis() -> Any:
    try:
        import MDAnalysis
        import MDAnalysis.analysis.msd
        import MDAnalysis.analysis.rdf
        import tidynamics  # noqa: F401
    except ImportError as error:
        raise ImportError("radial distributions and diffusion need MDAnalysis: pip install anipot[liquid]") from error

    class Found:
        Universe = MDAnalysis.Universe
        rdf, msd = MDAnalysis.analysis.rdf, MDAnalysis.analysis.msd

    return Found
