"""The layout of this library as a place to keep data in: a writer, and a copy of any source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anipot.data.blocks import Block, DataError, Source
from anipot.data.layouts.store import StoreSource
from anipot.data.layouts.store_file import Precision
from anipot.data.layouts.store_writer import StoreWriter
from anipot.data.quantities import Quantity

__all__ = ["StoreSource", "StoreWriter", "copy"]


def copy(
    source: Source,
    path: str | os.PathLike[str],
    checks: Callable[[Block], Block] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    precision: Precision = "double",
    size: int = 4096,
    progress: bool = True,
) -> int:
    """Copy a source into a file of this library's layout.

    Structures are put together by size; where they stood before is kept as a quantity: ``molecule``, the number of a
    group that is a molecule or a formula (its names are ``metadata["molecules"]``), or ``frame``, the number of a frame
    in its file. Files and keys that were read are ``metadata["files"]`` and ``metadata["keys"]``.

    Parameters
    ----------
    source
        What to copy.
    path
        The new file. When this is interrupted, the next call goes on where it was.
    checks
        Is given every block, and returns what to write of it.
    metadata
        Facts beside those of the source.
    resume
        Whether to go on with an interrupted copy of the same source; otherwise one is refused.
    overwrite
        Replace a finished file.
    precision
        As for ``StoreWriter``.
    size
        Structures that are moved at once.
    progress
        Whether to show a bar, if this takes a while and there is a terminal.

    Returns
    -------
    int
        Number of structures in the file.

    Raises
    ------
    FileExistsError
        If the file is there.
    DataError
        If the interrupted copy is one of something else.
    """
    partial = Path(f"{path}.partial")
    go_on = resume and partial.exists()
    if Path(path).exists() and not (overwrite or go_on):
        raise FileExistsError(f"{path} exists; overwrite=True replaces it")
    origin = _origin(source)
    quantities = {**source.quantities, **({origin: Quantity(origin)} if origin else {})}
    facts: dict[str, Any] = {"files": [os.path.basename(file) for file in source.paths], **source.metadata}
    if keys := {column.quantity.name: column.key for column in getattr(source, "columns", ())}:
        facts["keys"] = keys
    if origin == "molecule":
        facts["molecules"] = [group.name for group in source.groups]
    facts.update(metadata or {})
    with StoreWriter(path, quantities, facts, resume=go_on, overwrite=overwrite, precision=precision) as writer:
        begin = {"source": _digest(source), "group": 0, "row": 0}
        position = writer.position or begin
        if position["source"] != begin["source"]:
            raise DataError(f"{partial} is an interrupted copy of something else; remove it to begin anew")
        _append_all(source, writer, position, checks or _all, origin, size, progress)
        return writer.rows


def _append_all(
    source: Source,
    writer: StoreWriter,
    position: dict[str, Any],
    checks: Callable[[Block], Block],
    origin: str | None,
    size: int,
    progress: bool,
) -> None:
    total = sum(group.size for group in source.groups)
    done = sum(group.size for group in source.groups[: position["group"]]) + position["row"]
    quiet = None if progress else True  # None: quiet where there is no terminal
    with tqdm(desc=str(writer.path), total=total, initial=done, unit="structure", disable=quiet, leave=False) as bar:
        for i, group in enumerate(source.groups):
            if i < position["group"]:
                continue
            first = position["row"] if i == position["group"] else 0
            for row in range(first, group.size, size):
                block = source.read(i, slice(row, min(row + size, group.size)))
                read = len(block)
                if origin:
                    origins = np.full(read, float(i)) if origin == "molecule" else block.rows.astype(np.float64)
                    block = replace(block, properties={**block.properties, origin: origins})
                writer.append(checks(block), {**position, "group": i, "row": row + read})
                bar.update(read)


def _all(block: Block) -> Block:
    return block


def _origin(source: Source) -> str | None:
    name = ""
    if getattr(source, "grouped_by_molecule", False):
        name = "molecule"
    elif getattr(source, "rows_of_file", False):
        name = "frame"
    return name if name and name not in source.quantities else None


def _digest(source: Source) -> str:
    """Tell one source from another: files and sizes, groups, and what is read of them."""
    files = [(os.path.basename(path), os.path.getsize(path)) for path in source.paths]
    read = getattr(source, "columns", None), getattr(source, "identity", None)
    text = repr((files, list(source.groups), sorted(source.quantities.items()), read))
    return hashlib.sha256(text.encode()).hexdigest()
