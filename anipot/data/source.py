"""Opening data sets: which layout a file has is told by what is in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from anipot.data.blocks import DataError, Source
from anipot.data.layouts.base import FileSource
from anipot.data.layouts.columns import Fields
from anipot.data.layouts.extxyz import ExtxyzSource
from anipot.data.layouts.hdf5 import Handle
from anipot.data.layouts.joined import JoinedSource
from anipot.data.layouts.store import StoreSource, is_store

Path_ = str | os.PathLike[str]

#: Readers by the name of their layout.
LAYOUTS: Mapping[str, type[FileSource]] = {reader.layout: reader for reader in (StoreSource, ExtxyzSource)}

#: Endings of files that are looked at in a folder.
ENDINGS = (".h5", ".hdf5", ".xyz", ".extxyz", ".npz", ".db")


def open_source(
    path: Path_ | Sequence[Path_],
    layout: str | None = None,
    fields: Fields | None = None,
    length: str | None = None,
) -> Source:
    """Open a data set.

    Only sizes are read; structures are read when they are asked for (``Source.read``).

    Parameters
    ----------
    path
        A file, several files, or a folder of files that are read as one.
    layout
        One of ``LAYOUTS``; told from what is in the file by default.
    fields
        What to read, by name: ``{"energies": "wb97x_dz.energy [Hartree]", "forces": "-gradient [Hartree/bohr]"}``.
        Names of known meaning are those of ``anipot.data.quantities.QUANTITIES``. Units may be left out where the file
        or the publication of its layout states them. By default all that the layout defines is read; an empty mapping
        reads no labels.
    length
        Unit of coordinates and cells, where the file does not state it.

    Raises
    ------
    DataError
        For a file that is not whole or of no known layout, a key that is not there, and a unit or sign that is neither
        known nor said. The message says which and where.

    Examples
    --------
    >>> file = getfixture("tmp_path") / "two.xyz"
    >>> _ = file.write_text("2\\nProperties=species:S:1:pos:R:3 energy=-31.7\\nH 0 0 0\\nH 0 0 0.74\\n")
    >>> source = open_source(file, fields={"energies": "energy [eV]"})
    >>> source.groups
    (Group(name='002', size=1, num_atoms=2),)
    >>> source.read(0, slice(0, 1)).properties["energies"].round(4)
    array([-1.165])
    """
    paths = _files(path)
    sources = [_open_file(file, layout, fields, length) for file in paths]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


def recognise(path: str) -> str:
    """Return the name of the layout of a file.

    Raises
    ------
    DataError
        If it is none of ``LAYOUTS``.
    """
    with open(path, "rb") as file:
        start = file.read(4096)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        handle = Handle(path)
        if is_store(handle):
            return StoreSource.layout
    elif start.split(b"\n", 1)[0].strip().isdigit():
        return ExtxyzSource.layout
    raise DataError(f"{path}: a file of no known layout; layout= may be one of {', '.join(LAYOUTS)}")


def _files(path: Path_ | Sequence[Path_]) -> list[str]:
    if not isinstance(path, str | os.PathLike):
        return [file for part in path for file in _files(part)]
    if not Path(path).is_dir():
        if not Path(path).exists():
            raise DataError(f"{path}: there is no such file")
        return [str(path)]
    found = sorted(str(file) for file in Path(path).iterdir() if file.suffix.lower() in ENDINGS)
    if not found:
        raise DataError(f"{path}: no files that end in {', '.join(ENDINGS)}")
    return found


def _open_file(path: str, layout: str | None, fields: Fields | None, length: str | None) -> FileSource:
    name = layout or recognise(path)
    if name not in LAYOUTS:
        raise DataError(f"{path}: there is no layout {name!r}; expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name](path, fields, length)
