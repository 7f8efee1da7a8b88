"""Opening data sets: which layout a file has is told by what is in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from anipot.data.blocks import DataError, Source
from anipot.data.layouts import qm7x
from anipot.data.layouts.ani1 import Ani1Source
from anipot.data.layouts.ani1x import Ani1xSource
from anipot.data.layouts.ase_db import AseDbSource, is_ase_db
from anipot.data.layouts.base import FileSource, damage
from anipot.data.layouts.columns import Fields, MissingLabel
from anipot.data.layouts.extxyz import ExtxyzSource
from anipot.data.layouts.grouped import GroupedSource
from anipot.data.layouts.hdf5 import Handle
from anipot.data.layouts.joined import JoinedSource
from anipot.data.layouts.npz import NpzSource, Pbc
from anipot.data.layouts.qm7x import Qm7xSource
from anipot.data.layouts.spice import SpiceSource
from anipot.data.layouts.store import StoreSource, is_store
from anipot.data.quantities import Field

File = str | os.PathLike[str]

_READERS = (
    StoreSource,
    Ani1Source,
    Ani1xSource,
    GroupedSource,
    SpiceSource,
    Qm7xSource,
    NpzSource,
    AseDbSource,
    ExtxyzSource,
)
#: Readers by the name of their layout.
LAYOUTS: Mapping[str, type[FileSource]] = {reader.layout: reader for reader in _READERS}

#: Endings of files that are looked at in a folder.
ENDINGS = (".h5", ".hdf5", ".xyz", ".extxyz", ".npz", ".db")


def open_source(
    path: File | Sequence[File],
    layout: str | None = None,
    fields: Fields | None = None,
    length: str | None = None,
    pbc: Pbc | None = None,
) -> Source:
    """Open a data set.

    Only sizes are read; structures are read when they are asked for (``Source.read``).

    Parameters
    ----------
    path
        A file, several files, or a folder of files that are read as one. A label that some of them lack is missing
        there.
    layout
        One of ``LAYOUTS``; told from what is in the file by default.
    fields
        What to read, by name: ``{"energies": "wb97x_dz.energy [Hartree]", "forces": "-gradient [Hartree/bohr]"}``.
        Names of known meaning are those of ``anipot.data.quantities.QUANTITIES``. Units may be left out where the file
        or the publication of its layout states them. By default all that the layout defines is read; an empty mapping
        reads no labels.
    length
        Unit of coordinates and cells, where the file does not state it.
    pbc
        Whether the axes are periodic, for tables with cells that do not state it.

    Raises
    ------
    DataError
        For a file that is not whole or of no known layout, a key that is not there, and a unit or sign that is neither
        known nor said. The message says which and where.
    ValueError
        If ``fields`` cannot be read.

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
    if fields is not None:
        fields = {name: Field.parse(name, value) for name, value in fields.items()}
    paths = _files(path)
    if len(paths) == 1:
        return _open_file(paths[0], layout, fields, length, pbc)
    sources, lacks = [], []
    for file in paths:
        try:
            sources.append(_open_file(file, layout, fields, length, pbc))
        except MissingLabel as error:  # others may have it
            lacks.append(error)
            rest = {name: field for name, field in (fields or {}).items() if name not in error.names}
            sources.append(_open_file(file, layout, rest, length, pbc))
    for lack in lacks:
        if not all(any(name in source.quantities for source in sources) for name in lack.names):
            raise lack
    return JoinedSource(sources)


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
        return _recognise_hdf5(path)
    if start.startswith(b"PK\x03\x04"):
        return NpzSource.layout
    if is_ase_db(start, path):
        return AseDbSource.layout
    if start.split(b"\n", 1)[0].strip().isdigit():
        return ExtxyzSource.layout
    raise DataError(f"{path}: a file of no known layout; layout= may be one of {', '.join(LAYOUTS)}")


def _recognise_hdf5(path: str) -> str:
    handle = Handle(path)
    if is_store(handle):
        return StoreSource.layout
    group = next(handle.leaves(), None)
    keys = set() if group is None else set(handle.file[group])
    if {qm7x.COORDINATES, qm7x.SPECIES} <= keys:
        return Qm7xSource.layout
    if {"conformations", "atomic_numbers"} <= keys:
        return SpiceSource.layout
    if {"coordinates", "atomic_numbers"} <= keys:
        return Ani1xSource.layout
    if group is not None and "coordinates" in keys and (found := keys & {"species", "numbers"}):
        shapes = [handle.shape(group, key) for key in found]
        return (GroupedSource if any(len(shape) == 2 for shape in shapes) else Ani1Source).layout
    seen = f"its first arrays are {', '.join(sorted(keys))} in {group!r}" if keys else "it has no groups with arrays"
    raise DataError(f"{path}: HDF5 of no known layout, {seen}; layout= may be one of {', '.join(LAYOUTS)}")


def _files(path: File | Sequence[File]) -> list[str]:
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


def _open_file(path: str, layout: str | None, fields: Fields | None, length: str | None, pbc: Pbc | None) -> FileSource:
    with damage(path):
        return _reader(path, layout, pbc)(path, fields, length)


def _reader(path: str, layout: str | None, pbc: Pbc | None) -> Callable[..., FileSource]:
    name = layout or recognise(path)
    if name not in LAYOUTS:
        raise DataError(f"{path}: there is no layout {name!r}; expected one of {', '.join(LAYOUTS)}")
    if name == NpzSource.layout:
        return partial(NpzSource, pbc=pbc)
    if pbc is not None:
        raise DataError(f"{path}: pbc={pbc}, but files of the layout {name!r} say themselves what is periodic")
    return LAYOUTS[name]
