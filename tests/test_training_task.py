"""The task in Lightning's hands: what it learns, logs, stops at, and does in several processes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from training_data import HandMade, Loader, ani, batch, schnet

import anipot
from anipot import AtomicNetwork, Charges
from anipot.training import AtomisticTask, ModelOutput, OptimizerSettings, ScheduleSettings, predict
from anipot.training.checkpoints import Checkpoints
from anipot.units import HARTREE_TO_KCALMOL

# Lightning calls what torch 2.13 announces to remove.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")

BOTH = (ModelOutput("energies", scaling="sqrt_atoms"), ModelOutput("forces", weight=0.1))


def fit(task, batches, folder=None, logger=False, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer = Trainer(
            accelerator="cpu", logger=logger, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder, **{"enable_checkpointing": False, **options},
        )  # fmt: skip
        trainer.fit(task, Loader(batches), Loader(batches))
    return trainer


def test_steps_are_those_of_a_plain_loop():
    batches = [batch(seed=i) for i in range(3)]
    model, task = ani(), AtomisticTask(ani(), BOTH, OptimizerSettings("AdamW", 1e-2), loss_unit="Hartree")
    fit(task, batches, max_epochs=2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.0)
    for some in batches * 2:
        found = predict(model, some, ("energies", "forces"))
        real = some.species >= 0
        of_energies = ((found["energies"] - some.properties["energies"]) ** 2 / real.sum(-1).double().sqrt()).mean()
        of_forces = ((found["forces"] - some.properties["forces"])[real] ** 2).sum(-1).mean()
        optimizer.zero_grad()
        (of_energies + 0.1 * of_forces).backward()
        optimizer.step()
    for ours, theirs in zip(task.potential.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_what_is_reported(tmp_path: Path):
    batches = [batch(seed=i) for i in range(3)]
    batches[1].properties["energies"][0] = torch.nan
    task = AtomisticTask(ani(), BOTH, OptimizerSettings(lr=1e-9), error_unit="meV")
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = fit(task, batches, tmp_path, logger, max_epochs=1, log_every_n_steps=1)
    seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
    wrong, deviations, per_root = [], [], []
    for some in batches:
        found = predict(task.potential, some, ("energies", "forces"), graph=False)
        delta = (found["energies"] - some.properties["energies"]) * HARTREE_TO_KCALMOL
        sizes = (some.species >= 0).sum(-1)
        wrong.append(delta[~delta.isnan()])
        per_root.append((delta**2 / sizes.sqrt())[~delta.isnan()])
        deviations.append((found["forces"] - some.properties["forces"])[some.species >= 0] * HARTREE_TO_KCALMOL)
    to_mev = anipot.units.HARTREE_TO_EV * 1000 / HARTREE_TO_KCALMOL
    assert seen["val_energies_mae"] == pytest.approx(float(torch.cat(wrong).abs().mean()) * to_mev, rel=1e-6)
    assert seen["val_energies_rmse"] == pytest.approx(float(torch.cat(wrong).square().mean().sqrt()) * to_mev, rel=1e-6)
    assert seen["val_forces_mae"] == pytest.approx(float(torch.cat(deviations).abs().mean()) * to_mev, rel=1e-6)
    of_forces = float(torch.cat(deviations).square().sum(-1).mean())
    expected = float(torch.cat(per_root).mean()) + 0.1 * of_forces
    assert seen["val_loss"] == pytest.approx(expected, rel=1e-6)
    assert seen["val_forces_loss"] == pytest.approx(of_forces, rel=1e-6)
    assert seen["train_loss"] == pytest.approx(expected, rel=0.2)
    text = (tmp_path / "metrics.csv").read_text()
    assert "learning_rate" in text
    assert "train_loss" in text


def test_properties_are_learned_beside_energies():
    charges = Charges(AtomicNetwork((12, 8, 1), torch.nn.SiLU())).double()
    model = schnet(properties={"charges": charges})
    some = batch()
    target = torch.where(some.species >= 0, 0.1 * (some.species - 3.0), torch.nan).double()
    target = target - torch.nanmean(target, dim=1, keepdim=True)
    outputs = [ModelOutput("energies", weight=1e-3), ModelOutput("charges", weight=100.0)]
    task = AtomisticTask(model, outputs, OptimizerSettings("Adam", 1e-2))
    first = float(task.training_step(some.with_labels(charges=target), 0).detach())
    fit(task, [some.with_labels(charges=target)] * 20, max_epochs=4)
    last = predict(model, some, ("charges",), graph=False)["charges"]
    assert float((last - target)[some.species >= 0].abs().max()) < 0.05
    assert float(task.last_loss) < 0.1 * first


def test_outputs_of_weight_zero_are_only_reported():
    task = AtomisticTask(ani(), [ModelOutput("energies"), ModelOutput("forces", weight=0)])
    with mock.patch("anipot.training.task.predict", wraps=predict) as spy:
        task.training_step(batch(), 0)
    assert spy.call_args.args[2] == {"energies"}
    trainer = fit(task, [batch()], max_epochs=1)
    assert "val_forces_mae" in trainer.callback_metrics


def test_training_stops_below_a_learning_rate():
    schedule = ScheduleSettings("exponential", factor=0.1, every=2, stop_below=2e-4)
    task = AtomisticTask(ani(), BOTH, OptimizerSettings(lr=1e-3), schedule)
    trainer = fit(task, [batch()] * 4, max_epochs=50)
    assert trainer.global_step == 2
    assert task.learning_rate == pytest.approx(1e-4)


def test_plateau_follows_the_validation():
    schedule = ScheduleSettings("plateau", patience=0, monitor="val_energies_rmse", stop_below=1e-4)
    task = AtomisticTask(ani(), BOTH, OptimizerSettings("SGD", lr=1e-3), schedule)
    with mock.patch.object(
        AtomisticTask, "training_step", lambda self, b, i: 0 * self.potential.head[0].linears[0].weight.sum()
    ):
        trainer = fit(task, [batch()], max_epochs=50)
    assert task.learning_rate < 1e-4  # nothing is learned, so it falls at every epoch but the first
    assert trainer.current_epoch == 5


def test_a_loss_that_is_no_number_ends_the_training():
    task = AtomisticTask(ani(), BOTH, OptimizerSettings("SGD", 1e6))
    with pytest.raises(RuntimeError, match=r"the loss is (nan|inf) at step \d+: try a smaller learning rate"):
        fit(task, [batch()] * 20, max_epochs=5, log_every_n_steps=1)


def test_predictions_that_are_no_numbers_are_no_small_loss(tmp_path):
    """NaN in the validation ends a training; it is not a label that is missing, which would make a loss of 0."""
    task = AtomisticTask(ani(), BOTH, OptimizerSettings(lr=1e-3))
    with torch.no_grad():
        next(task.potential.head.parameters()).fill_(torch.nan)
    checkpoints = Checkpoints(tmp_path, 0.0)
    with pytest.raises(RuntimeError, match=r"the loss of the validation is inf at step 1: try a smaller learning rate"):
        fit(task, [batch()], tmp_path, max_epochs=1, callbacks=[checkpoints], enable_checkpointing=True)
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_validation_without_labels_is_refused():
    some = batch()
    some.properties = {name: torch.full_like(values, torch.nan) for name, values in some.properties.items()}
    with pytest.raises(ValueError, match="validation data have no labels of energies, forces"):
        fit(AtomisticTask(ani(), BOTH), [some], max_epochs=1)


def test_labels_that_the_validation_lacks_are_nan_and_no_warning():
    some = batch()
    some.properties["forces"] = torch.full_like(some.properties["forces"], torch.nan)
    trainer = fit(AtomisticTask(ani(), BOTH), [some], max_epochs=1)
    seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert seen["val_loss"] == seen["val_energies_loss"]
    assert all(math.isnan(seen[name]) for name in ("val_forces_loss", "val_forces_mae", "val_forces_rmse"))


def test_processes_share_counts():
    """Losses of two halves of a batch, each with the count of both, have the loss of the whole as their mean."""
    whole = batch((5, 9, 7, 3, 6))
    whole.properties["energies"][2] = torch.nan
    task = AtomisticTask(ani(), BOTH)
    expected = task.training_step(whole, 0)
    parts = [whole.rows(slice(0, None, 2)), whole.rows(slice(1, None, 2))]
    counts = []

    def keep(values):
        counts.append(values)
        return values, 1

    with mock.patch("anipot.training.task.over_processes", keep):
        for part in parts:
            task.training_step(part, 0)
    with mock.patch("anipot.training.task.over_processes", return_value=(counts[0] + counts[1], 2)):
        losses = [task.training_step(part, 0) for part in parts]
    torch.testing.assert_close((losses[0] + losses[1]) / 2, expected)
    gradients = [
        torch.autograd.grad(loss, list(task.potential.parameters())) for loss in ((losses[0] + losses[1]) / 2, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_ghosts_change_nothing():
    padded = batch((5, 3, 12)).rows(slice(0, 2))
    small = HandMade(padded.species[:, :5], padded.coordinates[:, :5])
    small.properties = {"energies": padded.properties["energies"], "forces": padded.properties["forces"][:, :5]}
    task = AtomisticTask(ani(), BOTH)
    torch.testing.assert_close(task.training_step(small, 0), task.training_step(padded, 0))


@pytest.mark.parametrize(
    "outputs", [[], [ModelOutput("energies", weight=0)], [ModelOutput("energies"), ModelOutput("energies", "mae")]]
)
def test_useless_outputs_are_refused(outputs):
    with pytest.raises(ValueError, match="expected outputs of different names, one at least with a weight above 0"):
        AtomisticTask(ani(), outputs)
