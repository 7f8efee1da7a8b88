"""Objects from settings: ``{class: SchNet, num_features: 64}`` or ``{class_path: ..., init_args: {...}}``."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

import anipot

#: Modules in which names without a dot are looked up, the first that has one.
PLACES = ("anipot", "anipot.head", "anipot.terms", "anipot.representation", "anipot.data.transforms", "torch.nn")


def make(settings: Any, where: str, known: Mapping[str, Any] | None = None) -> Any:
    """Return the object that settings describe.

    Parameters
    ----------
    settings
        A name, or a mapping with ``class`` and arguments, or with ``class_path`` and ``init_args``. A name may be one
        of this library, of ``torch.nn`` or have dots in it, and end with a class method: ``AEVComputer.like_1x``.
        Arguments that are mappings of this kind are made first.
    where
        The place in the settings, for messages.
    known
        Arguments that are given where the constructor has parameters of these names and the settings say nothing.

    Raises
    ------
    ValueError
        For names that are not found, and for arguments that do not fit; near names are suggested.

    Examples
    --------
    >>> schnet = make({"class": "SchNet", "num_features": 32}, "model.representation", {"num_species": 4})
    >>> schnet.num_features, schnet.num_species
    (32, 4)
    >>> make({"class": "SchNet", "features": 32}, "model.representation", {"num_species": 4})
    Traceback (most recent call last):
    ...
    ValueError: model.representation: SchNet has no argument 'features', did you mean 'num_features'? It has ...
    """
    name, arguments = parts(settings, where)
    function = find(name, where)
    arguments = {key: nested(value, f"{where}.{key}", known) for key, value in arguments.items()}
    return call(function, name, arguments, where, known)


def call(
    function: Callable[..., Any], name: str, arguments: dict[str, Any], where: str, known: Mapping[str, Any] | None
) -> Any:
    """Call a constructor with arguments, and with those of ``known`` that it takes."""
    taken = parameters_of(function)
    check_names(arguments, function, where, name)
    given = {key: value for key, value in (known or {}).items() if key in (taken or ()) and key not in arguments}
    try:
        return function(*_first(function, known or {}), **given, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name}: {error}") from error


def check_names(arguments: Iterable[str], function: Callable[..., Any], where: str, name: str = "") -> None:
    """Refuse arguments that a function does not take, suggesting near names."""
    taken = parameters_of(function)
    for key in arguments:
        if taken is not None and key not in taken:
            near = difflib.get_close_matches(key, taken, 1)
            hint = f", did you mean {near[0]!r}? It has" if near else "; it has"
            subject = f"{where}: {name} has" if name else f"{where} has"
            raise ValueError(f"{subject} no argument {key!r}{hint} {', '.join(taken) or 'none'}")


def _first(function: Callable[..., Any], known: Mapping[str, Any]) -> list[Any]:
    """Return the first argument of a class method that takes it without a name: that of the constructor."""
    kinds = [parameter.kind for parameter in _signature(function)]
    names = parameters_of(getattr(function, "__self__", function)) or []
    nameless = kinds[:1] == [inspect.Parameter.POSITIONAL_ONLY]
    return [known[names[0]]] if nameless and names and names[0] in known else []


def parts(settings: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments that settings give."""
    if isinstance(settings, str):
        return settings, {}
    if isinstance(settings, Mapping) and isinstance(settings.get("class"), str):
        return settings["class"], {key: value for key, value in settings.items() if key != "class"}
    if isinstance(settings, Mapping) and isinstance(settings.get("class_path"), str):
        unknown = set(settings) - {"class_path", "init_args"}
        if not unknown:
            return settings["class_path"], dict(settings.get("init_args") or {})
    raise ValueError(f"{where}: expected a name, or a mapping with class and its arguments, got {settings!r}")


def nested(value: Any, where: str, known: Mapping[str, Any] | None) -> Any:
    """Return an argument, made where settings of an object stand for it."""
    if isinstance(value, Mapping) and ("class" in value or "class_path" in value):
        return make(value, where, known)
    if isinstance(value, list):
        return [nested(part, f"{where}.{i}", known) for i, part in enumerate(value)]
    return value


def find(name: str, where: str) -> Callable[..., Any]:
    """Return what a name stands for.

    Raises
    ------
    ValueError
        If there is nothing of that name.
    """
    first, *rest = name.split(".")
    for place in PLACES:
        found = getattr(import_module(place), first, None)
        if inspect.isclass(found):
            return _below(found, rest, name, where)
    pieces = name.split(".")
    for length in range(len(pieces) - 1, 0, -1):
        try:
            module = import_module(".".join(pieces[:length]))
        except ModuleNotFoundError:
            continue
        return _below(module, pieces[length:], name, where)
    known = {one: getattr(anipot, one) for one in anipot.__all__}
    names = [one for one, kind in known.items() if inspect.isclass(kind) and issubclass(kind, nn.Module)]
    near = difflib.get_close_matches(first, names, 2, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(names)}"
    raise ValueError(f"{where}: there is no {name!r}{hint}")


def _below(found: Any, rest: list[str], name: str, where: str) -> Callable[..., Any]:
    for part in rest:
        if not hasattr(found, part):
            raise ValueError(f"{where}: there is no {name!r}: {getattr(found, '__name__', found)} has no {part!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{where}: {name!r} is a {type(found).__name__}, expected a class or a class method")
    return found


def parameters_of(function: Callable[..., Any]) -> list[str] | None:
    """Return the names of arguments that can be given, or None if any can."""
    parameters = _signature(function)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        # of a subclass that hands everything to its base
        bases = function.__mro__[1:] if inspect.isclass(function) else ()
        return next((names for base in bases if (names := parameters_of(base))), None)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _signature(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of some functions in C
        return [inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)]
