"""What a search has done so far, in an SQLite file: a step is there whole or not at all, whenever a run is killed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError
from anipot.sampling.explore import Carry, Outcome, Picks
from anipot.sampling.settings import Step

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE steps (chain INTEGER, number INTEGER, kind TEXT, tested INTEGER, note TEXT, carry BLOB,
                    PRIMARY KEY (chain, number));
CREATE TABLE picks (chain INTEGER, number INTEGER, part INTEGER, size INTEGER, structures BLOB, origins TEXT,
                    PRIMARY KEY (chain, number, part));
"""


class State:
    """The file.

    Parameters
    ----------
    path
        Made where it is not there.
    facts
        What a run that goes on must have in common with the one that began.

    Raises
    ------
    DataError
        If the file is none of these, or was begun with other facts.
    """

    def __init__(self, path: str | os.PathLike[str], facts: dict[str, Any]) -> None:
        self.path = str(path)
        new = not Path(path).exists()
        self._file = sqlite3.connect(path)
        try:
            if new:
                with self._file:
                    self._file.executescript("BEGIN;" + _TABLES)
                    rows = [(name, json.dumps(value)) for name, value in facts.items()]
                    self._file.executemany("INSERT INTO facts VALUES (?, ?)", rows)
            then = {name: json.loads(value) for name, value in self._file.execute("SELECT name, value FROM facts")}
        except sqlite3.DatabaseError as error:
            self._file.close()
            raise DataError(f"{path} is not the state of a search: {error}") from error
        for name in dict.fromkeys([*then, *facts]):
            if then.get(name) != facts.get(name):
                self._file.close()
                raise DataError(f"{path} was begun with {name} = {then.get(name)}, this run has {facts.get(name)}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def commit(self, step: Step, outcome: Outcome) -> None:
        """Keep what a step found."""
        carry = None if outcome.carry is None else _packed(outcome.carry)
        row = (step.chain, step.number, step.kind, outcome.tested, outcome.note, carry)
        parts = [part for part in outcome.picks if len(part.structures)]
        picks = [
            (step.chain, step.number, k, len(part.structures), _packed(_arrays(part)), json.dumps(part.origins))
            for k, part in enumerate(parts)
        ]
        with self._file:
            self._file.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?)", row)
            self._file.executemany("INSERT INTO picks VALUES (?, ?, ?, ?, ?, ?)", picks)

    def last(self, chain: int) -> tuple[int, Carry | None]:
        """Return how many steps of a chain are done, and what the last of them carried over."""
        query = "SELECT number, carry FROM steps WHERE chain = ? ORDER BY number DESC LIMIT 1"
        row = self._file.execute(query, (chain,)).fetchone()
        if row is None:
            return 0, None
        return row[0] + 1, None if row[1] is None else _unpacked(row[1])

    def picks(self) -> Iterator[Picks]:
        """Yield what was chosen, in the order of the steps, however they came about."""
        query = "SELECT structures, origins FROM picks ORDER BY chain, number, part"
        for structures, origins in self._file.execute(query):
            values = _unpacked(structures)
            block = Block(values["species"], values["coordinates"], cell=values.get("cell"), pbc=values.get("pbc"))
            yield Picks(block, values["rho"], json.loads(origins))

    def totals(self) -> dict[str, tuple[int, int]]:
        """Return for each kind of step how many structures were tested and how many chosen."""
        query = "SELECT kind, SUM(tested) FROM steps GROUP BY kind"
        tested = dict(self._file.execute(query).fetchall())
        query = "SELECT kind, SUM(size) FROM picks JOIN steps USING (chain, number) GROUP BY kind"
        chosen = dict(self._file.execute(query).fetchall())
        return {kind: (tested[kind], chosen.get(kind, 0)) for kind in sorted(tested)}

    def notes(self) -> list[str]:
        """Return why chains ended early, in their order."""
        query = "SELECT note FROM steps WHERE note != '' ORDER BY chain, number"
        return [note for (note,) in self._file.execute(query)]


def identities(block: Block) -> NDArray[np.float64]:
    """Return the ids of n structures, whole numbers (n,) that follow from elements and geometry.

    Coordinates count to 1e-6 Å. 52 bits of a hash fit into a float64 exactly, so that files of numbers can hold them.

    >>> int(identities(Block(np.array([[1, 1]]), np.array([[[0, 0, 0], [0, 0, 0.74]]])))[0])
    3456077971378191
    """
    arrays: list[NDArray[Any]] = [block.species, np.rint(block.coordinates * 1e6)]
    if block.cell is not None and block.pbc is not None:
        arrays += [np.rint(block.cell * 1e6), block.pbc]
    rows = np.concatenate([array.reshape(len(block), -1).astype("<i8") for array in arrays], axis=1)
    return np.array([int(hashlib.sha256(row.tobytes()).hexdigest()[:13], 16) for row in rows], dtype=np.float64)


def _arrays(picks: Picks) -> dict[str, Any]:
    block = picks.structures
    values = {"species": block.species, "coordinates": block.coordinates, "cell": block.cell, "pbc": block.pbc}
    return {name: value for name, value in values.items() if value is not None} | {"rho": picks.rho}


def _packed(arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
