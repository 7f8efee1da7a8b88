"""A potential from its settings: parts by name, dense networks by their widths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anipot.energy import EnergyShifter
from anipot.ensembles import EnsemblePotential
from anipot.head import CELU, AtomicNetwork, ShiftedSoftplus
from anipot.potential import Potential
from anipot.training.config import ModelSettings
from anipot.training.objects import call, find, make, nested, parameters_of, parts

#: Heads that have one network for each element, unless told otherwise.
ELEMENTAL = ("ANIModel", "ElementalDipoleMoment")
#: File of the model in the folder of a run.
MODEL = "model.safetensors"


def build_potential(settings: ModelSettings, elements: Sequence[str]) -> Potential:
    """Return a new potential with random weights.

    Parameters
    ----------
    settings
        Of the model.
    elements
        Symbols that the data hold; all that the model knows, where the settings name none.

    Raises
    ------
    ValueError
        For parts that are not known or do not fit, with their place in the settings.

    Examples
    --------
    >>> settings = ModelSettings(representation={"class": "SchNet", "num_features": 32}, head={"class": "Atomwise"})
    >>> model = build_potential(settings, ["H", "O"])
    >>> model.head.networks[0].sizes
    (32, 16, 1)
    """
    unknown = [element for element in elements if element not in (settings.elements or elements)]
    if unknown:
        raise ValueError(f"model.elements are {', '.join(settings.elements or ())}, but the data hold {unknown[0]}")
    elements = tuple(settings.elements or elements)
    known: dict[str, Any] = {"num_species": len(elements), "elements": elements}
    representation = make(settings.representation, "model.representation", known)
    known["num_features"] = representation.num_features
    head = make_head(settings.head or _usual_head(representation), "model.head", known)
    properties = {name: make_head(one, f"model.properties.{name}", known) for name, one in settings.properties.items()}
    terms = [make(term, f"model.terms.{i}", known) for i, term in enumerate(settings.terms)]
    shifter = EnergyShifter([0.0] * len(elements))
    potential = Potential(elements, representation, head, shifter, settings.name, properties=properties, terms=terms)
    if settings.weights == "kaiming":
        _kaiming(potential)
    elif settings.weights != "default":
        raise ValueError(f"model.weights must be default or kaiming, got {settings.weights!r}")
    return potential.to(_dtype(settings.dtype))


def make_head(settings: Any, where: str, known: Mapping[str, Any]) -> nn.Module:
    """Return a head; dense networks are made here, of ``hidden`` widths and an ``activation``."""
    name, arguments = parts(settings, where)
    function = find(name, where)
    if isinstance(arguments.get("activation"), str):
        arguments["activation"] = {"class": arguments["activation"]}
    taken = [one for one in ("networks", "network") if one in (parameters_of(function) or ())]
    if not taken or taken[0] in arguments:
        return make({"class": name, **arguments}, where, known)
    elemental = name in ELEMENTAL or isinstance(arguments.get("hidden"), Mapping)
    activation: nn.Module = CELU(0.1) if name in ELEMENTAL else ShiftedSoftplus()
    if "activation" in arguments:
        activation = make(arguments.pop("activation"), f"{where}.activation", known)
    hidden, bias = arguments.pop("hidden", None), arguments.pop("bias", True)
    widths = _widths(hidden, known, where) if elemental else [hidden]
    networks = [_network(one, known["num_features"], activation, bias) for one in widths]
    arguments = {key: nested(value, f"{where}.{key}", known) for key, value in arguments.items()}
    arguments[taken[0]] = networks if elemental else networks[0]
    head: nn.Module = call(function, name, arguments, where, known)
    return head


def _widths(hidden: Any, known: Mapping[str, Any], where: str) -> list[Any]:
    """Return the hidden widths of each element's network."""
    elements = known["elements"]
    if not isinstance(hidden, Mapping):
        return [hidden] * len(elements)
    missing = [element for element in elements if element not in hidden]
    if missing:
        raise ValueError(f"{where}.hidden has no widths for {', '.join(missing)}; it has {', '.join(hidden)}")
    return [hidden[element] for element in elements]


def _network(hidden: Sequence[int] | None, num_features: int, activation: nn.Module, bias: bool) -> AtomicNetwork:
    widths = [max(1, num_features // 2)] if hidden is None else hidden
    return AtomicNetwork((num_features, *widths, 1), activation, bias)


def _usual_head(representation: nn.Module) -> dict[str, Any]:
    """Return a network for each element where these see fixed functions, one for all where features are learned."""
    if any(True for _ in representation.parameters()):
        return {"class": "Atomwise"}
    return {"class": "ANIModel", "hidden": [160, 128, 96]}


def _kaiming(potential: Potential) -> None:
    """Normal weights with variance 1/n of n inputs, biases 0: how TorchANI starts its networks."""
    for part in (potential.head, potential.property_heads):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _dtype(name: str) -> torch.dtype:
    if name not in ("float32", "float64"):
        raise ValueError(f"model.dtype must be float32 or float64, got {name!r}")
    found: torch.dtype = getattr(torch, name)
    return found


def start_from(
    settings: ModelSettings, member: int, elements: Sequence[str], whole: bool = False
) -> tuple[Potential, tuple[str, ...]]:
    """Return a potential that exists, or one member of it, and how the names of its new networks begin.

    Parameters
    ----------
    settings, elements
        As for ``build_potential``; properties that the potential has not are added to it.
    member
        Of an ensemble.
    whole
        Whether an ensemble stays one if its members have all but their networks in common.

    Raises
    ------
    ValueError
        If it does not know all elements, or the settings ask for another model.
    """
    import anipot

    place = Path(str(settings.start_from))
    if (place / MODEL).is_file():
        place = place / MODEL
    potential = anipot.load(os.fspath(place) if place.exists() else str(settings.start_from))
    if len(potential) > 1 and (not whole or isinstance(potential, EnsemblePotential)):
        potential = potential[member % len(potential)]
    unknown = [element for element in elements if element not in potential.elements]
    if unknown:
        known = ", ".join(potential.elements)
        raise ValueError(
            f"model.start_from {settings.start_from} knows {known}, but the data hold {', '.join(unknown)}"
        )
    heads = {
        name: make_head(one, f"model.properties.{name}", _known(potential))
        for name, one in settings.properties.items()
        if name not in potential.property_heads
    }
    parts_ = potential.representation, potential.head, potential.shifter
    properties = dict(potential.property_heads) | heads
    new = Potential(potential.elements, *parts_, settings.name, properties=properties, terms=list(potential.terms))
    new.details = {"started_from": {"name": potential.name or str(settings.start_from), **potential.details}}
    return new.to(_dtype(settings.dtype)), tuple(f"property_heads.{name}." for name in heads)


def _known(potential: Potential) -> dict[str, Any]:
    width = potential.representation.num_features
    return {"num_species": len(potential.elements), "elements": potential.elements, "num_features": width}


def freeze(potential: nn.Module, patterns: Sequence[str]) -> None:
    """Leave parameters as they are whose names, or those of the modules that they are in, fit one of the patterns.

    Raises
    ------
    ValueError
        If a pattern fits none.

    Examples
    --------
    >>> model = build_potential(ModelSettings(), ["H", "O"])
    >>> freeze(model, ["head.*.linears.1"])
    >>> sum(not parameter.requires_grad for parameter in model.parameters())
    4
    """
    for pattern in patterns:
        wanted = (pattern, f"{pattern}.*")
        named = potential.named_parameters()
        fitting = [p for name, p in named if any(fnmatchcase(name, one) for one in wanted)]
        if not fitting:
            names = ", ".join(name for name, _ in potential.named_parameters())
            raise ValueError(f"model.freeze: no parameter fits {pattern!r}; there are {names}")
        for parameter in fitting:
            parameter.requires_grad_(False)
