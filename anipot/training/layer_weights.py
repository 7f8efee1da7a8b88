"""The layers of an sc-SchNet in training, as a callback."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from anipot.contributions import ContributionLog
from anipot.representation import ScSchNet


class Contributions(Callback):
    """Records how much each layer of an sc-SchNet contributes, and writes ``contributions.csv`` and ``.png``.

    Parameters
    ----------
    representation
        That is trained.
    folder
        Where the files go.
    every
        Steps between two records.
    """

    def __init__(self, representation: ScSchNet, folder: str | os.PathLike[str], every: int = 100) -> None:
        self.record, self.folder = ContributionLog(representation, every), Path(folder)

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded."""
        return {"steps": list(self.record.steps), "values": self.record.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.record.restore(state_dict["steps"], state_dict["values"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the contributions for a batch, now and then."""
        if trainer.global_step % self.record.every or not len(batch.species):
            return
        potential: Any = pl_module.potential
        index = potential.converter.convert(batch.species)
        self.record(trainer.global_step, (index, batch.coordinates), batch.cell, batch.pbc)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files."""
        if trainer.is_global_zero and len(self.record.steps):
            self.record.write_csv(self.folder / "contributions.csv")
            axes: Any = self.record.plot()
            axes.figure.savefig(self.folder / "contributions.png", dpi=150)


def contributions_of(module: torch.nn.Module) -> ScSchNet | None:
    """Return the sc-SchNet of a potential, if it has one."""
    representation = getattr(module, "representation", None)
    return representation if isinstance(representation, ScSchNet) else None
