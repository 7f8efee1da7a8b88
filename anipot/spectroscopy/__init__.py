"""Vibrations and what is seen of them."""

from anipot.spectroscopy.analysis import normal_modes
from anipot.spectroscopy.broadening import Spectrum, broadened
from anipot.spectroscopy.modes import NormalModes
from anipot.spectroscopy.symmetry import Symmetry, symmetry_of
from anipot.spectroscopy.thermochemistry import Thermochemistry, thermochemistry

__all__ = [
    "NormalModes",
    "Spectrum",
    "Symmetry",
    "Thermochemistry",
    "broadened",
    "normal_modes",
    "symmetry_of",
    "thermochemistry",
]
