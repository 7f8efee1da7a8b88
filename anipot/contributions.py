"""How much each layer of an sc-SchNet contributes while it is trained."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anipot.plots import plot_contributions
from anipot.representation import ScSchNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ContributionLog:
    """A record of ``ScSchNet.contributions``, to be called after training steps.

    Parameters
    ----------
    representation
        The sc-SchNet that is trained.
    every
        Steps between two records; calls in between cost nothing.

    Examples
    --------
    >>> import torch
    >>> from anipot import ScSchNet
    >>> schnet = ScSchNet(num_species=2, num_features=8)
    >>> log = ContributionLog(schnet, every=2)
    >>> batch = torch.tensor([[1, 0, 0]]), torch.rand(1, 3, 3)
    >>> for step in range(5):
    ...     log(step, batch)
    >>> log.steps, log.values.shape
    ([0, 2, 4], torch.Size([3, 4]))
    """

    def __init__(self, representation: ScSchNet, every: int = 1) -> None:
        if not isinstance(representation, ScSchNet):
            raise TypeError(f"contributions are those of an ScSchNet, got {type(representation).__name__}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.representation, self.every = representation, every
        self.steps: list[int] = []
        self._rows: list[Tensor] = []

    def __call__(
        self, step: int, species_coordinates: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Any = None
    ) -> None:
        """Record the contributions for a batch (element indices and coordinates, as the representation takes them)."""
        if step % self.every == 0:
            self.steps.append(step)
            self._rows.append(self.representation.contributions(species_coordinates, cell, pbc).cpu())

    def restore(self, steps: Sequence[int], values: Tensor) -> None:
        """Go on from a record: the steps, and the contributions (S, T + 1) of each."""
        self.steps, self._rows = list(steps), list(values)

    @property
    def values(self) -> Tensor:
        """The contributions (S, T + 1) of the steps recorded."""
        layers = self.representation.num_interactions + 1
        return torch.stack(self._rows) if self._rows else torch.empty(0, layers)

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line for each step: the step, the embedding, interaction 1, 2, …"""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            layers = range(1, self.representation.num_interactions + 1)
            writer.writerow(["step", "embedding", *(f"interaction {layer}" for layer in layers)])
            writer.writerows([step, *row] for step, row in zip(self.steps, self.values.tolist(), strict=True))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the contributions over the steps; for several runs see ``anipot.plots.plot_contributions``."""
        return plot_contributions(self.values, self.steps, ax)
