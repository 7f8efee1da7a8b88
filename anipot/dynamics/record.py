"""What is written down of a run, and what is said on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from anipot.dynamics.guard import Guard, bonds, num_parts
from anipot.dynamics.h5md import H5mdOutput
from anipot.dynamics.integrators import conserved
from anipot.dynamics.outputs import FORMATS, FramesOutput, LogOutput
from anipot.frames import defined_properties

#: Names of the files beside the trajectory.
LOG, UNCERTAIN = "md.log", "uncertain.xyz"


class Record:
    """The files of a run with what has to be known to go on with them.

    Parameters
    ----------
    folder
        Where they are.
    formats
        Of the trajectory.
    guard, notice
        As ``MolecularDynamics`` takes them.

    Raises
    ------
    ValueError
        For an unknown format, or none.
    """

    def __init__(
        self, folder: Path, formats: Sequence[str], guard: Guard | None, notice: Callable[[str], None]
    ) -> None:
        if not formats or set(formats) - set(FORMATS):
            raise ValueError(f"formats are {', '.join(FORMATS)}; got {list(formats)}")
        self.folder, self.guard, self.notice = folder, guard, notice
        writers: dict[str, Any] = {"extxyz": FramesOutput, "h5md": H5mdOutput}
        self._frames = {FORMATS[name]: writers[name] for name in formats}
        #: What writes each file.
        self.kinds: dict[str, Any] = self._frames | {LOG: LogOutput}
        if guard is not None:
            self.kinds[UNCERTAIN] = FramesOutput
        self.uncertain = 0
        #: Degrees of freedom that share the kinetic energy.
        self.degrees = 0
        self._reference: float | None = None
        self._parts: int | None = None
        self._marks: dict[str, int] = {}
        self._outputs: dict[str, Any] = {}

    def begin(self, atoms: Any, degrees: int) -> None:
        """Start with empty files."""
        self.degrees = degrees
        self._bonds = bonds(atoms)
        self._parts = None if self._bonds is None else num_parts(self._bonds)

    def go_on(self, facts: dict[str, Any]) -> None:
        """Start from what ``facts`` of a former run say.

        Raises
        ------
        ValueError
            If that run wrote other files.
        """
        if set(facts["outputs"]) != set(self.kinds):
            raise ValueError(f"the run wrote {sorted(facts['outputs'])}, this resume asks for {sorted(self.kinds)}")
        self._marks, self._reference = facts["outputs"], facts["reference"]
        self.uncertain, self._parts, self.degrees = facts["uncertain"], facts["parts"], facts["degrees"]
        self._bonds = None

    @property
    def counted(self) -> bool:
        """Whether a checkpoint counts what was written; that of step 0 has the first frame in it already."""
        return bool(self._marks)

    def open(self, stack: ExitStack) -> None:
        """Open the files and cut them to what the checkpoint counts."""
        for name, kind in self.kinds.items():
            self._outputs[name] = kind(self.folder / name, self._marks.get(name))
            stack.callback(self._outputs[name].close)

    def facts(self) -> dict[str, Any]:
        """Bring everything to the disk, and return what ``go_on`` needs."""
        self._marks = {name: output.mark() for name, output in self._outputs.items()}
        return {
            "outputs": self._marks,
            "reference": self._reference,
            "uncertain": self.uncertain,
            "parts": self._parts,
            "degrees": self.degrees,
        }

    def write(self, atoms: Any, dynamics: Any, step: int, time: float) -> str:
        """Write a frame and a line of the log; return what the guard stops for, or an empty string."""
        if "dipole" in defined_properties(atoms.calc.model, atoms):
            atoms.get_dipole_moment()  # into the results, from where it goes into the frame
        now = conserved(dynamics)
        self._reference = now if self._reference is None else self._reference
        spread = (np.nan, np.nan) if self.guard is None else self.guard.spread(atoms)
        for name in self._frames:
            self._outputs[name].write(atoms, step, time)
        self._outputs[LOG].write(atoms, step, time, now - self._reference, spread, self.degrees)
        self._count_parts(atoms, step)
        return self._judge(atoms, step, time, spread)

    def _judge(self, atoms: Any, step: int, time: float, spread: tuple[float, float]) -> str:
        verdict = "" if self.guard is None else self.guard.exceeded(spread)
        if self.guard is None or not verdict:
            return ""
        self._outputs[UNCERTAIN].write(atoms, step, time)
        self.uncertain += 1
        if self.guard.action == "stop":
            return verdict
        if self.uncertain == 1:
            self.notice(f"step {step}: {verdict}; such frames are saved in {self.folder / UNCERTAIN}")
        return ""

    def _count_parts(self, atoms: Any, step: int) -> None:
        now = bonds(atoms)
        if now is None or (self._bonds is not None and np.array_equal(now, self._bonds)):
            return
        before, self._bonds, self._parts = self._parts, now, num_parts(now)
        if self._parts != before:
            self.notice(f"step {step}: the system consisted of {before} bonded parts, now of {self._parts}")
