"""Several trainings that make one ensemble: from other seeds, or on other folds of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from anipot.blueprints import describe
from anipot.data import write_split
from anipot.ensembles import EnsemblePotential
from anipot.head import ANIModel, Ensemble
from anipot.potential import Potential
from anipot.storage import load_model
from anipot.training.building import MODEL
from anipot.training.config import TrainingSettings
from anipot.training.data import open_parts
from anipot.training.evaluation import evaluate, to_json
from anipot.training.folder import RESULTS, SPLIT, RunFolder
from anipot.training.pictures import draw
from anipot.training.results import facts_of, in_words, own_parts
from anipot.training.run import known_outputs, train


def train_all(settings: TrainingSettings) -> Path:
    """Train what the settings say, one potential or an ensemble, or go on with it; return the folder.

    Members are trained one after the other, in folders ``member0``, ``member1``, … of the folder. With
    ``settings.member`` one of them is trained alone. When the last is done, whoever did it, they are joined.

    Raises
    ------
    ValueError
        As ``anipot.training.run.train``.
    """
    if settings.members < 1 or not 0 <= (settings.member or 0) < settings.members:
        raise ValueError(
            f"expected members ≥ 1 and member in 0 … members − 1, got {settings.members}, {settings.member}"
        )
    if settings.folds and settings.members < 2:
        raise ValueError("folds: cross-validation needs members=2 or more")
    if settings.members == 1:
        return train(settings)
    folder = RunFolder(settings.folder, settings)
    folder.keep_settings()
    for member in range(settings.members) if settings.member is None else [settings.member]:
        folder.say(f"member {member} of {settings.members}")
        train(replace(settings, folder=str(folder / f"member{member}"), member=member))
    missing = [i for i in range(settings.members) if not (folder / f"member{i}" / RESULTS).is_file()]
    if missing:
        folder.say(f"members {', '.join(map(str, missing))} are not done yet; the last to finish joins them")
    elif folder.first:
        _join(folder, settings)
    return folder.path


def _join(folder: RunFolder, settings: TrainingSettings) -> None:
    members = [load_model(folder / f"member{i}" / MODEL) for i in range(settings.members)]
    own = [json.loads((folder / f"member{i}" / RESULTS).read_text("utf-8")) for i in range(settings.members)]
    if folder.results is not None and folder.results.get("members") == own:
        return
    potential = joined(members, settings.model.name)
    parts = open_parts(settings.data, [output.property for output in settings.outputs], say=lambda text: None)
    write_split(folder / SPLIT, own_parts(parts))
    outputs = known_outputs(settings.outputs, parts)
    results: dict[str, Any] = {"members": own}
    if parts.test is not None:
        shown = evaluate(potential, parts.test, outputs)
        results["test"] = {"structures": len(parts.test), **to_json(shown)}
        draw(folder.path, shown, settings.error_unit)
    errors = in_words(results, outputs, settings.error_unit)
    for name, words in errors.items():
        folder.say(f"ensemble: {name}: {words}")
    old = {key: value for key, value in members[0].details.items() if key == "started_from"}
    potential.details = {**old, **settings.details, "training": facts_of(parts, errors, settings.data)}
    folder.save_model(potential)
    folder.write(RESULTS, json.dumps(results, indent=1, ensure_ascii=False))


def joined(members: list[Potential], name: str = "") -> Potential:
    """Return one potential of several.

    Members that see the same fixed features, with the same self energies and nothing beside, become one head, so that
    features are computed once for all.

    Examples
    --------
    >>> from anipot import AEVComputer, AtomicNetwork, CELU, EnergyShifter
    >>> def member():
    ...     networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
    ...     return Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
    >>> type(joined([member(), member()]).head).__name__
    'Ensemble'
    """
    first = members[0]
    if all(_same_features(first, member) for member in members):
        parts = first.elements, first.representation, Ensemble([member.head for member in members]), first.shifter
        return Potential(*parts, name)
    return EnsemblePotential(members, name)


def _same_features(one: Potential, other: Potential) -> bool:
    plain = all(
        type(part.head) is ANIModel and not len(part.property_heads) and not len(part.terms) for part in (one, other)
    )
    fixed = not any(True for _ in one.representation.parameters())
    return (
        plain
        and fixed
        and one.elements == other.elements
        and describe(one.representation, "representation") == describe(other.representation, "representation")
        and one.shifter.self_energies.equal(other.shifter.self_energies)
    )
