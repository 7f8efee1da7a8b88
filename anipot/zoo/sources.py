"""Find the weights of a published model outside the cache, and read files of any known kind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from anipot.zoo import cache, download
from anipot.zoo.check import check_files, check_weights
from anipot.zoo.errors import Attempt, CacheError, ZooError, nowhere
from anipot.zoo.index import Entry, details

if TYPE_CHECKING:
    from anipot.interfaces.neurochem import EnsembleFiles
    from anipot.potential import Potential

_STATE_DICTS = (".pt", ".pth")
_OWN = ".safetensors"


def search(entry: Entry, attempts: list[Attempt]) -> tuple[Potential, str]:
    """Return a published model and where it came from: ``$ANIPOT_ZOO``, then the sources of the index.

    Parameters
    ----------
    entry
        The model.
    attempts
        What was tried so far; what fails here is added.

    Raises
    ------
    ZooError
        If it cannot be had anywhere.
    """
    given = os.environ.get("ANIPOT_ZOO")
    if not given:
        attempts.append(Attempt("$ANIPOT_ZOO", "not set"))
    else:
        try:
            return read_published(given, entry), f"$ANIPOT_ZOO={given}"
        except (ValueError, OSError) as error:
            attempts.append(Attempt(f"$ANIPOT_ZOO={given}", str(error)))
    for source in entry.sources:
        try:
            return _read_source(source, entry), download.place(source)
        except (ValueError, OSError, ZooError) as error:
            attempts.append(Attempt(download.place(source), str(error)))
    raise nowhere(entry.title, entry.folder, attempts)


def read_published(place: str | os.PathLike[str], entry: Entry) -> Potential:
    """Return a published model from a local folder, zip file, wheel, safetensors file or state dict, checked.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, or something else; the file is named.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    ours = path / f"{entry.key}{_OWN}"
    path = ours if ours.is_file() else path
    if path.is_file() and path.suffix in (_OWN, *_STATE_DICTS):
        potential = read_file(path)
        try:
            check_weights(potential, entry)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return as_published(potential, entry)
    return read_published_files(_locate(path, entry), entry)


def read_published_files(files: EnsembleFiles, entry: Entry) -> Potential:
    """Return a published model from its NeuroChem files, each of which is checked."""
    from anipot.interfaces.neurochem import read_files

    check_files(files, entry)
    return as_published(read_files(files), entry)


def as_published(potential: Potential, entry: Entry) -> Potential:
    """Give a potential that was found to be a published one its name and what is known about it."""
    potential.name, potential.details = entry.title, details(entry)
    return potential


def read_file(path: Path) -> Potential:
    """Return the potential of a safetensors file of ours or of a TorchANI state dict, whatever model it is."""
    if path.suffix in _STATE_DICTS:
        from anipot.interfaces.torchani_state import read_state_dict

        return read_state_dict(path)
    from anipot.storage import load_model

    return load_model(path)


def read_any(place: str | os.PathLike[str], entries: Mapping[str, Entry]) -> Potential:
    """Return the one potential of a file or folder of any known kind; a published one is recognised by its checksums.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, nothing that is known, or more than one model.
    """
    from anipot.interfaces.neurochem import find_ensembles, read_ensemble, read_files

    path = Path(place).expanduser()
    inside = (path / f"model{_OWN}", path / f"{path.name}{_OWN}")  # folder of a run, or what `anipot export` made of it
    path = next((file for file in inside if file.is_file()), path)
    if path.is_file() and path.suffix in (_OWN, *_STATE_DICTS):
        return read_file(path)
    found = find_ensembles(path)
    if len(found) > 1:
        names = ", ".join(files.root.name for files in found)
        raise ValueError(f"{path} has several models, {names}; run `anipot zoo import {path}` and load them by name")
    potential = read_files(found[0]) if found else read_ensemble(path)
    for entry in entries.values():
        if entry.manifest_sha256 == potential.details["sha256"]:
            facts = {"source": potential.details["source"], "sha256": entry.manifest_sha256}
            as_published(potential, entry).details.update(facts)
    return potential


def _locate(path: Path, entry: Entry) -> EnsembleFiles:
    """Return the ensemble whose folder has the published name, or else the one whose files are the published ones."""
    from anipot.interfaces.neurochem import find_ensemble, find_ensembles

    found = find_ensembles(path)
    if all(files.root.name != entry.folder for files in found):
        for files in found:
            with contextlib.suppress(ValueError):
                check_files(files, entry)
                return files
    return find_ensemble(path, entry.folder)


def _read_source(source: Mapping[str, str], entry: Entry) -> Potential:
    """Return a model from an archive that is fetched, or was kept; one that turns out bad is not kept."""
    with contextlib.ExitStack() as stack:
        folder = cache.downloads_dir()
        try:
            archive, fresh = download.fetch(source, folder)
        except CacheError:  # the cache cannot be written, but the archive can still be used once
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anipot-")))
            archive, fresh = download.fetch(source, folder)
        try:
            return read_published(archive, entry)
        except ValueError:
            archive.unlink(missing_ok=True)
            if fresh:
                raise
        archive, _ = download.fetch(source, folder)
        return read_published(archive, entry)


def forget_archives(entries: Mapping[str, Entry]) -> None:
    """Remove kept archives that serve no model any more that is not cached yet."""
    archives: dict[str, list[str]] = {}
    for entry in entries.values():
        for source in entry.sources:
            archives.setdefault(download.archive_name(source), []).append(entry.key)
    cached = set(cache.cached_keys())
    for name, served in archives.items():
        if cached.issuperset(served):
            with contextlib.suppress(OSError):
                (cache.downloads_dir() / name).unlink(missing_ok=True)
