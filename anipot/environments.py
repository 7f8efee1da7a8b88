"""The atoms of a batch together with their features: what heads of properties and energy terms are given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from anipot.neighbors import Pairs
from anipot.structures import System


class Environments(NamedTuple):
    """All that is known of N = B·A flat slots once a representation has seen them.

    Ghosts have species −1, stand in no pair, and their features are 0.
    """

    #: (N,) element indices, ghosts -1.
    species: Tensor
    #: Those closer than the largest cutoff of the potential, which may be more than the representation looks at.
    pairs: Pairs
    #: (P, 3) Å, from center to neighbor.
    vectors: Tensor
    #: (N, F) invariant features.
    features: Tensor
    #: (N, 3, F) features that turn with the molecule, where the representation has such.
    equivariant: Tensor | None = None
    #: Coordinates, cells and the shape (B, A) of the batch; None where an engine brought nothing but vectors.
    system: System | None = None

    def whole_system(self, who: str = "this head") -> System:
        """Return the batch with its coordinates.

        Raises
        ------
        ValueError
            If an engine brought nothing but vectors, naming ``who`` needs more.
        """
        if self.system is None:
            raise ValueError(
                f"{who} needs coordinates and cells, but was given vectors of pairs only; "
                "pass the system to members_from_vectors, or leave this part to the engine"
            )
        return self.system

    @property
    def molecules(self) -> Tensor:
        """The element indices (B, A) of whole molecules."""
        return self.whole_system().species
