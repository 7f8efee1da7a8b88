"""Checkpoints from which a training goes on as if nothing had happened."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, Timer

#: Names of the files.
LAST, BEST = "last.ckpt", "best.ckpt"


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt``, from which a training is resumed, and ``best.ckpt``, with the lowest ``monitor``.

    Lightning's ``ModelCheckpoint`` saves in the middle of an epoch also at a step after which a validation is due, and
    a training that goes on from there skips it. Here the last state is saved when nothing is due: between two steps
    without a validation, and at the end of an epoch, after schedule and early stopping. Everything is in a file:
    weights, optimizer, schedule, averages, early stopping and the place in the data. Files are replaced in one step,
    so that a kill leaves the one before.

    Parameters
    ----------
    folder
        Where the files go.
    seconds
        Time between two saves of the last state; 0 for one at every step.
    monitor
        What is lowest in the best model, such as ``"val_loss"``.
    """

    def __init__(self, folder: str | os.PathLike[str], seconds: float = 60.0, monitor: str = "val_loss") -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds between checkpoints must be at least 0, got {seconds}")
        self.folder, self.seconds, self.monitor = Path(folder), float(seconds), monitor
        self.best, self.best_step, self.stopped = math.inf, -1, False
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the best model, and whether the training has ended for good."""
        return {"best": self.best, "best_step": self.best_step, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.best, self.best_step, self.stopped = state_dict["best"], state_dict["best_step"], state_dict["stopped"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if it is time and nothing is due: no validation, and no step for which gradients are gathered."""
        last, gathering = (
            batch_idx + 1 >= trainer.num_training_batches,
            (batch_idx + 1) % trainer.accumulate_grad_batches,
        )
        if not last and not gathering and not _validation_follows(trainer, batch_idx):
            self._save_in_time(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if it is time or the training is over; Lightning calls this last."""
        self.stopped = trainer.should_stop and not _at_a_limit(trainer)
        longest = trainer.max_epochs
        if trainer.should_stop or (longest is not None and 0 <= longest <= trainer.current_epoch + 1):
            self._save(trainer, LAST)
        else:
            self._save_in_time(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the model if it is the best so far."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(name for name in trainer.callback_metrics if name.startswith("val_")) or "nothing"
            raise ValueError(f"the best model has the lowest {self.monitor!r}, but the validation gave {known}")
        value = float(trainer.callback_metrics[self.monitor])
        if value < self.best:
            self.best, self.best_step = value, trainer.global_step
            self._save(trainer, BEST)

    def _save_in_time(self, trainer: Trainer) -> None:
        due = time.monotonic() - self._saved >= self.seconds
        if trainer.world_size > 1:  # the clock of the first process counts
            due = trainer.strategy.broadcast(due)
        if due:
            self._save(trainer, LAST)

    def _save(self, trainer: Trainer, name: str) -> None:
        beside = self.folder / f".{name}"
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, self.folder / name)
        trainer.strategy.barrier()
        if name == LAST:
            self._saved = time.monotonic()


class StopAfter(Callback):
    """Ends a training after some steps, with a validation.

    ``Trainer(max_steps=...)`` does not validate what it ends with, and resumes in other ways than at ends of epochs.

    Parameters
    ----------
    steps
        Of the optimizer.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take no step more, if all were taken before a kill."""
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, if it is time."""
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


def _at_a_limit(trainer: Trainer) -> bool:
    """Whether steps or time are over: with more of them the training could go on."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StopAfter) and trainer.global_step >= callback.steps:
            return True
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return True
    return False


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the trainer validates between this batch, which is not the last of the epoch, and the next."""
    every = trainer.val_check_batch
    if every is None or math.isinf(every):  # none, or by the clock
        return every is None
    number = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return (number + 1) % every == 0
