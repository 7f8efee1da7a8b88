"""Bad records: every kind is found where it stands, counted, and refused or left out; nothing else is lost."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import chain

import h5py
import numpy as np
import pytest

from anipot.data import QUANTITIES, AtomsDataset, BadRecords, Block, DataError
from anipot.data import open as open_dataset
from anipot.data.checks import CheckReport, Checks
from anipot.data.faults import KINDS, smallest_distances
from anipot.data.memory import MemorySource
from anipot.data.store import StoreWriter


def good_block(n: int = 6000, a: int = 4, seed: int = 0, group: str = "g") -> Block:
    """Return sound records: atoms near the corners of a cube of 2 Å, small forces."""
    rng = np.random.default_rng(seed)
    corners = np.array([[x, y, z] for x in (0, 2) for y in (0, 2) for z in (0, 2)])[:a]
    labels = {
        "energies": rng.normal(size=n) * 0.01 - 150.0,
        "forces": rng.normal(size=(n, a, 3)) * 0.05,
        "dipole": rng.normal(size=(n, 3)),
        "shifts": rng.normal(size=(n, a)),
    }
    x = corners + rng.normal(size=(n, a, 3)) * 0.1
    species = np.tile([6, 1, 8, 7, 6, 6][:a], (n, 1))
    return Block(species, x, labels, group=group, rows=np.arange(n), file="data.h5")


def dataset_with(change, second_group: bool = True, **options) -> AtomsDataset:
    """Return two groups of sound records, the first of which was changed."""
    block = good_block(**options)
    block = change(block) or block
    blocks = [block, good_block(50, 3, seed=1, group="h")] if second_group else [block]
    return AtomsDataset(MemorySource(blocks))


ROW = 4321


def put(name: str, place: tuple, value: object):
    """Return a change of one number of the record ``ROW``."""

    def change(block: Block) -> None:
        array = getattr(block, name) if name in ("species", "coordinates") else block.properties[name]
        array[(ROW, *place)] = value

    return change


def with_cell(cell, pbc):
    def change(block: Block) -> Block:
        cells, pbcs = np.tile(np.eye(3) * 9.0, (len(block), 1, 1)), np.ones((len(block), 3), dtype=bool)
        cells[ROW], pbcs[ROW] = cell, pbc
        return replace(block, cell=cells, pbc=pbcs)

    return change


BAD = {
    "NaN coordinate": (put("coordinates", (2, 1), np.nan), "coordinates", r"atom 2 stands at \[.*nan"),
    "infinite coordinate": (put("coordinates", (0, 0), np.inf), "coordinates", "atom 0 stands at"),
    "no element": (put("species", (1,), 119), "elements", r"atom 1 is no element \(119\)"),
    "negative number": (put("species", (1,), -5), "elements", r"atom 1 is no element \(-5\)"),
    "ghost in the middle": (put("species", (1,), -1), "ghosts", "atom 1 is a ghost before an atom"),
    "ghosts alone": (put("species", (slice(None),), -1), "ghosts", "it has no atoms"),
    "zero in the middle": (put("species", (0,), 0), "ghosts", "atom 0 is a ghost before an atom"),
    "infinite energy": (put("energies", (), np.inf), "labels", "energies are infinite"),
    "infinite force": (put("forces", (0, 0), -np.inf), "labels", "forces are infinite"),
    "half a force": (put("forces", (1, 2), np.nan), "labels", "forces are missing in part"),
    "forces of some atoms": (put("forces", (1,), np.nan), "labels", "forces are missing in part"),
    "half a dipole": (put("dipole", (1,), np.nan), "labels", "dipole are missing in part"),
    "absurd force": (put("forces", (3,), [6.0, 6.0, 6.0]), "forces", "atom 3 has a force of 10.39 Hartree/Å"),
    "overflow": (put("forces", (3, 0), 1e200), "forces", "atom 3 has a force of inf"),
    "on top of each other": (
        lambda block: block.coordinates.__setitem__((ROW, 3), block.coordinates[ROW, 1] + 0.01),
        "distances",
        "two atoms are 0.01732 Å apart",
    ),
    "flat cell": (with_cell(np.diag([9.0, 9.0, 0.0]), True), "cell", "its cell is .* with pbc"),
    "NaN cell": (with_cell(np.full((3, 3), np.nan), [True, False, False]), "cell", "its cell is"),
    "left on an image": (
        lambda block: with_cell(np.eye(3) * 9.0, True)(
            replace(block, coordinates=_with(block.coordinates, (ROW, 2), block.coordinates[ROW, 0] + [9.0, 0.1, -18]))
        ),
        "distances",
        "two atoms are 0.1 Å apart",
    ),
}


def _with(array, place, value):
    array[place] = value
    return array


@pytest.mark.parametrize("name", list(BAD))
def test_each_kind_is_found_and_left_out(name):
    change, kind, message = BAD[name]
    dataset = dataset_with(change)
    report = dataset.check()
    assert (report.structures, report.bad) == (6050, 1)
    assert report.counts == {**dict.fromkeys(KINDS, 0), kind: 1}
    (record,) = report.records
    assert (record.kind, record.file, record.group, record.index, record.row) == (kind, "data.h5", "g", ROW, ROW)
    good = dataset.checked(on_bad="skip")
    assert sorted({*range(6050)} - {*good.selection.between(0, 6050).tolist()}) == [ROW]
    assert good.report is not None
    assert good.report.bad == 1
    with pytest.raises(
        BadRecords, match=rf"1 of 6050 records are bad\n  {kind}: 1 .*\n    data.h5, group 'g', index 4321: {message}"
    ):
        dataset.checked()


def harmless(block: Block) -> Block:
    """Missing labels, shifts of some atoms, ghosts at the end, cells along free axes."""
    block.properties["energies"][5] = np.nan
    block.properties["forces"][6] = np.nan
    block.properties["dipole"][7] = np.nan
    block.properties["shifts"][8, 1] = np.nan
    block.species[9, 3] = -1
    block.coordinates[9, 3] = np.nan
    block.properties["forces"][9, 3] = np.nan
    block.properties["shifts"][9, 3] = np.inf
    cells, pbcs = np.zeros((len(block), 3, 3)), np.zeros((len(block), 3), dtype=bool)
    cells[10], pbcs[10] = np.diag([9.0, 0, np.nan]), [True, False, False]
    cells[11], pbcs[11] = np.diag([9.0, 8, -7]), True
    return replace(block, cell=cells, pbc=pbcs)


def test_what_is_no_fault():
    dataset = dataset_with(harmless)
    report = dataset.check(max_deviation=50, duplicates=True)
    assert not report.bad, report
    assert str(report) == "6050 records, none is bad"
    assert len(dataset.checked()) == 6050


def test_elements_of_the_user():
    report = dataset_with(lambda block: None).check(elements=["C", "H", "O"])
    assert report.counts["elements"] == 6000
    assert "atom 3 is N" in str(report)
    assert "and 5990 more" in str(report)


def test_limits_can_be_lifted():
    dataset = dataset_with(BAD["absurd force"][0])
    assert dataset.check(max_force=None).bad == dataset.check(max_force=11).bad == 0
    close = dataset_with(BAD["on top of each other"][0])
    assert close.check(min_distance=None).bad == close.check(min_distance=0.01).bad == 0


def test_energies_far_outside():
    def change(block: Block) -> None:
        block.properties["energies"][[7, 3000]] = 0.0, -151.0

    dataset = dataset_with(change)
    assert dataset.check().bad == 0
    report = dataset.check(max_deviation=20.0)
    assert report.rows.between(0, 6050).tolist() == [7, 3000]
    assert report.counts["energies"] == 2
    assert "its energy of 0.000000 Hartree is +37." in str(report)


def test_equal_energies_are_no_measure():
    energies = np.full(100, -1.0)
    energies[[3, 4]] += 1e-9, 1.0
    dataset = AtomsDataset.from_arrays([1], np.zeros((100, 1, 3)), energies=energies)
    assert dataset.check(max_deviation=20.0).rows.between(0, 100).tolist() == [4]


def test_duplicates():
    def change(block: Block) -> None:
        for to, of in ((100, 7), (5000, 7), (4000, 3999), (200, 9)):
            block.coordinates[to] = block.coordinates[of]
        block.coordinates[5000] += 1e-8  # rounding
        block.coordinates[[9, 200], 0, 0] = np.nan  # bad anyway, and equal to nothing

    dataset = dataset_with(change)
    assert dataset.check().counts["duplicates"] == 0
    report = dataset.check(duplicates=True)
    assert report.counts["duplicates"] == 3
    assert [record.row for record in report.records if record.kind == "duplicates"] == [100, 4000, 5000]
    assert [record.message for record in report.records if record.kind == "duplicates"] == [
        "the same as row 7",
        "the same as row 3999",
        "the same as row 7",
    ]
    assert report.rows.between(0, 6050).tolist() == [9, 100, 200, 4000, 5000]
    elsewhere = dataset.subset(np.arange(50, 6050)).check(duplicates=True)
    assert elsewhere.counts["duplicates"] == 2  # the first of three is not part of it


def test_species_and_cells_tell_structures_apart():
    x = np.zeros((1, 2, 3))
    x[:, 1, 2] = 1.5
    blocks = [Block(np.array([[6, z]]), x) for z in (1, 8)]
    blocks += [Block(np.array([[6, 1]]), x, cell=np.eye(3)[None] * c, pbc=np.ones((1, 3), bool)) for c in (9.0, 10.0)]
    assert AtomsDataset(MemorySource(blocks)).check(duplicates=True).bad == 0
    assert AtomsDataset(MemorySource([*blocks, blocks[1]])).check(duplicates=True).bad == 1


def test_a_record_with_several_faults_counts_once():
    def change(block: Block) -> None:
        block.coordinates[5] = np.nan
        block.properties["energies"][5] = np.inf
        block.properties["forces"][5] = 100.0

    report = dataset_with(change).check()
    assert report.bad == 1
    assert {kind for kind, count in report.counts.items() if count} == {"coordinates", "labels", "forces"}


def test_wrong_shapes():
    block = good_block(20)
    block.properties["forces"] = block.properties["forces"][:, :3]
    dataset = AtomsDataset(MemorySource([good_block(30), block]))
    report = dataset.check()
    assert (report.bad, report.counts["length"]) == (20, 20)
    assert "forces have shape (20, 3, 3); expected (20, 4, 3)" in str(report)
    assert len(dataset.checked(on_bad="skip")) == 30


def test_wrong_numbers_of_rows():
    block = good_block(20)
    block.properties["energies"] = block.properties["energies"][:19]
    dataset = AtomsDataset(MemorySource([good_block(30), block, good_block(10)]))
    report = dataset.check()
    assert (report.bad, report.counts["unreadable"]) == (20, 20)
    assert "19 energies for 20 structures" in str(report)
    good = dataset.checked(on_bad="skip")
    assert len(good) == sum(len(block) for block in good.blocks()) == 40


def damaged_store(path, rows: list[int]):
    """Write 3000 records, of which some have an atom that a reader refuses."""
    with StoreWriter(path, {"energies": QUANTITIES["energies"]}) as writer:
        block = good_block(3000)
        writer.append(replace(block, properties={"energies": np.arange(3000.0)}))
    with h5py.File(path, "r+") as file:
        file["004/species"][rows, 2] = 125
    return open_dataset(path)


def test_records_that_the_reader_refuses(tmp_path):
    """One of them must not take the thousands with it that are read at the same time."""
    dataset = damaged_store(tmp_path / "a.h5", [17, 18, 2500])
    report = dataset.check()
    assert (report.bad, report.counts["unreadable"]) == (3, 3)
    assert [record.row for record in report.records] == [17, 18, 2500]
    assert "group '004', index 17: " in str(report)
    assert "125" in report.records[0].message
    good = dataset.checked(on_bad="skip")
    energies = np.concatenate([block.properties["energies"] for block in good.blocks()])
    assert energies.tolist() == [row for row in range(3000) if row not in (17, 18, 2500)]
    assert sorted(chain.from_iterable(b.index.tolist() for b in good.batches(100, memory=0))) == energies.tolist()
    with pytest.raises(DataError, match="125"):
        list(dataset.batches(100))


def test_the_log_has_all(tmp_path):
    dataset = dataset_with(lambda block: block.coordinates.__setitem__((slice(100, 200), 0, 0), np.nan))
    report = dataset.check(log=tmp_path / "bad.csv", duplicates=True)
    assert report.bad == 100
    assert len(report.records) == 10
    with open(tmp_path / "bad.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(100, 200))
    assert {(row["kind"], row["group"]) for row in rows} == {("coordinates", "g")}


def test_checks_look_at_the_file_not_at_transforms():
    def fail(block):
        raise AssertionError

    dataset = dataset_with(BAD["NaN coordinate"][0]).with_transforms(fail)
    assert dataset.check().bad == 1
    assert dataset.checked(on_bad="skip").transforms == (fail,)


def test_selections_are_checked_alone():
    dataset = dataset_with(BAD["NaN coordinate"][0])
    assert dataset.subset(np.arange(4000)).check().structures == 4000
    assert dataset.subset(np.arange(4000)).check().bad == 0
    part = dataset.subset(np.arange(4000, 6000)).checked(on_bad="skip")
    assert len(part) == 1999


def test_what_to_do_must_be_known():
    with pytest.raises(ValueError, match="on_bad is 'ignore'"):
        dataset_with(lambda block: None).checked(on_bad="ignore")
    assert Checks().max_force == 10.0
    assert CheckReport().bad == 0


@pytest.mark.parametrize("periodic", [False, True])
def test_smallest_distances(periodic):
    """Against all pairs, with all images near by."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 6, (20, 5, 3))
    cell = np.array([[5.0, 0, 0], [1.5, 5, 0], [-1, 2, 6]])
    shifts = np.zeros((1, 3))
    if periodic:
        x[10:, 1] = x[10:, 0] + rng.normal(size=(10, 3)) * 0.1 + rng.integers(-2, 3, (10, 3)) @ cell
        shifts = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 3) @ cell
    cells, pbc = (np.tile(cell, (20, 1, 1)), np.ones((20, 3), bool)) if periodic else (None, None)
    found = smallest_distances(Block(np.ones((20, 5), int), x, cell=cells, pbc=pbc))
    pairs = x[:, :, None, None] - x[:, None, :, None] + shifts
    lengths = np.linalg.norm(pairs, axis=-1)
    lengths[:, np.arange(5), np.arange(5)] = np.inf
    expected = lengths.min(axis=(1, 2, 3))
    near = expected < 2.0  # shorter than half the heights of the cell
    assert near.sum() >= 10
    np.testing.assert_allclose(found[near], expected[near], atol=1e-12)
    assert (found[~near] >= expected[~near] - 1e-12).all()
