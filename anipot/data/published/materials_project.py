"""The Materials Project: crystals, with what density functionals say of them."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anipot.data.blocks import Block, DataError, Source
from anipot.data.download import DownloadError, OfflineError, Patience, RemoteFile
from anipot.data.memory import MemorySource
from anipot.data.published.base import Bad, Published
from anipot.data.published.labels import Label
from anipot.elements import atomic_number
from anipot.zoo.download import offline

_NUMBERS = ("energy_per_atom", "formation_energy_per_atom", "band_gap", "total_magnetization")
_FIELDS = ("material_id", "structure", *_NUMBERS)
#: Largest numbers of sites of what is asked for at a time; each answer is kept, so that an interruption costs one.
_SITES = (2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 100, 150, 200, 300)


class MaterialsProject(Published):
    """Crystals of the Materials Project: energies, formation energies, band gaps and magnetizations.

    Parameters
    ----------
    file
        Documents of the summary collection that were downloaded before, as JSON (or ``.json.gz``): a list of objects
        with ``material_id``, ``structure`` and the keys of ``labels``. By default they are asked for with mp-api, which
        takes an account's key.
    api_key
        By default ``MP_API_KEY`` of the environment.
    folder
        Where data are kept; the cache by default.

    Notes
    -----
    The collection grows: another download is another data set. The energies are those that the project has corrected
    to fit together, and belong to no single level of theory.

    Examples
    --------
    >>> MaterialsProject().license
    'CC-BY-4.0'
    """

    key = "materialsproject"
    title = "Materials Project"
    text = "crystals, energies, formation energies, band gaps, magnetizations; takes an API key or a file"
    homepage = "https://materialsproject.org"
    license = "CC-BY-4.0"
    citations = ("10.1063/1.4812323",)
    level_of_theory = "PBE and PBE+U, VASP, with corrections of the Materials Project"
    labels = (
        Label("energies", "energy_per_atom", "eV", "total energy: energy per atom times the number of atoms"),
        Label("energy_per_atom", "energy_per_atom", "eV", "energy per atom", here="Hartree"),
        Label("formation_energy_per_atom", _NUMBERS[1], "eV", "formation energy per atom", here="Hartree"),
        Label("band_gap", "band_gap", "eV", "band gap", here="Hartree"),
        Label("total_magnetization", "total_magnetization", "1", "magnetic moment of the cell, Bohr magnetons"),
        Label("material", "material_id", "1", "position of the identifier in the fact 'materials'"),
    )

    def __init__(self, file: str | Path | None = None, *, api_key: str | None = None, folder: str | Path | None = None):
        super().__init__(folder=folder)
        self.file = None if file is None else Path(file)
        self._api_key = api_key or os.environ.get("MP_API_KEY")

    @property
    def path(self) -> Path:
        """The file in this library's layout; it need not exist."""
        return super().path if self.file is None else self.folder / f"{self.key}-{self.file.name.partition('.')[0]}.h5"

    def files(self) -> tuple[RemoteFile, ...]:
        """Return nothing: there is no file to download."""
        return ()

    def source(self, files: Mapping[str, Path], bad: Bad, progress: bool) -> Source:
        """Read all documents."""
        found: dict[int, list[Crystal]] = {}
        names: list[str] = []
        for path in files.values():
            for crystal in read_documents(path, bad):
                found.setdefault(len(crystal.species), []).append(crystal._replace(number=len(names)))
                names.append(crystal.name)
        blocks = [_block(found[size], self.labels) for size in sorted(found)]
        source = MemorySource(blocks, {label.name: label.quantity for label in self.labels}, {"materials": names})
        source.paths = [str(path) for path in files.values()]
        return source

    def _download(self, progress: bool, patience: Patience | None) -> dict[str, Path]:
        if self.file is not None:
            if not self.file.is_file():
                raise DataError(f"{self.file}: there is no such file")
            return {self.file.name: self.file}
        paths = [self.downloads / f"sites_{high:03d}.json.gz" for high in _SITES]
        ranges = zip((1, *(high + 1 for high in _SITES)), _SITES, paths, strict=False)
        missing = [(low, high, path) for low, high, path in ranges if not path.is_file()]
        if missing:
            self._ask(missing, progress)
        return {path.name: path for path in paths}

    def _ask(self, missing: Sequence[tuple[int, int, Path]], progress: bool) -> None:
        """Ask the project for materials of some numbers of sites, and keep each answer."""
        client = self._client()
        self.downloads.mkdir(parents=True, exist_ok=True)
        with client(self._api_key, mute_progress_bars=not progress) as project:
            for low, high, path in missing:
                documents = project.materials.summary.search(num_sites=(low, high), fields=list(_FIELDS))
                temporary = path.with_name(f"{path.name}.{os.getpid()}")
                with gzip.open(temporary, "wt", encoding="utf-8") as file:
                    json.dump([_plain(document) for document in documents], file)
                os.replace(temporary, path)

    def _client(self) -> Any:
        other = "or give a file of documents that were downloaded before, MaterialsProject(file=...)"
        if offline():
            raise OfflineError(f"ANIPOT_OFFLINE is set, so the Materials Project was not asked; unset it, {other}")
        if not self._api_key or len(self._api_key) != 32:
            given = f"a key of {len(self._api_key)} characters, expected 32" if self._api_key else "no key"
            raise DownloadError(
                f"the Materials Project answers to accounts only, and there is {given}: get one at "
                f"https://next-gen.materialsproject.org/api and set MP_API_KEY, {other}"
            )
        try:
            from mp_api.client import MPRester
        except ImportError as error:
            raise DownloadError(f"the Materials Project is asked with mp-api: pip install mp-api, {other}") from error
        return MPRester


def _plain(document: Any) -> dict[str, Any]:
    return {
        "material_id": str(document.material_id),
        "structure": document.structure.as_dict(),
        **{key: getattr(document, key) for key in _NUMBERS},
    }


class Crystal(NamedTuple):
    """One material.

    Attributes
    ----------
    name
        Its identifier.
    species
        Atomic numbers.
    coordinates, cell
        Å.
    numbers
        eV and Bohr magnetons, by key; NaN where there is none.
    number
        Of the material in the list of all.
    """

    name: str
    species: list[int]
    coordinates: list[list[float]]
    cell: list[list[float]]
    numbers: dict[str, float]
    number: int = 0


def read_documents(path: Path, bad: Bad) -> Iterator[Crystal]:
    """Yield the materials of a file of documents.

    Raises
    ------
    DataError
        If it is no list of documents.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            documents = json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if isinstance(documents, dict):  # as the web interface answers
        documents = documents.get("data")
    if not isinstance(documents, list):
        raise DataError(f"{path}: expected a list of documents")
    for i, document in enumerate(documents):
        where = f"{path}, document {i}"
        try:
            yield parse_document(document)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            bad(where, f"{type(error).__name__}: {error}")


def parse_document(document: Mapping[str, Any]) -> Crystal:
    """Return the material in a document of the summary collection.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is none, or a site is not one element.
    """
    structure = document["structure"]
    species, coordinates = [], []
    for i, site in enumerate(structure["sites"]):
        (occupant, *others) = site["species"]
        if others or occupant.get("occu", 1) != 1:
            raise ValueError(f"site {i} is disordered: {site['species']}")
        species.append(atomic_number(occupant["element"]))
        coordinates.append([float(x) for x in site["xyz"]])
    if not species:
        raise ValueError("there are no sites")
    numbers = {key: math.nan if document.get(key) is None else float(document[key]) for key in _NUMBERS}
    cell = [[float(x) for x in row] for row in structure["lattice"]["matrix"]]
    return Crystal(str(document["material_id"]), species, coordinates, cell, numbers)


def _block(crystals: Sequence[Crystal], labels: Sequence[Label]) -> Block:
    n, atoms = len(crystals), len(crystals[0].species)
    found = {key: np.array([crystal.numbers[key] for crystal in crystals]) for key in _NUMBERS}
    found["material_id"] = np.array([float(crystal.number) for crystal in crystals])
    properties = {label.name: found[label.key] * label.factor for label in labels}
    properties["energies"] *= atoms
    return Block(
        np.array([crystal.species for crystal in crystals]),
        np.array([crystal.coordinates for crystal in crystals]),
        properties,
        np.array([crystal.cell for crystal in crystals]),
        np.ones((n, 3), dtype=np.bool_),
        rows=np.array([crystal.number for crystal in crystals]),
    )
