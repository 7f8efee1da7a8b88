"""``torchani.neurochem``: readers of NeuroChem files under the names of TorchANI 2.2."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch

from anipot.compat.torchani.missing import missing
from anipot.compat.torchani.nn import ANIModel, Ensemble
from anipot.compat.torchani.utils import ChemicalSymbolsToInts
from anipot.energy import EnergyShifter
from anipot.head import AtomicNetwork
from anipot.interfaces.neurochem import read_constants, read_network, read_self_energies

__all__ = ["Constants", "load_atomic_network", "load_model", "load_model_ensemble", "load_sae"]

_MISSING = {
    "Trainer": "write the loop yourself; examples/06_train_a_potential.py shows one",
    "parse_neurochem_resources": "anipot.load('path/to/model.info') reads the whole ensemble",
}

StrPath = str | os.PathLike[str]


class Constants(Mapping[str, Any]):
    """The constants of a ``.params`` file, to be unpacked: ``torchani.AEVComputer(**consts)``.

    Parameters
    ----------
    filename
        The file.

    Attributes
    ----------
    species
        Symbols of the elements.
    num_species
        How many there are.
    species_to_tensor
        Turns symbols into element indices.
    """

    def __init__(self, filename: StrPath) -> None:
        self.filename = filename
        constants = read_constants(Path(filename))
        self.species: list[str] = constants.pop("elements")
        self.num_species = len(self.species)
        self.species_to_tensor = ChemicalSymbolsToInts(self.species)
        self._values = {name: _tensor_or_number(value) for name, value in constants.items()}
        self._values["num_species"] = self.num_species

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:  # "_values" itself is missing while being unpickled
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@overload
def load_sae(filename: StrPath, return_dict: Literal[False] = False) -> EnergyShifter: ...
@overload
def load_sae(filename: StrPath, return_dict: Literal[True]) -> tuple[EnergyShifter, dict[str, float]]: ...
def load_sae(filename: StrPath, return_dict: bool = False) -> EnergyShifter | tuple[EnergyShifter, dict[str, float]]:
    """Return the self energies of a file such as ``sae_linfit.dat``, and with ``return_dict`` a dict by symbol too."""
    energies = read_self_energies(Path(filename))
    # Each line says the index of its element, "C,1=-38.08", and lines may stand in any order.
    lines = re.findall(r"^\s*([A-Za-z]+)\s*,\s*(\d+)\s*=", Path(filename).read_text("utf-8"), re.MULTILINE)
    index = {element: int(number) for element, number in lines}
    shifter = EnergyShifter([energies[element] for element in sorted(energies, key=index.__getitem__)])
    return (shifter, energies) if return_dict else shifter


def load_atomic_network(filename: StrPath) -> AtomicNetwork:
    """Return the network of an ``.nnf`` file and of the weights beside it."""
    return read_network(Path(filename))


def load_model(species: Sequence[str], dir_: StrPath) -> ANIModel:
    """Return the networks ``ANN-<symbol>.nnf`` of a folder, in the order of ``species``."""
    return ANIModel({element: load_atomic_network(Path(dir_) / f"ANN-{element}.nnf") for element in species})


def load_model_ensemble(species: Sequence[str], prefix: StrPath, count: int) -> Ensemble:
    """Return the ensemble of the folders ``<prefix>0/networks``, ``<prefix>1/networks``, …"""
    return Ensemble([load_model(species, Path(f"{os.fspath(prefix)}{i}") / "networks") for i in range(count)])


def _tensor_or_number(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value


def __getattr__(name: str) -> Any:
    raise missing("torchani.neurochem", name, _MISSING)
