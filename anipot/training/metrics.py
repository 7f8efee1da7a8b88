"""Running means over batches, and over processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection

from anipot.training.losses import Errors
from anipot.training.outputs import ModelOutput, Terms


class MeanTerms(Metric):
    """The mean of each output's loss over all labels seen, however they were cut into batches.

    Examples
    --------
    >>> import torch
    >>> from anipot.training.outputs import Terms
    >>> mean = MeanTerms(1)
    >>> mean.update(Terms(torch.tensor([6.0]), torch.tensor([2.0]), []))
    >>> mean.update(Terms(torch.tensor([0.0]), torch.tensor([1.0]), []))
    >>> mean.compute()
    tensor(2., dtype=torch.float64)
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(num_outputs, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_outputs, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, terms: Terms) -> None:
        """Add a batch."""
        self.sums += terms.sums.detach()
        self.counts += terms.counts

    def compute(self) -> Tensor:
        """Return the means (K,), or a scalar where there is one, float64.

        NaN where nothing was labelled, infinite where a prediction is no number: the two must not be taken for one.
        """
        means = (self.sums / self.counts).nan_to_num(nan=math.inf, posinf=math.inf)
        return torch.where(self.counts > 0, means, math.nan)


def error_metrics(outputs: Sequence[ModelOutput]) -> MetricCollection:
    """Return the metrics of all outputs, by names such as ``forces_mae``, in the units of this library."""
    found: dict[str, Metric | MetricCollection] = {}
    for output in outputs:
        for name in output.metrics:
            metric = MeanAbsoluteError() if name == "mae" else MeanSquaredError(squared=False)
            found[f"{output.property}_{name}"] = metric.set_dtype(torch.float64)
    return MetricCollection(found, compute_groups=False)


def means_of(metrics: MetricCollection) -> dict[str, Tensor]:
    """Return the means over all processes by name; NaN where nothing was labelled."""
    with warnings.catch_warnings():  # of metrics that have seen no label
        warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
        return dict(metrics.compute())


def update_errors(metrics: MetricCollection, outputs: Sequence[ModelOutput], found: Sequence[Errors]) -> None:
    """Add the errors of a batch to the metrics."""
    for output, (values, labelled) in zip(outputs, found, strict=True):
        errors = values[labelled].flatten()
        for name in output.metrics if len(errors) else ():
            metrics[f"{output.property}_{name}"].update(errors, torch.zeros_like(errors))
