"""Writing data sets: what is read back is what was written, and an interruption loses and doubles nothing."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest

from anipot.data import AtomsDataset, Block, DataError, SubtractSelfEnergies, export
from anipot.data import open as open_dataset
from anipot.data.memory import MemorySource
from anipot.data.view import DatasetSource, identity
from anipot.units import HARTREE_TO_EV


def made_up(n: int = 40, periodic: bool = True) -> AtomsDataset:
    rng = np.random.default_rng(0)
    blocks = []
    for a in (3, 5):
        labels = {
            "energies": rng.normal(size=n) - 100.0,
            "forces": rng.normal(size=(n, a, 3)),
            "shifts": rng.normal(size=(n, a)),
            "polarizability": rng.normal(size=(n, 3, 3)),
        }
        labels["energies"][7] = np.nan
        species = rng.choice([1, 6, 8], size=(n, a))
        repeats = periodic and a == 5
        cell = np.tile(np.diag([9.0, 8.0, 7.0]), (n, 1, 1)) if repeats else None
        pbc = np.ones((n, 3), bool) if repeats else None
        blocks.append(Block(species, rng.normal(size=(n, a, 3)), labels, cell, pbc, f"{a}", np.arange(n)))
    return AtomsDataset(MemorySource(blocks, metadata={"level_of_theory": "none", "self_energies": {"H": -0.5}}))


FIELDS = {
    ".h5": None,
    ".extxyz": {
        "energies": "energy [eV]",
        "forces": "forces [eV/Å]",
        "shifts": "shifts [ppm]",
        "polarizability": "polarizability [Å^3]",
    },
    ".db": {"energies": "energy", "forces": "forces", "shifts": "shifts", "polarizability": "polarizability"},
}


def assert_same(found: AtomsDataset, expected: AtomsDataset, tolerance: float) -> None:
    assert len(found) == len(expected)
    for name in ("species", "coordinates"):
        for i in range(len(expected)):
            a, b = found[i], expected[i]
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance)
            for label, values in b.properties.items():
                np.testing.assert_allclose(a.properties[label], values, atol=tolerance)
            if b.pbc is not None and b.pbc.any():
                np.testing.assert_array_equal(a.pbc, b.pbc)
                np.testing.assert_allclose(a.cell, b.cell, atol=tolerance)


@pytest.mark.parametrize("ending", list(FIELDS))
def test_round_trip(tmp_path, ending):
    dataset = made_up()
    path = tmp_path / f"a{ending}"
    assert dataset.save(path, progress=False) == 80
    found = open_dataset(path, fields=FIELDS[ending])
    assert_same(found, dataset, 0 if ending == ".h5" else 2e-8)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(FileExistsError):
        dataset.save(path, progress=False)
    assert dataset.subset([0, 1]).save(path, progress=False, overwrite=True) == 2


@pytest.mark.parametrize("ending", list(FIELDS))
def test_selections_and_transforms_are_written(tmp_path, ending):
    dataset = made_up().subset([3, 11, 50, 79]).with_transforms(SubtractSelfEnergies({"H": -1, "C": -2, "O": -3}))
    path = tmp_path / f"a{ending}"
    dataset.save(path, progress=False)
    found = open_dataset(path, fields=FIELDS[ending])
    expected = np.concatenate([block.properties["energies"] for block in dataset.blocks()])
    energies = np.concatenate([block.properties["energies"] for block in found.blocks()])
    np.testing.assert_allclose(energies, expected, atol=2e-8)


def test_ase_reads_what_it_knows(tmp_path):
    dataset = made_up()
    dataset.save(tmp_path / "a.xyz", progress=False)
    dataset.save(tmp_path / "a.db", progress=False)
    frames = ase.io.read(tmp_path / "a.xyz", ":")
    energies = np.concatenate([block.properties["energies"] for block in dataset.blocks()]) * HARTREE_TO_EV
    assert frames[3].get_potential_energy() == pytest.approx(energies[3], abs=1e-7)
    assert "energy" not in frames[7].calc.results
    database = ase.db.connect(tmp_path / "a.db")
    assert len(database) == 80
    row = next(database.select(id=4))
    assert row.energy == pytest.approx(energies[3])
    assert row.data["forces"].shape == (3, 3)
    metadata = database.metadata
    assert metadata["_property_unit_dict"] == {
        "energy": "eV",
        "forces": "eV/Ang",
        "shifts": "ppm",
        "polarizability": "Ang^3",
    }
    assert metadata["_property_shape_dict"]["energy"] == [1]
    assert metadata["_distance_unit"] == "Ang"
    assert metadata["atomrefs"]["energy"][1] == pytest.approx(-0.5 * HARTREE_TO_EV)
    assert metadata["level_of_theory"] == "none"
    again = open_dataset(tmp_path / "a.db", fields={"energies": "energy"})
    assert again.source.metadata["self_energies"] == pytest.approx({"H": -0.5})


def test_single_precision_is_for_the_store(tmp_path):
    made_up().save(tmp_path / "a.h5", progress=False, precision="single")
    assert_same(open_dataset(tmp_path / "a.h5"), made_up(), 1e-6)
    with pytest.raises(ValueError, match=r"precision is for files of this library's layout"):
        made_up().save(tmp_path / "a.xyz", precision="single")
    with pytest.raises(ValueError, match=r"has the ending '.csv'; known are"):
        made_up().save(tmp_path / "a.csv")


@pytest.mark.parametrize("ending", [".extxyz", ".db"])
def test_goes_on_where_it_stopped(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(export, "_STEP", 10)
    dataset, path = made_up(), tmp_path / f"a{ending}"
    chunks, seen = export._chunks, []

    def stop(*args):
        for frames in chunks(*args):
            if len(seen) == 3:
                raise KeyboardInterrupt
            seen.append(len(frames))
            yield frames

    with monkeypatch.context() as patch:
        patch.setattr(export, "_chunks", stop)
        with pytest.raises(KeyboardInterrupt):
            dataset.save(path, progress=False)
    assert not path.exists()
    with pytest.raises(DataError, match="interrupted copy of something else"):
        dataset.subset(np.arange(70)).save(path, progress=False)
    if ending == ".extxyz":  # half a frame
        with open(f"{path}.partial", "a") as file:
            file.write("5\nProperties=spe")
    written = []
    monkeypatch.setattr(export, "_chunks", lambda *args: (written.append(len(f)) or f for f in chunks(*args)))
    dataset.save(path, progress=False)
    assert sum(seen) + sum(written) == 80
    assert_same(open_dataset(path, fields=FIELDS[ending]), dataset, 2e-8)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def save_slowly(path, seconds: float) -> None:
    """Save 400 molecules, ten at a time, in a process that may be killed."""
    export._STEP = 10
    chunks = export._chunks

    def slow(*args):
        for frames in chunks(*args):
            time.sleep(seconds)
            yield frames

    export._chunks = slow
    dataset = AtomsDataset.from_arrays([8, 1, 1], np.ones((400, 3, 3)), energies=np.arange(400.0))
    dataset.save(path, progress=False)


@pytest.mark.parametrize("wait", [0.0, 0.3])
@pytest.mark.parametrize("ending", [".extxyz", ".db"])
def test_survives_a_kill(tmp_path, ending, wait):
    path = tmp_path / f"a{ending}"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=save_slowly, args=(path, 0.03))
    process.start()
    while not Path(f"{path}.partial").exists():
        assert process.is_alive()
        time.sleep(0.001)
    time.sleep(wait)
    assert process.is_alive()
    process.kill()
    process.join()
    assert not path.exists()
    again = context.Process(target=save_slowly, args=(path, 0.0))
    again.start()
    again.join()
    assert again.exitcode == 0
    found = open_dataset(path, fields={"energies": "energy [eV]"})
    np.testing.assert_allclose(np.concatenate([b.properties["energies"] for b in found.blocks()]), np.arange(400.0))


def test_a_view_is_a_source():
    dataset = made_up().subset(np.arange(0, 80, 3))
    source = DatasetSource(dataset)
    assert [group.size for group in source.groups] == [14, 13]
    energies = np.concatenate([block.properties["energies"] for block in dataset.blocks()])
    np.testing.assert_array_equal(source.read(0, slice(2, 9)).properties["energies"], energies[2:9])
    np.testing.assert_array_equal(source.read(1, np.array([0, 12])).properties["energies"], energies[[14, 26]])
    assert len(source.read(0, slice(0, 0))) == 0
    again = AtomsDataset(source)
    assert len(again) == 27
    assert_same(again, dataset, 0)


def test_identity_tells_data_sets_apart():
    dataset = made_up()
    ids = {
        identity(dataset),
        identity(dataset.subset([0, 1])),
        identity(dataset.subset([0, 2])),
        identity(dataset.with_transforms(SubtractSelfEnergies({"H": 1.0}))),
        identity(dataset.with_transforms(SubtractSelfEnergies({"H": 2.0}))),
    }
    assert len(ids) == 5
    assert identity(made_up()) in ids
    assert identity(made_up(periodic=False)) not in ids
    others = [AtomsDataset.from_arrays([1], np.full((1, 1, 3), x)) for x in (0.0, 1.0)]
    assert identity(others[0]) != identity(others[1])
