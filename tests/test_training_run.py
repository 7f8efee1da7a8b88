"""Runs in a folder: what they leave there, and that a kill at any time changes nothing in the end."""

from __future__ import annotations

import gc
import json
import os
import socket
from pathlib import Path
from unittest import mock

import pytest
import torch
from training_data import SMALL, assert_same_end, state, write_frames

import anipot
from anipot.data import Batches
from anipot.training import read_settings, train
from anipot.training.folder import RunFolder
from anipot.training.task import AtomisticTask

# Lightning calls what torch 2.13 announces to remove.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "frames.xyz", 40)


@pytest.fixture
def _no_pictures():
    with mock.patch("anipot.training.results.draw"), mock.patch("anipot.training.results.plot_curves"):
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


def test_what_a_run_leaves(tmp_path, frames, capsys):
    folder = run(tmp_path / "run", frames, "tensorboard=true", 'details={level_of_theory: "a teacher"}')
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
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
    with mock.patch("anipot.training.results.evaluate", side_effect=Killed), pytest.raises(Killed):
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


@pytest.mark.usefixtures("_no_pictures")
def test_nothing_of_a_run_stays_in_memory(tmp_path, frames):
    def held() -> int:
        return sum(type(one) in (AtomisticTask, Batches) for one in gc.get_objects())

    gc.collect()
    before = held()
    gc.disable()
    try:
        run(tmp_path, frames, "trainer.max_steps=1")
        assert held() == before
    finally:
        gc.enable()


def test_one_process_at_a_time(tmp_path, frames):
    settings = read_settings(None, [f"folder={tmp_path}", f"data.path={frames}", *SMALL])
    own = rf"process {os.getpid()} of {socket.gethostname()} is training in {tmp_path}; wait for it, or end it"
    with RunFolder(tmp_path, settings).held(), pytest.raises(RuntimeError, match=own):
        train(settings)
    assert not (tmp_path / "config.yaml").exists()  # it was not another's to write


@pytest.mark.usefixtures("_no_pictures")
def test_settings_that_failed_before_the_start_can_be_corrected(tmp_path, frames):
    with pytest.raises(ValueError, match="units of energies are not in the file"):
        run(tmp_path, frames, 'data.fields={energies: "energy", forces: "forces [eV/Å]"}')
    run(tmp_path, frames, "trainer.max_steps=1")
    with pytest.raises(ValueError, match=r"holds a run with other settings: seed was 0 and is 1"):
        run(tmp_path, frames, "trainer.max_steps=1", "seed=1")
