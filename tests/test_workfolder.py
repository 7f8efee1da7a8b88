"""The folder that a command leaves behind."""

import json
import math

import numpy as np
import pytest

from anipot.workfolder import WorkFolder


def test_holds_command_inputs_and_results(tmp_path):
    (tmp_path / "my water.xyz").write_text("1\n\nH 0 0 0\n")
    folder = WorkFolder(tmp_path / "out", ["opt", "my water.xyz"])
    folder.add_input(tmp_path / "my water.xyz")
    folder.write_results({"energies": np.arange(2.0), "worst": math.nan, "counts": {1: np.int64(3)}})
    assert (folder / "command.txt").read_text().startswith("anipot opt 'my water.xyz'\n")
    assert (folder / "inputs" / "my water.xyz").is_file()
    expected = {"energies": [0.0, 1.0], "worst": None, "counts": {"1": 3}}
    assert json.loads((folder / "results.json").read_text()) == expected


def test_an_old_folder_is_replaced_only_when_asked(tmp_path):
    (WorkFolder(tmp_path / "out", ["opt"]) / "old").touch()
    with pytest.raises(FileExistsError, match="out exists already; choose another folder or overwrite it"):
        WorkFolder(tmp_path / "out", ["opt"])
    folder = WorkFolder(tmp_path / "out", ["opt"], overwrite=True)
    assert [file.name for file in folder.path.iterdir()] == ["command.txt"]


def test_a_folder_of_others_is_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="anipot has not made it"):
        WorkFolder(tmp_path, ["opt"], overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_the_folder_where_we_stand_and_a_link_are_taken(tmp_path, monkeypatch):
    """What a link in it leads to is not deleted."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("1")
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", tmp_path / "link"):
        folder = WorkFolder(path, ["vib"], overwrite=True)
        folder.write_results({"a": 1})
        (folder / "modes").mkdir()
        (folder / "away").symlink_to(tmp_path / "precious")
    WorkFolder(".", ["vib", "again"], overwrite=True)
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["command.txt"]
    assert (tmp_path / "precious" / "data").exists()


def test_a_failure_takes_the_folder_away_but_no_results(tmp_path):
    (tmp_path / "a.xyz").touch()
    folder = WorkFolder(tmp_path / "out", ["opt", "a.xyz"])
    folder.add_input(tmp_path / "a.xyz")
    with pytest.raises(KeyboardInterrupt), folder.undone_by_failure():
        raise KeyboardInterrupt
    assert not folder.path.exists()
    folder = WorkFolder(tmp_path / "out", ["opt", "a.xyz"])
    folder.write_results({"a": 1})
    with pytest.raises(KeyboardInterrupt), folder.undone_by_failure():
        raise KeyboardInterrupt
    assert (folder / "results.json").is_file()


def test_an_empty_folder_is_taken(tmp_path):
    assert (WorkFolder(tmp_path, ["opt"]) / "command.txt").is_file()


def test_resume_keeps_what_is_there_and_adds_its_command(tmp_path):
    (WorkFolder(tmp_path / "out", ["md", "a.xyz"]) / "old").touch()
    folder = WorkFolder(tmp_path / "out", ["md", "a.xyz", "--resume"], resume=True)
    assert (folder / "old").exists()
    assert (folder / "command.txt").read_text().count("anipot md a.xyz") == 2
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        WorkFolder(tmp_path / "none", ["md"], resume=True)
