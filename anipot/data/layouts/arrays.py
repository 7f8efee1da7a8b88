"""Arrays of an npz file, read where they are needed."""

from __future__ import annotations

import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from anipot.data.blocks import DataError


class Arrays:
    """An npz file.

    Arrays of files written by ``numpy.savez`` are mapped: what is not asked for is not read, and processes share what
    is. Those of compressed files are held whole, from the first time they are asked for, in each process that asks.
    """

    def __init__(self, path: str):
        self.path = path
        self._held: dict[str, NDArray[Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(".npy"):
                        name = entry.filename.removesuffix(".npy")
                        with archive.open(entry) as member:
                            self.shapes[name], _, self.dtypes[name] = _header(member)
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as npz: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._held:
            try:
                self._held[name] = self._load(name)
            except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
                raise DataError(f"{self.path}, key {name!r} cannot be read: {error}") from error
        return self._held[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}

    def text(self, name: str) -> str | None:
        """Return a text, or None if there is none of that name."""
        if name not in self or self.dtypes[name].kind not in "SU" or self.shapes[name] not in ((), (1,)):
            return None
        value = self[name].reshape(-1)[0]
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)

    def _load(self, name: str) -> NDArray[Any]:
        with zipfile.ZipFile(self.path) as archive:
            entry = archive.getinfo(f"{name}.npy")
            if entry.compress_type != zipfile.ZIP_STORED:
                with archive.open(entry) as member:
                    return np.asarray(npy.read_array(member, allow_pickle=False))
        with open(self.path, "rb") as file:
            file.seek(entry.header_offset)
            local = file.read(30)  # its lengths of name and extra field differ from those of the directory
            skip = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            file.seek(skip, os.SEEK_CUR)
            shape, fortran, dtype = _header(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which are not read")
            if 0 in shape or shape == ():
                return np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape)
            order: Any = "F" if fortran else "C"
            return np.memmap(file, dtype, "r", file.tell(), shape, order)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of npy, expected 1 or 2")
    return npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
