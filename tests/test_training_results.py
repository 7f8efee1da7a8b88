"""Errors of models, tables of them, folders for the zoo, logs and records of a training."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_data import ani, batch, write_frames

import anipot
from anipot.cli import main
from anipot.data import AtomsDataset, Quantity
from anipot.representation import ScSchNet
from anipot.training import EMA, ModelOutput, read_settings, train
from anipot.training.evaluation import evaluate, outputs_for, to_json
from anipot.training.export import export
from anipot.training.layer_weights import Contributions
from anipot.training.metrics_file import MetricsFile
from anipot.training.table import table, together
from anipot.units import HARTREE_TO_KCALMOL

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
FIELDS = {"energies": "energy [eV]", "forces": "forces [eV/Å]"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "frames.xyz", 30)


@pytest.fixture(scope="module")
def dataset(frames: Path) -> AtomsDataset:
    return anipot.data.open(frames, fields=FIELDS)


@pytest.fixture(scope="module")
def finished(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two, trained a little on folds."""
    overrides = [
        f"folder={tmp_path_factory.mktemp('runs') / 'two'}", f"data.path={frames}", "data.batch_size=8",
        'data.fields={energies: "energy [eV]", forces: "forces [eV/Å]"}', "trainer.max_epochs=1", "members=2",
        "folds=true", "model.head={class: ANIModel, hidden: [8]}", "model.name=Two ANIs", "tensorboard=false",
        'details={level_of_theory: "a teacher", license: MIT}',
    ]  # fmt: skip
    return train(read_settings(None, overrides))


# ------------------------------------------------------------------------------------------ errors


def test_errors_are_those_of_single_structures(dataset):
    model = ani()
    found = evaluate(model, dataset, outputs_for(model, dataset), batch_size=7)
    energies, forces, elements = [], [], []
    for i in range(len(dataset)):
        block = dataset[i]
        point = anipot.single_point(model, torch.from_numpy(block.species), torch.from_numpy(block.coordinates))
        energies.append(float(point.energies) - block.properties["energies"][0])
        forces.append(point.forces[0].numpy() - block.properties["forces"][0])
        elements.append(block.species[0])
    e = np.array(energies)
    f, z = np.concatenate(forces), np.concatenate(elements)
    sizes = np.array([len(part) for part in elements])
    total = found["energies"].total
    assert (total.count, total.mae, total.rmse) == pytest.approx((30, np.abs(e).mean(), (e**2).mean() ** 0.5))
    assert found["energies"].per_atom.rmse == pytest.approx(float(((e / sizes) ** 2).mean() ** 0.5))
    assert found["forces"].total.mae == pytest.approx(np.abs(f).mean())
    assert found["forces"].by_element["C"].rmse == pytest.approx((f[z == 6] ** 2).mean() ** 0.5)
    assert found["energies"].by_size[6].mae == pytest.approx(np.abs(e[sizes == 6]).mean())
    assert found["energies"].relative.count == 0  # nobody knows which structures are of one molecule
    plain = to_json(found)
    assert plain["energies"]["kcal/mol"]["mae"] == pytest.approx(np.abs(e).mean() * HARTREE_TO_KCALMOL)
    json.dumps(plain, allow_nan=False)
    points = found["energies"].points
    assert np.abs(points[:, 1] - points[:, 0]).mean() == pytest.approx(np.abs(e).mean())


def test_relative_energies_are_those_of_all_pairs():
    generator = np.random.default_rng(0)
    x, energies = 2 * generator.random((12, 3, 3)), generator.random(12)
    molecule = np.repeat([0.0, 1.0, 2.0], [5, 4, 3])
    data = AtomsDataset.from_arrays(
        [8, 1, 1], x, energies=energies, molecule=molecule, quantities={"molecule": Quantity("molecule")}
    )
    model = ani()
    found = evaluate(model, data, [ModelOutput("energies")])["energies"].relative
    wrong = anipot.single_point(model, torch.tensor([[8, 1, 1]] * 12), torch.from_numpy(x)).energies.numpy() - energies
    differences = [a - b for m in range(3) for a, b in combinations(wrong[molecule == m], 2)]
    assert found.count == 10 + 6 + 3
    assert found.mae == pytest.approx(np.abs(differences).mean())
    assert found.rmse == pytest.approx(np.sqrt(np.square(differences).mean()))
    alone = AtomsDataset.from_arrays([8, 1, 1], x, energies=energies)
    assert evaluate(model, alone, [ModelOutput("energies")])["energies"].relative.count == 66
    assert evaluate(model, alone, [ModelOutput("energies")], relative=False)["energies"].relative.count == 0


def test_missing_labels_do_not_count():
    x = np.random.default_rng(0).random((4, 3, 3)) * 3
    forces = np.zeros((4, 3, 3))
    forces[1, 0, 2] = np.nan
    data = AtomsDataset.from_arrays([8, 1, 1], x, energies=[np.nan, -76, -76, np.nan], forces=forces)
    found = evaluate(ani(), data, outputs_for(ani(), data))
    assert found["energies"].total.count == 2
    assert found["forces"].total.count == 3 * 11
    empty = AtomsDataset.from_arrays([8, 1, 1], x, energies=np.full(4, np.nan))
    assert evaluate(ani(), empty, outputs_for(ani(), empty)) == {}


def test_the_table(dataset):
    found = evaluate(ani(), dataset, outputs_for(ani(), dataset))
    lines = {"a": found, "b": {"energies": found["energies"]}}
    total = together(lines)
    assert total["energies"].total.count == 60
    assert total["energies"].total.mae == pytest.approx(found["energies"].total.mae)
    text = table(lines | {"total": total}).splitlines()
    assert text[0].split("  ")[-1] == "forces (kcal/mol/Å)"
    assert text[1].startswith("a")
    assert f"{found['forces'].total.mae * HARTREE_TO_KCALMOL:.3f} / " in text[1]
    assert text[2].split()[:2] == ["b", "30"]


# ------------------------------------------------------------------------------------------ the shell


def test_evaluate_in_the_shell(finished, frames, tmp_path, capsys):
    fields = ["--field", "energies=energy [eV]", "--field", "forces=forces [eV/Å]"]
    folder = tmp_path / "benchmark"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.xyz").write_bytes(frames.read_bytes())
    assert main(["evaluate", str(finished), str(folder), *fields, "-o", str(tmp_path / "out"), "--unit", "meV"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["one", "two", "total"]
    assert lines[1].split()[1:] == lines[2].split()[1:]
    assert "energies (meV)" in lines[0]
    errors = json.loads((tmp_path / "out" / "errors.json").read_text())["errors"]
    assert errors["total"]["energies"]["count"] == 60
    assert (tmp_path / "out" / "parity.png").stat().st_size > 1000
    part = ["--split", str(finished / "split.json"), "--part", "test"]
    assert main(["evaluate", str(finished / "model.safetensors"), str(frames), *fields, *part]) == 0
    shown = capsys.readouterr().out.splitlines()[1].split()
    results = json.loads((finished / "results.json").read_text())["test"]["energies"]["kcal/mol"]
    assert [float(shown[2]), float(shown[4])] == pytest.approx([results["mae"], results["rmse"]], abs=1e-3)
    assert main(["evaluate", str(finished), str(frames), "--field", "dipole=forces [e*Å]"]) == 2
    assert main(["evaluate", str(finished), str(frames), *fields, *part[:2], "--part", "exam"]) == 2
    assert "has no part 'exam'; it has train, validation, test" in capsys.readouterr().err


def test_settings_in_the_shell(tmp_path, capsys):
    config = tmp_path / "a.yaml"
    config.write_text("data: {path: a.h5}\n")
    assert main(["train", str(config), "optimizer.lr=0.5", "--show"]) == 0
    assert "lr: 0.5" in capsys.readouterr().out
    assert main(["train", str(config), "optimizer.lrr=0.5"]) == 2
    assert "did you mean optimizer.lr?" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ ensembles and the zoo


def test_folds_make_one_ensemble(finished, frames):
    model = anipot.load(finished)
    assert type(model.head).__name__ == "Ensemble"  # one representation for both
    assert len(model) == 2
    members = [anipot.load(finished / f"member{i}") for i in range(2)]
    numbers, x = torch.tensor([[8, 1, 1]]), 2 * torch.rand(1, 3, 3)
    mean = sum(member((numbers, x)).energies for member in members) / 2
    torch.testing.assert_close(model((numbers, x)).energies, mean)
    splits = [json.loads((finished / f"member{i}" / "split.json").read_text())["parts"] for i in range(2)]
    assert splits[0]["test"] == splits[1]["test"]
    assert splits[0]["train"] == splits[1]["validation"]


def test_one_member_at_a_time(finished, frames, tmp_path, capsys):
    settings = read_settings(finished / "config.yaml", [f"folder={tmp_path / 'apart'}"])
    for member in (1, 0):
        settings.member = member
        train(settings)
        done = (tmp_path / "apart" / "model.safetensors").exists()
        assert done == (member == 0)
    ours, theirs = (anipot.load(folder).parameters() for folder in (tmp_path / "apart", finished))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_export(finished, tmp_path, capsys):
    target = tmp_path / "twoanis"
    assert main(["export", str(finished), str(target), "--citation", "A. Author, J. 1, 2 (2025)"]) == 0
    card = json.loads((target / "card.json").read_text())
    assert (card["key"], card["members"], card["license"]) == ("twoanis", 2, "MIT")
    assert card["training"]["structures"] == {"train": 24, "validation": 3, "test": 3}
    text = (target / "README.md").read_text()
    for words in ("Level of theory: a teacher", "A. Author", "DOI: not told", "energies, test: MAE", "seed 0"):
        assert words in text
    assert str(finished.parent.parent) not in (target / "config.yaml").read_text()  # nobody's folders
    model = anipot.load(target)
    assert model.name == "Two ANIs"
    assert model.details["citation"] == "A. Author, J. 1, 2 (2025)"
    for line in (target / "twoanis.sha256").read_text().splitlines():
        assert (target / line.split("  ")[1]).is_file()
    assert {"config.yaml", "results.json", "split.json", "parity.png"} <= {path.name for path in target.iterdir()}
    with pytest.raises(ValueError, match="is not empty"):
        export(finished, target)
    with pytest.raises(ValueError, match=r"is not the folder of a finished run: it has no results\.json"):
        export(tmp_path, tmp_path / "other")


def test_different_members_are_joined_as_potentials(frames, tmp_path):
    overrides = [
        f"folder={tmp_path}", f"data.path={frames}", 'data.fields={energies: "energy [eV]", forces: "forces [eV/Å]"}',
        "trainer.max_steps=1", "members=2", "model.representation={class: SchNet, num_features: 6}",
        "tensorboard=false",
    ]  # fmt: skip
    model = anipot.load(train(read_settings(None, overrides)))
    assert isinstance(model, anipot.EnsemblePotential)
    assert len(model) == 2
    with pytest.raises(ValueError, match="cross-validation needs members=2"):
        train(read_settings(None, [*overrides, "members=1", "folds=true"]))
    with pytest.raises(ValueError, match="member in 0"):
        train(read_settings(None, [*overrides, "member=2"]))


# ------------------------------------------------------------------------------------------ logs and records


def test_metrics_are_rewound(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", ["loss", "val_loss"])
    for step in range(4):
        file.log_metrics({"loss": float(step), "unknown": 1.0}, step)
    file.log_metrics({"unknown": 1.0}, 9)
    with open(file.path, "a") as broken:
        broken.write("4,,5.")  # a kill in the middle of a line
    file.rewind(2)
    assert file.read() == {"loss": [(0, 0.0), (1, 1.0)]}
    file.log_metrics({"loss": 2.5}, 2)
    assert file.read()["loss"][-1] == (2, 2.5)


def test_contributions_go_on(tmp_path):
    schnet, some = ScSchNet(4, num_features=8), batch()
    callback = Contributions(schnet, tmp_path, every=2)
    model = anipot.Potential("HCNO", schnet, anipot.Atomwise.pyramid(8), anipot.EnergyShifter([0.0] * 4))
    module = SimpleNamespace(potential=model)
    for step in range(1, 5):
        some.coordinates = torch.nan_to_num(some.coordinates).float()
        callback.on_train_batch_end(SimpleNamespace(global_step=step), module, None, some, 0)
    again = Contributions(schnet, tmp_path, every=2)
    again.load_state_dict(callback.state_dict())
    again.on_train_batch_end(SimpleNamespace(global_step=6), module, None, some, 0)
    again.on_train_end(SimpleNamespace(is_global_zero=True), module)
    rows = (tmp_path / "contributions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "2", "4", "6"]
    assert (tmp_path / "contributions.png").exists()


def test_averages_need_a_decay():
    with pytest.raises(ValueError, match="decay must be between 0 and 1, got 1"):
        EMA(1.0)
