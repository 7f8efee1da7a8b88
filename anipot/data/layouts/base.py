"""What all readers of one file share."""

from __future__ import annotations

import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts.columns import Column, Fields
from anipot.data.quantities import Quantity

_STUMBLES = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    MemoryError,
    OverflowError,
    sqlite3.Error,
    zipfile.BadZipFile,
    zlib.error,
)


class FileSource:
    """A file as groups of equally large structures: a ``Source``.

    Readers set ``groups``, what they read (``_reads``) and, where they differ, ``periodic`` and ``metadata`` when they
    open the file.
    """

    #: Name of the layout.
    layout: str
    #: Whether a group is one molecule or formula; otherwise it is all structures of one size.
    grouped_by_molecule: bool = False
    #: Whether ``Block.rows`` counts structures through the whole file, not within the group.
    rows_of_file: bool = False

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None):
        self.paths: Sequence[str] = (path,)
        self.groups: Sequence[Group] = ()
        self.columns: tuple[Column, ...] = ()
        self.quantities: Mapping[str, Quantity] = {}
        self.periodic = False
        self.metadata: Mapping[str, object] = {}

    @property
    def path(self) -> str:
        """Path of the file."""
        return self.paths[0]

    def _reads(self, columns: Iterable[Column]) -> None:
        self.columns = tuple(columns)
        self.quantities = {column.quantity.name: column.quantity for column in self.columns}

    def read(self, group: int, rows: slice | NDArray[np.int64]) -> Block:
        """Return structures of a group, by a slice or by ascending numbers, in units of this library.

        Raises
        ------
        DataError
            If what is in the file does not fit together, or cannot be read.
        IndexError
            For rows that the group does not have, or not in order.
        """
        part = self.groups[group]
        chosen = numbers(rows, part.size)
        with damage(f"{self.path}, group {part.name!r}"):
            return self._read(group, rows, chosen)

    def _read(self, group: int, rows: slice | NDArray[np.int64], chosen: NDArray[np.int64]) -> Block:
        """Return structures of a group by rows, of which the numbers are given as well."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is open; the next ``read`` opens it again."""

    def __repr__(self) -> str:
        size = sum(group.size for group in self.groups)
        return f"{type(self).__name__}({self.path!r}: {size} structures in {len(self.groups)} groups)"


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Say where it was when a library stumbles over a file that is not whole; libraries raise a dozen of kinds."""
    try:
        yield
    except DataError:
        raise
    except _STUMBLES as error:
        raise DataError(f"{where} cannot be read: {error!r}") from error


def numbers(rows: slice | NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the numbers that a slice or an array stands for, in a group of ``size`` rows.

    Raises
    ------
    IndexError
        For numbers beyond the end, and such that are not in order.
    """
    if isinstance(rows, slice):
        return np.arange(*rows.indices(size), dtype=np.int64)
    rows = np.asarray(rows, dtype=np.int64)
    if np.any(np.diff(rows) < 0):
        raise IndexError("rows are to be given in ascending order")
    if len(rows) and not (rows.min() >= 0 and rows.max() < size):
        raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of a group of {size}")
    return rows
