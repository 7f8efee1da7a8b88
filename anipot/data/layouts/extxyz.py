"""Extended XYZ: frames of text, found when the file is opened and parsed by ASE when they are read."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.io.extxyz import read_xyz
from numpy.typing import NDArray
from tqdm import tqdm

from anipot.data.blocks import Block, DataError
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import Fields, Keys, length_factor
from anipot.data.layouts.frames import block, by_size, keys_of, labels, probe, spread

_PBC = re.compile(rb"\bpbc\s*=\s*(\"[^\"]*\"|\{[^}]*\}|\[[^]]*\]|\S+)", re.IGNORECASE)


class ExtxyzSource(FileSource):
    """An extended XYZ file.

    Parameters
    ----------
    path
        The file.
    fields
        Names of quantities to keys with units, ``{"energies": "energy [eV]", "forces": "forces [eV/Å]"}``: the format
        has none. Keys are those of the comment lines and of ``Properties``.
    length
        Unit of positions and cells, if it is not the Å of the format.

    Raises
    ------
    DataError
        For a frame that is cut, and where a unit is not said.
    """

    layout = "extxyz"
    rows_of_file = True

    def __init__(self, path: str, fields: Fields | None = None, length: str | None = None):
        super().__init__(path)
        self._length = length_factor(path, length, "Å")
        self._starts, sizes, self.periodic = scan(path)
        self.groups, self._frames = by_size(sizes)
        found = keys_of(probe(self._held, spread(len(sizes))), fields, self._frames_with)
        defaults = {"energies": "energy", "forces": "forces", "stress": "stress"}
        self._reads(Keys(path, found, {}, {}).choose(fields, defaults))

    def _read(self, group: int, rows: slice | NDArray[np.int64], chosen: NDArray[np.int64]) -> Block:
        numbers = self._frames[group][chosen]
        frames = self._parse(numbers)
        found = [labels(atoms) for atoms in frames]
        return block(frames, found, numbers, self.columns, self._length, self.groups[group], self.path)

    def _held(self, frames: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [labels(atoms) for atoms in self._parse(frames)]

    def _frames_with(self, key: str) -> Iterator[dict[str, Any]]:
        """Look for a key in all comment lines; give what the frames have that mention it."""
        with open(self.path, "rb") as file:
            for frame, start in enumerate(self._starts[:-1].tolist()):
                file.seek(start)
                file.readline()
                if key.encode() in file.readline():
                    with suppress(DataError):  # said when the frame is read
                        yield from self._held(np.array([frame]))

    def _parse(self, frames: NDArray[np.int64]) -> list[Atoms]:
        parsed: list[Atoms] = []
        with open(self.path, "rb") as file:
            for frame in frames.tolist():
                file.seek(int(self._starts[frame]))
                text = file.read(int(self._starts[frame + 1] - self._starts[frame]))
                try:
                    parsed += read_xyz(io.StringIO(text.decode("utf-8")), slice(None))
                except Exception as error:  # ASE raises what comes up: KeyError, ValueError, XYZError, IndexError
                    raise DataError(f"{self.path}, frame {frame} cannot be read: {error!r}") from error
        return parsed


class Frames(NamedTuple):
    """Where the frames of a file start, with the end of the last; their numbers of atoms; whether any is periodic."""

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    periodic: bool


def scan(path: str) -> Frames:
    """Find the frames of a file without parsing them.

    Raises
    ------
    DataError
        If the file does not consist of whole frames.
    """
    starts, sizes = [0], list[int]()
    line, periodic = 1, False
    with open(path, "rb") as file, tqdm(unit="frame", desc=path, disable=None, delay=1.0, leave=False) as bar:
        while head := file.readline():
            where = f"{path}, frame {len(sizes)} (line {line})"
            if not head.strip():
                if file.read().strip():
                    raise DataError(f"{where}: an empty line, expected a number of atoms")
                break
            if not head.strip().isdigit() or int(head) == 0:
                raise DataError(f"{where}: {head[:40]!r}, expected a number of atoms")
            comment, atoms = file.readline(), int(head)
            length = len(head) + len(comment)
            for i in range(atoms):
                body = file.readline()
                if not body.strip() or body.strip().isdigit():
                    raise DataError(f"{where} ends after {i} atoms, expected {atoms}")
                length += len(body)
            periodic = periodic or _is_periodic(comment)
            starts.append(starts[-1] + length)
            sizes.append(atoms)
            line += atoms + 2
            bar.update()
    if not sizes:
        raise DataError(f"{path}: no frames")
    return Frames(np.array(starts, dtype=np.int64), np.array(sizes, dtype=np.int64), periodic)


def _is_periodic(comment: bytes) -> bool:
    """A lattice without pbc is periodic along all axes."""
    said = _PBC.search(comment)
    return b"T" in said.group(1).upper() if said else b"lattice" in comment.lower()
