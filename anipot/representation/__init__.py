"""Representations: what a network sees of the surroundings of an atom."""

from anipot.representation.acsf import ACSF, wACSF
from anipot.representation.aev import AEVComputer
from anipot.representation.cutoffs import CosineCutoff, SmoothCutoff

__all__ = ["ACSF", "AEVComputer", "CosineCutoff", "SmoothCutoff", "wACSF"]
