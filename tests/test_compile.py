"""``torch.compile(fullgraph=True)`` of whole models: the same numbers, and the same errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from contracts import REPRESENTATIONS, SELF_ENERGIES, molecule, potential
from torch import Tensor

import anipot
from anipot import ZBL, AEVComputer, Atomwise, EnergyShifter, Potential, SchNet

NAMES = ("aev_1x", "acsf_g4", "wacsf", "schnet", "sc_schnet", "painn")
HEADS = {"aev_1x": "ensemble"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: torch.nn.Module, backend: str = "aot_eager") -> torch.nn.Module:
    return torch.compile(model, fullgraph=True, backend=backend)  # type: ignore[return-value]


def batch() -> tuple[Tensor, Tensor]:
    numbers, x = anipot.pad([molecule(6, 1), molecule(4, 2)])
    return numbers, torch.where((numbers < 0)[..., None], torch.nan, x)


@pytest.mark.parametrize(("name", "periodic"), [*((name, False) for name in NAMES), ("aev_1x", True), ("schnet", True)])
def test_energies_and_forces(name: str, periodic: bool) -> None:
    model = potential(name, HEADS.get(name, "atomwise"))
    fast = compiled(model)
    numbers, x = batch()
    lattice = (5.0 * torch.eye(3, dtype=torch.float64), torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()) if periodic else ()
    for shift in (0.0, 0.1):  # the number of pairs changes, the graph does not
        y = (x * (1 + shift)).requires_grad_()
        energies = fast((numbers, y), *lattice).energies
        (gradient,) = torch.autograd.grad(energies.sum(), y)
        with anipot.reference_path():  # sums in the same order: features of wACSF are thousands
            expected = model((numbers, y), *lattice).energies
        torch.testing.assert_close(energies, expected, rtol=1e-12, atol=0)
        (wanted,) = torch.autograd.grad(expected.sum(), y)
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-11 * scale)
        assert not gradient[numbers < 0].any()


def test_every_kind_is_tried() -> None:
    kinds = {type(REPRESENTATIONS[name]()) for name in NAMES}
    assert kinds == {type(build()) for build in REPRESENTATIONS.values()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own making
def test_the_default_compiler_and_training() -> None:
    torch.manual_seed(1)
    model = Potential("HCNO", SchNet(4, 16, 2), Atomwise.pyramid(16), EnergyShifter(SELF_ENERGIES))
    numbers, x = batch()
    fast = compiled(model, "inductor")
    energies = fast((numbers, x.float())).energies
    energies.sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected = model((numbers, x.float())).energies
    expected.sum().backward()
    torch.testing.assert_close(energies, expected, rtol=0, atol=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-5)


def test_a_chain_and_a_term() -> None:
    numbers, x = batch()
    rep = AEVComputer.like_1x()
    model = potential("aev_1x", "ani_celu")
    chain = anipot.Sequential(anipot.SpeciesConverter("HCNO"), rep, model.head, model.shifter)
    torch.testing.assert_close(compiled(chain)((numbers, x)).energies, model((numbers, x)).energies)
    both = Potential("HCNO", rep, model.head, model.shifter, terms=[ZBL("HCNO")]).double()
    torch.testing.assert_close(compiled(both)((numbers, x)).energies, both((numbers, x)).energies)


def test_errors_are_the_same() -> None:
    fast = compiled(potential("schnet", "atomwise"))
    numbers, x = torch.tensor([[8, 1]]), torch.tensor([[[0.0, 0, 0], [0.0, 0, 1]]], dtype=torch.float64)
    assert fast((numbers, x)).energies.shape == (1,)
    with pytest.raises(ValueError, match=r"molecule 0, atom 1 is Au \(atomic number 79\)"):
        fast((torch.tensor([[8, 79]]), x))
    with pytest.raises(ValueError, match="molecule 0: atoms 0 and 1 stand on one spot"):
        fast((numbers, 0 * x))
    with pytest.raises(ValueError, match=r"molecule 0, atom 0 has coordinates \[nan"):
        fast((numbers, x / x))
