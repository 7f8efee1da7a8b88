"""Representations: what a network sees of the surroundings of an atom."""

from anipot.representation.acsf import ACSF, wACSF
from anipot.representation.aev import AEVComputer
from anipot.representation.cutoffs import CosineCutoff, MollifierCutoff, SmoothCutoff
from anipot.representation.painn import PaiNN
from anipot.representation.radial import BesselBasis, GaussianBasis
from anipot.representation.schnet import SchNet, ScSchNet

__all__ = [
    "ACSF",
    "AEVComputer",
    "BesselBasis",
    "CosineCutoff",
    "GaussianBasis",
    "MollifierCutoff",
    "PaiNN",
    "ScSchNet",
    "SchNet",
    "SmoothCutoff",
    "wACSF",
]
