"""One training from its settings to a model, in a folder; a run that was killed goes on where it was."""

from __future__ import annotations

import inspect
import json
import os
import sys
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from anipot.data import AtomsDataset, write_split
from anipot.potential import Potential
from anipot.training.averaging import EMA
from anipot.training.building import build_potential, freeze, start_from
from anipot.training.cache import FeatureCache, cannot_cache
from anipot.training.centring import center_energies
from anipot.training.checkpoints import BEST, LAST, Checkpoints, StopAfter
from anipot.training.config import TrainingSettings
from anipot.training.data import DataModule, Parts, open_parts, reopen_parts
from anipot.training.evaluation import evaluate, to_json
from anipot.training.folder import METRICS, RESULTS, RunFolder
from anipot.training.layer_weights import Contributions, contributions_of
from anipot.training.layers import Scales
from anipot.training.metrics_file import MetricsFile
from anipot.training.outputs import ModelOutput
from anipot.training.pictures import draw, plot_curves
from anipot.training.predict import OF_ENERGY
from anipot.training.progress import Progress
from anipot.training.quiet import quietly
from anipot.training.starting import (
    elements_in,
    scale_outputs,
    set_self_energies,
    silence_energies,
    standardise_inputs,
)
from anipot.training.task import AtomisticTask

#: Where the split of a run is written.
SPLIT = "split.json"


def train(settings: TrainingSettings) -> Path:
    """Train one potential, or go on where a run was interrupted.

    Parameters
    ----------
    settings
        What to do; ``folder`` says where everything goes.

    Returns
    -------
    Path
        The folder, with ``model.safetensors`` for ``anipot.load``, ``results.json``, ``metrics.csv`` and pictures.

    Raises
    ------
    ValueError
        For settings or data that make no sense, and a folder that holds another run.
    """
    folder = RunFolder(settings.folder, settings)
    if folder.results is not None and not _longer(settings, folder.results):
        folder.say(f"{folder.path} is finished; results are in {folder / RESULTS}")
        return folder.path
    with quietly():
        run = Run(settings, folder)
        run.fit()
        if run.trainer.is_global_zero:
            run.finish()
    return folder.path


class Run:
    """The parts of a training, made from its settings.

    Attributes
    ----------
    parts
        The data.
    task, trainer
        What Lightning is given.
    """

    def __init__(self, settings: TrainingSettings, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        member = settings.member or 0
        fold = (member, settings.members) if settings.folds else None
        names = [output.property for output in settings.outputs]
        start, split = folder.start(), folder / SPLIT
        if start is None or not split.is_file():
            self.parts = open_parts(settings.data, names, fold, folder.say)
        else:
            self.parts = reopen_parts(settings.data, names, split, folder.say)
        self.outputs = known_outputs(settings.outputs, self.parts)
        potential, scales = start or self._new_start(member)
        freeze(potential, settings.model.freeze)
        self.data = DataModule(self.parts, settings.data, potential.dtype, settings.seed + member)
        self.metrics = MetricsFile(folder / METRICS, _columns(self.outputs))
        self.task = self._task(potential, scales)
        self.checkpoints = Checkpoints(folder.path, settings.checkpoint_seconds, settings.best)
        self.trainer = self._trainer()

    def _new_start(self, member: int) -> tuple[Potential, Scales]:
        """Return a new potential as it is before the first step."""
        settings, model, say = self.settings, self.settings.model, self.folder.say
        train = self.parts.known
        statistics = train.statistics(_bar("reading") if self.folder.first else None)
        elements = elements_in(statistics)
        torch.manual_seed(settings.seed + member)
        old = model.start_from is not None
        potential = start_from(model, member, elements) if old else build_potential(model, elements)
        choice = ("shift" if old else "fit") if model.self_energies is None else model.self_energies
        if "energies" in train.quantities:
            origin = set_self_energies(potential, choice, train, statistics)
            values = zip(potential.elements, potential.shifter.self_energies.tolist(), strict=False)
            say(f"self energies: {', '.join(f'{e} {v:.6f}' for e, v in values)} Hartree; {origin}")
        standardise = not old if model.standardise is None else model.standardise
        fixed = not any(True for _ in potential.representation.parameters())
        scales = standardise_inputs(potential, train) if standardise and fixed else Scales()
        size = 1.0 if old and model.output_scale is None else model.output_scale
        scale_outputs(potential, self.outputs, statistics, size, not old, scales)
        energies = any(output.predicted in OF_ENERGY and output.weight > 0 for output in self.outputs)
        if energies and not old and "energies" in train.quantities:
            center_energies(potential, train)
        if not energies:
            silence_energies(potential)
            say("no energies are trained: those of the model are zero")
        weights = sum(parameter.numel() for parameter in potential.parameters())
        say(f"model: {' '.join(potential.elements)}; {weights} weights, {potential.dtype}")
        potential.details = dict(settings.details)
        if self.folder.first:
            write_split(self.folder / SPLIT, own_parts(self.parts))
        self.folder.save_start(potential, scales)
        return potential, scales

    def _task(self, potential: Potential, scales: Scales) -> AtomisticTask:
        settings = self.settings
        steps = -(-len(self.parts.train) // (settings.data.batch_size * _world(settings)))
        schedule = None if settings.schedule is None else changed(settings.schedule, steps_per_epoch=steps)
        trained = [output.predicted for output in self.outputs if output.weight > 0]
        cache = None
        if settings.cache > 0 and trained == ["energies"] and not cannot_cache(potential):
            cache = FeatureCache(potential, self.parts.train, int(settings.cache * 2**30))
            self.folder.say(f"features of {cache.capacity} atoms at most are kept, {cache.bytes / 2**20:.0f} MiB")
        optimizer = settings.optimizer
        return AtomisticTask(
            potential,
            self.outputs,
            lambda model: optimizer.build(model, scales),
            schedule,
            loss_unit=settings.loss_unit,
            error_unit=settings.error_unit,
            energies=cache,
        )

    def _trainer(self) -> Trainer:
        settings = self.settings
        given = dict(settings.trainer)
        limited = given.pop("max_steps", None) is not None or "max_time" in given
        given.setdefault("max_epochs", -1 if limited else 1000)
        given.setdefault("accelerator", "cuda" if torch.cuda.is_available() else "cpu")
        given.setdefault("log_every_n_steps", 50)
        return Trainer(
            **_devices(given),
            callbacks=self._callbacks(),
            logger=self._loggers(),
            default_root_dir=self.folder.path,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )

    def _callbacks(self) -> list[Callback]:
        settings = self.settings
        found: list[Callback] = [_Rewind(self.metrics), Progress(self.folder.say)]
        if settings.stopping is not None:
            stop = settings.stopping
            found.append(EarlyStopping(stop.monitor, stop.min_delta, stop.patience, check_finite=True))
        schnet = contributions_of(self.task.potential)
        if schnet is not None and settings.contributions:
            found.append(Contributions(schnet, self.folder.path, settings.contributions))
        if settings.ema is not None:
            found.append(EMA(settings.ema))
        if "max_steps" in settings.trainer:
            found.append(StopAfter(int(settings.trainer["max_steps"])))
        return [*found, self.checkpoints]

    def _loggers(self) -> list[Logger]:
        found: list[Logger] = [self.metrics]
        if self.settings.tensorboard:
            step = self._last().get("global_step")
            found.append(TensorBoardLogger(self.folder.path, name="", version="tensorboard", purge_step=step))
        return found

    def fit(self) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        state = self._last()
        if state:
            self.folder.say(f"going on from epoch {state['epoch'] + 1}, step {state['global_step']}")
            if state["callbacks"][self.checkpoints.state_key]["stopped"]:
                return  # by early stopping or the learning rate, before a kill that came when all was done but results
        self.trainer.fit(self.task, self.data, ckpt_path=self.folder / LAST if state else None)

    def _last(self) -> dict[str, Any]:
        """Return the last checkpoint; an empty one if there is none."""
        path = self.folder / LAST
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else {}

    def finish(self) -> None:
        """Write the best model, its errors and the pictures."""
        folder, settings = self.folder, self.settings
        best_or_last = folder / BEST if (folder / BEST).is_file() else folder / LAST  # after too few steps to validate
        state = torch.load(best_or_last, map_location="cpu", weights_only=True)
        potential = self.task.potential
        weights = {name.removeprefix("potential."): value for name, value in state["state_dict"].items()}
        potential.load_state_dict(weights, strict=False)
        potential.to(self.trainer.strategy.root_device).eval()
        for parameter in potential.parameters():
            parameter.requires_grad_(True)
        best = {"epoch": state["epoch"] + 1, "step": state["global_step"], "monitor": settings.best}
        results: dict[str, Any] = {"best": best, "trained": _amount(settings)}
        size = settings.data.validation_batch_size or settings.data.batch_size
        shown = None
        for name, part in self.parts.named().items():
            if name != "train":
                shown = evaluate(potential, part, self.outputs, batch_size=size, progress=_bar(f"errors of {name}"))
                results[name] = {"structures": len(part), **to_json(shown)}
        errors = in_words(results, self.outputs, settings.error_unit)
        potential.details = {**settings.details, "training": facts_of(self.parts, errors)}
        folder.save_model(potential.cpu())
        plot_curves(folder / "curves.png", self.metrics.read(), self.outputs, settings.error_unit)
        draw(folder.path, shown or {}, settings.error_unit)
        folder.write(RESULTS, json.dumps(results, indent=1, ensure_ascii=False))
        folder.say(f"best model: epoch {best['epoch']}, step {best['step']}")
        for name, words in errors.items():
            folder.say(f"{name}: {words}")


class _Rewind(Callback):
    """Forgets what was logged after the step from which a training goes on."""

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics = metrics

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.metrics.rewind(trainer.global_step)


def known_outputs(outputs: list[ModelOutput], parts: Parts) -> list[ModelOutput]:
    """Return the outputs with units and shapes that the data tell."""
    return [changed(output, quantity=parts.train.quantities[output.property]) for output in outputs]


def own_parts(parts: Parts) -> dict[str, AtomsDataset]:
    """Return the parts that were made of one data set."""
    return {name: part for name, part in parts.named().items() if part.fingerprint == parts.train.fingerprint}


def _bar(text: str) -> str | None:
    """Return what a progress bar says, where somebody sees it."""
    return text if sys.stderr.isatty() else None


def _columns(outputs: list[ModelOutput]) -> list[str]:
    """Return what is logged, in the order of the file."""
    names = ["learning_rate", "loss", "train_loss", "val_loss"]
    for output in outputs:
        names += [f"val_{output.property}_{one}" for one in ("loss", *output.metrics)]
    return names


def _world(settings: TrainingSettings) -> int:
    """Return the number of processes that will train together."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    devices = settings.trainer.get("devices", 1)
    count = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) and devices > 0 else 1
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


def _amount(settings: TrainingSettings) -> dict[str, Any]:
    return {name: settings.trainer.get(name) for name in ("max_epochs", "max_steps", "max_time")}


def _longer(settings: TrainingSettings, results: dict[str, Any]) -> bool:
    """Whether a finished run is asked to go on for longer than it did."""
    return _amount(settings) != results.get("trained")


def facts_of(parts: Parts, errors: dict[str, str]) -> dict[str, Any]:
    """Return what a model tells of its training: data, sizes of the parts, and errors in words."""
    source = parts.train.source
    facts = {key: value for key, value in source.metadata.items() if isinstance(value, str | int | float)}
    sizes = {name: len(part) for name, part in parts.named().items()}
    files = [os.path.basename(path) for path in source.paths]
    return {"data": {"files": files, **facts}, "structures": sizes, "errors": errors}


def in_words(results: dict[str, Any], outputs: list[ModelOutput], error_unit: str) -> dict[str, str]:
    """Return the errors of each property on validation and test data in a few words."""
    found = {}
    for name in ("validation", "test"):
        for output in outputs:
            unit = output.unit(error_unit)
            if errors := results.get(name, {}).get(output.property, {}).get(unit):
                words = f"MAE {errors['mae']:.4g}, RMSE {errors['rmse']:.4g} {unit}"
                found[f"{output.property}, {name}"] = words
    return found
