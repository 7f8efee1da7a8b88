"""Settings from one YAML file and ``key=value`` overrides, and back to plain data."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from anipot.training.config import TrainingSettings
from anipot.training.neurochem import neurochem_settings


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
