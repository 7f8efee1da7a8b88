"""``anipot data``: what it prints and writes, exit codes, and errors that say what to do."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from test_data_checks import good_block
from test_data_dataset import dataset_of

from anipot.cli import main
from anipot.data import AtomsDataset, read_split
from anipot.data import open as open_dataset
from anipot.data.memory import MemorySource


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "a.h5"
    dataset_of([(60, 3), (40, 5)]).save(path, progress=False, metadata={"level_of_theory": "made up"})
    return str(path)


@pytest.fixture
def spoiled(tmp_path):
    block = good_block(100)
    block.properties["forces"][[5, 60], 1] = 50.0
    path = tmp_path / "bad.h5"
    AtomsDataset(MemorySource([block])).save(path, progress=False)
    return str(path)


def test_info(store, capsys):
    assert main(["data", "info", store]) == 0
    text = capsys.readouterr().out
    assert "100 structures of 3 to 5 atoms in 2 groups" in text
    assert "level_of_theory: made up" in text
    assert "C: 380 atoms in 100 structures" in text
    assert "3: 60  5: 40" in text
    assert "energies [Hartree]: 100 structures, missing in 0" in text
    assert main(["data", "info", store, "--quick"]) == 0
    assert "energies [Hartree]\n" in capsys.readouterr().out
    assert main(["data", "info", store, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layout"], facts["structures"], facts["elements"]) == ("store", 100, {"C": 380})
    assert main(["data", "info", store, "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out)["quantities"]["energies"]["unit"] == "Hartree"


def test_stats(store, capsys):
    assert main(["data", "stats", store]) == 0
    text = capsys.readouterr().out
    energies = np.arange(100.0)
    assert f"mean {energies.mean():.6g}, standard deviation {energies.std():.6g}" in text
    assert "self energies from 2 compositions" in text
    assert "do not tell" not in text
    assert main(["data", "stats", store, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["quantities"]["energies"]["max"] == 99
    assert facts["self_energies"]["C"] == pytest.approx((3 * energies[:60].sum() + 5 * energies[60:].sum()) / 1540)


def test_split_and_its_parts(store, tmp_path, capsys):
    out = str(tmp_path / "s.json")
    line = ["data", "split", store, "--part", "train=0.7", "--part", "test=20", "--part", "rest=-1", "--seed", "3"]
    assert main([*line, "-o", out]) == 0
    assert "train: 70 of 100\ntest: 20 of 100\nrest: 10 of 100" in capsys.readouterr().out
    content = json.loads((tmp_path / "s.json").read_text())
    assert (content["seed"], content["by"]) == (3, "conformer")
    assert content["command"].startswith("anipot data split ")
    assert content["command"].endswith("-o " + out)
    parts = read_split(out, open_dataset(store))
    again = open_dataset(store).split({"train": 0.7, "test": 20, "rest": -1}, seed=3)
    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "test": 20, "rest": 10}
    assert all(parts[name].selection == again[name].selection for name in parts)
    assert main(["data", "stats", store, "--split", out, "--part", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["structures"] == 20
    assert main(["data", "stats", store, "--split", out, "--part", "tests"]) == 2
    assert "has no part 'tests'; it has train, test, rest" in capsys.readouterr().err
    assert main(["data", "stats", store, "--split", out]) == 2


def test_folds(store, tmp_path, capsys):
    out = str(tmp_path / "s.json")
    assert main(["data", "split", store, "--folds", "4", "--by", "block", "--block", "5", "-o", out]) == 0
    parts = read_split(out, open_dataset(store))
    assert list(parts) == ["fold0", "fold1", "fold2", "fold3"]
    assert sum(map(len, parts.values())) == 100
    assert json.loads((tmp_path / "s.json").read_text())["block"] == 5


@pytest.mark.parametrize("ending", [".h5", ".xyz", ".db"])
def test_convert(store, tmp_path, capsys, ending):
    out = str(tmp_path / f"out{ending}")
    assert main(["data", "convert", store, "-o", out]) == 0
    assert "100 structures" in capsys.readouterr().out
    found = open_dataset(out, fields={"energies": "energies" if ending == ".h5" else "energy [eV]"})
    energies = np.concatenate([block.properties["energies"] for block in found.blocks()])
    np.testing.assert_allclose(energies, np.arange(100.0), atol=1e-8)
    assert main(["data", "convert", store, "-o", out]) == 2
    assert "exists; --overwrite replaces it" in capsys.readouterr().err
    assert main(["data", "convert", store, "-o", out, "--overwrite"]) == 0


def test_bad_records(spoiled, tmp_path, capsys):
    assert main(["data", "check", spoiled]) == 1
    assert "2 of 100 records are bad\n  forces: 2" in capsys.readouterr().out
    assert main(["data", "check", spoiled, "--max-force", "100"]) == 0
    capsys.readouterr()
    out = tmp_path / "out.h5"
    assert main(["data", "convert", spoiled, "-o", str(out)]) == 2
    message = capsys.readouterr().err
    assert "group '004', index 60: atom 1 has a force of 86.6 Hartree/Å" in message
    assert "--on-bad skip leaves them out" in message
    assert not out.exists()
    log = tmp_path / "bad.csv"
    assert main(["data", "convert", spoiled, "-o", str(out), "--on-bad", "skip", "--bad", str(log)]) == 0
    assert "98 structures" in capsys.readouterr().out
    with open(log, encoding="utf-8", newline="") as file:
        assert [row["index"] for row in csv.DictReader(file)] == ["5", "60"]
    assert main(["data", "convert", spoiled, "-o", str(out), "--on-bad", "keep", "--overwrite"]) == 0
    assert len(open_dataset(out)) == 100


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["info", "nowhere.h5"], "nowhere.h5: there is no such file"),
        (["split", "{store}", "-o", "s.txt"], "s.txt must end in .json"),
        (["split", "{store}", "-o", "none/s.json"], "there is no folder none"),
        (["split", "{store}", "-o", "s.json", "--part", "train=most"], "--part is 'train=most'; expected NAME=SIZE"),
        (["split", "{store}", "-o", "s.json", "--part", "a=0.9", "--part", "b=0.2"], "more than the 100 structures"),
        (["split", "{store}", "-o", "s.json", "--part", "a=0.9", "--folds", "3"], "exclude each other"),
        (["split", "{store}", "-o", "s.json", "--by", "luck"], "by is 'luck'; expected one of conformer"),
        (["convert", "{store}", "-o", "out.csv"], "out.csv must end in one of .h5"),
        (["info", "{store}", "--field", "energies"], "--field is 'energies'; expected NAME=KEY"),
        (["info", "{store}", "--field", "energies=nothing"], "there is no 'nothing'"),
    ],
)
def test_errors(store, tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *[arg.format(store=store) for arg in args]]) == 2
    assert message in capsys.readouterr().err


def test_units_are_asked_for(shared, capsys):
    path = str(shared / "data" / "bpa3_wb97x" / "train_300K.xyz")
    assert main(["data", "info", path]) == 2
    message = capsys.readouterr().err
    assert "units of energies, forces are not in the file; say them" in message
    assert "--field 'NAME=KEY [UNIT]'" in message
    assert main(["data", "info", path, "--field", "energies=energy [eV]", "--field", "forces=forces [eV/Å]"]) == 0
    assert "500 structures of 27 to 27 atoms" in capsys.readouterr().out
