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


def test_an_empty_folder_is_taken(tmp_path):
    assert (WorkFolder(tmp_path, ["opt"]) / "command.txt").is_file()


def test_resume_keeps_what_is_there_and_adds_its_command(tmp_path):
    (WorkFolder(tmp_path / "out", ["md", "a.xyz"]) / "old").touch()
    folder = WorkFolder(tmp_path / "out", ["md", "a.xyz", "--resume"], resume=True)
    assert (folder / "old").exists()
    assert (folder / "command.txt").read_text().count("anipot md a.xyz") == 2
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        WorkFolder(tmp_path / "none", ["md"], resume=True)
