"""A run of dynamics that a study goes on with, piece by piece."""

from __future__ import annotations

import time
from typing import Any

from ase import Atoms

from anipot.dynamics import MolecularDynamics
from anipot.dynamics.files import write_run
from anipot.dynamics.outputs import FORMATS
from anipot.workfolder import WorkFolder


class Run:
    """Dynamics, the folder of its results if there is one, and where it left the atoms."""

    def __init__(self, dynamics: MolecularDynamics, folder: WorkFolder | None) -> None:
        self.dynamics, self.folder = dynamics, folder
        self.left: Atoms = dynamics.atoms.copy()
        self.trajectory = dynamics.folder / FORMATS[dynamics.formats[0]]

    def go_on(self, steps: int, progress: bool) -> dict[str, Any]:
        """Make more steps and return the numbers of the whole run."""
        begin, first, ended = time.perf_counter(), self.dynamics.step, ""
        try:
            self.dynamics.run(first + steps, progress)
            ended = "done"
        except BaseException as error:
            ended = f"{type(error).__name__} at step {self.dynamics.step}: {error}"
            raise
        finally:
            self.left = self.dynamics.atoms.copy()
            done = self.dynamics.step - first
            found = write_run(self.folder, self.dynamics, ended, time.perf_counter() - begin, done)
        return found


def same(one: Atoms, other: Atoms) -> bool:
    """Whether atoms, their masses, their places and their cell are the same."""
    return bool(
        len(one) == len(other)
        and (one.numbers == other.numbers).all()
        and (one.get_masses() == other.get_masses()).all()
        and (one.positions == other.positions).all()
        and (one.cell.array == other.cell.array).all()
    )
