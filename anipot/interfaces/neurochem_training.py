"""Read the training files of NeuroChem (``.ipt``): what its trainer was told for ANI-1x, ANI-1ccx and ANI-2x.

Lines of ``name=value``, ``!`` before remarks, and one ``network_setup { … }`` with the layers of every element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anipot.elements import atomic_number
from anipot.interfaces.neurochem_words import Words
from anipot.interfaces.trees import Place, as_tree, read_text

_ACTIVATIONS = {5: "gaussian", 6: "none", 9: "celu"}
#: Settings without an effect on what is learnt, or on anything where their switch is off.
_WITHOUT_EFFECT = ("gpuid", "nkde", "cmult", "cdweight", "decrate", "mu")
#: Settings of which only one value is known here.
_FIXED: Mapping[str, Any] = {
    "pbc": 0,
    "tmax": 0,
    "ntwshr": 0,
    "dipole": 0,
    "charge": 0,
    "acachg": 0,
    "repuls": 0,
    "energy": 1,
    "moment": "ADAM",
    "adptlrn": "OFF",
    "runtype": "ANNP_CREATE_HDNN_AND_TRAIN",
}
_NEEDED = ("sflparamsfile", "atomEnergyFile", "eta", "emult", "tcrit", "tolr", "tbtchsz")


@dataclass(frozen=True)
class LayerSettings:
    """One layer of a network.

    Attributes
    ----------
    nodes
        How many numbers it returns.
    activation
        ``"celu"`` (α = 0.1), ``"gaussian"`` or ``"none"``.
    weight_decay
        Of its weights; 0 for none. Biases have none.
    """

    nodes: int
    activation: str
    weight_decay: float = 0.0


@dataclass(frozen=True)
class NeuroChemSettings:
    """What a training file says.

    Attributes
    ----------
    constants, self_energies
        Names of the files with AEV constants and self energies, relative to the training file.
    network_folder
        Where NeuroChem keeps the networks.
    input_size
        Length of the AEV.
    networks
        The layers of each element, by symbol, in the order of the file.
    learning_rate
        At the start (``eta``).
    factor
        What the learning rate is multiplied with when errors no longer fall (``emult``).
    patience
        Epochs without a smaller validation error before that happens (``tolr``).
    min_learning_rate
        Training ends when the learning rate is below it (``tcrit``).
    max_epochs
        None for no limit (``nmax``).
    batch_size, validation_batch_size
        Molecules (``tbtchsz``, ``vbtchsz``).
    force_weight
        Of the forces in the loss, None where they are not trained (``force``, ``fmult``).
    frozen_layers
        Numbers of the layers that stay as they are, of every network, from 0 (``freezelayer``); transfer learning.
    seed
        None where the file has none.
    """

    constants: str
    self_energies: str
    network_folder: str
    input_size: int
    networks: Mapping[str, tuple[LayerSettings, ...]]
    learning_rate: float
    factor: float
    patience: int
    min_learning_rate: float
    max_epochs: int | None
    batch_size: int
    validation_batch_size: int
    force_weight: float | None = None
    frozen_layers: tuple[int, ...] = ()
    seed: int | None = None
    #: Lines that change nothing here.
    without_effect: Mapping[str, Any] = field(default_factory=dict)


def read_training_settings(path: Place) -> NeuroChemSettings:
    """Return what a ``.ipt`` file says.

    Parameters
    ----------
    path
        The file; the files that it names need not be there.

    Returns
    -------
    NeuroChemSettings

    Raises
    ------
    ValueError
        If the file is damaged, lacks a setting or asks for something that is not known; file and line are named.
    """
    file = as_tree(path)
    return parse_training_settings(read_text(file), str(file))


def parse_training_settings(text: str, name: str = "text") -> NeuroChemSettings:
    """Return what the text of a ``.ipt`` file says; see ``read_training_settings``.

    Examples
    --------
    >>> settings = parse_training_settings('''
    ... sflparamsfile=r.params
    ... atomEnergyFile=sae.dat
    ... eta=0.001 ! at the start
    ... emult=0.5
    ... tcrit=1.0E-5
    ... tolr=100
    ... tbtchsz=2560
    ... network_setup {
    ...   inputsize=384;
    ...   atom_net H $
    ...     layer [ nodes=160; activation=9; type=0; l2norm=1; l2valu=0.00001; ]
    ...     layer [ nodes=1; activation=6; type=0; ]
    ...   $
    ... }
    ... ''')
    >>> settings.networks["H"][0]
    LayerSettings(nodes=160, activation='celu', weight_decay=1e-05)
    """
    words = Words(text, name)
    values: dict[str, Any] = {}
    lines: dict[str, str] = {}
    setup: tuple[int, dict[str, tuple[LayerSettings, ...]]] | None = None
    while (token := words.peek()) is not None:
        if token == "network_setup":
            if setup is not None:
                raise ValueError(f"{words.where()}: a second network_setup; one is expected")
            setup = _network_setup(words)
            continue
        where = words.where()
        key, value = words.assignment()
        if key in values:
            raise ValueError(f"{where}: {key} stands twice, here and in {lines[key].rpartition(', ')[2]}")
        values[key], lines[key] = value, where
    if setup is None:
        raise ValueError(f"{name} has no network_setup; expected a NeuroChem training file")
    return _settings(values, lines, setup, name)


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def _network_setup(words: Words) -> tuple[int, dict[str, tuple[LayerSettings, ...]]]:
    words.take("network_setup")
    words.take("{")
    where = words.where()
    key, size = words.assignment()
    words.take(";")
    if key != "inputsize" or not isinstance(size, int) or size < 1:
        raise ValueError(f"{where}: expected inputsize and a positive number first, got {key}={size}")
    networks: dict[str, tuple[LayerSettings, ...]] = {}
    while words.peek() == "atom_net":
        words.take()
        where = words.where()
        element = words.take()
        try:
            atomic_number(element)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if element in networks:
            raise ValueError(f"{where}: a second network of {element}")
        networks[element] = _network(words, f"{where}: the network of {element}")
    words.take("}")
    if not networks:
        raise ValueError(f"{where}: no atom_net follows")
    return size, networks


def _network(words: Words, where: str) -> tuple[LayerSettings, ...]:
    words.take("$")
    layers = []
    while words.peek() == "layer":
        words.take()
        layers.append(_layer(words))
    words.take("$")
    kinds = [layer.activation for layer in layers]
    if not layers or layers[-1] != LayerSettings(1, "none", layers[-1].weight_decay):
        raise ValueError(f"{where} must end in a layer of one node with activation 6 (none)")
    if "none" in kinds[:-1] or len(set(kinds[:-1])) > 1:
        raise ValueError(f"{where}: all layers but the last must have one activation, 5 or 9; got {kinds}")
    return tuple(layers)


def _layer(words: Words) -> LayerSettings:
    where = words.where()
    words.take("[")
    values: dict[str, Any] = {}
    while words.peek() != "]":
        key, value = words.assignment()
        words.take(";")
        values[key] = value
    words.take("]")
    nodes, activation = values.pop("nodes", None), values.pop("activation", None)
    if not isinstance(nodes, int) or nodes < 1:
        raise ValueError(f"{where}: a layer needs a positive number of nodes, got {nodes}")
    if activation not in _ACTIVATIONS:
        known = ", ".join(f"{code} ({kind})" for code, kind in _ACTIVATIONS.items())
        raise ValueError(f"{where}: activation {activation} is not known; known are {known}")
    if values.pop("type", 0) != 0:
        raise ValueError(f"{where}: only layers of type 0 (dense) are known")
    switch, decay = values.pop("l2norm", 0), values.pop("l2valu", 0.0)
    if switch not in (0, 1) or isinstance(decay, str) or (switch and not 0 <= decay < math.inf):
        raise ValueError(f"{where}: expected l2norm=0 or 1 and l2valu>=0, got {switch} and {decay}")
    if values:
        raise ValueError(f"{where}: {', '.join(values)} of a layer is not known")
    return LayerSettings(nodes, _ACTIVATIONS[activation], float(decay) if switch else 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def _settings(
    values: dict[str, Any],
    lines: Mapping[str, str],
    setup: tuple[int, dict[str, tuple[LayerSettings, ...]]],
    name: str,
) -> NeuroChemSettings:
    missing = [key for key in _NEEDED if key not in values]
    if missing:
        raise ValueError(f"{name} does not say {', '.join(missing)}")
    for key, expected in _FIXED.items():
        if values.pop(key, expected) != expected:
            raise ValueError(f"{lines[key]}: only {key}={expected} is known")
    without_effect = {key: values.pop(key) for key in _WITHOUT_EFFECT if key in values}

    def number(key: str, default: float = 0, *, whole: bool = False, positive: bool = False) -> Any:
        value = values.pop(key, default)
        if (
            isinstance(value, str)
            or not 0 <= value < math.inf
            or (positive and value == 0)
            or (whole and int(value) != value)
        ):
            kind = ("a positive " if positive else "a ") + ("whole number" if whole else "number")
            raise ValueError(f"{lines[key]}: {key} must be {kind}, got {value}")
        return int(value) if whole else float(value)

    force, force_weight = number("force", whole=True), number("fmult")
    batch_size = number("tbtchsz", whole=True, positive=True)
    depth = min(len(layers) for layers in setup[1].values())
    settings = NeuroChemSettings(
        constants=str(values.pop("sflparamsfile")),
        self_energies=str(values.pop("atomEnergyFile")),
        network_folder=str(values.pop("ntwkStoreDir", "networks/")),
        input_size=setup[0],
        networks=setup[1],
        learning_rate=number("eta", positive=True),
        factor=number("emult", positive=True),
        patience=number("tolr", whole=True, positive=True),
        min_learning_rate=number("tcrit", positive=True),
        max_epochs=number("nmax", whole=True) or None,
        batch_size=batch_size,
        validation_batch_size=number("vbtchsz", batch_size, whole=True, positive=True),
        force_weight=force_weight if force else None,
        frozen_layers=_frozen(values.pop("freezelayer", ""), depth, lines.get("freezelayer", name)),
        seed=number("seed", whole=True) if "seed" in values else None,
        without_effect=without_effect,
    )
    if values:
        where = "; ".join(f"{lines[key]}: {key}={value}" for key, value in values.items())
        raise ValueError(f"settings that are not known: {where}")
    if settings.factor >= 1:
        raise ValueError(f"{lines['emult']}: emult must be below 1, got {settings.factor}")
    return settings


def _frozen(value: int | float | str, depth: int, where: str) -> tuple[int, ...]:
    words = [word for word in str(value).split(",") if word]
    if not all(word.isdigit() and int(word) < depth for word in words):
        raise ValueError(f"{where}: freezelayer must be numbers from 0 to {depth - 1} between commas, got {value!r}")
    return tuple(sorted({int(word) for word in words}))
