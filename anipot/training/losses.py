"""Losses of a batch as sums over labelled molecules or atoms, and how many these are.

Means are taken over the labels of all processes together: each adds up its own, and divides by the common count.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Losses of one number, given its error in the unit of the loss.
LOSSES = ("mse", "mae", "huber")
#: What is done about molecules of different sizes.
SCALINGS = ("molecule", "atom", "sqrt_atoms")


class Errors(NamedTuple):
    """What a potential gets wrong in a batch."""

    #: (B, ...) or (B, A, ...), prediction − label, float64; 0 where there is no label.
    values: Tensor
    #: (B,) or (B, A): which molecules or atoms have a label.
    labelled: Tensor


def errors(prediction: Tensor, label: Tensor, real: Tensor | None) -> Errors:
    """Return the errors where there are labels.

    Parameters
    ----------
    prediction, label
        (B, ...), or (B, A, ...) of atoms; a label of which any component is NaN is missing.
    real
        (B, A) which slots are to count, of values of atoms; None for values of molecules.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> errors(torch.tensor([1.0, 2.0]), torch.tensor([0.5, float("nan")]), None)
    Errors(values=tensor([0.5000, 0.0000], dtype=torch.float64), labelled=tensor([ True, False]))
    """
    if prediction.shape != label.shape:
        raise ValueError(f"predictions have shape {tuple(prediction.shape)} but labels {tuple(label.shape)}")
    leading = 1 if real is None else 2
    labelled = torch.isfinite(label)
    if label.dim() > leading:
        labelled = labelled.flatten(leading).all(-1)
    if real is not None:
        labelled = labelled & real
    where = labelled.view(*labelled.shape, *[1] * (label.dim() - leading))
    # The gradient of what is not chosen is 0, whatever it is; a product with a mask would turn NaN into NaN.
    return Errors(torch.where(where, prediction.double() - label.double(), 0.0), labelled)


def count(labelled: Tensor, scaling: str) -> Tensor:
    """Return how many labels a mean runs over: molecules or atoms, or molecules with any labelled atom."""
    if labelled.dim() == 2 and scaling == "molecule":
        labelled = labelled.any(-1)
    return labelled.sum()


def loss_sum(found: Errors, num_atoms: Tensor, loss: str, scaling: str, delta: float = 1.0) -> Tensor:
    """Return the sum of the loss over molecules or atoms, scalar; components of vectors and tensors are added.

    Parameters
    ----------
    found
        Errors in the unit of the loss.
    num_atoms
        (B,) atoms N of each molecule.
    loss
        ``"mse"`` Δ², ``"mae"`` |Δ|, or ``"huber"``, ½ Δ² up to ``delta`` and delta (|Δ| − ½ delta) beyond.
    scaling
        Values of molecules: ``"molecule"`` as they are, ``"atom"`` with Δ/N in place of Δ, ``"sqrt_atoms"`` divided by
        √N, as in the ANI papers. Values of atoms: ``"atom"`` for a sum over all atoms, ``"molecule"`` for a sum over
        molecules of their means over labelled atoms.
    delta
        Of the Huber loss, in the unit of the loss.
    """
    values, labelled = found
    of_atoms = labelled.dim() == 2
    if scaling == "atom" and not of_atoms:
        values = values / num_atoms.view(-1, *[1] * (values.dim() - 1))
    if loss == "mse":
        values = values * values
    elif loss == "mae":
        values = values.abs()
    else:
        values = torch.nn.functional.huber_loss(values, torch.zeros_like(values), reduction="none", delta=delta)
    if values.dim() > labelled.dim():
        values = values.flatten(labelled.dim()).sum(-1)
    if of_atoms and scaling == "molecule":
        values = values.sum(-1) / labelled.sum(-1).clamp(min=1)
    elif scaling == "sqrt_atoms":
        values = values / num_atoms.sqrt()
    return values.sum()


def over_processes(counts: Tensor) -> tuple[Tensor, int]:
    """Return the counts of all processes together, and how many processes there are."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if distributed else 1
    if world > 1:
        counts = counts.clone()
        torch.distributed.all_reduce(counts)
    return counts, world
