"""What `anipot zoo` does beside loading: import, verify, export, list."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anipot.zoo import cache
from anipot.zoo.check import check_weights, identify
from anipot.zoo.errors import ZooError
from anipot.zoo.index import Entry, find, index, normalise
from anipot.zoo.loading import pull
from anipot.zoo.shipped import card, problem_of, shipped

if TYPE_CHECKING:
    from anipot.potential import Potential


@dataclass(frozen=True)
class Status:
    """State of one model in the cache or in the package; ``problem`` is empty if all is well."""

    name: str
    title: str
    elements: tuple[str, ...]
    members: int
    level_of_theory: str
    cached: bool
    path: Path
    problem: str = ""
    shipped: bool = False


def import_path(path: str | os.PathLike[str], name: str | None = None) -> list[str]:
    """Bring the models of a file or folder into the cache and return their names.

    Parameters
    ----------
    path
        NeuroChem folder, zip file, wheel or .info file with one or several models; a safetensors file of ours; a
        TorchANI state dict (.pt). Published models are recognised, and checked number by number.
    name
        For a model of the user's own, under which ``anipot.load`` finds it later; an older one is replaced.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, nothing that is known, or a file that is not as published; the file is named.
    ZooError
        If the cache cannot be written.
    """
    from anipot.zoo.sources import read_file

    entries, place = index(), Path(path).expanduser()
    if name is not None:
        return [_import_own(place, name, entries)]
    if not place.exists():
        raise FileNotFoundError(f"no file or folder {place}")
    if place.is_file() and place.suffix in (".safetensors", ".pt", ".pth"):
        return [_import_file(place, read_file(place), entries)]
    return _import_neurochem(place, entries)


def verify(name: str | None = None) -> list[Status]:
    """Check the cached models: files against their records, weights against the published checksums.

    Parameters
    ----------
    name
        One of them, or a model that comes with the package; by default all that are cached.
    """
    found = table() if name is None else [status(name)]
    return [one for one in found if one.cached or (one.shipped and name is not None)]


def status(name: str) -> Status:
    """Return the state of one model, whose files are checked; ValueError if there is no model of that name."""
    entry = find(name, index(), (*shipped(), *cache.cached_keys()))
    key = normalise(name) if entry is None else entry.key
    return _shipped_status(key, True) if key in shipped() else _status(key, entry, check=True)


def table(check: bool = True) -> list[Status]:
    """Return the state of every model that is published, shipped or cached; without ``check`` no file is read."""
    entries = index()
    rows = [_status(entry.key, entry, check) for entry in entries.values()]
    rows += [_shipped_status(key, check) for key in shipped()]
    others = [key for key in cache.cached_keys() if key not in entries and key not in shipped()]
    return rows + [_status(key, None, check) for key in others]


def export(name: str, path: str | os.PathLike[str]) -> Path:
    """Write a model to a safetensors file that ``anipot.load`` and ``anipot zoo import`` read anywhere.

    Parameters
    ----------
    name
        Published or own; it is fetched first if need be.
    path
        File that ends in ``.safetensors``, or a folder.

    Returns
    -------
    Path
        The file.
    """
    target = Path(path).expanduser()
    key, source = next(iter(pull(name).items()))
    target = target / f"{key}.safetensors" if target.is_dir() else target
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} must be a folder or end in .safetensors")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent}")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def _import_own(place: Path, name: str, entries: Mapping[str, Entry]) -> str:
    from anipot.zoo.sources import read_any

    key = normalise(name)
    if not key or not key.isascii() or key == "downloads":
        raise ValueError(f"a name needs letters or digits of ASCII, got {name!r}")
    with contextlib.suppress(ValueError):
        published = find(key, entries, tuple(shipped()))
        raise ZooError(f"{name!r} is the name of the published {published.title if published else key}; choose another")
    potential = read_any(place, entries)
    potential.name = name
    potential.details.setdefault("name", name)
    _store(key, potential, str(place), None)
    return key


def _import_file(place: Path, potential: Potential, entries: Mapping[str, Entry]) -> str:
    from anipot.zoo.sources import as_published

    entry = identify(potential, dict(entries))
    if entry is None:
        with contextlib.suppress(ValueError):
            claimed = find(potential.name, entries)
            if claimed is not None:
                _explain(place, potential, claimed)
        raise ValueError(
            f"{place} is none of the published models; give it a name of its own to import it (--name NAME)"
        )
    _store(entry.key, as_published(potential, entry), str(place), entry.manifest_sha256)
    return entry.key


def _explain(place: Path, potential: Potential, entry: Entry) -> None:
    try:
        check_weights(potential, entry)
    except ValueError as error:
        raise ZooError(f"{place} says that it is {entry.title}, but {error}") from error


def _import_neurochem(place: Path, entries: Mapping[str, Entry]) -> list[str]:
    from anipot.interfaces.neurochem import find_ensembles
    from anipot.zoo.sources import read_published_files

    found = find_ensembles(place)
    if not found:
        raise ValueError(f"{place} holds no NeuroChem model: no folder in it has a .params file and networks")
    imported, problems = [], []
    for files in found:
        candidates = [e for e in entries.values() if e.folder == files.root.name] or list(entries.values())
        reasons = []
        for entry in candidates:
            try:
                potential = read_published_files(files, entry)
            except ValueError as error:
                reasons.append(str(error))
                continue
            _store(entry.key, potential, str(files.root), entry.manifest_sha256)
            imported.append(entry.key)
            break
        else:
            none = (
                f"{files.root} is none of the published models; to import it as one of your own, name it (--name NAME)"
            )
            problems.append(reasons[0] if len(candidates) == 1 else none)
    if not imported:
        raise ValueError("; ".join(problems))
    for problem in problems:
        warnings.warn(f"not imported: {problem}", stacklevel=3)
    return imported


def _store(key: str, potential: Potential, source: str, manifest_sha256: str | None) -> None:
    with cache.lock(key):
        cache.store(key, potential, f"imported from {Path(source).absolute()}", manifest_sha256)


def _shipped_status(key: str, check: bool) -> Status:
    facts, problem = card(key), problem_of(key) if check else ""
    level = facts["level_of_theory"]
    return Status(
        key, facts["name"], tuple(facts["elements"]), facts["members"], level, False, shipped()[key], problem, True
    )


def _status(key: str, entry: Entry | None, check: bool) -> Status:
    path, title, problem, record = cache.weights_path(key), key, "", None
    elements: tuple[str, ...] = ()
    members, level = 0, ""
    if entry is not None:
        title, elements, members = entry.title, entry.elements, entry.members
        level = entry.facts["level_of_theory"]
    try:
        record = cache.read_record(key)
        if record is not None and check:
            _check_cached(key, entry)
        if record is not None and entry is None:
            title, elements, members, level = _described(path)
    except (ValueError, OSError) as error:
        problem = str(error)
    cached = record is not None or bool(problem)
    return Status(key, title, elements, members, level, cached, path, problem)


def _check_cached(key: str, entry: Entry | None) -> None:
    from anipot.storage import load_model

    record = cache.read_checked(key, None if entry is None else entry.manifest_sha256)
    if record is None:
        raise ValueError(f"{cache.record_path(key)} was written by another release; it is made anew when it is loaded")
    potential = load_model(cache.weights_path(key))
    if entry is not None:
        try:
            check_weights(potential, entry)
        except ValueError as error:
            raise ValueError(f"{cache.weights_path(key)}: {error}") from error


def _described(path: Path) -> tuple[str, tuple[str, ...], int, str]:
    from anipot.storage import read_metadata

    metadata = read_metadata(path)
    level = str(metadata["details"].get("level_of_theory", ""))
    return metadata["name"], tuple(metadata["elements"]), metadata["num_members"], level


__all__ = ["Status", "export", "import_path", "status", "table", "verify"]
