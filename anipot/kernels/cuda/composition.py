"""The atoms of a padded batch without its ghosts: what stays the same from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anipot import known


@dataclass(frozen=True)
class Composition:
    """The n real atoms of a batch of B molecules with A slots each, in the order of their slots; tensors are int32."""

    #: (n) index of the element.
    kind: Tensor
    #: (n) b * A + a.
    slot: Tensor
    #: (n) b.
    molecule: Tensor
    #: (B + 1) first atom of each molecule, and n.
    molecule_start: Tensor
    #: Atoms of each molecule, known to the host.
    sizes: tuple[int, ...]
    #: B * A.
    num_slots: int

    @classmethod
    def of(cls, species: Tensor) -> Composition:
        """Return the composition of element indices (B, A), ghosts -1. Waits for the device, unless they are known."""
        return cls.of_known(known.species_on_host(species), species.device)

    @classmethod
    def of_known(cls, species: NDArray[np.int8], device: torch.device) -> Composition:
        """Return the same, made on the host and sent in one piece."""
        sizes = (species >= 0).sum(-1)
        slot = np.flatnonzero(species >= 0)
        start = np.concatenate([[0], sizes.cumsum()])
        found = (species.reshape(-1)[slot], slot, slot // max(species.shape[1], 1), start)
        sent = known.send(np.concatenate(found).astype(np.int32), device)
        kind, slot, molecule, start = sent.split([len(part) for part in found])
        return cls(kind, slot, molecule, start, tuple(sizes.tolist()), species.size)

    @property
    def num_atoms(self) -> int:
        """n."""
        return len(self.kind)

    @property
    def num_molecules(self) -> int:
        """B."""
        return len(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.kind.device
