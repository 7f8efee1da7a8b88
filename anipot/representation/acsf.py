"""Atom-centred symmetry functions, with a set for each element (ACSF) or with weights of the elements (wACSF)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anipot.elements import atomic_numbers
from anipot.representation.parts import pair_channels
from anipot.representation.symmetry_functions import SymmetryFunctions


class ACSF(SymmetryFunctions):
    """Atom-centred symmetry functions, with a set for each element.

    Behler, doi:10.1063/1.3553717, after Behler and Parrinello, doi:10.1103/PhysRevLett.98.146401.

    Radial functions of an atom i (Behler's G2), one set for each element of the neighbor j:

        G = Σ_j exp(−γ (r_ij − μ)²) f_c(r_ij)

    Angular functions, one set for each unordered pair of elements of the neighbors j and k, as G4 or as G5:

        G4 = 2^(1−ζ) Σ_{j<k} (1 + λ cos θ_ijk)^ζ exp(−γ (r_ij² + r_ik² + r_jk²)) f_c(r_ij) f_c(r_ik) f_c(r_jk)
        G5 = 2^(1−ζ) Σ_{j<k} (1 + λ cos θ_ijk)^ζ exp(−γ (r_ij² + r_ik²)) f_c(r_ij) f_c(r_ik)

    θ_ijk is the angle at i. Every pair of neighbors counts once, as in n2p2 and DScribe; sums over all j and k ≠ j are
    twice as large. A triple whose r_jk is beyond the angular cutoff gives nothing to G4. With a fourth parameter μ the
    r² of the angular functions become (r − μ)², as in the wACSF paper (doi:10.1063/1.5019667). The SchNetPack paper
    (doi:10.1021/acs.jctc.8b00908) prints f_ij f_jk where f_ij f_ik, and with r_jk f_ij f_ik f_jk, is meant.

    The radial part comes first, element-major, each with the functions as they are listed. The angular part follows,
    by pairs of elements (first, first), (first, second), …, again each with the functions as they are listed.

    ``ACSF.shifted`` and ``ACSF.centred`` make functions from equidistant grids.

    Parameters
    ----------
    num_species
        Number of elements.
    cutoff
        Of the radial functions, Å.
    radial
        Rows (γ, μ) in Å⁻² and Å, γ ≥ 0. May be empty.
    angular
        Rows (γ, ζ, λ) or (γ, ζ, λ, μ): γ ≥ 0 in Å⁻², ζ ≥ 1, λ = 1 or −1, μ in Å, 0 by default. May be empty.
    form
        ``"G4"`` (default) or ``"G5"``.
    angular_cutoff
        Of the angular functions, Å; at most ``cutoff``, which is the default.
    cutoff_function
        f_c: ``CosineCutoff()`` (default), ``SmoothCutoff()`` or any module that takes (distances, cutoff).

    Raises
    ------
    ValueError
        For cutoffs, rows or forms that make no sense, and where there is no function at all.

    Notes
    -----
    Each argument is an attribute of the same name; ``radial`` (R, 2) and ``angular`` (M, 4) are float64 tensors that
    do not follow ``.float()``. Features come in the dtype of the coordinates.

    Examples
    --------
    >>> import torch
    >>> acsf = ACSF(2, 5.0, radial=[(0.5, 0.0), (4.0, 1.5)], angular=[(0.01, 1, 1), (0.01, 1, -1), (0.01, 4, 1)])
    >>> species, coordinates = torch.tensor([[1, 0, 0, 0, 0]]), 2 * torch.rand(1, 5, 3)
    >>> acsf((species, coordinates)).features.shape  # 2 elements · 2 + 3 pairs of elements · 3
    torch.Size([1, 5, 13])
    """

    pair_channel: Tensor

    def __init__(
        self,
        num_species: int,
        cutoff: float,
        radial: Iterable[Any] = (),
        angular: Iterable[Any] = (),
        form: str = "G4",
        angular_cutoff: float | None = None,
        cutoff_function: nn.Module | None = None,
    ) -> None:
        num_species = int(num_species)
        if num_species < 1:
            raise ValueError(f"num_species must be at least 1, got {num_species}")
        num_channels = num_species, num_species * (num_species + 1) // 2
        super().__init__(num_species, num_channels, cutoff, radial, angular, form, angular_cutoff, cutoff_function)
        self.register_buffer("pair_channel", pair_channels(num_species), persistent=False)

    def _of_neighbors(self, species: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, Tensor | None]:
        return species, None

    def _of_pairs(self, first: Tensor, second: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, Tensor | None]:
        return self.pair_channel[first, second], None


class wACSF(SymmetryFunctions):
    """Weighted symmetry functions (Gastegger, Schwiedrzik, Bittermann, Berzsenyi, Marquetand, doi:10.1063/1.5019667).

    The functions of ``ACSF``, with one set for all elements: neighbors count with their atomic number Z, pairs of
    neighbors with the product, so that the number of features does not grow with the number of elements.

        G  = Σ_j Z_j exp(−γ (r_ij − μ)²) f_c(r_ij)
        G4 = 2^(1−ζ) Σ_{j<k} Z_j Z_k (1 + λ cos θ_ijk)^ζ
             exp(−γ ((r_ij − μ)² + (r_ik − μ)² + (r_jk − μ)²)) f_c(r_ij) f_c(r_ik) f_c(r_jk)

    and G5 likewise without r_jk. Radial functions come first, then angular ones, each in the order in which they are
    listed. ``wACSF.shifted`` and ``wACSF.centred`` make functions from equidistant grids.

    Parameters
    ----------
    elements
        Symbols, in the order of the element indices.
    cutoff, radial, angular, form, angular_cutoff, cutoff_function
        As for ``ACSF``.
    learned
        Whether the weights are parameters, one for each element, that start as Z (default: fixed to Z).

    Raises
    ------
    ValueError
        As ``ACSF``; also for unknown symbols, and for none or the same twice.

    Notes
    -----
    Each argument is an attribute of the same name; ``weights`` (E,) are what neighbors count with, float64 unless they
    are learned.

    Examples
    --------
    >>> import torch
    >>> wacsf = wACSF.shifted(["H", "C", "N", "O"], 5.0)
    >>> species, coordinates = torch.tensor([[1, 0, 0, 0, 0]]), 2 * torch.rand(1, 5, 3)
    >>> wacsf((species, coordinates)).features.shape  # 22 radial, 10 angular
    torch.Size([1, 5, 32])
    """

    weights: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float,
        radial: Iterable[Any] = (),
        angular: Iterable[Any] = (),
        form: str = "G4",
        angular_cutoff: float | None = None,
        cutoff_function: nn.Module | None = None,
        learned: bool = False,
    ) -> None:
        elements = tuple(elements)
        numbers = atomic_numbers(elements)
        if not elements or len(set(elements)) < len(elements):
            raise ValueError(f"elements must be at least one symbol and no symbol twice, got {elements}")
        super().__init__(len(elements), (1, 1), cutoff, radial, angular, form, angular_cutoff, cutoff_function)
        self.elements = elements
        self.learned = bool(learned)
        if self.learned:
            self.weights = nn.Parameter(torch.tensor(numbers, dtype=torch.get_default_dtype()))
        else:
            self.register_buffer("weights", torch.tensor(numbers, dtype=torch.float64), persistent=False)

    def _of_neighbors(self, species: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, Tensor | None]:
        return 0, self.weights.to(dtype).index_select(0, species)

    def _of_pairs(self, first: Tensor, second: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, Tensor | None]:
        weights = self.weights.to(dtype)
        return 0, weights.index_select(0, first) * weights.index_select(0, second)
