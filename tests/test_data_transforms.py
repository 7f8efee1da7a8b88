"""Transforms: each does what it says, in the order given, and the result is what training sees."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import anipot
from anipot import ZBL, single_point
from anipot.data import (
    AtomsDataset,
    DataError,
    Keep,
    MaskLabels,
    Quantity,
    RemoveOffset,
    Rename,
    SubtractBaseline,
    SubtractSelfEnergies,
)
from anipot.training.objects import make


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    species = np.array([[8, 1, 1], [6, 1, -1], [8, 6, 1]])
    forces = rng.normal(size=(3, 3, 3))
    return AtomsDataset.from_arrays(
        species,
        rng.normal(size=(3, 3, 3)),
        energies=[-76.0, -38.6, np.nan],
        forces=forces,
        charges=rng.normal(size=(3, 3)),
        gap=[1.0, 2.0, 3.0],
        quantities={"gap": Quantity("gap", "eV")},
    )


def values(dataset, name):
    return np.concatenate([block.properties[name] for block in dataset.blocks()])


def test_self_energies(dataset):
    found = values(dataset.with_transforms(SubtractSelfEnergies({"H": -0.5, "C": -38.0, "O": -75.0})), "energies")
    np.testing.assert_allclose(found, [0.0, -0.1, np.nan], atol=1e-12)
    with pytest.raises(DataError, match="index 1: C has no self energy; known are H, O"):
        values(dataset.with_transforms(SubtractSelfEnergies({"H": -0.5, "O": -75.0})), "energies")


def test_offsets(dataset):
    np.testing.assert_allclose(values(dataset.with_transforms(RemoveOffset("gap", 0.5)), "gap"), [0.5, 1.5, 2.5])
    found = values(dataset.with_transforms(RemoveOffset("energies", -1.0, per_atom=True)), "energies")
    np.testing.assert_allclose(found, [-73.0, -36.6, np.nan])
    shifted = values(dataset.with_transforms(RemoveOffset("forces", 1.0)), "forces")
    np.testing.assert_allclose(shifted, values(dataset, "forces") - 1.0)


def test_masks(dataset):
    masked = dataset.with_transforms(MaskLabels(["energies", "gap"]))
    assert np.isnan(values(masked, "energies")).all()
    assert np.isnan(values(masked, "gap")).all()
    largest = np.linalg.norm(values(dataset, "forces"), axis=2).max(axis=1)
    limit = float(np.sort(largest)[1]) + 1e-9
    hidden = np.isnan(values(dataset.with_transforms(MaskLabels("forces", above=limit)), "forces"))
    np.testing.assert_array_equal(hidden.all(axis=(1, 2)), largest > limit)
    np.testing.assert_array_equal(hidden.any(axis=(1, 2)), largest > limit)
    charges = values(dataset, "charges")  # three atoms do not make a vector
    hidden = np.isnan(values(dataset.with_transforms(MaskLabels("charges", above=1.2)), "charges")).all(axis=1)
    np.testing.assert_array_equal(hidden, (abs(charges) > 1.2).any(axis=1))
    assert not np.isnan(values(dataset, "forces")).any()  # the source is as it was


def test_names(dataset):
    renamed = dataset.with_transforms(Keep(("energies", "gap")), Rename({"energies": "dft", "gap": "band_gap"}))
    assert list(renamed.quantities) == ["dft", "band_gap"]
    assert renamed.quantities["band_gap"] == Quantity("band_gap", "eV")
    np.testing.assert_array_equal(values(renamed, "band_gap"), [1, 2, 3])
    assert "e2" in next(iter(dataset.with_transforms(Rename({"energies": "e2"})).batches(3))).properties
    with pytest.raises(DataError, match="there is no 'x' to rename"):
        _ = dataset.with_transforms(Rename({"x": "y"})).quantities
    with pytest.raises(DataError, match="two quantities would be named 'gap'"):
        _ = dataset.with_transforms(Rename({"energies": "gap"})).quantities
    with pytest.raises(DataError, match="cannot be named 'energies', which is"):
        _ = dataset.with_transforms(Keep(("gap",)), Rename({"gap": "energies"})).quantities
    with pytest.raises(DataError, match="there is no 'x' to keep"):
        _ = dataset.with_transforms(Keep(("x",))).quantities


def repulsion():
    from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Potential
    from anipot.separate import terms_alone

    elements = ["H", "C", "O"]
    networks = [AtomicNetwork((240, 4, 1), CELU(0.1)) for _ in elements]
    aev = AEVComputer.like_1x(num_species=3)
    whole = Potential(elements, aev, ANIModel(networks), EnergyShifter([0.0] * 3), terms=[ZBL(elements)])
    return terms_alone(whole.double())


def test_baselines(dataset):
    potential = repulsion()
    found = dataset.with_transforms(SubtractBaseline(potential))
    for i in range(3):
        block, before = found[i], dataset[i]
        species, x = torch.from_numpy(before.species), torch.from_numpy(before.coordinates)
        expected = single_point(potential, species, x)
        np.testing.assert_allclose(
            block.properties["energies"], before.properties["energies"] - expected.energies.numpy(), atol=1e-12
        )
        real = before.species[0] > 0
        difference = before.properties["forces"] - expected.forces.numpy()
        np.testing.assert_allclose(block.properties["forces"][:, real], difference[:, real], atol=1e-12)
    assert abs(values(dataset, "energies")[0] - values(found, "energies")[0]) > 1e-3
    assert np.isnan(values(found, "energies")[2])
    assert pickle.loads(pickle.dumps(found))[0].properties["energies"] == found[0].properties["energies"]


def test_a_baseline_by_its_name(dataset):
    """As settings of a training name it, and as workers of another process get it."""
    named = make({"class": "SubtractBaseline", "potential": "mini"}, "data.transforms.0")
    given = SubtractBaseline(anipot.load("mini"))
    found, expected = (dataset.with_transforms(one)[0].properties for one in (pickle.loads(pickle.dumps(named)), given))
    assert found["energies"] == expected["energies"] != dataset[0].properties["energies"]
    np.testing.assert_array_equal(found["forces"], expected["forces"])


def test_a_baseline_of_crystals_among_molecules():
    """Stress is that of periodic structures; where there is none, the label that is missing stays so."""
    rng = np.random.default_rng(1)
    x, cell = 3.0 * rng.random((3, 3, 3)), np.tile(6.0 * np.eye(3), (3, 1, 1))
    pbc = np.array([[True] * 3, [False] * 3, [True] * 3])
    stress = np.full((3, 3, 3), np.nan)
    stress[[0, 2]] = 0.01
    solid = AtomsDataset.from_arrays([8, 1, 1], x, cell, pbc, energies=np.zeros(3), stress=stress)
    potential = repulsion()
    (block,) = solid.with_transforms(SubtractBaseline(potential)).blocks()
    species = torch.tensor([[8, 1, 1]] * 2)
    rows = torch.tensor([0, 2])
    inside = [torch.from_numpy(array)[rows] for array in (x, cell, pbc)]
    expected = single_point(potential, species, *inside, stress=True)
    np.testing.assert_allclose(block.properties["stress"][[0, 2]], 0.01 - expected.stress.numpy(), atol=1e-12)
    np.testing.assert_allclose(block.properties["energies"][[0, 2]], -expected.energies.numpy(), atol=1e-12)
    alone = single_point(potential, species[:1], torch.from_numpy(x[1:2]))
    np.testing.assert_allclose(block.properties["energies"][1], -alone.energies[0], atol=1e-12)
    assert np.isnan(block.properties["stress"][1]).all()


def test_order_matters_and_batches_see_the_result(dataset):
    first = dataset.with_transforms(RemoveOffset("gap", 1.0), Rename({"gap": "other"}))
    batch = next(iter(first.batches(3)))
    assert sorted(batch.properties["other"].tolist()) == [0, 1, 2]
    wrong = dataset.with_transforms(Rename({"gap": "other"}), RemoveOffset("gap", 1.0))
    with pytest.raises(DataError, match="there are no gap; the data hold"):
        next(iter(wrong.batches(3)))


def test_filters_see_the_result(dataset):
    shifted = dataset.with_transforms(SubtractSelfEnergies({"H": -0.5, "C": -38.0, "O": -75.0}))
    assert len(shifted.filter(max_energy=-0.05)) == 1
    assert len(dataset.filter(max_energy=-0.05)) == 2
