"""Averages of weights in the course of a training."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """An exponential moving average of the weights, w̄ ← decay · w̄ + (1 − decay) · w after every step.

    Validation, the best model and the final model use w̄. It is Lightning's ``WeightAveraging`` with all weights
    averaged in one call, while its ``EMAWeightAveraging`` takes them one by one.

    Parameters
    ----------
    decay
        Between 0 and 1, such as 0.99.

    Raises
    ------
    ValueError
        For another decay.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be between 0 and 1, got {decay}")
        # Constants need no average, and would be copied back and forth at every validation.
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin an average when a fit begins."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.__class__ = _Average  # which Lightning does not let us choose


class _Average(AveragedModel):
    """Asks the device once whether there is an average already; its base class does so at every step, and waits."""

    _begun = False

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Let the average follow the model."""
        if not self._begun:
            super().update_parameters(model)
            self._begun = True
            return
        assert self.multi_avg_fn is not None
        self.multi_avg_fn(tuple(self.module.parameters()), tuple(model.parameters()), self.n_averaged)
        for mine, other in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(other)
        self.n_averaged += 1
