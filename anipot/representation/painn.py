"""PaiNN: message passing with features that turn with the molecule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anipot.neighbors import Pairs
from anipot.representation.layers import dense
from anipot.representation.message_passing import MessagePassing, decay_of, interactions, own, without_ghosts
from anipot.representation.messages import HalfPairs, convolve, convolve_along, half_pairs
from anipot.representation.radial import BesselBasis


class PaiNNMessage(nn.Module):
    """What neighbors send (doi:10.48550/arXiv.2102.03150, eqs. 7 and 8).

        Δs_i = Σ_j φ_s(s_j) ∘ W_s(r_ij)
        Δv_i = Σ_j v_j ∘ φ_vv(s_j) ∘ W_vv(r_ij) + φ_vs(s_j) ∘ W_vs(r_ij) u_ij

    with u_ij the unit vector from i to j.
    """

    def __init__(self, num_features: int, activation: nn.Module) -> None:
        super().__init__()
        self.context = nn.Sequential(
            dense(num_features, num_features), own(activation), dense(num_features, 3 * num_features)
        )

    def forward(
        self, s: Tensor, v: Tensor, filters: Sequence[Tensor], unit: Tensor, pairs: HalfPairs
    ) -> tuple[Tensor, Tensor]:
        """Return Δs (N, F) and Δv (N, 3, F), given W_s, W_vs and W_vv (P, F) each and unit vectors (P, 3)."""
        to_s, vs, vv = self.context(s).chunk(3, dim=-1)
        w_s, w_vs, w_vv = filters
        ds = convolve(to_s, w_s, pairs)
        return ds, convolve(v * vv[:, None], w_vv, pairs) + convolve_along(vs, w_vs, unit, pairs)


class PaiNNMixing(nn.Module):
    """What the features of one atom do to each other (doi:10.48550/arXiv.2102.03150, eqs. 9 and 10).

    Δs = a_ss + a_sv ⟨U v, V v⟩,   Δv = a_vv ∘ U v,   (a_ss, a_vv, a_sv) = network(s, ‖V v‖)
    """

    def __init__(self, num_features: int, activation: nn.Module, epsilon: float) -> None:
        super().__init__()
        self.context = nn.Sequential(
            dense(2 * num_features, num_features), own(activation), dense(num_features, 3 * num_features)
        )
        self.mix = dense(num_features, 2 * num_features, bias=False)
        self.epsilon = epsilon

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return Δs (N, F) and Δv (N, 3, F)."""
        V, U = self.mix(v).chunk(2, dim=-1)
        norm = torch.sqrt((V * V).sum(1) + self.epsilon)
        a_ss, a_vv, a_sv = self.context(torch.cat([s, norm], dim=-1)).chunk(3, dim=-1)
        return a_ss + a_sv * (V * U).sum(1), a_vv[:, None] * U


class PaiNN(MessagePassing):
    r"""PaiNN (Schütt, Unke, Gastegger, doi:10.48550/arXiv.2102.03150).

    Each atom has features s (F) that do not change and v (3, F) that turn when the molecule is turned; T rounds of
    messages and of mixing within the atom. ``forward`` returns s; ``scalars_and_vectors`` both.

    Parameters
    ----------
    num_species
        Number of elements E.
    num_features
        F, 128 by default.
    num_interactions
        T, 3 by default.
    cutoff
        Å, 5 by default.
    basis
        Functions of the distance; by default the 20 Bessel functions of the article.
    cutoff_function
        ``CosineCutoff()`` by default.
    activation
        ``SiLU`` by default.
    shared_interactions, shared_filters
        Whether all rounds share the weights of their networks, and of their filters.
    epsilon
        Added below the root of ‖V v‖, whose derivative is finite at 0 thereby.

    Raises
    ------
    ValueError
        For numbers that make no sense.

    Examples
    --------
    >>> import torch
    >>> painn = PaiNN(num_species=4, num_features=32)
    >>> painn((torch.tensor([[1, 0, 0, 0, 0, -1]]), 2 * torch.rand(1, 6, 3))).features.shape
    torch.Size([1, 6, 32])
    """

    #: More than for SchNet: each block costs several hundred calls.
    block_bytes = 256 * 2**20

    def __init__(
        self,
        num_species: int,
        num_features: int = 128,
        num_interactions: int = 3,
        cutoff: float = 5.0,
        basis: nn.Module | None = None,
        cutoff_function: nn.Module | None = None,
        activation: nn.Module | None = None,
        shared_interactions: bool = False,
        shared_filters: bool = False,
        epsilon: float = 1e-8,
    ) -> None:
        basis = BesselBasis(20, cutoff) if basis is None else basis
        cutoff_function = decay_of(cutoff, cutoff_function)
        super().__init__(num_species, num_features, num_interactions, basis, cutoff, cutoff_function)
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.activation = nn.SiLU() if activation is None else activation
        self.shared_interactions, self.shared_filters, self.epsilon = shared_interactions, shared_filters, epsilon
        rounds = 1 if shared_filters else num_interactions
        self.filters = dense(int(basis.num_functions), rounds * 3 * num_features)  # type: ignore[arg-type]
        act = self.activation
        self.messages = interactions(lambda: PaiNNMessage(num_features, act), num_interactions, shared_interactions)
        self.mixing = interactions(
            lambda: PaiNNMixing(num_features, act, epsilon), num_interactions, shared_interactions
        )

    def from_pairs(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> Tensor:
        """Return the features (N, F) of N flat slots with element indices ``species`` (N,), given vectors (P, 3)."""
        return self.scalars_and_vectors(species, pairs, vectors)[0]

    def scalars_and_vectors(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, F) and (N, 3, F), the latter turning with the molecule; arguments as ``from_pairs``."""
        vectors = vectors.to(self.embedding.weight.dtype)
        half = half_pairs(pairs, vectors, self.cutoff, len(species))
        each = self._filters(half.distances)
        unit = half.vectors / half.distances[:, None]
        s = self.embed(species)
        v = s.new_zeros(len(s), 3, self.num_features)
        for message, mixing, w in zip(self.messages, self.mixing, each, strict=True):
            ds, dv = message(s, v, w, unit, half)
            s, v = s + ds, v + dv
            ds, dv = mixing(s, v)
            s, v = s + ds, v + dv
        return without_ghosts(species, s), v  # the vectors of ghosts are sums over no neighbors

    def _filters(self, distances: Tensor) -> list[list[Tensor]]:
        """Return W_s, W_vs and W_vv (P, F) of each round.

        They are linear in the basis, so that the cutoff function is brought in there, where numbers are few.
        """
        basis, decay = self.basis(distances), self.decay(distances)
        ones = torch.ones_like(distances)[:, None] if decay is None else decay
        basis = torch.cat([basis if decay is None else basis * decay, ones], dim=-1)  # (P, K + 1)
        weights = torch.cat([self.filters.weight, self.filters.bias[:, None]], dim=-1)
        parts = [basis @ part.T for part in weights.split(self.num_features)]
        rounds = [parts[i : i + 3] for i in range(0, len(parts), 3)]
        return rounds * self.num_interactions if self.shared_filters else rounds

    def _bytes_per_pair(self) -> int:
        return 8 * self.num_interactions * 20 * self.num_features
