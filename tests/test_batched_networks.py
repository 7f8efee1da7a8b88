"""Networks of all members in few products against one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import anipot
from anipot import CELU, ANIModel, AtomicNetwork, Gaussian, ShiftedSoftplus
from anipot.head.ani_model import members_atomic_energies
from anipot.head.batched import batched_energies

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "celu": lambda: CELU(0.1),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "softplus": ShiftedSoftplus,
    "gaussian": Gaussian,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
}


def members_of(
    hidden: Sequence[Sequence[int]], activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True
) -> list[ANIModel]:
    """Three elements, the hidden widths of which are the same in each member but for what ``hidden`` says."""
    torch.manual_seed(0)
    return [
        ANIModel([AtomicNetwork((6, *widths, 1), activation(), bias) for widths in (h, (3, 7), (4,))]).double()
        for h in hidden
    ]


def rows(n: int = 23) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(-1, 2, (n,)), torch.randn(n, 6, dtype=torch.float64, requires_grad=True)


def derivatives(energies: Tensor, x: Tensor, members: Sequence[nn.Module]) -> list[Tensor]:
    """Energies, gradients, products with second derivatives, and gradients of those with respect to weights."""
    weights = [p for member in members for p in member.parameters()]
    (gradient,) = torch.autograd.grad(
        (energies * torch.arange(1, len(energies) + 1)[:, None]).sum(), x, create_graph=True
    )
    loss = gradient.square().sum() + energies.square().sum()
    found = torch.autograd.grad(loss, [x, *weights], allow_unused=True)
    return [energies, gradient, *(torch.zeros(()) if f is None else f for f in found)]


def check(members: list[ANIModel]) -> None:
    species, x = rows()
    found = derivatives(batched_energies(members, species, x), x, members)
    with anipot.reference_path():
        expected = derivatives(members_atomic_energies(members, species, x), x, members)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows of the networks that are called one after the other."""
    called: list[int] = []
    forward = AtomicNetwork.forward

    def count(self: AtomicNetwork, features: Tensor) -> Tensor:
        called.append(len(features))
        return forward(self, features)

    monkeypatch.setattr(AtomicNetwork, "forward", count)
    return called


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_derivatives(activation: str, bias: bool) -> None:
    check(members_of([(8, 5)] * 3, ACTIVATIONS[activation], bias))


def test_many_columns_of_a_hessian_at_once() -> None:
    species, x = rows(4)
    members = members_of([(8, 5)] * 2)
    at_once, one_by_one = (
        torch.autograd.functional.hessian(lambda x: batched_energies(members, species, x).sum(), x, vectorize=v)
        for v in (True, False)
    )
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-12, atol=1e-12)


def test_members_of_one_size_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    species, x = rows()
    called = products(monkeypatch)
    batched_energies(members_of([(8, 5)] * 3), species, x)
    assert not called


def test_members_that_differ_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    species, x = rows()
    members = members_of([(8, 5), (8, 5), (8, 4)])
    check(members)
    called = products(monkeypatch)
    batched_energies(members, species, x)
    assert called == [int((species == 0).sum())] * 3
    check([members[0]])
    other = members_of([(8, 5)] * 2)
    other[1][0].activation = nn.SiLU()
    check(other)


def test_modules_that_are_looked_at_are_called() -> None:
    members = members_of([(8, 5)] * 2)
    seen = []
    members[1][1].linears[0].register_forward_hook(lambda *_: seen.append(1))
    check(members)
    assert seen == [1, 1]


@pytest.mark.parametrize("species", [[-1, -1, -1], [], [2, -1, 7]])
def test_rows_without_networks(species: list[int]) -> None:
    members = members_of([(8, 5)] * 2)
    x = torch.randn(len(species), 6, dtype=torch.float64)
    found = batched_energies(members, torch.tensor(species, dtype=torch.int64), x)
    assert found.shape == (2, len(species))
    assert found.dtype == torch.float64
    assert (found != 0).any(0).tolist() == [s == 2 for s in species]


def test_devices_other_than_the_cpu_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def record(members: object, species: Tensor, features: Tensor) -> Tensor:
        asked.append(features.device)
        return features.new_zeros(2, len(species), dtype=torch.float64)

    monkeypatch.setattr("anipot.head.ani_model.batched_energies", record)
    members = [member.to("meta") for member in members_of([(8, 5)] * 2)]
    members_atomic_energies(members, torch.zeros(3, dtype=torch.int64, device="meta"), torch.zeros(3, 6, device="meta"))
    assert asked == [torch.device("meta")]
