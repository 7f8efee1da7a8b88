"""Published networks, and how many operations energies and forces take with them."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import benchmark_messages as messages
import numpy as np
from benchmark_systems import SHARED, batch, structure

WEIGHTS = SHARED / "weights" / "ani-model-zoo" / "resources"
INFO_FILES = {"ani1x": "ani-1x_8x.info", "ani2x": "ani-2x_8x.info"}
MEMBERS = 8
#: Hidden layers of the published networks.
HIDDEN = {
    "ani1x": {"H": (160, 128, 96), "C": (144, 112, 96), "N": (128, 112, 96), "O": (128, 112, 96)},
    "ani2x": {
        "H": (256, 192, 160),
        "C": (224, 192, 160),
        "N": (192, 160, 128),
        "O": (192, 160, 128),
        "S": (160, 128, 96),
        "F": (160, 128, 96),
        "Cl": (160, 128, 96),
    },
}
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17}
CUTOFFS = {"ani1x": (5.2, 3.5), "ani2x": (5.1, 3.5)}
#: Terms of one element, and of one pair of elements; the same for both models.
RADIAL, ANGULAR = 16, 32
#: Operations of one pair and of one triple, value and gradient; ANI-2x has twice as many radial shells in a triple.
PAIR_FLOP = 450
TRIPLE_FLOP = {"ani1x": 400, "ani2x": 500}
SELF_ENERGIES = {"H": -0.600953, "C": -38.083163, "N": -54.707757, "O": -75.194466}
TRAINING_BATCH, TRAINING_STEPS = 256, 8
#: Symmetry functions with as many radial and angular terms as the AEV of ANI-1x, and its cutoffs.


def network_flop(model: str, numbers: np.ndarray, members: int) -> int:
    """Return the operations of the networks, energy and gradient with respect to the features.

    Four for each weight: a product and a sum, forward and backward. Features of elements that do not occur are 0, and
    the weights behind them do not count.
    """
    numbers = numbers[numbers > 0]
    present = len(np.unique(numbers))
    columns = RADIAL * present + ANGULAR * present * (present + 1) // 2
    total = 0
    for symbol, hidden in HIDDEN[model].items():
        sizes = (columns, *hidden, 1)
        weights = sum(a * b for a, b in pairwise(sizes))
        total += int((numbers == NUMBERS[symbol]).sum()) * weights
    return 4 * members * total


def least_bytes(model: str, numbers: np.ndarray, members: int, itemsize: int) -> int:
    """Return the fewest bytes that energies and forces must move: weights that count, and coordinates, once each.

    Features and their gradients could stay where they are made, and are left out.
    """
    numbers = numbers[numbers > 0]
    present = np.unique(numbers)
    columns = RADIAL * len(present) + ANGULAR * len(present) * (len(present) + 1) // 2
    weights = 0
    for symbol, hidden in HIDDEN[model].items():
        if NUMBERS[symbol] in present:
            weights += sum((a + 1) * b for a, b in pairwise((columns, *hidden, 1)))
    return itemsize * (members * weights + 6 * len(numbers)) + 8 * len(numbers)


def operations(
    model: str, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray | None, members: int
) -> dict[str, int]:
    """Return pairs, triples and operations of a batch, (B, A) and (B, A, 3), that all stand in the same cell."""
    import torch

    from anipot.neighbors import displacements, find_pairs

    radial_cutoff, angular_cutoff = CUTOFFS[model]
    species, coordinates = torch.tensor(numbers), torch.tensor(positions)
    lattice = None if cell is None else torch.tensor(cell)[None]
    pbc = None if cell is None else torch.ones(1, 3, dtype=torch.bool)
    found = find_pairs(species, coordinates, lattice, pbc, radial_cutoff)
    near = displacements(found, coordinates, lattice, pbc).norm(dim=-1) < angular_cutoff
    counts = torch.bincount(found.center[near])
    pairs, triples = len(found.center) // 2, int((counts * (counts - 1) // 2).sum())
    return {
        "pairs": pairs,
        "triples": triples,
        "network_flop": network_flop(model, numbers, members),
        "aev_flop": PAIR_FLOP * pairs + TRIPLE_FLOP[model] * triples,
    }


def count(task: str, args: dict[str, Any]) -> dict[str, int]:
    """Return the operations of energies and forces of a task."""
    if task == "message_passing":
        return messages.operations(**args)
    if task == "batch":
        numbers, positions = batch(args["data"], args["molecules"])
        return operations(args["model"], numbers, positions, None, args["members"])
    numbers, positions, cell = structure(args["system"])
    return operations(args["model"], numbers[None], positions[None], cell, args["members"])


def product_rate(dtype: str, budget: float) -> float:
    """Return the best rate of a matrix product of the shape that the networks have, GFLOP/s."""
    import torch

    a, b = (torch.rand(rows, 256, dtype=getattr(torch, dtype)) for rows in (768, 256))
    out = a @ b
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < budget:
        before = time.perf_counter()
        for _ in range(5):
            torch.mm(a, b, out=out)
        best = min(best, (time.perf_counter() - before) / 5)
    return 2 * 768 * 256 * 256 / best / 1e9
