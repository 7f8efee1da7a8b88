"""Large files from the web: resumed, checked, by one process at a time, from the first mirror that gives them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anipot.data import checksums
from anipot.data.partial import drop, finish
from anipot.data.transfer import BrokenError, DiskFullError, DownloadError, Patience, RefusedError, transfer
from anipot.zoo.cache import file_lock
from anipot.zoo.download import offline
from anipot.zoo.errors import Attempt, CacheError

__all__ = [
    "BrokenError",
    "ChecksumError",
    "DiskFullError",
    "DownloadError",
    "OfflineError",
    "Patience",
    "RefusedError",
    "RemoteFile",
    "fetch",
    "verify",
]


class ChecksumError(DownloadError):
    """A file is not the one that was published, or not the one that was fetched first."""


class OfflineError(DownloadError):
    """No server could be reached, or none may be."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    Attributes
    ----------
    name
        What it is called on the disk.
    urls
        Where the same bytes are, the best place first.
    checksum
        As published, such as ``md5:9809…`` (kinds: ``md5``, ``sha256``, ``git``); None where nobody published one.
    size
        Bytes, if that is known.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.checksum is not None:
            checksums.parse(self.checksum)


def fetch(file: RemoteFile, folder: Path, *, progress: bool = True, patience: Patience | None = None) -> Path:
    """Return a file in ``folder``, and fetch it if it is not there.

    What was fetched before a connection broke, or this process was killed, lies in ``NAME.partial`` and is continued.
    The sha256 of every file goes into ``checksums.json`` beside it; where no checksum is published, that record is what
    a later download is held against.

    Parameters
    ----------
    file
        What to fetch.
    folder
        Where to; it is made.
    progress
        Whether a terminal is shown a bar.
    patience
        When to give up.

    Returns
    -------
    Path
        Of the file, which has been checked.

    Raises
    ------
    ChecksumError
        If it is not what was published.
    OfflineError
        If no server can be reached, or ``ANIPOT_OFFLINE`` forbids it.
    DiskFullError
        If there is no room for it.
    DownloadError
        If no mirror gives it for another reason; ``attempts`` has all of them.
    CacheError
        If the folder cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> atoms = RemoteFile("atomref.txt", ("https://ndownloader.figshare.com/files/3195395",), size=964)
    >>> fetch(atoms, Path("data"))                                      # doctest: +SKIP
    """
    target = folder / file.name
    if target.is_file():
        verify(file, target)
        return target
    if offline():
        raise OfflineError(f"ANIPOT_OFFLINE is set, so {file.name} was not fetched. {_by_hand(file, target)}")
    with file_lock(folder / f"{file.name}.lock"):
        if target.is_file():  # another process was faster
            verify(file, target)
            return target
        tried: list[Attempt] = []
        reached = wrong = False
        for url in file.urls:
            try:
                _fetch_from(url, file, target, progress, patience or Patience())
                return target
            except DiskFullError:
                raise
            except DownloadError as error:
                tried.append(Attempt(url, str(error)))
                reached |= not isinstance(error, BrokenError) or error.reached
                wrong |= isinstance(error, ChecksumError)
    raise _nowhere(file, target, tried, ChecksumError if wrong else DownloadError if reached else OfflineError)


def verify(file: RemoteFile, path: Path) -> None:
    """Check a file on the disk against the published checksum, or else against the record of its first download.

    A file whose size and time are those of its record is not read again.

    Raises
    ------
    ChecksumError
        With what was seen and what was expected. The file is left alone.
    """
    entry = checksums.recorded(path)
    if entry is not None and checksums.untouched(path, entry, file.checksum):
        return
    sha256 = _check(file, path, path, entry)
    with contextlib.suppress(OSError, CacheError):  # a folder that others wrote need not be writable
        checksums.record(path, sha256, file.checksum, entry["source"] if entry else "found on the disk")


def _fetch_from(url: str, file: RemoteFile, target: Path, progress: bool, patience: Patience) -> None:
    """Bring a file from one address, with a second try from the first byte if a continued one turns out wrong."""
    partial = target.with_name(f"{target.name}.partial")
    for last in (False, True):
        continued = partial.exists()
        with _bar(file, progress) as bar:
            transfer(url, partial, size=file.size, mixable=file.checksum is not None, bar=bar, patience=patience)
        try:
            sha256 = _check(file, partial, target, checksums.recorded(target))
            break
        except ChecksumError:
            drop(partial)
            if last or not continued:
                raise
    finish(partial, target)
    checksums.record(target, sha256, file.checksum, url)


def _check(file: RemoteFile, path: Path, target: Path, entry: dict[str, Any] | None) -> str:
    """Return the sha256 of a file that is what it should be."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise ChecksumError(f"{path} has {size} bytes, expected {file.size}")
    kind, expected = checksums.parse(file.checksum) if file.checksum else ("sha256", entry["sha256"] if entry else None)
    seen = checksums.digests(path, *dict.fromkeys(("sha256", kind)))
    if expected is not None and seen[kind] != expected:
        source, name = "published", "git blob" if kind == "git" else kind
        if not file.checksum:
            source = (
                f"of its first download, on record in {target.parent / checksums.RECORD}; remove it to take another"
            )
        raise ChecksumError(f"{path} has {name} {seen[kind]}, expected {expected} ({source})")
    return seen["sha256"]


def _bar(file: RemoteFile, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        desc=file.name,
        total=file.size,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=None if progress else True,  # None: shown to terminals only
        leave=False,
    )


def _nowhere(file: RemoteFile, target: Path, tried: list[Attempt], kind: type[DownloadError]) -> DownloadError:
    lines = "\n".join(f"  {i}. {attempt.place}: {attempt.reason}" for i, attempt in enumerate(tried, start=1))
    why = " (no server answered: is this machine online?)" if kind is OfflineError else ""
    return kind(
        f"{file.name} could not be fetched{why}. Tried, in this order:\n{lines}\n{_by_hand(file, target)}", tried
    )


def _by_hand(file: RemoteFile, target: Path) -> str:
    checksum = f", {file.checksum.replace(':', ' ')}" if file.checksum else ""
    size = f"{file.size} bytes" if file.size is not None else "size not published"
    return f"To hand it over, fetch {' or '.join(file.urls)} on any machine ({size}{checksum}) and put it at {target}."
