"""The folder of a run: settings, checkpoints, logs, the model and its errors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save

from anipot.potential import Potential
from anipot.storage import load_model
from anipot.training.building import MODEL
from anipot.training.checkpoints import LAST
from anipot.training.config import TrainingSettings
from anipot.training.layers import Scales
from anipot.training.reading import differences, to_plain

#: Names of files beside those of checkpoints and pictures.
CONFIG, SPLIT, START, SCALES = "config.yaml", "split.json", "start.safetensors", "scales.safetensors"
LOG, METRICS, RESULTS = "log.txt", "metrics.csv", "results.json"
#: Settings that may change when a run goes on: how long it lasts, where it runs and what it shows.
_FREE = ("folder", "member", "checkpoint_seconds", "cache", "tensorboard", "details")
_FREE_DATA = ("path", "workers", "validation_batch_size")
_FREE_TRAINER = ("max_epochs", "max_steps", "max_time", "accelerator", "devices", "num_nodes", "log_every_n_steps")


class RunFolder:
    """What is in the folder of one training.

    Parameters
    ----------
    path
        It is made if need be.
    settings
        Of the training.

    Raises
    ------
    ValueError
        If the folder holds a run with other settings; what differs is named.
    """

    def __init__(self, path: str | os.PathLike[str], settings: TrainingSettings) -> None:
        self.path = Path(path)
        self.first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
        plain = to_plain(settings)
        if (self.path / CONFIG).is_file():
            _check_same(self.path, yaml.safe_load((self.path / CONFIG).read_text("utf-8")), plain)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write(CONFIG, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from training in this folder meanwhile; the system lets go of it when the process ends.

        Raises
        ------
        RuntimeError
            If another process trains in it.
        """
        if not self.first:
            yield
            return
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RuntimeError(f"another process is training in {self.path}; wait for it, or end it") from error
        try:
            yield
        finally:
            lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, text: str) -> None:
        """Write a file in one step; only the first of several processes does."""
        if self.first:
            replace(self.path / name, lambda path: path.write_text(text, "utf-8"))

    def say(self, text: str) -> None:
        """Print a line, and add it to the log."""
        if self.first:
            from tqdm import tqdm

            tqdm.write(text)
            with open(self.path / LOG, "a", encoding="utf-8") as file:
                file.write(f"{text}\n")

    @property
    def results(self) -> dict[str, Any] | None:
        """What a finished training has found; None before."""
        path = self.path / RESULTS
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

    @property
    def last(self) -> dict[str, Any]:
        """The last checkpoint; an empty one before there is any."""
        path = self.path / LAST
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else {}

    def save_start(self, potential: Potential, scales: Scales) -> None:
        """Keep where the training starts, which a training that goes on need not find again."""
        if not self.first:
            return
        tensors = {f"inputs.{name}": value.contiguous() for name, value in scales.inputs.items()}
        tensors |= {
            f"outputs.{name}": torch.tensor(value, dtype=torch.float64) for name, value in scales.outputs.items()
        }
        tensors["none"] = torch.zeros(1)  # a file must have something in it
        # The potential comes last: it tells that all is there.
        replace(self.path / SCALES, lambda path: path.write_bytes(save(tensors)))
        replace(self.path / START, lambda path: potential.save(path))

    def start(self) -> tuple[Potential, Scales] | None:
        """Return where the training started, if it did."""
        if not (self.path / START).is_file():
            return None
        tensors, scales = load_file(self.path / SCALES), Scales()
        for name, value in tensors.items():
            kind, _, parameter = name.partition(".")
            if kind == "inputs":
                scales.inputs[parameter] = value
            elif kind == "outputs":
                scales.outputs[parameter] = float(value)
        return load_model(self.path / START), scales

    def save_model(self, potential: Potential) -> None:
        """Write the model."""
        replace(self.path / MODEL, lambda path: potential.save(path))


def replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, then put it there: a kill leaves the old one or the new one."""
    beside = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        write(beside)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = differences(_fixed(old), _fixed(new))
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changed[:5])}"
            f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}. "
            "Give the same settings to go on with it, or another folder="
        )


def _fixed(plain: dict[str, Any]) -> dict[str, Any]:
    """Return those settings that cannot change when a run goes on."""
    fixed = {key: value for key, value in plain.items() if key not in _FREE}
    for part, free in (("data", _FREE_DATA), ("trainer", _FREE_TRAINER)):
        fixed[part] = {key: value for key, value in (fixed.get(part) or {}).items() if key not in free}
    return fixed
