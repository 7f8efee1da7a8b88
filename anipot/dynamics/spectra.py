"""Vibrational spectra from trajectories: power spectra of velocities, infrared spectra of dipoles.

After M. Thomas, M. Brehm, R. Fligg, P. Vöhringer and B. Kirchner, Phys. Chem. Chem. Phys. 15, 6608 (2013),
doi:10.1039/C3CP44302G.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.dynamics import correlation
from anipot.dynamics.body import body_frame
from anipot.dynamics.correlation import LIGHT, Array, autocorrelation, density, lobe
from anipot.dynamics.spectrum import DECADIC, DynamicsSpectrum
from anipot.dynamics.temperature import BOLTZMANN, ENERGY, held_atoms, kinetic_temperature
from anipot.dynamics.trajectory import Trajectory
from anipot.units import AVOGADRO, ELEMENTARY_CHARGE, HARTREE_TO_JOULE, SPEED_OF_LIGHT

#: J s (CODATA 2014, as in ``anipot.units``).
PLANCK = 6.626070040e-34
#: F/m; the Coulomb constant holds e²/(4πε₀).
VACUUM = ELEMENTARY_CHARGE**2 / (4 * math.pi * HARTREE_TO_JOULE * 0.5291772105638411e-10)
#: Factors between the classical and the quantum correlation function of x = ħω/kT, divided by the harmonic one
#: (R. Ramírez et al., J. Chem. Phys. 121, 3973 (2004), doi:10.1063/1.1774986).
QUANTUM = ("harmonic", "none", "standard", "schofield")
#: Share of the highest wavenumber that frames can tell, up to which a spectrum is given.
TRUSTED = 0.8


def power_spectrum(
    trajectory: Trajectory,
    *,
    resolution: float = 10.0,
    window: str = "blackman",
    temperature: float | None = None,
    atoms: NDArray[Any] | None = None,
    last: float = 4500.0,
    correct_timestep: bool = True,
    internal: bool | None = None,
) -> DynamicsSpectrum:
    """Return the power spectrum of the velocities, Σ_i m_i ∫ ⟨v_i(0)·v_i(t)⟩ cos(ωt) dt / kT.

    At temperature T each vibration has an area of 1 at its wavenumber, so that this is the density of modes.

    Parameters
    ----------
    trajectory
        With velocities; without, they are differences of positions.
    resolution
        cm⁻¹, the width of a sharp line: correlations over about 1/(c · resolution) are used, 3.8 ps for 10 cm⁻¹ with
        the window of Blackman.
    window
        Of SciPy, such as ``"blackman"``, ``"hann"`` or ``"cosine"``; or ``"none"``. That of Hann needs 13 % less time,
        but puts ripples of 3 % beside a line, that of Blackman of 0.1 %.
    temperature
        K; that of the mean kinetic energy by default.
    atoms
        Indices of the atoms that count; all by default.
    last
        cm⁻¹, the end of the spectrum; frames every 2 fs tell up to 6 600.
    correct_timestep
        Whether to undo what the time step Δ of velocity Verlet does to frequencies, sin(ω'Δ/2) = ωΔ/2, where the
        trajectory tells it: 17 cm⁻¹ at 3 600 cm⁻¹ and 0.5 fs.
    internal
        Whether velocities are those that someone sees who turns with the molecule (``body_frame``): rotation widens
        lines by tens of cm⁻¹ and fills the region below 100 cm⁻¹. Only for free systems, and the default there unless
        atoms are fixed, against which the others vibrate.

    Raises
    ------
    ValueError
        If the trajectory is too short for the resolution, its frames stand too far apart for ``last``, or its
        temperature is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> time = np.arange(20000) * 0.5
    >>> moved = 0.01 * np.sin(2 * np.pi * 2.99792458e-5 * 1500 * time)  # 1500 cm⁻¹
    >>> positions = np.zeros((20000, 2, 3))
    >>> positions[:, 1, 2] = 1 + moved
    >>> spectrum = power_spectrum(Trajectory(np.array([1, 1]), np.ones(2), positions, 0.5))
    >>> spectrum.peaks().round(1)
    array([1500.])
    """
    chosen = slice(None) if atoms is None else np.asarray(atoms, dtype=np.int64)
    if np.size(trajectory.masses[chosen]) == 0:
        raise ValueError(f"no atoms of {trajectory.name} are chosen, whose spectrum this would be")
    temperature = _temperature(trajectory, temperature)
    if internal is None:
        whole = not trajectory.periodic and len(trajectory.masses) > 1
        internal = whole and not len(held_atoms(trajectory))
    if internal:
        trajectory = body_frame(trajectory)
    velocities = trajectory.velocities
    if velocities is None:
        velocities = _differences(trajectory.unwrapped(), trajectory.interval)
    masses = np.repeat(trajectory.masses[chosen], 3)
    series = velocities[:, chosen].reshape(len(velocities), -1)
    scale = ENERGY / (BOLTZMANN * temperature)
    options = resolution, window, last, correct_timestep
    grid, values = _spectrum(trajectory, series, masses * scale, trajectory.velocities is None, *options)
    return DynamicsSpectrum(grid, values, "power", temperature, resolution)


def infrared_spectrum(
    trajectory: Trajectory,
    *,
    temperature: float | None = None,
    resolution: float = 10.0,
    window: str = "blackman",
    quantum: str = "harmonic",
    last: float = 4500.0,
    correct_timestep: bool = True,
    internal: bool = False,
) -> DynamicsSpectrum:
    """Return the infrared spectrum, N_A/(12 ε₀ c² kT) ∫ ⟨μ'(0)·μ'(t)⟩ cos(ωt) dt with the derivative μ' of the dipole.

    Parameters
    ----------
    trajectory
        With dipoles; ``anipot.dynamics.add_dipoles`` computes them with a model.
    temperature
        K, of the run; that of the mean kinetic energy by default.
    quantum
        Correction of the classical correlation function: with ``"harmonic"`` harmonic vibrations have the intensities
        of quantum mechanics, and those of a normal mode analysis. Others are ``"standard"``, ``"schofield"`` and
        ``"none"``.
    resolution, window, last, correct_timestep
        As in ``power_spectrum``.
    internal
        Whether the dipole is that in a frame that turns with the molecule. A gas rotates, hence not by default.

    Raises
    ------
    ValueError
        As ``power_spectrum``; without dipoles; for an unknown correction.

    Examples
    --------
    >>> import numpy as np
    >>> dipoles = np.zeros((20000, 3))
    >>> dipoles[:, 2] = 0.01 * np.sin(2 * np.pi * 2.99792458e-5 * 1500 * np.arange(20000) * 0.5)
    >>> trajectory = Trajectory(np.array([1]), np.ones(1), np.zeros((20000, 1, 3)), 0.5, dipoles=dipoles)
    >>> infrared_spectrum(trajectory, temperature=300).peaks().round(1)
    array([1500.])
    """
    if trajectory.dipoles is None:
        raise ValueError(f"{trajectory.name} has no dipoles; a model with a dipole head can add them")
    if quantum not in QUANTUM:
        raise ValueError(f"quantum must be one of {', '.join(QUANTUM)}, got {quantum!r}")
    temperature = _temperature(trajectory, temperature)
    if internal:
        trajectory = body_frame(trajectory)
    assert trajectory.dipoles is not None
    series = _differences(trajectory.dipoles, trajectory.interval)
    # e Å/fs in C m/s, squared; m/mol in km/mol.
    factor = (ELEMENTARY_CHARGE * 1e5) ** 2 * AVOGADRO * 1e-3
    factor /= 12 * VACUUM * SPEED_OF_LIGHT**2 * BOLTZMANN * temperature
    weights = np.full(3, factor * DECADIC)
    grid, values = _spectrum(trajectory, series, weights, True, resolution, window, last, correct_timestep)
    return DynamicsSpectrum(grid, values * _quantum(quantum, grid, temperature), "infrared", temperature, resolution)


def _spectrum(
    trajectory: Trajectory,
    series: Array,
    weights: Array,
    differenced: bool,
    resolution: float,
    window: str,
    last: float,
    correct: bool,
) -> tuple[Array, Array]:
    """Return wavenumbers and the density of the correlation function of a weighted series."""
    interval = trajectory.interval
    depth = _depth(trajectory, len(series), resolution, window)
    highest = TRUSTED / (2 * LIGHT * interval)
    if last > highest:
        raise ValueError(
            f"frames every {interval:g} fs tell wavenumbers up to {highest:.0f} cm⁻¹, but the spectrum should go to "
            f"{last:.0f} cm⁻¹; write frames more often, or end it earlier"
        )
    grid = np.arange(0.0, last + resolution / 10, resolution / 10)
    damped = autocorrelation(series, depth, weights) * correlation.window(window, depth)
    values = density(damped, interval, grid)
    if differenced:
        values = values / np.sinc(2 * LIGHT * interval * grid) ** 2
    if correct and trajectory.timestep:
        if differenced:  # as slow as velocities are, which velocity Verlet takes over two steps
            values = values * np.sinc(2 * LIGHT * trajectory.timestep * grid) ** 2
        grid, values = _without_timestep(grid, values, trajectory.timestep)
    return grid, values


def _temperature(trajectory: Trajectory, given: float | None) -> float:
    """Return the temperature, which spectra are divided by, in K."""
    found = kinetic_temperature(trajectory) if given is None else given
    if not 0 < found < math.inf:
        what = "nothing moves in it, or velocities are no numbers" if given is None else "give one above 0 K"
        raise ValueError(f"the temperature of {trajectory.name} is {found:g} K: {what}")
    return found


def _depth(trajectory: Trajectory, frames: int, resolution: float, name: str) -> int:
    """Return how many lags a resolution needs."""
    if not resolution > 0:
        raise ValueError(f"the resolution must be above 0 cm⁻¹, got {resolution}")
    width = lobe(name)
    depth = math.ceil(width / (LIGHT * resolution * trajectory.interval))
    if depth > frames:
        best = width / (LIGHT * frames * trajectory.interval)
        raise ValueError(
            f"a resolution of {resolution:g} cm⁻¹ needs {depth * trajectory.interval * 1e-3:.3g} ps, "
            f"{trajectory.name} has {frames * trajectory.interval * 1e-3:.3g} ps, enough for {best:.3g} cm⁻¹"
        )
    return depth


def _differences(series: Array, interval: float) -> Array:
    """Return central differences (T - 2, …); a frequency ω is damped by sin(ωΔ)/(ωΔ), which the spectrum undoes."""
    return np.asarray((series[2:] - series[:-2]) / (2 * interval))


def _without_timestep(grid: Array, values: Array, timestep: float) -> tuple[Array, Array]:
    """Return wavenumbers and densities of the motion in the limit of short steps, areas unchanged."""
    half = math.pi * LIGHT * timestep
    true = np.sin(half * grid) / half
    return true, values / np.cos(half * grid)


def _quantum(name: str, wavenumbers: Array, temperature: float) -> Array:
    """Return the correction over the harmonic one, x/(1 - exp(-x))."""
    x = PLANCK * SPEED_OF_LIGHT * 100 * wavenumbers / (BOLTZMANN * temperature)
    x = np.maximum(x, 1e-12)
    harmonic = x / -np.expm1(-x)
    kinds = {
        "harmonic": harmonic,
        "none": np.ones_like(x),
        "standard": 2 / (1 + np.exp(-x)),
        "schofield": np.exp(np.minimum(x / 2, 700)),
    }
    return np.asarray(kinds[name] / harmonic)
