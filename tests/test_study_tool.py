"""The tool that makes the tables of docs/results, and the studies."""

import json
import sys
from pathlib import Path

import pytest
import yaml

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import study  # noqa: E402

from anipot.training.reading import parse  # noqa: E402

STUDIES = sorted((TOOLS / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_each_row_is_a_training(file, monkeypatch):
    monkeypatch.setenv("ANIPOT_SHARED", "/somewhere")
    content = study.expanded(yaml.safe_load(file.read_text(encoding="utf-8")))
    names = [study.name_of(row) for row in content["rows"]]
    assert len(set(names)) == len(names)
    for row, own in content["rows"].items():
        settings = parse(study.merged(content["common"], own), f"{file.name}, {row}")
        assert str(settings.data.path).startswith("/somewhere/data/")
        episode = settings.schedule.episode
        assert episode == settings.trainer["max_epochs"], "the learning rate should have fallen at the end"


def test_rows_change_single_settings_and_whole_objects():
    common = {"optimizer": {"kind": "Adam", "lr": 1e-3}, "model": {"head": {"class": "Atomwise", "hidden": [32]}}}
    found = study.merged(common, {"optimizer": {"lr": 1e-4}, "model": {"head": {"class": "ANIModel"}}})
    assert found == {"optimizer": {"kind": "Adam", "lr": 1e-4}, "model": {"head": {"class": "ANIModel"}}}
    assert common["optimizer"]["lr"] == 1e-3


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("NO_SUCH_FOLDER", raising=False)
    with pytest.raises(KeyError, match=r"\$NO_SUCH_FOLDER/a.h5: set this variable"):
        study.expanded({"data": {"path": "$NO_SUCH_FOLDER/a.h5"}})


def test_the_table_holds_what_is_there(tmp_path):
    content = {
        "rows": {"A, N = 5": None, "B": None},
        "table": {"energies, meV": ["test|energies|meV|mae", "test|energies|meV|rmse"], "epochs": "trained|max_epochs"},
    }
    (tmp_path / "a_n_5").mkdir()
    results = {"test": {"energies": {"meV": {"mae": 1.23456, "rmse": 20.0}}}, "trained": {"max_epochs": 7}}
    (tmp_path / "a_n_5" / "results.json").write_text(json.dumps(results))
    assert study.table(content, tmp_path).splitlines() == [
        "|  | energies, meV | epochs |",
        "| --- | --- | --- |",
        "| A, N = 5 | 1.23 / 20 | 7 |",
        "| B | – | – |",
    ]


def test_curves_are_drawn(tmp_path):
    content = {"rows": {"A, N = 5": None, "A, N = 50": None}, "table": {"energies, meV": ["test|energies|mae"]}}
    for size, error in (("5", 2.0), ("50", 1.0)):
        (tmp_path / f"a_n_{size}").mkdir()
        (tmp_path / f"a_n_{size}" / "results.json").write_text(json.dumps({"test": {"energies": {"mae": error}}}))
    study.draw_curves(content, tmp_path, tmp_path / "curves.svg")
    assert "mean absolute error, energies, meV" in (tmp_path / "curves.svg").read_text()
