"""Networks and vectors as native differentiable operations, Hessians, and batches of many compositions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from contracts import INSTRUCTION_SETS, assert_same, by_torch, fresh, molecule, natively, needs_kernels, potential
from torch import Tensor, nn

import anipot
from anipot import CELU, ANIModel, AtomicNetwork, Ensemble, Gaussian, ShiftedSoftplus
from anipot.head.dense import native_networks
from anipot.hessian import native_hessian
from anipot.kernels import instruction_set, memory, networks, vectors
from anipot.neighbors import displacements, find_pairs

pytestmark = needs_kernels

SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "celu": lambda: CELU(0.1),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gaussian": Gaussian,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
    "softplus": ShiftedSoftplus,
}
#: Features, hidden widths, rows, members, bias.
SHAPES = [
    (40, (17, 16, 3), 30, 2, True),
    (64, (32, 16), 333, 1, True),  # several tiles of 96 and of 48 rows
    (1100, (13,), 40, 1, False),  # chunks of more than 16 features
    (7, (5,), 3, 1, True),
]


def head_of(shape: tuple[int, tuple[int, ...], int, int, bool], activation: nn.Module) -> nn.Module:
    width, hidden, _, members, bias = shape
    torch.manual_seed(0)
    heads = [
        ANIModel([AtomicNetwork((width, *hidden, 1), activation, bias=bias).double() for _ in range(3)])
        for _ in range(members)
    ]
    return Ensemble(heads) if members > 1 else heads[0]


def rows_of(shape: tuple[int, tuple[int, ...], int, int, bool]) -> tuple[Tensor, Tensor]:
    """Species with ghosts, and features with columns of zeros, some of all rows and some of half of them."""
    width, _, count, *_ = shape
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, width, generator=generator, dtype=torch.float64)
    x[: count // 2, : width // 2] = 0
    x[:, width - 2 :] = 0
    return torch.randint(-1, 2, (count,), generator=generator), x


def derivatives(head: nn.Module, species: Tensor, x: Tensor) -> list[Tensor | None]:
    """Energies, their gradient, and the gradients of a loss of both with respect to features and weights."""
    head.zero_grad()
    leaf = x.clone().requires_grad_()
    energies = head.atomic_energies(species, leaf)
    seeds = torch.linspace(-1, 2, energies.numel(), dtype=torch.float64).view_as(energies)
    (gradient,) = torch.autograd.grad((energies * seeds).sum(), leaf, create_graph=True)
    ((energies**2).sum() + (gradient * x.sin()).sum() + (gradient**2).sum()).backward()
    return [energies.detach(), gradient.detach(), leaf.grad, *(p.grad for p in head.parameters())]


def assert_close(ours: list[Tensor | None], theirs: list[Tensor | None], rtol: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)  # an element that does not occur has no gradient
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=rtol * max(1e-3, float(b.abs().max())))


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[2]}")
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_of_networks(name: str, shape: tuple[int, tuple[int, ...], int, int, bool], isa: str) -> None:
    head, (species, x) = head_of(shape, SMOOTH[name]()), rows_of(shape)
    with anipot.reference_path():
        expected = derivatives(head, species, x)
    with instruction_set(isa), mock.patch("anipot.head.ani_model.torch.stack", side_effect=AssertionError("torch")):
        # torch's softplus is linear beyond 20
        assert_close(derivatives(head, species, x), expected, 1e-8 if name == "softplus" else 1e-11)


def test_second_derivatives_by_finite_differences() -> None:
    shape = (10, (6, 5), 4, 2, True)
    head, (species, x) = head_of(shape, nn.Tanh()), rows_of(shape)
    assert torch.autograd.gradgradcheck(lambda f: head.atomic_energies(species, f), x.requires_grad_())


def test_operations_are_what_torch_expects_of_them() -> None:
    shape = (10, (6, 5), 4, 2, True)
    head, (species, x) = head_of(shape, nn.Tanh()), rows_of(shape)
    net = native_networks(list(head), species, x, sparse=False)
    assert net is not None
    net = net._replace(weights=net.weights.detach().requires_grad_())
    energies, order, state = torch.ops.anipot.networks(x, species, *net)
    seeds, tests = torch.ones_like(energies), ("test_schema", "test_autograd_registration", "test_faketensor")
    for operation, args in (
        ("networks", (x, species)),
        ("networks_features", (x, species, order, state)),
        ("networks_backward", (seeds, None, x, species, order, state)),
        ("networks_rest", (seeds, state, x, species, order, state)),
        ("networks_weight_gradient", (seeds, state, x, species, order, state)),
        ("networks_second", (True, x, seeds, x, species, order, state)),
    ):
        torch.library.opcheck(getattr(torch.ops.anipot, operation), (*args, *net), test_utils=tests)
    pairs = find_pairs(species[None], x[None, :, :3], None, None, 5.0)
    args = (x[None, :, :3].contiguous(), None, pairs.center, pairs.neighbor, None)
    torch.library.opcheck(torch.ops.anipot.vectors, (*args, 1e-6), test_utils=tests)
    torch.library.opcheck(
        torch.ops.anipot.vectors_backward, (torch.ones(len(pairs.center), 3), *args), test_utils=tests
    )


def test_what_the_operations_do_not_know_is_said() -> None:
    shape = (10, (6, 5), 4, 1, True)
    head, (species, x) = head_of(shape, nn.Tanh()), rows_of(shape)
    weight = next(head.parameters())
    energies = head.atomic_energies(species, x)
    (gradient,) = torch.autograd.grad(energies.sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"reference_path"):
        gradient.sum().backward()


@pytest.mark.parametrize("forces", [False, True])
def test_training_steps(forces: bool) -> None:
    """Gradients of a loss of energies, or of energies and forces, with respect to all weights and coordinates."""
    numbers = torch.full((3, 12), -1)
    x = torch.full((3, 12, 3), float("nan"), dtype=torch.float64)
    for b, n in enumerate((12, 7, 9)):
        numbers[b, :n], x[b, :n] = molecule(n, b)
    model, found = potential("aev_1x", "ani_celu"), []
    for reference in (False, True):
        model.zero_grad()
        leaf = x.clone().requires_grad_(forces)
        with anipot.reference_path() if reference else instruction_set(INSTRUCTION_SETS[0]):
            energies = model((numbers, leaf)).energies
            loss = (energies**2).mean()
            if forces:
                loss = loss + (torch.autograd.grad(energies.sum(), leaf, create_graph=True)[0] ** 2).sum()
            loss.backward()
        found.append([p.grad for p in model.parameters()] + ([leaf.grad] if forces else []))
    assert_close(*found, rtol=1e-11)


def test_only_what_is_asked_for_is_computed() -> None:
    """Energies need no gradient of features, and forces none of weights."""
    numbers, x = molecule(8, 1)
    model, calls = potential("aev_1x", "ani_celu"), []

    class Calls(networks.Call):
        def run(self, what: int, *args: object, **options: object) -> None:
            calls.append(what)
            super().run(what, *args, **options)  # type: ignore[arg-type]

    forward, backward, weights = range(3)
    with mock.patch.object(networks, "Call", Calls):
        model((numbers[None], x[None])).energies.sum().backward()
        assert calls == [forward, weights]
        calls.clear()
        leaf = x[None].clone().requires_grad_()
        torch.autograd.grad(model((numbers[None], leaf)).energies.sum(), leaf)
        assert calls == [forward, backward]


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hessians(dtype: torch.dtype, isa: str) -> None:
    """A batch with ghosts in a cell below twice the cutoff, where atoms see images of themselves."""
    numbers = torch.full((3, 9), -1)
    x = torch.full((3, 9, 3), float("nan"), dtype=torch.float64)
    for b, n in enumerate((9, 1, 6)):
        numbers[b, :n], x[b, :n] = molecule(n, b + 3)
    cell = torch.tensor([[5.2, 0, 0], [1.1, 4.9, 0], [0.3, -0.8, 5.6]], dtype=torch.float64)
    for name in ("aev_1x", "aev_user"):
        model = potential(name, "ensemble").to(dtype)
        for box in ((None, None), (cell, torch.tensor([True, False, True]))):
            expected = by_torch(model, numbers, x, *box, hessian=True).hessian
            with instruction_set(isa):
                system = model.system(numbers, x, *box)
                hessian = native_hessian(model, system, find_pairs(*system, model.cutoff))
            assert expected is not None
            assert hessian is not None
            assert torch.equal(hessian, hessian.mT)
            bound = 512 * torch.finfo(dtype).eps * float(expected.abs().max())
            torch.testing.assert_close(hessian, expected, rtol=0, atol=bound)


def test_a_hessian_without_neighbors() -> None:
    model = potential("aev_1x", "ani_celu")
    result = anipot.single_point(model, torch.tensor([[8, -1]]), torch.zeros(1, 2, 3), hessian=True)
    assert result.hessian is not None
    assert torch.equal(result.hessian, torch.zeros(1, 6, 6))


@pytest.mark.parametrize("periodic", [False, True])
def test_vectors(periodic: bool) -> None:
    species = torch.tensor([[0, 1, 2, 1], [1, 1, 0, -1]])
    x = 3 * torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cell = (5 * torch.eye(3, dtype=torch.float64) + 0.3 * x[:, :3]).contiguous() if periodic else None
    pbc = torch.tensor([[True, True, False]] * 2) if periodic else None
    pairs = find_pairs(species, x, cell, pbc, 4.5)
    with anipot.reference_path():
        expected = displacements(pairs, x, cell, pbc)
    assert vectors.covers(x, cell, *pairs)
    torch.testing.assert_close(displacements(pairs, x, cell, pbc), expected, rtol=0, atol=1e-14)
    leaves = (x.requires_grad_(), *(() if cell is None else (cell.requires_grad_(),)))
    shift = pairs.shift if periodic else None

    def of(coordinates: Tensor, lattice: Tensor | None = None) -> Tensor:
        return displacements(pairs._replace(shift=shift), coordinates, lattice, pbc)

    assert torch.autograd.gradcheck(of, leaves)
    assert torch.autograd.gradgradcheck(of, leaves)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_batches_of_many_compositions(isa: str) -> None:
    """Molecules that share elements are computed with the columns of these: 11 compositions, blocks of 2048 atoms."""
    generator = torch.Generator().manual_seed(4)
    sizes, sets = [20, 9, 26], [[1], [1, 6], [1, 6, 8], [1, 6, 7], [1, 6, 7, 8], [8], [6, 8], [7], [1, 7], [1, 8], [6]]
    molecules = [molecule(sizes[b % 3], b) for b in range(140)]
    numbers = torch.full((140, 26), -1)
    x = torch.full((140, 26, 3), float("nan"), dtype=torch.float64)
    for b, (_, positions) in enumerate(molecules):
        n, elements = len(positions), torch.tensor(sets[min(b // 12, 10)])
        numbers[b, :n] = elements[torch.randint(len(elements), (n,), generator=generator)]
        x[b, :n] = positions
    order = torch.randperm(140, generator=generator)
    for chosen in (torch.arange(140), order):
        for name in ("aev_1x", "aev_user"):
            model = potential(name, "ensemble")
            with instruction_set(isa):
                ours = natively(fresh(model), numbers[chosen], x[chosen], atomic_energies=True, members=True)
            assert_same(ours, by_torch(model, numbers[chosen], x[chosen], atomic_energies=True, members=True))


def test_weight_gradients_are_the_same_every_time() -> None:
    """Sums over rows do not depend on which thread computes them."""
    numbers, x = (torch.stack(parts) for parts in zip(*(molecule(17, b) for b in range(60)), strict=True))
    model, found, threads = potential("aev_1x", "ani_celu").float(), [], torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for _ in range(20):
            model.zero_grad()
            (model((numbers, x.float())).energies ** 2).sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grad, found[0]) for grad in found)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_nothing_is_left_open_between_gradients() -> None:
    """Weights stand in one tensor with gaps; anomaly detection looks at these too."""
    torch.manual_seed(0)
    head = ANIModel([AtomicNetwork((20, 9, 1), CELU(0.1)) for _ in range(2)])
    full = [torch.full((1000,), float("nan")) for _ in range(50)]
    del full
    with torch.autograd.detect_anomaly(check_nan=True):  # type: ignore[attr-defined]
        head.atomic_energies(torch.tensor([0, 1, 1]), torch.rand(3, 20)).sum().backward()


@pytest.mark.parametrize("what", ["single point", "Hessian", "graph"])
def test_another_default_device(what: str) -> None:
    """Memory for the kernels is where the coordinates are, whatever torch's default device."""
    numbers, x = molecule(8, 1)
    model = potential("aev_1x", "ani_celu")
    numbers, x = numbers[None], x[None]

    def compute() -> Tensor | None:
        if what == "graph":
            return model((numbers, x)).energies.detach()
        result = anipot.single_point(model, numbers, x, hessian=what == "Hessian")
        return result.hessian if what == "Hessian" else result.forces

    expected = compute()
    with torch.device("meta"):
        found = compute()
    assert expected is not None
    assert found is not None
    assert torch.equal(found, expected)


def test_cells_of_another_dtype() -> None:
    species = torch.tensor([[0, 1, 2, 1]])
    x, pbc = 3 * torch.rand(1, 4, 3, dtype=torch.float64), torch.tensor([[True] * 3])
    cell = 5.0 * torch.eye(3, dtype=torch.float64)[None]
    pairs = find_pairs(species, x, cell, pbc, 4.5)
    with anipot.reference_path():
        expected = displacements(pairs, x.float(), cell, pbc)
    torch.testing.assert_close(displacements(pairs, x.float(), cell, pbc), expected, rtol=0, atol=1e-14)


def test_a_large_system_without_a_graph() -> None:
    """Computed in parts, since the hidden values of all rows serve derivatives only."""
    shape = (40, (17, 3), 333, 2, True)
    head, (species, x) = head_of(shape, CELU(0.1)), rows_of(shape)
    with mock.patch.object(networks, "_ROWS", 100), torch.no_grad():
        parts = head.atomic_energies(species, x)
    with anipot.reference_path():
        torch.testing.assert_close(parts, head.atomic_energies(species, x).detach(), rtol=0, atol=1e-13)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux only")
def test_memory_is_used_again_when_nobody_holds_it() -> None:
    like, shape = torch.zeros(()), (1000, 1100)
    first = memory.empty(shape, like)
    at, view = first.data_ptr(), first[3:].detach()
    del first
    assert memory.empty(shape, like).data_ptr() != at
    del view
    again = {memory.empty(shape, like, torch.int32).data_ptr() for _ in range(3)}
    assert len(again) == 1  # given back and taken again


def test_memory_is_bounded() -> None:
    held = [memory.empty((2**24 - 1,), torch.zeros(())) for _ in range(8)]
    assert all(tensor.shape == (2**24 - 1,) for tensor in held)
    del held
    assert sum(map(len, memory._free)) <= memory._KEPT


def test_graphs_alive_at_the_same_time_do_not_share_memory() -> None:
    model = potential("aev_1x", "ensemble")
    batches = [4 * torch.rand(40, 10, 3, generator=torch.Generator().manual_seed(i)).double() for i in range(6)]
    species = torch.tensor([[1, 6, 7, 8, 1, 6, 7, 8, 1, 6]]).expand(40, -1)

    def forces(x: Tensor) -> Tensor:
        x.requires_grad_()
        return torch.autograd.grad(model((species, x)).energies.sum(), x, create_graph=True)[0]

    def gradient(out: Tensor, x: Tensor) -> Tensor:
        return torch.autograd.grad((out**2).sum(), x)[0]

    one_by_one = [gradient(forces(x), x) for x in batches]
    graphs = [forces(x) for x in batches]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(gradient, graphs, batches))
    for a, b in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
