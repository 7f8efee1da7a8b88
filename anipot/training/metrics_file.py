"""Losses and errors over time in one CSV file that survives kills and goes on."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsFile(Logger):
    """A logger that appends to one file; Lightning's ``CSVLogger`` starts a new one whenever a training goes on.

    Parameters
    ----------
    path
        Of the file.
    columns
        Names of all that may be logged, beside ``step``; other values are not written.

    Examples
    --------
    >>> file = MetricsFile(getfixture("tmp_path") / "metrics.csv", ["loss"])
    >>> file.log_metrics({"loss": 0.5, "other": 1.0}, step=3)
    >>> file.read()["loss"]
    [(3, 0.5)]
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self.columns = ["step", "epoch", *columns]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def version(self) -> str:
        """There is one version only."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings are in the configuration file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line."""
        row = {name: value for name, value in metrics.items() if name in self.columns}
        if not row.keys() - {"epoch"}:
            return
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerow({"step": step} | row)

    def rewind(self, step: int) -> None:
        """Forget what was logged at or after a step, before the training goes on from there."""
        if not self.path.exists():
            return
        with open(self.path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if _whole(row) and int(row["step"]) < step]
        beside = self.path.with_name(f".{self.path.name}")
        with open(beside, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(beside, self.path)

    def read(self) -> dict[str, list[tuple[int, float]]]:
        """Return steps and values of each column."""
        found: dict[str, list[tuple[int, float]]] = {}
        if self.path.exists():
            with open(self.path, newline="") as file:
                for row in csv.DictReader(file):
                    for name in self.columns[1:]:
                        if _whole(row) and row.get(name):
                            found.setdefault(name, []).append((int(row["step"]), float(row[name])))
        return found


def _whole(row: dict[str, Any]) -> bool:
    """Whether a line was written to its end, which the last one before a kill may not have been."""
    return None not in row.values() and None not in row and row["step"].isdigit()
