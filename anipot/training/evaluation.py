"""Errors of a potential on a data set: in all, by element, by size, and of the differences within a molecule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from anipot.elements import symbol
from anipot.potential import Potential
from anipot.training.losses import errors
from anipot.training.outputs import ModelOutput, slots
from anipot.training.predict import predict

if TYPE_CHECKING:
    from anipot.data import AtomsDataset, Batch

#: Points that a parity plot shows at most.
POINTS = 20_000
#: Batches of an evaluation.
BATCH = 256


@dataclass
class Sums:
    """Number of errors, sum of their sizes and of their squares."""

    count: int = 0
    size: float = 0.0
    square: float = 0.0

    def add(self, wrong: NDArray[np.float64]) -> None:
        """Take in errors."""
        self.count += wrong.size
        self.size += float(np.abs(wrong).sum())
        self.square += float((wrong * wrong).sum())

    @property
    def mae(self) -> float:
        """Mean absolute error; NaN of none."""
        return self.size / self.count if self.count else float("nan")

    @property
    def rmse(self) -> float:
        """Root mean square error; NaN of none."""
        return float(np.sqrt(self.square / self.count)) if self.count else float("nan")


@dataclass
class OutputErrors:
    """Errors of one property, in the units of this library."""

    output: ModelOutput
    total: Sums = field(default_factory=Sums)
    #: Of energies: divided by the number of atoms.
    per_atom: Sums = field(default_factory=Sums)
    #: Of energies: of the differences of all pairs of conformers of a molecule.
    relative: Sums = field(default_factory=Sums)
    #: Of values of atoms, by symbol.
    by_element: dict[str, Sums] = field(default_factory=dict)
    #: By number of atoms.
    by_size: dict[int, Sums] = field(default_factory=dict)
    #: (n, 2) labels and predictions of some components, energies without self energies, for a picture.
    points: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))


def evaluate(
    potential: Potential,
    dataset: AtomsDataset,
    outputs: Sequence[ModelOutput],
    *,
    batch_size: int = BATCH,
    relative: bool = True,
    progress: str | None = None,
) -> dict[str, OutputErrors]:
    """Return the errors of a potential, by the names of the properties; those without labels are left out.

    Parameters
    ----------
    potential
        What is looked at.
    dataset
        With labels.
    outputs
        What to look at.
    batch_size
        Structures that are computed together.
    relative
        Whether to compare energies of conformers of one molecule, where the data tell which these are: by a label
        ``molecule``, by groups of the file, or since there is no other molecule. It keeps an energy for each structure.
    progress
        What a progress bar says; none by default.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot import Atomwise, EnergyShifter, Potential, SchNet
    >>> from anipot.data import AtomsDataset
    >>> model = Potential(["H", "O"], SchNet(2, 16), Atomwise.pyramid(16), EnergyShifter([-0.5, -75.0]))
    >>> positions = np.random.default_rng(0).random((10, 3, 3))
    >>> dataset = AtomsDataset.from_arrays([8, 1, 1], positions, energies=np.full(10, -76.4))
    >>> found = evaluate(model, dataset, [ModelOutput("energies")])
    >>> found["energies"].total.count, found["energies"].relative.count
    (10, 45)
    """
    outputs = [output for output in outputs if output.property in dataset.quantities]
    found = {output.property: OutputErrors(output) for output in outputs}
    if not outputs:
        return {}
    of_energies = next((output.property for output in outputs if output.predicted == "energies"), None)
    conformers = _Conformers(dataset) if relative and of_energies else None
    points = {output.property: _Points(len(dataset)) for output in outputs}
    batches = dataset.batches(batch_size, dtype=potential.dtype)
    for batch in tqdm(batches, desc=progress, unit="batch", disable=None if progress else True, leave=False):
        batch = batch.to(potential.device)
        predictions = predict(potential, batch, {output.predicted for output in outputs}, graph=False)
        for output in outputs:
            wrong = _add(found[output.property], potential, batch, predictions[output.predicted])
            label = batch.properties[output.property]
            if output.predicted == "energies":  # without self energies there is something to see
                system = potential.system(batch.species, batch.coordinates, batch.cell, batch.pbc)
                label = label - potential.shifter.sae(system.species)
            points[output.property].add(wrong, label)
            if output.predicted == "energies" and conformers is not None:
                conformers.add(batch, wrong)
    for name, one in found.items():
        one.points = points[name].joined()
    if conformers is not None and of_energies is not None:
        found[of_energies].relative = conformers.sums()
    return {name: one for name, one in found.items() if one.total.count}


def _add(into: OutputErrors, potential: Potential, batch: Batch, prediction: Tensor) -> Tensor:
    """Add the errors of a batch; return them, NaN where there is no label."""
    of_atoms = into.output.of.per_atom
    real = slots(into.output, potential, batch.species) if of_atoms else None
    values, labelled = errors(prediction, batch.properties[into.output.property], real)
    sizes = batch.num_atoms
    into.total.add(_numpy(values[labelled]))
    if into.output.predicted == "energies":
        into.per_atom.add(_numpy((values / sizes)[labelled]))
    of_label = (sizes[:, None].expand_as(labelled) if of_atoms else sizes)[labelled]
    for size in torch.unique(of_label).tolist():
        into.by_size.setdefault(size, Sums()).add(_numpy(values[labelled][of_label == size]))
    if of_atoms:
        numbers = batch.species[labelled]
        for number in torch.unique(numbers).tolist():
            into.by_element.setdefault(symbol(number), Sums()).add(_numpy(values[labelled][numbers == number]))
    where = labelled.view(*labelled.shape, *[1] * (values.dim() - labelled.dim()))
    return torch.where(where, values, torch.nan)


def _numpy(values: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.detach().double().cpu().numpy()
    return found


class _Points:
    """Some labels and predictions, spread evenly over a data set of which the size is known."""

    def __init__(self, structures: int) -> None:
        self.structures = max(1, structures)
        self.parts: list[NDArray[np.float64]] = []

    def add(self, wrong: Tensor, label: Tensor) -> None:
        """Take some of a batch."""
        share = max(1, round(POINTS * len(label) / self.structures))
        x, delta = _numpy(label.flatten()), _numpy(wrong.flatten())
        good = np.flatnonzero(np.isfinite(delta))
        good = good[:: max(1, -(-len(good) // share))]
        self.parts.append(np.stack([x[good], x[good] + delta[good]], axis=1))

    def joined(self) -> NDArray[np.float64]:
        """Return (n, 2) labels and predictions."""
        return np.concatenate(self.parts) if self.parts else np.empty((0, 2))


class _Conformers:
    """Errors of energies by molecule."""

    def __init__(self, dataset: AtomsDataset) -> None:
        self.dataset = dataset
        self.named = "molecule" in dataset.quantities
        self.grouped = bool(getattr(dataset.source, "grouped_by_molecule", False))
        self.molecules: dict[tuple[int, bytes], list[float]] = {}

    def add(self, batch: Batch, wrong: Tensor) -> None:
        """Take in the errors of a batch."""
        numbers = np.zeros(len(batch), dtype=np.int64)
        if self.named:
            numbers = batch.properties["molecule"].cpu().numpy().astype(np.int64)
        elif self.grouped:
            numbers = self.dataset.group_of(batch.index.cpu().numpy())
        species = batch.species.cpu().numpy().astype(np.int8)
        for i, value in enumerate(wrong.tolist()):
            if value == value:  # labelled
                key = int(numbers[i]), species[i][species[i] > 0].tobytes()
                self.molecules.setdefault(key, []).append(value)

    def sums(self) -> Sums:
        """Return the errors of the differences of all pairs of conformers of each molecule."""
        found = Sums()
        if not (self.named or self.grouped) and len(self.molecules) > 1:
            return found  # nobody knows which structures are of one molecule
        for values in self.molecules.values():
            found.count += len(values) * (len(values) - 1) // 2
            size, square = pair_sums(np.array(values))
            found.size += size
            found.square += square
        return found


def pair_sums(wrong: NDArray[np.float64]) -> tuple[float, float]:
    """Return Σ |a − b| and Σ (a − b)² over all pairs of numbers.

    >>> pair_sums(np.array([1.0, 2.0, 6.0]))
    (10.0, 42.0)
    """
    n, ordered = len(wrong), np.sort(wrong - wrong.mean())
    size = float(((2 * np.arange(n) - n + 1) * ordered).sum())
    return size, float(n * (ordered * ordered).sum() - ordered.sum() ** 2)


def outputs_for(potential: Potential, dataset: AtomsDataset) -> list[ModelOutput]:
    """Return an output for each label that a potential predicts."""
    return list(_outputs(potential, dataset))


def _outputs(potential: Potential, dataset: AtomsDataset) -> Iterator[ModelOutput]:
    for name, quantity in dataset.quantities.items():
        if name in ("energies", "forces", "stress") or name in potential.property_heads:
            yield ModelOutput(name, quantity=quantity)


def to_json(found: dict[str, OutputErrors]) -> dict[str, Any]:
    """Return the errors as plain numbers, energies in kcal/mol and meV."""
    return {name: _plain(one) for name, one in found.items()}


def _plain(one: OutputErrors) -> dict[str, Any]:
    energy = "Hartree" in one.output.of.unit
    units = ("kcal/mol", "meV") if energy else ("",)

    def numbers(sums: Sums) -> dict[str, Any]:
        facts: dict[str, Any] = {"count": int(sums.count)}
        for unit in units:
            name, factor = (one.output.unit(unit), one.output.factor(unit)) if unit else (one.output.of.unit, 1.0)
            facts[name] = {"mae": sums.mae * factor, "rmse": sums.rmse * factor}
        return facts

    facts = numbers(one.total)
    if one.per_atom.count:
        facts["per atom"] = numbers(one.per_atom)
    if one.relative.count:
        facts["relative"] = numbers(one.relative)
    if one.by_element:
        facts["by element"] = {name: numbers(sums) for name, sums in sorted(one.by_element.items())}
    facts["by size"] = {str(size): numbers(sums) for size, sums in sorted(one.by_size.items())}
    return facts
