"""The data of a training: opened, checked, divided, and handed to Lightning in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from anipot import data
from anipot.data import AtomsDataset, Batches
from anipot.data.checks import Checks
from anipot.data.filters import Limits
from anipot.training.config import DataSettings
from anipot.training.objects import check_names, make

PARTS = ("train", "validation", "test")


@dataclass
class Parts:
    """Data sets for training, validation and test."""

    train: AtomsDataset
    validation: AtomsDataset
    test: AtomsDataset | None
    #: What self energies and sizes of labels are taken from: the training part, or all folds, so that they agree.
    known: AtomsDataset

    def named(self) -> dict[str, AtomsDataset]:
        """Return the parts that there are, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}


def open_parts(
    settings: DataSettings,
    names: Sequence[str],
    fold: tuple[int, int] | None = None,
    say: Callable[[str], None] = print,
) -> Parts:
    """Open the data of a training and divide them.

    Parameters
    ----------
    settings
        Of the data.
    names
        Labels that are needed; others are left in the file.
    fold
        Which of how many folds is the validation, for cross-validation; training and validation data are divided anew.
    say
        Takes what is to be told.

    Raises
    ------
    ValueError
        If there are no data, or too few for a part.
    """
    if settings.path is None and settings.published is None:
        raise ValueError("data.path is not set: give the file, files or folder of the data, as in data.path=my.h5")
    whole = open_data(settings, settings.path, names, say)
    apart = {name: open_data(settings, path, names, say) for name in PARTS[1:] if (path := getattr(settings, name))}
    found = _from_file(whole, settings) if settings.split.file else _divided(whole, settings, apart)
    found |= apart
    for name in PARTS[:2]:
        if not len(found.get(name, ())):
            raise ValueError(f"data.split leaves no structure for {name} of the {len(whole)} that there are")
    known = None
    if fold is not None:
        number, count = fold
        if "validation" in apart:
            raise ValueError("folds divide data.path for training and validation; data.validation cannot be set too")
        known = found["train"].select(found["train"].selection | found["validation"].selection)
        found["train"], found["validation"] = known.folds(count, settings.split.by, settings.split.seed)[number]
    sizes = ", ".join(f"{len(part)} for {name}" for name, part in found.items())
    say(f"data: {whole}; {sizes}")
    test = found["test"] if len(found.get("test", ())) else None
    return Parts(found["train"], found["validation"], test, known or found["train"])


def reopen_parts(
    settings: DataSettings, names: Sequence[str], split: Path, say: Callable[[str], None] = print
) -> Parts:
    """Open the data of a training that goes on, divided as it was; what was looked at then is not looked at again."""
    whole = _opened(settings, settings.path, names).with_transforms(data.Keep(list(names)))
    listed = data.read_split(split, whole)
    apart = {name: path for name in PARTS[1:] if (path := getattr(settings, name))}
    found = listed | {name: open_data(settings, path, names, say) for name, path in apart.items()}
    say(f"data: {', '.join(f'{len(part)} for {name}' for name, part in found.items())}, as before")
    return Parts(found["train"], found["validation"], found.get("test"), found["train"])


def open_data(
    settings: DataSettings, path: Any, names: Sequence[str], say: Callable[[str], None] = print
) -> AtomsDataset:
    """Open files, or the published data set of the settings, and leave out what the settings leave out.

    Raises
    ------
    ValueError
        If the data have no labels of the names that are needed, or are bad and to be refused.
    """
    if settings.checks not in ("refuse", "skip", "ignore"):
        raise ValueError(f"data.checks must be refuse, skip or ignore, got {settings.checks!r}")
    dataset = _opened(settings, path, names)
    if settings.checks == "skip":  # before the limits, which cannot be applied to what cannot be read
        return _limited(_checked(dataset, settings, say), settings, say).with_transforms(data.Keep(list(names)))
    # What the limits leave out need not be refused.
    dataset = _limited(dataset, settings, say).with_transforms(data.Keep(list(names)))
    return dataset if settings.checks == "ignore" else _checked(dataset, settings, say)


def _limited(dataset: AtomsDataset, settings: DataSettings, say: Callable[[str], None]) -> AtomsDataset:
    """Leave out what is beyond the limits, also those of labels that are not needed otherwise."""
    if not settings.limits:
        return dataset
    check_names(settings.limits, Limits, "data.limits")
    found = dataset.filter(**settings.limits)
    say(f"data: limits leave {len(found)} of {len(dataset)} structures")
    return found


def _checked(dataset: AtomsDataset, settings: DataSettings, say: Callable[[str], None]) -> AtomsDataset:
    check_names(settings.check_limits, Checks, "data.check_limits")
    try:
        dataset = dataset.checked(settings.checks, **settings.check_limits)
    except data.BadRecords as error:
        raise data.DataError(f"{error.report}\ndata.checks=skip leaves them out") from error
    if dataset.report is not None and dataset.report.bad:
        say(str(dataset.report))
    return dataset


def _opened(settings: DataSettings, path: Any, names: Sequence[str]) -> AtomsDataset:
    if path is None:
        path = published_file(str(settings.published))
    transforms = [make(one, f"data.transforms.{i}") for i, one in enumerate(settings.transforms)]
    told = {"layout": settings.layout, "fields": settings.fields, "length": settings.length, "pbc": settings.pbc}
    try:
        dataset = data.open(path, **told, transforms=transforms)  # type: ignore[arg-type]
    except data.DataError as error:
        if " fields=" not in str(error) and "length=" not in str(error):
            raise
        raise data.DataError(f"{error}\nfields and length are data.fields and data.length here") from error
    missing = [name for name in names if name not in dataset.quantities]
    if missing:
        known = ", ".join(dataset.quantities) or "none"
        raise ValueError(
            f"outputs: the data have no {missing[0]}; they have {known} (data.fields tells where labels are)"
        )
    return dataset


def published_file(name: str) -> str:
    """Return the file of a published data set, which is downloaded the first time."""
    from anipot.data import published

    return str(published.find(name).fetch())


def _divided(whole: AtomsDataset, settings: DataSettings, apart: dict[str, AtomsDataset]) -> dict[str, AtomsDataset]:
    split = settings.split
    sizes = {name: getattr(split, name) for name in PARTS if name not in apart}
    if apart and isinstance(split.train, float):
        sizes["train"] = -1  # what would have become of the parts that come from elsewhere
    return whole.split(sizes, split.by, split.seed, split.block)


def _from_file(whole: AtomsDataset, settings: DataSettings) -> dict[str, AtomsDataset]:
    """Return the parts that a file lists; a validation that it does not have is taken from the training part."""
    split = settings.split
    path = str(split.file)
    if path == "published":
        path = str(Path(whole.source.paths[0]).with_suffix(".splits.npz"))
    listed = data.read_split(path, whole)
    found = {}
    for part in PARTS:
        name = split.names.get(part, part)
        if name in listed:
            found[part] = listed[name]
        elif part == "train" or part in split.names:
            raise ValueError(f"data.split.file {path} has no {name!r} for {part}; it has {', '.join(listed)}")
    if "validation" not in found:
        found |= found["train"].split({"train": -1, "validation": split.validation}, seed=split.seed)
    return found


class DataModule(LightningDataModule):
    """The batches of a training, of each process its own.

    Parameters
    ----------
    parts
        The data sets.
    settings
        Of the data.
    dtype
        Of coordinates and of what atoms have each.
    seed
        Of the order.
    """

    def __init__(self, parts: Parts, settings: DataSettings, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.parts, self.settings, self.dtype, self.seed = parts, settings, dtype, seed

    def train_dataloader(self) -> Batches:
        """Return shuffled batches."""
        return self._batches(self.parts.train, self.settings.batch_size, True, self.settings.workers)

    def val_dataloader(self) -> Batches:
        """Return batches in order of size."""
        size = self.settings.validation_batch_size or self.settings.batch_size
        return self._batches(self.parts.validation, size, False, 0)

    def _batches(self, dataset: AtomsDataset, size: int, shuffle: bool, workers: int) -> Batches:
        options: dict[str, Any] = {"shuffle": shuffle, "seed": self.seed, "workers": workers, "dtype": self.dtype}
        if self.trainer is not None:
            options |= {"rank": self.trainer.global_rank, "world": self.trainer.world_size}
        return dataset.batches(size, memory=int(self.settings.memory * 2**30), **options)
