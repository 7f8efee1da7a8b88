"""One training from its settings to a model, in a folder; a run that was killed goes on where it was."""

from __future__ import annotations

import gc
from dataclasses import replace as changed
from pathlib import Path

import torch

from anipot.data import QUANTITIES, AtomsDataset, Rename, write_split
from anipot.data.statistics import Statistics
from anipot.potential import Potential
from anipot.training.building import build_potential, freeze, start_from
from anipot.training.cache import FeatureCache, cannot_cache
from anipot.training.centring import center_energies
from anipot.training.checkpoints import LAST, Checkpoints
from anipot.training.config import TrainingSettings
from anipot.training.data import DataModule, Parts, open_parts, reopen_parts
from anipot.training.folder import METRICS, RESULTS, SPLIT, RunFolder
from anipot.training.layers import Scales
from anipot.training.metrics_file import MetricsFile
from anipot.training.outputs import ModelOutput
from anipot.training.predict import OF_ENERGY
from anipot.training.quiet import quietly
from anipot.training.results import amount, bar, finish, own_parts
from anipot.training.starting import (
    elements_in,
    scale_outputs,
    set_self_energies,
    silence_energies,
    standardise_inputs,
)
from anipot.training.task import AtomisticTask
from anipot.training.trainer import check_monitors, columns_of, make_trainer, world_size


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
    RuntimeError
        If another process trains in the folder, or the loss is no number.
    """
    folder = RunFolder(settings.folder, settings)
    if folder.results is not None and folder.results.get("trained") == amount(settings):
        folder.say(f"{folder.path} is finished; results are in {folder / RESULTS}")
        return folder.path
    with quietly(), folder.held():
        folder.keep_settings()
        _train(settings, folder)
    gc.collect()  # trainer and task hold each other, and gigabytes of data and features, which the next member needs
    return folder.path


def _train(settings: TrainingSettings, folder: RunFolder) -> None:
    run = Run(settings, folder)
    run.fit()
    run.finish()


class Run:
    """The parts of a training, made from its settings.

    Attributes
    ----------
    parts, outputs
        The data, and what is learned from them.
    task, trainer, data
        What Lightning is given.
    """

    def __init__(self, settings: TrainingSettings, folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        member = settings.member or 0
        names = [output.property for output in settings.outputs]
        start, split = folder.start(), folder / SPLIT
        if start is None or not split.is_file():
            fold = (member, settings.members) if settings.folds else None
            self.parts = open_parts(settings.data, names, fold, folder.say)
        else:
            self.parts = reopen_parts(settings.data, names, split, folder.say)
        self.outputs = known_outputs(settings.outputs, self.parts)
        check_monitors(settings, self.outputs)
        potential, scales = start or self._new_start(member)
        freeze(potential, settings.model.freeze)
        self.data = DataModule(self.parts, settings.data, potential.dtype, settings.seed + member)
        self.task = self._task(potential, scales)
        self.metrics = MetricsFile(folder / METRICS, columns_of(self.outputs))
        self.checkpoints = Checkpoints(folder.path, settings.checkpoint_seconds, settings.best)
        self.trainer = make_trainer(settings, folder, potential, self.checkpoints, self.metrics)

    def _new_start(self, member: int) -> tuple[Potential, Scales]:
        """Return a new potential as it is before the first step."""
        settings, model, say = self.settings, self.settings.model, self.folder.say
        names = {o.property: o.predicted for o in self.outputs if o.property != o.predicted}
        known = self.parts.known.with_transforms(Rename(names)) if names else self.parts.known
        statistics = known.statistics(bar("reading") if self.folder.first else None)
        elements = elements_in(statistics)
        torch.manual_seed(settings.seed + member)
        new: tuple[str, ...] = ("",)
        if model.start_from is None:
            potential = build_potential(model, elements)
        else:
            whole = not self._learns_energies and settings.members == 1
            potential, new = start_from(model, member, elements, whole)
        freeze(potential, model.freeze)
        scales = self._adapt(potential, new, known, statistics)
        weights = sum(parameter.numel() for parameter in potential.parameters())
        say(f"model: {' '.join(potential.elements)}; {weights} weights, {potential.dtype}")
        potential.details |= settings.details
        if self.folder.first:
            write_split(self.folder / SPLIT, own_parts(self.parts))
        self.folder.save_start(potential, scales)
        return potential, scales

    @property
    def _learns_energies(self) -> bool:
        return any(output.predicted in OF_ENERGY and output.weight > 0 for output in self.outputs)

    def _adapt(self, potential: Potential, new: tuple[str, ...], known: AtomsDataset, statistics: Statistics) -> Scales:
        """Let self energies and new networks suit the data, and return how the steps of these must follow."""
        model, say, energies = self.settings.model, self.folder.say, self._learns_energies
        old = model.start_from is not None
        fixed = not any(parameter.requires_grad for parameter in potential.representation.parameters())
        kept = old and fixed and not energies
        if "energies" in known.quantities and not kept:
            choice = ("shift" if old else "fit") if model.self_energies is None else model.self_energies
            origin = set_self_energies(potential, choice, known, statistics)
            values = zip(potential.elements, potential.shifter.self_energies.tolist(), strict=False)
            say(f"self energies: {', '.join(f'{e} {v:.6f}' for e, v in values)} Hartree; {origin}")
        standardise = model.standardise is not False and fixed and new
        scales = standardise_inputs(potential, known, new) if standardise else Scales()
        size = 1.0 if old and model.output_scale is None else model.output_scale
        scale_outputs(potential, self.outputs, statistics, size, new, scales)
        if energies and not old and "energies" in known.quantities:
            center_energies(potential, known)
        if kept:
            say("no energies are trained: they stay those of the model that this one starts from")
        elif not energies:
            silence_energies(potential)
            say("no energies are trained: those of the model are zero")
        return scales

    def _task(self, potential: Potential, scales: Scales) -> AtomisticTask:
        settings = self.settings
        steps = -(-len(self.parts.train) // (settings.data.batch_size * world_size(settings)))
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

    def fit(self) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        state = self.folder.last
        if state:
            self.folder.say(f"going on from epoch {state['epoch'] + 1}, step {state['global_step']}")
            if state["callbacks"][self.checkpoints.state_key]["stopped"]:
                return  # by early stopping or the learning rate, before a kill that came when all was done but results
        self.trainer.fit(self.task, self.data, ckpt_path=self.folder / LAST if state else None)

    def finish(self) -> None:
        """Write the best model, its errors and the pictures; only the first of several processes does."""
        if self.trainer.is_global_zero:
            potential = self.task.potential.to(self.trainer.strategy.root_device)
            finish(self.settings, self.folder, potential, self.parts, self.outputs, self.metrics)


def known_outputs(outputs: list[ModelOutput], parts: Parts) -> list[ModelOutput]:
    """Return the outputs with units and shapes that the data tell.

    Raises
    ------
    ValueError
        If labels are in another unit, or of another shape, than what is to predict them.
    """
    found = []
    for output in outputs:
        label = parts.train.quantities[output.property]
        expected = QUANTITIES.get(output.predicted, label)
        if (label.unit, label.per_atom, label.shape) != (expected.unit, expected.per_atom, expected.shape):
            raise ValueError(
                f"outputs: {output.property} is in {label.unit} with shape {label.shape}, but {output.predicted} in "
                f"{expected.unit} with shape {expected.shape}; call the labels {output.predicted} in data.fields"
            )
        found.append(changed(output, quantity=label))
    return found
