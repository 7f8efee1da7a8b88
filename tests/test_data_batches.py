"""Batches: everything once, the order of the seed whoever reads, shares of processes, resuming, padding."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from anipot.data import AtomsDataset, Block, DataError, Quantity
from anipot.data import open as open_dataset
from anipot.data.memory import MemorySource


def random_dataset(counts: dict[int, int], seed: int = 0, periodic: bool = False) -> AtomsDataset:
    """Return ``counts[a]`` structures of a atoms; energies are rows, so that a mix-up shows."""
    rng = np.random.default_rng(seed)
    blocks, row = [], 0
    for a, n in counts.items():
        species = rng.choice([1, 6, 7, 8], size=(n, a))
        labels = {
            "energies": np.arange(row, row + n) + 1e-9,
            "forces": rng.normal(size=(n, a, 3)),
            "charges": species / 10.0,
        }
        cell = np.broadcast_to(np.eye(3) * 9.0, (n, 3, 3)) if periodic else None
        pbc = np.arange(n)[:, None] % 2 == [1, 1, 1] if periodic else None
        block = Block(species, rng.normal(size=(n, a, 3)), labels, cell, pbc, f"{a} atoms", np.arange(n), "made up")
        blocks.append(block)
        row += n
    return AtomsDataset(MemorySource(blocks))


@pytest.fixture(scope="module")
def dataset():
    return random_dataset({2: 300, 5: 1200, 9: 2500, 17: 900, 24: 100})


def order_of(batches) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


def joined(lists: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def test_every_structure_comes_once_and_unchanged(dataset):
    rows = []
    for batch in dataset.batches(64, shuffle=True, dtype=torch.float64):
        assert batch.species.dtype == batch.index.dtype == torch.int64
        assert batch.species.shape[1] == int(batch.num_atoms.max())
        ghosts = batch.species < 0
        assert (batch.coordinates[ghosts] == 0).all()
        assert batch.properties["forces"][ghosts].isnan().all()
        assert batch.properties["charges"].shape == batch.species.shape
        assert batch.cell is None
        np.testing.assert_array_equal(batch.properties["energies"], batch.index.numpy() + 1e-9)
        for b, row in enumerate(batch.index.tolist()):
            ((_, block),) = dataset.pieces(np.array([row]))
            n = block.num_atoms
            assert batch.species[b, :n].tolist() == block.species[0].tolist()
            assert (batch.species[b, n:] == -1).all()
            np.testing.assert_array_equal(batch.coordinates[b, :n], block.coordinates[0])
            np.testing.assert_array_equal(batch.properties["forces"][b, :n], block.properties["forces"][0])
        rows += batch.index.tolist()
    assert sorted(rows) == list(range(len(dataset)))


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["held", "streamed"])
def test_epochs_differ_and_repeat_under_a_seed(dataset, memory):
    batches = dataset.batches(64, shuffle=True, seed=1, memory=memory)
    assert batches.held == (memory > 0)
    first, second = order_of(batches), order_of(batches)
    assert first != second
    assert len(first) == len(batches) == -(-len(dataset) // 64)
    assert sorted(joined(first)) == sorted(joined(second)) == list(range(len(dataset)))
    again = dataset.batches(64, shuffle=True, seed=1, memory=memory)
    again.set_epoch(1)
    assert order_of(again) == second
    assert order_of(dataset.batches(64, shuffle=True, seed=2, memory=memory)) != first


def test_unshuffled_is_the_order_of_the_file(dataset):
    assert joined(order_of(dataset.batches(100, bucket=False))) == list(range(len(dataset)))
    assert order_of(dataset.batches(100)) == order_of(dataset.batches(100))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset, workers):
    """Pools are made small, so that there are several to read ahead."""
    alone = small_pools(dataset.batches(50, shuffle=True, seed=5, memory=0))
    helped = small_pools(dataset.batches(50, shuffle=True, seed=5, memory=0, workers=workers))
    for _ in range(2):
        for a, b in zip(alone, helped, strict=True):
            assert torch.equal(a.index, b.index)
            assert torch.equal(a.coordinates, b.coordinates)
            assert torch.equal(a.properties["energies"], b.properties["energies"])


def test_workers_take_any_transform(dataset):
    shifted = dataset.with_transforms(lambda block: replace(block, coordinates=block.coordinates + 100))
    batches = small_pools(shifted.batches(50, memory=0, workers=1))
    assert min(float(batch.coordinates[batch.species > 0].min()) for batch in batches) > 50


def small_pools(batches):
    """Cut an order of thousands into several pools and chunks, as that of millions is."""
    dataset = batches.dataset
    edges = None if batches.held else dataset.selection.before(dataset.chunks(64))
    batches.order = replace(batches.order, pool=16 * batches.order.batch, edges=edges)
    assert batches.order.num_pools > 3
    return batches


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_processes_are_the_global_batch(dataset, memory, world):
    whole = order_of(small_pools(dataset.batches(24, shuffle=True, seed=3, memory=memory)))
    parts = [
        order_of(small_pools(dataset.batches(24 // world, shuffle=True, seed=3, memory=memory, rank=r, world=world)))
        for r in range(world)
    ]
    assert len(whole) == len(parts[0])
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(joined(shares))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_may_be_empty():
    tiny = random_dataset({3: 5})
    sizes = [[len(batch) for batch in tiny.batches(2, rank=r, world=2)] for r in range(2)]
    assert sizes == [[2, 1], [2, 0]]
    *_, empty = tiny.batches(2, rank=1, world=2)
    assert empty.species.shape == (0, 1)
    assert empty.properties["forces"].shape == (0, 1, 3)


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("done", [0, 1, 16, 17, 98])
def test_resumes_in_mid_epoch(dataset, memory, done):
    def make():
        return small_pools(dataset.batches(50, shuffle=True, seed=3, memory=memory))

    batches = make()
    batches.set_epoch(4)
    whole = order_of(batches)
    batches = make()
    batches.set_epoch(4)
    iterator = iter(batches)
    before = [next(iterator).index.tolist() for _ in range(done)]
    state = pickle.loads(pickle.dumps(batches.state_dict()))
    later = make()
    later.load_state_dict(state)
    later.set_epoch(4)  # as Lightning does
    assert before + order_of(later) == whole
    assert later.epoch == 5
    assert order_of(later) != whole


def test_state_at_the_end_goes_on_with_the_next_epoch(dataset):
    batches = dataset.batches(500, shuffle=True)
    state = batches.state_dict() | {"done": len(batches)}
    following = order_of(batches) and order_of(batches)
    other = dataset.batches(500, shuffle=True)
    other.load_state_dict(state)
    assert order_of(other) == following


def test_skipped_batches_are_not_read(dataset, monkeypatch):
    batches = small_pools(dataset.batches(50, shuffle=True, memory=0))
    batches.load_state_dict(batches.state_dict() | {"done": 33})
    read = []
    pieces = type(dataset).pieces
    monkeypatch.setattr(type(dataset), "pieces", lambda self, rows: (read.append(len(rows)), pieces(self, rows))[1])
    assert len(list(batches)) == len(batches) - 33
    assert sum(read) == len(dataset) - 2 * 16 * 50


def test_state_of_another_order_is_refused(dataset):
    state = dataset.batches(50, shuffle=True, seed=1).state_dict()
    with pytest.raises(ValueError, match=r"global batch was 50 and is 60; seed was 1 and is 2"):
        dataset.batches(60, shuffle=True, seed=2).load_state_dict(state)


def test_a_break_starts_the_epoch_again(dataset):
    batches = dataset.batches(500, shuffle=True)
    first = next(iter(batches)).index
    assert torch.equal(next(iter(batches)).index, first)


@pytest.mark.parametrize("shuffle", [False, True])
def test_drop_last_drops_the_short_batch(dataset, shuffle):
    batches = dataset.batches(64, shuffle=shuffle, drop_last=True)
    sizes = [len(batch) for batch in batches]
    assert sizes == [64] * (len(dataset) // 64) == [64] * len(batches)
    if shuffle:  # it is another in every epoch, and not always one of the largest
        left = [min(set(range(len(dataset))) - set(joined(order_of(batches)))) for _ in range(5)]
        assert len(set(left)) > 1


def padding(batches) -> float:
    atoms = slots = 0
    for batch in batches:
        atoms += int(batch.num_atoms.sum())
        slots += batch.species.numel()
    return 1 - atoms / slots


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("batch_size", [32, 256, 2560])
def test_padding_stays_below_ten_percent(batch_size, memory):
    """Sizes as of ANI-1x: about normal around 15 atoms, from 2 to 63."""
    rng = np.random.default_rng(0)
    sizes, counts = np.unique(np.clip(np.rint(rng.normal(15.3, 5.0, 30_000)), 2, 63).astype(int), return_counts=True)
    made = random_dataset(dict(zip(sizes.tolist(), counts.tolist(), strict=True)))
    sorted_, unsorted = (
        padding(made.batches(batch_size, shuffle=True, memory=memory, bucket=b)) for b in (True, False)
    )
    assert sorted_ < 0.1
    assert unsorted > 0.3


@pytest.mark.parametrize(("batch_size", "largest"), [(32, 0.01), (256, 0.03), (1024, 0.1)])
def test_padding_of_a_real_data_set(shared, batch_size, largest):
    """17 630 molecules of 2 to 24 atoms; no order of 2 560 at a time, a seventh of all, would stay below 11 %."""
    path = shared / "data" / "ani1ccx_dftbml" / "ani1ccx_dftbml.h5"
    dataset = open_dataset(path, fields={"energies": "ccsd(t)_cbs.energy"})
    assert len(dataset) == 17_630
    assert padding(dataset.batches(batch_size, shuffle=True)) < largest


def test_mixing_of_streamed_pools():
    """A pool holds chunks from all over the file, and a batch more than one chunk."""
    made = random_dataset({4: 20_000})
    batches = small_pools(made.batches(32, shuffle=True, memory=0))
    first = next(iter(batches)).index.numpy()
    assert len(np.unique(first // 64)) > 5
    assert first.max() - first.min() > 10_000


def test_cells_come_with_periodic_batches():
    made = random_dataset({4: 6}, periodic=True)
    batch = next(iter(made.batches(6)))
    assert batch.cell.shape == (6, 3, 3)
    assert batch.cell.dtype == torch.float32
    assert batch.pbc.any(1).tolist() == [False, True] * 3
    free = next(iter(made.subset([0, 2, 4]).batches(6)))
    assert free.cell is None
    assert free.pbc is None


def test_trailing_ghosts_are_cut():
    species = np.array([[8, 1, 1, -1, -1], [6, 1, -1, -1, -1]])
    coordinates = np.zeros((2, 5, 3))
    coordinates[0, 3:] = np.nan
    made = AtomsDataset.from_arrays(species, coordinates, forces=np.ones((2, 5, 3)))
    batch = next(iter(made.batches(2)))
    assert sorted(batch.species.tolist()) == [[6, 1, -1], [8, 1, 1]]
    assert int(batch.properties["forces"].isnan().sum()) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda species, x: x.__setitem__((1, 2, 0), np.nan), r"index 1: atom 2 stands at \[nan, 0.0, 0.0\]"),
        (lambda species, x: species.__setitem__((1, 0), -1), r"index 1: atom 0 is no element \(-1\)"),
        (lambda species, x: species.__setitem__((0, 1), 119), r"index 0: atom 1 is no element \(119\)"),
    ],
)
def test_what_cannot_be_computed_is_refused(change, message):
    species, x = np.full((2, 3), 6), np.zeros((2, 3, 3))
    change(species, x)
    with pytest.raises(DataError, match=message):
        list(AtomsDataset.from_arrays(species, x).batches(2))


def test_labels_of_another_shape_are_refused():
    block = Block(np.ones((2, 3), int), np.zeros((2, 3, 3)), {"forces": np.zeros((2, 3))}, group="g", file="f.h5")
    with pytest.raises(
        DataError, match=r"f.h5, group 'g', index 0 …: forces have shape \(2, 3\); expected \(2, 3, 3\)"
    ):
        list(AtomsDataset(MemorySource([block])).batches(2))


def test_missing_properties_are_nan():
    first = Block(np.ones((2, 3), int), np.zeros((2, 3, 3)), {"energies": np.zeros(2)})
    second = Block(np.ones((1, 3), int), np.zeros((1, 3, 3)), {"gap": np.ones(1)})
    made = AtomsDataset(MemorySource([first, second], {"gap": Quantity("gap", "Hartree")}))
    batch = next(iter(made.batches(3)))
    assert batch.properties["energies"].isnan().tolist() == [False, False, True]
    assert batch.properties["gap"].isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"rank": 2, "world": 2}, {"workers": -1}])
def test_bad_options(dataset, options):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        dataset.batches(**{"batch_size": 4, **options})


def test_empty_data_sets_are_refused(dataset):
    with pytest.raises(ValueError, match="is empty"):
        dataset.subset([]).batches(4)
    with pytest.raises(ValueError, match="make no batch of 6000"):
        dataset.batches(6000, drop_last=True)


def test_moves_between_devices(dataset):
    batch = next(iter(dataset.batches(4)))
    moved = batch.to("meta")
    assert moved.species.device.type == moved.properties["energies"].device.type == "meta"
    assert len(moved) == 4
