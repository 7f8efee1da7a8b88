"""Writing files of this library's layout so that no interruption can spoil them."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from anipot.data.blocks import Block, DataError
from anipot.data.layouts.hdf5 import Handle
from anipot.data.layouts.store import STRUCTURE, StoreSource, identity, read_fact
from anipot.data.layouts.store_file import Precision, check_block, write_file
from anipot.data.quantities import Quantity

#: Bytes of structures that a writer holds before it writes them.
BUFFER = 128 * 2**20
#: Structures that are moved at once when parts are put together.
_ROWS = 8192
_PARTS = "[0-9]*.h5"


class StoreWriter:
    """Write structures into one file, which appears at ``path`` when it is whole.

    Until then, parts of it stand in the folder ``path.partial``, each a file of the same layout. A writer that was
    killed at any time is continued with ``resume=True``: parts that were written stay, and what was appended since the
    last ``flush`` is to be appended again (``position`` says where to go on). Structures of one size keep their order.

    Parameters
    ----------
    path
        The file.
    quantities
        What is written beside species and coordinates, by name. A block that lacks one has NaN for it.
    metadata
        Facts to travel along, as JSON can say them: source, level of theory, citation, self energies.
    resume
        Continue: an interrupted file if there is one, otherwise add to a finished one if there is one.
    overwrite
        Replace a finished file, and throw away an interrupted one.
    precision
        ``"double"`` keeps all digits. ``"single"`` stores coordinates, labels of atoms, vectors and tensors as float32;
        energies and other scalars are float64 always.
    buffer
        Bytes that are held before they are written.

    Attributes
    ----------
    rows
        Structures so far, those of earlier runs included.
    position
        What came with the last block that was written or appended (``append``); None at the beginning.

    Raises
    ------
    FileExistsError
        If the file, or part of one, is there and neither ``resume`` nor ``overwrite`` is said.
    DataError
        If another process writes the same file, or it continues one with other quantities.
    ValueError
        If a quantity has a name that none can have.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot.data.quantities import QUANTITIES
    >>> file = getfixture("tmp_path") / "h2.h5"
    >>> block = Block(np.array([[1, 1]]), np.array([[[0.0, 0, 0], [0, 0, 0.74]]]), {"energies": np.array([-1.17])})
    >>> with StoreWriter(file, {"energies": QUANTITIES["energies"]}, {"level_of_theory": "CCSD"}) as writer:
    ...     writer.append(block)
    >>> StoreSource(str(file)).read(0, slice(0, 1)).properties["energies"]
    array([-1.17])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        quantities: Mapping[str, Quantity],
        metadata: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        precision: Precision = "double",
        buffer: int = BUFFER,
    ):
        if wrong := [name for name in quantities if name in STRUCTURE or "/" in name or quantities[name].name != name]:
            raise ValueError(f"{', '.join(map(repr, wrong))} cannot be the name of a quantity")
        self.path = Path(path)
        self.quantities = dict(quantities)
        self.metadata: dict[str, Any] = json.loads(json.dumps(dict(metadata or {})))  # fails now, not at the end
        self.precision: Precision = precision
        self.position: Any = None
        self._folder = self.path.with_name(self.path.name + ".partial")
        self._base: StoreSource | None = None  # a finished file that is added to
        self._parts: list[StoreSource] = []
        self._blocks: dict[int, list[Block]] = {}
        self._bytes, self._limit = 0, buffer
        if not (resume or overwrite):
            for there in (self.path, *self._folder.glob(_PARTS)):
                if there.exists():
                    raise FileExistsError(f"{there} exists; resume=True continues it, overwrite=True replaces it")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise DataError(f"{self.path} is being written by another process") from error
        try:
            self._start(resume)
        except BaseException:
            self._lock.release()
            raise

    @property
    def rows(self) -> int:
        """Structures so far, those of earlier runs included."""
        held = sum(len(block) for blocks in self._blocks.values() for block in blocks)
        return held + sum(group.size for source in self._written for group in source.groups)

    def append(self, block: Block, position: Any = None) -> None:
        """Add structures.

        Parameters
        ----------
        block
            Structures in units of this library.
        position
            Anything that JSON can say, by which the caller finds what comes after this block; see ``position`` of a
            writer that goes on.

        Raises
        ------
        DataError
            If shapes do not fit, or it has a quantity that is not written.
        """
        check_block(block, self.quantities)
        self.position = position
        if len(block) == 0:
            return
        self._blocks.setdefault(block.num_atoms, []).append(block)
        arrays = (block.species, block.coordinates, block.cell, *block.properties.values())
        self._bytes += sum(array.nbytes for array in arrays if array is not None)
        if self._bytes >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Write what has been appended: from now on it survives a kill."""
        if not self._blocks:
            return
        path = self._folder / f"{len(self._parts):06d}.h5"
        self._write(path, [], {"position": self.position})
        self._parts.append(StoreSource(str(path)))
        self._blocks, self._bytes = {}, 0

    def close(self) -> None:
        """Put the parts together, and the file in its place.

        Where that is interrupted, ``resume=True`` and another ``close`` do it.
        """
        if not self._lock.is_locked:
            return
        if self._parts:  # otherwise all is in memory, and is written once
            self.flush()
        if self._blocks or self._parts or self._base is None:
            facts = {"metadata": self.metadata, "position": self.position}
            self._write(self.path, self._written, facts)
        shutil.rmtree(self._folder)
        self._lock.release()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # what came so far is kept for a resume
            try:
                self.flush()
                if not self._parts:
                    shutil.rmtree(self._folder)
            finally:
                self._lock.release()

    @property
    def _written(self) -> list[StoreSource]:
        return [*([self._base] if self._base else []), *self._parts]

    def _start(self, resume: bool) -> None:
        """Find what an earlier run left, or begin."""
        state = self._folder / "state.json"
        there = identity(self.path) if resume and self.path.exists() else None
        stated = json.loads(state.read_text("utf-8")) if resume and state.exists() else None
        if stated is None or stated["id"] == there:  # the latter was killed after the file came to its place
            for old in self._folder.glob(_PARTS):
                old.unlink()
            stated = {"id": uuid.uuid4().hex, "base": there}
            state.with_suffix(".new").write_text(json.dumps(stated), "utf-8")
            os.replace(state.with_suffix(".new"), state)
        self._identity = stated["id"]
        if stated["base"] is not None:
            if stated["base"] != there:
                raise DataError(f"{self._folder} continues a file that is no longer {self.path}; remove one of them")
            self._base = self._opened(self.path)
            self.metadata = {**self._base.metadata, **self.metadata}
        self._parts = [self._opened(path) for path in sorted(self._folder.glob(_PARTS))]
        if self._written:
            self.position = read_fact(Handle(self._written[-1].path), "position")

    def _opened(self, path: Path) -> StoreSource:
        source = StoreSource(str(path))
        if dict(source.quantities) != self.quantities:
            raise DataError(f"{path} has {list(source.quantities.values())}, not {list(self.quantities.values())}")
        return source

    def _write(self, path: Path, sources: list[StoreSource], facts: Mapping[str, Any]) -> None:
        """Write what some files have, then what is held; the file comes to its place when it is whole."""
        totals: Counter[int] = Counter()
        for source in sources:
            totals.update({group.num_atoms: group.size for group in source.groups})
        totals.update({atoms: sum(map(len, blocks)) for atoms, blocks in self._blocks.items()})

        def blocks_of(atoms: int) -> Iterator[Block]:
            for source in sources:
                for i, group in enumerate(source.groups):
                    if group.num_atoms == atoms:
                        yield from (source.read(i, slice(r, r + _ROWS)) for r in range(0, group.size, _ROWS))
            yield from self._blocks.get(atoms, ())

        new = self._folder / "new"
        write_file(new, self.quantities, totals, blocks_of, facts, self._identity, self.precision)
        for source in sources:
            source.close()  # some systems replace no open files
        os.replace(new, path)
