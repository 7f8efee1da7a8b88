"""The energy of a model of SchNetPack: its output, and what is added to it."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from anipot.head import AtomicNetwork
from anipot.interfaces.schnetpack_file import ModelFile, common_activation, fill

#: Outputs that cannot change an energy of another name.
_HARMLESS = ("Atomwise", "Forces", "Response", "DipoleMoment", "Polarizability", "Aggregation")


def energy_output(file: ModelFile, output: str | None) -> tuple[int, str]:
    """Return the index and the name of the atomwise output that is the energy, which no other output may change."""
    candidates = _named_outputs(file) if file.modules else _numbered_outputs(file)
    chosen = [i for i, key in candidates.items() if output is None or key == output]
    if len(chosen) != 1:
        known = ", ".join(candidates.values()) or "none"
        raise file.problem(f"has the atomwise outputs {known}; choose one by `output`")
    index, key = chosen[0], candidates[chosen[0]]
    for name in [m for m in file.modules if re.fullmatch(r"output_modules\.\w+", m)]:
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


def _named_outputs(file: ModelFile) -> dict[int, str]:
    names = [m for m in file.modules if re.fullmatch(r"output_modules\.\d{1,4}", m)]
    atomwise = [name for name in names if file.kind(name) == "Atomwise"]
    return {int(name.split(".")[1]): file.attribute(name, "output_key", "", str) for name in atomwise}


def _numbered_outputs(file: ModelFile) -> dict[int, str]:
    found = map(re.compile(r"output_modules\.(\d{1,4})\.outnet\.0\.weight").fullmatch, file.weights)
    return {int(match[1]): f"output {match[1]}" for match in found if match}


def _check_harmless(file: ModelFile, name: str, key: str) -> None:
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


def energy_network(file: ModelFile, prefix: str, num_features: int) -> AtomicNetwork:
    layers = [f"{prefix}.{i}" for i in range(file.count(prefix))]
    activation = common_activation(file, layers[:-1], "silu", "the head") if len(layers) > 1 else nn.SiLU()
    common_activation(file, layers[-1:], "Identity")
    sizes = [num_features]
    for layer in layers:
        sizes.append(len(file.take(f"{layer}.weight", None, sizes[-1])))
    if sizes[-1] != 1:
        raise file.problem(f"has a network of the energy that returns {sizes[-1]} values, not 1")
    network = AtomicNetwork(sizes, activation)
    fill(file, [network], "", {f"linears.{k}": layer for k, layer in enumerate(layers)})
    return network


def energy_offsets(file: ModelFile, key: str) -> tuple[float, Tensor | None]:
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


def _sum(file: ModelFile, first: Tensor | None, second: Tensor) -> Tensor:
    if first is not None and len(first) != len(second):
        raise file.problem(f"adds atomic references of {len(first)} and {len(second)} elements")
    return second if first is None else first + second


def _references(file: ModelFile, name: str) -> Tensor:
    found = file.weights.get(f"{name}.atomref")
    shape = (None, 1) if found is not None and found.dim() == 2 else (None,)
    return file.take(f"{name}.atomref", *shape).double().reshape(-1)


def _unnamed_offsets(file: ModelFile) -> tuple[float, Tensor | None]:
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
