"""Neural network potentials in the ANI style: energies, forces, stress, Hessians and vibrations.

>>> import anipot
>>> model = anipot.load("ani2x")                                    # doctest: +SKIP
>>> result = anipot.single_point(model, species, coordinates)       # doctest: +SKIP

Å and Hartree throughout; eV only in the ASE calculator, ``model.ase()``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from anipot import models, units, zoo
from anipot.derivatives import Members, SinglePoint, hessian_vector_product, single_point
from anipot.devices import on_devices
from anipot.energy import EnergyShifter, Sequential
from anipot.ensembles import EnsemblePotential
from anipot.head import (
    CELU,
    ANIModel,
    AtomicNetwork,
    AtomicProperty,
    Atomwise,
    Charges,
    DipoleMoment,
    ElementalDipoleMoment,
    Ensemble,
    GatedNetwork,
    Gaussian,
    Polarizability,
    ShiftedSoftplus,
)
from anipot.kernels import backends, reference_path
from anipot.models import load
from anipot.potential import Potential
from anipot.representation import (
    ACSF,
    AEVComputer,
    BesselBasis,
    CosineCutoff,
    GaussianBasis,
    MollifierCutoff,
    PaiNN,
    SchNet,
    ScSchNet,
    SmoothCutoff,
    wACSF,
)
from anipot.response import atomic_polar_tensors
from anipot.structures import SpeciesConverter, SpeciesCoordinates, SpeciesEnergies, SpeciesFeatures, pad
from anipot.terms import D3, ZBL, Coulomb
from anipot.vibrations import VibrationalAnalysis, vibrational_analysis

if TYPE_CHECKING:
    from anipot.optimization import (
        Optimized,
        ReactionPath,
        TransitionState,
        optimize,
        reaction_path,
        transition_state,
    )
    from anipot.spectroscopy import NormalModes, Phonons, normal_modes, phonons
    from anipot.study import Study

__version__ = "0.1.0"

#: Imported when they are first used, as they bring ASE along.
_LATER = {
    **dict.fromkeys(("NormalModes", "Phonons", "normal_modes", "phonons"), "spectroscopy"),
    **dict.fromkeys(("Optimized", "ReactionPath", "TransitionState"), "optimization"),
    **dict.fromkeys(("optimize", "reaction_path", "transition_state"), "optimization"),
    "Study": "study",
}

__all__ = [
    "ACSF",
    "CELU",
    "D3",
    "ZBL",
    "AEVComputer",
    "ANIModel",
    "AtomicNetwork",
    "AtomicProperty",
    "Atomwise",
    "BesselBasis",
    "Charges",
    "CosineCutoff",
    "Coulomb",
    "DipoleMoment",
    "ElementalDipoleMoment",
    "EnergyShifter",
    "Ensemble",
    "EnsemblePotential",
    "GatedNetwork",
    "Gaussian",
    "GaussianBasis",
    "Members",
    "MollifierCutoff",
    "NormalModes",
    "Optimized",
    "PaiNN",
    "Phonons",
    "Polarizability",
    "Potential",
    "ReactionPath",
    "ScSchNet",
    "SchNet",
    "Sequential",
    "ShiftedSoftplus",
    "SinglePoint",
    "SmoothCutoff",
    "SpeciesConverter",
    "SpeciesCoordinates",
    "SpeciesEnergies",
    "SpeciesFeatures",
    "Study",
    "TransitionState",
    "VibrationalAnalysis",
    "atomic_polar_tensors",
    "backends",
    "hessian_vector_product",
    "load",
    "models",
    "normal_modes",
    "on_devices",
    "optimize",
    "pad",
    "phonons",
    "reaction_path",
    "reference_path",
    "single_point",
    "transition_state",
    "units",
    "vibrational_analysis",
    "wACSF",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"anipot.{_LATER[name]}"), name)
    raise AttributeError(f"module 'anipot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
