"""Message passing for tools/benchmark.py: its operations, and SchNetPack and PyTorch Geometric as peers.

Peers are given neighbor lists and only compute distances from them; anipot is given coordinates and searches in each
call. Sizes and weights' shapes are the same everywhere; the weights themselves are random.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from benchmark_systems import Graph, Structure, graph, pool, structure

CUTOFF = 5.0
FEATURES = 128
TRAINING_BATCH, TRAINING_STEPS = 32, 8


def molecules_of(system: str = "", data: str = "", molecules: int = 0) -> list[Structure]:
    """Return a periodic box alone, or molecules of a pool."""
    return [structure(system)] if system else pool(data, molecules)


def training_batches(data: str) -> list[list[Structure]]:
    """Return the molecules of each of eight batches."""
    found = pool(data, TRAINING_BATCH * TRAINING_STEPS)
    return [found[start : start + TRAINING_BATCH] for start in range(0, len(found), TRAINING_BATCH)]


# ---------------------------------------------------------------------------------------------------------------------
# Operations


def product_flop(kind: str, interactions: int, functions: int, pairs: int, atoms: int, features: int = FEATURES) -> int:
    """Return the operations of the matrix products of energy and forces.

    Four for each weight: a product and a sum, forward and in the gradient. With P pairs, each counted once although it
    serves both directions, N atoms, T interactions, K functions of the distance and F features:

        SchNet  4 [P T (K F + F²)   + N (3 T − 1) F²  + N (F²/2 + F/2)]
        PaiNN   4 [P (3 T − 1) K F  + N (15 T − 5) F² + N (F²/2 + F/2)]

    The first term are filters, the second dense layers of atoms, the third the head. Layers that see nothing but the
    element cost nothing: the first of SchNet (F²), and the context of the first messages of PaiNN (4 F²). Nor do what
    PaiNN multiplies with the vectors of the first round, which are 0 (K F), and the vectors of the last, which nobody
    reads (F²). Left out are functions of the distance, activations and the sums over neighbors, 12 P T F operations
    in SchNet and seven times as many in PaiNN, which go at the rate of memory rather than of products.
    """
    t, k, f = interactions, functions, features
    head = f * f // 2 + f // 2
    if kind == "schnet":
        return 4 * (pairs * t * (k * f + f * f) + atoms * ((3 * t - 1) * f * f + head))
    return 4 * (pairs * (3 * t - 1) * k * f + atoms * ((15 * t - 5) * f * f + head))


def operations(kind: str, interactions: int, functions: int, dtype: str, **which: Any) -> dict[str, int]:
    """Return atoms, pairs and operations of energies and forces of a box or a batch."""
    found = graph(molecules_of(**which), CUTOFF)
    atoms, pairs = len(found.numbers), len(found.center) // 2
    flop = product_flop(kind, interactions, functions, pairs, atoms)
    return {"atoms": atoms, "pairs": pairs, "network_flop": flop, "aev_flop": 0}


# ---------------------------------------------------------------------------------------------------------------------
# Training


def training_step(
    parameters: Any,
    predict: Callable[[Any], tuple[Any, Any]],
    batches: Sequence[tuple[Any, Any]],
    dtype: Any,
    with_forces: bool,
) -> Callable[[], Any]:
    """Return a function that takes one AdamW step, on the batches in turn; labels are random.

    Parameters
    ----------
    predict
        Returns energies (B,) and, if they are wanted, forces (..., 3) of a batch.
    batches
        Each with the weights of its atoms in the loss, 1 over the number of atoms of their molecule, 0 for ghosts.
    """
    import torch

    torch.manual_seed(0)
    labelled = []
    for batch, weights in batches:
        weights = torch.as_tensor(weights, dtype=dtype)[..., None]
        energies = torch.randn(TRAINING_BATCH, dtype=dtype)
        labelled.append((batch, weights, energies, 0.01 * torch.randn(*weights.shape[:-1], 3, dtype=dtype)))
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=1e-6)
    taken = 0

    def step() -> None:
        nonlocal taken
        batch, weights, true_energies, true_forces = labelled[taken % len(labelled)]
        taken += 1
        optimizer.zero_grad()
        energies, forces = predict(batch)
        loss = ((energies - true_energies) ** 2).mean()
        if with_forces:
            loss = loss + 0.1 * (weights * (forces - true_forces) ** 2).sum() / TRAINING_BATCH
        loss.backward()
        optimizer.step()

    return step


# ---------------------------------------------------------------------------------------------------------------------
# Peers


class SchNetPack:
    """Prepares tasks with SchNetPack 2.2, eager or scripted."""

    weights = "random numbers"

    def __init__(self, scripted: bool) -> None:
        self.scripted = scripted

    def model(self, kind: str, interactions: int, functions: int, dtype: str, forces: bool) -> Any:
        import schnetpack.nn as snn
        import torch
        from schnetpack import atomistic, properties, representation
        from schnetpack.model import NeuralNetworkPotential

        torch.manual_seed(0)
        body, activation = representation.SchNet, snn.shifted_softplus
        if kind == "painn":
            body, activation = representation.PaiNN, torch.nn.functional.silu
        heads = [atomistic.Atomwise(n_in=FEATURES, output_key=properties.energy, activation=activation)]
        model = NeuralNetworkPotential(
            representation=body(
                n_atom_basis=FEATURES,
                n_interactions=interactions,
                radial_basis=snn.GaussianRBF(functions, CUTOFF),
                cutoff_fn=snn.CosineCutoff(CUTOFF),
            ),
            input_modules=[atomistic.PairwiseDistances()],
            output_modules=heads + [atomistic.Forces()] * forces,
        )
        # Without forces this list is empty, and has no type that TorchScript could guess.
        model.required_derivatives = model.required_derivatives or [""]
        return model.to(getattr(torch, dtype))

    def inputs(self, found: Graph, dtype: str) -> dict[str, Any]:
        import torch
        from schnetpack import properties

        real = getattr(torch, dtype)
        return {
            properties.Z: torch.from_numpy(found.numbers),
            properties.R: torch.tensor(found.positions, dtype=real),
            properties.idx_i: torch.from_numpy(found.center),
            properties.idx_j: torch.from_numpy(found.neighbor),
            properties.idx_m: torch.from_numpy(found.molecule),
            properties.n_atoms: torch.from_numpy(found.counts),
            properties.offsets: torch.tensor(found.offsets, dtype=real),
            properties.cell: torch.tensor(found.cells, dtype=real),
            properties.pbc: torch.from_numpy(np.repeat(found.cells.any((1, 2)), 3)),
        }

    def call(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """The model writes into what it is given, and asks for the gradient of the positions."""
        from schnetpack import properties

        return model(inputs | {properties.R: inputs[properties.R].clone()})

    def message_passing(
        self, kind: str, interactions: int, functions: int, dtype: str, **which: Any
    ) -> Callable[[], Any]:
        import torch

        model = self.model(kind, interactions, functions, dtype, True).eval().requires_grad_(False)
        inputs = self.inputs(graph(molecules_of(**which), CUTOFF), dtype)
        model = torch.jit.script(model) if self.scripted else model
        return lambda: self.call(model, inputs)

    def message_passing_training(
        self, data: str, forces: bool, kind: str, interactions: int, functions: int, dtype: str
    ) -> Callable[[], Any]:
        import torch
        from schnetpack import properties

        model = self.model(kind, interactions, functions, dtype, forces).train()
        model = torch.jit.script(model) if self.scripted else model

        def predict(inputs: dict[str, Any]) -> tuple[Any, Any]:
            found = self.call(model, inputs)
            return found[properties.energy], found.get(properties.forces)

        graphs = [graph(molecules, CUTOFF) for molecules in training_batches(data)]
        batches = [(self.inputs(found, dtype), 1 / found.counts[found.molecule]) for found in graphs]
        return training_step(model.parameters(), predict, batches, getattr(torch, dtype), forces)

    def versions(self) -> dict[str, Any]:
        import schnetpack
        import torch

        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "schnetpack": schnetpack.__version__,
        }


class PyG:
    """Prepares tasks with the SchNet of PyTorch Geometric, which has no other use for a neighbor search of its own."""

    weights = "random numbers"

    def model(self, kind: str, interactions: int, functions: int, dtype: str) -> Any:
        """Return energies (B,) as a function of numbers, positions, molecules and edges; and the parameters."""
        import torch
        from torch_geometric.nn.models import SchNet

        assert kind == "schnet", kind
        torch.manual_seed(0)
        edges = None

        def given(positions: Any, _: Any) -> tuple[Any, Any]:
            neighbor, center = edges
            return edges, (positions[neighbor] - positions[center]).norm(dim=-1)

        sizes = {"num_interactions": interactions, "num_gaussians": functions, "cutoff": CUTOFF}
        model = SchNet(FEATURES, FEATURES, **sizes, interaction_graph=given).to(getattr(torch, dtype))

        def energies(numbers: Any, positions: Any, molecule: Any, these: Any) -> Any:
            nonlocal edges
            edges = these
            return model(numbers, positions, molecule)[:, 0]

        return energies, model

    def inputs(self, found: Graph, dtype: str) -> tuple[Any, ...]:
        import torch

        positions = torch.tensor(found.positions, dtype=getattr(torch, dtype))
        edges = torch.from_numpy(np.stack([found.neighbor, found.center]))
        return torch.from_numpy(found.numbers), positions, torch.from_numpy(found.molecule), edges

    def message_passing(
        self, kind: str, interactions: int, functions: int, dtype: str, **which: Any
    ) -> Callable[[], Any]:
        import torch

        energies, model = self.model(kind, interactions, functions, dtype)
        model.eval().requires_grad_(False)
        inputs = self.inputs(graph(molecules_of(**which), CUTOFF), dtype)
        inputs[1].requires_grad_()

        def call() -> Any:
            found = energies(*inputs)
            return found, -torch.autograd.grad(found.sum(), inputs[1])[0]

        return call

    def message_passing_training(
        self, data: str, forces: bool, kind: str, interactions: int, functions: int, dtype: str
    ) -> Callable[[], Any]:
        import torch

        energies, model = self.model(kind, interactions, functions, dtype)

        def predict(inputs: tuple[Any, ...]) -> tuple[Any, Any]:
            numbers, positions, *rest = inputs
            positions = positions.clone().requires_grad_(forces)
            found = energies(numbers, positions, *rest)
            if not forces:
                return found, None
            return found, -torch.autograd.grad(found.sum(), positions, create_graph=True)[0]

        graphs = [graph(molecules, CUTOFF) for molecules in training_batches(data)]
        batches = [(self.inputs(found, dtype), 1 / found.counts[found.molecule]) for found in graphs]
        return training_step(model.parameters(), predict, batches, getattr(torch, dtype), forces)

    def versions(self) -> dict[str, Any]:
        import torch
        import torch_geometric
        from torch_geometric.nn.models import SchNet  # noqa: F401  (a version without it cannot be compared)

        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torch_geometric": torch_geometric.__version__,
        }
