"""The names of TorchANI 2.2 over this library: scripts run with only their import changed.

>>> from anipot.compat import torchani
>>> torchani.AEVComputer.cover_linearly(5.2, 3.5, 16.0, 8.0, 16, 4, 32.0, 8, 4).aev_length
384

What differs on purpose is told in ``docs/from_torchani.md``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from anipot.compat.torchani import models, neurochem, nn, units, utils
from anipot.compat.torchani.aev import AEVComputer
from anipot.compat.torchani.missing import missing
from anipot.compat.torchani.nn import ANIModel, Ensemble, SpeciesConverter
from anipot.energy import EnergyShifter

__all__ = [
    "AEVComputer",
    "ANIModel",
    "EnergyShifter",
    "Ensemble",
    "SpeciesConverter",
    "models",
    "neurochem",
    "nn",
    "units",
    "utils",
]

_MISSING = {
    "data": "read data sets with h5py and batch molecules with anipot.pad; examples/06_train_a_potential.py trains so",
    "optim": "torch.optim.AdamW has the decoupled weight decay for which torchani.optim was written",
    "cuaev": "AEVComputer runs on a GPU as it is",
    "testing": "it served TorchANI's own tests",
}


def __getattr__(name: str) -> Any:
    if name == "ase":  # imported when it is needed, since ASE takes a while
        return import_module("anipot.compat.torchani.ase")
    raise missing("torchani", name, _MISSING)
