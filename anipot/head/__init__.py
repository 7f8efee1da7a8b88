"""Heads: from features to energies and other properties."""

from anipot.head.ani_model import ANIModel
from anipot.head.atomwise import Atomwise
from anipot.head.ensemble import Ensemble
from anipot.head.gated import GatedNetwork
from anipot.head.multipoles import DipoleMoment, ElementalDipoleMoment, Polarizability
from anipot.head.networks import CELU, AtomicNetwork, Gaussian, ShiftedSoftplus
from anipot.head.properties import AtomicProperty, Charges

__all__ = [
    "CELU",
    "ANIModel",
    "AtomicNetwork",
    "AtomicProperty",
    "Atomwise",
    "Charges",
    "DipoleMoment",
    "ElementalDipoleMoment",
    "Ensemble",
    "GatedNetwork",
    "Gaussian",
    "Polarizability",
    "ShiftedSoftplus",
]
