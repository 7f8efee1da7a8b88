"""Radial distribution functions, through MDAnalysis (extra ``liquid``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anipot.dynamics.correlation import Array
from anipot.dynamics.trajectory import Trajectory
from anipot.plots import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        ax = axes_or_new(ax)
        ax.plot(self.distances, self.values, label="-".join(self.names))
        ax.axhline(1, color="0.7", linewidth=0.8)
        ax.set(xlabel="distance, Å", ylabel="g(r)")
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
        For free systems, elements that are not there or on one atom only, distances beyond half of the cell, and a
        width that is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> ideal = np.random.default_rng(0).random((50, 100, 3)) * 10
    >>> cells, pbc = np.repeat(10 * np.eye(3)[None], 50, 0), np.ones(3, dtype=bool)
    >>> gas = Trajectory(np.full(100, 8), np.ones(100), ideal, 1.0, cells=cells, pbc=pbc)
    >>> bool(abs(radial_distribution(gas, "O", "O").values[40:].mean() - 1) < 0.01)
    True
    """
    library = mdanalysis()
    if trajectory.cells is None or trajectory.pbc is None or not trajectory.pbc.all():
        raise ValueError(f"{trajectory.name} has no three periodic axes, which a density needs")
    half = 0.5 * min(1 / np.linalg.norm(np.linalg.inv(cell), axis=0).max() for cell in trajectory.cells)
    last = min(FAR, half) if last is None else last
    if not width > 0:
        raise ValueError(f"the width of a bin must be above 0 Å, got {width}")
    if not 0 < last <= half * (1 + 1e-9):
        raise ValueError(f"the last distance must be between 0 and half of the cell, {half:.2f} Å, got {last:g} Å")
    universe = _universe(library, trajectory)
    first, second = (universe.atoms[atoms_of(trajectory, symbol)] for symbol in (one, other))
    block = (1, 1) if one == other else None  # an atom is not its own neighbor
    if one == other and len(first) < 2:
        raise ValueError(f"{trajectory.name} has one atom {one!r}, which has no other beside it")
    bins = max(1, round(last / width))
    found = (
        library.analysis.rdf.InterRDF(first, second, nbins=bins, range=(0.0, last), exclusion_block=block).run().results
    )
    neighbors = np.cumsum(found.count) / (len(trajectory) * len(first))
    return RadialDistribution(np.array(found.bins), np.array(found.rdf), neighbors, (one, other))


def _universe(library: Any, trajectory: Trajectory) -> Any:
    from ase.geometry import cell_to_cellpar

    universe = library.Universe.empty(len(trajectory.numbers), trajectory=True)
    assert trajectory.cells is not None
    # MDAnalysis knows lengths and angles of cells only: positions are turned into the axes that it takes for them.
    boxes = np.array([cell_to_cellpar(cell) for cell in trajectory.cells])
    standard = np.array([_standard(box) for box in boxes])
    turned = trajectory.positions @ np.linalg.inv(trajectory.cells) @ standard
    universe.load_new(turned, order="fac", dimensions=boxes, dt=trajectory.interval * 1e-3)
    return universe


def _standard(box: Array) -> Array:
    from ase.geometry import cellpar_to_cell

    return np.asarray(cellpar_to_cell(box, ab_normal=(0, 0, 1), a_direction=(1, 0, 0)))


def atoms_of(trajectory: Trajectory, symbol: str) -> NDArray[np.int64]:
    """Return the indices of the atoms of an element; an error names those that are there."""
    from ase.data import atomic_numbers, chemical_symbols

    found = np.flatnonzero(trajectory.numbers == atomic_numbers.get(symbol, -1))
    if not len(found):
        there = ", ".join(sorted({chemical_symbols[number] for number in trajectory.numbers}))
        raise ValueError(f"{trajectory.name} has no atoms {symbol!r}; it has {there}")
    return found


def mdanalysis() -> Any:
    """Return MDAnalysis with what is used of it.

    Raises
    ------
    ImportError
        Without it.
    """
    try:
        import MDAnalysis
        import MDAnalysis.analysis.msd
        import MDAnalysis.analysis.rdf
        import tidynamics  # noqa: F401
    except ImportError as error:
        raise ImportError("radial distributions and diffusion need MDAnalysis: pip install anipot[liquid]") from error
    return MDAnalysis
