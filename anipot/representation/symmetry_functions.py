"""Symmetry functions whatever elements mean for them: radial and angular terms, added up in channels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from anipot.neighbors.traced import all_triples, places
from anipot.representation.cutoffs import CosineCutoff
from anipot.representation.parts import NeighborhoodFeatures, within
from anipot.representation.symmetry_parameters import (
    angular_functions,
    angular_table,
    centred_gaussians,
    radial_table,
    shifted_gaussians,
)

#: Below this, (1 ± cos θ) / 2 is taken for 0 where its second derivative to the power of ζ < 2 would overflow.
_TINY = 1e-30


class SymmetryFunctions(NeighborhoodFeatures):
    """What ``ACSF`` and ``wACSF`` share: all but the channels and weights that elements have.

    Parameters
    ----------
    num_species
        Number of elements.
    num_channels
        How many sets of radial and of angular functions there are.
    cutoff, radial, angular, form, angular_cutoff, cutoff_function
        As for ``ACSF``.
    """

    radial: Tensor
    angular: Tensor

    def __init__(
        self,
        num_species: int,
        num_channels: tuple[int, int],
        cutoff: float,
        radial: Iterable[Any],
        angular: Iterable[Any],
        form: str,
        angular_cutoff: float | None,
        cutoff_function: nn.Module | None,
    ) -> None:
        super().__init__()
        self.num_species, self._num_channels = num_species, num_channels
        self.cutoff = float(cutoff)
        self.angular_cutoff = self.cutoff if angular_cutoff is None else float(angular_cutoff)
        if not 0 < self.angular_cutoff <= self.cutoff < math.inf:
            raise ValueError(
                "cutoffs must satisfy 0 < angular_cutoff <= cutoff (Å), got "
                f"angular_cutoff = {self.angular_cutoff:g}, cutoff = {self.cutoff:g}"
            )
        if form not in ("G4", "G5"):
            raise ValueError(f"form must be 'G4' (with the distance r_jk) or 'G5' (without), got {form!r}")
        self.form = form
        self.register_buffer("radial", radial_table(radial), persistent=False)
        self.register_buffer("angular", angular_table(angular), persistent=False)
        self._rows: list[list[float]] = self.angular.tolist()  # plain numbers, which a compiler can look at
        if self.num_features == 0:
            raise ValueError("there are no functions: radial and angular are both empty")
        self.cutoff_function = CosineCutoff() if cutoff_function is None else cutoff_function

    @classmethod
    def shifted(
        cls,
        elements: Any,
        /,
        cutoff: float,
        num_radial: int = 22,
        num_widths: int = 5,
        zetas: Sequence[float] = (1.0,),
        **options: Any,
    ) -> Self:
        """Return functions whose radial Gaussians stand side by side: μ on an equidistant grid, γ = 1 / (2 Δ²).

        The grid has ``num_radial`` points with spacing Δ from 0.5 Å to 0.5 Å before the cutoff. Angular functions have
        centred Gaussians (see ``centred``) for ``num_widths`` radii, each with all ζ and λ = 1, −1. The default of 22
        radial and 2 · 5 angular functions is the small set of the wACSF paper; the ends of the grids are those of its
        authors' program, SchNetPack.

        Parameters
        ----------
        elements
            First argument of the class: the number of elements for ``ACSF``, symbols for ``wACSF``.
        cutoff
            Å.
        num_radial, num_widths
            Number of radial Gaussians, and of widths of angular functions; 0 leaves the part out.
        zetas
            Angular exponents ζ.
        **options
            All other arguments of the class, by name.
        """
        radial = shifted_gaussians(cutoff, num_radial)
        return cls._with(elements, cutoff, radial, num_widths, zetas, options)

    @classmethod
    def centred(
        cls,
        elements: Any,
        /,
        cutoff: float,
        num_radial: int = 22,
        num_widths: int = 5,
        zetas: Sequence[float] = (1.0,),
        **options: Any,
    ) -> Self:
        """Return functions whose radial Gaussians have μ = 0 and graded widths, γ = 1 / (2 r²).

        The radii r are an equidistant grid from 1 Å to 0.5 Å before the cutoff. All else is as for ``shifted``.
        """
        radial = centred_gaussians(cutoff, num_radial)
        return cls._with(elements, cutoff, radial, num_widths, zetas, options)

    @classmethod
    def _with(
        cls, elements: Any, cutoff: float, radial: Any, num_widths: int, zetas: Sequence[float], options: dict[str, Any]
    ) -> Self:
        angular_cutoff = options.get("angular_cutoff")
        angular = angular_functions(cutoff if angular_cutoff is None else angular_cutoff, num_widths, zetas)
        make: Any = cls  # the arguments are those of the subclasses
        return make(elements, cutoff, radial, angular, **options)

    @property
    def num_features(self) -> int:
        """Number F of features of one atom."""
        of_neighbor, of_pair = self._num_channels
        return of_neighbor * len(self.radial) + of_pair * len(self.angular)

    def from_neighborhoods(self, center: Tensor, neighbor_species: Tensor, vectors: Tensor, num_atoms: int) -> Tensor:
        """Return the features (N, F) of N atoms from their neighbors alone.

        Parameters
        ----------
        center
            (P,) ascending, 0 … N − 1.
        neighbor_species
            (P,) element index of each neighbor.
        vectors
            (P, 3) from center to neighbor, Å; those beyond the cutoff do not count.
        num_atoms
            N.
        """
        parts = []
        if len(self.radial):
            near = within(self.cutoff, center, neighbor_species, vectors)
            parts.append(self._radial_features(*near, num_atoms))
        if len(self.angular):
            near = within(self.angular_cutoff, center, neighbor_species, vectors)
            parts.append(self._angular_features(*near, num_atoms))
        return torch.cat(parts, dim=-1)  # (N, F)

    def memory_estimate(self, center: Tensor, vectors: Tensor, num_atoms: int) -> Tensor:
        """Return roughly the bytes (N,) that the features of each atom and their gradient take in float64."""
        near = vectors.detach().norm(dim=-1) < self.angular_cutoff
        neighbors = torch.bincount(center[near], minlength=num_atoms)
        pairs = torch.bincount(center, minlength=num_atoms)
        triples_ = neighbors * (neighbors - 1) // 2
        per_pair, per_triple = 6 * len(self.radial), 6 * len(self.angular) + 60 if len(self.angular) else 0
        return 8 * (pairs * per_pair + triples_ * per_triple + 2 * self.num_features)

    def _radial_features(
        self, center: Tensor, species: Tensor, vectors: Tensor, distances: Tensor, num_atoms: int
    ) -> Tensor:
        """Σ_j exp(−γ (r_ij − μ)²) f_c(r_ij) in each channel."""
        gamma, mu = self.radial.to(distances.dtype).unbind(1)  # (R,)
        channel, weight = self._of_neighbors(species, distances.dtype)
        cut = self.cutoff_function(distances, self.cutoff)  # (P,)
        factor = cut if weight is None else cut * weight
        offset = distances[:, None] - mu
        terms = torch.exp(-gamma * offset * offset) * factor[:, None]  # (P, R)
        return _sum_rows(terms, center * self._num_channels[0] + channel, num_atoms, self._num_channels[0])

    def _angular_features(
        self, center: Tensor, species: Tensor, vectors: Tensor, distances: Tensor, num_atoms: int
    ) -> Tensor:
        """2^(1−ζ) Σ_{j<k} (1 + λ cos θ)^ζ exp(−γ Σ (r − μ)²) Π f_c(r), r = r_ij, r_ik and with G4 r_jk, by channel."""
        j, k = all_triples(center, num_atoms)
        if self.form == "G4":
            j, k = _closer_than(self.angular_cutoff, vectors, j, k)
        halves, sides = self._triangles(vectors, distances, j, k)
        cut = self.cutoff_function(distances, self.angular_cutoff)
        both = cut.index_select(0, j) * cut.index_select(0, k)  # (T,)
        if self.form == "G4":
            both = both * self.cutoff_function(sides[2], self.angular_cutoff)
        channel, weight = self._of_pairs(species[j], species[k], distances.dtype)
        terms = self._angular_terms(halves, sides, both if weight is None else both * weight)  # (T, M)
        return _sum_rows(terms, center[j] * self._num_channels[1] + channel, num_atoms, self._num_channels[1])

    def _triangles(
        self, vectors: Tensor, distances: Tensor, j: Tensor, k: Tensor
    ) -> tuple[dict[float, Tensor], list[Tensor]]:
        """Return (1 + λ cos θ) / 2 (T,) for the λ that are needed, and r_ij, r_ik, with G4 also r_jk, of each triple.

        With unit vectors u, (1 ± cos θ) / 2 = |u_j ± u_k|² / 4. Unlike 1 ± cos θ this is never negative by rounding,
        and has exact derivatives for atoms in a line.
        """
        unit = vectors / distances[:, None]
        u_j, u_k = unit.index_select(0, j), unit.index_select(0, k)
        signs = {row[2] for row in self._rows} | ({-1.0} if self.form == "G4" else set())
        halves = {sign: 0.25 * (u_j + sign * u_k).square().sum(-1) for sign in signs}
        r_j, r_k = distances.index_select(0, j), distances.index_select(0, k)
        if self.form == "G5":
            return halves, [r_j, r_k]
        # The law of cosines, r_j² + r_k² − 2 r_j r_k cos θ, as a sum of squares.
        return halves, [r_j, r_k, torch.sqrt((r_j - r_k).square() + 4 * r_j * r_k * halves[-1.0])]

    def _angular_terms(self, halves: dict[float, Tensor], sides: list[Tensor], factor: Tensor) -> Tensor:
        """Return the M functions of each triple (T, M); whatever several functions share is computed once.

        One column after the other: products of whole columns have cheaper gradients than a product that is broadcast.
        """
        spread: dict[float, Tensor] = {}  # Σ (r − μ)² by μ
        gaussian: dict[tuple[float, float], Tensor] = {}
        angle: dict[tuple[float, float], Tensor] = {}
        columns = []
        for gamma, zeta, sign, mu in self._rows:
            if mu not in spread:
                spread[mu] = torch.stack([(side - mu).square() for side in sides]).sum(0)
            if (gamma, mu) not in gaussian:
                gaussian[gamma, mu] = torch.exp(-gamma * spread[mu]) * factor
            if (zeta, sign) not in angle:
                angle[zeta, sign] = 2 * _power(halves[sign], zeta)
            columns.append(gaussian[gamma, mu] * angle[zeta, sign])
        return torch.stack(columns, dim=-1)

    def _of_neighbors(self, species: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, Tensor | None]:
        """Return the channel and the weight of each neighbor (P,); no weight is a weight of 1."""
        raise NotImplementedError

    def _of_pairs(self, first: Tensor, second: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, Tensor | None]:
        """Return the channel and the weight of each pair of neighbors (T,)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (
            f"cutoff={self.cutoff}, angular_cutoff={self.angular_cutoff}, num_species={self.num_species}, "
            f"form={self.form}, radial functions: {len(self.radial)}, angular functions: {len(self.angular)}"
        )


def _closer_than(cutoff: float, vectors: Tensor, j: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the triples (T,) whose neighbors are closer to each other than the cutoff."""
    vectors = vectors.detach()
    apart = (vectors.index_select(0, j) - vectors.index_select(0, k)).square().sum(-1)
    near = places(apart < cutoff * cutoff)
    return j[near], k[near]


def _power(base: Tensor, exponent: float) -> Tensor:
    """``base`` ≥ 0 to a power ≥ 1, with finite first and second derivatives also at 0.

    Whole powers are products, several times faster than ``torch.pow``.
    """
    if exponent != int(exponent):
        # The second derivative along coordinates vanishes at 0, but x^(ζ−2) does not; the constant below has neither.
        return torch.pow(base.clamp(min=_TINY), exponent)
    result, rest = None, int(exponent)
    while True:
        if rest & 1:
            result = base if result is None else result * base
        rest >>= 1
        if not rest:
            assert result is not None  # the exponent is at least 1
            return result
        base = base * base


def _sum_rows(terms: Tensor, row: Tensor, num_atoms: int, num_channels: int) -> Tensor:
    """Add up terms (T, M) of each row, that is of each atom and channel: (N, channels · M)."""
    out = terms.new_zeros(num_atoms * num_channels, terms.shape[1])
    return out.index_add(0, row, terms).view(num_atoms, num_channels * terms.shape[1])
