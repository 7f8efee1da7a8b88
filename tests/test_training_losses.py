"""Losses against the formulas of the papers, written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from training_data import ani, batch

from anipot.data.quantities import Quantity
from anipot.training import ModelOutput, predict
from anipot.training.losses import count, errors, loss_sum
from anipot.training.outputs import terms_of
from anipot.units import HARTREE_TO_KCALMOL


def losses(outputs, some, unit="Hartree", predictions=None):
    model = ani()
    predictions = predictions or predict(model, some, [o.predicted for o in outputs], graph=False)
    found = terms_of(outputs, model, predictions, some, unit)
    return (found.sums / found.counts).tolist(), predictions, found


def test_ani_loss():
    """Mean of (ΔE)²/√N, and the mean over atoms of |ΔF|²."""
    some = batch()
    outputs = [ModelOutput("energies", scaling="sqrt_atoms"), ModelOutput("forces")]
    (of_energies, of_forces), found, _ = losses(outputs, some)
    sizes = (some.species >= 0).sum(-1).tolist()
    wrong = (found["energies"] - some.properties["energies"]).tolist()
    assert of_energies == pytest.approx(sum(e * e / math.sqrt(n) for e, n in zip(wrong, sizes, strict=True)) / 4)
    squares = [
        float(((found["forces"] - some.properties["forces"])[b, a] ** 2).sum())
        for b, n in enumerate(sizes)
        for a in range(n)
    ]
    assert of_forces == pytest.approx(sum(squares) / sum(sizes))


def test_schnet_loss():
    """‖ΔE‖² and (1/n) Σ |ΔF|² of each molecule."""
    some = batch()
    outputs = [ModelOutput("energies"), ModelOutput("forces", scaling="molecule")]
    (of_energies, of_forces), found, _ = losses(outputs, some)
    wrong = found["energies"] - some.properties["energies"]
    assert of_energies == pytest.approx(float((wrong**2).mean()))
    means = []
    for b, n in enumerate((some.species >= 0).sum(-1).tolist()):
        means.append(float(((found["forces"] - some.properties["forces"])[b, :n] ** 2).sum() / n))
    assert of_forces == pytest.approx(sum(means) / 4)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_energies_per_atom_in_kcal(loss):
    some = batch()
    output = ModelOutput("energies", loss=loss, scaling="atom", delta=30.0)
    (mean,), found, _ = losses([output], some, "kcal/mol")
    d = (found["energies"] - some.properties["energies"]) / (some.species >= 0).sum(-1) * HARTREE_TO_KCALMOL
    huber = torch.where(d.abs() < 30, d * d / 2, 30 * (d.abs() - 15))
    expected = {"mse": d * d, "mae": d.abs(), "huber": huber}[loss].mean()
    assert (d.abs() < 30).any()
    assert (d.abs() > 30).any()
    assert mean == pytest.approx(float(expected))


def test_missing_labels_and_ghosts_do_not_count():
    some = batch()
    full, found, _ = losses([ModelOutput("energies"), ModelOutput("forces")], some)
    masked = batch()
    masked.properties["energies"][1] = torch.nan
    masked.properties["forces"][0, 2, 1] = torch.nan  # one component makes the vector useless
    masked.properties["forces"][3] = torch.nan
    _, _, terms = losses([ModelOutput("energies"), ModelOutput("forces")], masked, predictions=found)
    assert terms.counts.tolist() == [3, 5 + 9 + 7 - 1]
    wrong = (found["energies"] - some.properties["energies"]) ** 2
    assert float(terms.sums[0]) == pytest.approx(float(wrong[[0, 2, 3]].sum()))
    by_molecule = losses([ModelOutput("forces", scaling="molecule")], masked, predictions=found)[2]
    assert by_molecule.counts.tolist() == [3]
    assert all(math.isfinite(value) for value in full)


def test_nothing_labelled_gives_zero_and_no_gradient():
    model, some = ani(), batch()
    some.properties["energies"][:] = torch.nan
    found = predict(model, some, ("energies",))
    terms = terms_of([ModelOutput("energies")], model, found, some, "Hartree")
    assert terms.sums.item() == 0
    assert terms.counts.item() == 0
    terms.sums.sum().backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"predictions have shape \(4,\) but labels \(4, 1\)"):
        errors(torch.zeros(4), torch.zeros(4, 1), None)


def test_counts():
    labelled = torch.tensor([[True, True], [True, False], [False, False]])
    assert [int(count(labelled, scaling)) for scaling in ("atom", "molecule")] == [3, 2]


def test_tensors_are_summed_over_components():
    label = torch.zeros(2, 3, 3)
    found = errors(torch.ones(2, 3, 3), label, None)
    assert float(loss_sum(found, torch.tensor([4.0, 9.0]), "mse", "molecule")) == 18
    assert float(loss_sum(found, torch.tensor([4.0, 9.0]), "mse", "sqrt_atoms")) == pytest.approx(9 / 2 + 9 / 3)


def test_units():
    assert ModelOutput("stress").unit("eV") == "eV/Å^3"
    assert ModelOutput("forces").factor("kcal/mol") == pytest.approx(HARTREE_TO_KCALMOL)
    assert ModelOutput("dipole").unit("meV") == "e*Å"
    gap = ModelOutput("gap", quantity=Quantity("gap", "Hartree"))
    assert gap.unit("meV") == "meV"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l2"}, "loss of energies must be one of mse, mae, huber, got 'l2'"),
        ({"scaling": "atoms"}, "scaling of energies must be one of molecule, atom, sqrt_atoms, got 'atoms'"),
        ({"metrics": ["r2"]}, "metrics of energies must be one of mae, rmse, got 'r2'"),
        ({"weight": -1.0}, "weight of energies must be at least 0"),
        ({"weight": math.nan}, "weight of energies must be at least 0"),
    ],
)
def test_bad_outputs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelOutput("energies", **options)
    with pytest.raises(ValueError, match="scaling of forces must be one of atom, molecule, got 'sqrt_atoms'"):
        ModelOutput("forces", scaling="sqrt_atoms")


def test_labels_must_be_there():
    with pytest.raises(KeyError, match="the data have no property 'charges'; they have energies, forces"):
        terms_of([ModelOutput("charges")], ani(), {"charges": torch.zeros(1)}, batch(), "Hartree")
