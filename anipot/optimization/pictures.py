"""How relaxations went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from anipot import plots
from anipot.optimization.result import Optimized

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_convergence(found: Sequence[Optimized], fmax: float | None = None, ax: Axes | None = None) -> Axes:
    """Plot the largest force of each system by steps; systems that did not converge are dashed.

    Parameters
    ----------
    found
        What ``anipot.optimize`` returned.
    fmax
        eV/Å; a line where systems are done.
    ax
        Where to draw; a new figure by default.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> ax = plot_convergence(anipot.optimize([molecule("H2O"), molecule("CH4")], anipot.load()))
    >>> len(ax.lines)
    2
    """
    ax = plots.axes_or_new(ax)
    alpha = max(0.1, min(1.0, 5 / max(1, len(found))))
    for one in found:
        ax.plot(one.forces_max, "-" if one.converged else "--", linewidth=1, alpha=alpha if one.converged else 1.0)
    if fmax is not None:
        ax.axhline(fmax, color="0.4", linewidth=1, linestyle=":")
    ax.set(xlabel="step", ylabel="largest force (eV/Å)", yscale="log")
    return ax
