"""Fetch archives: with pip from the user's own package index, or from a URL."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

from anipot.zoo import cache
from anipot.zoo.errors import CacheError, ZooError

_SECONDS = 30  # without a byte, after which a server is given up
_PIP_SECONDS = 1800


def offline() -> bool:
    """Return whether ``ANIPOT_OFFLINE`` forbids the network."""
    return os.environ.get("ANIPOT_OFFLINE", "").lower() not in ("", "0", "no", "false", "off")


def place(source: Mapping[str, str]) -> str:
    """Return how a source is called in messages."""
    return f"pip download {source['requirement']}" if source["kind"] == "pip" else source.get("url", str(dict(source)))


def archive_name(source: Mapping[str, str]) -> str:
    """Return the name under which the archive of a source is kept."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", place(source).split("://")[-1]).strip("-")
    return plain if plain.endswith((".zip", ".whl")) else f"{plain}.whl"


def fetch(source: Mapping[str, str], folder: Path) -> tuple[Path, bool]:
    """Return the archive of a source, and whether it was fetched just now rather than found in the folder.

    Parameters
    ----------
    source
        ``{"kind": "pip", "requirement": …, "sha256": …}`` or ``{"kind": "url", "url": …}``.
    folder
        Where archives are kept.

    Raises
    ------
    ZooError
        If it cannot be fetched.
    CacheError
        If the folder cannot be written.
    """
    kept = folder / archive_name(source)
    if _is_whole(kept, source):
        return kept, False
    if offline():
        raise ZooError("ANIPOT_OFFLINE is set, so the network was not touched")
    with cache.download_lock(folder, archive_name(source)) as temporary:
        if _is_whole(kept, source):  # another process was faster
            return kept, False
        try:
            archive = _fetch(source, temporary)
            _check(archive, source)
            os.replace(archive, kept)
        except OSError as error:
            raise CacheError(f"cannot write to {folder}: {error}") from error
    return kept, True


def _is_whole(archive: Path, source: Mapping[str, str]) -> bool:
    if not archive.is_file():
        return False
    if "sha256" in source:
        return cache.file_sha256(archive) == source["sha256"]
    return zipfile.is_zipfile(archive)


def _check(archive: Path, source: Mapping[str, str]) -> None:
    if _is_whole(archive, source):
        return
    if "sha256" in source:
        seen = cache.file_sha256(archive)
        raise ZooError(f"got {archive.name} with sha256 {seen}, expected {source['sha256']}")
    raise ZooError(f"got {archive.stat().st_size} bytes that are not a zip file")


def _fetch(source: Mapping[str, str], folder: Path) -> Path:
    if source["kind"] == "pip":
        return _fetch_with_pip(source, folder)
    if source["kind"] == "url":
        return _fetch_url(source, folder)
    raise ZooError(f"unknown kind of source {source['kind']!r}; known are pip and url")


def _fetch_with_pip(source: Mapping[str, str], folder: Path) -> Path:
    """Let pip fetch a release: it knows the proxies, mirrors and certificates that installed anipot itself."""
    with warnings.catch_warnings():  # setuptools has opinions on finding pip after distutils
        warnings.simplefilter("ignore")
        pip = importlib.util.find_spec("pip")
    if not sys.executable or pip is None:
        raise ZooError(f"this Python ({sys.executable or 'embedded'}) has no pip")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += [
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--retries=2",
        "--dest",
        str(folder),
        source["requirement"],
    ]
    # A terminal sees pip's own progress bar; a log file sees nothing.
    out = sys.stderr if sys.stderr is not None and sys.stderr.isatty() else subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, timeout=_PIP_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ZooError(f"pip did not end within {_PIP_SECONDS} s") from error
    if done.returncode != 0:
        raise _pip_error(done.stderr.decode(errors="replace"), done.returncode)
    found = list(folder.glob("*.whl"))
    if len(found) != 1:
        raise ZooError(f"pip fetched {[file.name for file in found]}; expected one wheel")
    return found[0]


def _pip_error(stderr: str, returncode: int) -> Exception:
    disk = re.search(r"\[Errno (13|28|30)\]", stderr)  # not allowed, disk full, read-only
    if disk is not None:
        return OSError(int(disk[1]), f"pip: {os.strerror(int(disk[1]))}")
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")] or stderr.splitlines()[-3:]
    return ZooError(f"pip ended with {returncode}: {' '.join(errors)[:600] or 'no message'}")


def _fetch_url(source: Mapping[str, str], folder: Path) -> Path:
    import pooch
    import requests

    url = source["url"]
    bar = _Bar(url.rsplit("/", 1)[-1])
    downloader = pooch.HTTPDownloader(progressbar=bar, timeout=_SECONDS, chunk_size=2**16)
    log = pooch.get_logger()
    level = log.level
    log.setLevel("WARNING")  # it would print the hash of every archive
    try:
        return Path(pooch.retrieve(url, known_hash=None, fname="archive.zip", path=folder, downloader=downloader))
    except (requests.RequestException, ValueError) as error:
        raise ZooError(f"{type(error).__name__}: {error}") from error
    finally:
        log.setLevel(level)
        bar.close()


class _Bar:
    """A progress bar for pooch, which asks a bar whether it is true: tqdm's is not while its total is unknown."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=False)
        self.total = 0

    def update(self, size: int) -> None:
        self._bar.total = self.total or None
        self._bar.update(size)

    def reset(self) -> None:
        self._bar.reset()

    def close(self) -> None:
        self._bar.close()
