"""The store: what is written is read back, parts of it and after a kill, and others can read it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import anipot.data.store as store
from anipot.data.blocks import Block, DataError, Group
from anipot.data.layouts.hdf5 import stretches
from anipot.data.quantities import QUANTITIES, Quantity
from anipot.data.source import open_source
from anipot.data.store import StoreSource, StoreWriter

LABELS = {name: QUANTITIES[name] for name in ("energies", "forces", "stress", "charges")}
LABELS["gap"] = Quantity("gap", "eV")


def block(n: int, atoms: int, seed: int = 0, periodic: bool = False) -> Block:
    random = np.random.default_rng((n, atoms, seed))
    properties = {
        q.name: random.normal(size=(n, atoms, *q.shape) if q.per_atom else (n, *q.shape)) for q in LABELS.values()
    }
    cell = np.broadcast_to(np.eye(3) * 5.0, (n, 3, 3)) + random.normal(size=(n, 3, 3)) if periodic else None
    return Block(
        random.integers(1, 18, (n, atoms)),
        random.normal(size=(n, atoms, 3)),
        properties,
        cell=cell,
        pbc=np.ones((n, 3), np.bool_) if periodic else None,
    )


def same(found: Block, expected: Block) -> None:
    np.testing.assert_array_equal(found.species, expected.species)
    np.testing.assert_array_equal(found.coordinates, expected.coordinates)
    assert found.properties.keys() == expected.properties.keys()
    for name, values in expected.properties.items():
        np.testing.assert_array_equal(found.properties[name], values)


def write(path: Path, *blocks: Block, **options) -> StoreSource:
    with StoreWriter(path, LABELS, {"level_of_theory": "none"}, **options) as writer:
        for part in blocks:
            writer.append(part)
    return StoreSource(str(path))


def test_all_comes_back_by_size_and_in_order(tmp_path):
    first, second, third = block(30, 5), block(7, 3), block(11, 5, seed=1)
    source = write(tmp_path / "a.h5", first, second, third)
    assert source.groups == (Group("003", 7, 3), Group("005", 41, 5))
    assert source.quantities == LABELS
    assert source.metadata == {"level_of_theory": "none"}
    assert not source.periodic
    same(source.read(0, slice(0, 7)), second)
    same(source.read(1, slice(0, 30)), first)
    same(source.read(1, slice(30, 41)), third)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5"]


def test_rows_may_be_chosen(tmp_path):
    whole = block(3000, 2)
    source = write(tmp_path / "a.h5", whole)
    for rows in ([], [0], [5, 6, 7], [0, 2, 2000, 2001, 2999], list(range(0, 3000, 7))):
        part = source.read(0, np.array(rows, dtype=np.int64))
        same(part, whole.take(np.array(rows, dtype=np.int64)))
        assert part.rows.tolist() == rows
    same(source.read(0, slice(2998, 4000)), whole.take(np.array([2998, 2999])))
    with pytest.raises(IndexError, match="3000"):
        source.read(0, np.array([3000]))


def test_stretches_are_complete_and_bounded():
    rows = np.unique(np.random.default_rng(0).integers(0, 400_000, 40_000))
    parts = list(stretches(rows))
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert max(int(part[-1] - part[0]) for part in parts) < 65536
    assert [len(part) for part in stretches(np.arange(200_000))] == [200_000]


def test_periodic_structures_beside_free_ones(tmp_path):
    free, periodic = block(3, 4), block(2, 4, seed=1, periodic=True)
    source = write(tmp_path / "a.h5", free, periodic, block(1, 2))
    assert source.periodic
    found = source.read(1, slice(0, 5))
    assert found.pbc.tolist() == [[False] * 3] * 3 + [[True] * 3] * 2
    np.testing.assert_array_equal(found.cell[3:], periodic.cell)
    assert source.read(0, slice(0, 1)).cell is None


def test_missing_labels_are_nan(tmp_path):
    whole = block(4, 3)
    source = write(tmp_path / "a.h5", replace(whole, properties={"energies": whole.properties["energies"]}))
    found = source.read(0, slice(0, 4))
    np.testing.assert_array_equal(found.properties["energies"], whole.properties["energies"])
    assert np.isnan(found.properties["forces"]).all()
    assert found.properties["forces"].shape == (4, 3, 3)


def test_single_precision_keeps_energies(tmp_path):
    whole = block(50, 6)
    source = write(tmp_path / "a.h5", whole, precision="single")
    found = source.read(0, slice(0, 50))
    np.testing.assert_array_equal(found.properties["energies"], whole.properties["energies"])
    np.testing.assert_array_equal(found.coordinates, whole.coordinates.astype(np.float32))


def test_fields_rename_and_choose(tmp_path):
    path = tmp_path / "a.h5"
    whole = block(4, 3)
    write(path, whole)
    source = open_source(path, fields={"energies": "gap", "forces": "-forces"})
    found = source.read(0, slice(0, 4))
    assert found.properties.keys() == {"energies", "forces"}
    np.testing.assert_allclose(found.properties["energies"], whole.properties["gap"] / 27.211386, rtol=1e-7)
    np.testing.assert_array_equal(found.properties["forces"], -whole.properties["forces"])
    with pytest.raises(DataError, match=r"no 'energy'.*it has charges \[e\], energies \[Hartree\]"):
        open_source(path, fields={"energies": "energy"})
    with pytest.raises(DataError, match="in Å"):
        open_source(path, length="bohr")


def test_what_does_not_fit_is_refused(tmp_path):
    with StoreWriter(tmp_path / "a.h5", LABELS) as writer:
        good = block(4, 3)
        with pytest.raises(DataError, match=r"forces has the shape \(4, 3\), expected \(4, 3, 3\)"):
            writer.append(replace(good, properties={"forces": np.zeros((4, 3))}))
        with pytest.raises(DataError, match="'dipole' is not among"):
            writer.append(replace(good, properties={"dipole": np.zeros((4, 3))}))
        with pytest.raises(DataError, match="pbc"):
            writer.append(replace(good, cell=np.zeros((4, 3, 3))))
        with pytest.raises(DataError, match="no elements"):
            writer.append(replace(good, species=good.species * 0))
    for name in ("cell", "a/b"):
        with pytest.raises(ValueError, match="cannot be the name of a quantity"):
            StoreWriter(tmp_path / "b.h5", {name: Quantity(name)})
    with pytest.raises(TypeError, match="JSON"):
        StoreWriter(tmp_path / "b.h5", LABELS, {"array": np.zeros(3)})


def test_files_are_not_replaced_unasked(tmp_path):
    path = tmp_path / "a.h5"
    write(path, block(2, 2))
    with pytest.raises(FileExistsError, match=r"a\.h5 exists"):
        StoreWriter(path, LABELS)
    assert write(path, block(3, 2), overwrite=True).groups == (Group("002", 3, 2),)


def test_a_finished_file_is_continued(tmp_path):
    path = tmp_path / "a.h5"
    write(path, block(2, 2))
    with StoreWriter(path, LABELS, {"more": 1}, resume=True) as writer:
        assert writer.rows == 2
        writer.append(block(3, 2, seed=1))
        writer.append(block(1, 4))
    source = StoreSource(str(path))
    assert source.groups == (Group("002", 5, 2), Group("004", 1, 4))
    assert source.metadata == {"level_of_theory": "none", "more": 1}
    same(source.read(0, slice(2, 5)), block(3, 2, seed=1))
    before = path.read_bytes()
    with StoreWriter(path, LABELS, resume=True):
        pass
    assert path.read_bytes() == before
    with pytest.raises(DataError, match="gap"):
        StoreWriter(path, {"energies": QUANTITIES["energies"]}, resume=True)


def test_an_error_keeps_what_was_appended(tmp_path):
    path = tmp_path / "a.h5"
    writer = StoreWriter(path, LABELS)
    writer.append(block(5, 3), position={"next": 5})
    assert not writer.__exit__(RuntimeError, RuntimeError("stop"), None)
    assert not path.exists()
    assert open_source(f"{path}.partial").groups == (Group("003", 5, 3),)
    with pytest.raises(FileExistsError, match="partial"):
        StoreWriter(path, LABELS)
    with StoreWriter(path, LABELS, resume=True) as writer:
        assert (writer.rows, writer.position) == (5, {"next": 5})
        writer.append(block(2, 3, seed=1))
    same(StoreSource(str(path)).read(0, slice(5, 7)), block(2, 3, seed=1))


def test_a_kill_between_putting_in_place_and_clearing_up(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    monkeypatch.setattr("anipot.data.layouts.store_writer.shutil.rmtree", lambda *_: None)
    with StoreWriter(path, LABELS, buffer=1) as writer:
        writer.append(block(5, 3))
        writer.append(block(5, 3, seed=1))
    monkeypatch.undo()
    assert len(list(Path(f"{path}.partial").glob("0*.h5"))) == 2
    with StoreWriter(path, LABELS, resume=True) as writer:
        assert writer.rows == 10
    assert StoreSource(str(path)).groups == (Group("003", 10, 3),)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5"]


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "a.h5"
    with StoreWriter(path, LABELS), pytest.raises(DataError, match="written by another"):
        StoreWriter(path, LABELS, resume=True)


WRITE_SLOWLY = """
import sys
sys.path.insert(0, sys.argv[2])
from test_data_store import LABELS, StoreWriter, block
with StoreWriter(sys.argv[1], LABELS, resume=True, buffer=20_000) as writer:
    for k in range(writer.position or 0, 400):
        writer.append(block(1 + k % 3, 2 + k % 5, seed=k), position=k + 1)
"""


def test_killed_at_any_time(tmp_path):
    path = tmp_path / "a.h5"
    command = [sys.executable, "-c", WRITE_SLOWLY, str(path), str(Path(__file__).parent)]
    random = np.random.default_rng(0)
    kills = 0
    while not path.exists() and kills < 2:
        with subprocess.Popen(command) as process:
            while process.poll() is None and not list(tmp_path.glob("a.h5.partial/0*.h5")):
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.15))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
    assert kills
    subprocess.run(command, check=True)
    expected = [block(1 + k % 3, 2 + k % 5, seed=k) for k in range(400)]
    source = StoreSource(str(path))
    for i, group in enumerate(source.groups):
        parts = [part for part in expected if part.num_atoms == group.num_atoms]
        found = source.read(i, slice(0, group.size))
        np.testing.assert_array_equal(found.coordinates, np.concatenate([part.coordinates for part in parts]))


def _read_sum(source: StoreSource, _: int) -> float:
    return float(source.read(0, slice(0, 100)).coordinates.sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_as_well(tmp_path, method):
    source = write(tmp_path / "a.h5", block(100, 5))
    expected = _read_sum(source, 0)  # the file is open here
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_read_sum, [(source, i) for i in range(8)]) == [expected] * 8
    assert _read_sum(source, 0) == expected
    assert len(pickle.dumps(source)) < 5000


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.h5"
    write(path, block(500, 5))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.h5 cannot be read as HDF5: .*truncated"):
        open_source(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["005/forces"]
        file["005/energies"].resize(400, axis=0)
    with pytest.raises(DataError, match=r"a\.h5, group '005', key 'energies': shape \(400,\), expected \(500"):
        open_source(path, fields={"energies": "energies"}).read(0, slice(0, 10))
    with pytest.raises(DataError, match=r"a\.h5, group '005': no array 'forces'; it has charges"):
        open_source(path, fields={"forces": "forces"}).read(0, slice(0, 10))
    with h5py.File(path, "r+") as file:
        file["005/species"][7, 2] = 0
    with pytest.raises(DataError, match=r"group '005', index 7, key 'species': .*0.* of atom 2 is no element"):
        open_source(path, fields={}).read(0, slice(0, 10))
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 99
    with pytest.raises(DataError, match="version 99"):
        open_source(path)


def test_changed_bytes_are_noticed(tmp_path):
    """Chunks have checksums."""
    path = tmp_path / "a.h5"
    write(path, block(500, 5))
    with h5py.File(path) as file:
        chunk = file["005/forces"].id.get_chunk_info(0)
    changed = bytearray(path.read_bytes())
    changed[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"a\.h5, group '005', key 'forces' cannot be read"):
        open_source(path).read(0, slice(0, 10))


def test_copy_goes_on_where_it_was(tmp_path):
    blocks = [block(40, 3), block(25, 4), block(13, 3, seed=1)]
    source = write(tmp_path / "a.h5", *blocks)
    seen = []

    def stop(part: Block) -> Block:
        seen.append(len(part))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return part.take(part.rows % 2 == 0)

    with pytest.raises(KeyboardInterrupt):
        store.copy(source, tmp_path / "b.h5", stop, size=10)
    assert store.copy(source, tmp_path / "b.h5", stop, size=10) == 27 + 13
    assert seen == [10, 10, 10, 10, 10, 10, 3, 10, 10, 5]
    copied = StoreSource(str(tmp_path / "b.h5"))
    same(copied.read(0, slice(0, 27)), source.read(0, np.arange(0, 53, 2)))
    with pytest.raises(FileExistsError):
        store.copy(source, tmp_path / "b.h5")
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        store.copy(source, tmp_path / "c.h5", stop, size=10)
    with pytest.raises(DataError, match="copy of something else"):
        store.copy(copied, tmp_path / "c.h5")


def test_layout_is_that_of_torchani(tmp_path):
    """What TorchANI 2 asks of a file, by its reader of HDF5."""
    write(tmp_path / "a.h5", block(4, 3), block(2, 12))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["grouping"] == "by_num_atoms"
        assert list(file) == ["003", "012", "_meta"]
        assert {len(array) for array in file["003"].values()} == {4}
        assert file["003/energies"].attrs["units"] == "Hartree"
        assert json.loads(file["_meta/metadata"].asstr()[()]) == {"level_of_theory": "none"}
