"""New structures for a model to learn from: query by committee, labels by a teacher, results of other programs."""

from anipot.sampling.calculators import CalculatorFactory, CalculatorLabeller
from anipot.sampling.committee import THRESHOLD, disagreement
from anipot.sampling.dynamics import until_uncertain
from anipot.sampling.joining import JoinReport, join
from anipot.sampling.labellers import Labeller, Labels, PotentialLabeller
from anipot.sampling.labelling import LabelReport, label
from anipot.sampling.normal_modes import NormalModes, conformers, displaced, normal_modes
from anipot.sampling.run import SampleReport, sample
from anipot.sampling.settings import SampleSettings

__all__ = [
    "THRESHOLD",
    "CalculatorFactory",
    "CalculatorLabeller",
    "JoinReport",
    "LabelReport",
    "Labeller",
    "Labels",
    "NormalModes",
    "PotentialLabeller",
    "SampleReport",
    "SampleSettings",
    "conformers",
    "disagreement",
    "displaced",
    "join",
    "label",
    "normal_modes",
    "sample",
    "until_uncertain",
]
