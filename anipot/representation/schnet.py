"""SchNet and sc-SchNet: continuous-filter convolutions over the neighbors of an atom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anipot.head.dense import GLOBAL_HOOKS, hooks_of, replaced
from anipot.head.networks import ShiftedSoftplus
from anipot.kernels import messages as kernels
from anipot.neighbors import Pairs
from anipot.representation.cutoffs import NATIVE_CUTOFFS
from anipot.representation.layers import dense
from anipot.representation.message_passing import MessagePassing, decay_of, interactions, without_ghosts
from anipot.representation.messages import HalfPairs, convolve, half_pairs
from anipot.representation.parts import surroundings
from anipot.representation.radial import GaussianBasis


class SchNetInteraction(nn.Module):
    """v = W₃ ssp(W₂ cfconv(W₁ x) + b₂) + b₃, with cfconv_i = Σ_j x_j ∘ W(r_ij) (doi:10.1063/1.5019779, eqs. 4 to 9).

    Parameters
    ----------
    num_features, num_filters, num_functions
        Length F of the features, of the filters, and number K of basis functions of the distance.
    filters_activated
        Whether the filter network ends with an activation, as in the first article, or without, as in SchNetPack.
    """

    def __init__(self, num_features: int, num_filters: int, num_functions: int, filters_activated: bool) -> None:
        super().__init__()
        self.inward = dense(num_features, num_filters, bias=False)
        self.filters = nn.Sequential(
            dense(num_functions, num_filters), ShiftedSoftplus(), dense(num_filters, num_filters)
        )
        if filters_activated:
            self.filters.append(ShiftedSoftplus())
        self.outward = nn.Sequential(
            dense(num_filters, num_features), ShiftedSoftplus(), dense(num_features, num_features)
        )

    def forward(self, x: Tensor, basis: Tensor, decay: Tensor | None, pairs: HalfPairs) -> Tensor:
        """Return the corrections (N, F) to features (N, F)."""
        return self.outward(convolve(self.inward(x), self.filters(basis), pairs, decay))

    def constants(self, like: Tensor, grid: kernels.FilterConstants) -> kernels.InteractionConstants | None:
        """Return what the kernels need for one derivative by features and distances; None where torch computes.

        Parameters
        ----------
        like
            Distances, for dtype and device.
        grid
            Filters without layers.
        """
        inward, inner, outer = self.inward, _native_layers(self.filters, like), _native_layers(self.outward, like)
        if type(self) is not SchNetInteraction or _watched([self, inward]) or type(inward) is not nn.Linear:
            return None
        if inner is None or outer is None or outer[1].activated or not kernels.covers(like, *inward.parameters()):
            return None
        filters = grid._replace(layers=inner)
        return kernels.InteractionConstants(kernels.Layer(inward.weight, inward.bias), outer, filters)


class SchNet(MessagePassing):
    r"""SchNet (Schütt et al., doi:10.1063/1.5019779): x⁰ = embedding of the element, then T times x ← x + v(x).

        v = W₃ ssp(W₂ cfconv(W₁ x)),   cfconv_i = Σ_j x_j ∘ W(r_ij)

    with the filter W a network of two layers on Gaussians exp(−γ (r − μ_k)²) of the distance, brought to zero by a
    cutoff function, and ssp(x) = ln(½ eˣ + ½). The filters of a pair serve both directions and are computed once.

    Parameters
    ----------
    num_species
        Number of elements E.
    num_features
        F, 128 by default.
    num_interactions
        T, 3 by default; each has weights of its own.
    cutoff
        Å, 5 by default; ``math.inf`` for all pairs of a molecule.
    basis
        Functions of the distance; by default 25 Gaussians from 0 to the cutoff.
    cutoff_function
        ``CosineCutoff()`` by default, ``SmoothCutoff()`` is the mollifier; none for an infinite cutoff.
    num_filters
        F by default.
    shared_interactions
        Whether all interactions share their weights.
    filters_activated
        Whether the filter network ends with an activation.

    Raises
    ------
    ValueError
        For numbers that make no sense.

    Examples
    --------
    >>> import torch
    >>> schnet = SchNet(num_species=4, num_features=32)
    >>> schnet((torch.tensor([[1, 0, 0, 0, 0, -1]]), 2 * torch.rand(1, 6, 3))).features.shape
    torch.Size([1, 6, 32])
    """

    def __init__(
        self,
        num_species: int,
        num_features: int = 128,
        num_interactions: int = 3,
        cutoff: float = 5.0,
        basis: nn.Module | None = None,
        cutoff_function: nn.Module | None = None,
        num_filters: int | None = None,
        shared_interactions: bool = False,
        filters_activated: bool = False,
    ) -> None:
        if basis is None:
            if not 0 < cutoff < math.inf:
                raise ValueError(f"cutoff must be positive (Å), and finite where no basis is given, got {cutoff}")
            basis = GaussianBasis.equidistant(25, cutoff)
        cutoff_function = decay_of(cutoff, cutoff_function)
        super().__init__(num_species, num_features, num_interactions, basis, cutoff, cutoff_function)
        self.num_filters = num_features if num_filters is None else num_filters
        if int(self.num_filters) != self.num_filters or self.num_filters < 1:
            raise ValueError(f"num_filters must be a positive integer, got {num_filters}")
        self.shared_interactions, self.filters_activated = shared_interactions, filters_activated
        sizes = num_features, self.num_filters, int(basis.num_functions)  # type: ignore[arg-type]
        self.interactions = interactions(
            lambda: SchNetInteraction(*sizes, filters_activated), num_interactions, shared_interactions
        )

    @classmethod
    def original(cls, num_species: int) -> SchNet:
        """Return the settings of the first article: F = 64, T = 3, centers every 0.1 Å up to 30 Å, no cutoff."""
        centers = torch.arange(301, dtype=torch.float64) / 10
        return cls(num_species, 64, 3, math.inf, GaussianBasis(centers, 10.0), filters_activated=True)

    @classmethod
    def like_schnetpack(cls, num_species: int, num_interactions: int = 3, num_functions: int = 25) -> SchNet:
        """Return the settings of SchNetPack (doi:10.1021/acs.jctc.8b00908): F = 128, Gaussians, cosine at 5 Å."""
        return cls(num_species, 128, num_interactions, 5.0, GaussianBasis.equidistant(num_functions, 5.0))

    def from_pairs(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> Tensor:
        """Return the features (N, F) of N flat slots with element indices ``species`` (N,), given vectors (P, 3)."""
        return without_ghosts(species, self._steps(species, pairs, vectors)[0])

    def _steps(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the sum of the embedding and of the corrections of all interactions, and each of them, (N, F).

        Ghosts, whom nobody sees, get the biases and are left in.
        """
        vectors = vectors.to(self.embedding.weight.dtype)
        half = half_pairs(pairs, vectors, self.cutoff, len(species))
        native = self._native_interactions(half)
        if native is None:
            basis, decay = self.basis(half.distances), self.decay(half.distances)
        x = self.embed(species)
        steps = [x]
        for i, interaction in enumerate(self.interactions):
            if native is None:
                v = interaction(x, basis, decay, half)
            else:
                v = kernels.interaction(x, half.distances, native[i], half.graph)  # type: ignore[arg-type]
            steps.append(v)
            x = x + v
        return x, steps

    def _native_interactions(self, half: HalfPairs) -> list[kernels.InteractionConstants] | None:
        """Return the interactions as the kernels take them; None where torch computes them."""
        basis, decay = self.basis, self.cutoff_function
        known = decay is None or type(decay) in NATIVE_CUTOFFS
        if kernels.higher_derivatives() or half.graph is None or type(basis) is not GaussianBasis or not known:
            return None
        if torch.is_autocast_enabled("cpu") or basis.gammas.shape != basis.centers.shape:
            return None
        if any(GLOBAL_HOOKS) or _watched([basis] if decay is None else [basis, decay]):
            return None
        padding, constants = (0, -basis.num_functions % 16), (basis.centers, basis.gammas)
        centers, gammas = (nn.functional.pad(c.detach().to(half.distances), padding) for c in constants)
        kind = -1 if decay is None else NATIVE_CUTOFFS[type(decay)]
        cutoff = self.cutoff, kind, getattr(decay, "order", 2), getattr(decay, "eps", 0.0)
        grid = kernels.FilterConstants(centers, gammas, (), *cutoff)
        n, k = self.num_filters, basis.num_functions
        found = []
        for interaction in self.interactions:
            of = interaction.constants(half.distances, grid)  # type: ignore[operator]
            if of is None or [tuple(layer.weight.shape) for layer in of.filters.layers] != [(n, k), (n, n)]:
                return None
            found.append(of)
        return found

    def _bytes_per_pair(self) -> int:
        return 8 * (self.num_interactions * 3 * self.num_filters + 3 * int(self.basis.num_functions))  # type: ignore[arg-type]


def _watched(modules: Sequence[nn.Module]) -> bool:
    """Whether something wants to see these modules called, or calls something else."""
    return any(hooks_of(modules)) or replaced(modules)


def _native_layers(network: nn.Sequential, like: Tensor) -> list[kernels.Layer] | None:
    """Return two dense layers and what follows them; None where torch computes them."""
    parts: list[Any] = list(network)
    if [type(part) for part in parts] not in _NETWORKS or _watched([network, *parts]):
        return None
    linears = parts[::2]
    layers = [kernels.Layer(one.weight, one.bias, 2 * i + 1 < len(parts)) for i, one in enumerate(linears)]
    tensors = [t for layer in layers for t in layer[:2] if t is not None]
    if not kernels.covers(like, *tensors) or not all(t.is_contiguous() for t in tensors):
        return None
    if any(layer.bias is not None and layer.bias.shape != layer.weight.shape[:1] for layer in layers):
        return None
    return layers


_NETWORKS = (
    [nn.Linear, ShiftedSoftplus, nn.Linear],
    [nn.Linear, ShiftedSoftplus, nn.Linear, ShiftedSoftplus],
)


class ScSchNet(SchNet):
    r"""sc-SchNet: SchNet whose features are weighed sums of what each interaction has contributed.

        x_out = Σ_{l=0…T} w(l) v(l)

    with v(0) the embedding and v(l) the correction of interaction l, which still follow x ← x + v. The weights w(l) are
    trained; they start equal and sum to one. ``contributions`` tells how much each layer contributes.

    Parameters are those of ``SchNet``.

    Examples
    --------
    >>> import torch
    >>> model = ScSchNet(num_species=4, num_features=32)
    >>> model.contributions((torch.tensor([[1, 0, 0, 0, 0, -1]]), 2 * torch.rand(1, 6, 3))).shape
    torch.Size([4])
    """

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        steps = self.num_interactions + 1
        self.contribution_weights = nn.Parameter(torch.full((steps,), 1 / steps))

    def from_pairs(self, species: Tensor, pairs: Pairs, vectors: Tensor) -> Tensor:
        """Return the features (N, F) of N flat slots with element indices ``species`` (N,), given vectors (P, 3)."""
        steps = torch.stack(self._steps(species, pairs, vectors)[1])  # (T + 1, N, F)
        return without_ghosts(species, torch.einsum("l,lnf->nf", self.contribution_weights, steps))

    @torch.no_grad()
    def contributions(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> Tensor:
        """Return ŵ(l) = ‖v(l)‖_avg w(l) (T + 1,), with the norm averaged over the atoms of the batch.

        Arguments are those of ``forward``.
        """
        system, pairs, vectors = surroundings(input_, cell, pbc, self.num_species, self.cutoff)
        flat = system.species.reshape(-1)
        steps = torch.stack(self._steps(flat, pairs, vectors)[1])[:, flat >= 0]
        return steps.norm(dim=-1).sum(-1) / max(1, steps.shape[1]) * self.contribution_weights
