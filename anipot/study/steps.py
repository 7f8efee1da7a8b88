"""Numbered folders, one for each step of a study."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from anipot.workfolder import WorkFolder


class Steps:
    """Where the steps of a study leave their files, if anywhere.

    Parameters
    ----------
    path
        A folder, which is made; None for steps that leave nothing.
    system
        What the study is of: ``Atoms`` or a file, of which a copy is kept.
    command
        The line of Python that began it.
    overwrite
        Whether what an earlier study left there may be deleted.

    Raises
    ------
    ValueError
        If the file of the system lies in the folder and would be deleted.
    FileExistsError
        For a folder that holds something; see ``WorkFolder``.
    """

    def __init__(self, path: str | Path | None, system: Atoms | str | Path, command: str, overwrite: bool) -> None:
        self.path = None if path is None else Path(path)
        self.count = 0
        if self.path is None:
            return
        inside = not isinstance(system, Atoms) and Path(system).resolve().is_relative_to(self.path.resolve())
        if overwrite and inside:
            raise ValueError(f"{system} lies in {self.path}, which overwrite=True would delete")
        top = WorkFolder(self.path, command, overwrite=overwrite)
        if isinstance(system, Atoms):
            (top / "inputs").mkdir()
            ase.io.write(top / "inputs" / "start.xyz", system, format="extxyz")
        else:
            top.add_input(system)

    def next(self, name: str, method: str | None = None, **options: Any) -> WorkFolder | None:
        """Return the folder of the next step, which holds the line of Python that makes the step, or None."""
        if self.path is None:
            return None
        self.count += 1
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        return WorkFolder(self.path / f"{self.count:02d}_{name}", f"study.{method or name}({given})")

    def temporary(self) -> Path:
        """Return a folder that is deleted with this object."""
        path = tempfile.mkdtemp(prefix="anipot_")
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return Path(path)
