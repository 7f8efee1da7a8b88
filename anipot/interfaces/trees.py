"""Folders and zip files read alike, with errors that name the file."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

#: What may be handed over as the place of a file or folder: a path, or a member of an open zip file.
Place = str | os.PathLike[str] | Traversable


def open_tree(place: Place) -> Traversable:
    """Return a folder or file, or the root inside a zip file, as something that can be walked.

    Raises
    ------
    FileNotFoundError
        If there is nothing at that place.
    ValueError
        If it has the ending of a zip file but is none.
    """
    tree = as_tree(place)
    if not (tree.is_file() or tree.is_dir()):
        raise FileNotFoundError(f"no file or folder {place}")
    if not isinstance(tree, Path) or tree.is_dir():
        return tree
    if zipfile.is_zipfile(tree):
        return cast(Traversable, zipfile.Path(tree))
    if tree.suffix in (".zip", ".whl"):
        raise ValueError(f"{tree} is not a complete zip file; was its download cut short?")
    return tree


def as_tree(place: Place) -> Traversable:
    """Return a path, or a member of a zip file, as something that can be walked; zip files stay closed."""
    return Path(place) if isinstance(place, (str, os.PathLike)) else place


def parent(file: Traversable) -> Traversable:
    """Return the folder of a file or folder."""
    path = file.absolute() if isinstance(file, Path) else file
    return path.parent  # type: ignore[attr-defined]  # pathlib.Path and zipfile.Path both have it


def read_bytes(file: Traversable) -> bytes:
    """Return what is in a file; ValueError, naming it, if it is missing, empty or damaged inside its zip file."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        data = file.read_bytes()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not data:
        raise ValueError(f"{file} is empty (0 bytes)")
    return data


def read_text(file: Traversable) -> str:
    """Return the text of a file; ValueError as ``read_bytes``, or if it is not text."""
    return decode(read_bytes(file), file)


def decode(data: bytes, file: Traversable) -> str:
    """Return bytes that were read from a file as text; ValueError, naming the file, if they are none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text: {error}") from error


def natural_key(name: str) -> tuple[Any, ...]:
    """Sort key under which train10 comes after train9."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))
