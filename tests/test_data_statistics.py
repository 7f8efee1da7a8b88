"""Statistics and self energies: one pass gives what numpy gives of everything at once; bad energies move nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anipot.data import AtomsDataset, Block, Quantity
from anipot.data import open as open_dataset
from anipot.data import self_energies as module
from anipot.data.compositions import composition_counts, composition_keys
from anipot.data.memory import MemorySource
from anipot.data.self_energies import EnergiesByComposition

TRUE = {"H": -0.6, "C": -38.1, "N": -54.7, "O": -75.2}
NUMBERS = np.array([1, 6, 7, 8])


def made_up(n: int = 3000, spread: float = 0.02, seed: int = 0) -> AtomsDataset:
    """Return structures of 3, 5 and 8 atoms, with energies near the sums of ``TRUE``."""
    rng = np.random.default_rng(seed)
    blocks = []
    for a in (3, 5, 8):
        species = rng.choice(NUMBERS, size=(n, a))
        energies = (
            np.array([*TRUE.values()])[np.searchsorted(NUMBERS, species)].sum(1) + rng.normal(size=n) * spread * a
        )
        labels = {"energies": energies, "forces": rng.normal(size=(n, a, 3)), "gap": rng.random(n)}
        blocks.append(Block(species, rng.normal(size=(n, a, 3)), labels))
    return AtomsDataset(MemorySource(blocks, {"gap": Quantity("gap", "eV")}))


def everything(dataset: AtomsDataset, name: str) -> np.ndarray:
    return np.concatenate([block.properties[name].reshape(-1) for block in dataset.blocks()])


def test_statistics_are_those_of_numpy():
    dataset = made_up()
    found = dataset.statistics()
    assert found.structures == 9000
    assert found.atoms == 48_000
    assert found.sizes == {3: 3000, 5: 3000, 8: 3000}
    assert sum(found.elements.values()) == 48_000
    holders = sum(int((block.species == 6).any(axis=1).sum()) for block in dataset.blocks())
    assert found.structures_with["C"] == holders
    for name in ("energies", "forces", "gap"):
        values, spread = everything(dataset, name), found.quantities[name]
        assert (spread.structures, spread.missing) == (9000, 0)
        assert spread.mean == pytest.approx(values.mean(), abs=1e-12 * abs(values).max())
        assert spread.std == pytest.approx(values.std(), rel=1e-10)
        assert spread.rms == pytest.approx(np.sqrt((values**2).mean()), rel=1e-10)
        assert (spread.min, spread.max) == (values.min(), values.max())
    lengths = np.linalg.norm(everything(dataset, "forces").reshape(-1, 3), axis=1)
    assert found.quantities["forces"].largest == pytest.approx(lengths.max())
    assert found.quantities["gap"].unit == "eV"
    json.dumps(found.to_dict(), allow_nan=False)


def test_missing_labels_and_ghosts_do_not_count():
    forces = np.ones((3, 2, 3))
    forces[0] = np.nan
    forces[1, 1] = 99.0  # of a ghost
    dataset = AtomsDataset.from_arrays(
        [[1, 1], [1, -1], [1, 1]], np.zeros((3, 2, 3)), forces=forces, energies=[np.nan] * 3
    )
    found = dataset.statistics()
    assert found.atoms == 5
    spread = found.quantities["forces"]
    assert (spread.structures, spread.missing, spread.mean, spread.max) == (2, 1, 1.0, 1.0)
    assert spread.largest == pytest.approx(np.sqrt(3))
    assert found.quantities["energies"].missing == 3
    assert found.self_energies == {}
    assert found.energy_std is None
    assert found.to_dict()["quantities"]["energies"]["min"] is None


def direct(dataset: AtomsDataset) -> np.ndarray:
    counts = np.concatenate([composition_counts(block.species)[:, NUMBERS] for block in dataset.blocks()])
    return np.linalg.lstsq(counts.astype(float), everything(dataset, "energies"), rcond=None)[0]


def test_self_energies_are_the_least_squares_of_all_rows(monkeypatch):
    monkeypatch.setattr(module, "_PENDING", 1000)  # so that sums are joined many times
    dataset = made_up()
    np.testing.assert_allclose([*dataset.self_energies().values()], direct(dataset), atol=1e-11)
    found = dataset.statistics()
    assert found.self_energies == dataset.self_energies()
    rest = everything(dataset, "energies") - np.concatenate(
        [composition_counts(block.species)[:, NUMBERS] @ direct(dataset) for block in dataset.blocks()]
    )
    assert found.energy_mean == pytest.approx(rest.mean(), abs=1e-11)
    assert found.energy_std == pytest.approx(rest.std(), rel=1e-9)


def test_large_energies_lose_no_digits():
    """Squares of 1e5 Hartree would leave nothing of a spread of 1e-5."""
    rng = np.random.default_rng(0)
    energies = -1e5 + rng.normal(size=20_000) * 1e-5
    found = AtomsDataset.from_arrays([6, 6], np.zeros((20_000, 2, 3)), energies=energies).statistics()
    assert found.energy_std == pytest.approx(energies.std(), rel=1e-4)


def test_bad_energies_do_not_move_robust_self_energies():
    clean = made_up()
    blocks = list(clean.blocks())
    rng = np.random.default_rng(1)
    for block in blocks:
        block.properties["energies"][rng.integers(0, len(block), 60)] = rng.choice([0.0, 1e4, -5e3], 60)
    spoiled = AtomsDataset(MemorySource(blocks, clean.quantities))
    exact = np.array([*clean.self_energies().values()])
    robust = np.array([*spoiled.self_energies(robust=True).values()])
    assert abs(np.array([*spoiled.self_energies().values()]) - exact).max() > 1.0
    assert abs(robust - exact).max() < 2e-3
    assert abs(np.array([*clean.self_energies(robust=True).values()]) - exact).max() < 2e-3


def test_elements_that_cannot_be_told_apart():
    methane = AtomsDataset.from_arrays([6, 1, 1, 1, 1], np.zeros((4, 5, 3)), energies=[-40.0, -40.1, -39.9, -40.0])
    found = methane.statistics()
    assert found.self_energies == pytest.approx({"H": -40 * 4 / 17, "C": -40 / 17})
    assert not found.self_energies_determined
    assert made_up(100).statistics().self_energies_determined


def test_samples_do_not_depend_on_the_order_of_blocks():
    dataset = made_up(500)
    pieces = list(dataset.numbered_blocks(100))
    sums = []
    for order in (pieces, pieces[::-1]):
        collected = EnergiesByComposition()
        for rows, block in order:
            collected.add(rows, block)
        sums.append([*collected.robust().values()])
    np.testing.assert_allclose(*sums, atol=1e-12)


def test_memory_is_bounded_by_compositions(monkeypatch):
    monkeypatch.setattr(module, "_PENDING", 5000)
    collected = EnergiesByComposition()
    for i in range(20):
        block = Block(np.tile([8, 1, 1], (1000, 1)), np.zeros((1000, 3, 3)), {"energies": np.full(1000, -76.0)})
        collected.add(np.arange(1000) + 1000 * i, block)
    assert collected.num_compositions == 1
    assert sum(len(keys) for keys, _, _ in collected._samples) == module.SAMPLES


def test_compositions():
    species = np.array([[8, 1, 1], [1, 1, 8], [8, 1, -1], [8, 1, 0], [1, 8, 8]])
    keys = composition_keys(species)
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert len(set(keys.tolist())) == 3
    assert composition_counts(species)[:, [0, 1, 8]].tolist() == [[0, 2, 1], [0, 2, 1], [0, 1, 1], [0, 1, 1], [0, 1, 2]]
    with pytest.raises(ValueError, match="expected atomic numbers"):
        composition_keys(np.array([[119]]))


def test_self_energies_need_energies():
    with pytest.raises(ValueError, match="the data set has forces"):
        AtomsDataset.from_arrays([1], np.zeros((1, 1, 3)), forces=np.zeros((1, 1, 3))).self_energies()
    with pytest.raises(ValueError, match="all of them are missing"):
        AtomsDataset.from_arrays([1], np.zeros((1, 1, 3)), energies=[np.nan]).self_energies()


def test_of_real_data(shared):
    """bpa3: one molecule, energies in eV; the spread is what ASE reads."""
    import ase.io

    path = shared / "data" / "bpa3_wb97x" / "train_300K.xyz"
    dataset = open_dataset(path, fields={"energies": "energy [eV]", "forces": "forces [eV/Å]"})
    found = dataset.statistics()
    energies = [atoms.get_potential_energy() for atoms in ase.io.read(path, ":")]
    assert found.energy_std * 27.211386024367243 == pytest.approx(np.std(energies), rel=1e-6)
    assert found.elements == {"H": 6000, "C": 6000, "N": 1000, "O": 500}
