"""What tools/benchmark.py does alike with anipot and with TorchANI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from benchmark_systems import Structure, data_set

TRAINING_BATCH, TRAINING_STEPS = 256, 8


def ase_atoms(system: Structure, calculator: Any) -> Any:
    from ase import Atoms

    atoms = Atoms(system.numbers, system.positions, cell=system.cell, pbc=system.cell is not None)
    atoms.calc = calculator
    return atoms


def md_step(atoms: Any) -> Callable[[], Any]:
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    MaxwellBoltzmannDistribution(atoms, temperature_K=100, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    return lambda: dynamics.run(1)


def stress_call(atoms: Any) -> Callable[[], Any]:
    def call() -> None:
        atoms.calc.reset()
        atoms.calc.calculate(atoms, ["energy", "forces", "stress"])

    return call


def training_step(model: Any, data: str, with_forces: bool) -> Callable[[], Any]:
    """Return a function that takes one AdamW step, on eight batches in turn."""
    import torch

    arrays = data_set(data)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(arrays["Z"]))[: TRAINING_BATCH * TRAINING_STEPS])
    species, *rest = (torch.from_numpy(arrays[key])[order] for key in "ZXEF")
    coordinates, energies, forces = (tensor.float() for tensor in rest)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-6)
    taken = 0

    def step() -> None:
        nonlocal taken
        rows = slice(taken % TRAINING_STEPS * TRAINING_BATCH, (taken % TRAINING_STEPS + 1) * TRAINING_BATCH)
        taken += 1
        num_atoms = (species[rows] > 0).sum(1)
        width = int(num_atoms.max())
        z, x = species[rows, :width].contiguous(), coordinates[rows, :width].contiguous()
        optimizer.zero_grad()
        if with_forces:
            x.requires_grad_()
        predicted = model((z, x)).energies
        loss = ((predicted - energies[rows]) ** 2 / num_atoms.sqrt()).mean()
        if with_forces:
            (gradient,) = torch.autograd.grad(predicted.sum(), x, create_graph=True)
            errors = (-gradient - forces[rows, :width]) ** 2
            loss = loss + 0.1 * (errors.sum((1, 2)) / num_atoms).mean()
        loss.backward()
        optimizer.step()

    return step
