"""The view on a source: rows, selections, blocks, transforms, ASE's atoms, and the pieces it is made of."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from anipot.data import AtomsDataset, Block, DataError, Field, Quantity
from anipot.data.memory import MemorySource
from anipot.data.permutation import key, permuted
from anipot.data.rows import Rows, RowsBuilder
from anipot.units import HARTREE_TO_EV


def dataset_of(sizes: list[tuple[int, int]]) -> AtomsDataset:
    """Return groups of (n, a): n structures of a atoms, whose energies are their rows."""
    blocks, row = [], 0
    for g, (n, a) in enumerate(sizes):
        x = np.random.default_rng(g).normal(size=(n, a, 3))
        labels = {"energies": np.arange(row, row + n, dtype=float)}
        blocks.append(Block(np.full((n, a), 6), x, labels, group=f"g{g}", rows=np.arange(n), file="f"))
        row += n
    return AtomsDataset(MemorySource(blocks))


GROUPS = [(5, 2), (0, 7), (700, 3), (10_000, 4), (3, 1), (1, 9)]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 4096, 4097, 50_000])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 1.0])
def test_rows_are_a_set(size, fraction):
    rng = np.random.default_rng(size)
    numbers = np.flatnonzero(rng.random(size) < fraction)
    rows = Rows.of(size, rng.permutation(numbers))
    assert len(rows) == len(numbers)
    positions = rng.permutation(len(numbers))
    np.testing.assert_array_equal(rows.at(positions), numbers[positions])
    ends = rng.integers(0, size + 1, 50)
    np.testing.assert_array_equal(rows.before(ends), np.searchsorted(numbers, ends))
    start, stop = sorted(rng.integers(0, size + 1, 2).tolist())
    np.testing.assert_array_equal(rows.between(start, stop), numbers[(numbers >= start) & (numbers < stop)])
    other = Rows(size) - rows
    assert len(other) == size - len(numbers)
    assert len(other & rows) == 0
    assert (other | rows) == Rows(size)
    assert Rows.from_bytes(size, rows.to_bytes()) == rows


def test_rows_take_one_bit_each():
    builder = RowsBuilder(1_000_000)
    builder.add(np.arange(0, 1_000_000, 3))
    assert len(pickle.dumps(builder.rows())) < 1_000_000 / 8 * 1.1


@pytest.mark.parametrize("numbers", [[3, 3], [-1], [10]])
def test_rows_that_are_not_there_or_come_twice(numbers):
    with pytest.raises(ValueError, match="row"):
        Rows.of(10, numbers)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_permutations_are_permutations(size):
    for seed in range(3):
        assert sorted(permuted(np.arange(size), size, seed)) == list(range(size))


def test_permutations_stay_the_same():
    """Splits are recorded by their seed: these numbers must never change."""
    assert permuted(np.arange(10), 10, 0).tolist() == [7, 1, 6, 8, 3, 4, 5, 9, 0, 2]
    assert permuted([0, 1, 12_345_678, 19_999_999], 20_000_000, 42).tolist() == [10344325, 10367997, 1499240, 19700825]
    assert key(0, 1) == 627405149472732430


def test_permutations_look_random():
    """Neighbours go anywhere, and no position is favoured."""
    image = permuted(np.arange(100_000), 100_000, 1)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), image)[0, 1]) < 0.02
    first = np.array([permuted([0], 10, seed)[0] for seed in range(2000)])
    assert np.bincount(first, minlength=10).min() > 140
    assert len(np.unique(permuted(np.arange(100_000), 100_000, 2) == image)) == 2


def test_reads_everything_in_order():
    dataset = dataset_of(GROUPS)
    assert len(dataset) == dataset.num_rows == 10_709
    energies = np.concatenate([block.properties["energies"] for block in dataset.blocks()])
    np.testing.assert_array_equal(energies, np.arange(10_709))
    assert max(len(block) for block in dataset.blocks(100)) <= 100


@pytest.mark.parametrize("rows", [64, 256, 1024, 100_000])
def test_chunks_cover_all_rows(rows):
    dataset = dataset_of(GROUPS)
    chunks = dataset.chunks(rows)
    assert chunks[0] == 0
    assert chunks[-1] == dataset.num_rows
    assert (np.diff(chunks) > 0).all()
    assert np.diff(chunks).max() <= max(rows, 1)
    assert len(chunks) - 1 <= dataset.num_rows / rows * 2 + 2
    assert len(dataset_of([(2, 3)] * 1000).chunks(rows)) - 1 == -(-2000 // rows)


def test_reads_some_rows():
    dataset = dataset_of(GROUPS)
    rows = np.unique(np.random.default_rng(0).integers(0, 10_709, 300))
    found = list(dataset.pieces(rows))
    np.testing.assert_array_equal(np.concatenate([r for r, _ in found]), rows)
    np.testing.assert_array_equal(np.concatenate([b.properties["energies"] for _, b in found]), rows)
    np.testing.assert_array_equal(np.concatenate([np.full(len(b), b.num_atoms) for _, b in found]), dataset.sizes(rows))


def test_positions_are_those_of_the_selection():
    dataset = dataset_of(GROUPS).subset(np.arange(0, 10_709, 7))
    assert len(dataset) == 1530
    assert dataset[3].properties["energies"] == [21]
    assert dataset[-1].properties["energies"] == [10_703]
    again = dataset[10:20][np.array([False, True] * 5)]
    assert [float(block.properties["energies"][0]) for block in again] == [77, 91, 105, 119, 133]
    with pytest.raises(IndexError, match="1530"):
        dataset[1530]
    with pytest.raises(IndexError):
        dataset.subset([1530])


def test_messages_say_where():
    block = dataset_of(GROUPS)[10]
    assert block.where(0) == "f, group 'g2', index 5"


def test_a_source_that_gives_too_little():
    dataset = dataset_of([(5, 2)])
    read = dataset.source.read
    dataset.source.read = lambda group, rows: read(group, slice(0, 2))
    with pytest.raises(DataError, match="group 'g0' gave 2 structures for rows 0 … 4"):
        list(dataset.blocks())


def test_transforms_must_keep_the_structures():
    dataset = dataset_of([(5, 2)]).with_transforms(lambda block: block.take(np.arange(2)))
    with pytest.raises(DataError, match="made 2 structures of 5; to leave some out use filter"):
        list(dataset.blocks())


def test_transforms_must_say_what_they_add():
    def add(block):
        return replace(block, properties={**block.properties, "gap": np.zeros(len(block))})

    with pytest.raises(DataError, match="the transforms made 'gap', which the data do not hold"):
        list(dataset_of([(5, 2)]).with_transforms(add).blocks())


def test_filters():
    energies = [-1.0, -2.0, np.nan, -4.0]
    forces = np.zeros((4, 2, 3))
    forces[3, 1] = 3.0, 4.0, 0.0
    dataset = AtomsDataset.from_arrays(
        [[1, 1], [1, 8], [1, 1], [1, 1]], np.zeros((4, 2, 3)), energies=energies, forces=forces
    )

    def kept(**limits):
        return dataset.filter(**limits).selection.between(0, 4).tolist()

    assert kept(elements=["H"]) == [0, 2, 3]
    assert kept(has="energies") == [0, 1, 3]
    assert kept(min_energy=-2.0) == [0, 1]
    assert kept(max_energy=-2.0) == [1, 3]
    assert kept(max_force=4.9) == [0, 1, 2]
    assert kept(max_force=5.0) == [0, 1, 2, 3]
    assert kept(max_force=4.9, elements=["H", "O"], has=["energies", "forces"]) == [0, 1]
    assert kept(predicate=lambda block: block.species[:, 1] == 8) == [1]
    by_size = dataset_of(GROUPS)
    assert len(by_size.filter(min_atoms=3, max_atoms=3)) == 700
    assert len(by_size.filter(max_atoms=0)) == 0
    with pytest.raises(DataError, match="cannot filter by forces: the data hold energies"):
        by_size.filter(max_force=1.0)


def frames() -> list[Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for i, n in enumerate((3, 3, 5, 3)):
        atoms = Atoms("CHOHH"[:n], rng.normal(size=(n, 3)))
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 * i, forces=rng.normal(size=(n, 3)))
        atoms.info["gap"] = 0.1 * i
        atoms.arrays["shift"] = rng.normal(size=n)
        made.append(atoms)
    made[2].calc = None
    return made


def test_from_atoms_and_back():
    given = frames()
    fields = {"gap": Field("gap", "eV", quantity=Quantity("gap", "Hartree")), "shifts": "shift [ppm]"}
    dataset = AtomsDataset.from_atoms(given, fields)
    assert len(dataset) == 4
    assert list(dataset.quantities) == ["energies", "forces", "gap", "shifts"]
    assert dataset[1].properties["energies"] == pytest.approx(-10 / HARTREE_TO_EV)
    assert dataset[1].properties["gap"] == pytest.approx(0.1 / HARTREE_TO_EV)
    assert np.isnan(dataset[2].properties["forces"]).all()
    assert dataset[3].where(0) == "index 3"
    for i, atoms in enumerate(given):
        back = dataset.to_atoms(i)
        assert (back.numbers == atoms.numbers).all()
        np.testing.assert_array_equal(back.positions, atoms.positions)
        np.testing.assert_array_equal(back.arrays["shifts"], atoms.arrays["shift"])
        if i == 2:
            assert back.calc is None
        else:
            assert back.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
            np.testing.assert_allclose(back.get_forces(), atoms.get_forces(), atol=1e-12)


def test_from_periodic_atoms_and_back():
    atoms = Atoms("Si2", [[0, 0, 0], [1.3, 1.3, 1.3]], cell=np.diag([5.0, 6.0, 7.0]), pbc=True)
    stress = np.arange(6) * 0.1
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, stress=stress)
    dataset = AtomsDataset.from_atoms([Atoms("H"), atoms])
    assert dataset.periodic
    assert dataset[0].cell is None
    assert dataset[1].properties["stress"].shape == (1, 3, 3)
    back = dataset.to_atoms(1)
    np.testing.assert_allclose(back.get_stress(), stress, atol=1e-12)
    assert back.pbc.all()
    np.testing.assert_array_equal(back.cell.array, atoms.cell.array)


def test_labels_of_another_shape():
    given = frames()
    given[1].info["gap"] = [1.0, 2.0]
    with pytest.raises(DataError, match=r"frame 1: gap \('gap'\) has shape \(2,\); expected \(\)"):
        AtomsDataset.from_atoms(given, {"gap": "gap"})


def test_unknown_properties_are_asked_for():
    with pytest.raises(DataError, match="'gap' is no known quantity"):
        AtomsDataset.from_arrays([1], np.zeros((1, 1, 3)), gap=[1.0])
    with pytest.raises(DataError, match="cell and pbc come together"):
        AtomsDataset.from_arrays([1], np.zeros((1, 1, 3)), cell=np.eye(3))
    with pytest.raises(DataError, match=r"must have shape \(structures, atoms, 3\)"):
        AtomsDataset.from_arrays([1], np.zeros((1, 3)))


def test_can_be_sent_to_another_process():
    dataset = dataset_of(GROUPS).subset(np.arange(5, 50))
    other = pickle.loads(pickle.dumps(dataset))
    assert other.selection == dataset.selection
    np.testing.assert_array_equal(other[3].coordinates, dataset[3].coordinates)
