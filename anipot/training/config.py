"""All settings of a training, read from one YAML file and ``key=value`` overrides."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from anipot.training.neurochem import neurochem_settings
from anipot.training.optimizers import OptimizerSettings
from anipot.training.outputs import ModelOutput
from anipot.training.schedules import ScheduleSettings

_BOTH = (ModelOutput("energies", scaling="sqrt_atoms"), ModelOutput("forces", weight=0.1))


@dataclass
class SplitSettings:
    """How the data are divided.

    Attributes
    ----------
    train, validation, test
        Fractions (0.8) or numbers of structures (1000); -1 for what is left.
    by
        What stays together: conformer, group, formula, block or order.
    seed
        Of the random choice.
    block
        Rows of a block.
    file
        A split that exists: what `anipot data split` writes, a published file of numbers, or published for that of a
        published data set. Where it has no validation, this is taken from train.
    names
        What the parts are called in the file: {train: train_1, test: test_1}.
    """

    train: int | float = 0.8
    validation: int | float = 0.1
    test: int | float = 0.1
    by: str = "conformer"
    seed: int = 0
    block: int = 1000
    file: str | None = None
    names: dict[str, str] = field(default_factory=dict)


@dataclass
class DataSettings:
    """Where the data are and what is done to them.

    Attributes
    ----------
    path
        File, files or folder.
    published
        Name of a published data set, such as rmd17:ethanol, which is downloaded where there is no path.
    layout, fields, length, pbc
        As for anipot.data.open: what the file is, where it has what in which unit, and whether it is periodic.
    validation, test
        Files of these parts, where they have files of their own; path is then divided without them, and a fraction
        for train means all that is left.
    split
        How path is divided.
    checks
        Bad records: refuse, skip, or ignore for no look at them.
    check_limits
        What is bad: elements, max_force, min_distance, max_deviation, duplicates, as for anipot.data.checks.Checks.
    limits
        Structures that are kept: elements, min_atoms, max_atoms, max_force, min_energy, max_energy, has.
    transforms
        What is done to labels: a list of objects, {class: MaskLabels, names: forces}.
    batch_size
        Structures of a batch on each process.
    validation_batch_size
        The same for validation and test; batch_size by default.
    workers
        Processes that read ahead, where the data do not fit into memory.
    memory
        GiB; smaller data sets are held in memory.
    """

    path: str | list[str] | None = None
    published: str | None = None
    layout: str | None = None
    fields: dict[str, Any] | None = None
    length: str | None = None
    pbc: bool | list[bool] | None = None
    validation: str | list[str] | None = None
    test: str | list[str] | None = None
    split: SplitSettings = field(default_factory=SplitSettings)
    checks: str = "refuse"
    check_limits: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    transforms: list[dict[str, Any]] = field(default_factory=list)
    batch_size: int = 32
    validation_batch_size: int | None = None
    workers: int = 0
    memory: float = 1.0


@dataclass
class ModelSettings:
    """What is trained.

    Attributes
    ----------
    elements
        Symbols in the order of the networks; by default those of the training data, by atomic number.
    representation, head
        Objects, {class: SchNet, num_features: 64}. Dense networks are given by hidden: [64, 32] and activation.
    properties
        Further heads by name.
    terms
        Energy terms beside the network.
    self_energies
        fit: by least squares from the training data; robust: the same, not moved by single absurd energies; data:
        what the file says of single atoms; or numbers in Hartree by symbol. With start_from also keep and shift, the
        default: those of the old model, moved by what fits its errors on the new data.
    start_from
        A file, the folder of a run or a name in the zoo: its weights are trained further.
    freeze
        Patterns of the names of parameters that stay as they are, such as head.*.linears.1
    standardise
        Whether networks see features of mean 0 and size 1, where the representation has nothing to learn; by default
        so, unless the model starts from another.
    output_scale
        Size of the energies of atoms in Hartree: what the networks return, and by which the steps of their last layers
        are multiplied; by default from the training data, or 1 for a model that starts from another.
    weights
        How networks of the heads start: default, as torch has it, or kaiming, normal with biases 0, as TorchANI.
    dtype
        float32 or float64.
    name
        Of the model.
    """

    elements: list[str] | None = None
    representation: dict[str, Any] | str = "AEVComputer.like_1x"
    head: dict[str, Any] | str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    terms: list[dict[str, Any] | str] = field(default_factory=list)
    self_energies: str | dict[str, float] | None = None
    start_from: str | None = None
    freeze: list[str] = field(default_factory=list)
    standardise: bool | None = None
    output_scale: float | None = None
    weights: str = "default"
    dtype: str = "float32"
    name: str = ""


@dataclass
class StoppingSettings:
    """When to stop before the end.

    Attributes
    ----------
    patience
        Validations without an improvement.
    monitor
        Of what.
    min_delta
        What counts as one.
    """

    patience: int = 50
    monitor: str = "val_loss"
    min_delta: float = 0.0


@dataclass
class TrainingSettings:
    """A training.

    Attributes
    ----------
    folder
        Where everything goes.
    data, model
        What is trained on what.
    outputs
        What is learned and reported.
    optimizer, schedule
        How.
    ema
        Decay of the moving average of weights, such as 0.99; none by default.
    stopping
        Early stopping; none by default.
    trainer
        Arguments of lightning.Trainer: max_epochs, max_steps, max_time, gradient_clip_val, val_check_interval,
        check_val_every_n_epoch, accelerator, devices, num_nodes, precision, log_every_n_steps, …
    seed
        Of weights and of the order of the data.
    members
        Number of models, from seed, seed + 1, …, that are joined to an ensemble.
    folds
        Whether training and validation data are divided into as many folds as there are members, each of which is the
        validation of one (cross-validation).
    member
        Trains this member alone, counted from 0; so members can be trained side by side, one command each.
    loss_unit, error_unit
        Units of energy in the loss and in reports.
    best
        What is lowest in the model that is kept.
    checkpoint_seconds
        Time between two checkpoints.
    cache
        GiB for features, where energies alone are trained and the representation is fixed; 0 for none.
    tensorboard
        Whether to write logs for TensorBoard.
    contributions
        Steps between records of an sc-SchNet's layers; 0 for none.
    details
        Facts that the model carries: level_of_theory, citation, license.
    """

    folder: str = ""
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    outputs: list[ModelOutput] = field(default_factory=lambda: list(_BOTH))
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings | None = None
    ema: float | None = None
    stopping: StoppingSettings | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    members: int = 1
    folds: bool = False
    member: int | None = None
    loss_unit: str = "kcal/mol"
    error_unit: str = "kcal/mol"
    best: str = "val_loss"
    checkpoint_seconds: float = 60.0
    cache: float = 2.0
    tensorboard: bool = True
    contributions: int = 100
    details: dict[str, Any] = field(default_factory=dict)


def read_settings(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> TrainingSettings:
    """Return the settings of a YAML file with overrides such as ``optimizer.lr=1e-4`` or ``outputs.1.weight=0.25``.

    Parameters
    ----------
    path
        YAML file, or a training file of NeuroChem (.ipt); none for the defaults.
    overrides
        Values are YAML.

    Raises
    ------
    ValueError
        For a file that is no YAML, and for keys and values that do not fit, which are named.
    """
    import yaml

    plain = {} if path is None else _read(Path(path))
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ValueError(f"expected key=value, got {text!r}")
        _set(plain, key.split("."), yaml.safe_load(value), text)
    return parse(plain, str(path or "settings"))


def _read(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".ipt":
        return neurochem_settings(path)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ValueError(f"{path} holds {type(loaded).__name__}, expected settings by name")
    return {"folder": f"runs/{path.stem}"} | (loaded or {})


def _set(plain: Any, keys: list[str], value: Any, text: str) -> None:
    for i, key in enumerate(keys):
        last = i + 1 == len(keys)
        if isinstance(plain, list):
            if not key.isdigit() or int(key) >= len(plain):
                raise ValueError(f"{text}: {'.'.join(keys[:i])} is a list of {len(plain)}, got {key!r}")
            if last:
                plain[int(key)] = value
            else:
                plain = plain[int(key)]
        elif last:
            plain[key] = value
        else:
            if not isinstance(plain.get(key), dict | list):
                plain[key] = {}
            plain = plain[key]


def parse(plain: Mapping[str, Any], where: str = "settings") -> TrainingSettings:
    """Return settings from plain data, as ``to_plain`` returns them.

    >>> parse({"optimizer": {"lr": 0.01}, "trainer": {"max_epochs": 3}}).optimizer.lr
    0.01
    >>> parse({"optimizer": {"rate": 0.01}})
    Traceback (most recent call last):
    ...
    ValueError: settings: there is no setting optimizer.rate; there are kind, lr, weight_decay, biases, options
    """
    from jsonargparse import ArgumentParser

    _check_names(plain, TrainingSettings, where)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainingSettings, "all", fail_untyped=False)
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
    try:
        found: TrainingSettings = instantiate(parser.parse_object({"all": _numbers(dict(plain))}))["all"]
    except (argparse.ArgumentError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{where}: {error}".replace("all.", "")) from error
    return found


def _check_names(plain: Mapping[str, Any], kind: type, where: str, at: str = "") -> None:
    """Refuse settings that there are not, suggesting near names."""
    types = get_type_hints(kind)
    for key, value in plain.items():
        if key not in types:
            near = difflib.get_close_matches(str(key), types, 1)
            hint = f"did you mean {at}{near[0]}?" if near else f"there are {', '.join(types)}"
            raise ValueError(f"{where}: there is no setting {at}{key}; {hint}")
        inner = next((part for part in (types[key], *get_args(types[key])) if is_dataclass(part)), None)
        for i, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, Mapping) and isinstance(inner, type):
                place = f"{at}{key}.{i}." if isinstance(value, list) else f"{at}{key}."
                _check_names(part, inner, where, place)


def _numbers(value: Any) -> Any:
    """Turn what YAML takes for text into numbers: 1e-4 has no point, which YAML 1.1 asks for."""
    if isinstance(value, dict):
        return {key: _numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def to_plain(settings: Any) -> Any:
    """Return settings as dicts, lists and numbers."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return {key: to_plain(value) for key, value in asdict(settings).items()}
    if isinstance(settings, Mapping):
        return {str(key): to_plain(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [to_plain(value) for value in settings]
    return settings


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return where two plain settings differ, in words.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3})
    ['a.b was 1 and is 2', 'c was not there and is 3']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        missing = object()
        pairs = [(key, old.get(key, missing), new.get(key, missing)) for key in keys]
        found = []
        for key, before, after in pairs:
            place = f"{where}.{key}" if where else str(key)
            if before is missing or after is missing:
                words = ["not there" if v is missing else repr(v) for v in (before, after)]
                found.append(f"{place} was {words[0]} and is {words[1]}")
            else:
                found += differences(before, after, place)
        return found
    return [] if old == new else [f"{where} was {old!r} and is {new!r}"]
