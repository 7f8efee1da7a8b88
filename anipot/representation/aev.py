"""Atomic environment vectors of the ANI potentials."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anipot.kernels import aev as kernels
from anipot.neighbors.traced import all_triples
from anipot.representation.cutoffs import NATIVE_CUTOFFS, CosineCutoff
from anipot.representation.parts import NeighborhoodFeatures, pair_channels, within


class AEVComputer(NeighborhoodFeatures):
    r"""Atomic environment vectors (Smith, Isayev, Roitberg, doi:10.1039/C6SC05720A, eqs. 3 and 4).

    Radial terms of an atom i, one set for each element of the neighbor j:

        G_m = ¼ Σ_j exp(−EtaR (R_ij − ShfR_m)²) f_c(R_ij)

    Angular terms, one set for each unordered pair of elements of the neighbors j and k:

        G_m = 2 Σ_{j<k} ((1 + cos(θ_ijk − ShfZ)) / 2)^Zeta exp(−EtaA ((R_ij + R_ik) / 2 − ShfA)²) f_c(R_ij) f_c(R_ik)
        θ_ijk = arccos(0.95 cos ∠jik)

    The paper prints neither the ¼ nor the 0.95 (which keeps the derivative of the arccos finite for atoms in a line);
    the published weights need both. Its 2^(1−Zeta) is the 2 and the ½ inside the power.

    The radial part comes first, element-major, ordered as EtaR × ShfR; the angular part follows, by pairs of elements
    (first, first), (first, second), …, ordered as EtaA × Zeta × ShfA × ShfZ.

    Parameters
    ----------
    Rcr, Rca
        Radial and angular cutoff, Å; 0 < Rca ≤ Rcr.
    EtaR, ShfR
        Exponents (Å⁻²) and centers (Å) of the radial terms.
    EtaA, Zeta, ShfA, ShfZ
        Radial exponents (Å⁻²), angular exponents, centers (Å) and angles (radian) of the angular terms. Either kind of
        term may be left out: all of its constants are empty then.
    num_species
        Number of elements.
    cutoff_function
        ``CosineCutoff()`` (default), ``SmoothCutoff()`` or any module that takes (distances, cutoff).

    Raises
    ------
    ValueError
        For cutoffs or constants that make no sense.

    Notes
    -----
    Constants are kept in float64 and do not follow ``.float()``. Numbers or tensors of one dimension are accepted.
    Features come in the dtype of the coordinates.

    Examples
    --------
    >>> import torch
    >>> aev = AEVComputer.like_1x()
    >>> species, coordinates = torch.tensor([[1, 0, 0, 0, 0]]), 2 * torch.rand(1, 5, 3)
    >>> aev((species, coordinates)).features.shape
    torch.Size([1, 5, 384])
    """

    EtaR: Tensor
    ShfR: Tensor
    EtaA: Tensor
    Zeta: Tensor
    ShfA: Tensor
    ShfZ: Tensor
    pair_channel: Tensor

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
        cutoff_function: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.Rcr, self.Rca, self.num_species = float(Rcr), float(Rca), int(num_species)
        if not 0 < self.Rca <= self.Rcr:
            raise ValueError(f"cutoffs must satisfy 0 < Rca <= Rcr (Å), got Rca = {self.Rca}, Rcr = {self.Rcr}")
        if self.num_species < 1:
            raise ValueError(f"num_species must be at least 1, got {num_species}")
        constants = {"EtaR": EtaR, "ShfR": ShfR, "EtaA": EtaA, "Zeta": Zeta, "ShfA": ShfA, "ShfZ": ShfZ}
        for name, values in constants.items():
            self.register_buffer(name, _constants(name, values), persistent=False)
        self._check_complete()
        self.cutoff_function = CosineCutoff() if cutoff_function is None else cutoff_function
        self.register_buffer("pair_channel", pair_channels(self.num_species), persistent=False)

    def _check_complete(self) -> None:
        """Refuse constants that are there for a part of a term only, or for no term at all."""
        for names in (("EtaR", "ShfR"), ("EtaA", "Zeta", "ShfA", "ShfZ")):
            empty = [name for name in names if len(getattr(self, name)) == 0]
            if empty and len(empty) < len(names):
                raise ValueError(
                    f"{', '.join(empty)} must be one or more finite numbers, got none; "
                    f"all of {', '.join(names)} are empty where these terms are left out"
                )
        if self.num_features == 0:
            raise ValueError("there are no terms: the constants of the radial and of the angular terms are all empty")

    @classmethod
    def like_1x(cls, num_species: int = 4) -> AEVComputer:
        """Return the AEVs of ANI-1x and ANI-1ccx."""
        ShfR = [0.9, 1.16875, 1.4375, 1.70625, 1.975, 2.24375, 2.5125, 2.78125]
        ShfR += [3.05, 3.31875, 3.5875, 3.85625, 4.125, 4.39375, 4.6625, 4.93125]
        ShfZ = [0.19634954, 0.58904862, 0.9817477, 1.3744468, 1.7671459, 2.1598449, 2.552544, 2.9452431]
        return cls(5.2, 3.5, 16.0, ShfR, 8.0, 32.0, [0.9, 1.55, 2.2, 2.85], ShfZ, num_species)

    @classmethod
    def like_2x(cls, num_species: int = 7) -> AEVComputer:
        """Return the AEVs of ANI-2x."""
        ShfR = [0.8, 1.06875, 1.3375, 1.60625, 1.875, 2.14375, 2.4125, 2.68125]
        ShfR += [2.95, 3.21875, 3.4875, 3.75625, 4.025, 4.29375, 4.5625, 4.83125]
        ShfA = [0.8, 1.1375, 1.475, 1.8125, 2.15, 2.4875, 2.825, 3.1625]
        ShfZ = [0.39269908, 1.1780972, 1.9634954, 2.7488936]
        return cls(5.1, 3.5, 19.7, ShfR, 12.5, 14.1, ShfA, ShfZ, num_species)

    @property
    def cutoff(self) -> float:
        """Distance in Å beyond which no atom matters."""
        return self.Rcr

    @property
    def radial_length(self) -> int:
        """Number of radial terms of all elements."""
        return self.num_species * len(self.EtaR) * len(self.ShfR)

    @property
    def angular_sublength(self) -> int:
        """Number of angular terms of one pair of elements."""
        return len(self.EtaA) * len(self.Zeta) * len(self.ShfA) * len(self.ShfZ)

    @property
    def angular_length(self) -> int:
        """Number of angular terms of all pairs of elements."""
        return self.num_species * (self.num_species + 1) // 2 * self.angular_sublength

    @property
    def num_features(self) -> int:
        """Length F of one AEV."""
        return self.radial_length + self.angular_length

    @property
    def aev_length(self) -> int:
        """Length of one AEV, under the name that TorchANI gives it."""
        return self.num_features

    def from_neighborhoods(self, center: Tensor, neighbor_species: Tensor, vectors: Tensor, num_atoms: int) -> Tensor:
        """Return the AEVs (N, F) of N atoms from their neighbors alone.

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
        native = self.native_constants(vectors)
        if native is not None:
            return kernels.aev(center, neighbor_species, vectors, *native, num_atoms)
        center, neighbor_species, vectors, distances = within(self.Rcr, center, neighbor_species, vectors)
        radial = self._radial(center, neighbor_species, distances, num_atoms)
        if self.angular_length == 0:
            return radial
        center, neighbor_species, vectors, distances = within(self.Rca, center, neighbor_species, vectors)
        angular = self._angular(center, neighbor_species, vectors, distances, num_atoms)
        return torch.cat([radial, angular], dim=-1)  # (N, F)

    def native_constants(self, vectors: Tensor) -> tuple[Tensor, list[int]] | None:
        """Return what the kernels have to know of these AEVs, or None where torch computes them from the vectors."""
        if self.radial_length == 0 or self.angular_length == 0:
            return None  # the kernels expect both kinds of terms
        kind = NATIVE_CUTOFFS.get(type(self.cutoff_function))
        if kind is None or not kernels.covers(vectors) or kernels.learned(self):
            return None
        constants, sizes = kernels.constants_and_sizes(self, kind)
        return (constants, sizes) if kernels.ready(vectors, sizes) else None

    def memory_estimate(self, center: Tensor, vectors: Tensor, num_atoms: int) -> Tensor:
        """Return roughly the bytes (N,) that the features of each atom and their gradient take in float64."""
        near = vectors.detach().norm(dim=-1) < self.Rca
        neighbors = torch.bincount(center[near], minlength=num_atoms)
        pairs = torch.bincount(center, minlength=num_atoms)
        triples_ = neighbors * (neighbors - 1) // 2
        per_pair, per_triple = 6 * len(self.ShfR) * len(self.EtaR), 4 * self.angular_sublength + 40
        if self.native_constants(vectors) is not None:
            per_pair, per_triple = 20, 0  # the kernels keep no terms
        return 8 * (pairs * per_pair + triples_ * per_triple + 2 * self.num_features)

    def _radial(self, center: Tensor, neighbor_species: Tensor, distances: Tensor, num_atoms: int) -> Tensor:
        EtaR, ShfR = self.EtaR.to(distances.dtype), self.ShfR.to(distances.dtype)
        cut = 0.25 * self.cutoff_function(distances, self.Rcr)  # (P,)
        offset = distances[:, None, None] - ShfR  # (P, 1, ShfR)
        terms = torch.exp(-EtaR[:, None] * offset * offset) * cut[:, None, None]  # (P, EtaR, ShfR)
        out = terms.new_zeros(num_atoms * self.num_species, terms.shape[1] * terms.shape[2])
        out = out.index_add(0, center * self.num_species + neighbor_species, terms.flatten(1))
        return out.view(num_atoms, self.radial_length)

    def _angular(
        self, center: Tensor, neighbor_species: Tensor, vectors: Tensor, distances: Tensor, num_atoms: int
    ) -> Tensor:
        j, k = all_triples(center, num_atoms)
        unit = vectors / distances[:, None]
        cosine = (unit.index_select(0, j) * unit.index_select(0, k)).sum(-1)  # (T,)
        angular = self._angles(cosine)  # (T, Zeta, ShfZ)
        radial = self._mean_distances(distances, j, k)  # (T, EtaA, ShfA)
        terms = radial[:, :, None, :, None] * angular[:, None, :, None, :]  # (T, EtaA, Zeta, ShfA, ShfZ)
        num_channels = self.num_species * (self.num_species + 1) // 2
        channel = self.pair_channel[neighbor_species[j], neighbor_species[k]]
        out = terms.new_zeros(num_atoms * num_channels, self.angular_sublength)
        out = out.index_add(0, center[j] * num_channels + channel, terms.flatten(1))
        return out.view(num_atoms, self.angular_length)

    def _angles(self, cosine: Tensor) -> Tensor:
        """2 ((1 + cos(θ − ShfZ)) / 2)^Zeta with cos θ = 0.95 ``cosine`` and no arccos: (T, Zeta, ShfZ)."""
        Zeta, ShfZ = self.Zeta.to(cosine.dtype), self.ShfZ.to(cosine.dtype)
        x = 0.95 * cosine
        y = torch.sqrt(1 - x * x)
        half = 0.5 * (1 + x[:, None] * torch.cos(ShfZ) + y[:, None] * torch.sin(ShfZ))
        half = half.clamp(min=0)  # rounding may leave −1e-17, and that to the power of 14.1 is NaN
        if len(Zeta) == 1:  # a plain number is much faster than a tensor of exponents
            return 2 * torch.pow(half, float(self.Zeta[0]))[:, None]
        return 2 * torch.pow(half[:, None], Zeta[:, None])

    def _mean_distances(self, distances: Tensor, j: Tensor, k: Tensor) -> Tensor:
        """exp(−EtaA ((R_ij + R_ik) / 2 − ShfA)²) f_c(R_ij) f_c(R_ik): (T, EtaA, ShfA)."""
        EtaA, ShfA = self.EtaA.to(distances.dtype), self.ShfA.to(distances.dtype)
        cut = self.cutoff_function(distances, self.Rca)
        both = cut.index_select(0, j) * cut.index_select(0, k)
        mean = 0.5 * (distances.index_select(0, j) + distances.index_select(0, k))
        offset = mean[:, None, None] - ShfA  # (T, 1, ShfA)
        return torch.exp(-EtaA[:, None] * offset * offset) * both[:, None, None]

    def extra_repr(self) -> str:
        return (
            f"Rcr={self.Rcr}, Rca={self.Rca}, num_species={self.num_species}, "
            f"radial_length={self.radial_length}, angular_length={self.angular_length}"
        )


def _constants(name: str, values: Sequence[float] | Tensor | float) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float64).detach().clone().reshape(-1)
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} must be finite numbers, got {tensor.tolist()}")
    if name in ("EtaR", "EtaA", "Zeta") and (tensor <= 0).any():
        raise ValueError(f"{name} must be positive, got {tensor.tolist()}")
    return tensor
