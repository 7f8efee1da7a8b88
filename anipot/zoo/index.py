"""The published models that anipot knows: names, sources, checksums, levels of theory, citations."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One published model.

    Attributes
    ----------
    key
        Short name, such as ``ani2x``; also its name in the cache.
    title
        Name as published, such as ``ANI-2x``.
    folder
        Name of its folder where it was published.
    elements, members
        Symbols in order, and number of members.
    facts
        Level of theory, citation, DOI and license, as ``model.info()`` shows them.
    sources
        Where to fetch it, in order.
    constants, self_energies
        As published, float64; None where the index does not say.
    checksums
        sha256 of every needed file by its path in the folder.
    manifest_sha256
        sha256 of the file that lists the checksums.
    """

    key: str
    title: str
    folder: str
    elements: tuple[str, ...]
    members: int
    facts: Mapping[str, str]
    sources: tuple[Mapping[str, str], ...]
    constants: Mapping[str, Any] | None
    self_energies: tuple[float, ...] | None
    checksums: Mapping[str, str]
    manifest_sha256: str
    aliases: tuple[str, ...] = ()


def normalise(name: str) -> str:
    """Return a name without case, hyphens and the like.

    >>> normalise("ANI-1ccx")
    'ani1ccx'
    """
    return "".join(c for c in name.casefold() if c.isalnum())


def index(path: str | os.PathLike[str] | None = None) -> dict[str, Entry]:
    """Return the published models by key.

    Parameters
    ----------
    path
        Another index file, its manifests beside it; by default ``$ANIPOT_ZOO_INDEX``, or the one in the package.

    Raises
    ------
    ValueError
        If the index or a manifest is damaged; the file is named.
    """
    path = path or os.environ.get("ANIPOT_ZOO_INDEX")
    file: Traversable = Path(path) if path else packaged() / "index.json"
    folder: Traversable = Path(path).parent if path else packaged()
    try:
        models = json.loads(file.read_text(encoding="utf-8"))["models"]
        return {key: _entry(key, model, folder) for key, model in models.items()}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not an index of models: {type(error).__name__} {error}") from error


def find(name: str, entries: Mapping[str, Entry], also: tuple[str, ...] = ()) -> Entry | None:
    """Return the entry of a name in any spelling; None for one of the names in ``also``, the user's own models.

    Raises
    ------
    ValueError
        If there is no such model; near names are suggested.
    """
    spellings = {normalise(s): e for e in entries.values() for s in (e.key, e.title, e.folder, *e.aliases)}
    wanted = normalise(name)
    if wanted in spellings:
        return spellings[wanted]
    if wanted in also:
        return None
    near = difflib.get_close_matches(wanted, [*spellings, *also], n=3, cutoff=0.5)
    keys = [spellings[n].key if n in spellings else n for n in near]
    hint = f"; did you mean {' or '.join(dict.fromkeys(keys))}?" if keys else "."
    raise ValueError(f"no model is named {name!r}{hint} Known are {', '.join([*entries, *also])}.")


def details(entry: Entry) -> dict[str, Any]:
    """Return what is stored with the weights of a published model, wherever they came from."""
    return {"name": entry.title, **entry.facts, "source": entry.folder, "sha256": entry.manifest_sha256}


def packaged() -> Traversable:
    """Return the folder of the package, or of the repository where anipot is used without being installed."""
    try:
        folder = importlib.resources.files("anipot.model_zoo")
        if (folder / "index.json").is_file():
            return folder
    except ModuleNotFoundError:
        pass
    return Path(__file__).parents[2] / "model_zoo"


def _entry(key: str, model: Mapping[str, Any], folder: Traversable) -> Entry:
    manifest = folder / f"{key}.sha256"
    text = manifest.read_bytes()
    energies = model.get("self_energies")
    return Entry(
        key=key,
        title=model["name"],
        folder=model["folder"],
        elements=tuple(model["elements"]),
        members=model["members"],
        facts={name: model[name] for name in ("level_of_theory", "citation", "doi", "license")},
        sources=tuple(model["sources"]),
        constants=model.get("constants"),
        self_energies=None if energies is None else tuple(energies),
        checksums=_read_manifest(text.decode(), str(manifest)),
        manifest_sha256=hashlib.sha256(text).hexdigest(),
        aliases=tuple(model.get("aliases", ())),
    )


def _read_manifest(text: str, where: str) -> dict[str, str]:
    checksums = {}
    for number, line in enumerate(text.splitlines(), start=1):
        checksum, separator, path = line.partition("  ")
        if len(checksum) != 64 or not separator:
            raise ValueError(f"{where}, line {number}: expected 'sha256  path', got {line!r}")
        checksums[path] = checksum
    return checksums
