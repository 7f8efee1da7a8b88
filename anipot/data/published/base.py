"""What published data sets have in common: where they come from, what they hold, and how they get into the store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from anipot.data import checksums, download, store
from anipot.data.blocks import Block, Source
from anipot.data.download import Patience, RemoteFile
from anipot.data.faults import Fault, label_faults, structure_faults
from anipot.data.layouts.store_file import Precision
from anipot.data.published.bad import Bad, OnBad
from anipot.data.published.labels import Label
from anipot.data.published.tolerant import Tolerant
from anipot.data.quantities import Quantity
from anipot.data.source import open_source
from anipot.zoo.cache import cache_dir, file_lock

__all__ = ["Bad", "Published"]


class Published:
    """A published data set.

    Parameters
    ----------
    variant
        Which part, level of theory or molecule; ``variants`` lists them. Capitals do not matter.
    folder
        Where data are kept: ``data`` in the cache (``ANIPOT_CACHE``) by default.

    Raises
    ------
    ValueError
        For a variant that there is not, with those that there are.
    """

    #: Name for ``anipot.data.load`` and ``anipot data fetch``.
    key: ClassVar[str]
    #: Name of the folder; data sets that are parts of the same files share it.
    release: ClassVar[str] = ""
    title: ClassVar[str]
    #: In a line.
    text: ClassVar[str]
    homepage: ClassVar[str]
    license: ClassVar[str]
    #: DOIs.
    citations: ClassVar[tuple[str, ...]]
    #: What there is to choose from, the default first, each in a line.
    variants: ClassVar[Mapping[str, str]] = {}
    #: Coordinates of the publication are single precision, and are stored so.
    precision: ClassVar[Precision] = "double"
    level_of_theory: str
    labels: tuple[Label, ...]
    #: Energies of single atoms, Hartree, at the level of theory; empty where nobody published them.
    self_energies: Mapping[str, float] = MappingProxyType({})
    #: Where these are from.
    self_energies_of: str = ""
    #: Whether structures without an energy belong to another part of the publication; elsewhere they are bad.
    partly_labelled: ClassVar[bool] = False
    #: Structures that the publication counts; None if it does not say.
    expected: int | None = None

    def __init__(self, variant: str | None = None, *, folder: str | Path | None = None):
        given = {name.lower(): name for name in self.variants}
        wanted = next(iter(self.variants), "") if variant is None else str(variant)
        if wanted.lower() not in given and self.variants:
            raise ValueError(f"{self.title} has no {wanted!r}; expected one of {', '.join(self.variants)}")
        if not self.variants and wanted:
            raise ValueError(f"{self.title} has no parts to choose from, got {wanted!r}")
        self.variant = given.get(wanted.lower(), "")
        base = cache_dir() / "data" if folder is None else Path(folder).expanduser().absolute()
        self.folder = base / (self.release or self.key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({repr(self.variant) if self.variant else ''})"

    @property
    def path(self) -> Path:
        """The file in this library's layout; it need not exist."""
        plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.variant).strip("-")
        return self.folder / (f"{self.key}-{plain}.h5" if plain else f"{self.key}.h5")

    @property
    def downloads(self) -> Path:
        """The folder of published files."""
        return self.folder / "downloads"

    @property
    def splits_path(self) -> Path:
        """The file of published splits; it exists only where there are some."""
        return self.path.with_suffix(".splits.npz")

    @property
    def report_path(self) -> Path:
        """The file that says what was left out."""
        return self.path.with_suffix(".report.json")

    def files(self) -> tuple[RemoteFile, ...]:
        """Return what is downloaded."""
        raise NotImplementedError

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Open what was downloaded; ``files`` by the names of ``files()``."""
        raise NotImplementedError

    def published_splits(self, files: Mapping[str, Path], source: Source) -> dict[str, NDArray[np.int64]]:
        """Return rows of the source by the names of the parts of published splits."""
        return {}

    def facts(self) -> dict[str, object]:
        """Return what is written into the store beside the structures."""
        facts: dict[str, object] = {
            "name": f"{self.key}:{self.variant}" if self.variant else self.key,
            "title": self.title,
            "homepage": self.homepage,
            "license": self.license,
            "citations": list(self.citations),
            "level_of_theory": self.level_of_theory,
        }
        if self.self_energies:
            facts |= {"self_energies": dict(self.self_energies), "self_energies_of": self.self_energies_of}
        return facts

    def fetch(
        self,
        *,
        progress: bool = True,
        on_bad: OnBad = "skip",
        keep_downloads: bool = True,
        patience: Patience | None = None,
    ) -> Path:
        """Return the file of the data set; the first time it is downloaded, checked and converted.

        Downloads and conversion go on where they were interrupted. Records that cannot be used are left out and
        listed, with file, group and index, in ``report_path``.

        Parameters
        ----------
        progress
            Whether terminals are shown bars.
        on_bad
            ``"refuse"`` stops at the first record that cannot be used.
        keep_downloads
            Whether the published files are kept.
        patience
            With servers; see ``anipot.data.download.fetch``.

        Returns
        -------
        Path
            Of a file for ``anipot.data.open``.

        Raises
        ------
        DownloadError
            If a file cannot be had, or is not what was published.
        DataError
            If it cannot be read.
        """
        if self.path.is_file():
            return self.path
        with file_lock(self.folder / f"{self.path.name}.lock"):
            if self.path.is_file():  # another process was faster
                return self.path
            files = self._download(progress, patience)
            bad = Bad(self.path.with_suffix(".bad.jsonl"), on_bad)
            self._convert(files, bad, progress)
            bad.path.unlink(missing_ok=True)
            shutil.rmtree(self.unpacked, ignore_errors=True)
            if not keep_downloads:
                for path in files.values():
                    if path.parent == self.downloads:  # not a file of the user's own
                        path.unlink(missing_ok=True)
        return self.path

    @property
    def unpacked(self) -> Path:
        """The folder for what is taken out of archives; it is removed after the conversion."""
        return self.folder / f"{self.path.stem}.unpacked"

    def splits(self) -> dict[str, NDArray[np.int64]]:
        """Return the published splits: rows of the data set by the names of the parts; empty where there are none.

        ``fetch`` must have been called.
        """
        if not self.splits_path.is_file():
            return {}
        with np.load(self.splits_path) as found:
            return {name: found[name] for name in found.files}

    def _download(self, progress: bool, patience: Patience | None) -> dict[str, Path]:
        return {
            file.name: download.fetch(file, self.downloads, progress=progress, patience=patience)
            for file in self.files()
        }

    def _convert(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> None:
        source = Tolerant(self.source(files, bad, progress), bad)
        splits = self.published_splits(files, source)
        checksums_of = {name: (checksums.recorded(path) or {}).get("sha256") for name, path in files.items()}
        facts = {**self.facts(), "files": checksums_of}
        temporary = self.path.with_suffix(".new.h5")
        rows = store.copy(
            source,
            temporary,
            lambda block: self.usable(block, bad),
            metadata=facts,
            precision=self.precision,
            overwrite=True,
            progress=progress,
        )
        self.splits_path.unlink(missing_ok=True)
        if splits:
            np.savez_compressed(self.splits_path, **rows_in_store(temporary, splits))  # type: ignore[arg-type]
        total = sum(group.size for group in source.groups)
        self._write_report(total, rows, bad)
        os.replace(temporary, self.path)

    def usable(self, block: Block, bad: Bad) -> Block:
        """Return the structures of a block that go into the store: what is possible at all, with an energy.

        Whether forces are absurd, or atoms too close, is for the user to say (``AtomsDataset.checked``).
        """
        if self.partly_labelled:
            block = block.take(~np.isnan(block.properties["energies"]))
        if len(block) == 0:
            return block
        known = {label.name: label.quantity for label in self.labels}
        quantities = {name: known.get(name, Quantity(name)) for name in block.properties}
        missing = Fault("labels", np.isnan(block.properties["energies"]), lambda i: "the energy is missing")
        faults = [*structure_faults(block, None), missing, *label_faults(block, quantities, max_force=None)]
        good = np.ones(len(block), dtype=np.bool_)
        for fault in faults:
            for i in np.flatnonzero(fault.bad).tolist():
                bad(block.where(i), fault.describe(i))
            good &= ~fault.bad
        return block if good.all() else block.take(good)

    def _write_report(self, total: int, rows: int, bad: Bad) -> None:
        found = bad.found()
        report = {
            "structures": rows,
            "expected": self.expected,
            "read": total,
            "bad": len(found),
            "records": [{"where": where, "reason": reason} for where, reason in found.items()],
        }
        self.report_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def rows_in_store(path: Path, splits: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """Return rows of a store for rows of the source that it was made of, whose numbers it holds as ``frame``.

    Rows that were left out are left out here as well.
    """
    opened = open_source(path, fields={"frame": "frame"})
    frames = np.concatenate(
        [opened.read(i, slice(None)).properties["frame"].astype(np.int64) for i in range(len(opened.groups))]
    )
    size = 1 + max(int(rows.max(initial=-1)) for rows in (frames, *splits.values()))
    place = np.full(size, -1)
    place[frames] = np.arange(len(frames))
    return {name: (at := place[rows])[at >= 0] for name, rows in splits.items()}
