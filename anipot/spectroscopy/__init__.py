"""Vibrations and what is seen of them."""

from anipot.spectroscopy.analysis import normal_modes
from anipot.spectroscopy.broadening import Spectrum, broadened
from anipot.spectroscopy.crystals import Phonons, phonons
from anipot.spectroscopy.modes import NormalModes
from anipot.spectroscopy.symmetry import Symmetry, symmetry_of
from anipot.spectroscopy.thermochemistry import Thermochemistry, thermochemistry

__all__ = [
    "NormalModes",
    "Phonons",
    "Spectrum",
    "Symmetry",
    "Thermochemistry",
    "broadened",
    "normal_modes",
    "phonons",
    "symmetry_of",
    "thermochemistry",
]
