"""``torchani.AEVComputer`` and what it returns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anipot.representation import AEVComputer as _AEVComputer
from anipot.structures import SpeciesFeatures as SpeciesAEV

__all__ = ["AEVComputer", "SpeciesAEV"]


class AEVComputer(_AEVComputer):
    """``anipot.AEVComputer`` with the constructors of TorchANI 2.2.

    Parameters
    ----------
    Rcr, Rca, EtaR, ShfR, EtaA, Zeta, ShfA, ShfZ, num_species
        As for ``anipot.AEVComputer``.
    use_cuda_extension
        Accepted and not used: there is nothing to compile, and the values are the same.
    """

    #: What ``save`` writes: the names are all that is new.
    stored_as = _AEVComputer

    def __init__(
        self,
        Rcr: float,
        Rca: float,
        EtaR: Sequence[float] | Tensor | float,
        ShfR: Sequence[float] | Tensor | float,
        EtaA: Sequence[float] | Tensor | float,
        Zeta: Sequence[float] | Tensor | float,
        ShfA: Sequence[float] | Tensor | float,
        ShfZ: Sequence[float] | Tensor | float,
        num_species: int,
        use_cuda_extension: bool = False,
    ) -> None:
        super().__init__(Rcr, Rca, EtaR, ShfR, EtaA, Zeta, ShfA, ShfZ, num_species)

    @classmethod
    def cover_linearly(
        cls,
        radial_cutoff: float,
        angular_cutoff: float,
        radial_eta: float,
        angular_eta: float,
        radial_dist_divisions: int,
        angular_dist_divisions: int,
        zeta: float,
        angle_sections: int,
        num_species: int,
        angular_start: float = 0.9,
        radial_start: float = 0.9,
    ) -> AEVComputer:
        """Return AEVs whose shifts divide distances (from the start to the cutoff, Å) and angles evenly.

        ``(5.2, 3.5, 16.0, 8.0, 16, 4, 32.0, 8, 4)`` are the AEVs of ANI-1x.
        """
        ShfR = _even(radial_start, radial_cutoff, radial_dist_divisions)
        ShfA = _even(angular_start, angular_cutoff, angular_dist_divisions)
        ShfZ = _even(0.0, math.pi, angle_sections) + math.pi / (2 * angle_sections)
        return cls(radial_cutoff, angular_cutoff, radial_eta, ShfR, angular_eta, zeta, ShfA, ShfZ, num_species)

    @property
    def radial_sublength(self) -> int:
        """Number of radial terms of one element."""
        return len(self.EtaR) * len(self.ShfR)

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Number of elements, then the lengths: radial of one, radial, angular of one pair, angular."""
        return self.num_species, self.radial_sublength, self.radial_length, self.angular_sublength, self.angular_length

    def constants(self) -> tuple[float, Tensor, Tensor, float, Tensor, Tensor, Tensor, Tensor]:
        """Return Rcr, EtaR, ShfR, Rca, ShfZ, EtaA, Zeta, ShfA, in this order."""
        return self.Rcr, self.EtaR, self.ShfR, self.Rca, self.ShfZ, self.EtaA, self.Zeta, self.ShfA


def _even(start: float, stop: float, divisions: int) -> Tensor:
    """Return the lower ends of ``divisions`` equal parts, float64."""
    return torch.linspace(start, stop, divisions + 1, dtype=torch.float64)[:-1]
