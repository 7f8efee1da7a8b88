"""What a training shows on the screen and writes to its log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from anipot.training.task import AtomisticTask


class Progress(Callback):
    """A bar for each epoch, and a line with losses and errors in their units after each validation.

    Parameters
    ----------
    say
        Takes the lines; prints them by default.
    bar
        Whether to show a bar; by default where the output is a terminal.

    Examples
    --------
    A line looks like this, with training and validation loss and errors by MAE / RMSE::

        epoch 12  step 3900  loss 0.213 / 0.245  energies 0.41 / 0.53 kcal/mol  forces 0.88 / 1.31 kcal/mol/Å  lr 1e-03
    """

    def __init__(self, say: Callable[[str], None] | None = None, bar: bool | None = None) -> None:
        self.say = say or tqdm.write
        self.bar = sys.stderr.isatty() if bar is None else bar
        self._bar: tqdm[Any] | None = None
        self._started, self._ended = time.monotonic(), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch before, whose means are known now, and show a new bar."""
        self._report(trainer, pl_module)
        if self.bar and trainer.is_global_zero:
            total = int(trainer.num_training_batches)
            self._bar = tqdm(total=total, desc=f"epoch {trainer.current_epoch + 1}", leave=False, mininterval=0.5)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar; the loss is fetched when the bar is drawn."""
        if self._bar is None:
            return
        if self._bar.n == 0 and batch_idx:  # resumed in the middle
            self._bar.update(batch_idx)
        loss = getattr(pl_module, "last_loss", None)
        if self._bar.update(1) and loss is not None:
            self._bar.set_postfix_str(f"loss {float(loss):.4g}", refresh=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._ended = trainer.current_epoch + 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last epoch."""
        self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, task: LightningModule) -> None:
        if self._ended and trainer.is_global_zero and isinstance(task, AtomisticTask):
            spent = time.monotonic() - self._started
            self.say(f"epoch {self._ended}  step {trainer.global_step}  {_line(trainer, task)}  {spent:.1f} s")
        self._ended, self._started = 0, time.monotonic()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the screen tidy."""
        if self._bar is not None:
            self._bar.close()


def _line(trainer: Trainer, task: AtomisticTask) -> str:
    seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
    losses = [f"{seen[name]:.4g}" for name in ("train_loss", "val_loss") if name in seen]
    parts = [f"loss {' / '.join(losses)}"]
    for output in task.outputs:
        errors = [f"{seen[key]:.3g}" for metric in output.metrics if (key := f"val_{output.property}_{metric}") in seen]
        if errors:
            parts.append(f"{output.property} {' / '.join(errors)} {output.unit(task.error_unit)}")
    return "  ".join([*parts, f"lr {task.learning_rate:.1e}"])
