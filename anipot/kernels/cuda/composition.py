"""The atoms of a padded batch without its ghosts: what stays the same from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
        """Return the composition of element indices (B, A), ghosts -1. Waits for the device."""
        real = species >= 0
        sizes = real.sum(-1)
        slot = real.reshape(-1).nonzero().squeeze(1)
        start = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        molecule = slot // max(species.shape[1], 1)
        found = (species.reshape(-1)[slot], slot, molecule, start)
        kind, slot, molecule, start = (t.to(torch.int32) for t in found)
        return cls(kind, slot, molecule, start, tuple(sizes.tolist()), species.numel())

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
