"""Averages of weights in the course of a training."""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
