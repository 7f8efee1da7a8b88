"""Models trained with SchNetPack 2: SchNet and PaiNN with an atomwise energy.

SchNetPack writes pickled objects (``best_model``). Here a pickle is read by `anipot.interfaces.inert_pickle`, which
builds nothing but tensors and inert records: no code of the file or of SchNetPack runs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anipot import units
from anipot.elements import atomic_numbers, symbol
from anipot.energy import EnergyShifter
from anipot.head import AtomicNetwork, Atomwise, ShiftedSoftplus
from anipot.interfaces.inert_pickle import Name, Record, read
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

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "shifted_softplus": ShiftedSoftplus,
    "silu": nn.SiLU,
    "SiLU": nn.SiLU,
    "tanh": nn.Tanh,
    "Tanh": nn.Tanh,
    "Identity": nn.Identity,
}

#: The classes that modules may have, by name (of the first pattern that fits). All else could change the energy.
_KINDS = {
    r"": ("NeuralNetworkPotential",),
    r"representation": ("SchNet", "PaiNN"),
    r"representation\.cutoff_fn": ("CosineCutoff", "MollifierCutoff"),
    r"representation\.radial_basis": ("GaussianRBF", "GaussianRBFCentered", "BesselRBF"),
    r"representation\.embedding": ("Embedding",),
    r"representation\.interactions\.\d+": ("SchNetInteraction", "PaiNNInteraction"),
    r"representation\.mixing\.\d+": ("PaiNNMixing",),
    r"representation\.(interactions|mixing|electronic_embeddings)|\w+_modules|postprocessors": ("ModuleList",),
    r"representation\.electronic_embeddings\.\d+": (),
    r".*\.(f2out|filter_network|interatomic_context_net|intraatomic_context_net|outnet)": ("Sequential",),
    r".*\.(f2out|\w+_net|filter_network|outnet)\.\d+|.*\.(in2f|filter_net|mu_channel_mix)": ("Dense",),
    r".*\.activation": ("Identity", "SiLU", "Tanh"),
    r"input_modules\.\d+": ("PairwiseDistances", "Strain"),
    r"postprocessors\.\d+": ("CastTo64", "CastTo32", "AddOffsets"),
}
#: Outputs that cannot change an energy of another name.
_HARMLESS = ("Atomwise", "Forces", "Response", "DipoleMoment", "Polarizability", "Aggregation")


def read_model(
    path: str | os.PathLike[str],
    *,
    energy_unit: str,
    length_unit: str = "angstrom",
    elements: Sequence[str] | None = None,
    output: str | None = None,
) -> Potential:
    """Return the potential in a file of SchNetPack 2: a pickled model (``best_model``), checkpoint or state dict.

    Parameters
    ----------
    path
        The file.
    energy_unit
        Of the energies that the model was trained on, "eV", "kcal/mol", "kJ/mol" or "Hartree": the file does not say.
    length_unit
        Of the coordinates that it was trained on: "angstrom" (SchNetPack's default), "bohr" or "nm".
    elements
        Symbols of the elements that it was trained on; the file does not say. By default all that have an embedding,
        and an atomic reference where these are added.
    output
        Name of the energy where the model has several outputs; "output 0", "output 1", … in a state dict.

    Returns
    -------
    Potential
        Its ``info()["source"]`` tells what was found, and under "assumed" what a state dict does not say.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        For arguments of a wrong type.
    ValueError
        For an unknown unit, a file that cannot be read, a representation that is neither SchNet nor PaiNN (it is
        named), and for every part that would change the result and is not known here.

    Notes
    -----
    Gaussians are taken as stored. The frequencies n π / r_c of a Bessel basis are computed from r_c in full precision;
    SchNetPack stores them in float32, which is a relative difference of 1e-7.

    Examples
    --------
    >>> read_model("best_model", energy_unit="furlong")
    Traceback (most recent call last):
    ...
    ValueError: unknown energy unit 'furlong'; known: hartree, ev, kcal/mol, kj/mol
    """
    per_hartree = _unit(energy_unit, ENERGY_UNITS, "energy unit")
    per_angstrom = _unit(length_unit, LENGTH_UNITS, "length unit")
    if isinstance(elements, str) or not isinstance(output, (str, type(None))):
        raise TypeError(f"expected a list of symbols and the name of an output, got {elements!r} and {output!r}")
    numbers = None if elements is None else list(atomic_numbers(elements))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    file = _open(path)
    try:
        return _potential(file, 1 / per_hartree, per_angstrom, numbers, output)
    except (ValueError, RuntimeError, OverflowError) as error:
        if str(error).startswith(str(path)):
            raise
        raise file.problem(f"is not a model that can be built: {error}") from error


def _unit(name: str, table: dict[str, float], what: str) -> float:
    if not isinstance(name, str):
        raise TypeError(f"the {what} must be one of the words {', '.join(table)}, got {type(name).__name__}")
    if name.lower() not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name.lower()]


# What a file holds.


@dataclass
class _File:
    """Weights by name, and the modules by name where there is more than a state dict."""

    path: Path
    weights: dict[str, Tensor]
    modules: dict[str, Record] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    assumed: dict[str, str] = field(default_factory=dict)

    def problem(self, what: str) -> ValueError:
        return ValueError(f"{self.path} {what}")

    def kind(self, module: str) -> str:
        return self.modules[module].kind.label if module in self.modules else ""

    def attribute(self, module: str, name: str, default: Any, type_: type) -> Any:
        """Return an attribute of a module, or the default of a state dict."""
        if not self.modules:
            return default
        value = self.modules[module].attributes.get(name) if module in self.modules else None
        if type(value) is not type_:
            raise self.problem(f"has no {type_.__name__} for {name} of {module or 'the model'}")
        return value

    def take(self, name: str, *shape: int | None) -> Tensor:
        """Return weights of a shape; None stands for any size."""
        if name not in self.weights:
            raise self.problem(f"is not a complete model of SchNetPack: it has no {name}")
        found = self.weights[name]
        if found.dtype not in (torch.float32, torch.float64) or not torch.isfinite(found).all():
            raise self.problem(f"has values in {name} that are no finite numbers in float32 or float64")
        if found.dim() != len(shape) or any(n not in (None, m) for n, m in zip(shape, found.shape, strict=True)):
            raise self.problem(f"has {name} of the shape {tuple(found.shape)}; expected {_shape(shape)}")
        self.used.add(name)
        return found

    def number(self, name: str) -> float:
        """Return one number."""
        if name in self.weights and self.weights[name].numel() != 1:
            raise self.problem(f"has {self.weights[name].numel()} numbers in {name}; expected one")
        return float(self.take(name, *self.weights[name].shape if name in self.weights else ()))

    def count(self, prefix: str) -> int:
        """Return how many parts ``prefix.0``, ``prefix.1``, … there are."""
        found = {m[1] for m in map(re.compile(re.escape(prefix) + r"\.(\d+)\.").match, self.weights) if m}
        if not found or found != {str(i) for i in range(len(found))}:
            raise self.problem(f"is not a complete model of SchNetPack: it has {len(found)} parts {prefix}, with gaps")
        return len(found)

    def skip(self, prefix: str) -> None:
        """Pass over weights that do not change the energy."""
        self.used |= {name for name in self.weights if name.startswith(prefix)}


def _shape(shape: Iterable[int | None]) -> str:
    return f"({', '.join('any' if n is None else str(n) for n in shape)})"


def _open(path: Path) -> _File:
    found, record = read(path), None
    if isinstance(found, Record):
        modules = _modules(path, found)
        return _File(path, _weights(path, modules), modules)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):  # a Lightning checkpoint
        options = found.get("hyper_parameters")
        record = options.get("model") if isinstance(options, dict) else None
        found = {k: v for k, v in found["state_dict"].items() if isinstance(k, str)}
        if any(name.startswith("model.") for name in found):  # the rest are losses and metrics
            found = {k.removeprefix("model."): v for k, v in found.items() if k.startswith("model.")}
    if not isinstance(found, dict) or not found or not all(_is_weight(*item) for item in found.items()):
        raise ValueError(f"{path} holds neither a model nor a state dict, but {type(found).__name__}")
    return _File(path, found, _modules(path, record) if isinstance(record, Record) else {})


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _modules(path: Path, record: Record) -> dict[str, Record]:
    """Return all modules of a model by name; that of the model is empty."""
    found, todo = {"": record}, [("", record, 0)]
    while todo:
        prefix, module, depth = todo.pop(0)
        parts = [module.attributes.get(name) for name in ("_modules", "_parameters", "_buffers")]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"{path}: {prefix or 'what it holds'} ({module.kind.label}) is not a module of torch")
        for name, child in module.attributes["_modules"].items():
            if child is None:
                continue
            if not isinstance(child, Record) or not isinstance(name, str) or not 0 < len(name) < 100:
                raise ValueError(f"{path}: a part of {prefix or 'the model'} is not a module of torch")
            if depth == 16 or len(found) > 5000:
                raise ValueError(f"{path}: {prefix} is nested too deeply, or a module contains itself")
            found[prefix + name] = child
            todo.append((f"{prefix}{name}.", child, depth + 1))
    return found


def _weights(path: Path, modules: dict[str, Record]) -> dict[str, Tensor]:
    found = {}
    for prefix, module in modules.items():
        hidden = module.attributes.get("_non_persistent_buffers_set")
        for name, value in (module.attributes["_parameters"] | module.attributes["_buffers"]).items():
            if value is None or (isinstance(hidden, set) and name in hidden):
                continue
            full = f"{prefix}.{name}" if prefix else name
            if not _is_weight(name, value):
                raise ValueError(f"{path}: {full} is no tensor, but {type(value).__name__}")
            found[full] = value
    return found


# From what was read to a potential.


def _potential(file: _File, energy: float, length: float, numbers: list[int] | None, output: str | None) -> Potential:
    build = _schnet if _representation(file) == "SchNet" else _painn
    index, key = _energy_output(file, output)
    mean, references = _offsets(file, key)
    embedding = file.take("representation.embedding.weight", None, None)
    numbers = _numbers(file, numbers, len(embedding), references)
    representation = build(file, (len(numbers), embedding.shape[1]), length)
    representation.embedding.weight.data = embedding[numbers].clone()
    network = _head(file, f"output_modules.{index}.outnet", embedding.shape[1])
    unknown = sorted(set(file.weights) - file.used)
    if unknown:
        raise file.problem(f"has parts that are not known here: {', '.join(unknown)}")
    if not file.modules:
        file.assumed["energy"] = "a sum over atoms that no part without weights changes"
    source = {
        "program": "SchNetPack",
        "file": file.path.name,
        "kind": "pickled model" if file.modules else "state dict",
        "output": key,
        "assumed": file.assumed,
    }
    offsets = mean + (torch.zeros(len(numbers), dtype=torch.float64) if references is None else references[numbers])
    shifter = EnergyShifter((offsets * energy).tolist())
    name = f"{type(representation).__name__} of SchNetPack"
    head = Atomwise(network, stddev=energy)
    return Potential([symbol(z) for z in numbers], representation, head, shifter, name, {"source": source})


def _numbers(file: _File, given: list[int] | None, size: int, references: Tensor | None) -> list[int]:
    """Return the atomic numbers of the elements of the model, whose weights are indexed by them."""
    known = min(size, 119 if references is None else len(references), 119)
    file.assumed["elements"] = "all that have weights" if given is None else "as given"
    for z in given or ():
        if z >= size:
            raise file.problem(f"has no embedding of {symbol(z)}; it has {size - 1} elements")
        if z >= known:
            raise file.problem(f"has no atomic reference of {symbol(z)}; it has {known - 1}")
    return list(range(1, known)) if given is None else given


def _representation(file: _File) -> str:
    """Check the classes of all modules but the outputs, and return the name of the representation."""
    for name in file.modules:
        _check_kind(file, name)
    if file.modules and (file.kind("representation") == "" or file.kind("representation.cutoff_fn") == ""):
        raise file.problem("is not a complete model of SchNetPack: it has no representation, or none with a cutoff")
    if file.modules and file.modules["representation.embedding"].attributes.get("max_norm") is not None:
        raise file.problem("has an embedding with max_norm, which is not known here")
    kind = file.kind("representation") or _guess(file.weights)
    if kind not in ("SchNet", "PaiNN"):
        raise file.problem(f"has the representation {kind}; known are SchNet and PaiNN")
    return kind


def _check_kind(file: _File, name: str) -> None:
    if name.startswith("output_modules."):
        return  # see _energy_output
    allowed = next((kinds for pattern, kinds in _KINDS.items() if re.fullmatch(pattern, name)), ())
    if file.kind(name) not in allowed:
        known = f"known are {' and '.join(allowed)}" if allowed else "it is not known here"
        raise file.problem(f"has {name or 'a model'} of the class {file.kind(name)}; {known}")


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


def _cutoff(file: _File, length: float) -> tuple[float, nn.Module]:
    """Return the cutoff (Å) and its function."""
    start = "representation.cutoff_fn."
    if start + "switch_on" in file.weights:
        raise file.problem("has the cutoff function SwitchFunction; known are CosineCutoff and MollifierCutoff")
    cutoff = file.number(start + "cutoff") * length
    mollifier = start + "eps" in file.weights
    if file.modules and mollifier != (file.kind("representation.cutoff_fn") == "MollifierCutoff"):
        raise file.problem(f"has no eps of a MollifierCutoff, or one of a {file.kind('representation.cutoff_fn')}")
    if not file.modules:
        file.assumed["cutoff function"] = "mollifier, since eps is stored" if mollifier else "cosine"
    if mollifier:
        # Theirs is 0 above r_c − eps. Ours goes to 0 at r_c; it must be nothing above r_c − eps.
        eps = file.number(start + "eps") * length / cutoff if cutoff else -1.0
        if not 0 <= eps < 0.01:
            raise file.problem(
                f"has a MollifierCutoff at {cutoff:g} Å with a relative eps of {eps:g}; known: 0 to 0.01"
            )
    return cutoff, MollifierCutoff() if mollifier else CosineCutoff()


def _basis(file: _File, length: float) -> nn.Module:
    start = "representation.radial_basis."
    if start + "widths" in file.weights:
        centers = file.take(start + "offsets", None)  # as stored: rebuilding them differs in the last bits
        widths = file.take(start + "widths", len(centers))
        return GaussianBasis(centers.double() * length, 0.5 / (widths.double() * length) ** 2)
    if start + "freqs" in file.weights:
        frequencies = file.take(start + "freqs", None).double()
        if length != 1:
            raise file.problem("has a Bessel basis, whose values have a unit: only models trained in Å are read")
        n = torch.arange(1, len(frequencies) + 1, dtype=torch.float64)
        first = float((n * frequencies).sum() / (n * n).sum())  # the best fit to rounded ones
        if not first > 0 or not torch.allclose(frequencies, n * first, rtol=1e-6, atol=0):
            raise file.problem("has a Bessel basis whose frequencies are not 1, 2, 3, … times the first")
        return BesselBasis(len(frequencies), math.pi / first)
    raise file.problem("has a radial basis that is not known here; known: GaussianRBF, GaussianRBFCentered, BesselRBF")


def _schnet(file: _File, sizes: tuple[int, int], length: float) -> SchNet:
    cutoff, function = _cutoff(file, length)
    start, basis = "representation.interactions", _basis(file, length)
    steps = range(file.count(start))
    layers = [f"{start}.{i}.{part}.0" for i in steps for part in ("f2out", "filter_network")]
    linear = [f"{start}.{i}.{part}" for i in steps for part in ("in2f", "f2out.1", "filter_network.1")]
    if not isinstance(_activation(file, layers, "shifted_softplus", "SchNet"), ShiftedSoftplus):
        raise file.problem("has another activation than shifted_softplus in its SchNet")
    _activation(file, linear, "Identity")
    file.take(f"{start}.0.f2out.1.weight", sizes[1], sizes[1])  # before anything of this size is made
    num_filters = len(file.take(f"{start}.0.filter_network.1.weight", None, None))
    file.take(f"{start}.0.filter_network.1.weight", num_filters, num_filters)
    mine = SchNet(*sizes, len(steps), cutoff, basis, function, num_filters=num_filters)
    names = {"inward": "in2f", "outward.0": "f2out.0", "outward.2": "f2out.1"}
    names |= {"filters.0": "filter_network.0", "filters.2": "filter_network.1"}
    _fill(file, mine.interactions, start, names)
    return mine


def _painn(file: _File, sizes: tuple[int, int], length: float) -> PaiNN:
    cutoff, function = _cutoff(file, length)
    start, mixing = "representation.interactions", "representation.mixing"
    steps, basis, features = range(file.count(start)), _basis(file, length), sizes[1]
    nets = [f"{start}.{i}.interatomic_context_net" for i in steps]
    nets += [f"{mixing}.{i}.intraatomic_context_net" for i in steps]
    activation = _activation(file, [net + ".0" for net in nets], "silu", "PaiNN")
    linear = [net + ".1" for net in nets] + [f"{mixing}.{i}.mu_channel_mix" for i in steps]
    _activation(file, ["representation.filter_net", *linear], "Identity")
    file.take(f"{mixing}.0.intraatomic_context_net.0.weight", features, 2 * features)  # before any of this size is made
    rows = len(file.take("representation.filter_net.weight", None, None))
    shared = rows == 3 * features and len(steps) > 1
    epsilon = _epsilon(file, len(steps))
    mine = PaiNN(*sizes, len(steps), cutoff, basis, function, activation, shared_filters=shared, epsilon=epsilon)
    _fill(file, [mine], "", {"filters": "representation.filter_net"})
    net = "interatomic_context_net"
    _fill(file, mine.messages, start, {"context.0": f"{net}.0", "context.2": f"{net}.1"})
    net = "intraatomic_context_net"
    _fill(file, mine.mixing, mixing, {"context.0": f"{net}.0", "context.2": f"{net}.1", "mix": "mu_channel_mix"})
    return mine


def _epsilon(file: _File, num_interactions: int) -> float:
    if not file.modules:
        file.assumed["epsilon"] = "1e-8 under the root of PaiNN"
    found = {file.attribute(f"representation.mixing.{i}", "epsilon", 1e-8, float) for i in range(num_interactions)}
    if len(found) != 1 or not 0 <= min(found) < math.inf:
        raise file.problem(f"has the epsilons {sorted(found)} in its mixing blocks; expected one number ≥ 0")
    return found.pop()


def _fill(file: _File, blocks: Iterable[nn.Module], prefix: str, names: dict[str, str]) -> None:
    """Copy the weights of dense layers, ``names`` giving theirs for ours."""
    dtype = file.weights["representation.embedding.weight"].dtype
    for i, block in enumerate(blocks):
        for mine, theirs in names.items():
            layer: Any = block.get_submodule(mine)
            for part in ("weight", "bias") if layer.bias is not None else ("weight",):
                name = f"{prefix}.{i}.{theirs}.{part}" if prefix else f"{theirs}.{part}"
                found = file.take(name, *getattr(layer, part).shape)
                if found.dtype != dtype:
                    raise file.problem(f"has {name} in {found.dtype}, but its embedding in {dtype}")
                getattr(layer, part).data = found.clone()


def _activation(file: _File, layers: Sequence[str], default: str, where: str = "") -> nn.Module:
    """Return the activation that dense layers of theirs have in common."""
    if not file.modules and where:
        file.assumed[f"activation of {where}"] = default
    found = {_activation_name(file, layer) for layer in layers} if file.modules else {default}
    name = found.pop() if len(found) == 1 else " and ".join(sorted(found))
    if name not in _ACTIVATIONS or (default == "Identity" and name != default):
        known = default if default == "Identity" else ", ".join(_ACTIVATIONS)
        raise file.problem(f"has the activation {name} in {layers[0]} and others like it; known: {known}")
    return _ACTIVATIONS[name]()


def _activation_name(file: _File, layer: str) -> str:
    if file.kind(layer) != "Dense":
        raise file.problem(f"has {layer} of the class {file.kind(layer) or 'nothing'}; known is Dense")
    given = file.modules[layer].attributes.get("activation", file.modules.get(layer + ".activation"))
    if isinstance(given, Record):
        return given.kind.label
    return given.label if isinstance(given, Name) else type(given).__name__


# The energy.


def _energy_output(file: _File, output: str | None) -> tuple[int, str]:
    """Return the index and the name of the atomwise output that is the energy, which no other output may change."""
    candidates = _named_outputs(file) if file.modules else _numbered_outputs(file)
    chosen = [i for i, key in candidates.items() if output is None or key == output]
    if len(chosen) != 1:
        known = ", ".join(candidates.values()) or "none"
        raise file.problem(f"has the atomwise outputs {known}; choose one by `output`")
    index, key = chosen[0], candidates[chosen[0]]
    for name in [m for m in file.modules if re.fullmatch(r"output_modules\.\d+", m)]:
        if name != f"output_modules.{index}":
            _check_harmless(file, name, key)
            file.skip(name + ".")
    if file.attribute(f"output_modules.{index}", "aggregation_mode", "sum", str) != "sum":
        mode = file.attribute(f"output_modules.{index}", "aggregation_mode", "", str)
        raise file.problem(f"aggregates the output {key!r} by {mode!r}, but energies are sums")
    for i in candidates if not file.modules else ():
        if i != index:
            file.skip(f"output_modules.{i}.outnet.")
    return index, key


def _named_outputs(file: _File) -> dict[int, str]:
    names = [m for m in file.modules if re.fullmatch(r"output_modules\.\d{1,4}", m)]
    atomwise = [name for name in names if file.kind(name) == "Atomwise"]
    return {int(name.split(".")[1]): file.attribute(name, "output_key", "", str) for name in atomwise}


def _numbered_outputs(file: _File) -> dict[int, str]:
    found = map(re.compile(r"output_modules\.(\d{1,4})\.outnet\.0\.weight").fullmatch, file.weights)
    return {int(match[1]): f"output {match[1]}" for match in found if match}


def _check_harmless(file: _File, name: str, key: str) -> None:
    """Refuse an output that is not known to leave the energy ``key`` alone."""
    own, kind = file.modules[name].attributes, file.kind(name)
    lists: list[Any] = [own.get("model_outputs"), own.get("keys") if kind == "Aggregation" else None]
    written: list[Any] = [item for items in lists if isinstance(items, list) for item in items]
    written += [value for attribute, value in own.items() if attribute.endswith("_key") and attribute != "energy_key"]
    mapped = own.get("map_properties")
    written += list(mapped.values()) if isinstance(mapped, dict) else []
    touched = any(isinstance(item, str) and item in (key, "scalar_representation") for item in written)
    if kind not in _HARMLESS or touched:
        raise file.problem(f"has {name} of the class {kind}, which may change the energy {key!r}; it is not known here")


def _head(file: _File, prefix: str, num_features: int) -> AtomicNetwork:
    layers = [f"{prefix}.{i}" for i in range(file.count(prefix))]
    activation = _activation(file, layers[:-1], "silu", "the head") if len(layers) > 1 else nn.SiLU()
    _activation(file, layers[-1:], "Identity")
    sizes = [num_features]
    for layer in layers:
        sizes.append(len(file.take(f"{layer}.weight", None, sizes[-1])))
    if sizes[-1] != 1:
        raise file.problem(f"has a network of the energy that returns {sizes[-1]} values, not 1")
    network = AtomicNetwork(sizes, activation)
    _fill(file, [network], "", {f"linears.{k}": layer for k, layer in enumerate(layers)})
    return network


def _offsets(file: _File, key: str) -> tuple[float, Tensor | None]:
    """Return what the postprocessors add for each atom: a mean, and a value by atomic number."""
    if not file.modules:
        return _unnamed_offsets(file)
    mean, references = 0.0, None
    active = file.attribute("", "do_postprocessing", True, bool)
    for name in [m for m in file.modules if re.fullmatch(r"postprocessors\.\d+", m)]:
        file.skip(name + ".")
        if not active or file.kind(name) != "AddOffsets" or file.attribute(name, "_property", key, str) != key:
            continue
        add_mean, add_references, extensive = (
            file.attribute(name, flag, True, bool) for flag in ("add_mean", "add_atomrefs", "is_extensive")
        )
        if (add_mean or add_references) and not extensive:
            raise file.problem("adds an offset that does not grow with the number of atoms; energies are sums")
        mean += file.number(f"{name}.mean") if add_mean else 0.0
        references = _sum(file, references, _references(file, name)) if add_references else references
    return mean, references


def _sum(file: _File, first: Tensor | None, second: Tensor) -> Tensor:
    if first is not None and len(first) != len(second):
        raise file.problem(f"adds atomic references of {len(first)} and {len(second)} elements")
    return second if first is None else first + second


def _references(file: _File, name: str) -> Tensor:
    found = file.weights.get(f"{name}.atomref")
    shape = (None, 1) if found is not None and found.dim() == 2 else (None,)
    return file.take(f"{name}.atomref", *shape).double().reshape(-1)


def _unnamed_offsets(file: _File) -> tuple[float, Tensor | None]:
    """Return the offsets of a state dict, which must be those of the one output."""
    found = sorted(
        {m[0] for m in map(re.compile(r"postprocessors\.\d+(?=\.(mean|atomref)$)").match, file.weights) if m}
    )
    values = [(file.number(f"{name}.mean"), _references(file, name)) for name in found]
    values = [(mean, references) for mean, references in values if mean or references.any()]
    if values and (len(found) > 1 or len(_numbered_outputs(file)) > 1):
        raise file.problem(
            f"has {len(found)} AddOffsets and {len(_numbered_outputs(file))} outputs, and a state dict does not tell "
            "which belong together; read the pickled model instead"
        )
    file.assumed["offsets"] = "mean and atomic references as stored, added for each atom" if values else "none"
    mean, references = values[0] if values else (0.0, None)
    return mean, references if references is not None and references.any() else None
