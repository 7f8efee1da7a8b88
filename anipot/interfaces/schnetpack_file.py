"""What a file of SchNetPack holds: weights, modules by name, and dense layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anipot.head import ShiftedSoftplus
from anipot.interfaces.inert_pickle import Name, Record, read

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


@dataclass
class ModelFile:
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


def open_model(path: Path) -> ModelFile:
    found, record = read(path), None
    if isinstance(found, Record):
        modules = _modules(path, found)
        return ModelFile(path, _weights(path, modules), modules)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):  # a Lightning checkpoint
        options = found.get("hyper_parameters")
        record = options.get("model") if isinstance(options, dict) else None
        found = {k: v for k, v in found["state_dict"].items() if isinstance(k, str)}
        if any(name.startswith("model.") for name in found):  # the rest are losses and metrics
            found = {k.removeprefix("model."): v for k, v in found.items() if k.startswith("model.")}
    if not isinstance(found, dict) or not found or not all(_is_weight(*item) for item in found.items()):
        raise ValueError(f"{path} holds neither a model nor a state dict, but {type(found).__name__}")
    return ModelFile(path, found, _modules(path, record) if isinstance(record, Record) else {})


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
        if any(module.attributes.get(name) for name in ("forward", "_forward_hooks", "_forward_pre_hooks")):
            raise ValueError(f"{path}: {prefix or 'the model'} has hooks, which may change the energy")
        for name, child in module.attributes["_modules"].items():
            if child is None:
                continue
            if not isinstance(child, Record) or not isinstance(name, str) or not re.fullmatch(r"\w{1,99}", name):
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


def check_kind(file: ModelFile, name: str) -> None:
    if name.startswith("output_modules."):
        return  # see energy_output
    allowed = next((kinds for pattern, kinds in _KINDS.items() if re.fullmatch(pattern, name)), ())
    if file.kind(name) not in allowed:
        known = f"known are {' and '.join(allowed)}" if allowed else "it is not known here"
        raise file.problem(f"has {name or 'a model'} of the class {file.kind(name)}; {known}")


def fill(file: ModelFile, blocks: Iterable[nn.Module], prefix: str, names: dict[str, str]) -> None:
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


def common_activation(file: ModelFile, layers: Sequence[str], default: str, where: str = "") -> nn.Module:
    """Return the activation that dense layers of theirs have in common."""
    if not file.modules and where:
        file.assumed[f"activation of {where}"] = default
    found = {_activation_name(file, layer) for layer in layers} if file.modules else {default}
    name = found.pop() if len(found) == 1 else " and ".join(sorted(found))
    if name not in _ACTIVATIONS or (default == "Identity" and name != default):
        known = default if default == "Identity" else ", ".join(_ACTIVATIONS)
        raise file.problem(f"has the activation {name} in {layers[0]} and others like it; known: {known}")
    return _ACTIVATIONS[name]()


def _activation_name(file: ModelFile, layer: str) -> str:
    if file.kind(layer) != "Dense":
        raise file.problem(f"has {layer} of the class {file.kind(layer) or 'nothing'}; known is Dense")
    given = file.modules[layer].attributes.get("activation", file.modules.get(layer + ".activation"))
    if isinstance(given, Record):
        return given.kind.label
    return given.label if isinstance(given, Name) else type(given).__name__
