"""How the learning rate changes in the course of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

#: What ``ScheduleSettings`` knows.
KINDS = ("plateau", "exponential", "restarts", "cosine")


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate changes.

    Attributes
    ----------
    kind
        ``"plateau"``: multiplied with ``factor`` when ``monitor`` has not fallen for ``patience`` validations.
        ``"exponential"``: multiplied with ``factor`` every ``every`` steps, little by little at each step, or at once
        with ``staircase``. ``"restarts"``: a falling half cosine over ``episode`` epochs, then again from the top
        (SGDR, arXiv:1608.03983); each episode ``stretch`` times as long as the one before. ``"cosine"``: one over
        ``episode`` epochs, constant thereafter.
    factor
        Of plateau and exponential.
    patience, monitor
        Of plateau.
    every, staircase
        Of exponential.
    episode, stretch
        Of restarts and cosine.
    lowest
        Where a cosine ends, as a part of the initial learning rate.
    warmup
        Steps in which the learning rate grows from near 0 to its value; not for plateau.
    stop_below
        The training ends when the learning rate falls below this.
    steps_per_epoch
        Is set by who knows it; without it, episodes go by whole epochs.

    Raises
    ------
    ValueError
        For a kind that is not known, or numbers that make no sense.

    Examples
    --------
    >>> ani = ScheduleSettings("plateau", factor=0.5, patience=100, stop_below=1e-5)
    >>> schnet = ScheduleSettings("exponential", factor=0.96, every=100_000)
    >>> sgdr = ScheduleSettings("restarts", episode=50)
    """

    kind: str = "plateau"
    factor: float = 0.5
    patience: int = 10
    monitor: str = "val_loss"
    every: int = 100_000
    staircase: bool = False
    episode: int = 50
    stretch: int = 1
    lowest: float = 0.0
    warmup: int = 0
    stop_below: float | None = None
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 < self.factor < 1 or not 0 <= self.lowest <= 1:
            raise ValueError(f"factor must be between 0 and 1, and lowest too, got {self.factor} and {self.lowest}")
        if min(self.every, self.episode, self.stretch) < 1 or min(self.warmup, self.patience) < 0:
            raise ValueError(
                "every, episode and stretch must be at least 1, patience and warmup at least 0, got "
                f"{self.every}, {self.episode}, {self.stretch}, {self.patience} and {self.warmup}"
            )
        if self.warmup and self.kind == "plateau":
            raise ValueError("a plateau schedule has no warmup; clip gradients, or choose another schedule")

    def build(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return what Lightning calls a scheduler configuration."""
        if self.kind == "plateau":
            return {"scheduler": self.plateau(optimizer), "interval": "epoch", "monitor": self.monitor}
        by_steps = self.kind == "exponential" or self.steps_per_epoch is not None
        if self.warmup and not by_steps:
            raise ValueError(f"warmup of a {self.kind} schedule needs steps_per_epoch")
        scheduler = LambdaLR(optimizer, lambda step: self.at(step))
        return {"scheduler": scheduler, "interval": "step" if by_steps else "epoch"}

    def plateau(self, optimizer: Optimizer) -> ReduceLROnPlateau:
        """Return a schedule that follows the validation."""
        return ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience, threshold=0.0)

    def at(self, step: int) -> float:
        """Return by what the initial learning rate is multiplied after some steps, of batches or of epochs.

        >>> [round(ScheduleSettings("restarts", episode=4).at(epoch), 3) for epoch in range(6)]
        [1.0, 0.854, 0.5, 0.146, 1.0, 0.854]
        """
        grown = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        step = max(0, step - self.warmup)
        if self.kind == "exponential":
            times = step // self.every if self.staircase else step / self.every
            return float(grown * self.factor**times)
        length = self.episode * (self.steps_per_epoch or 1)
        if self.kind == "cosine":
            part = min(1.0, step / length)
        else:
            while step >= length and self.stretch > 1:
                step, length = step - length, length * self.stretch
            part = step % length / length
        return grown * (self.lowest + (1 - self.lowest) * (1 + math.cos(math.pi * part)) / 2)
