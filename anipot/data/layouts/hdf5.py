"""HDF5 files that are opened when they are read, in each process anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from anipot.data.blocks import DataError

#: Rows that are not asked for are read along where this many or fewer lie between two that are.
_GAP = 64
#: Rows read at once where some are left out.
_SPAN = 65536


class Handle:
    """An HDF5 file to read from.

    The file is opened at the first use in each process: a handle can be pickled, and a process forked from one that has
    read does not share its file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = str(path)
        self._file: h5py.File | None = None
        self._process = 0

    @property
    def file(self) -> h5py.File:
        """The open file."""
        if self._file is None or self._process != os.getpid():
            self._file = open_file(self.path)
            self._process = os.getpid()
        return self._file

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._file is not None and self._process == os.getpid():
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def where(self, group: str) -> str:
        """Return file and group for a message."""
        return f"{self.path}, group {group!r}"

    def shape(self, group: str, key: str) -> tuple[int, ...]:
        """Return the shape of an array without reading it.

        Raises
        ------
        DataError
            If it is not there.
        """
        try:  # the low level is several times as fast, and large files have tens of thousands of groups
            return tuple(h5py.h5d.open(self.file.id, f"{group}/{key}".encode()).shape)
        except (KeyError, TypeError, ValueError) as error:
            raise self.missing(group, key) from error

    def has(self, group: str, key: str) -> bool:
        """Return whether a group has an array."""
        return f"{group}/{key}" in self.file

    def read(
        self, group: str, key: str, rows: slice | NDArray[np.int64] | None = None, size: int | None = None
    ) -> NDArray[Any]:
        """Return an array, or some of its rows: a slice, or ascending numbers.

        Raises
        ------
        DataError
            If it is not there, has not ``size`` rows, or cannot be read.
        """
        try:
            data = self.file[f"{group}/{key}"]
            if not isinstance(data, h5py.Dataset):
                raise KeyError(key)
            if size is not None and data.shape[:1] != (size,):
                raise DataError(f"{self.where(group)}, key {key!r}: shape {data.shape}, expected ({size}, ...)")
            return np.asarray(data[()] if rows is None else take(data, rows))
        except KeyError as error:
            raise self.missing(group, key) from error
        except OSError as error:
            raise DataError(f"{self.where(group)}, key {key!r} cannot be read: {error}") from error

    def labels(self, group: str) -> list[str]:
        """Return the arrays of numbers of a group."""
        items = self.file[group].items()
        return [key for key, item in items if isinstance(item, h5py.Dataset) and item.dtype.kind in "iufb"]

    def missing(self, group: str, key: str) -> DataError:
        """Return an error for an array that is not there."""
        try:
            there = ", ".join(self.file[group]) or "nothing"
        except (KeyError, OSError, RuntimeError) as error:
            there = f"nothing that can be read ({error})"
        return DataError(f"{self.where(group)}: no array {key!r}; it has {there}")

    def leaves(self, key: str | None = None) -> Iterator[str]:
        """Iterate over the groups that hold arrays, at any depth, in the order of the file.

        Groups that have an array ``key`` are told from others without looking at what else they have.
        """
        pending = [name for name in reversed(self.file) if name != "_meta"]
        with tqdm(desc=f"opening {self.path}", unit="group", disable=None, delay=1.0, leave=False) as bar:
            while pending:
                name = pending.pop()
                if key is None or not self._links(name, key):
                    item = self.file[name]
                    if not isinstance(item, h5py.Group):
                        continue
                    children = list(item)
                    if not children:
                        continue
                    if isinstance(item[children[0]], h5py.Group):
                        pending.extend(f"{name}/{child}" for child in reversed(children))
                        continue
                bar.update()
                yield name

    def _links(self, name: str, key: str) -> bool:
        try:
            return bool(self.file.id.links.exists(f"{name}/{key}".encode()))
        except (KeyError, ValueError):  # the name is that of an array
            return False


def open_file(path: str | os.PathLike[str]) -> h5py.File:
    """Open an HDF5 file to read.

    Raises
    ------
    DataError
        If it is no HDF5 file, or not a whole one.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        return h5py.File(path, "r", locking="best-effort")  # some network file systems have no locks
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5: {error}") from error


def take(data: h5py.Dataset, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
    """Return rows of a data set: by slice, or by ascending numbers, which are read in stretches.

    HDF5 itself can read a list of rows, at a cost that grows with the square of their number.
    """
    if isinstance(rows, slice):
        return np.asarray(data[rows])
    rows = np.asarray(rows, dtype=np.int64)
    parts = [np.empty((0, *data.shape[1:]), dtype=data.dtype)]
    for stretch in stretches(rows):
        start = int(stretch[0])
        part = data[start : int(stretch[-1]) + 1]
        parts.append(part if len(part) == len(stretch) else part[stretch - start])
    return parts[1] if len(parts) == 2 else np.concatenate(parts)


def stretches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut ascending numbers where many are left out, and before a stretch grows long.

    >>> [part.tolist() for part in stretches(np.array([0, 1, 7, 500, 501]))]
    [[0, 1, 7], [500, 501]]
    """
    for part in np.split(rows, np.flatnonzero(np.diff(rows) > _GAP) + 1):
        if len(part) == 0:
            continue
        if int(part[-1] - part[0]) < _SPAN or int(part[-1] - part[0]) + 1 == len(part):
            yield part
        else:
            yield from (piece for piece in np.split(part, np.searchsorted(part, range(part[0], part[-1], _SPAN))[1:]))
