"""What a training has come to: the best model, its errors, pictures, and what all of it says in words."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from anipot.data import AtomsDataset
from anipot.potential import Potential
from anipot.training import objects
from anipot.training.checkpoints import BEST, LAST
from anipot.training.config import DataSettings, TrainingSettings
from anipot.training.data import Parts
from anipot.training.evaluation import OutputErrors, evaluate, to_json
from anipot.training.folder import RESULTS, RunFolder
from anipot.training.metrics_file import MetricsFile
from anipot.training.outputs import ModelOutput
from anipot.training.pictures import draw, plot_curves


def finish(
    settings: TrainingSettings,
    folder: RunFolder,
    potential: Potential,
    parts: Parts,
    outputs: Sequence[ModelOutput],
    metrics: MetricsFile,
) -> None:
    """Write the best model of a run, its errors and the pictures.

    Parameters
    ----------
    potential
        That was trained, where its errors are to be computed; it gets the weights of the best model.
    parts, outputs, metrics
        Data, what was learned, and what was logged.
    """
    # After too few steps for a validation there is no best one.
    state = torch.load(folder / BEST if (folder / BEST).is_file() else folder / LAST, "cpu", weights_only=True)
    own = {name: value for name, value in state["state_dict"].items() if name.startswith("potential.")}
    potential.load_state_dict({name.removeprefix("potential."): value for name, value in own.items()})
    potential.eval()
    for parameter in potential.parameters():
        parameter.requires_grad_(True)
    best = {"epoch": state["epoch"] + 1, "step": state["global_step"], "monitor": settings.best}
    results: dict[str, Any] = {"best": best, "trained": amount(settings)}
    size = settings.data.validation_batch_size or settings.data.batch_size
    shown: dict[str, OutputErrors] = {}
    for name, part in parts.named().items():
        if name != "train":
            shown = evaluate(potential, part, outputs, batch_size=size, progress=bar(f"errors of {name}"))
            results[name] = {"structures": len(part), **to_json(shown)}
    errors = in_words(results, outputs, settings.error_unit)
    potential.details |= {**settings.details, "training": facts_of(parts, errors, settings.data)}
    folder.save_model(potential.cpu())
    plot_curves(folder / "curves.png", metrics.read(), outputs, settings.error_unit)
    draw(folder.path, shown, settings.error_unit)
    folder.write(RESULTS, json.dumps(results, indent=1, ensure_ascii=False))
    folder.say(f"best model: epoch {best['epoch']}, step {best['step']}")
    for name, words in errors.items():
        folder.say(f"{name}: {words}")


def amount(settings: TrainingSettings) -> dict[str, Any]:
    """Return how long a training may last."""
    return {name: settings.trainer.get(name) for name in ("max_epochs", "max_steps", "max_time")}


def own_parts(parts: Parts) -> dict[str, AtomsDataset]:
    """Return the parts that were made of one data set."""
    return {name: part for name, part in parts.named().items() if part.fingerprint == parts.train.fingerprint}


def facts_of(parts: Parts, errors: dict[str, str], settings: DataSettings) -> dict[str, Any]:
    """Return what a model tells of its training: data, sizes of the parts, and errors in words."""
    source = parts.train.source
    facts = {key: value for key, value in source.metadata.items() if isinstance(value, str | int | float)}
    sizes = {name: len(part) for name, part in parts.named().items()}
    files = [os.path.basename(path) for path in source.paths]
    if settings.transforms:  # a model of differences is no model of energies
        facts["transforms"] = "; ".join(map(_in_words, settings.transforms))
    return {"data": {"files": files, **facts}, "structures": sizes, "errors": errors}


def _in_words(transform: Any) -> str:
    name, arguments = objects.parts(transform, "data.transforms")
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def in_words(results: dict[str, Any], outputs: Sequence[ModelOutput], error_unit: str) -> dict[str, str]:
    """Return the errors of each property on validation and test data in a few words."""
    found = {}
    for name in ("validation", "test"):
        for output in outputs:
            unit = output.unit(error_unit)
            if errors := results.get(name, {}).get(output.property, {}).get(unit):
                words = f"MAE {errors['mae']:.4g}, RMSE {errors['rmse']:.4g} {unit}"
                found[f"{output.property}, {name}"] = words
    return found


def bar(text: str) -> str | None:
    """Return what a progress bar says, where somebody sees it."""
    return text if sys.stderr.isatty() else None
