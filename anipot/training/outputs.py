"""What is trained and reported: a property, its loss and weight, and the errors that are shown."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anipot.data.quantities import QUANTITIES, Quantity
from anipot.data.units import conversion
from anipot.potential import Potential
from anipot.training.losses import LOSSES, SCALINGS, Errors, count, errors, loss_sum
from anipot.training.predict import OF_ENERGY, BatchLike

#: Errors that can be reported.
METRICS = ("mae", "rmse")


@dataclass(frozen=True)
class ModelOutput:
    """A property of the data that a potential learns.

    Attributes
    ----------
    property
        Name of the labels, such as ``"energies"``, ``"forces"``, ``"stress"`` or ``"dipole"``.
    loss
        ``"mse"``, ``"mae"`` or ``"huber"``; components of vectors are added.
    weight
        Factor in the total loss; with 0 errors are reported and nothing is learned from them.
    scaling
        What is done about the number N of atoms. Values of molecules: ``"molecule"`` (default), ``"atom"`` with Δ/N in
        place of Δ, ``"sqrt_atoms"`` with Δ²/√N as in the ANI papers. Values of atoms: ``"atom"`` (default) for the mean
        over all labelled atoms, ``"molecule"`` for the mean over molecules of their means.
    head
        Name of the property head that predicts it; that of the property by default.
    metrics
        Errors to report, ``"mae"`` and ``"rmse"``, both of single components.
    delta
        Of the Huber loss, in the unit of the loss.
    quantity
        Unit and shape of a property that is not among ``anipot.data.quantities.QUANTITIES``.

    Raises
    ------
    ValueError
        For a loss, scaling or metric that is not known, or a weight that makes no sense.

    Examples
    --------
    >>> ModelOutput("energies", scaling="sqrt_atoms").unit("kcal/mol")
    'kcal/mol'
    >>> ModelOutput("forces", weight=0.1).unit("meV")
    'meV/Å'
    """

    property: str
    loss: str = "mse"
    weight: float = 1.0
    scaling: str | None = None
    head: str | None = None
    metrics: Sequence[str] = METRICS
    delta: float = 1.0
    quantity: Quantity | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        known: list[tuple[str, str, Sequence[str]]] = [("loss", self.loss, LOSSES)]
        known += [("metrics", metric, METRICS) for metric in self.metrics]
        object.__setattr__(self, "metrics", tuple(self.metrics))
        allowed = ("atom", "molecule") if self.of.per_atom else SCALINGS
        if self.scaling is None:
            object.__setattr__(self, "scaling", allowed[0])
        known.append(("scaling", str(self.scaling), allowed))
        for name, value, values in known:
            if value not in values:
                raise ValueError(f"{name} of {self.property} must be one of {', '.join(values)}, got {value!r}")
        if not self.weight >= 0 or not self.delta > 0:
            raise ValueError(
                f"weight of {self.property} must be at least 0 and delta positive, got {self.weight} and {self.delta}"
            )

    @builtins.property
    def of(self) -> Quantity:
        """What kind of property it is."""
        return self.quantity or QUANTITIES.get(self.property) or Quantity(self.property)

    @builtins.property
    def predicted(self) -> str:
        """What the potential calls it."""
        return self.head or self.property

    def unit(self, energy: str) -> str:
        """Return the unit of the property with Hartree replaced by another unit of energy."""
        return self.of.unit.replace("Hartree", energy)

    def factor(self, energy: str) -> float:
        """Return what values of this library are to be multiplied with for that unit."""
        return conversion(self.of.unit, self.unit(energy), self.property)


class Terms(NamedTuple):
    """The losses of a batch, one for each output."""

    #: (K,) sums, with a graph.
    sums: Tensor
    #: (K,) how many molecules or atoms they run over.
    counts: Tensor
    #: Errors of each output in the units of this library.
    errors: list[Errors]


def terms_of(
    outputs: Sequence[ModelOutput], potential: Potential, predictions: dict[str, Tensor], batch: BatchLike, energy: str
) -> Terms:
    """Return the losses of a batch, with energies in the unit ``energy``.

    Raises
    ------
    KeyError
        If the batch has no labels of that name.
    """
    real = batch.species >= 0
    num_atoms = real.sum(-1).clamp(min=1).double()
    found, sums, counts = [], [], []
    for output in outputs:
        if output.property not in batch.properties:
            known = ", ".join(batch.properties) or "none"
            raise KeyError(f"the data have no property {output.property!r}; they have {known}")
        counted = slots(output, potential, batch.species) if output.of.per_atom else None
        wrong = errors(predictions[output.predicted], batch.properties[output.property], counted)
        scaled = wrong._replace(values=wrong.values * output.factor(energy))
        sums.append(loss_sum(scaled, num_atoms, output.loss, str(output.scaling), output.delta))
        counts.append(count(wrong.labelled, str(output.scaling)))
        found.append(wrong)
    return Terms(torch.stack(sums), torch.stack(counts).double(), found)


def slots(output: ModelOutput, potential: Potential, species: Tensor) -> Tensor:
    """Return the atoms (B, A) for which there is a prediction."""
    real = species >= 0
    head: nn.Module | None = None
    if output.predicted not in OF_ENERGY:
        head = potential.property_heads[output.predicted]
    if head is None or all(getattr(head, "labelled", (True,))):
        return real
    index = potential.converter.convert(species) if potential.periodic_table_index else species
    mask: Tensor = head.mask(index)  # type: ignore[operator]
    return mask
