"""Every module of the package as plain data, and back: what kind it is, and what its constructor is given.

``describe`` turns a module into dicts, lists and numbers, ``build`` makes it again. Constants are numbers in there, in
float64, which decimals keep to the last bit. Weights are not: ``anipot.storage`` puts them beside.

A new module needs one line in ``GROUPS``.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anipot import head, representation, terms
from anipot.energy import EnergyShifter


class Kind(NamedTuple):
    """How modules of one class are written down."""

    cls: type[nn.Module]
    #: Arguments of the constructor, read from a module.
    arguments: Callable[[Any], dict[str, Any]]
    #: Whether all tensors that the constructor makes are weights: these come from the file, so none is made here.
    hollow: bool = False

    @property
    def name(self) -> str:
        """The name in a description; that of torch's own classes is ``nn.``-something."""
        return f"nn.{self.cls.__name__}" if self.cls.__module__.startswith("torch.") else self.cls.__name__


def _read(*names: str) -> Callable[[Any], dict[str, Any]]:
    """Arguments that are attributes of the same names."""
    return lambda module: {name: getattr(module, name) for name in names}


def _children(container: Any) -> list[nn.Module]:
    # A module that stands there twice is wanted twice, unlike in ``children()``.
    return list(container._modules.values())


def _linear(layer: Any) -> dict[str, Any]:
    return _read("in_features", "out_features")(layer) | {"bias": layer.bias is not None}


def _atomic_network(network: Any) -> dict[str, Any]:
    return _read("sizes", "activation")(network) | {"bias": network.linears[0].bias is not None}


def _atomwise(module: Any) -> dict[str, Any]:
    return {"network": module.networks[0]} | _read("aggregation", "mean", "stddev", "atomref")(module)


def _atomic_property(module: Any) -> dict[str, Any]:
    used = zip(module.networks, module.labelled, strict=True)
    networks = [network if labelled else None for network, labelled in used]
    return {"networks": networks if module.elemental else networks[0]}


def _charges(module: Any) -> dict[str, Any]:
    return _atomic_property(module) | _read("neutral")(module)


def _dipole(module: Any) -> dict[str, Any]:
    return {"network": _atomic_property(module.charges)["networks"]} | _read("elements", "magnitude", "neutral")(module)


def _elemental_dipole(module: Any) -> dict[str, Any]:
    arguments = _dipole(module)
    return {"networks": arguments.pop("network")} | arguments


def _coulomb(term: Any) -> dict[str, Any]:
    charges = term.charges if term.network is None else term.network
    return {"charges": charges} | _read("elements", "neutral", "damping", "cutoff", "accuracy")(term)


_AEV = ("Rcr", "Rca", "EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ", "num_species", "cutoff_function")
_FUNCTIONS = ("cutoff", "radial", "angular", "form", "angular_cutoff", "cutoff_function")
_MESSAGES = ("num_species", "num_features", "num_interactions", "cutoff", "basis", "cutoff_function")
_SCHNET = _read(*_MESSAGES, "num_filters", "shared_interactions", "filters_activated")
_PAINN = _read(*_MESSAGES, "activation", "shared_interactions", "shared_filters", "epsilon")

#: All that can be written down, by what it is for.
GROUPS: dict[str, tuple[Kind, ...]] = {
    "representations": (
        Kind(representation.AEVComputer, _read(*_AEV)),
        Kind(representation.ACSF, _read("num_species", *_FUNCTIONS)),
        Kind(representation.wACSF, _read("elements", *_FUNCTIONS, "learned")),
        Kind(representation.SchNet, _SCHNET, hollow=True),
        Kind(representation.ScSchNet, _SCHNET, hollow=True),
        Kind(representation.PaiNN, _PAINN, hollow=True),
    ),
    "bases": (
        Kind(representation.GaussianBasis, _read("centers", "gammas")),
        Kind(representation.BesselBasis, _read("num_functions", "cutoff")),
    ),
    "cutoff functions": (
        Kind(representation.CosineCutoff, _read()),
        Kind(representation.SmoothCutoff, _read("order", "eps")),
    ),
    "heads": (
        Kind(head.ANIModel, lambda module: {"networks": _children(module)}),
        Kind(head.Atomwise, _atomwise),
        Kind(head.Ensemble, lambda module: {"models": _children(module)}),
    ),
    "property heads": (
        Kind(head.AtomicProperty, _atomic_property),
        Kind(head.Charges, _charges),
        Kind(head.DipoleMoment, _dipole),
        Kind(head.ElementalDipoleMoment, _elemental_dipole),
        Kind(head.Polarizability, _read("network", "elements")),
    ),
    "networks": (
        Kind(head.AtomicNetwork, _atomic_network, hollow=True),
        Kind(head.GatedNetwork, _read("num_features", "num_hidden"), hollow=True),
        Kind(nn.Sequential, lambda module: {"modules": _children(module)}),
        Kind(nn.Linear, _linear, hollow=True),
    ),
    "activations": (
        Kind(head.CELU, _read("alpha")),
        Kind(head.Gaussian, _read()),
        Kind(head.ShiftedSoftplus, _read()),
        Kind(nn.CELU, _read("alpha")),
        Kind(nn.ELU, _read("alpha")),
        Kind(nn.GELU, _read("approximate")),
        Kind(nn.Identity, _read()),
        Kind(nn.LeakyReLU, _read("negative_slope")),
        Kind(nn.Mish, _read()),
        Kind(nn.ReLU, _read()),
        Kind(nn.SiLU, _read()),
        Kind(nn.Sigmoid, _read()),
        Kind(nn.Softplus, _read("beta", "threshold")),
        Kind(nn.Tanh, _read()),
    ),
    "energy terms": (
        Kind(terms.ZBL, _read("elements", "cutoff", "inner", "cutoff_function", "trainable")),
        Kind(terms.D3, _read("elements", "method", "a1", "s8", "a2", "s6", "s9")),
        Kind(terms.Coulomb, _coulomb),
    ),
    "dampings": (
        Kind(terms.ErfDamping, _read("sigma")),
        Kind(terms.ShortRangeExclusion, _read("cutoff", "cutoff_function")),
    ),
    "self energies": (Kind(EnergyShifter, _read("self_energies", "fit_intercept")),),
}
KINDS: dict[str, Kind] = {kind.name: kind for group in GROUPS.values() for kind in group}
_OF_CLASS: dict[type, Kind] = {kind.cls: kind for kind in KINDS.values()}

#: Groups that an argument may come from, where they are not those of the module that has it.
_GROUPS_OF = {
    "activation": ("activations",),
    "basis": ("bases",),
    "charges": ("networks", "heads"),
    "cutoff_function": ("cutoff functions",),
    "damping": ("dampings",),
    "modules": ("networks", "activations"),
    "network": ("networks",),
    "networks": ("networks",),
}


def plain_class(module: nn.Module) -> type:
    """Return the class that a module is written down as.

    This is its own; a subclass that computes nothing else than its base, and has nothing else to remember, may name
    the base: ``stored_as = AEVComputer``. That says nothing about further subclasses, which may compute anything.
    """
    found: type = vars(type(module)).get("stored_as", type(module))
    return found


def describe(value: Any, where: str, *groups: str) -> Any:
    """Return a module, or an argument of one, as dicts, lists, numbers, strings and None.

    Parameters
    ----------
    value
        What to describe.
    where
        Its place in the potential, for messages.
    groups
        Names of the groups that belong there, for messages.

    Raises
    ------
    TypeError
        For what is not known, naming it, its place, and what is known.

    Examples
    --------
    >>> from anipot import CELU, AtomicNetwork
    >>> describe(AtomicNetwork((8, 4, 1), CELU(0.1)), "network")
    {'kind': 'AtomicNetwork', 'sizes': [8, 4, 1], 'activation': {'kind': 'CELU', 'alpha': 0.1}, 'bias': True}
    """
    if isinstance(value, nn.Module) and (kind := _OF_CLASS.get(plain_class(value))) is not None:
        arguments = kind.arguments(value).items()
        inner = {name: describe(v, f"{where}.{name}", *_GROUPS_OF.get(name, groups)) for name, v in arguments}
        return {"kind": kind.name} | inner
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [describe(part, f"{where}.{i}", *groups) for i, part in enumerate(value)]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Real):  # of numpy too, which JSON does not take
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    name = type(value).__name__ if isinstance(value, nn.Module) else repr(value)
    raise TypeError(f"cannot save {where}, {name}; known are {_names(groups)}")


def _names(groups: Iterable[str]) -> str:
    return ", ".join(kind.name for group in groups or GROUPS for kind in GROUPS[group])


def build(description: Any) -> Any:
    """Make a module, or an argument of one, from its description; weights of large modules have no memory yet.

    Raises
    ------
    ValueError
        For a kind that is not known.
    AttributeError, KeyError, RuntimeError, TypeError, ValueError
        From constructors that are given what makes no sense.

    Examples
    --------
    >>> build({"kind": "CELU", "alpha": 0.1})
    CELU(alpha=0.1)
    """
    if isinstance(description, list):
        return [build(part) for part in description]
    if not isinstance(description, Mapping):
        return description
    arguments = {name: build(value) for name, value in description.items() if name != "kind"}
    kind = KINDS.get(description["kind"])
    if kind is None:
        raise ValueError(f"unknown kind {description['kind']!r}, perhaps of a later release; known: {', '.join(KINDS)}")
    # Most of the time of a constructor goes into random weights, which would also disturb the caller's random numbers.
    with torch.device("meta") if kind.hollow else nullcontext():
        if kind.cls is nn.Sequential:
            return nn.Sequential(*arguments["modules"])
        return kind.cls(**arguments)
