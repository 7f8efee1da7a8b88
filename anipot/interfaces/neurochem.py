"""Read the files of NeuroChem, in which ANI-1x, ANI-1ccx and ANI-2x were published.

An ensemble is a folder with AEV constants (``*.params``), self energies (``sae_linfit.dat``) and one folder for each
member (``train0`` …) that holds ``networks/ANN-<element>.nnf`` and the weights beside it. Folders, zip files and wheels
are read alike, at whatever depth the ensemble lies inside.
"""

from __future__ import annotations

import bz2
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import torch
from torch import nn

from anipot.elements import atomic_number
from anipot.energy import EnergyShifter
from anipot.head import CELU, ANIModel, AtomicNetwork, Ensemble, Gaussian
from anipot.interfaces.trees import Place, as_tree, decode, natural_key, open_tree, parent, read_bytes, read_text
from anipot.potential import Potential
from anipot.representation import AEVComputer

_SCALARS = ("Rcr", "Rca")
_LISTS = ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")
_SELF_ENERGIES = "sae_linfit.dat"
_IDENTITY = 6
_ACTIVATIONS = {5: "Gaussian", 9: "CELU(0.1)", _IDENTITY: "none"}


# ---------------------------------------------------------------------------------------------------------------------
# Constants and self energies


def read_constants(path: Place) -> dict[str, Any]:
    """Return the AEV constants of a ``.params`` file, float64 exactly as written, and its ``elements``.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        ``Rcr`` and ``Rca`` as numbers; ``EtaR``, ``ShfR``, ``EtaA``, ``Zeta``, ``ShfA``, ``ShfZ`` and ``elements`` as
        lists.

    Raises
    ------
    ValueError
        If a constant is missing or not a number; file and line are named.
    """
    file = as_tree(path)
    constants: dict[str, Any] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator or name not in (*_SCALARS, *_LISTS, "Atyp"):
            continue  # DESC, TM and switches of NeuroChem that do not change the AEV of these models
        where = f"{file}, line {number}"
        words = [word.strip() for word in value.strip("[] ").split(",")]
        if name == "Atyp":
            constants["elements"] = [_checked_symbol(word, where) for word in words]
        else:
            numbers = [_number(word, where) for word in words]
            constants[name] = numbers[0] if name in _SCALARS else numbers
    missing = [name for name in (*_SCALARS, *_LISTS) if name not in constants]
    missing += [] if "elements" in constants else ["Atyp"]
    if missing:
        raise ValueError(f"{file} has no {', '.join(missing)}; expected a NeuroChem .params file")
    return constants


def read_self_energies(path: Place) -> dict[str, float]:
    """Return the self energies (Hartree) by symbol of a ``sae_linfit.dat`` file, whose lines look like ``H,0=-0.6``.

    Raises
    ------
    ValueError
        If a line is something else; file and line are named.
    """
    file = as_tree(path)
    energies: dict[str, float] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        match = re.fullmatch(r"\s*([A-Za-z]+)\s*,\s*\d+\s*=\s*(\S+)\s*", line)
        if match is None:
            raise ValueError(f"{where}: expected a self energy such as 'H,0=-0.6', got {line!r}")
        energies[_checked_symbol(match[1], where)] = _number(match[2], where)
    if not energies:
        raise ValueError(f"{file} has no self energies")
    return energies


# ---------------------------------------------------------------------------------------------------------------------
# Networks


@dataclass(frozen=True)
class _Layer:
    """What an ``.nnf`` file says about one layer, and where it says so."""

    n_in: int
    n_out: int
    activation: int
    weights: tuple[str, int]
    biases: tuple[str, int]
    where: str


def read_network(path: Place) -> AtomicNetwork:
    """Return the network of an ``.nnf`` file and of the ``.wparam`` and ``.bparam`` files beside it.

    Raises
    ------
    ValueError
        If the description is damaged or asks for something that is not known, or if a file does not hold as many
        numbers as it should; file and line, or file and layer, are named.
    """
    file = as_tree(path)
    layers = _read_layers(file)
    network = AtomicNetwork((layers[0].n_in, *(layer.n_out for layer in layers)), _activation(layers))
    for layer, linear in zip(layers, network.linears, strict=True):
        folder = parent(file)
        weight = _read_floats(folder / layer.weights[0], layer.weights[1], layer.where)
        bias = _read_floats(folder / layer.biases[0], layer.biases[1], layer.where)
        with torch.no_grad():
            linear.weight = nn.Parameter(weight.view(layer.n_out, layer.n_in))
            linear.bias = nn.Parameter(bias)
    return network


def read_model(folder: Place, constants: Mapping[str, Any]) -> ANIModel:
    """Return the networks of one member, in the order of ``constants["elements"]``.

    Parameters
    ----------
    folder
        Holds ``ANN-<element>.nnf``, or a folder ``networks`` that does.
    constants
        From ``read_constants``.

    Raises
    ------
    ValueError
        If a network is missing, damaged, or made for another AEV than ``constants`` describe.
    """
    networks = _networks_folder(as_tree(folder))
    if networks is None:
        raise ValueError(f"{folder} has no ANN-<element>.nnf, neither in itself nor in networks/")
    length = _aev(constants).num_features
    model = []
    for element in constants["elements"]:
        file = networks / f"ANN-{element}.nnf"
        network = read_network(file)
        if network.sizes[0] != length or network.sizes[-1] != 1:
            sizes = f"takes {network.sizes[0]} numbers and returns {network.sizes[-1]}"
            raise ValueError(f"{file} {sizes}; the AEV has {length}, and one energy is expected")
        model.append(network)
    return ANIModel(model)


def _read_layers(file: Traversable) -> list[_Layer]:
    layers: list[_Layer] = []
    inputsize, start = None, 0
    fields: dict[str, tuple[str, str]] | None = None  # of the layer that is being read: value and line, by name
    for number, line in enumerate(_read_description(file).splitlines(), start=1):
        text, where = line.strip(), f"{file}, line {number}"
        if text.startswith("layer"):
            fields, start = {}, number
        elif text == "]" and fields is not None:
            layers.append(_layer(fields, f"{file}, layer {len(layers) + 1} (line {start})"))
            fields = None
        elif "=" in text:
            name, _, value = text.rstrip(";").partition("=")
            if fields is not None:
                fields[name.strip()] = (value.strip(), where)
            elif name.strip() == "inputsize":
                inputsize = _whole(value.strip(), where)
    if fields is not None:
        raise ValueError(f"{file}: the layer of line {start} does not end; the file is truncated")
    if not layers or inputsize is None:
        raise ValueError(f"{file} describes no network: expected inputsize=… and layers")
    _check_chain(layers, inputsize)
    return layers


def _layer(fields: Mapping[str, tuple[str, str]], where: str) -> _Layer:
    needed = ("nodes", "activation", "blocksize", "weights", "biases")
    missing = [name for name in needed if name not in fields]
    if missing:
        raise ValueError(f"{where} does not say its {', '.join(missing)}")
    for name in ("type", "btchnorm"):  # a dense layer without normalisation; nothing else was published
        if name in fields and float(fields[name][0]) != 0:
            raise ValueError(f"{fields[name][1]}: {name}={fields[name][0]} is not known; only 0 is")
    n_in, n_out = _whole(*fields["blocksize"]), _whole(*fields["nodes"])
    activation = _whole(*fields["activation"])
    if activation not in _ACTIVATIONS:
        known = ", ".join(f"{code} ({name})" for code, name in _ACTIVATIONS.items())
        raise ValueError(f"{fields['activation'][1]}: activation {activation} is not known; known are {known}")
    weights, biases = _file_entry(*fields["weights"]), _file_entry(*fields["biases"])
    for entry, expected, line in ((weights, n_in * n_out, fields["weights"][1]), (biases, n_out, fields["biases"][1])):
        if entry[1] != expected:
            raise ValueError(f"{line}: {entry[0]} is said to hold {entry[1]} numbers; the layer needs {expected}")
    return _Layer(n_in, n_out, activation, weights, biases, where)


def _check_chain(layers: list[_Layer], inputsize: int) -> None:
    sizes = [inputsize, *(layer.n_out for layer in layers)]
    for layer, size in zip(layers, sizes, strict=False):
        if layer.n_in != size:
            raise ValueError(f"{layer.where} takes {layer.n_in} numbers, but {size} come before it")
    if layers[-1].activation != _IDENTITY:
        raise ValueError(f"{layers[-1].where}: the last layer must have activation {_IDENTITY} (none)")
    for layer in layers[:-1]:
        if layer.activation != layers[0].activation or layer.activation == _IDENTITY:
            raise ValueError(f"{layer.where}: all layers but the last must have one activation, 5 or 9")


def _activation(layers: list[_Layer]) -> nn.Module:
    return Gaussian() if layers[0].activation == 5 else CELU(0.1)


def _file_entry(value: str, where: str) -> tuple[str, int]:
    match = re.fullmatch(r"FILE:([\w.+-]+)\[(\d+)\]", value)
    if match is None:
        raise ValueError(f"{where}: expected FILE:name[count], got {value!r}")
    return match[1], int(match[2])


def _read_description(file: Traversable) -> str:
    """Return the text of an ``.nnf`` file: plain, or bzip2 behind its length, ``=`` and a newline."""
    data = read_bytes(file)
    match = re.match(rb"(\d+)=\r?\n?(?=BZh)", data)
    if match is None:
        return decode(data, file)
    try:
        return decode(bz2.decompress(data[match.end() :]), file)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file}: its bzip2 stream of {len(data) - match.end()} bytes is damaged: {error}") from error


def _read_floats(file: Traversable, count: int, where: str) -> torch.Tensor:
    data = read_bytes(file)
    if len(data) != 4 * count:
        raise ValueError(f"{file} has {len(data)} bytes; {where} needs {count} float32 numbers, {4 * count} bytes")
    values = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{file} holds NaN or infinite numbers ({where})")
    return torch.from_numpy(values)


# ---------------------------------------------------------------------------------------------------------------------
# Ensembles


@dataclass(frozen=True)
class EnsembleFiles:
    """Where the parts of one ensemble are.

    Attributes
    ----------
    root
        The folder that file names are relative to.
    constants, self_energies
        Files.
    members
        Folders that hold the networks, in order.
    """

    root: Traversable
    constants: Traversable
    self_energies: Traversable
    members: tuple[Traversable, ...]

    def needed(self) -> Iterator[Traversable]:
        """Yield every file that is needed to rebuild the potential, and no other."""
        yield self.constants
        yield self.self_energies
        elements = read_constants(self.constants)["elements"]
        for member in self.members:
            for element in elements:
                file = member / f"ANN-{element}.nnf"
                yield file
                for layer in _read_layers(file):
                    yield member / layer.weights[0]
                    yield member / layer.biases[0]

    def checksums(self) -> dict[str, str]:
        """Return the sha256 of every needed file, by its path relative to the root."""
        return {self.relative(file): hashlib.sha256(read_bytes(file)).hexdigest() for file in self.needed()}

    def relative(self, file: Traversable) -> str:
        """Return the path of a file relative to the root, with slashes."""
        return os.path.relpath(str(file), str(self.root)).replace(os.sep, "/")


def manifest_text(checksums: Mapping[str, str]) -> str:
    """Return checksums in the format of the ``sha256sum`` program, sorted by path."""
    return "".join(f"{checksums[path]}  {path}\n" for path in sorted(checksums))


def find_ensembles(place: Place) -> list[EnsembleFiles]:
    """Return the ensembles at or below a folder, zip file or wheel, or the one that an ``.info`` file describes.

    Raises
    ------
    FileNotFoundError
        If there is nothing at that place.
    ValueError
        If it is neither a folder, nor a zip file, nor an ``.info`` file.
    """
    tree = open_tree(place)
    if tree.is_file():
        if not tree.name.endswith(".info"):
            raise ValueError(f"{place} is neither a folder, a zip file, a wheel, nor an .info file")
        return [_from_info(tree)]
    found = list(_walk(tree))
    if not found and (member := _lone_member(tree)) is not None:
        found = [member]
    return found


def find_ensemble(place: Place, name: str | None = None) -> EnsembleFiles:
    """Return the one ensemble at a place, or the one whose folder has a name such as ``ani-2x_8x``.

    Raises
    ------
    FileNotFoundError
        If there is nothing at that place.
    ValueError
        If there is no ensemble, none of that name, or several of which none was named.
    """
    found = find_ensembles(place)
    names = [files.root.name or str(files.root) for files in found]
    if not found:
        raise ValueError(f"{place} holds no NeuroChem model: no folder in it has a .params file and networks")
    chosen = found if name is None else [files for files in found if files.root.name == name]
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise ValueError(f"{place} has no model {name!r}; it has {', '.join(names)}")
    raise ValueError(f"{place} has several models, {', '.join(names)}: say which one")


def read_ensemble(place: Place, name: str | None = None) -> Potential:
    """Return the potential that a folder, zip file, wheel or ``.info`` file holds.

    Parameters
    ----------
    place
        An ensemble folder such as ``ani-2x_8x``, one member of it such as ``train0``, a folder or zip file with one
        or several ensembles at any depth, or an ``.info`` file.
    name
        Name of the ensemble's folder where there are several.

    Returns
    -------
    Potential
        In float32, as the weights are; ``details`` has the place and a sha256 over the checksums of all files.

    Raises
    ------
    FileNotFoundError
        If there is nothing at that place.
    ValueError
        If a file is missing, damaged, or of a kind that is not known; the file is named.
    """
    return read_files(find_ensemble(place, name))


def read_files(files: EnsembleFiles) -> Potential:
    """Return the potential that the files of an ensemble describe."""
    from tqdm import tqdm

    constants = read_constants(files.constants)
    energies = read_self_energies(files.self_energies)
    missing = [element for element in constants["elements"] if element not in energies]
    if missing:
        raise ValueError(f"{files.self_energies} has no self energy of {', '.join(missing)}")
    name = files.root.name
    bar = tqdm(files.members, desc=f"reading {name}", unit="member", disable=None, delay=0.5, leave=False)
    members = [read_model(member, constants) for member in bar]
    checksum = hashlib.sha256(manifest_text(files.checksums()).encode()).hexdigest()
    return Potential(
        elements=constants["elements"],
        representation=_aev(constants),
        head=Ensemble(members) if len(members) > 1 else members[0],
        shifter=EnergyShifter([energies[element] for element in constants["elements"]]),
        name=name,
        details={"source": str(files.root), "sha256": checksum},
    )


def _aev(constants: Mapping[str, Any]) -> AEVComputer:
    values = {name: constants[name] for name in (*_SCALARS, *_LISTS)}
    return AEVComputer(**values, num_species=len(constants["elements"]))


def _walk(folder: Traversable, depth: int = 10) -> Iterator[EnsembleFiles]:
    """Yield the ensembles of a folder; what lies inside an ensemble belongs to it, and links in a circle end."""
    children = sorted(folder.iterdir(), key=lambda child: natural_key(child.name))
    files = _at_root(folder, children)
    if files is not None:
        yield files
        return
    for child in children:
        if depth > 0 and child.is_dir() and not child.name.startswith("."):
            yield from _walk(child, depth - 1)


def _at_root(folder: Traversable, children: list[Traversable]) -> EnsembleFiles | None:
    params = [child for child in children if child.name.endswith(".params") and child.is_file()]
    if not params:
        return None
    if len(params) > 1:
        raise ValueError(f"{folder} has several .params files, {', '.join(p.name for p in params)}: leave one")
    own = _networks_folder(folder)
    candidates = [own] if own is not None else [_networks_folder(child) for child in children if child.is_dir()]
    members = tuple(networks for networks in candidates if networks is not None)
    if not members:
        return None
    return EnsembleFiles(folder, params[0], folder / _SELF_ENERGIES, members)


def _lone_member(folder: Traversable) -> EnsembleFiles | None:
    """Return a member whose constants stand in the folder above it, as in the published ``train0``."""
    networks = _networks_folder(folder)
    if networks is None:
        return None
    above = parent(folder)
    params = [child for child in above.iterdir() if child.name.endswith(".params")]
    if len(params) != 1:
        raise ValueError(f"{folder} has networks, but there is no .params file in it or in {above}")
    own = folder / _SELF_ENERGIES
    return EnsembleFiles(folder, params[0], own if own.is_file() else above / _SELF_ENERGIES, (networks,))


def _from_info(info: Traversable) -> EnsembleFiles:
    """Read an ``.info`` file: constants, self energies, prefix of the members, and how many there are."""
    lines = read_text(info).split()
    if len(lines) != 4 or not lines[3].isdigit() or int(lines[3]) < 1:
        raise ValueError(
            f"{info}: expected four lines (constants, self energies, prefix, number of members), got {lines}"
        )
    base = parent(info)
    members = []
    for i in range(int(lines[3])):
        networks = _networks_folder(base / f"{lines[2]}{i}")
        if networks is None:
            raise ValueError(f"{info} names {lines[3]} members, but {base / f'{lines[2]}{i}'} has no networks")
        members.append(networks)
    constants = base / lines[0]
    return EnsembleFiles(parent(constants), constants, base / lines[1], tuple(members))


def _networks_folder(folder: Traversable) -> Traversable | None:
    for candidate in (folder / "networks", folder):
        if candidate.is_dir() and any(re.fullmatch(r"ANN-\w+\.nnf", file.name) for file in candidate.iterdir()):
            return candidate
    return None


def _number(word: str, where: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: expected a number, got {word!r}")
    return value


def _whole(word: str, where: str) -> int:
    if not word.isdigit():
        raise ValueError(f"{where}: expected a whole number, got {word!r}")
    return int(word)


def _checked_symbol(word: str, where: str) -> str:
    try:
        atomic_number(word)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return word
