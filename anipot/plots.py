"""Pictures: what is better looked at than read. Needs matplotlib, ``pip install anipot[plot]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes_or_new(ax: Axes | None) -> Any:
    """Return the axes, or those of a new figure where there are none.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install anipot[plot]") from error
    return Figure(figsize=(5, 4), layout="constrained").subplots()


def plot_contributions(runs: Any, steps: Sequence[float] | None = None, ax: Axes | None = None) -> Axes:
    """Plot how much each layer of an sc-SchNet contributes, as training goes on.

    Parameters
    ----------
    runs
        (S, T + 1) contributions after each of S steps, as ``ScSchNet.contributions`` returns them, or (R, S, T + 1) of
        several runs: then lines are means and bands reach one standard deviation to both sides.
    steps
        (S,) what stands on the x axis; 0, 1, … by default.
    ax
        Where to draw; a new figure by default, ``ax.figure.savefig(...)`` writes it.

    Examples
    --------
    >>> import numpy as np
    >>> ax = plot_contributions(np.random.default_rng(0).random((3, 10, 4)))
    >>> len(ax.lines)
    4
    """
    values = np.asarray(runs, dtype=float)
    if values.ndim not in (2, 3):
        raise ValueError(f"runs must have shape (steps, layers) or (runs, steps, layers), got {values.shape}")
    values = values[None] if values.ndim == 2 else values
    x = np.arange(values.shape[1]) if steps is None else np.asarray(steps)
    ax = axes_or_new(ax)
    mean, std = values.mean(0), values.std(0)
    for layer in range(values.shape[2]):
        (line,) = ax.plot(x, mean[:, layer], label="embedding" if layer == 0 else f"interaction {layer}")
        if len(values) > 1:
            low, high = mean[:, layer] - std[:, layer], mean[:, layer] + std[:, layer]
            ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel="training step", ylabel=r"contribution $\|v^{(l)}\|\, w^{(l)}$")
    ax.legend()
    return ax


def plot_parity(reference: Any, predicted: Any, label: str, unit: str, ax: Axes | None = None) -> Axes:
    """Plot predictions against references, with the mean absolute and the root mean square error.

    Parameters
    ----------
    reference, predicted
        Arrays of one size.
    label, unit
        What they are, and in which unit.
    ax
        Where to draw; a new figure by default.

    Examples
    --------
    >>> plot_parity([0.0, 1.0], [0.1, 1.0], "energy", "eV").get_title()
    'MAE 0.05 eV, RMSE 0.0707 eV'
    """
    x, y = (np.asarray(values, dtype=float).ravel() for values in (reference, predicted))
    if x.shape != y.shape or not x.size:
        raise ValueError(f"reference and predicted must have one size above 0, got {x.size} and {y.size}")
    ax = axes_or_new(ax)
    ends = min(x.min(), y.min()), max(x.max(), y.max())
    ax.plot(ends, ends, color="0.6", linewidth=1)
    ax.plot(x, y, ".", markersize=3, alpha=0.6)
    error = y - x
    mae, rmse = np.abs(error).mean(), np.sqrt((error**2).mean())
    ax.set(xlabel=f"{label}, reference ({unit})", ylabel=f"{label}, predicted ({unit})")
    ax.locator_params(nbins=5)  # labels of small panels would run into each other
    ax.set_title(f"MAE {mae:.3g} {unit}, RMSE {rmse:.3g} {unit}")
    return ax
