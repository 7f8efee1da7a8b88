"""The pieces that are exported, on small seeded networks, and structures to try them on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from anipot import (
    CELU,
    AEVComputer,
    ANIModel,
    AtomicNetwork,
    EnergyShifter,
    Ensemble,
    Gaussian,
    Potential,
    SmoothCutoff,
)

ELEMENTS = ("H", "C", "N", "O")
SELF_ENERGIES = [-0.6, -38.1, -54.7, -75.2]


def user_aev() -> AEVComputer:
    """AEVs with several values of every constant and the smooth cutoff."""
    return AEVComputer(
        4.6, 3.1, [9.0, 16.0], [0.8, 1.9, 3.0], [6.0, 9.0], [8.0, 14.1], [0.9, 1.8], [0.3, 1.2, 2.1], 4, SmoothCutoff()
    )


REPRESENTATIONS: dict[str, Callable[[], nn.Module]] = {
    "aev_1x": AEVComputer.like_1x,
    "aev_2x": lambda: AEVComputer.like_2x(num_species=4),
    "aev_user": user_aev,
}


def _networks(num_features: int, activation: nn.Module) -> ANIModel:
    return ANIModel([AtomicNetwork((num_features, 12 + e, 8, 1), activation) for e in range(4)])


HEADS: dict[str, Callable[[int], nn.Module]] = {
    "ani_celu": lambda n: _networks(n, CELU(0.1)),
    "ani_gaussian": lambda n: _networks(n, Gaussian()),
    "ensemble": lambda n: Ensemble([_networks(n, CELU(0.1)) for _ in range(3)]),
}

PAIRS = [(r, h) for r in REPRESENTATIONS for h in HEADS]


def potential(representation: str, head: str) -> Potential:
    """Return a seeded float64 potential."""
    torch.manual_seed(7)
    rep = REPRESENTATIONS[representation]()
    model = Potential(ELEMENTS, rep, HEADS[head](rep.num_features), EnergyShifter(SELF_ENERGIES), name="contract")
    return model.double()


def molecule(num_atoms: int, seed: int, spacing: float = 1.3) -> tuple[Tensor, Tensor]:
    """Return atomic numbers (a,) and coordinates (a, 3) of atoms scattered without clashes."""
    generator = torch.Generator().manual_seed(seed)
    side = int(num_atoms ** (1 / 3)) + 2
    grid = torch.cartesian_prod(*[torch.arange(side)] * 3).double() * spacing
    sites = grid[torch.randperm(len(grid), generator=generator)[:num_atoms]]
    noise = 0.25 * torch.rand(num_atoms, 3, generator=generator, dtype=torch.float64)
    numbers = torch.tensor([1, 6, 7, 8])[torch.randint(0, 4, (num_atoms,), generator=generator)]
    return numbers, sites + noise
