"""Lightning's trainer for a run: callbacks, logs, devices and processes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from anipot.potential import Potential
from anipot.training.averaging import EMA
from anipot.training.checkpoints import Checkpoints, StopAfter
from anipot.training.config import TrainingSettings
from anipot.training.folder import RunFolder
from anipot.training.layer_weights import Contributions, contributions_of
from anipot.training.metrics_file import MetricsFile
from anipot.training.outputs import ModelOutput
from anipot.training.progress import Progress


def make_trainer(
    settings: TrainingSettings, folder: RunFolder, potential: Potential, checkpoints: Checkpoints, metrics: MetricsFile
) -> Trainer:
    """Return the trainer that the settings describe.

    Parameters
    ----------
    settings
        ``settings.trainer`` are arguments of the trainer, but for ``max_steps``: see ``StopAfter``.
    folder
        Of the run.
    potential
        That is trained.
    checkpoints, metrics
        Where states, losses and errors go.
    """
    given = dict(settings.trainer)
    limited = given.pop("max_steps", None) is not None or "max_time" in given
    given.setdefault("max_epochs", -1 if limited else 1000)
    given.setdefault("accelerator", "cuda" if torch.cuda.is_available() else "cpu")
    given.setdefault("log_every_n_steps", 50)
    loggers: list[Logger] = [metrics]
    if settings.tensorboard:
        step = folder.last.get("global_step")
        loggers.append(TensorBoardLogger(folder.path, name="", version="tensorboard", purge_step=step))
    return Trainer(
        **_devices(given),
        callbacks=[*_callbacks(settings, folder, potential, metrics), checkpoints],
        logger=loggers,
        default_root_dir=folder.path,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _callbacks(
    settings: TrainingSettings, folder: RunFolder, potential: Potential, metrics: MetricsFile
) -> list[Callback]:
    found: list[Callback] = [_Rewind(metrics), Progress(folder.say)]
    if settings.stopping is not None:
        stop = settings.stopping
        found.append(EarlyStopping(stop.monitor, stop.min_delta, stop.patience))
    schnet = contributions_of(potential)
    if schnet is not None and settings.contributions:
        found.append(Contributions(schnet, folder.path, settings.contributions))
    if settings.ema is not None:
        found.append(EMA(settings.ema))
    if "max_steps" in settings.trainer:
        found.append(StopAfter(int(settings.trainer["max_steps"])))
    return found


class _Rewind(Callback):
    """Forgets what was logged after the step from which a training goes on."""

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics = metrics

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.metrics.rewind(trainer.global_step)


def columns_of(outputs: Sequence[ModelOutput]) -> list[str]:
    """Return what is logged, in the order of the file."""
    names = ["learning_rate", "loss", "train_loss", "val_loss"]
    for output in outputs:
        names += [f"val_{output.property}_{one}" for one in ("loss", *output.metrics)]
    return names


def world_size(settings: TrainingSettings) -> int:
    """Return the number of processes that will train together."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    devices = settings.trainer.get("devices", 1)
    if isinstance(devices, list):
        count = len(devices)
    else:  # -1 and "auto" are all that there are
        count = devices if isinstance(devices, int) and devices > 0 else max(1, torch.cuda.device_count())
    return count * int(settings.trainer.get("num_nodes", 1))


def _devices(given: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of the trainer with devices and strategy: one device, or those that torchrun has started."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        given |= {"devices": local, "num_nodes": world // local}
    given.setdefault("devices", 1)
    several = given["devices"] != 1 or given.get("num_nodes", 1) != 1
    if several and "strategy" not in given:
        # Not every element occurs in every batch; constants need not be sent, whatever the argument is called.
        backend = "gloo" if given["accelerator"] == "cpu" else None
        names = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {"find_unused_parameters": True, "process_group_backend": backend, sync: False}
        given["strategy"] = DDPStrategy(**options)
    return given
