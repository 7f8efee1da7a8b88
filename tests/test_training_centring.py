"""Untrained networks return the right energies on average."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anipot import AEVComputer, ANIModel, AtomicNetwork, Atomwise, EnergyShifter, Potential, SchNet, single_point
from anipot.data import AtomsDataset
from anipot.head import CELU
from anipot.training.centring import center_energies
from anipot.training.starting import shift_of


@pytest.fixture
def dataset() -> AtomsDataset:
    rng = np.random.default_rng(0)
    blocks = [
        ([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
        ([8, 8, 1, 1], [[0, 0, 0], [1.45, 0, 0], [-0.3, 0.9, 0], [1.7, 0, 0.9]]),
    ]
    frames = []
    for numbers, positions in blocks:
        x = np.array(positions)[None] + rng.normal(0, 0.05, (20, len(numbers), 3))
        frames.append(AtomsDataset.from_arrays(numbers, x, energies=rng.normal(-76.0 * numbers.count(8), 0.01, 20)))
    atoms = [one.to_atoms(i) for one in frames for i in range(20)]
    return AtomsDataset.from_atoms(atoms)


def test_networks_of_elements(dataset: AtomsDataset) -> None:
    torch.manual_seed(0)
    networks = [AtomicNetwork((AEVComputer.like_1x(2).num_features, 8, 1), CELU(0.1)) for _ in range(2)]
    model = Potential(["H", "O"], AEVComputer.like_1x(2), ANIModel(networks), EnergyShifter([-0.5, -75.0])).double()
    assert shift_of(model, dataset)[0].abs().max() > 0.1
    center_energies(model, dataset)
    assert shift_of(model, dataset)[0].abs().max() < 1e-9
    assert model.shifter.self_energies.tolist() == [-0.5, -75.0]


def test_a_network_for_all(dataset: AtomsDataset) -> None:
    torch.manual_seed(0)
    model = Potential(["H", "O"], SchNet(2, 16), Atomwise.pyramid(16), EnergyShifter([-0.5, -75.0])).double()
    center_energies(model, dataset)
    shift, counts = shift_of(model, dataset)
    assert abs(float(shift @ counts)) < 1e-9
    assert shift.abs().max() > 0.1  # of single elements it can do nothing


def test_layers_without_biases_stay(dataset: AtomsDataset) -> None:
    head = Atomwise(torch.nn.Sequential(torch.nn.Linear(16, 1, bias=False)))
    model = Potential(["H", "O"], SchNet(2, 16), head, EnergyShifter([-0.5, -75.0])).double()
    block = dataset[0]
    batch = torch.from_numpy(block.species), torch.from_numpy(block.coordinates)
    before = single_point(model, *batch).energies
    center_energies(model, dataset)
    assert torch.equal(single_point(model, *batch).energies, before)
