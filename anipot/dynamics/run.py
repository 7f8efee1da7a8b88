"""A run of dynamics that leaves a folder, and goes on after a kill."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from anipot.dynamics import checkpoint
from anipot.dynamics.guard import DynamicsError, Guard, check_sane
from anipot.dynamics.integrators import integrator, moving_degrees
from anipot.dynamics.record import LOG, Record
from anipot.dynamics.settings import Settings
from anipot.dynamics.signals import progress_bar, stop_signals
from anipot.models import potential_of
from anipot.sampling.committee import check_committee, digest
from anipot.sampling.dynamics import draw_momenta

#: Steps between checkpoints, unless frames are written more rarely.
CHECKPOINT = 100


class MolecularDynamics:
    """Molecular dynamics of one system, written down as it runs.

    The folder gets ``trajectory.xyz`` or ``trajectory.h5``, ``md.log``, the checkpoint ``restart.npz`` and, with a
    guard, ``uncertain.xyz``.

    Parameters
    ----------
    atoms
        ``ase.Atoms`` where to start; they move.
    model
        A ``Potential``, or a name or path for ``anipot.load``.
    folder
        Where files are written; it is made.
    settings
        Ensemble, temperature, time step; NVE at 300 K and 0.5 fs by default.
    interval
        Steps between frames, lines of the log and looks of the guard.
    checkpoint_interval
        Steps between checkpoints, a multiple of ``interval``; 100, or the first multiple above.
    formats
        Of the trajectory: ``"extxyz"``, ``"h5md"`` or both.
    guard
        What to do when the members of an ensemble no longer agree.
    seed
        Of the momenta at the start and the noise of the Langevin thermostat.
    keep_momenta
        Whether to start with the momenta of ``atoms`` rather than to draw them.
    overwrite, resume
        Whether files of an earlier run there are replaced, or gone on with.
    notice
        Called with a sentence when something should be known; a ``UserWarning`` by default.

    Raises
    ------
    ValueError
        For settings that do not fit, files that are there already, and a checkpoint of another model, other settings or
        other atoms, naming both.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import anipot
    >>> from ase.build import molecule
    >>> with TemporaryDirectory() as folder:
    ...     run = MolecularDynamics(molecule("H2O"), anipot.load(), folder, Settings("nvt"))
    ...     run.run(20)
    ...     sorted(path.name for path in run.folder.iterdir())
    ['md.log', 'restart.npz', 'trajectory.xyz']
    """

    def __init__(
        self,
        atoms: Any,
        model: Any,
        folder: str | Path,
        settings: Settings | None = None,
        *,
        interval: int = 10,
        checkpoint_interval: int | None = None,
        formats: Sequence[str] = ("extxyz",),
        guard: Guard | None = None,
        seed: int = 0,
        keep_momenta: bool = False,
        overwrite: bool = False,
        resume: bool = False,
        notice: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.atoms, self.folder, self.settings = atoms, Path(folder), settings or Settings()
        self.interval, self.checkpoint_interval = interval, check_intervals(interval, checkpoint_interval)
        self.formats = tuple(formats)
        self._record = Record(self.folder, self.formats, guard, notice)
        self.model = potential_of(model)
        atoms.calc = self.model.ase()
        if guard is not None:
            check_committee(self.model)
        self._rng = np.random.default_rng(seed)
        self._facts = {"name": self.model.name, "dtype": str(self.model.dtype), "sha256": digest(self.model)}
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._go_on()
        else:
            self._begin(keep_momenta, overwrite)

    @property
    def restart(self) -> Path:
        """The checkpoint."""
        return self.folder / "restart.npz"

    @property
    def log(self) -> Path:
        """The log: see ``anipot.dynamics.outputs.LogOutput`` for its columns."""
        return self.folder / LOG

    @property
    def uncertain(self) -> int:
        """How many frames the guard has found."""
        return self._record.uncertain

    @property
    def time(self) -> float:
        """Time since the start, fs."""
        return self.step * self.settings.timestep

    def run(self, steps: int, progress: bool = False) -> None:
        """Run until ``steps`` steps were made since the start, those before a resume included.

        Parameters
        ----------
        steps
            In total.
        progress
            Whether to show a bar with ns/day.

        Raises
        ------
        DynamicsError
            When the guard stops the run, or it has exploded: everything up to there is written.
        KeyboardInterrupt
            After SIGINT or SIGTERM: the step is ended and a checkpoint written.
        ValueError
            If more steps were made already.
        """
        if steps < self.step:
            raise ValueError(f"{steps} steps in total are asked for, but {self.restart} is already at step {self.step}")
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            self._record.open(stack)
            if not self._record.counted:
                self._look()
                self._save()
            bar = stack.enter_context(progress_bar(steps, self.step, not progress))
            self._loop(steps, stop, bar)
            if self.step == steps and steps % self.interval and not stop:
                self._look()  # after the checkpoint: a resume cuts this frame, which stands off the interval
        if stop:
            raise KeyboardInterrupt

    def _begin(self, keep_momenta: bool, overwrite: bool) -> None:
        for name in [*self._record.kinds, self.restart.name]:
            if (self.folder / name).exists() and not overwrite:
                raise ValueError(f"{self.folder / name} exists already; resume the run, or overwrite it")
        if not keep_momenta:
            draw_momenta(self.atoms, self.settings.temperature, self._rng)
        degrees = moving_degrees(self.atoms, self.settings)
        self._dynamics = integrator(self.atoms, self.settings, self._rng, degrees)
        self.restart.unlink(missing_ok=True)  # it belongs to files that are gone in a moment
        self.step = 0
        self._record.begin(self.atoms, degrees)

    def _go_on(self) -> None:
        state = checkpoint.read(self.restart)
        facts = state["facts"]
        checkpoint.check(self.restart, state, self.atoms, self._repeated(), self._facts)
        self._record.go_on(facts)
        checkpoint.restore_atoms(state, self.atoms)
        self._dynamics = integrator(self.atoms, self.settings, self._rng, self._record.degrees)
        checkpoint.restore_dynamics(state, self._dynamics, self._rng)
        self.step = facts["step"]

    def _repeated(self) -> dict[str, Any]:
        return self.settings.used() | {"interval": self.interval}

    def _loop(self, steps: int, stop: list[int], bar: Any) -> None:
        begin, first = time.perf_counter(), self.step
        while self.step < steps and not stop:
            self._move()
            bar.update()
            due = self.step % self.interval == 0
            verdict = self._look() if due else ""
            if due:
                days = (time.perf_counter() - begin) / 86400
                bar.set_postfix_str(f"{(self.step - first) * self.settings.timestep * 1e-6 / days:.3g} ns/day")
            if self.step % self.checkpoint_interval == 0 or self.step == steps or stop or verdict:
                self._save()
            if verdict:
                raise DynamicsError(f"the guard stopped the run at step {self.step}: {verdict}")

    def _move(self) -> None:
        """Make one step."""
        self.step += 1
        try:
            self._dynamics.run(1)
        except ValueError as error:  # the model refuses coordinates that are no numbers
            raise DynamicsError(self._broken(error)) from error

    def _broken(self, why: object) -> str:
        return f"the run broke at step {self.step}: {why}; a shorter time step or another start may help"

    def _look(self) -> str:
        """Write a frame and a line of the log; return what the guard stops for, or an empty string."""
        try:
            check_sane(self.atoms)
        except DynamicsError as error:
            raise DynamicsError(self._broken(error)) from error
        return self._record.write(self.atoms, self._dynamics, self.step, self.time)

    def _save(self) -> None:
        facts = {"step": self.step, "settings": self._repeated(), "model": self._facts} | self._record.facts()
        checkpoint.write(self.restart, self.atoms, self._dynamics, self._rng, facts)


def check_intervals(interval: int, checkpoint_interval: int | None = None) -> int:
    """Return the steps between checkpoints, by default ``CHECKPOINT`` or the first multiple of ``interval`` above.

    Raises
    ------
    ValueError
        If a step between frames is below 1, or checkpoints do not fall on frames.
    """
    if interval >= 1 and checkpoint_interval is None:
        return -(-CHECKPOINT // interval) * interval
    if interval < 1 or checkpoint_interval is None or checkpoint_interval < 1 or checkpoint_interval % interval:
        raise ValueError(
            "the interval must be 1 or more, and that of checkpoints a multiple of it; "
            f"got {interval} and {checkpoint_interval}"
        )
    return checkpoint_interval
