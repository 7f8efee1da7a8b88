"""Energy terms apart from the networks, so that these can be computed natively all the same."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from anipot.energy import EnergyShifter
from anipot.neighbors import Pairs
from anipot.potential import Potential

#: The terms of each potential asked for.
_alone: WeakKeyDictionary[Potential, Potential] = WeakKeyDictionary()


class _NoFeatures(nn.Module):
    cutoff, num_features = 1.0, 0  # a search wants some cutoff

    def from_pairs(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> Tensor:
        return vectors.new_zeros(len(species), 0)


class _NoEnergy(nn.Module):
    def atomic_energies(self, species: Tensor, features: Tensor) -> Tensor:
        return features.new_zeros(1, len(species), dtype=torch.float64)


def terms_stand_alone(potential: Potential) -> bool:
    """Whether no term of a potential looks at the features."""
    return not any(getattr(term, "needs_features", True) for term in potential.terms)


def terms_alone(potential: Potential) -> Potential:
    """Return the terms of a potential (shared, not copied) as one without a network and without self energies.

    It is kept, since every step of a dynamics asks for it, until the terms are others.
    """
    terms, index, device = list(potential.terms), potential.periodic_table_index, potential.device
    known = _alone.get(potential)
    if known is not None and (list(known.terms), known.periodic_table_index, known.device) == (terms, index, device):
        return known
    shifter = EnergyShifter([0.0] * len(potential.elements))
    alone = Potential(potential.elements, _NoFeatures(), _NoEnergy(), shifter, "terms", {}, index, terms=terms)
    _alone[potential] = alone.to(device)
    return alone
