"""Molecular dynamics that is written down as it runs, and what trajectories tell."""

from anipot.dynamics.body import body_frame
from anipot.dynamics.dipoles import add_dipoles
from anipot.dynamics.displacements import Diffusion, diffusion
from anipot.dynamics.guard import DynamicsError, Guard
from anipot.dynamics.h5md import read_h5md
from anipot.dynamics.liquid import RadialDistribution, radial_distribution
from anipot.dynamics.run import MolecularDynamics
from anipot.dynamics.settings import Settings
from anipot.dynamics.spectra import infrared_spectrum, power_spectrum
from anipot.dynamics.spectrum import DynamicsSpectrum
from anipot.dynamics.summary import plot_log, read_log, summarize
from anipot.dynamics.temperature import kinetic_temperature
from anipot.dynamics.trajectory import Trajectory, TruncatedError, read_trajectory

__all__ = [
    "Diffusion",
    "DynamicsError",
    "DynamicsSpectrum",
    "Guard",
    "MolecularDynamics",
    "RadialDistribution",
    "Settings",
    "Trajectory",
    "TruncatedError",
    "add_dipoles",
    "body_frame",
    "diffusion",
    "infrared_spectrum",
    "kinetic_temperature",
    "plot_log",
    "power_spectrum",
    "radial_distribution",
    "read_h5md",
    "read_log",
    "read_trajectory",
    "summarize",
]
