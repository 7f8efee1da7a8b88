"""One address, one file: over HTTP, in ranges, from where the last attempt ended."""

from __future__ import annotations

import errno
import random
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anipot.data.partial import Part, drop, held, read, write
from anipot.zoo.errors import Attempt

if TYPE_CHECKING:
    import requests

_CHUNK = 2**14  # what a stalled connection may have brought in vain
_LONGEST_PAUSE = 60.0
_UNREACHED = 3  # attempts at a server that does not answer: mostly there is no network
#: Answers that may be others later. 202 is what a server says that first wants to see a browser, or makes the file.
_LATER = {202, 408, 425, 429, 500, 502, 503, 504}


class DownloadError(RuntimeError):
    """A file could not be had.

    Attributes
    ----------
    attempts
        Every address that was tried, in order, and why each failed.
    """

    def __init__(self, message: str, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class DiskFullError(DownloadError):
    """There is no room for a file."""


class RefusedError(DownloadError):
    """A server will not give the file, however often it is asked."""


class BrokenError(DownloadError):
    """A connection failed; another attempt may help.

    Attributes
    ----------
    reached
        Whether a server answered at all.
    pause
        Seconds that the server wishes to be left alone.
    """

    def __init__(self, message: str, reached: bool = True, pause: float = 0.0) -> None:
        super().__init__(message)
        self.reached = reached
        self.pause = pause


@dataclass(frozen=True)
class Patience:
    """How long a server is borne with.

    Attributes
    ----------
    attempts
        In a row that bring no further byte.
    seconds
        Without a byte, after which a connection counts as broken.
    pause
        Seconds before the second attempt; doubled for each that follows.
    """

    attempts: int = 6
    seconds: float = 30.0
    pause: float = 1.0


def transfer(url: str, partial: Path, *, size: int | None, mixable: bool, bar: Any, patience: Patience) -> None:
    """Bring a whole file to ``partial``, and go on with what stands there already.

    Parameters
    ----------
    url
        Where it is.
    partial
        File to write; ``partial`` + ``.json`` beside it says what it is a part of.
    size
        Bytes that the file must have, if that is known.
    mixable
        Whether a part from another address may be continued, as a checksum will tell if it does not fit.
    bar
        A ``tqdm`` bar.
    patience
        When to give up.

    Raises
    ------
    RefusedError, BrokenError
        If this address does not give it.
    DiskFullError
        If there is no room; what was fetched is kept.
    """
    failures, best = 0, held(partial)
    while True:
        try:
            _stream(url, partial, size, mixable, bar, patience.seconds)
            return
        except BrokenError as error:
            failures = 1 if held(partial) > best else failures + 1
            best = max(best, held(partial))
            if failures >= (patience.attempts if error.reached else min(patience.attempts, _UNREACHED)):
                raise BrokenError(f"{error}, the last of {failures} attempts", error.reached) from error
            pause = patience.pause * 2 ** (failures - 1) * random.uniform(0.75, 1.25)
            time.sleep(min(max(pause, error.pause), _LONGEST_PAUSE))


def _stream(url: str, partial: Path, size: int | None, mixable: bool, bar: Any, seconds: float) -> None:
    """Make one attempt."""
    import requests
    import urllib3

    part = read(partial, url, mixable)
    start = held(partial) if part else 0
    if part and start and start == part.total:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "anipot"}
    if part and start:
        headers["Range"] = f"bytes={start}-"
        if not mixable and part.validator:
            headers["If-Range"] = part.validator
    note = ""
    try:
        with requests.get(url, headers=headers, stream=True, timeout=seconds) as response:
            answered = _accept(response, url, _Rest(part, start, mixable) if part else None, size, partial)
            if response.status_code == 200:  # no ranges here, or another file than before
                note = "; the server takes no ranges, so that every attempt starts anew" if start else ""
                start = 0
                drop(partial)
            _check_room(partial.parent, start, answered.total)
            write(partial, answered)
            end = _save(response, partial, start, bar, answered.total)
            if answered.total is not None and end < answered.total:
                raise BrokenError(f"the connection ended after {end} of {answered.total} bytes{note}")
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        kept = held(partial)
        stalled = isinstance(error, requests.Timeout) or "timed out" in str(error)
        why = f"{f'no byte for {seconds:g} s: ' if stalled else ''}{type(error).__name__}: {error}{note}"
        reached = bool(kept) or not isinstance(error, requests.ConnectionError)
        raise BrokenError(f"{why}; {kept} bytes are kept" if kept else why, reached) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"the disk of {partial.parent} is full after {held(partial)} bytes of {partial.stem}; "
                "these are kept, so make room and start again"
            ) from error
        raise DownloadError(f"cannot write {partial}: {error}") from error


class _Rest(NamedTuple):
    """What was asked for: all of a part's file that comes after ``start``."""

    part: Part
    start: int
    mixable: bool

    def is_at(self, begin: int, total: int | None, etag: str | None) -> bool:
        """Return whether it is what comes."""
        if begin != self.start or (self.part.total is not None and total != self.part.total):
            return False
        return self.mixable or not (self.part.etag and etag) or self.part.etag == etag


def _accept(response: requests.Response, url: str, rest: _Rest | None, size: int | None, partial: Path) -> Part:
    """Return what a server is about to send, if it can be used."""
    status = response.status_code
    if status == 416 and rest:
        drop(partial)
        raise BrokenError(f"the server has no byte {rest.start} of it, so that it is fetched from the start")
    if status in _LATER:
        wait = response.headers.get("Retry-After", "")
        raise BrokenError(f"the server answered {status} {response.reason}", pause=float(wait) if wait.isdigit() else 0)
    if status not in (200, 206):
        raise RefusedError(f"the server answered {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise RefusedError("the server answered with a web page in place of the file")
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    begin, total = _range(response)
    if size is not None and total is not None and total != size:
        raise RefusedError(f"the file has {total} bytes, expected {size}")
    if status == 206 and (rest is None or not rest.is_at(begin, total, etag)):
        drop(partial)
        raise BrokenError("the file has changed at the server, so that it is fetched from the start")
    return Part(url, total, etag, modified)


def _range(response: requests.Response) -> tuple[int, int | None]:
    """Return the first byte of an answer, and the bytes of the whole file."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _save(response: requests.Response, partial: Path, start: int, bar: Any, total: int | None) -> int:
    """Write the body of an answer from ``start`` on, and return where it ends."""
    bar.total, bar.n, bar.initial, bar.last_print_n = total, start, start, start
    bar.refresh()
    with partial.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        # As sent: some servers call the compression of a .tar.gz one of the transfer, which is not to be undone.
        for chunk in response.raw.stream(_CHUNK, decode_content=False):
            file.write(chunk)
            bar.update(len(chunk))
        return file.tell()


def _check_room(folder: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if total is not None and total - start > free:
        raise DiskFullError(f"{folder} has room for {free} bytes, but {total - start} are still to come")
