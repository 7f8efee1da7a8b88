"""What is looked at before a search for new structures begins."""

from __future__ import annotations

import hashlib
from pathlib import Path

from anipot.sampling.committee import check_committee
from anipot.sampling.explore import Explorer


def check_inputs(explorer: Explorer, workers: int) -> None:
    """Refuse models, molecules and settings that do not go together."""
    settings, model = explorer.settings, explorer.model
    if settings.threshold > 0:
        check_committee(model)
    if workers > 1 and model.device.type != "cpu":
        raise ValueError(f"{workers} workers cannot share a model on {model.device}; use one, or put it on the CPU")
    if set(settings.methods) & {"modes", "dynamics", "dimers"} and not explorer.molecules:
        raise ValueError(f"{', '.join(settings.methods)} need molecules to start from")
    if "frames" in settings.methods and explorer.frames is None:
        raise ValueError("the method 'frames' needs frames to choose from")
    if "dimers" in settings.methods and not settings.dimers:
        raise ValueError("the method 'dimers' needs a number of dimers")
    for name, atoms in zip(explorer.names, explorer.molecules, strict=True):
        unknown = sorted(set(atoms.get_chemical_symbols()) - set(model.elements))
        if unknown:
            raise ValueError(f"{name} holds {', '.join(unknown)}; the model knows {', '.join(model.elements)}")
        if atoms.pbc.any() and set(settings.methods) & {"modes", "dimers"}:
            raise ValueError(f"{name} is periodic; normal modes and dimers are for free molecules")


def check_files(output: Path, place: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to touch what an earlier run left, unless that is said."""
    there = [path for path in (output, output.with_suffix(".extxyz"), place) if path.exists()]
    if there and not (resume or overwrite):
        raise FileExistsError(f"{there[0]} exists already; resume goes on with it, overwrite replaces it")
    if resume and output.exists() and not place.exists():
        raise FileExistsError(f"{output} is complete; there is nothing to resume")
    if overwrite and not resume:
        place.unlink(missing_ok=True)


def inputs_digest(explorer: Explorer) -> str:
    """Tell the structures of one search from those of another."""
    digest = hashlib.sha256()
    for atoms in explorer.molecules:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(array.tobytes())
    if explorer.frames is not None:
        digest.update(repr([tuple(vars(group).items()) for group in explorer.frames.groups]).encode())
    return digest.hexdigest()
