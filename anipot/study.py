"""One molecule, one model, one folder: what a chemist asks of them, each in a line."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms

from anipot.derivatives import as_potential, single_point
from anipot.dynamics import Guard, MolecularDynamics, Settings, infrared_spectrum, power_spectrum, read_trajectory
from anipot.dynamics.files import write_run, write_spectrum
from anipot.optimization import Optimized, optimize
from anipot.optimization.files import record, write_optimized
from anipot.point import Point, point_of
from anipot.spectroscopy import NormalModes, Thermochemistry, normal_modes
from anipot.spectroscopy.files import write_modes
from anipot.workfolder import WorkFolder

if TYPE_CHECKING:
    from anipot.dynamics import DynamicsSpectrum
    from anipot.interfaces.ase import Calculator
