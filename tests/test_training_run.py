"""Runs in a folder: what they leave there, and that a kill at any time changes nothing in the end."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from training_data import write_frames
from weights_at_hand import ROOT

import anipot
from anipot.training import read_settings, train
from anipot.training.checkpoints import LAST
from anipot.training.task import AtomisticTask

# Lightning calls what torch 2.13 announces to remove.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")

SMALL = [
    'data.fields={energies: "energy [eV]", forces: "forces [eV/Å]"}',
    "data.batch_size=8",
    "model.representation={class: SchNet, num_features: 8, num_interactions: 1}",
    "optimizer={kind: AdamW, lr: 1e-2, weight_decay: 1e-3}",
    "schedule={kind: plateau, patience: 0, factor: 0.7}",
    "ema=0.8",
    "stopping={patience: 30}",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
    "checkpoint_seconds=0",
    "tensorboard=false",
]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "frames.xyz", 40)


@pytest.fixture
def _no_pictures():
    with mock.patch("anipot.training.run.draw"), mock.patch("anipot.training.run.plot_curves"):
        yield


class Killed(Exception):
    """Stands for a kill."""


def run(folder: Path, frames: Path, *overrides: str, kills: tuple[int, ...] = ()) -> Path:
    """Train in a folder, and be interrupted before some steps of each attempt."""
    settings = read_settings(None, [f"folder={folder}", f"data.path={frames}", *SMALL, *overrides])
    step = AtomisticTask.training_step
    for kill in kills:
        left = [kill]

        def dying(self, batch, index, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return step(self, batch, index)

        with mock.patch.object(AtomisticTask, "training_step", dying), pytest.raises(Killed):
            train(settings)
    return train(settings)


def forbidden(self, batch, index):
    raise AssertionError("nothing was to be trained")


def weights(folder: Path) -> list[torch.Tensor]:
    return [p.detach() for p in anipot.load(folder / "model.safetensors").parameters()]


def state(folder: Path) -> dict:
    return torch.load(folder / LAST, weights_only=True)


def assert_same_end(one: Path, other: Path) -> None:
    for a, b in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    first, second = state(one), state(other)
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(value, second["state_dict"][name], rtol=1e-6, atol=1e-9)
    assert first["global_step"] == second["global_step"]
    assert first["plateau"] == second["plateau"]
    rows = [list(csv.reader((folder / "metrics.csv").read_text().splitlines())) for folder in (one, other)]
    assert len(rows[0]) == len(rows[1])
    for ours, theirs in zip(rows[0][1:], rows[1][1:], strict=True):
        assert [bool(x) for x in ours] == [bool(x) for x in theirs]
        assert [float(x) for x in ours if x] == pytest.approx([float(x) for x in theirs if x], rel=1e-6)


def test_what_a_run_leaves(tmp_path, frames, capsys):
    folder = run(tmp_path / "run", frames, "tensorboard=true", 'details={level_of_theory: "a teacher"}')
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "best.ckpt", "config.yaml", "curves.png", "errors_by_element.png", "errors_by_size.png", "last.ckpt", "log.txt",
        "metrics.csv", "model.safetensors", "parity.png", "results.json", "scales.safetensors", "split.json",
        "start.safetensors", "tensorboard",
    }  # fmt: skip
    results = json.loads((folder / "results.json").read_text())
    assert results["validation"]["structures"] == results["test"]["structures"] == 4
    model = anipot.load(folder / "model.safetensors")
    assert model.details["level_of_theory"] == "a teacher"
    assert model.details["training"]["structures"] == {"train": 32, "validation": 4, "test": 4}
    text = capsys.readouterr().out
    assert "epoch 3  step 12  loss" in text
    assert "kcal/mol/Å" in text
    assert (folder / "log.txt").read_text() in text
    # The errors are those of the model that was written.
    found = results["test"]["energies"]["kcal/mol"]["mae"]
    dataset = anipot.data.open(frames, fields={"energies": "energy [eV]", "forces": "forces [eV/Å]"})
    test = anipot.data.read_split(folder / "split.json", dataset)["test"]
    wrong = [
        float(anipot.single_point(model, *map(torch.tensor, (b.species, b.coordinates))).energies)
        - b.properties["energies"]
        for b in (test[i] for i in range(len(test)))
    ]
    expected = sum(abs(float(w[0])) for w in wrong) / len(wrong) * anipot.units.HARTREE_TO_KCALMOL
    assert found == pytest.approx(expected, rel=1e-3)
    # A finished run is not trained again.
    with mock.patch.object(AtomisticTask, "training_step", forbidden):
        run(tmp_path / "run", frames, "tensorboard=true", 'details={level_of_theory: "a teacher"}')
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("overrides", [
    (),
    ("trainer.val_check_interval=2",),
    ("trainer.max_steps=10",),
    ("data.batch_size=64",),
    ("schedule={kind: restarts, episode: 2}", "trainer.accumulate_grad_batches=2"),
], ids=["plain", "validation in mid-epoch", "steps", "one batch", "gathered gradients"])  # fmt: skip
@pytest.mark.usefixtures("_no_pictures")
def test_kills_change_nothing(tmp_path, frames, overrides):
    """Before the first step, in mid-epoch, at the end of an epoch and several times."""
    whole = run(tmp_path / "whole", frames, *overrides)
    steps = state(whole)["global_step"]
    kills = (0, 1, 1) if steps < 4 else (0, 3, 2, 1)
    assert_same_end(whole, run(tmp_path / "killed", frames, *overrides, kills=kills))


@pytest.mark.usefixtures("_no_pictures")
def test_a_run_can_be_made_longer(tmp_path, frames):
    whole = run(tmp_path / "whole", frames)
    run(tmp_path / "longer", frames, "trainer.max_epochs=2")
    assert_same_end(whole, run(tmp_path / "longer", frames))


@pytest.mark.usefixtures("_no_pictures")
def test_more_steps_can_be_asked_for(tmp_path, frames):
    for steps in (3, 6):
        run(tmp_path, frames, f"trainer.max_steps={steps}")
        assert state(tmp_path)["global_step"] == steps
        assert json.loads((tmp_path / "results.json").read_text())["trained"]["max_steps"] == steps


@pytest.mark.parametrize(
    ("options", "steps"),
    [(("stopping={patience: 1, min_delta: 1e9}", "trainer.max_epochs=50"), 8), (("trainer.max_steps=6",), 6), ((), 12)],
    ids=["early stopping", "steps", "epochs"],
)
@pytest.mark.usefixtures("_no_pictures")
def test_an_end_is_kept(tmp_path, frames, options, steps):
    """A kill after the last step, before results are written, does not make the run go on."""
    whole = run(tmp_path / "whole", frames, *options)
    assert state(whole)["global_step"] == steps
    with mock.patch("anipot.training.run.evaluate", side_effect=Killed), pytest.raises(Killed):
        run(tmp_path / "killed", frames, *options)
    with mock.patch.object(AtomisticTask, "training_step", forbidden):
        assert_same_end(whole, run(tmp_path / "killed", frames, *options))


@pytest.mark.usefixtures("_no_pictures")
def test_a_folder_of_another_run_is_refused(tmp_path, frames):
    run(tmp_path, frames, "trainer.max_steps=1")
    with pytest.raises(
        ValueError, match=r"holds a run with other settings: data.batch_size was 8 and is 4; seed was 0 and"
    ):
        run(tmp_path, frames, "data.batch_size=4", "seed=1")


COMMAND = [sys.executable, "-c", "import sys; from anipot.cli import main; sys.exit(main())", "train"]


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_sigkill_in_mid_epoch(tmp_path, frames):
    """The command, killed with -9 in the middle of an epoch, and given again."""
    config = tmp_path / "small.yaml"
    config.write_text("".join(f"{k}: {v}\n" for k, v in (("seed", 3), ("members", 1))))
    overrides = [f"data.path={frames}", *SMALL, "trainer.max_epochs=6"]
    whole = tmp_path / "whole"
    train(read_settings(config, [*overrides, f"folder={whole}"]))
    killed = tmp_path / "killed"
    command = [*COMMAND, str(config), *overrides, f"folder={killed}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path)
    try:
        while process.poll() is None and not _mid_epoch(killed / "metrics.csv"):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not (killed / "results.json").exists(), "it was done before it was killed"
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=tmp_path, timeout=300)
    assert_same_end(whole, killed)


def _mid_epoch(metrics: Path) -> bool:
    """Whether a step of the second epoch has been logged."""
    return metrics.exists() and "\n5," in metrics.read_text()
