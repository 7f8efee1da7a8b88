"""The file format of a potential: one safetensors file whose header says how to rebuild it. No pickle.

Tensors are named ``member.element.layer.weight`` and ``.bias``, such as ``0.H.2.weight``. Self energies and constants
stand in the header as decimal numbers, which JSON keeps to the last bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anipot.energy import EnergyShifter
from anipot.head import CELU, ANIModel, AtomicNetwork, Ensemble, Gaussian
from anipot.potential import Potential
from anipot.representation import AEVComputer, CosineCutoff, SmoothCutoff

FORMAT = "anipot-potential"
VERSION = 1

_ACTIVATIONS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "CELU": (CELU, ("alpha",)),
    "Gaussian": (Gaussian, ()),
    "GELU": (nn.GELU, ("approximate",)),
    "SiLU": (nn.SiLU, ()),
    "Tanh": (nn.Tanh, ()),
    "ELU": (nn.ELU, ("alpha",)),
    "ReLU": (nn.ReLU, ()),
    "Softplus": (nn.Softplus, ("beta", "threshold")),
}
_CUTOFFS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "cosine": (CosineCutoff, ()),
    "smooth": (SmoothCutoff, ("order", "eps")),
}
_AEV_CONSTANTS = ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")


def save_model(potential: Potential, path: str | os.PathLike[str]) -> None:
    """Write a potential to one safetensors file; the same potential gives the same bytes.

    Raises
    ------
    TypeError
        For a representation, network or activation that the format does not know.

    Examples
    --------
    >>> import tempfile
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Potential
    >>> networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
    >>> model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, f"{folder}/mine.safetensors")
    ...     load_model(f"{folder}/mine.safetensors").elements
    ('H', 'C', 'N', 'O')
    """
    from safetensors.torch import save_file

    metadata, tensors = describe(potential)
    save_file(tensors, os.fspath(path), metadata={FORMAT: json.dumps(metadata, sort_keys=True)})


def describe(potential: Potential) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON-able description of a potential and its weights by name."""
    members = list(potential.head) if isinstance(potential.head, Ensemble) else [potential.head]
    elements = potential.elements
    tensors: dict[str, Tensor] = {}
    networks = []
    for m, member in enumerate(members):
        if not isinstance(member, ANIModel):
            raise TypeError(f"cannot save a {type(member).__name__}; known are ANIModel and an Ensemble of them")
        networks.append({e: _describe_network(net, e) for e, net in zip(elements, member, strict=True)})
        for element, network in zip(elements, member, strict=True):
            for i, linear in enumerate(network.linears):  # type: ignore[arg-type]
                named = {f"{m}.{element}.{i}.{name}": p.detach().cpu() for name, p in linear.named_parameters()}
                tensors |= {name: p.contiguous().clone() for name, p in named.items()}
    metadata = {
        "version": VERSION,
        "name": potential.name,
        "elements": list(elements),
        "representation": _describe_aev(potential.representation),
        "ensemble": isinstance(potential.head, Ensemble),
        "members": networks if any(n != networks[0] for n in networks) else [networks[0]],
        "num_members": len(networks),
        "self_energies": potential.shifter.self_energies.tolist(),
        "fit_intercept": potential.shifter.fit_intercept,
        "units": {"length": "angstrom", "energy": "hartree"},
        "details": potential.details,
    }
    return metadata, tensors


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the description of a saved potential without reading its weights.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not one of ours; the file is named.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    if FORMAT not in header:
        raise ValueError(f"{path} is a safetensors file, but not a potential: its header has no {FORMAT!r} entry")
    try:
        metadata = json.loads(header[FORMAT])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a header that is not JSON: {error}") from error
    if metadata.get("version") != VERSION:
        raise ValueError(f"{path} has format version {metadata.get('version')}; this release reads version {VERSION}")
    return metadata


def load_model(
    path: str | os.PathLike[str],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    periodic_table_index: bool = True,
) -> Potential:
    """Rebuild a potential from its file; weights are mapped from the file, not read, until they are used.

    Parameters
    ----------
    path
        Written by ``save_model``.
    device, dtype
        Of the networks; the dtype of the file by default.
    periodic_table_index
        Whether the potential takes atomic numbers (default) or element indices.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``read_metadata``; also if weights are missing or of the wrong shape.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    weights = load_file(os.fspath(path))
    try:
        potential = _build(metadata, weights, periodic_table_index)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} does not describe a potential that can be rebuilt: {error}") from error
    return potential.to(device=device, dtype=dtype)


def _build(metadata: dict[str, Any], weights: dict[str, Tensor], periodic_table_index: bool) -> Potential:
    elements = metadata["elements"]
    descriptions = metadata["members"]
    if len(descriptions) == 1:
        descriptions = descriptions * metadata["num_members"]
    members = []
    with torch.device("meta"):  # weights come from the file; no memory is filled twice
        for networks in descriptions:
            members.append(ANIModel([_build_network(networks[element]) for element in elements]))
    for m, member in enumerate(members):
        for element, network in zip(elements, member, strict=True):
            prefix = f"{m}.{element}."
            mine = {f"linears.{k.removeprefix(prefix)}": v for k, v in weights.items() if k.startswith(prefix)}
            network.load_state_dict(mine, assign=True)
    head: nn.Module = Ensemble(members) if metadata["ensemble"] else members[0]
    shifter = EnergyShifter(metadata["self_energies"], metadata["fit_intercept"])
    representation = _build_aev(metadata["representation"], len(elements))
    name, details = metadata["name"], metadata["details"]
    return Potential(elements, representation, head, shifter, name, details, periodic_table_index)


def _describe_aev(aev: nn.Module) -> dict[str, Any]:
    if not isinstance(aev, AEVComputer):
        raise TypeError(f"cannot save a {type(aev).__name__}; known representations: AEVComputer")
    constants = {name: getattr(aev, name).tolist() for name in _AEV_CONSTANTS}
    cutoff = _describe_object(aev.cutoff_function, _CUTOFFS, "cutoff function")
    return {"kind": "AEVComputer", "Rcr": aev.Rcr, "Rca": aev.Rca, **constants, "cutoff_function": cutoff}


def _build_aev(description: dict[str, Any], num_species: int) -> AEVComputer:
    if description["kind"] != "AEVComputer":
        raise TypeError(f"unknown representation {description['kind']!r}")
    constants = {name: description[name] for name in ("Rcr", "Rca", *_AEV_CONSTANTS)}
    cutoff_function = _build_object(description["cutoff_function"], _CUTOFFS, "cutoff function")
    return AEVComputer(**constants, num_species=num_species, cutoff_function=cutoff_function)


def _describe_network(network: nn.Module, element: str) -> dict[str, Any]:
    if not isinstance(network, AtomicNetwork):
        raise TypeError(f"cannot save the network of {element}, a {type(network).__name__}; use AtomicNetwork")
    activation = _describe_object(network.activation, _ACTIVATIONS, f"activation of {element}")
    return {"sizes": list(network.sizes), "activation": activation, "bias": network.linears[0].bias is not None}


def _build_network(description: dict[str, Any]) -> AtomicNetwork:
    activation = _build_object(description["activation"], _ACTIVATIONS, "activation")
    return AtomicNetwork(description["sizes"], activation, description["bias"])


_Table = dict[str, tuple[type[nn.Module], tuple[str, ...]]]


def _describe_object(module: nn.Module | Callable[..., Tensor], table: _Table, what: str) -> dict[str, Any]:
    for kind, (cls, names) in table.items():
        if type(module) is cls:
            return {"kind": kind} | {name: getattr(module, name) for name in names}
    raise TypeError(f"cannot save the {what} {module!r}; known: {', '.join(table)}")


def _build_object(description: dict[str, Any], table: _Table, what: str) -> nn.Module:
    if description["kind"] not in table:
        raise TypeError(f"unknown {what} {description['kind']!r}; known: {', '.join(table)}")
    cls, names = table[description["kind"]]
    return cls(**{name: description[name] for name in names})
