"""Heads: from features to energies."""

from anipot.head.ani_model import ANIModel
from anipot.head.ensemble import Ensemble
from anipot.head.networks import CELU, AtomicNetwork, Gaussian, ShiftedSoftplus

__all__ = ["CELU", "ANIModel", "AtomicNetwork", "Ensemble", "Gaussian", "ShiftedSoftplus"]
