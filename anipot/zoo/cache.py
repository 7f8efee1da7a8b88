"""Models kept on disk: one folder for each, with the weights and a record that is written last.

Whoever writes holds the lock of that model. A copy without a record is not there; a copy that its record does not fit
is damaged. Whatever kills a process in between therefore leaves either the old state, or none, or temporary files that
the next writer removes.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anipot.zoo.errors import CacheError

if TYPE_CHECKING:
    from anipot.potential import Potential

_TEMPORARY = "tmp-"


@dataclass(frozen=True)
class Record:
    """What is known about a cached model.

    Attributes
    ----------
    key, title
        Short name, and name as published.
    sha256
        Of the safetensors file.
    source
        Where the weights came from.
    date
        When, UTC.
    manifest_sha256
        Of the list of published checksums that the weights were checked against; None for the user's own models.
    format
        Version of the file format.
    """

    key: str
    title: str
    sha256: str
    source: str
    date: str
    manifest_sha256: str | None
    format: int


class DamagedCopyError(ValueError):
    """A cached file is not what its record says."""


def cache_dir() -> Path:
    """Return the folder of the cache: ``$ANIPOT_CACHE``, or the user's cache folder. It need not exist."""
    folder = os.environ.get("ANIPOT_CACHE")
    if folder:
        return Path(folder).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("anipot"))


def downloads_dir() -> Path:
    """Return the folder of archives that still serve a model that is not cached yet."""
    return cache_dir() / "downloads"


def weights_path(key: str) -> Path:
    """Return where the weights of a cached model are."""
    return cache_dir() / key / f"{key}.safetensors"


def record_path(key: str) -> Path:
    """Return where the record of a cached model is."""
    return cache_dir() / key / f"{key}.json"


def cached_keys() -> list[str]:
    """Return the names of all cached models, whole or damaged."""
    return sorted(path.stem for path in cache_dir().glob("*/*.json") if path.stem == path.parent.name)


def own_keys() -> tuple[str, ...]:
    """Return the names of the user's own models in the cache."""
    found = []
    for key in cached_keys():
        with contextlib.suppress(DamagedCopyError):
            record = read_record(key)
            if record is not None and record.manifest_sha256 is None:
                found.append(key)
    return tuple(found)


def read_record(key: str) -> Record | None:
    """Return the record of a model; None if there is none.

    Raises
    ------
    DamagedCopyError
        If it cannot be read.
    """
    path = record_path(key)
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DamagedCopyError(f"{path} cannot be read: {error}") from error


def read_checked(key: str, manifest_sha256: str | None) -> Record | None:
    """Return the record of a model whose weights are there, whole, and made from the published files given.

    Raises
    ------
    DamagedCopyError
        If they were altered or cut short; the file is named.
    """
    from anipot.storage import READABLE

    record = read_record(key)
    if record is None or record.format not in READABLE or record.manifest_sha256 != manifest_sha256:
        return None  # never made, or made by a release that knew other files or another format
    path = weights_path(key)
    try:
        seen = file_sha256(path)
    except OSError as error:
        raise DamagedCopyError(f"{path} cannot be read: {error.strerror}") from error
    if seen != record.sha256:
        size = path.stat().st_size
        raise DamagedCopyError(f"{path} is damaged: its {size} bytes have sha256 {seen}, expected {record.sha256}")
    return record


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock(key: str) -> Iterator[None]:
    """Hold the lock of a model; other processes wait. It ends with the process, however that ends.

    Raises
    ------
    CacheError
        If the cache cannot be written.
    """
    with file_lock(cache_dir() / key / "lock"):
        _remove_temporary(cache_dir() / key)
        yield


@contextlib.contextmanager
def download_lock(folder: Path, name: str) -> Iterator[Path]:
    """Hold the lock of an archive and give a fresh temporary folder beside it; CacheError as ``lock``."""
    with file_lock(folder / f"{name}.lock"):
        _remove_temporary(folder, f"{_TEMPORARY}{name}-")
        temporary = folder / f"{_TEMPORARY}{name}-{uuid.uuid4().hex}"
        try:
            temporary.mkdir()
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def store(key: str, potential: Potential, source: str, manifest_sha256: str | None) -> Record:
    """Write a model into the cache; the lock must be held.

    Raises
    ------
    CacheError
        If it cannot be written, for instance on a full disk. A copy that was there before is then left as it was, or
        gone; it is never half written.
    """
    from safetensors import SafetensorError

    from anipot.storage import VERSION

    path = weights_path(key)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        write_weights(potential, temporary)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = Record(key, potential.name, file_sha256(temporary), source, now, manifest_sha256, VERSION)
        record_path(key).unlink(missing_ok=True)  # from here to the last line there is no copy
        os.replace(temporary, path)
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        _sync(temporary)
        os.replace(temporary, record_path(key))
        return record
    except (OSError, SafetensorError) as error:
        raise CacheError(f"cannot write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_weights(potential: Potential, path: Path) -> None:
    """Write a potential and see it on the disk."""
    from anipot.storage import save_model

    save_model(potential, path)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a path, in a folder that is made; other processes wait. CacheError as ``lock``."""
    from filelock import FileLock

    held = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except (OSError, NotImplementedError) as error:
        raise CacheError(f"cannot write to {path.parent}: {error}") from error
    try:
        yield
    finally:
        held.release()


def _remove_temporary(folder: Path, prefix: str = _TEMPORARY) -> None:
    """Remove what a killed process left; the lock is held, so nobody uses it."""
    for path in folder.glob(f"{prefix}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
