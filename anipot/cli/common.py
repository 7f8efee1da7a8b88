"""What the subcommands share: options, loading a model, reading frames, writing files in one step."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anipot.cli.errors import UsageError


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every computing subcommand takes."""
    parser.add_argument("--model", default="ani2x", help="name of a model or path of a file (default: ani2x)")
    parser.add_argument("--device", default=None, help="such as cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "float64"), default=None, help="of the networks")
    parser.add_argument("--charge", type=float, default=0.0, help="total charge (default: 0)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def load_named(name: str, device: str | None = None, dtype: str | None = None) -> Any:
    """Load a model by name or path."""
    import torch

    import anipot

    return anipot.load(name, device=device, dtype=None if dtype is None else getattr(torch, dtype))


def load(args: argparse.Namespace) -> Any:
    """Load the model that the options name, and refuse a charge before anything is computed."""
    from anipot.structures import check_charge

    check_charge(args.charge)
    return load_named(args.model, args.device, args.dtype)


def read_frames(file: str, index: str = ":") -> Iterator[tuple[str, Any]]:
    """Yield where a frame stands, such as ``water.xyz, frame 0``, and the frame."""
    import ase.io

    if not Path(file).is_file():
        raise UsageError(f"no file {file}")
    count = 0
    try:
        for atoms in ase.io.iread(file, index=index):
            yield f"{file}, frame {count}", atoms
            count += 1
    except UsageError:
        raise
    except Exception as error:  # the readers of ASE raise whatever their parsers stumble over
        raise UsageError(f"{file} cannot be read after {count} frames: {type(error).__name__}: {error}") from error
    if count == 0:
        raise UsageError(f"{file} holds no frames (index {index!r})")


def check_frame(where: str, atoms: Any, elements: tuple[str, ...], stress: bool = False) -> None:
    """Refuse a frame with an element that the model does not know, or without a period where stress is asked for."""
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        if symbol not in elements:
            raise UsageError(f"{where}, atom {i} is {symbol}; this model knows {', '.join(elements)}")
    if stress and not atoms.pbc.any():
        raise UsageError(f"{where} is not periodic along any axis, but stress was asked for")


def check_ending(path: str | None, endings: tuple[str, ...]) -> None:
    """Refuse an output whose ending says no format that we write."""
    if path is not None and Path(path).suffix.lower() not in endings:
        raise UsageError(f"{path} has the ending {Path(path).suffix!r}; known are {', '.join(endings)}")


def write_atomically(path: str, write: Callable[[str], None]) -> None:
    """Write to a file beside ``path``, then put it in place; an interrupted write leaves nothing behind."""
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        write(str(temporary))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
