"""Splits: exact counts, nothing twice, units that stay together, files that say what they split."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
from test_data_dataset import dataset_of

from anipot.data import AtomsDataset, Block, DataError, read_split, split_files, write_split
from anipot.data.memory import MemorySource
from anipot.data.splits import part_edges

THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}
GROUPS = [(500, 3), (120, 4), (2000, 5), (40, 6), (340, 7)]


def rows_of(dataset: AtomsDataset) -> list[int]:
    return dataset.selection.between(0, dataset.num_rows).tolist()


@pytest.mark.parametrize("by", ["conformer", "group", "formula", "block", "order"])
def test_parts_are_disjoint_and_complete(by):
    dataset = dataset_of(GROUPS).subset(np.arange(0, 3000, 2))
    parts = dataset.split(THREE, by=by, seed=4, block=10)
    assert sorted(chain.from_iterable(map(rows_of, parts.values()))) == rows_of(dataset)
    assert parts["train"].split(THREE)["test"].num_rows == 3000


def test_counts_by_conformer_are_exact():
    dataset = dataset_of(GROUPS)
    parts = dataset.split({"train": 0.333, "validation": 100, "test": -1}, seed=1)
    assert [len(part) for part in parts.values()] == [999, 100, 1901]
    parts = dataset.split({"train": 1000, "validation": 50}, seed=1)
    assert [len(part) for part in parts.values()] == [1000, 50]


def test_seeds_choose():
    dataset = dataset_of(GROUPS)
    first, again, other = (rows_of(dataset.split(THREE, seed=seed)["test"]) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first) & set(other)) < 80  # 30 by chance
    spread = np.histogram(first, bins=10, range=(0, 3000))[0]
    assert spread.min() > 10


@pytest.mark.parametrize(
    ("parts", "edges"),
    [
        ({"a": 0.8, "b": 0.1, "c": 0.1}, [802, 903, 1003]),
        ({"a": 1.0}, [1003]),
        ({"a": 1}, [1]),
        ({"a": 0.5, "b": -1}, [502, 1003]),
        ({"a": 0}, [0]),
    ],
)
def test_sizes(parts, edges):
    assert part_edges(1003, parts).tolist() == edges


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": 1004}, "more than the 1003 structures"),
        ({"a": 0.8, "b": 0.3}, "more than the 1003 structures"),
        ({"a": 1000, "b": 0.1}, "more than the 1003 structures"),
        ({"a": 1.5}, "part 'a' is 1.5"),
        ({"a": "0.5"}, "part 'a' is '0.5'"),
        ({"a": -1, "b": -1}, "only one part can be -1"),
    ],
)
def test_bad_sizes(parts, message):
    with pytest.raises(ValueError, match=message):
        part_edges(1003, parts)


def test_groups_stay_together():
    dataset = dataset_of([(50, 3)] * 40)
    parts = dataset.split(THREE, by="group", seed=2)
    assert [len(part) for part in parts.values()] == [1600, 200, 200]
    for part in parts.values():
        groups, counts = np.unique(dataset.group_of(np.array(rows_of(part))), return_counts=True)
        assert len(groups)
        assert set(counts.tolist()) == {50}


def test_formulas_stay_together():
    rng = np.random.default_rng(0)
    species = rng.choice([1, 6, 7, 8], size=(4000, 6))
    dataset = AtomsDataset.from_arrays(species, np.zeros((4000, 6, 3)))
    formulas = ["".join(map(str, row)) for row in np.sort(species, axis=1)]
    parts = dataset.split(THREE, by="formula", seed=2)
    seen = [{formulas[row] for row in rows_of(part)} for part in parts.values()]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert len(parts["test"]) == pytest.approx(400, abs=60)
    other = dataset.split(THREE, by="formula", seed=3)
    assert rows_of(other["test"]) != rows_of(parts["test"])


def test_blocks_stay_together_and_end_with_groups():
    dataset = dataset_of([(95, 3), (105, 3)])
    parts = dataset.split({"train": 0.5, "test": 0.5}, by="block", block=10, seed=1)
    part = np.zeros(200, dtype=int)
    part[rows_of(parts["test"])] = 1
    for start in (*range(0, 95, 10), *range(95, 200, 10)):
        stop = min(start + 10, 95 if start < 95 else 200)
        assert len(set(part[start:stop].tolist())) == 1
    assert 60 < part.sum() < 140


def test_order_is_time():
    parts = dataset_of([(100, 3)]).split(THREE, by="order", seed=9)
    assert [rows_of(part) for part in parts.values()] == [list(range(80)), list(range(80, 90)), list(range(90, 100))]


def test_folds():
    dataset = dataset_of(GROUPS)
    pairs = dataset.folds(8, seed=1)
    assert sorted(chain.from_iterable(rows_of(part) for _, part in pairs)) == list(range(3000))
    for train, validation in pairs:
        assert len(train) + len(validation) == 3000
        assert not set(rows_of(train)) & set(rows_of(validation))
    with pytest.raises(ValueError, match="at least 2"):
        dataset.folds(1)


def test_unknown_methods():
    with pytest.raises(ValueError, match="by is 'molecule'; expected one of conformer, group"):
        dataset_of(GROUPS).split(THREE, by="molecule")
    with pytest.raises(ValueError, match="block is 0"):
        dataset_of(GROUPS).split(THREE, by="block", block=0)


@pytest.mark.parametrize("listed", [100_000, 10], ids=["rows", "bits"])
def test_files_bring_back_the_parts(tmp_path, monkeypatch, listed):
    monkeypatch.setattr(split_files, "LISTED", listed)
    dataset = dataset_of(GROUPS)
    parts = dataset.split(THREE, seed=3)
    write_split(tmp_path / "s.json", parts, {"seed": 3, "by": "conformer"})
    assert json.loads((tmp_path / "s.json").read_text())["seed"] == 3
    back = read_split(tmp_path / "s.json", dataset)
    assert {name: rows_of(part) for name, part in back.items()} == {name: rows_of(part) for name, part in parts.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_rows_that_were_filtered_out_stay_out(tmp_path):
    dataset = dataset_of(GROUPS)
    parts = dataset.split({"train": 0.5, "test": 0.5}, seed=3)
    write_split(tmp_path / "s.json", parts)
    some = dataset.filter(max_atoms=4)
    back = read_split(tmp_path / "s.json", some)
    assert sorted(rows_of(back["train"]) + rows_of(back["test"])) == rows_of(some)


def test_splits_of_other_data_are_refused(tmp_path):
    dataset = dataset_of(GROUPS)
    write_split(tmp_path / "s.json", dataset.split(THREE))
    for other in (dataset_of([*GROUPS, (1, 3)]), dataset_of(GROUPS[::-1])):
        with pytest.raises(DataError, match=r"s.json splits 3000 rows of other data, but the data set has \d+ rows"):
            read_split(tmp_path / "s.json", other)
    with pytest.raises(ValueError, match="all of the same source"):
        write_split(tmp_path / "t.json", {"a": dataset, "b": dataset_of([(1, 3)])})


def test_published_lists_of_rows(tmp_path):
    dataset = dataset_of([(100, 3)])
    (tmp_path / "p.json").write_text('{"train": [5, 1], "test": [7]}')
    np.savez(tmp_path / "p.npz", train_idx=[5, 1], test_idx=[7])
    np.save(tmp_path / "p.npy", [5, 1])
    (tmp_path / "index_train_01.csv").write_text("5\n1\n")
    assert rows_of(read_split(tmp_path / "p.json", dataset)["train"]) == [1, 5]
    assert rows_of(read_split(tmp_path / "p.npz", dataset)["test_idx"]) == [7]
    for name in ("p.npy", "index_train_01.csv"):
        assert rows_of(read_split(tmp_path / name, dataset)["rows"]) == [1, 5]


@pytest.mark.parametrize("text", ["{", '{"train": [100]}', '{"train": [1, 1]}', '{"train": "x"}'])
def test_files_that_are_no_splits(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s.json cannot be read as a split"):
        read_split(tmp_path / "s.json", dataset_of([(100, 3)]))


def test_a_damaged_part_is_refused(tmp_path):
    dataset = dataset_of([(100, 3)])
    write_split(tmp_path / "s.json", dataset.split(THREE))
    content = json.loads((tmp_path / "s.json").read_text())
    content["parts"]["train"]["rows"].pop()
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a part has 79 rows, but should have 80"):
        read_split(tmp_path / "s.json", dataset)


def test_one_group_without_name():
    block = Block(np.ones((10, 1), int), np.zeros((10, 1, 3)))
    assert len(AtomsDataset(MemorySource([block])).split(THREE, by="group")["train"]) == 10
