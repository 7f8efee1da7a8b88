"""The messages of SchNet and PaiNN as operations of torch: values, derivatives of any order, and potentials on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from contracts import INSTRUCTION_SETS, molecule, needs_kernels, potential
from torch import Tensor

import anipot
from anipot import CosineCutoff, GaussianBasis, SchNet, ShiftedSoftplus, SmoothCutoff
from anipot.kernels import instruction_set
from anipot.kernels import messages as kernels
from anipot.kernels.messages import DOWN, EVEN, UP
from anipot.neighbors import Pairs
from anipot.representation.messages import HalfPairs, convolve, convolve_along, half_pairs

pytestmark = needs_kernels

OPS = torch.ops.anipot
MODELS = ("schnet", "schnet_mollified", "sc_schnet", "painn", "painn_gaussian")


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_set(request.param):
        yield request.param


def graph(num_atoms: int = 6, num_pairs: int = 17) -> kernels.Graph:
    """Any pairs in any order, among them an atom and its own image, the same pair twice, and an atom without any."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(0, num_atoms - 1, (2, num_pairs), generator=generator)
    first[:4], second[:4] = torch.tensor([2, 1, 1, 3]), torch.tensor([2, 4, 4, 0])
    return kernels.incidence(first, second, num_atoms)


def rand(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def form(x: Tensor, y: Tensor, w: Tensor, u: Tensor | None, pairs: kernels.Graph, kind: int) -> Tensor:
    """The form whose gradients the operations are."""
    if kind == DOWN:
        return -form(y, x, w, u, pairs, UP)
    (x1, x2), (y1, y2) = ((z[pairs.first], z[pairs.second]) for z in (x, y))
    u = w.new_ones(len(w), 1) if u is None else u
    if kind == EVEN:
        return ((x2 * y1 + x1 * y2).sum(1) * w * u).sum()
    return ((x2 * y1 - x1 * y2) * u[:, :, None] * w[:, None]).sum()


def arguments(kind: int, num_features: int, dtype: torch.dtype = torch.float64, components: int = 1) -> list[Any]:
    """x, y, W and u."""
    to, of = {EVEN: (components, components), UP: (3, 1), DOWN: (1, 3)}[kind]
    sizes = (6, of, num_features), (6, to, num_features), (17, num_features), (17, 1 if kind == EVEN else 3)
    return [rand(*size, dtype=dtype) for size in sizes]


CASES = [(EVEN, 1), (EVEN, 2), (EVEN, 3), (EVEN, 7), (UP, 1), (DOWN, 1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("num_features", [1, 7, 16, 33, 128, 150])
@pytest.mark.parametrize(("kind", "components"), CASES)
def test_gradients_of_the_form(kind: int, components: int, num_features: int, dtype: torch.dtype, isa: str) -> None:
    pairs = graph()
    x, y, w, u = arguments(kind, num_features, dtype, components)
    atol = 64 * torch.finfo(dtype).eps * num_features**0.5
    for factor in (u, None) if kind == EVEN else (u,):
        leaves = [t.double().requires_grad_() for t in (y, w, *([] if factor is None else [factor]))]
        total = form(x.double(), *leaves, *([None] if factor is None else []), pairs, kind)
        expected = torch.autograd.grad(total, leaves)
        found = [OPS.gather(x, w, factor, *pairs, kind), OPS.products(x, y, factor, *pairs, kind)]
        found += [] if factor is None else [OPS.contractions(x, y, w, *pairs, kind)]
        for a, e in zip(found, expected, strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.double(), e, rtol=0, atol=atol)


@pytest.mark.parametrize(("kind", "components"), [(EVEN, 1), (EVEN, 3), (UP, 1), (DOWN, 1)])
def test_two_derivatives(kind: int, components: int, isa: str) -> None:
    pairs = graph()
    x, y, w, u = (t.requires_grad_() for t in arguments(kind, 5, components=components))
    many = torch.stack([w.detach(), -0.3 * w.detach()]).requires_grad_()
    for fn, args in (
        (lambda x, w, u: OPS.gather(x, w, u, *pairs, kind), (x, w, u)),
        (lambda x, y, u: OPS.products(x, y, u, *pairs, kind), (x, y, u)),
        (lambda x, y, w: OPS.contractions(x, y, w, *pairs, kind), (x, y, w)),
        (lambda x, w, u: OPS.gather(x, w, u, *pairs, kind), (x, many, u)),
    ):
        assert torch.autograd.gradcheck(fn, args)
        assert torch.autograd.gradgradcheck(fn, args)


def test_parts_of_wider_rows_and_threads() -> None:
    """Chunks are read where they stand; sums do not depend on the number of threads."""
    pairs = graph()
    wide, w = rand(6, 96), rand(17, 64)
    x = wide[:, 32:64][:, None]
    expected = OPS.gather(x.contiguous(), w[:, 32:].contiguous(), None, *pairs, EVEN)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(OPS.gather(x, w[:, 32:], None, *pairs, EVEN), expected)
    torch.set_num_threads(before)
    transposed = rand(32, 6).T[:, None]
    assert torch.equal(
        OPS.gather(transposed, w[:, :32], None, *pairs, EVEN),
        OPS.gather(transposed.contiguous(), w[:, :32].contiguous(), None, *pairs, EVEN),
    )


@pytest.mark.parametrize("num_atoms", [0, 3])
def test_no_pair_at_all(num_atoms: int) -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    pairs = kernels.incidence(nothing, nothing, num_atoms)
    x, w = torch.ones(num_atoms, 1, 5, requires_grad=True), torch.ones(0, 5, requires_grad=True)
    out = kernels.gather(x, w, None, pairs)
    assert out.shape == x.shape
    assert not out.any()
    to_x, to_w = torch.autograd.grad(out.sum(), (x, w))
    assert not to_x.any()
    assert to_w.shape == w.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("order", range(5))
def test_softplus(order: int, dtype: torch.dtype, isa: str) -> None:
    x = torch.cat([torch.linspace(-18, 18, 1000), torch.tensor([0.0, -300.0, 300.0])]).to(dtype)
    exact = x.double().requires_grad_()
    y = torch.log1p(torch.exp(-exact.abs())) + exact.relu() - torch.log(torch.tensor(2.0, dtype=torch.float64))
    s = torch.sigmoid(exact)
    expected = [y, s, s * (1 - s), s * (1 - s) * (1 - 2 * s), s * (1 - s) * (1 - 6 * s * (1 - s))][order]
    factor = rand(len(x), dtype=dtype)
    for given in (None, factor):
        truth = expected if given is None else expected * given.double()
        found = OPS.softplus(x, given, order)
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.double(),
            truth.detach(),
            rtol=8 * torch.finfo(dtype).eps,
            atol=4e-16 if dtype == torch.float64 else 2e-7,
        )
    assert torch.isnan(OPS.softplus(torch.full((3,), torch.nan, dtype=dtype), None, order)).all()


def test_derivatives_of_softplus(isa: str) -> None:
    x, factor = rand(3, 7).requires_grad_(), rand(7, 3).T.requires_grad_()
    for order in range(3):
        for args in ((x, None), (x, factor)):
            fn = lambda x, f, o=order: OPS.softplus(x, f, o)  # noqa: E731
            assert torch.autograd.gradcheck(fn, args)
            assert torch.autograd.gradgradcheck(fn, args)
    with pytest.raises(NotImplementedError, match=r"beyond the fourth .*reference_path\(\)"):
        OPS.softplus(x, None, 5)


def test_opcheck() -> None:
    pairs = graph()
    for differentiable in (False, True):
        for kind in (EVEN, UP, DOWN):
            x, y, w, u = (t.requires_grad_(differentiable) for t in arguments(kind, 5))
            torch.library.opcheck(OPS.gather.default, (x, w, u, *pairs, kind))
            torch.library.opcheck(OPS.products.default, (x, y, u, *pairs, kind))
            torch.library.opcheck(OPS.contractions.default, (x, y, w, *pairs, kind))
        torch.library.opcheck(OPS.softplus.default, (rand(3, 5).requires_grad_(differentiable), None, 0))
    torch.library.opcheck(OPS.incidence.default, (pairs.first, pairs.second, 6))


def test_compile() -> None:
    torch._dynamo.reset()

    def energy(x: Tensor, w: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
        pairs = kernels.incidence(first, second, x.shape[0])
        return OPS.softplus(kernels.gather(x, w, u, pairs), None, 0).square().sum()

    compiled = torch.compile(energy, backend="aot_eager", fullgraph=True)
    pairs = graph()
    for stop in (17, 9):  # the second with other shapes
        x, _, w, u = arguments(EVEN, 5)
        args = (x.requires_grad_(), w[:stop], u[:stop], pairs.first[:stop], pairs.second[:stop])
        out = [fn(*args) for fn in (energy, compiled)]
        gradients = [torch.autograd.grad(value, x)[0] for value in out]
        torch.testing.assert_close(out[1], out[0], rtol=1e-14, atol=0)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [EVEN, UP, DOWN])
def test_vmap(kind: int) -> None:
    """Over each argument, and over incoming gradients: the batched backward of Hessians."""
    pairs = graph()
    x, y, w, u = arguments(kind, 5)
    calls: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        (lambda a, b, c: OPS.gather(a, b, c, *pairs, kind), [x, w, u]),
        (lambda a, b, c: OPS.products(a, b, c, *pairs, kind), [x, y, u]),
        (lambda a, b, c: OPS.contractions(a, b, c, *pairs, kind), [x, y, w]),
    ]
    for fn, args in calls:
        for which in range(3):
            many = [*args[:which], torch.stack([args[which], -0.3 * args[which]], 1), *args[which + 1 :]]
            out = torch.vmap(fn, in_dims=tuple(1 if i == which else None for i in range(3)))(*many)
            singles = [fn(*args[:which], a, *args[which + 1 :]) for a in many[which].unbind(1)]
            torch.testing.assert_close(out, torch.stack(singles), rtol=0, atol=1e-15)
    twice = torch.stack([x, -x]), torch.stack([w, 2 * w], 1)
    out = torch.vmap(torch.vmap(calls[0][0], (None, 1, None)), (0, None, None))(*twice, u)
    torch.testing.assert_close(out[1, 1], -2 * calls[0][0](x, w, u), rtol=0, atol=1e-15)
    leaf = x.clone().requires_grad_()
    out = OPS.softplus(kernels.gather(leaf, w, u, pairs, kind), None, 0)
    weights = rand(3, *out.shape)
    (batched,) = torch.autograd.grad(out, leaf, weights, is_grads_batched=True, retain_graph=True)
    singles = [torch.autograd.grad(out, leaf, g, retain_graph=True)[0] for g in weights]
    torch.testing.assert_close(batched, torch.stack(singles), rtol=0, atol=1e-15)


def half(dtype: torch.dtype = torch.float64) -> HalfPairs:
    """Pairs of a crystal with one atom and more, small enough for an atom to see its own images."""
    numbers, x = molecule(5, 2)
    cell = 4.4 * torch.eye(3, dtype=torch.float64)
    system = anipot.structures.check_system(numbers[None], x[None], cell, torch.tensor([True, True, True]))
    pairs, vectors = anipot.neighbors.neighborhoods(system, 4.7)
    found = half_pairs(pairs, vectors.to(dtype), 4.7, 5)
    assert (found.first == found.second).any()
    assert 2 * len(found.first) == len(pairs.center)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_convolutions_equal_those_of_torch(dtype: torch.dtype, isa: str) -> None:
    pairs = half(dtype)
    P = len(pairs.first)
    x, v, w, c, u = (rand(*shape, dtype=dtype) for shape in ((5, 9), (5, 3, 9), (P, 9), (P, 1), (P, 3)))
    atol = 64 * torch.finfo(dtype).eps * float(P) ** 0.5
    for fn in (
        lambda: convolve(x, w, pairs),
        lambda: convolve(x, w, pairs, c),
        lambda: convolve(v, w, pairs),
        lambda: convolve_along(x, w, u, pairs),
    ):
        with anipot.reference_path():
            expected = fn()
        torch.testing.assert_close(fn(), expected, rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in torch.func.jvp
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("decay", [CosineCutoff(), SmoothCutoff(), SmoothCutoff(order=4, eps=1e-3), None])
def test_filters_and_slopes(decay: torch.nn.Module | None, activated: bool, dtype: torch.dtype, isa: str) -> None:
    torch.manual_seed(0)
    cutoff = torch.inf if decay is None else 4.9
    model = SchNet(4, 19, 1, cutoff, GaussianBasis.equidistant(11, 4.9), decay, 37, filters_activated=activated)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model = model.to(dtype)
    r = torch.linspace(0.3, 4.9, 101, dtype=dtype)
    with kernels.first_derivatives_of_geometry():
        (constants,) = model._native_interactions(half(dtype)._replace(distances=r)) or [None]
    assert constants is not None
    found = kernels.filters_and_slopes(r, constants.filters)
    exact = model.double()
    truth = lambda x: exact.interactions[0].filters(exact.basis(x)) * (1 if decay is None else exact.decay(x))  # type: ignore  # noqa: E731
    with anipot.reference_path():
        expected = torch.func.jvp(truth, (r.double(),), (torch.ones_like(r.double()),))
    for a, e in zip(found, expected, strict=True):
        atol = 64 * torch.finfo(dtype).eps * float(e.detach().abs().max())
        torch.testing.assert_close(a.double(), e.detach(), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_potentials(name: str, dtype: torch.dtype, isa: str) -> None:
    """Energies, forces, stress, Hessians and the gradients of force training, with ghosts whose coordinates are NaN."""
    numbers, x = molecule(9, 3)
    numbers, x = torch.cat([numbers, torch.tensor([-1])])[None], torch.cat([x, torch.full((1, 3), torch.nan)])[None]
    cell, pbc = 5.1 * torch.eye(3, dtype=torch.float64), torch.tensor([True, False, True])
    model, found = potential(name, "atomwise").to(dtype), []
    for reference in (False, True):
        with anipot.reference_path() if reference else instruction_set(isa):
            point = anipot.single_point(model, numbers, x, cell, pbc, stress=True, hessian=True)
            leaf = x.clone().requires_grad_()
            energy = model((numbers, leaf), cell, pbc).energies.sum()
            (gradient,) = torch.autograd.grad(energy, leaf, create_graph=True)
            loss = (gradient[:, :9] ** 2).sum() + energy
            weights = torch.autograd.grad(loss, model.parameters(), allow_unused=True, materialize_grads=True)
            assert not gradient[:, 9].any()
            found.append([point.energies, point.forces, point.stress, point.hessian, gradient.detach(), *weights])
    for ours, theirs in zip(*found, strict=True):
        atol = 512 * torch.finfo(dtype).eps * max(1e-3, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=1e-15, atol=atol)


@pytest.mark.parametrize("part", ["filters.0", "inward", "outward.2", "outward", ""])
def test_single_point_takes_the_slopes(part: str) -> None:
    """Interactions are one call where nothing but forces is asked for, unless something watches a part of them."""
    numbers, x = molecule(9, 3)
    model = potential("schnet", "atomwise")
    seen: list[Any] = []
    with mock.patch.object(kernels, "filters_and_slopes", side_effect=kernels.filters_and_slopes) as native:
        expected = anipot.single_point(model, numbers[None], x[None])
        assert native.call_count == 2
        watched = model.representation.interactions[0].get_submodule(part)
        handle = watched.register_forward_hook(lambda *a: seen.append(a))
        hooked = anipot.single_point(model, numbers[None], x[None])
        assert native.call_count == 2
        assert len(seen) == 1
        handle.remove()
        model((numbers[None], x[None].requires_grad_()))
        assert native.call_count == 2
    torch.testing.assert_close(hooked.forces, expected.forces, rtol=0, atol=1e-14)


def test_half_pairs_of_nothing() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    found = half_pairs(Pairs(nothing, nothing, None), torch.zeros(0, 3), 5.0, 4)
    assert found.graph is not None
    assert not convolve(torch.ones(4, 6), torch.ones(0, 6), found).any()
    assert not convolve_along(torch.ones(4, 6), torch.ones(0, 6), torch.ones(0, 3), found).any()


def test_activations_of_many_numbers() -> None:
    x = rand(100, 120)
    with anipot.reference_path():
        expected = ShiftedSoftplus()(x)
    torch.testing.assert_close(ShiftedSoftplus()(x), expected, rtol=0, atol=1e-15)
