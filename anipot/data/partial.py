"""Files that are not whole yet: ``NAME.partial``, and beside it a note of what it is a part of."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """What a partial file is a part of.

    Attributes
    ----------
    url
        Where it comes from.
    total
        Bytes of the whole file, if the server said.
    etag, modified
        What the server calls this version of it.
    """

    url: str
    total: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` takes: a strong ETag, else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def held(partial: Path) -> int:
    """Return how many bytes of a file there are."""
    return partial.stat().st_size if partial.exists() else 0


def read(partial: Path, url: str, mixable: bool) -> Part | None:
    """Return what a partial file is a part of, if ``url`` can continue it; drop it otherwise."""
    if not partial.exists():
        return None
    try:
        part = Part(**json.loads(_note(partial).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        part = None
    # Without a checksum at the end only the server can tell that it is still the same file.
    if part is None or not (mixable or (part.url == url and part.validator)):
        drop(partial)
        return None
    return part


def write(partial: Path, part: Part) -> None:
    """Note what a partial file is a part of."""
    temporary = _note(partial).with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(part)), encoding="utf-8")
    os.replace(temporary, _note(partial))


def _note(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def drop(partial: Path) -> None:
    """Remove a part and its note."""
    partial.unlink(missing_ok=True)
    _note(partial).unlink(missing_ok=True)


def finish(partial: Path, target: Path) -> None:
    """See a whole file on the disk and put it in place."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)
    _note(partial).unlink(missing_ok=True)
