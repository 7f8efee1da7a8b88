"""Correlation functions of trajectories, and their spectra."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anipot.units import SPEED_OF_LIGHT

Array = NDArray[np.float64]
#: cm/fs.
LIGHT = SPEED_OF_LIGHT * 100 * 1e-15
#: Columns that are transformed at a time: memory stays bounded.
COLUMNS = 64


def autocorrelation(series: ArrayLike, depth: int, weights: ArrayLike | None = None) -> Array:
    """Return Σ_k w_k ⟨x_k(0) x_k(t)⟩ for lags 0 … depth - 1, averaged over all pairs of frames that far apart.

    Parameters
    ----------
    series
        (T, K).
    depth
        Number of lags, T at most.
    weights
        (K,) of the columns; 1 by default.

    Returns
    -------
    array
        (depth,)

    Examples
    --------
    >>> autocorrelation([[1.0], [0.0], [-1.0], [0.0], [1.0]], 3).round(6)
    array([ 0.6 , 0. , -0.666667])
    """
    from scipy.fft import irfft, next_fast_len, rfft

    values = np.asarray(series, dtype=float)
    frames, columns = values.shape
    if not 0 < depth <= frames:
        raise ValueError(f"{frames} frames have lags from 0 to {frames - 1}, but {depth} were asked for")
    weighted = np.ones(columns) if weights is None else np.asarray(weights, dtype=float)
    length = next_fast_len(frames + depth, real=True)  # zeros behind, so that the end does not meet the start
    power = np.zeros(length // 2 + 1)
    for start in range(0, columns, COLUMNS):
        part = rfft(values[:, start : start + COLUMNS], length, axis=0)
        power += (part.real**2 + part.imag**2) @ weighted[start : start + COLUMNS]
    return np.asarray(irfft(power, length)[:depth]) / (frames - np.arange(depth))


def window(name: str, depth: int) -> Array:
    """Return the second half (depth,) of a symmetric window of SciPy, 1 at the start; ``"none"`` is one.

    Raises
    ------
    ValueError
        If SciPy has no window of this name that needs no parameters.

    >>> window("hann", 3)
    array([1.  , 0.75, 0.25])
    """
    from scipy.signal import get_window

    if name == "none":
        return np.ones(depth)
    try:  # zeros at both ends carry nothing and are left out
        return np.asarray(get_window(name, 2 * depth + 1, fftbins=False))[depth : 2 * depth]
    except ValueError as error:
        raise ValueError(f"no window {name!r}; choose one such as hann, blackman, cosine or none") from error


def density(correlation: Array, interval: float, grid: Array) -> Array:
    """Return the one-sided density over wavenumbers of an even function of time: its area is the value at 0.

    Parameters
    ----------
    correlation
        (n,) values at 0, Δ, 2Δ, …; 0 beyond.
    interval
        Δ, fs.
    grid
        (P,) evenly spaced wavenumbers from 0 on, cm⁻¹.

    Returns
    -------
    array
        (P,), 1/cm⁻¹: 2c ∫ C(t) cos(2πcν̃t) dt over all times, by the trapezoidal rule.
    """
    from scipy.signal import zoom_fft

    if len(grid) < 2 or grid[0] != 0:
        raise ValueError("the grid must start at 0 and have two points at least")
    one_sided = correlation.copy()
    one_sided[0] *= 0.5
    # cos(2π c ν̃ t) summed at the points of the grid only: a chirp transform, which needs no grid of its own.
    rate, last = 1 / (LIGHT * interval), grid[-1] + (grid[1] - grid[0])
    transform = zoom_fft(one_sided, [0.0, last], m=len(grid), fs=rate, endpoint=False)
    return np.asarray(4 * LIGHT * interval * transform.real)


def lobe(name: str) -> float:
    """Return the full width at half maximum of the line that a window makes, times c and its length.

    >>> round(lobe("hann"), 2)
    1.0
    """
    depth = 512
    grid = np.linspace(0, 4 / (LIGHT * depth), 4096)
    line = density(window(name, depth), 1.0, grid)
    below = int(np.argmax(line < line[0] / 2))
    half = np.interp(line[0] / 2, line[[below, below - 1]], grid[[below, below - 1]])
    return float(2 * half * LIGHT * depth)
