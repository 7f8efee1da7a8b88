"""Compiled programs on disk: one file each, named by a hash of all that it was made from.

Files are complete or not there; one that is damaged all the same is noticed and made anew. Of several processes that
need a program at once, one compiles and the others wait. Where nothing can be written, programs are compiled without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Bytes that are kept; what was used longest ago goes first.
LIMIT = 256 * 2**20

#: Seconds to wait for another process that compiles the same program. It may have been stopped in the middle.
PATIENCE = 120.0

_MAGIC = b"anipot program 1\n"
SUFFIX, _TEMPORARY = ".program", "tmp-"
_warned = False


def folder() -> Path:
    """Return the folder of compiled programs: ``kernels`` in the cache of the library. It need not exist."""
    from anipot.zoo.cache import cache_dir

    return cache_dir() / "kernels"


def contents() -> tuple[int, int]:
    """Return the number of compiled programs and of their bytes."""
    sizes = [size for _, size, _ in _entries()]
    return len(sizes), sum(sizes)


def cached(name: str, key: dict[str, Any], make: Callable[[], bytes], suffix: str = SUFFIX) -> bytes:
    """Return what was made of a key before, or make and keep it.

    Parameters
    ----------
    name
        Where the file's name begins, for those who look into the folder.
    key
        All that the result depends on, as JSON can say it.
    make
        Called if there is no such file. Its errors are passed on.
    suffix
        Where the file's name ends. Only programs are counted, and removed when there are too many.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = folder() / f"{name}-{digest[:40]}{suffix}"
    code = _read(path)
    if code is not None:
        return code
    with _lock(path):
        code = _read(path)  # of the process that was waited for
        if code is None:
            code = make()
            _write(path, code)
    return code


def _read(path: Path) -> bytes | None:
    """Return what a file holds; None if it is absent or damaged."""
    try:
        data = path.read_bytes()
        with contextlib.suppress(OSError):  # of a folder that is only read
            os.utime(path)
    except OSError:
        return None
    head = len(_MAGIC)
    digest, code = data[head : head + 32], data[head + 32 :]
    return code if data[:head] == _MAGIC and hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Write a file whole, then make room."""
    temporary = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(_MAGIC + hashlib.sha256(code).digest() + code)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _warn(path.parent, error)
        return
    _trim()


def _warn(where: Path, error: OSError) -> None:
    """Say once that compiling will be paid for again."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled CUDA kernels cannot be kept in {where} ({error}); every process compiles its own. "
            "Set ANIPOT_CACHE to a folder that can be written.",
            stacklevel=2,
        )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file, or go on without it where it cannot be had: then the work is done twice, no worse."""
    from filelock import FileLock, Timeout

    held = FileLock(path.with_suffix(".lock"))
    with contextlib.suppress(OSError, NotImplementedError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=PATIENCE, poll_interval=0.02)
    try:
        yield
    finally:
        held.release()


def _entries() -> list[tuple[float, int, Path]]:
    """Return time of last use, size and path of all programs."""
    found = []
    for path in folder().glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):  # removed by another process meanwhile
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    return found


def _trim() -> None:
    """Remove what was used longest ago, as far as there is too much, and what killed processes left."""
    entries = sorted(_entries(), reverse=True)
    kept = 0
    for _, size, path in entries:
        kept += size
        if kept > LIMIT:
            for old in (path, path.with_suffix(".lock")):
                with contextlib.suppress(OSError):
                    old.unlink()
    for path in folder().glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 3600:
                path.unlink()
