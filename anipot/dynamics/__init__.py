"""Molecular dynamics that is written down as it runs, and what trajectories tell."""

from anipot.dynamics.guard import DynamicsError, Guard
from anipot.dynamics.h5md import read_h5md
from anipot.dynamics.run import MolecularDynamics
from anipot.dynamics.settings import Settings
from anipot.dynamics.summary import plot_log, read_log, summarize

__all__ = [
    "DynamicsError",
    "Guard",
    "MolecularDynamics",
    "Settings",
    "plot_log",
    "read_h5md",
    "read_log",
    "summarize",
]
