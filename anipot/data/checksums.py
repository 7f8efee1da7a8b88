"""Checksums of files, and the record of what was fetched that lies beside them."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from anipot.zoo.cache import file_lock

#: Beside the files: their sha256 when they were first fetched.
RECORD = "checksums.json"
_LENGTHS = {"md5": 32, "sha256": 64, "git": 40}
_CHUNK = 2**20


def parse(checksum: str) -> tuple[str, str]:
    """Return kind and digits of a checksum such as ``md5:9809…``.

    Kinds are ``md5``, ``sha256``, and ``git``, the name that git gives to a file of that content.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> parse("md5:98090dd6679106da861f52bed825ffb7")[0]
    'md5'
    """
    kind, _, digits = checksum.partition(":")
    if kind not in _LENGTHS or not re.fullmatch(f"[0-9a-f]{{{_LENGTHS[kind]}}}", digits):
        raise ValueError(f"{checksum!r} is no checksum; expected KIND:HEX with {', '.join(_LENGTHS)}, small letters")
    return kind, digits


def digests(path: Path, *kinds: str) -> dict[str, str]:
    """Return checksums of a file, by kind, from reading it once."""
    made = {kind: _hasher(kind, path) for kind in kinds}
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for hasher in made.values():
                hasher.update(chunk)
    return {kind: hasher.hexdigest() for kind, hasher in made.items()}


def _hasher(kind: str, path: Path) -> Any:
    if kind == "git":
        return hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=False)


def recorded(path: Path) -> dict[str, Any] | None:
    """Return what is on record about a file; None if nothing is, or nothing that can be read."""
    try:
        entry = json.loads((path.parent / RECORD).read_text(encoding="utf-8")).get(path.name)
    except (OSError, ValueError, AttributeError):
        return None
    return entry if isinstance(entry, dict) and "sha256" in entry else None


def record(path: Path, sha256: str, checked: str | None, source: str) -> None:
    """Put a file on record: its sha256, the published checksum that it has, its time, and where it came from."""
    found = path.stat()
    entry = {
        "sha256": sha256,
        "checked": checked,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "source": source,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    file = path.parent / RECORD
    with file_lock(file.with_name(f"{RECORD}.lock")):
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            entries = {}
        entries[path.name] = entry
        temporary = file.with_name(f"{RECORD}.{os.getpid()}")
        temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, file)


def untouched(path: Path, entry: dict[str, Any], checked: str | None) -> bool:
    """Return whether a file has the size and time of its record, made against the same published checksum."""
    found = path.stat()
    same = entry.get("size") == found.st_size and entry.get("mtime_ns") == found.st_mtime_ns
    return same and entry.get("checked") == checked
