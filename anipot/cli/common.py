"""What the subcommands share: options, loading a model, reading frames, writing files in one step."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from anipot.cli.errors import UsageError
from anipot.workfolder import write_atomically as write_atomically


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every computing subcommand takes."""
    parser.add_argument(
        "--model", default="mini", help="name of a model or path of a file (default: mini, which comes with anipot)"
    )
    parser.add_argument("--device", default=None, help="such as cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "float64"), default=None, help="of the networks")
    parser.add_argument("--charge", type=float, default=0.0, help="total charge (default: 0)")


@dataclass(frozen=True)
class Place:
    """Where a frame stands, for messages and records.

    >>> print(Place("water.xyz", 3))
    water.xyz, frame 3
    """

    file: str
    frame: int

    def __str__(self) -> str:
        return f"{self.file}, frame {self.frame}"


def load_named(name: str, device: str | None = None, dtype: str | None = None) -> Any:
    """Load a model by name or path."""
    import torch

    import anipot

    if device is not None:
        try:
            torch.device(device)
        except RuntimeError as error:
            raise UsageError(f"--device is {device!r}; expected one that torch knows, such as cpu or cuda:0") from error
    return anipot.load(name, device=device, dtype=None if dtype is None else getattr(torch, dtype))


def load(args: argparse.Namespace) -> Any:
    """Load the model that the options name, and refuse a charge before anything is computed."""
    from anipot.structures import check_charge

    check_charge(args.charge)
    return load_named(args.model, args.device, args.dtype)


def read_frames(file: str, index: str = ":") -> Iterator[tuple[Place, Any]]:
    """Yield where a frame stands in its file, such as ``water.xyz, frame 0``, and the frame."""
    import ase.io

    if not Path(file).is_file():
        raise UsageError(f"no file {file}")
    found = 0
    frames: Iterator[tuple[int, Any]] | None = None
    while True:
        try:  # only around the reader: what the caller does with a frame fails as itself
            if frames is None:
                frames = zip(_numbers(file, index), ase.io.iread(file, index=index), strict=False)
            number, atoms = next(frames)
        except StopIteration:
            break
        except Exception as error:  # the readers of ASE raise whatever their parsers stumble over
            raise UsageError(f"{file} cannot be read after {found} frames: {type(error).__name__}: {error}") from error
        found += 1
        yield Place(file, number), atoms
    if found == 0:
        raise UsageError(f"{file} holds no frames (index {index!r})")


def _numbers(file: str, index: str) -> Iterable[int]:
    """Return the numbers in the file of the frames that ``index`` picks."""
    import ase.io
    from ase.io.formats import string2index

    picked = string2index(index)
    if isinstance(picked, str):  # a selection in a database
        return count()
    if isinstance(picked, int):
        picked = slice(picked, picked + 1 or None)
    start, stop, step = picked.start or 0, picked.stop or 0, picked.step or 1
    if start >= 0 and stop >= 0 and step > 0:
        return count(start, step)
    total = sum(1 for _ in ase.io.iread(file, index=":"))
    return range(total)[picked]


def check_frame(where: Place, atoms: Any, elements: tuple[str, ...], stress: bool = False) -> None:
    """Refuse frames without atoms or, for stress, without a period, unknown elements, positions that are no numbers."""
    import numpy as np

    if not len(atoms):
        raise UsageError(f"{where} has no atoms")
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        if symbol not in elements:
            raise UsageError(f"{where}, atom {i} is {symbol}; this model knows {', '.join(elements)}")
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if len(bad):
        position = atoms.positions[bad[0]].tolist()
        raise UsageError(f"{where}, atom {bad[0]} stands at {position}; expected finite coordinates in Å")
    if stress and not atoms.pbc.any():
        raise UsageError(f"{where} is not periodic along any axis, but stress was asked for")
    if stress and atoms.cell.rank < 3:
        rows = atoms.cell.array.tolist()
        raise UsageError(f"{where} has the cell {rows} without a volume, which stress needs; give every axis a length")


def parse_fields(texts: Iterable[str]) -> dict[str, str]:
    """Return keys, with units, by the names of quantities.

    >>> parse_fields(["forces=-gradient [Hartree/bohr]"])
    {'forces': '-gradient [Hartree/bohr]'}
    """
    found = {}
    for text in texts:
        name, _, key = (part.strip() for part in text.partition("="))
        if not name or not key:
            raise UsageError(f"--field is {text!r}; expected NAME=KEY or NAME='KEY [UNIT]'")
        found[name] = key
    return found


def open_data(files: Any, args: argparse.Namespace) -> Any:
    """Open data files as the options ``--layout``, ``--field``, ``--length`` and ``--pbc`` say."""
    import anipot.data

    pbc = None if args.pbc is None else [axis == "T" for axis in args.pbc]
    try:
        return anipot.data.open(files, args.layout, parse_fields(args.field) or None, args.length, pbc)
    except anipot.data.DataError as error:
        asked = " fields=" in str(error) or "length=" in str(error)
        hint = "\nfields and length are here --field 'NAME=KEY [UNIT]' and --length UNIT" if asked else ""
        raise UsageError(f"{error}{hint}") from error


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that leaves a folder."""
    parser.add_argument("--folder", help="where results go (default: the name of the file and the command)")
    parser.add_argument("--overwrite", action="store_true", help="replace what the command left there before")


def open_folder(args: argparse.Namespace, resume: bool = False) -> Any:
    """Make the folder of a command, by default ``water_vib`` for ``anipot vib water.xyz``, with a copy of the input.

    With ``resume`` it is there, and what was written is gone on with.
    """
    from anipot.workfolder import WorkFolder, can_draw

    path = Path(args.folder or f"{Path(args.file).stem}_{args.command}")
    for name in ("file", "end", "between", "model"):
        read = getattr(args, name, None)
        if args.overwrite and read and Path(read).exists() and Path(read).resolve().is_relative_to(path.resolve()):
            raise UsageError(f"{read} lies in {path}, which --overwrite would delete")
    try:
        folder = WorkFolder(path, args.argv, overwrite=args.overwrite, resume=resume)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    except FileExistsError as error:
        raise UsageError(f"{error} (--folder, --overwrite)") from error
    if not resume:
        folder.add_input(args.file)
    if not can_draw():
        print("anipot: pictures are left out, they need matplotlib: pip install anipot[plot]", file=sys.stderr)
    return folder


@contextmanager
def told_warnings() -> Iterator[None]:
    """Print each warning as a line on standard error, without the place in the source."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for warning in caught:
                print(f"anipot: warning: {warning.message}", file=sys.stderr)


def check_ending(path: str | None, endings: tuple[str, ...]) -> None:
    """Refuse an output whose ending says no format that we write, or whose folder is not there."""
    if path is None:
        return
    check_folder(path)
    if Path(path).suffix.lower() not in endings:
        raise UsageError(f"{path} has the ending {Path(path).suffix!r}; known are {', '.join(endings)}")


def check_folder(path: str) -> None:
    """Refuse an output whose folder is not there."""
    if not Path(path).parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {Path(path).parent}")
