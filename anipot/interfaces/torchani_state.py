"""Read the state dict of a TorchANI 2.x model, as ``torch.save(model.state_dict(), path)`` wrote it.

Two namings are known: that of 2.0 to 2.2 (``neural_networks.0.H.2.weight``, also from ``legacy_state_dict()``) and
that of later releases (``potentials.nnp.neural_networks.members.0.atomics.H.layers.1.weight``).

A state dict holds constants in float32 and says nothing about cutoffs, activation and cutoff function. Where all
constants are those of a published potential rounded to float32, the published ones are taken, with everything that
belongs to them; otherwise the caller gives what is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anipot.elements import atomic_number, symbol
from anipot.energy import EnergyShifter
from anipot.head import CELU, ANIModel, AtomicNetwork, Ensemble
from anipot.potential import Potential
from anipot.representation import AEVComputer, CosineCutoff

_CONSTANTS = ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")
_LATER_NAMES = {
    "radial.eta": "EtaR",
    "radial.shifts": "ShfR",
    "angular.eta": "EtaA",
    "angular.zeta": "Zeta",
    "angular.shifts": "ShfA",
    "angular.sections": "ShfZ",
}
_LATER = re.compile(
    r"neural_networks\.(?:members\.(?P<member>\d+)\.)?atomics\.(?P<element>\w+)\."
    r"(?:layers\.(?P<layer>\d+)|final_layer)\.(?P<kind>weight|bias)"
)
_LEGACY = re.compile(r"neural_networks\.(?:(?P<member>\d+)\.)?(?P<element>\w+)\.(?P<layer>\d+)\.(?P<kind>weight|bias)")
# These follow from the constants, the elements or the number of atoms, and hold nothing else.
_DERIVED = re.compile(
    r"(?:aev_computer\.)?(?:triu_index|default_cell|default_shifts)|(?:\w+\.)*(?:atomic_numbers|_?conv_tensor)"
)
_FINAL = 1_000_000  # sorts after every numbered layer


class _Key(NamedTuple):
    """Which array of weights a name of the state dict stands for."""

    member: int
    element: str
    layer: int
    kind: str


def read_state_dict(
    source: str | os.PathLike[str] | Mapping[str, Any],
    elements: Sequence[str] | None = None,
    *,
    cutoffs: tuple[float, float] | None = None,
    activation: nn.Module | None = None,
    cutoff_function: nn.Module | None = None,
    name: str = "",
) -> Potential:
    """Return the potential of a TorchANI 2.x state dict.

    Parameters
    ----------
    source
        File, read without unpickling code, or the state dict itself.
    elements
        Symbols in order; read from the state dict by default.
    cutoffs
        ``(Rcr, Rca)`` in Å; needed unless the AEV is that of a published potential.
    activation, cutoff_function
        Needed unless the AEV is that of a published potential, which take ``CELU(0.1)`` and ``CosineCutoff()``.
    name
        Of the potential.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or no state dict, if it has parts that are not modelled here (they are named), or if
        it does not say all that is needed.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    state = _stripped(source if isinstance(source, Mapping) else _load(Path(source)), where)
    weights = _weights(state, where)
    symbols = _elements(state, weights, elements, where)
    constants, published = _constants(state, where)
    biased = all(_Key(*key[:3], "bias") in weights for key in weights)
    if not (published and biased) and None in (activation, cutoff_function):
        raise ValueError(_unsaid(where, "activation=, such as CELU(0.1), and cutoff_function=, such as CosineCutoff()"))
    if cutoffs is not None:
        constants |= {"Rcr": float(cutoffs[0]), "Rca": float(cutoffs[1])}
    elif "Rcr" not in constants:
        raise ValueError(_unsaid(where, "cutoffs=(Rcr, Rca) in Å"))
    aev = AEVComputer(**constants, num_species=len(symbols), cutoff_function=cutoff_function or CosineCutoff())
    head = _head(weights, symbols, activation or CELU(0.1), aev.num_features, where)
    shifter = EnergyShifter(_self_energies(state, symbols, where))
    details = {} if isinstance(source, Mapping) else _details(Path(source))
    return Potential(symbols, aev, head, shifter, name, details)


def _unsaid(where: str, what: str) -> str:
    return f"{where} is not of a published architecture, and a state dict does not say everything: give {what}"


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is not a state dict that can be read without running code from it: {reason}"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{path} holds a {type(state).__name__}; expected a state dict, which model.state_dict() returns"
        )
    return state


def _stripped(state: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Return the tensors by name without the prefixes that later releases put before them."""
    if "state_dict" in state and isinstance(state["state_dict"], Mapping):
        state = state["state_dict"]
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{where} has {key!r}, a {type(value).__name__}; expected the tensors of model.state_dict()"
            )
        plain = re.sub(r"^potentials\.nnp\.", "", str(key))
        plain = plain.replace("aev_computer.radial_terms.", "aev_computer.radial.")
        tensors[plain.replace("aev_computer.angular_terms.", "aev_computer.angular.")] = value
    return tensors


def _weights(state: Mapping[str, Tensor], where: str) -> dict[_Key, Tensor]:
    """Return the weights by what they are; ValueError for anything in the state dict that is not understood."""
    known = {f"aev_computer.{name}" for name in (*_CONSTANTS, *_LATER_NAMES)} | {"energy_shifter.self_energies"}
    weights, unknown = {}, []
    for name, value in state.items():
        match = _LATER.fullmatch(name) or _LEGACY.fullmatch(name)
        if match is not None:
            layer = _FINAL if match["layer"] is None else int(match["layer"])
            weights[_Key(int(match["member"] or 0), match["element"], layer, match["kind"])] = value.detach()
        elif name not in known and not _DERIVED.fullmatch(name):
            unknown.append(name)
    if unknown:
        parts = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in unknown))
        raise ValueError(f"{where} has parts that anipot does not model: {parts} ({len(unknown)} tensors in all)")
    if not weights:
        raise ValueError(f"{where} has no networks; expected names such as neural_networks.0.H.0.weight")
    return weights


def _elements(
    state: Mapping[str, Tensor], weights: Iterable[_Key], given: Sequence[str] | None, where: str
) -> tuple[str, ...]:
    """Return the symbols in order, as given or as the state dict says, and check them against the networks' names."""
    named = tuple(dict.fromkeys(key.element for key in weights))
    said = _numbers(state)
    symbols = tuple(given) if given is not None else tuple(map(symbol, said)) if said else named
    if all(name.isdigit() for name in symbols):
        raise ValueError(f"{where} does not say its elements: give elements=, {len(named)} symbols in order")
    for element in symbols:
        atomic_number(element)
    expected = {str(i) for i in range(len(symbols))} if all(name.isdigit() for name in named) else set(symbols)
    if set(named) != expected:
        raise ValueError(f"{where} has networks for {', '.join(named)}; expected elements are {', '.join(symbols)}")
    if given is not None and said and tuple(map(symbol, said)) != symbols:
        raise ValueError(
            f"{where} is made for {', '.join(map(symbol, said))}, in this order; given were {', '.join(symbols)}"
        )
    return symbols


def _numbers(state: Mapping[str, Tensor]) -> list[int]:
    """Return the atomic numbers in order where the state dict has them."""
    if "atomic_numbers" in state:
        return [int(z) for z in state["atomic_numbers"]]
    table = state.get("species_converter.conv_tensor")
    if table is None:
        return []
    index = {int(i): z for z, i in enumerate(table) if int(i) >= 0 and z > 0}
    return [index[i] for i in sorted(index)]


def _constants(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Any], bool]:
    """Return the AEV constants in float64, and whether they are published ones (then with cutoffs)."""
    from anipot.zoo.index import index

    values: dict[str, Tensor] = {}
    for later, name in _LATER_NAMES.items():
        value = state.get(f"aev_computer.{name}", state.get(f"aev_computer.{later}"))
        if value is None:
            raise ValueError(
                f"{where} has neither aev_computer.{name} nor aev_computer.{later}: not a whole TorchANI model"
            )
        values[name] = value.detach().cpu().reshape(-1)
    for entry in index().values():
        published = entry.constants
        if published is not None and all(_is_rounded(values[name], published[name]) for name in _CONSTANTS):
            return dict(published), True
    return {name: exact(value) for name, value in values.items()}, False


def _self_energies(state: Mapping[str, Tensor], symbols: tuple[str, ...], where: str) -> list[float]:
    from anipot.zoo.index import index

    if "energy_shifter.self_energies" not in state:
        raise ValueError(f"{where} has no energy_shifter.self_energies: not a whole TorchANI model")
    values = state["energy_shifter.self_energies"].detach().cpu().reshape(-1)
    if len(values) != len(symbols):
        raise ValueError(f"{where} has {len(values)} self energies; expected {len(symbols)}, one for each element")
    for entry in index().values():
        if entry.elements == symbols and entry.self_energies is not None and _is_rounded(values, entry.self_energies):
            return list(entry.self_energies)
    return exact(values)


def exact(values: Tensor) -> list[float]:
    """Return float32 numbers in float64, as the decimals that were meant where that is certain.

    Decimals of up to six digits survive float32, so these are taken back; of longer ones only the float32 number is
    known, and it is what TorchANI computes with.

    >>> exact(torch.tensor([5.2, 0.9, -37.8338334]))
    [5.2, 0.9, -37.83383178710...]
    """
    single = values.float().numpy()
    if values.dtype == torch.float64 and (single.astype(np.float64) != values.numpy()).any():
        return values.tolist()  # these were never rounded to float32
    decimals = [float(f"{number:.6g}") for number in single]
    return [d if np.float32(d) == s else float(s) for d, s in zip(decimals, single, strict=True)]


def _is_rounded(values: Tensor, published: Sequence[float]) -> bool:
    """Whether values are the published ones, in float64 or rounded to float32."""
    wanted = np.array(published, dtype=np.float64)
    seen = values.double().numpy()
    if seen.shape != wanted.shape:
        return False
    return bool((seen == wanted).all() or (seen == wanted.astype(np.float32).astype(np.float64)).all())


def _head(
    weights: Mapping[_Key, Tensor], symbols: tuple[str, ...], activation: nn.Module, length: int, where: str
) -> nn.Module:
    members = sorted({key.member for key in weights})
    if members != list(range(len(members))):
        raise ValueError(f"{where} has members {members}; expected 0 to {len(members) - 1}")
    numbered = all(key.element.isdigit() for key in weights)
    models = []
    for member in members:
        networks = []
        for i, element in enumerate(symbols):
            own = {k[2:]: v for k, v in weights.items() if k[:2] == (member, str(i) if numbered else element)}
            networks.append(_network(own, activation, length, f"{where}, member {member}, {element}"))
        models.append(ANIModel(networks))
    return Ensemble(models) if len(models) > 1 else models[0]


def _network(own: Mapping[tuple[int, str], Tensor], activation: nn.Module, length: int, where: str) -> AtomicNetwork:
    layers = sorted({layer for layer, _ in own})
    missing = [layer for layer in layers if (layer, "weight") not in own]
    if missing or not layers:
        raise ValueError(f"{where}: weights are missing")
    biased = {(layer, "bias") in own for layer in layers}
    if len(biased) != 1:
        raise ValueError(f"{where}: some layers have a bias and some have none")
    sizes = [own[layers[0], "weight"].shape[1], *(own[layer, "weight"].shape[0] for layer in layers)]
    if sizes[0] != length or sizes[-1] != 1:
        raise ValueError(f"{where}: a network from {sizes[0]} to {sizes[-1]} numbers; expected from {length} to 1")
    network = AtomicNetwork(sizes, activation, bias=biased.pop())
    for layer, linear in zip(layers, network.linears, strict=True):
        for (number, kind), value in own.items():
            if number == layer:
                if value.shape != getattr(linear, kind).shape:
                    raise ValueError(f"{where}: {kind} of layer {layers.index(layer)} has shape {tuple(value.shape)}")
                setattr(linear, kind, nn.Parameter(value.clone()))
    return network


def _details(path: Path) -> dict[str, str]:
    import hashlib

    return {"source": f"TorchANI state dict {path}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
