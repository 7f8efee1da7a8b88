"""Models trained with SchNetPack 2: SchNet and PaiNN with an atomwise energy.

SchNetPack writes pickled objects (``best_model``). Here a pickle is read by a reader that builds nothing but tensors
and inert records: no code of the file or of SchNetPack runs.
"""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from anipot import units
from anipot.elements import atomic_numbers, symbol
from anipot.energy import EnergyShifter
from anipot.head import AtomicNetwork, Atomwise, ShiftedSoftplus
from anipot.potential import Potential
from anipot.representation import BesselBasis, CosineCutoff, GaussianBasis, MollifierCutoff, PaiNN, SchNet

#: Hartree in the units that models are trained in.
ENERGY_UNITS = {
    "hartree": 1.0,
    "ev": units.HARTREE_TO_EV,
    "kcal/mol": units.HARTREE_TO_KCALMOL,
    "kj/mol": units.HARTREE_TO_KJMOL,
}
LENGTH_UNITS = {"angstrom": 1.0, "ang": 1.0, "å": 1.0, "bohr": units.BOHR_TO_ANGSTROM, "nm": 10.0}

_CUTOFFS = {"CosineCutoff": CosineCutoff, "MollifierCutoff": MollifierCutoff}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "shifted_softplus": ShiftedSoftplus,
    "silu": nn.SiLU,
    "SiLU": nn.SiLU,
    "tanh": nn.Tanh,
    "Tanh": nn.Tanh,
}


def read_model(
    path: str | os.PathLike[str],
    *,
    energy_unit: str,
    length_unit: str = "angstrom",
    elements: Sequence[str] | None = None,
    output: str | None = None,
) -> Potential:
    """Return the potential in a file of SchNetPack 2: a pickled model (``best_model``) or a state dict.

    Parameters
    ----------
    path
        The file.
    energy_unit
        Of the energies that the model was trained on, "eV", "kcal/mol", "kJ/mol" or "Hartree": the file does not say.
    length_unit
        Of the coordinates that it was trained on: "angstrom" (SchNetPack's default), "bohr" or "nm".
    elements
        Symbols of the elements that it was trained on; the file does not say. By default all that have an embedding.
    output
        Name of the energy where the model has several outputs.

    Returns
    -------
    Potential
        Its ``info()["source"]`` tells what was found, and what had to be assumed where there is a state dict only:
        a cosine cutoff, shifted softplus in SchNet, SiLU in PaiNN and in the head.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For an unknown unit, a file that cannot be read, a representation that is neither SchNet nor PaiNN (it is
        named), and for every part that would change the result and is not known here.

    Examples
    --------
    >>> read_model("best_model", energy_unit="furlong")
    Traceback (most recent call last):
    ...
    ValueError: unknown energy unit 'furlong'; known: hartree, ev, kcal/mol, kj/mol
    """
    per_hartree = _unit(energy_unit, ENERGY_UNITS, "energy unit")
    per_angstrom = _unit(length_unit, LENGTH_UNITS, "length unit")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    weights, record = _read(path)
    try:
        return _potential(path, weights, record, 1 / per_hartree, per_angstrom, elements, output)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is not a complete model of SchNetPack: {error}") from error


def _unit(name: str, table: dict[str, float], what: str) -> float:
    if name.lower() not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name.lower()]


# Reading without running anything.


class _Record:
    """What stands in a pickle for an object of a class that is not ours: its class' name and its attributes."""

    name = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


#: All that a file may call.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        return type(name, (_Record,), {"name": f"{module}.{name}"}) if allowed is None else allowed


def _read(path: Path) -> tuple[dict[str, Tensor], _Record | None]:
    """Return the weights by name, and the record of the model where the file is more than a state dict."""
    try:
        reader = SimpleNamespace(Unpickler=_Reader, load=None, __name__="anipot.interfaces.schnetpack")
        found = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a file of torch: {type(error).__name__}: {error}") from error
    if isinstance(found, _Record):
        return _state(found), found
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):  # a Lightning checkpoint
        found = {k.removeprefix("model."): v for k, v in found["state_dict"].items()}
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()) or not found:
        raise ValueError(f"{path} holds neither a model nor a state dict, but {type(found).__name__}")
    return {name: value.detach() for name, value in found.items()}, None


def _state(record: _Record, prefix: str = "") -> dict[str, Tensor]:
    own = vars(record)
    hidden = own.get("_non_persistent_buffers_set") or set()
    tensors = {**own.get("_parameters", {}), **own.get("_buffers", {})}
    found = {prefix + k: v.detach() for k, v in tensors.items() if v is not None and k not in hidden}
    for name, child in own.get("_modules", {}).items():
        if isinstance(child, _Record):
            found |= _state(child, f"{prefix}{name}.")
    return found


def _child(record: _Record | None, path: str) -> _Record | None:
    for name in path.split("."):
        record = None if record is None else vars(record).get("_modules", {}).get(name)
    return record


def _kind(record: _Record | None) -> str:
    return "" if record is None else type(record).__name__


# From what was read to a potential.


def _potential(
    path: Path,
    weights: dict[str, Tensor],
    record: _Record | None,
    energy: float,
    length: float,
    elements: Sequence[str] | None,
    output: str | None,
) -> Potential:
    used: set[str] = set()
    representation, known = _representation(path, weights, record, length, elements, used)
    index, key = _energy_output(path, weights, record, output)
    prefix = f"output_modules.{index}.outnet."
    network = _head(weights, prefix, _function(path, record, f"output_modules.{index}.outnet.0", "silu"), used)
    aggregation = vars(_child(record, f"output_modules.{index}") or _Record()).get("aggregation_mode", "sum")
    if aggregation != "sum":
        raise ValueError(f"{path}: the output {key!r} is aggregated by {aggregation!r}, but energies are sums")
    offsets = _offsets(path, weights, record, known, used)
    # Other outputs do not change the energy; all else would, and must not be passed over.
    ignored = re.compile(r"output_modules\.\d+\.")
    unknown = sorted(name for name in weights if name not in used and not ignored.match(name))
    if unknown:
        raise ValueError(f"{path} has parts that are not known here: {', '.join(unknown)}")
    source = {
        "program": "SchNetPack",
        "file": path.name,
        "kind": "pickled model" if record is not None else "state dict; cutoff function and activations assumed",
        "output": key,
        "trained elements": "as given" if elements is not None else "not told by the file",
    }
    head = Atomwise(network, stddev=energy)
    shifter = EnergyShifter((offsets * energy).tolist())
    return Potential(
        known, representation, head, shifter, f"{type(representation).__name__} of SchNetPack", {"source": source}
    )


def _representation(
    path: Path,
    weights: dict[str, Tensor],
    record: _Record | None,
    length: float,
    elements: Sequence[str] | None,
    used: set[str],
) -> tuple[SchNet | PaiNN, list[str]]:
    kind = _kind(_child(record, "representation")) or _guess(weights)
    if kind not in ("SchNet", "PaiNN"):
        raise ValueError(f"{path} has the representation {kind}; known are SchNet and PaiNN")
    embedding = weights["representation.embedding.weight"]
    numbers = list(range(1, len(embedding))) if elements is None else list(atomic_numbers(elements))
    for z in numbers:
        if z >= len(embedding):
            raise ValueError(f"{path} has no embedding of {symbol(z)}; it has {len(embedding) - 1} elements")
    cutoff = float(weights["representation.cutoff_fn.cutoff"]) * length
    function = _kind(_child(record, "representation.cutoff_fn")) or "CosineCutoff"
    if function not in _CUTOFFS:
        raise ValueError(f"{path} has the cutoff function {function}; known: {', '.join(_CUTOFFS)}")
    basis = _basis(path, weights, length, used)
    num_interactions = 1 + max(int(m[1]) for m in map(_INTERACTION.match, weights) if m)
    build = _schnet if kind == "SchNet" else _painn
    args = len(numbers), embedding.shape[1], num_interactions, cutoff, basis, _CUTOFFS[function]()
    mine = build(path, weights, record, args, used)
    used |= {"representation.embedding.weight", "representation.cutoff_fn.cutoff"}
    mine.embedding.weight.data = embedding[numbers].clone()
    return mine, [symbol(z) for z in numbers]


_INTERACTION = re.compile(r"representation\.interactions\.(\d+)\.")


def _guess(weights: dict[str, Tensor]) -> str:
    """Return the name of the representation of a state dict."""
    names = " ".join(weights)
    for mark, kind in (
        ("field_interaction", "FieldSchNet"),
        ("filternet", "SO3net"),
        ("interatomic_context_net", "PaiNN"),
        ("filter_network", "SchNet"),
    ):
        if mark in names:
            return kind
    return f"with weights such as {next(iter(weights))!r}"


def _basis(path: Path, weights: dict[str, Tensor], length: float, used: set[str]) -> nn.Module:
    start = "representation.radial_basis."
    used |= {name for name in weights if name.startswith(start)}
    if start + "widths" in weights:
        centers = weights[start + "offsets"].double() * length  # as stored: rebuilding them differs in the last bits
        return GaussianBasis(centers, 0.5 / (weights[start + "widths"].double() * length) ** 2)
    if start + "freqs" in weights:
        frequencies = weights[start + "freqs"].double() / length
        basis = BesselBasis(len(frequencies), torch.pi / float(frequencies[0]))
        if length != 1:
            raise ValueError(f"{path} has a Bessel basis, whose values have a unit: only models trained in Å are read")
        return basis
    raise ValueError(f"{path} has a radial basis that is not known here; known: GaussianRBF, BesselRBF")


def _schnet(
    path: Path, weights: dict[str, Tensor], record: _Record | None, args: tuple[Any, ...], used: set[str]
) -> SchNet:
    for part in ("filter_network.0", "f2out.0"):
        activation = _function(path, record, f"representation.interactions.0.{part}", "shifted_softplus")
        if not isinstance(activation, ShiftedSoftplus):
            raise ValueError(f"{path} has the activation {type(activation).__name__}; a SchNet has a shifted softplus")
    num_filters = len(weights["representation.interactions.0.in2f.weight"])
    mine = SchNet(*args, num_filters=num_filters)  # type: ignore[misc]
    names = {"inward": "in2f", "outward.0": "f2out.0", "outward.2": "f2out.1"}
    names |= {"filters.0": "filter_network.0", "filters.2": "filter_network.1"}
    _fill(mine.interactions, "representation.interactions", names, weights, used)
    return mine


def _painn(
    path: Path, weights: dict[str, Tensor], record: _Record | None, args: tuple[Any, ...], used: set[str]
) -> PaiNN:
    activation = _function(path, record, "representation.interactions.0.interatomic_context_net.0", "silu")
    own = vars(_child(record, "representation.mixing.0") or _Record())
    shared = len(weights["representation.filter_net.weight"]) == 3 * args[1] and args[2] > 1
    options = {"activation": activation, "shared_filters": shared, "epsilon": own.get("epsilon", 1e-8)}
    mine = PaiNN(*args, **options)
    _fill(nn.ModuleList([mine]), "", {"filters": "representation.filter_net"}, weights, used)
    net = "interatomic_context_net"
    _fill(
        mine.messages, "representation.interactions", {"context.0": f"{net}.0", "context.2": f"{net}.1"}, weights, used
    )
    net = "intraatomic_context_net"
    names = {"context.0": f"{net}.0", "context.2": f"{net}.1", "mix": "mu_channel_mix"}
    _fill(mine.mixing, "representation.mixing", names, weights, used)
    return mine


def _fill(
    blocks: nn.ModuleList, prefix: str, names: dict[str, str], weights: dict[str, Tensor], used: set[str]
) -> None:
    """Copy the weights of dense layers, ``names`` giving theirs for ours."""
    for i, block in enumerate(blocks):
        for mine, theirs in names.items():
            layer: Any = block.get_submodule(mine)
            for part in ("weight", "bias") if layer.bias is not None else ("weight",):
                name = f"{prefix}.{i}.{theirs}.{part}" if prefix else f"{theirs}.{part}"
                if weights[name].shape != getattr(layer, part).shape:
                    raise KeyError(f"{name} has the shape {tuple(weights[name].shape)}")
                getattr(layer, part).data = weights[name].clone()
                used.add(name)


def _function(path: Path, record: _Record | None, layer: str, default: str) -> nn.Module:
    """Return the activation of a dense layer of theirs."""
    found = _child(record, layer)
    name = default
    if found is not None:
        given = vars(found).get("activation", vars(found).get("_modules", {}).get("activation", default))
        name = given.__name__ if isinstance(given, type) else type(given).__name__
    if name not in _ACTIVATIONS:
        raise ValueError(f"{path} has the activation {name} in {layer}; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def _energy_output(
    path: Path, weights: dict[str, Tensor], record: _Record | None, output: str | None
) -> tuple[int, str]:
    """Return the index and the name of the atomwise output that is the energy."""
    found: dict[int, str] = {}
    for match in map(re.compile(r"output_modules\.(\d+)\.outnet\.").match, weights):
        if match:
            module = _child(record, f"output_modules.{match[1]}")
            if _kind(module) in ("", "Atomwise"):
                found[int(match[1])] = str(vars(module or _Record()).get("output_key", f"output {match[1]}"))
    chosen = [i for i, key in found.items() if output is None or key == output]
    if len(chosen) != 1:
        raise ValueError(
            f"{path} has the atomwise outputs {', '.join(found.values()) or 'none'}; choose one by `output`"
        )
    return chosen[0], found[chosen[0]]


def _head(weights: dict[str, Tensor], prefix: str, activation: nn.Module, used: set[str]) -> AtomicNetwork:
    layers = sorted({int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)})
    sizes = [weights[f"{prefix}{layers[0]}.weight"].shape[1]]
    sizes += [weights[f"{prefix}{i}.weight"].shape[0] for i in layers]
    if sizes[-1] != 1:
        raise KeyError(f"the energy's network returns {sizes[-1]} values, not 1")
    network = AtomicNetwork(sizes, activation)
    names = {f"linears.{k}": f"{prefix}{i}" for k, i in enumerate(layers)}
    _fill(nn.ModuleList([network]), "", names, weights, used)
    return network


def _offsets(
    path: Path, weights: dict[str, Tensor], record: _Record | None, elements: list[str], used: set[str]
) -> Tensor:
    """Return what the postprocessors add for each atom: a mean, and a value of the element."""
    numbers = list(atomic_numbers(elements))
    total = torch.zeros(len(numbers), dtype=torch.float64)
    post = _child(record, "postprocessors")
    for name, module in ({} if post is None else vars(post).get("_modules", {})).items():
        if _kind(module) not in ("CastTo64", "CastTo32", "AddOffsets"):
            raise ValueError(f"{path} ends with {_kind(module)} (postprocessor {name}), which is not known here")
        if _kind(module) == "AddOffsets" and not vars(module).get("is_extensive", True):
            raise ValueError(f"{path} adds an offset that does not grow with the number of atoms; energies are sums")
    for name in weights:
        if re.fullmatch(r"postprocessors\.\d+\.mean", name):
            total += weights[name].double().reshape(())
        elif re.fullmatch(r"postprocessors\.\d+\.atomref", name):
            total += weights[name].double().reshape(-1)[numbers]
        else:
            continue
        used.add(name)
    return total
