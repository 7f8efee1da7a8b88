"""The file format of a potential: one safetensors file whose header says how to rebuild it. No pickle.

The header holds a description of every part (see ``anipot.blueprints``), with constants and self energies as decimal
numbers, which JSON keeps to the last bit. Tensors are the weights, by their names in the potential, such as
``head.0.1.linears.2.weight``. A weight or module that stands in several places is written once; ``links`` in the header
say where else it belongs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anipot import storage_v1
from anipot.blueprints import build, describe, plain_class
from anipot.ensembles import EnsemblePotential
from anipot.potential import Potential

FORMAT = "anipot-potential"
#: The version that is written, and all that are read.
VERSION = 2
READABLE = (1, 2)


def save_model(potential: Potential, path: str | os.PathLike[str]) -> None:
    """Write a potential to one safetensors file; the same potential gives the same bytes.

    Raises
    ------
    TypeError
        For a part that the format does not know, naming it, its place and what is known.

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
    from safetensors.torch import save

    metadata, weights = to_file(potential)
    try:
        header = json.dumps(_without_infinities(metadata), sort_keys=True, allow_nan=False)
    except TypeError as error:  # all else in there is plain data
        raise TypeError(f"the details of {potential.name or 'this potential'} are not JSON-able: {error}") from error
    content = save(weights, metadata={FORMAT: header})
    with open(path, "wb") as file:  # save_file of safetensors would keep others from reading the file
        file.write(content)


def to_file(potential: Potential) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON-able description of a potential and its weights by name."""
    description = _describe(potential)
    rebuilt = _build(description, True)
    _check_structure(potential, rebuilt)
    known = _links(rebuilt)
    links = {path: first for path, first in _links(potential).items() if known.get(path) != first}
    weights = {name: p.detach().cpu().contiguous().clone() for name, p in potential.named_parameters()}
    _link(rebuilt, links)
    if problem := _misfit(_places(rebuilt, weights), weights):
        raise TypeError(f"cannot save {potential.name or 'this potential'}: {problem}")
    units = {"length": "angstrom", "energy": "hartree"}
    facts = {"version": VERSION, "elements": list(potential.elements), "num_members": len(potential), "units": units}
    return description | facts | {"links": links}, weights


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
        metadata = _with_infinities(json.loads(header[FORMAT]))
    except ValueError as error:
        raise ValueError(f"{path} has a header that is not JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("version") not in READABLE:
        seen = metadata.get("version") if isinstance(metadata, dict) else None
        raise ValueError(f"{path} has format version {seen}; this release reads {', '.join(map(str, READABLE))}")
    return metadata


def load_model(
    path: str | os.PathLike[str],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    periodic_table_index: bool = True,
) -> Potential:
    """Rebuild a potential from its file.

    Parameters
    ----------
    path
        Written by ``save_model``, of this release or of an earlier one.
    device, dtype
        Of the networks; the dtype of the file by default.
    periodic_table_index
        Whether the potential takes atomic numbers (default) or element indices.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``read_metadata``; also if a weight is missing, not expected or of the wrong shape, naming file and weight.
    ModuleNotFoundError
        If the potential has a part that needs a package which is not installed.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    weights = load_file(os.fspath(path))
    try:
        if metadata["version"] == 1:
            metadata, weights = storage_v1.description(metadata), storage_v1.renamed(metadata, weights)
        potential = _build(metadata, periodic_table_index)
        _link(potential, metadata["links"])
        problem = _fill(potential, weights)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} does not describe a potential that can be rebuilt: {reason}") from error
    if problem:
        raise ValueError(f"{path} does not fit what it describes: {problem}")
    return potential.to(device=device, dtype=dtype)


# ------------------------------------------------------------------------------------------ parts of a potential


def _describe(potential: Potential, at: str = "") -> dict[str, Any]:
    """Return what kind of potential it is and what it is made of; ``at`` is its place in an ensemble, for messages."""
    plain = EnsemblePotential if isinstance(potential, EnsemblePotential) else Potential
    if own := potential.overridden(plain):
        name = type(potential).__name__
        raise TypeError(f"cannot save a {name}, which computes in ways of its own: {', '.join(own)}")
    if isinstance(potential, EnsemblePotential):
        facts = {"name": potential.name, "details": potential.details}
        members = [_describe(member, f"{at}members.{i}.") for i, member in enumerate(potential)]
        return {"kind": "EnsemblePotential", **facts, "members": members}
    where = f"{at}property_heads"
    heads = potential.property_heads.items()
    return {
        "kind": "Potential",
        "name": potential.name,
        "elements": list(potential.elements),
        "representation": describe(potential.representation, f"{at}representation", "representations"),
        "head": describe(potential.head, f"{at}head", "heads"),
        "shifter": describe(potential.shifter, f"{at}shifter", "self energies"),
        # A list, since keys of JSON are sorted and the order of properties is the user's.
        "properties": [[name, describe(h, f"{where}.{name}", "property heads", "heads")] for name, h in heads],
        "terms": [describe(term, f"{at}terms.{i}", "energy terms") for i, term in enumerate(potential.terms)],
        "details": potential.details,
    }


def _build(description: Mapping[str, Any], periodic_table_index: bool) -> Potential:
    if description["kind"] == "EnsemblePotential":
        members = [_build(member, periodic_table_index) for member in description["members"]]
        return EnsemblePotential(members, description["name"], description["details"])
    if description["kind"] != "Potential":
        known = "Potential, EnsemblePotential"
        raise ValueError(f"unknown kind {description['kind']!r}, perhaps of a later release; known: {known}")
    return Potential(
        description["elements"],
        build(description["representation"]),
        build(description["head"]),
        build(description["shifter"]),
        description["name"],
        description["details"],
        periodic_table_index,
        properties={name: build(head) for name, head in description["properties"]},
        terms=build(description["terms"]),
    )


def _check_structure(potential: nn.Module, rebuilt: nn.Module) -> None:
    """Refuse a potential in which somebody has put another module than its constructor does."""
    seen, expected = (dict(module.named_modules(remove_duplicate=False)) for module in (potential, rebuilt))
    for path in [*seen, *expected]:
        if not path:
            continue  # the potential itself, of which there may be harmless subclasses
        names = [plain_class(modules[path]).__name__ if path in modules else "nothing" for modules in (seen, expected)]
        if names[0] != names[1]:
            raise TypeError(f"cannot save {path}: it is {names[0]}, but the constructor puts {names[1]} there")


# ------------------------------------------------------------------------------------------ weights


def _links(module: nn.Module) -> dict[str, str]:
    """Return the further places of modules with weights, and of weights, that stand in several: each with the first."""
    first: dict[int, str] = {}
    links: dict[str, str] = {}
    parts: list[tuple[str, Any]] = list(module.named_modules(remove_duplicate=False))
    parts = [(path, part) for path, part in parts if next(part.parameters(), None) is not None]
    for path, part in parts + list(module.named_parameters(remove_duplicate=False)):
        if any(path.startswith(f"{link}.") for link in links):
            continue
        if id(part) in first:
            links[path] = first[id(part)]
        else:
            first[id(part)] = path
    return links


def _link(potential: nn.Module, links: Mapping[str, str]) -> None:
    for path, first in links.items():
        part = _at(potential, first)
        if type(part) is not type(_at(potential, path)) or not isinstance(part, nn.Module | nn.Parameter):
            raise ValueError(f"{path} cannot be the same as {first}")
        owner, _, name = path.rpartition(".")
        setattr(potential.get_submodule(owner), name, part)


def _at(potential: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(potential.get_submodule(owner), name)


def _places(potential: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the parameters of a potential by name; and constants, where these are among the names: learned ones."""
    constants = dict(potential.named_buffers())
    return dict(potential.named_parameters()) | {name: constants[name] for name in names if name in constants}


def _misfit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Return what is wrong with the first weight that does not fit, or "" if all do."""
    for name in expected:
        if name not in weights:
            return f"the weight {name} is missing"
    for name, tensor in weights.items():
        if name not in expected:
            return f"there is no place for the weight {name}"
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            shapes = tuple(tensor.shape), tuple(expected[name].shape)
            return f"the weight {name} has shape {shapes[0]} and dtype {tensor.dtype}, expected {shapes[1]} and floats"
    return ""


def _fill(potential: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Put weights into their places; return what is wrong with them, or "" if they fit."""
    places = _places(potential, weights)
    if problem := _misfit(places, weights):
        return problem
    # Copies: the file may be replaced while the potential lives, and products of matrices in memory that is not aligned
    # as torch's own may differ in the last bit.
    new = {id(place): nn.Parameter(weights[name].clone()) for name, place in places.items()}
    for module in potential.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if id(tensor) in new:
                setattr(module, name, new[id(tensor)])
    return ""


# ------------------------------------------------------------------------------------------ strict JSON


def _without_infinities(value: Any) -> Any:
    """Replace numbers that JSON does not have, such as the cutoff of all pairs of a molecule, by {"float": "inf"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {key: _without_infinities(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(part) for part in value]
    return value


def _with_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        return {key: _with_infinities(part) for key, part in value.items()}
    return [_with_infinities(part) for part in value] if isinstance(value, list) else value
