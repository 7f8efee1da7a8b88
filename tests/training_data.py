"""Small batches with labels, made without files, for the tests of training."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts import ELEMENTS, SELF_ENERGIES, molecule
from torch import Tensor, nn

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, Atomwise, EnergyShifter, PaiNN, Potential, SchNet, pad


@dataclass
class HandMade:
    """A batch as ``predict`` wants it."""

    species: Tensor
    coordinates: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None
    properties: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.species)

    def to(self, device: Any) -> HandMade:
        def moved(value: Any) -> Any:
            return None if value is None else value.to(device)

        properties = {name: moved(value) for name, value in self.properties.items()}
        parts = {name: moved(getattr(self, name)) for name in ("species", "coordinates", "cell", "pbc")}
        return HandMade(**parts, properties=properties)

    def rows(self, rows: slice) -> HandMade:
        """Return some of the molecules, with all their ghosts."""
        parts = {
            n: None if (v := getattr(self, n)) is None else v[rows] for n in ("species", "coordinates", "cell", "pbc")
        }
        return HandMade(**parts, properties={name: value[rows] for name, value in self.properties.items()})

    def with_labels(self, **properties: Tensor) -> HandMade:
        return replace(self, properties=self.properties | properties)


def batch(sizes: Sequence[int] = (5, 9, 7, 3), periodic: Sequence[bool] | None = None, seed: int = 0) -> HandMade:
    """Return molecules whose ghosts stand at NaN, with random labels of energies and forces that fit no potential."""
    torch.manual_seed(seed)
    species, coordinates = pad([molecule(size, seed + i) for i, size in enumerate(sizes)])
    real = species >= 0
    coordinates = torch.where(real[..., None], coordinates, torch.nan)
    forces = torch.where(real[..., None], 0.02 * torch.randn(*species.shape, 3).double(), torch.nan)
    shifts = torch.tensor(SELF_ENERGIES, dtype=torch.float64)[
        torch.bucketize(species.clamp(min=1), torch.tensor([1, 6, 7, 8]))
    ]
    energies = torch.where(real, shifts, 0.0).sum(-1) + 0.1 * torch.randn(len(sizes)).double()
    found = HandMade(species, coordinates, properties={"energies": energies, "forces": forces})
    if periodic is None:
        return found
    pbc = torch.tensor(periodic)[:, None].expand(-1, 3).contiguous()
    cell = torch.where(pbc[..., None], 7.5 * torch.eye(3, dtype=torch.float64), 0.0)
    stress = 1e-3 * torch.randn(len(sizes), 3, 3).double()
    stress = torch.where(pbc[:, :1, None], stress + stress.mT, torch.nan)
    return replace(found, cell=cell, pbc=pbc).with_labels(stress=stress)


def ani(seed: int = 0, hidden: Sequence[int] = (16, 12, 8), **options: Any) -> Potential:
    """Return a small ANI potential in float64."""
    torch.manual_seed(seed)
    aev = AEVComputer.like_1x()
    networks = [AtomicNetwork((aev.num_features, *hidden, 1), CELU(0.1)) for _ in ELEMENTS]
    return Potential(ELEMENTS, aev, ANIModel(networks), EnergyShifter(SELF_ENERGIES), **options).double()


def schnet(seed: int = 0, painn: bool = False, **options: Any) -> Potential:
    """Return a small SchNet or PaiNN in float64."""
    torch.manual_seed(seed)
    representation: nn.Module = PaiNN(4, 8, 2, 4.0) if painn else SchNet(4, 12, 2, 4.0)
    head = Atomwise.pyramid(8 if painn else 12)
    return Potential(ELEMENTS, representation, head, EnergyShifter(SELF_ENERGIES), **options).double()


class Loader:
    """Batches in a fixed order, as Lightning takes them."""

    def __init__(self, batches: Sequence[HandMade]) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[HandMade]:
        return iter(self.batches)


def write_frames(path: Any, count: int = 40, sizes: Sequence[int] = (4, 6, 9), seed: int = 0) -> Any:
    """Write molecules with energies and forces of a small potential to an extxyz file, in eV and Å."""
    import ase.io
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    from anipot.units import HARTREE_TO_EV

    teacher, frames = ani(99, hidden=(8,)), []
    for i in range(count):
        numbers, positions = molecule(sizes[i % len(sizes)], 1000 * seed + i)
        found = anipot.single_point(teacher, numbers[None], positions[None])
        atoms = Atoms(numbers.numpy(), positions.numpy())
        results = {"energy": float(found.energies) * HARTREE_TO_EV, "forces": found.forces[0].numpy() * HARTREE_TO_EV}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return path


#: Settings of a training that is over in a second, with everything that has a state.
SMALL = [
    'data.fields={energies: "energy [eV]", forces: "forces [eV/Å]"}',
    "data.batch_size=8",
    "model.representation={class: SchNet, num_features: 8, num_interactions: 1}",
    "optimizer={kind: AdamW, lr: 1e-2, weight_decay: 1e-3}",
    "schedule={kind: plateau, patience: 0, factor: 0.7}",
    "ema=0.8",
    "stopping={patience: 30}",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
    "checkpoint_seconds=0",
    "tensorboard=false",
]


def weights(folder: Path) -> list[torch.Tensor]:
    return [p.detach() for p in anipot.load(folder / "model.safetensors").parameters()]


def state(folder: Path) -> dict:
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_same_end(one: Path, other: Path) -> None:
    for a, b in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    first, second = state(one), state(other)
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(value, second["state_dict"][name], rtol=1e-6, atol=1e-9)
    assert first["global_step"] == second["global_step"]
    assert first["plateau"] == second["plateau"]
    rows = [list(csv.reader((folder / "metrics.csv").read_text().splitlines())) for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    for ours, theirs in zip(rows[0][1:], rows[1][1:], strict=True):
        assert [bool(x) for x in ours] == [bool(x) for x in theirs]
        assert [float(x) for x in ours if x] == pytest.approx([float(x) for x in theirs if x], rel=1e-6)
