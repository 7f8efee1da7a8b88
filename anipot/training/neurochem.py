"""Training as NeuroChem was told to: the settings of a ``.ipt`` file as those of a training here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anipot.interfaces.neurochem import read_constants, read_self_energies
from anipot.interfaces.neurochem_training import LayerSettings, NeuroChemSettings, read_training_settings
from anipot.representation import AEVComputer

_ACTIVATIONS: Mapping[str, Any] = {"celu": {"class": "CELU", "alpha": 0.1}, "gaussian": {"class": "Gaussian"}}


def neurochem_settings(path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Return the settings of ``anipot train`` that do what a NeuroChem training file says.

    Networks start with normal weights of variance 1/inputs and biases 0. Weights are trained by AdamW with the decay of
    their layer, biases by SGD, as TorchANI reads these files; the loss is the mean of (ΔE)²/√N and, with forces, plus
    ``fmult`` times the mean over atoms of |ΔF|², in Hartree and Å. The learning rate is multiplied with ``emult`` when
    the error of the validation set has not fallen for ``tolr`` epochs; training ends when it is below ``tcrit``.

    With ``freezelayer`` the networks beside the file are trained further, but for those layers: transfer learning.

    Parameters
    ----------
    path
        The file. AEV constants and self energies are read from the files that it names, beside it.
    folder
        Of the run; named after the training file by default.

    Returns
    -------
    dict
        Plain data, as in a YAML file, that lack the place of the data (``data.path``).

    Raises
    ------
    ValueError
        If a file is missing or damaged, or says something that is not known here.
    """
    place = Path(path)
    told = read_training_settings(place)
    constants = read_constants(place.parent / told.constants)
    energies = read_self_energies(place.parent / told.self_energies)
    elements = constants.pop("elements")
    for what, known in (("atom_net", told.networks), ("self energy", energies)):
        missing = [element for element in elements if element not in known]
        if missing:
            raise ValueError(f"{place}: no {what} for {', '.join(missing)}, which {told.constants} names")
    length = AEVComputer(**constants, num_species=len(elements)).num_features
    if told.input_size != length:
        raise ValueError(
            f"{place}: inputsize is {told.input_size}, but the AEV of {told.constants} has {length} numbers"
        )
    monitor = "val_energies_rmse" if told.force_weight is None else "val_loss"
    return {
        "folder": str(folder or Path("runs") / place.resolve().parent.name),
        "data": {"batch_size": told.batch_size, "validation_batch_size": told.validation_batch_size},
        "model": _model(told, elements, constants, {element: energies[element] for element in elements}, place),
        "outputs": _outputs(told),
        "optimizer": {
            "kind": "AdamW",
            "lr": told.learning_rate,
            "weight_decay": _decays(told, elements, place),
            "biases": told.learning_rate,
        },
        "schedule": {
            "kind": "plateau",
            "factor": told.factor,
            "patience": told.patience,
            "monitor": monitor,
            "stop_below": told.min_learning_rate,
        },
        "trainer": {"max_epochs": told.max_epochs or -1},
        "seed": told.seed or 0,
        "loss_unit": "Hartree",
        "best": monitor,
    }


def _model(
    told: NeuroChemSettings,
    elements: list[str],
    constants: Mapping[str, Any],
    energies: Mapping[str, float],
    place: Path,
) -> dict[str, Any]:
    settings = {
        "elements": list(elements),
        "self_energies": dict(energies),
        "standardise": False,
        "output_scale": 1.0,
        "name": place.resolve().parent.name,
    }
    if told.frozen_layers:
        networks = place.parent / told.network_folder
        if not list(networks.glob("ANN-*.nnf")):
            raise ValueError(f"{place} freezes layers {told.frozen_layers}, but there are no networks in {networks}")
        patterns = [f"head.*.linears.{layer}.*" for layer in told.frozen_layers]
        return settings | {"start_from": str(place.parent), "freeze": patterns}
    layers = {element: told.networks[element] for element in elements}
    kinds = {one[0].activation for one in layers.values() if len(one) > 1}
    if len(kinds) > 1:
        raise ValueError(f"{place}: the networks have several activations, {', '.join(sorted(kinds))}; expected one")
    return settings | {
        "representation": {"class": "AEVComputer", **constants},
        "head": {
            "class": "ANIModel",
            "hidden": {element: [layer.nodes for layer in one[:-1]] for element, one in layers.items()},
            "activation": _ACTIVATIONS[kinds.pop() if kinds else "celu"],
        },
        "weights": "kaiming",
    }


def _outputs(told: NeuroChemSettings) -> list[dict[str, Any]]:
    energies = {"property": "energies", "scaling": "sqrt_atoms"}
    if told.force_weight is None:
        return [energies]
    return [energies, {"property": "forces", "weight": told.force_weight}]


def _decays(told: NeuroChemSettings, elements: list[str], place: Path) -> list[float]:
    """Return the weight decay of each layer, which all elements have in common."""

    def of(layers: tuple[LayerSettings, ...]) -> list[float]:
        return [layer.weight_decay for layer in layers]

    first = of(told.networks[elements[0]])
    for element in elements[1:]:
        if of(told.networks[element]) != first:
            other = of(told.networks[element])
            raise ValueError(f"{place}: l2valu is {first} for {elements[0]} but {other} for {element}; expected one")
    return first
