"""From a name to a potential, through the cache."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from anipot.zoo import cache
from anipot.zoo.errors import Attempt, CacheError, ZooError
from anipot.zoo.index import Entry, find, index, normalise
from anipot.zoo.shipped import DEFAULT, open_shipped, shipped

if TYPE_CHECKING:
    import torch

    from anipot.potential import Potential


def names() -> list[str]:
    """Return the names that ``load`` knows: published models, those of the package, the user's own in the cache.

    >>> names()[:4]
    ['ani1x', 'ani1ccx', 'ani2x', 'mini']
    """
    return list(dict.fromkeys([*index(), *shipped(), *cache.own_keys()]))


def load(
    name: str = DEFAULT,
    model_index: int | None = None,
    *,
    periodic_table_index: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """Return a model by name: from package or cache, else from ``$ANIPOT_ZOO``, else from where it was published.

    Parameters
    ----------
    name
        Such as ``"ani2x"`` or ``"ANI-2x"``; by default the small model that comes with the package.
    model_index
        One member of the ensemble; all by default.
    periodic_table_index
        Whether species are atomic numbers (default) or element indices.
    device, dtype
        Of the networks; by default the CPU, and the dtype of the file or of torch's default, whichever is longer.

    Raises
    ------
    ValueError
        If there is no model of that name; near names are suggested.
    IndexError
        If there is no such member.
    ZooError
        If the weights cannot be had; the message says what was tried and how to hand them over.
    """
    entry = find(name, index(), _unpublished())
    potential = _without_entry(normalise(name)) if entry is None else _published(entry)
    return adapt(potential, model_index, periodic_table_index, device, dtype)


def pull(wanted: str | Iterable[str] | None = None) -> dict[str, Path]:
    """Bring published models into the cache, all by default, and return the files of their weights by name.

    Raises
    ------
    ValueError
        If there is no model of that name.
    ZooError
        If the weights cannot be had or the cache cannot be written.
    """
    entries = index()
    chosen = list(entries) if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    found = {name: find(name, entries, _unpublished()) for name in chosen}
    files = {}
    for name, entry in found.items():
        key = normalise(name) if entry is None else entry.key
        if entry is None:
            _without_entry(key)
        else:
            _published(entry, must_cache=True)
        files[key] = shipped().get(key) or cache.weights_path(key)
    return files


def adapt(
    potential: Potential,
    model_index: int | None,
    periodic_table_index: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Potential:
    """Return a potential, or one member, as the caller wants it."""
    import torch

    potential.periodic_table_index = periodic_table_index
    if model_index is not None:
        potential = potential[operator.index(model_index)]
    return potential.to(device=device, dtype=dtype or torch.promote_types(potential.dtype, torch.get_default_dtype()))


def _published(entry: Entry, must_cache: bool = False) -> Potential:
    attempts: list[Attempt] = []
    potential = _cached(entry, attempts)
    if potential is None:
        potential = _make(entry, attempts, must_cache)
    return potential


def _cached(entry: Entry, attempts: list[Attempt]) -> Potential | None:
    place = f"cache {cache.weights_path(entry.key)}"
    try:
        record = cache.read_checked(entry.key, entry.manifest_sha256)
    except cache.DamagedCopyError as error:
        attempts.append(Attempt(place, str(error)))
        return None
    if record is None:
        attempts.append(Attempt(place, "no such file, or of another release"))
        return None
    return _open(record)


def _open(record: cache.Record) -> Potential:
    from anipot.storage import load_model

    path = cache.weights_path(record.key)
    potential = load_model(path)
    potential.details.update(source=record.source, sha256=record.sha256, file=str(path), date=record.date)
    return potential


def _make(entry: Entry, attempts: list[Attempt], must_cache: bool) -> Potential:
    """Find a model outside the cache and put it there; if the cache cannot be written, use it all the same."""
    from anipot.zoo.sources import forget_archives, search

    if "damaged" in attempts[-1].reason or "cannot be read" in attempts[-1].reason:
        warnings.warn(f"{attempts[-1].reason}; {entry.title} is made anew from another source", stacklevel=4)
    found: tuple[Potential, str] | None = None
    try:
        with cache.lock(entry.key):
            potential = _cached(entry, [])  # another process may have been faster
            if potential is None:
                found = search(entry, attempts)
                record = cache.store(entry.key, *found, entry.manifest_sha256)
                forget_archives(index())
                potential = _open(record)
        return potential
    except CacheError as error:
        if must_cache:
            raise
        potential, source = found or search(entry, attempts)
        warnings.warn(f"{entry.title} is used from {source}, but could not be cached: {error}", stacklevel=4)
        potential.details.update(source=source)
        return potential


def _unpublished() -> tuple[str, ...]:
    return (*shipped(), *cache.own_keys())


def _without_entry(key: str) -> Potential:
    return open_shipped(key) if key in shipped() else _own(key)


def _own(key: str) -> Potential:
    try:
        record = cache.read_checked(key, None)
    except cache.DamagedCopyError as error:
        raise ZooError(f"{error}; import your model {key} again") from error
    if record is None:
        raise ZooError(f"{cache.record_path(key)} was written by another release; import your model {key} again")
    return _open(record)


def load_path(
    path: str | os.PathLike[str],
    model_index: int | None = None,
    *,
    periodic_table_index: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """Return the model in a file or folder: safetensors of ours, NeuroChem folder, zip or .info, TorchANI state dict.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, nothing that is known, something damaged, or more than one model.
    """
    from anipot.zoo.sources import read_any

    return adapt(read_any(path, index()), model_index, periodic_table_index, device, dtype)
