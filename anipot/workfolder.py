"""A folder that a command leaves behind: what went in, the command itself, numbers and pictures."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anipot import plots

#: Bytes up to which an input is copied; of a larger one the place and the size are written down.
COPIED = 64 * 2**20


class WorkFolder:
    """A folder with ``command.txt``, ``inputs/``, ``results.json`` and pictures.

    Parameters
    ----------
    path
        Where; it is made.
    command
        Arguments after ``anipot``, written down as they were given; a string, such as a line of Python, as it is.
    overwrite
        Whether what a former command left there may be deleted.
    resume
        Whether to go on in what is there; then it must be there.

    Raises
    ------
    FileExistsError
        For a folder that holds something already, where neither ``overwrite`` nor ``resume`` is set, and in any case
        for one that no command of anipot has made.
    FileNotFoundError
        If there is nothing to resume.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as place:
    ...     folder = WorkFolder(f"{place}/water_vib", ["vib", "water.xyz"])
    ...     folder.write_results({"zero_point_energy_ev": 0.57})
    ...     sorted(file.name for file in folder.path.iterdir())
    ['command.txt', 'results.json']
    """

    def __init__(
        self, path: str | Path, command: Sequence[str] | str, *, overwrite: bool = False, resume: bool = False
    ) -> None:
        self.path = Path(path)
        mine = (self.path / "command.txt").is_file()
        if resume and not mine:
            raise FileNotFoundError(f"{self.path} holds nothing to resume: there is no command.txt in it")
        if not resume and self.path.exists():
            if not self.path.is_dir() or (any(self.path.iterdir()) and not (overwrite and mine)):
                why = "exists already" if mine else "exists already, and anipot has not made it"
                raise FileExistsError(f"{self.path} {why}; choose another folder{' or overwrite it' if mine else ''}")
            _empty(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        from anipot import __version__ as version

        line = command if isinstance(command, str) else f"anipot {shlex.join(command)}"
        with open(self / "command.txt", "a") as file:
            file.write(f"{line}\n# anipot {version}, in {Path.cwd()}\n")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextmanager
    def undone_by_failure(self) -> Iterator[None]:
        """Take the folder away again if something fails that should fill it, so that the command can be given anew."""
        try:
            yield
        except BaseException:
            if {file.name for file in self.path.iterdir()} <= {"command.txt", "inputs"}:
                _empty(self.path)
                with suppress(OSError):  # where we stand, or a link
                    self.path.rmdir()
            raise

    def add_input(self, file: str | Path) -> None:
        """Keep a copy of an input, or where it lay if it is large."""
        source, inputs = Path(file), self / "inputs"
        inputs.mkdir(exist_ok=True)
        if source.stat().st_size <= COPIED:
            shutil.copy2(source, inputs / source.name)
        else:
            note = f"{source.resolve()}, {source.stat().st_size} bytes: too large to be copied\n"
            (inputs / f"{source.name}.txt").write_text(note)

    def write_results(self, values: dict[str, Any], name: str = "results.json") -> None:
        """Write numbers, strings and lists as JSON; NaN and infinite numbers become null."""
        text = json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(str(self / name), lambda path: Path(path).write_text(text + "\n"))

    def save_picture(self, name: str, axes: Any) -> None:
        """Write the figure of some axes as PNG and SVG.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> from anipot.plots import plot_parity
        >>> with TemporaryDirectory() as place:
        ...     folder = WorkFolder(f"{place}/parity", ["evaluate", "model", "data.h5"])
        ...     folder.save_picture("parity", plot_parity([0.0, 1.0], [0.1, 1.0], "energy", "eV"))
        ...     sorted(file.name for file in folder.path.glob("parity.*"))
        ['parity.png', 'parity.svg']
        """
        for ending in ("png", "svg"):
            axes.figure.savefig(self / f"{name}.{ending}", dpi=150)


def _empty(path: Path) -> None:
    """Delete what is in a folder, which itself stays: it may be where we stand, or a link."""
    for inside in path.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside)
        else:
            inside.unlink()


def write_atomically(path: str, write: Callable[[str], object]) -> None:
    """Write to a file beside ``path``, then put it in place; an interrupted write leaves nothing behind."""
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        write(str(temporary))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def can_draw() -> bool:
    """Whether matplotlib is there: without it, commands leave numbers only, and say so."""
    try:
        plots.axes_or_new(None)
    except ImportError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
