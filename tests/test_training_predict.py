"""Predictions with a graph are those of ``single_point``, and their derivatives with respect to weights are right."""

from __future__ import annotations

import pytest
import torch
from contracts import ELEMENTS
from torch import Tensor
from training_data import ani, batch, schnet

import anipot
from anipot import ZBL, AtomicNetwork, AtomicProperty, Coulomb, DipoleMoment, EnsemblePotential, GatedNetwork
from anipot.terms import ErfDamping
from anipot.training import predict

ALL = ("energies", "forces", "stress")


def tiny(num_features: int) -> AtomicNetwork:
    return AtomicNetwork((num_features, 6, 1), torch.nn.SiLU())


def with_charges() -> anipot.Potential:
    pytest.importorskip("torchpme")
    torch.manual_seed(1)
    charges = AtomicNetwork((384, 6, 1), torch.nn.SiLU())
    return ani(terms=[Coulomb(ELEMENTS, charges, neutral=True, cutoff=5.0, damping=ErfDamping(0.5))])


POTENTIALS = {
    "ani": ani,
    "schnet": schnet,
    "painn": lambda: schnet(painn=True),
    "zbl": lambda: ani(terms=[ZBL(ELEMENTS)]),
    "ewald": with_charges,
    "ensemble": lambda: EnsemblePotential([ani(1), schnet(2)]),
}


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("periodic", [None, (True, True, True, True)], ids=["free", "periodic"])
def test_values_are_those_of_single_point(name, periodic):
    model, some = POTENTIALS[name](), batch(periodic=periodic)
    names = ALL if periodic else ALL[:2]
    found = predict(model, some, names)
    expected = anipot.single_point(model, some.species, some.coordinates, some.cell, some.pbc, stress=bool(periodic))
    assert list(found) == list(names)
    for key, value in found.items():
        assert value.requires_grad
        torch.testing.assert_close(value.detach(), getattr(expected, key), rtol=1e-9, atol=1e-10)
    plain = predict(model, some, names, graph=False)
    for key, value in plain.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, found[key].detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["ani", "schnet", "painn", "ewald"])
def test_gradients_by_weights_are_finite_differences(name):
    model, some = POTENTIALS[name](), batch((4, 3), (True, True))
    seeds = {key: torch.randn_like(value) for key, value in predict(model, some, ALL).items()}

    def total() -> Tensor:
        found = predict(model, some, ALL)
        return sum(((found[key] * seeds[key]).sum() for key in ALL), torch.zeros(()))

    total().backward()
    generator = torch.Generator().manual_seed(3)
    for parameter in list(model.parameters())[::3]:
        if parameter.grad is None:
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            values.append(float(total().detach()))
            with torch.no_grad():
                parameter.add_(direction, alpha=-step)
        expected = (values[0] - values[1]) / 2e-5
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=2e-5, abs=2e-6)


def test_molecules_without_a_period_have_no_stress():
    model = ani()
    mixed = batch((5, 4, 3), (True, False, True))
    for graph in (True, False):
        stress = predict(model, mixed, ("energies", "stress"), graph=graph)["stress"]
        assert torch.isnan(stress[1]).all()
        assert torch.isfinite(stress[[0, 2]]).all()
    free = predict(model, batch((5, 4)), ("stress",))["stress"]
    assert torch.isnan(free).all()
    found = predict(model, mixed, ("stress",))["stress"]
    torch.where(torch.isnan(found), 0.0, found).square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_properties_come_with_energies_and_alone():
    model = schnet(painn=True)
    heads = {
        "dipole": DipoleMoment(GatedNetwork(8), ELEMENTS).double(),
        "shifts": AtomicProperty([tiny(8), None, None, tiny(8)]).double(),
    }
    model = anipot.Potential(ELEMENTS, model.representation, model.head, model.shifter, properties=heads)
    some = batch()
    alone = predict(model, some, ("dipole", "shifts"))
    both = predict(model, some, ("energies", "forces", "dipole", "shifts"))
    plain = predict(model, some, ("dipole",), graph=False)
    torch.testing.assert_close(alone["dipole"], both["dipole"])
    torch.testing.assert_close(plain["dipole"], both["dipole"].detach())
    assert torch.equal(torch.isnan(alone["shifts"]), torch.isin(some.species, torch.tensor([6, 7])))
    alone["dipole"].sum().backward()
    assert all(p.grad is None for p in model.head.parameters())  # energies were not computed
    with pytest.raises(ValueError, match="has no property 'charges'; it has dipole, shifts"):
        predict(model, some, ("charges",))


def test_energies_alone_are_differentiated_once():
    found = predict(ani(), batch(), ("energies",))["energies"]
    found.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        found.sum().backward()


def test_inputs_are_checked():
    some = batch()
    some.species[1, 0] = 26
    with pytest.raises(ValueError, match="molecule 1, atom 0 is Fe"):
        predict(ani(), some, ("energies",))
