"""Compare files and weights with what was published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from anipot.zoo.index import Entry

if TYPE_CHECKING:
    from anipot.interfaces.neurochem import EnsembleFiles
    from anipot.potential import Potential


def check_files(files: EnsembleFiles, entry: Entry) -> None:
    """Raise ValueError, naming the file, unless the files of an ensemble are exactly the published ones."""
    from anipot.interfaces.trees import read_bytes

    for path, expected in entry.checksums.items():
        file = files.root
        for part in path.split("/"):
            file = file / part
        if not file.is_file():
            raise ValueError(f"{file} is missing; {entry.title} needs it")
        seen = hashlib.sha256(read_bytes(file)).hexdigest()
        if seen != expected:
            raise ValueError(f"{file} is not the published one: its sha256 is {seen}, expected {expected}")
    more = sorted({files.relative(file) for file in files.needed()} - set(entry.checksums))
    if more:
        raise ValueError(f"{files.root} has files that {entry.title} does not have, such as {more[0]}")


def check_weights(potential: Potential, entry: Entry) -> None:
    """Raise ValueError unless a potential is, number by number, the published one.

    The published weights are plain float32 arrays, so their checksums can be taken again from any copy of them.
    """
    if (potential.elements, len(potential)) != (entry.elements, entry.members):
        seen = f"{len(potential)} members for {', '.join(potential.elements)}"
        raise ValueError(f"{entry.title} has {entry.members} members for {', '.join(entry.elements)}, got {seen}")
    _check_kind(potential, entry)
    energies = tuple(potential.shifter.self_energies.tolist())
    if entry.self_energies is not None and energies != entry.self_energies:
        raise ValueError(
            f"the self energies are not those of {entry.title}: {energies}, expected {entry.self_energies}"
        )
    for name, expected in (entry.constants or {}).items():
        seen_value = _plain(getattr(potential.representation, name))
        if seen_value != expected:
            raise ValueError(f"the constant {name} is not that of {entry.title}: {seen_value}, expected {expected}")
    published = {path: sha for path, sha in entry.checksums.items() if path.endswith("param")}
    for path, seen_sha in _weight_checksums(potential, entry):
        if published.get(path) != seen_sha:
            raise ValueError(f"the weights that {entry.title} has in {path} are not the published ones")


def _check_kind(potential: Potential, entry: Entry) -> None:
    """Raise ValueError unless a potential is made of AEVs and one network for each element, and nothing else."""
    from anipot.head import ANIModel, AtomicNetwork
    from anipot.representation import AEVComputer

    if own := potential.overridden():
        raise ValueError(
            f"{entry.title} is one plain potential, not a {type(potential).__name__} with its own {own[0]}"
        )
    if not isinstance(potential.representation, AEVComputer):
        raise ValueError(f"{entry.title} has AEVs, got a {type(potential.representation).__name__}")
    more = [type(part).__name__ for part in (*potential.property_heads.values(), *potential.terms)]
    if more:
        raise ValueError(f"{entry.title} has energies of its networks and nothing else, got also {', '.join(more)}")
    for member in _members(potential):
        if not isinstance(member, ANIModel) or not all(isinstance(network, AtomicNetwork) for network in member):
            raise ValueError(f"{entry.title} has an AtomicNetwork for each element, got a {type(member).__name__}")


def _members(potential: Potential) -> list[Any]:
    from anipot.head import Ensemble

    return list(potential.head) if isinstance(potential.head, Ensemble) else [potential.head]


def identify(potential: Potential, entries: dict[str, Entry]) -> Entry | None:
    """Return the published model that a potential is, or None."""
    for entry in entries.values():
        try:
            check_weights(potential, entry)
        except ValueError:
            continue
        return entry
    return None


def _weight_checksums(potential: Potential, entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield the published file name of each array of weights and the sha256 of the array."""
    import torch

    for folder, member in zip(_member_folders(entry), _members(potential), strict=True):
        for element, network in zip(entry.elements, member, strict=True):
            for i, linear in enumerate(network.linears, start=1):
                for letter, values in (("w", linear.weight), ("b", linear.bias)):
                    name = f"{folder}/ANN-{element}.nnf-l{i}.{letter}param"
                    if values is None or values.dtype != torch.float32:
                        yield name, "not float32"
                    else:
                        array = values.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
                        yield name, hashlib.sha256(array).hexdigest()


def _member_folders(entry: Entry) -> list[str]:
    folders = {str(PurePosixPath(path).parent) for path in entry.checksums if path.endswith(".nnf")}
    # train10 comes after train9
    return sorted(folders, key=lambda folder: (len(folder), folder))


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else value
