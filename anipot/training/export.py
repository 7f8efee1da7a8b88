"""From the folder of a run to a folder for the zoo: the model, a card that says what it is, and how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import anipot
from anipot.potential import Potential
from anipot.storage import load_model
from anipot.training.building import MODEL
from anipot.training.folder import CONFIG, RESULTS, SPLIT, replace
from anipot.zoo.index import normalise

#: What a card says of a model beside what is known from its training; ``None`` stands for what nobody has told.
FACTS = ("level_of_theory", "citation", "doi", "license")
#: Files of a run that tell how the model was made, and what it is worth.
MADE = (RESULTS, SPLIT)
PICTURES = ("parity.png", "errors_by_element.png", "errors_by_size.png", "curves.png")


def export(
    run: str | os.PathLike[str],
    target: str | os.PathLike[str],
    name: str | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write a trained model into a folder of its own, with everything that its users need to know.

    The folder holds ``<key>.safetensors`` for ``anipot.load``, ``card.json`` with the entries that the index of the zoo
    has, ``README.md`` for readers, settings, split, errors and pictures of the training, and checksums of all of them.

    Parameters
    ----------
    run
        Folder of a finished run.
    target
        Folder that is made; one that exists must be empty.
    name
        Of the model, such as ``"My ANI"``; by default that of the settings, or of the target.
    facts
        Level of theory, citation, doi, license, where the settings (``details``) do not tell them or tell otherwise.

    Raises
    ------
    ValueError
        If the run is not finished, or the target holds something.
    """
    run, target = Path(run), Path(target)
    if not (run / RESULTS).is_file():
        raise ValueError(f"{run} is not the folder of a finished run: it has no {RESULTS}")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty; give another folder, or remove it")
    potential = load_model(run / MODEL)
    potential.name = name or potential.name or target.name
    key = normalise(potential.name)
    if not key:
        raise ValueError(f"the name {potential.name!r} has no letters or digits")
    potential.details |= dict(facts or {})
    target.mkdir(parents=True, exist_ok=True)
    replace(target / f"{key}.safetensors", lambda path: potential.save(path))
    for file in (*MADE, *PICTURES):
        if (run / file).is_file():
            shutil.copyfile(run / file, target / file)
    settings = _without_places(yaml.safe_load((run / CONFIG).read_text("utf-8")), key)
    (target / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    results = json.loads((run / RESULTS).read_text("utf-8"))
    card = card_of(potential, key)
    (target / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (target / "README.md").write_text(_readme(card, key, settings, results, target), encoding="utf-8")
    _write_checksums(target, key)
    return target


def _without_places(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """Return settings with names of files in place of where they were on somebody's machine."""

    def name(path: Any) -> Any:
        return [name(one) for one in path] if isinstance(path, list) else path and Path(str(path)).name

    data = {part: name(settings["data"].get(part)) for part in ("path", "validation", "test")}
    split = {**settings["data"]["split"], "file": name(settings["data"]["split"]["file"])}
    return {**settings, "folder": f"runs/{key}", "data": {**settings["data"], **data, "split": split}}


def card_of(potential: Potential, key: str) -> dict[str, Any]:
    """Return what the index of the zoo says of a model, and what is known of its training."""
    details = potential.details
    return {
        "key": key,
        "name": potential.name,
        "elements": list(potential.elements),
        "members": len(potential),
        **{name: details.get(name) for name in FACTS},
        "units": {"length": "angstrom", "energy": "hartree"},
        "properties": list(potential.property_heads),
        "cutoff": potential.cutoff if potential.cutoff < float("inf") else None,
        "weights": sum(parameter.numel() for parameter in potential.parameters()),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "training": details.get("training", {}),
        **({"started_from": details["started_from"]} if "started_from" in details else {}),
        "anipot": anipot.__version__,
    }


def _write_checksums(folder: Path, key: str) -> None:
    lines = []
    for file in sorted(path for path in folder.iterdir() if path.suffix != ".sha256"):
        lines.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    (folder / f"{key}.sha256").write_text("".join(lines), encoding="utf-8")


def _readme(card: Mapping[str, Any], key: str, settings: Mapping[str, Any], results: Any, folder: Path) -> str:
    training = card["training"]
    told = {"Level of theory": "level_of_theory", "Citation": "citation", "DOI": "doi", "License": "license"}
    lines = [f"# {card['name']}", ""]
    lines += [
        f"A potential for {', '.join(card['elements'])}, {card['members']} member(s), {card['weights']} weights.",
        "",
    ]
    lines += ["```python", "import anipot", "", f'model = anipot.load("{key}.safetensors")', "```", ""]
    lines += [f"- {title}: {card[fact] or 'not told'}" for title, fact in told.items()]
    lines += ["- Units: Å, Hartree (ASE: eV)", f"- Cutoff: {card['cutoff'] or 'none, all pairs of a molecule'} Å", ""]
    lines += ["## Data", "", *_data(training)]
    split = settings["data"]["split"]
    rows = "; rows of each part are in `split.json`" if (folder / SPLIT).is_file() else ""
    lines += [f"- split: by {split['by']}, seed {split['seed']}{rows}", ""]
    lines += ["## Errors", ""]
    lines += [f"- {name}: {words}" for name, words in (training.get("errors") or {}).items()]
    if "members" in results:
        lines.append("- errors of the members are in `results.json`")
    lines += ["", *(f"![{name}]({name})" for name in PICTURES if (folder / name).is_file()), ""]
    if "started_from" in card:
        old = card["started_from"]
        facts = [f"- {title}: {old[fact]}" for title, fact in told.items() if old.get(fact)]
        lines += ["## What it started from", "", old["name"], "", *facts, *_data(old.get("training", {}))]
        lines += [f"- {name}: {words}" for name, words in (old.get("training", {}).get("errors") or {}).items()]
        lines.append("")
    lines += ["## How it was made", "", f"With anipot {card['anipot']}: `anipot train config.yaml`.", ""]
    return "\n".join(lines)


def _data(training: Mapping[str, Any]) -> list[str]:
    """Return lines on the data that something was trained with."""
    lines = [f"- {name}: {_plain(value)}" for name, value in (training.get("data") or {}).items()]
    return lines + [f"- structures for {name}: {count}" for name, count in (training.get("structures") or {}).items()]


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)
