"""One step for a batch: who is done leaves, who waits takes the place."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from anipot.optimization.batch import Batch, Values
from anipot.optimization.fire import FIRE
from anipot.optimization.lbfgs import LBFGS
from anipot.optimization.preconditioner import Preconditioner
from anipot.optimization.result import Optimized
from anipot.units import HARTREE_TO_EV

#: Part of the rows that may be idle before the batch is made smaller.
IDLE = 0.1


class Run:
    """A batch, who waits for a place in it, and what was found.

    Parameters
    ----------
    batch
        With the first systems.
    waiting
        The others, the largest first.
    optimizer, metric
        What takes the steps, and its model Hessians.
    fmax
        eV/Å.
    steps
        Most steps of a system.
    path
        Whether to keep every geometry.
    """

    def __init__(
        self,
        batch: Batch,
        waiting: Sequence[int],
        optimizer: LBFGS | FIRE,
        metric: Preconditioner | None,
        fmax: float,
        steps: int,
        path: bool,
    ) -> None:
        self.batch, self.waiting = batch, deque(waiting)
        self.optimizer, self.metric = optimizer, metric
        self.fmax, self.steps, self.path = fmax, steps, path
        self.found: dict[int, Optimized] = {}
        #: Energy (Hartree) and largest force (eV/Å) after each step, and geometries, of the systems under way.
        self._records: dict[int, list[tuple[float, float]]] = {}
        self._paths: dict[int, list[Atoms]] = {}

    def advance(self) -> int:
        """Compute all rows, take a step in each, and return how many systems are done since the last time."""
        batch, before = self.batch, len(self.found)
        values = batch.evaluate()
        fmax = torch.linalg.vector_norm(values.forces, dim=-1).amax(-1) * HARTREE_TO_EV
        told = zip(batch.rows, values.energies.tolist(), fmax.tolist(), strict=True)
        done = [
            row for row, (index, *now) in enumerate(told) if index is not None and self._look(row, index, now, values)
        ]
        if done:
            values.forces[done] = 0.0  # no NaN may meet what is kept
        if self.metric is not None:
            now = (values.forces, values.coordinates, values.cell)
            self.metric.refresh(batch.numbers, batch.free, *now, batch.pbc)
        batch.move(self.optimizer.step(batch.x, values.energies, values.forces))
        if self.optimizer.stuck.any():
            done += [row for row in self.optimizer.stuck.nonzero()[:, 0].tolist() if self._give_up(row, values)]
        self._refill(done)
        return len(self.found) - before

    def _look(self, row: int, index: int | None, now: Sequence[float], values: Values) -> bool:
        """Note energy and force of a system, and say whether it is done."""
        if index is None:
            return False
        record = self._records.setdefault(index, [])
        energy, fmax = now
        record.append((energy, fmax))
        if not (math.isfinite(energy) and math.isfinite(fmax)):
            why = values.errors.get(row) or f"energy {energy:g} Hartree, largest force {fmax:g} eV/Å"
            self._end(row, index, values, why, good=False)
            return True
        if self.path:
            self._paths.setdefault(index, []).append(self.batch.atoms(row, values))
        if fmax < self.fmax:
            self._end(row, index, values, "")
        elif len(record) > self.steps:
            if self.optimizer.rejects(row, energy):  # the last step is taken back, as if another came
                values = self._back(row)
                fmax = float(torch.linalg.vector_norm(values.forces[row], dim=-1).max()) * HARTREE_TO_EV
                record[-1] = float(values.energies[row]), fmax
            self._end(row, index, values, f"the largest force is {fmax:.3g} eV/Å after {self.steps} steps")
        return index in self.found

    def _give_up(self, row: int, values: Values) -> bool:
        index = self.batch.rows[row]
        if index is None or index in self.found:
            return False
        fmax = self._records[index][-1][1]
        self._end(row, index, values, f"the energy rises whichever way, at a largest force of {fmax:.3g} eV/Å")
        return True

    def _back(self, row: int) -> Values:
        """Return energies and forces where a system stood before the last step, or before all that went up."""
        kept = self.optimizer.base if isinstance(self.optimizer, LBFGS) else self.batch.before
        return self.batch.evaluate_row(row, kept)

    def _end(self, row: int, index: int, values: Values, why: str, good: bool = True) -> None:
        record = np.array(self._records.pop(index))
        if not good and len(record) > 1:
            values = self._back(row)
        atoms = self.batch.atoms(row, values, good or len(record) > 1)
        self.found[index] = Optimized(atoms, not why, why, record[:, 0], record[:, 1], self._paths.pop(index, None))

    def _refill(self, done: list[int]) -> None:
        """Give the rows of those who are done to those who wait; where nobody waits, make the batch smaller."""
        batch = self.batch
        for row in done:
            if self.waiting:
                batch.put(row, self.waiting.popleft())
            else:
                batch.clear(row)
        if done:
            rows = torch.tensor(done, device=batch.x.device)
            self.optimizer.forget(rows)
            if self.metric is not None:
                self.metric.forget(rows)
        busy = [row for row, index in enumerate(batch.rows) if index is not None]
        idle = len(batch.rows) - len(busy)
        if busy and (batch.needed < batch.width or idle > IDLE * len(batch.rows)):
            kept = torch.tensor(busy, device=batch.x.device)
            batch.keep(kept, batch.needed)
            self.optimizer.keep(kept, batch.lead + batch.width)
