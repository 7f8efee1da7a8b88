"""Taking single files out of archives."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from anipot.data.blocks import DataError

_CHUNK = 2**20


def take(archive: Path, names: Mapping[str, Path], progress: bool = True) -> None:
    """Write files of an archive to places of our choice; those that are there already are left.

    Parameters
    ----------
    archive
        A tar file of any compression, or a zip file.
    names
        Where each goes, by the end of its path in the archive: ``npz_data/rmd17_ethanol.npz``.
    progress
        Whether a terminal is shown a bar.

    Raises
    ------
    DataError
        If the archive cannot be read, or has not all of them.
    """
    missing = {name: path for name, path in names.items() if not path.exists()}
    if not missing:
        return
    with reading(archive):
        for name, stream in members(archive, lambda found: _wanted(found, missing) is not None, progress):
            wanted = _wanted(name, missing)
            assert wanted is not None
            _write(stream, missing.pop(wanted))
            if not missing:
                return
    raise DataError(f"{archive} holds no {', '.join(missing)}")


@contextmanager
def reading(archive: Path) -> Iterator[None]:
    """Say what cannot be read: for the time in which an archive and its members are.

    Raises
    ------
    DataError
        If the archive ends early or is damaged.
    """
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of what is on it
            raise
        raise DataError(f"{archive} cannot be read: {type(error).__name__}: {error}") from error


def members(archive: Path, wanted: Callable[[str], bool], progress: bool = True) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and contents of files of an archive, in its order; within ``reading``."""
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in filter(wanted, zipped.namelist()):
                with zipped.open(name) as stream:
                    yield name, stream
        return
    with _watched(archive, progress) as file, tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            if member.isfile() and wanted(member.name):
                content = tar.extractfile(member)
                assert content is not None
                yield member.name, content
            tar.members = []  # type: ignore[attr-defined]  # 133,885 of them in QM9


def _wanted(found: str, names: Mapping[str, Path]) -> str | None:
    parts = PurePosixPath(found).parts
    ends = ((name, PurePosixPath(name).parts) for name in names)
    return next((name for name, end in ends if parts[-len(end) :] == end), None)


def _write(stream: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                file.write(chunk)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _watched(archive: Path, progress: bool) -> Iterator[Any]:
    """Open a file whose reading moves a bar."""
    from tqdm import tqdm

    quiet = None if progress else True  # None: quiet where there is no terminal
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False}
    size = archive.stat().st_size
    with (
        tqdm(desc=f"reading {archive.name}", total=size, disable=quiet, **options) as bar,
        _Watched(archive, bar) as file,
    ):
        yield file


class _Watched(io.FileIO):
    def __init__(self, path: Path, bar: Any) -> None:
        super().__init__(path)
        self._bar = bar

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        self._bar.update(self.tell() - self._bar.n)  # the kind of compression is found by reading the start some times
        return data or b""
