"""The physical contracts, for every representation × head that is exported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from contracts import ELEMENTS, HEADS, PAIRS, REPRESENTATIONS, SELF_ENERGIES, cutoffs, molecule, potential
from torch import Tensor

import anipot
import anipot.derivatives
import anipot.head
import anipot.representation
from anipot import Potential

NAN = float("nan")


@pytest.fixture(params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def model(request: pytest.FixtureRequest) -> Potential:
    return potential(*request.param)


def batched(*args: Tensor) -> tuple[Tensor, ...]:
    return tuple(a[None] for a in args)


def random_rotation(seed: int = 0) -> Tensor:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return torch.tensor(q * np.sign(np.diag(r)) * np.sign(np.linalg.det(q * np.sign(np.diag(r)))))


def test_every_export_is_under_contract() -> None:
    made = {type(build()) for build in REPRESENTATIONS.values()}
    exported = [getattr(anipot.representation, name) for name in anipot.representation.__all__]
    assert {thing for thing in exported if hasattr(thing, "from_pairs")} == made
    heads = {type(HEADS[h](REPRESENTATIONS[r]().num_features)) for r, h in PAIRS}
    exported = [getattr(anipot.head, name) for name in anipot.head.__all__]
    assert {thing for thing in exported if hasattr(thing, "atomic_energies")} == heads


def test_rotation_translation_permutation(model: Potential) -> None:
    numbers, x = molecule(9, 1)
    ref = anipot.single_point(model, *batched(numbers, x), hessian=True)
    q = random_rotation()
    turned = anipot.single_point(model, *batched(numbers, x @ q.T + torch.tensor([3.0, -40.0, 7.0])), hessian=True)
    torch.testing.assert_close(turned.energies, ref.energies, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned.forces, ref.forces @ q.T, rtol=0, atol=1e-10)
    big = torch.kron(torch.eye(9, dtype=torch.float64), q)
    torch.testing.assert_close(turned.hessian[0], big @ ref.hessian[0] @ big.T, rtol=0, atol=1e-9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    mixed = anipot.single_point(model, *batched(numbers[order], x[order]))
    torch.testing.assert_close(mixed.energies, ref.energies, rtol=0, atol=1e-11)
    torch.testing.assert_close(mixed.forces, ref.forces[:, order], rtol=0, atol=1e-11)


def test_batch_equals_singles_whatever_the_padding(model: Potential) -> None:
    molecules = [molecule(n, seed) for n, seed in [(5, 1), (11, 2), (1, 3), (2, 4)]]
    species, x = anipot.pad(molecules)
    species = torch.nn.functional.pad(species, (1, 2, 0, 1), value=-1)  # ghosts in front, behind, and a row of them
    x = torch.nn.functional.pad(x, (0, 0, 1, 2, 0, 1))
    x[species < 0] = NAN
    result = anipot.single_point(model, species, x, hessian=True, atomic_energies=True, members=True)
    for b, (numbers, positions) in enumerate(molecules):
        n = len(numbers)
        alone = anipot.single_point(
            model, *batched(numbers, positions), hessian=True, atomic_energies=True, members=True
        )
        torch.testing.assert_close(result.energies[b], alone.energies[0], rtol=1e-14, atol=0)
        torch.testing.assert_close(result.forces[b, 1 : n + 1], alone.forces[0], rtol=0, atol=1e-13)
        torch.testing.assert_close(result.atomic_energies[b, 1 : n + 1], alone.atomic_energies[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(
            result.members.forces[:, b, 1 : n + 1], alone.members.forces[:, 0], rtol=0, atol=1e-13
        )
        part = result.hessian[b, 3 : 3 * n + 3, 3 : 3 * n + 3]
        torch.testing.assert_close(part, alone.hessian[0], rtol=0, atol=1e-12)
    for values in (result.forces, result.atomic_energies):
        assert (values[species < 0] == 0).all()
    assert float(result.energies[-1]) == 0
    assert not torch.isnan(result.hessian).any()


def test_forces_and_hessian_by_finite_differences(model: Potential) -> None:
    numbers, x = molecule(6, 5)
    result = anipot.single_point(model, *batched(numbers, x), hessian=True)
    h = 2e-5
    steps = h * torch.eye(18, dtype=torch.float64).view(18, 6, 3)
    both = torch.cat([x + steps, x - steps])
    moved = anipot.single_point(model, numbers.expand(36, -1), both)
    forces = -(moved.energies[:18] - moved.energies[18:]) / (2 * h)
    torch.testing.assert_close(forces.view(6, 3), result.forces[0], rtol=0, atol=2e-6)
    hessian = -(moved.forces[:18] - moved.forces[18:]).view(18, 18) / (2 * h)
    scale = float(result.hessian.abs().max())
    torch.testing.assert_close(hessian, result.hessian[0], rtol=0, atol=1e-5 * scale)
    v = torch.rand(1, 6, 3, dtype=torch.float64)
    product = anipot.hessian_vector_product(model, *batched(numbers, x), v)
    torch.testing.assert_close(product.flatten(), result.hessian[0] @ v.flatten(), rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("pbc", [[1, 1, 1], [1, 1, 0], [0, 0, 1]])
def test_stress_and_periodic_hessian_by_finite_differences(model: Potential, pbc: list[int]) -> None:
    model.requires_grad_(False)
    numbers, x = molecule(6, 6)
    cell = torch.tensor([[4.1, 0.3, 0.0], [-0.9, 4.4, 0.2], [0.5, -0.7, 4.9]], dtype=torch.float64)
    mask = torch.tensor(pbc, dtype=torch.bool)
    result = anipot.single_point(model, *batched(numbers, x), cell, mask, stress=True, hessian=True)
    h = 1e-5
    for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
        energies = []
        for sign in (1, -1):
            strain = torch.eye(3, dtype=torch.float64)
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            energies.append(model(batched(numbers, x @ strain), cell @ strain, mask).energies[0])
        expected = (energies[0] - energies[1]) / (2 * h) / float(torch.linalg.det(cell))
        assert abs(float(result.stress[0, i, j] - expected)) < 1e-7
    h = 2e-5
    steps = h * torch.eye(18, dtype=torch.float64).view(18, 6, 3)
    moved = anipot.single_point(model, numbers.expand(36, -1), torch.cat([x + steps, x - steps]), cell, mask)
    hessian = -(moved.forces[:18] - moved.forces[18:]).view(18, 18) / (2 * h)
    torch.testing.assert_close(hessian, result.hessian[0], rtol=0, atol=1e-5 * float(result.hessian.abs().max()))


def test_a_supercell_and_wrapping_change_nothing(model: Potential) -> None:
    numbers, x = molecule(5, 7)
    cell = 3.9 * torch.eye(3, dtype=torch.float64) + 0.3 * torch.rand(3, 3, dtype=torch.float64)
    pbc = torch.tensor([True, True, True])
    one = anipot.single_point(model, *batched(numbers, x), cell, pbc, stress=True)
    shifts = torch.cartesian_prod(torch.arange(2), torch.arange(1), torch.arange(2)).double()
    many = (x[None] + (shifts @ cell)[:, None]).reshape(-1, 3)
    double = cell * torch.tensor([[2.0], [1.0], [2.0]])
    four = anipot.single_point(model, *batched(numbers.repeat(4), many), double, pbc, stress=True)
    torch.testing.assert_close(four.energies, 4 * one.energies, rtol=0, atol=1e-10)
    torch.testing.assert_close(four.stress, one.stress, rtol=0, atol=1e-11)
    torch.testing.assert_close(four.forces.view(4, 5, 3), one.forces.expand(4, 5, 3), rtol=0, atol=1e-11)
    far = x + torch.randint(-3, 4, (5, 3)).double() @ cell
    left_handed = cell[[1, 0, 2]]
    for where, lattice in [(far, cell), (far, left_handed)]:
        same = anipot.single_point(model, *batched(numbers, where), lattice, pbc, stress=True)
        torch.testing.assert_close(same.energies, one.energies, rtol=0, atol=1e-10)
        torch.testing.assert_close(same.stress, one.stress, rtol=0, atol=1e-11)


def test_separated_molecules_add_up_and_atoms_may_be_alone(model: Potential) -> None:
    (n1, x1), (n2, x2) = molecule(4, 8), molecule(6, 9)
    apart = torch.cat([x1, x2 + 1e4])
    together = anipot.single_point(model, *batched(torch.cat([n1, n2]), apart))
    parts = [anipot.single_point(model, *batched(n, x)) for n, x in ((n1, x1), (n2, x2))]
    torch.testing.assert_close(together.energies, parts[0].energies + parts[1].energies, rtol=0, atol=1e-9)
    alone = anipot.single_point(model, torch.tensor([[8]]), torch.zeros(1, 1, 3, dtype=torch.float64), hessian=True)
    features = model.representation((torch.tensor([[3]]), torch.zeros(1, 1, 3, dtype=torch.float64))).features[0]
    local = hasattr(model.representation, "from_neighborhoods")
    assert local == (not features.any())  # message passing starts from the element, all else from neighbors
    expected = SELF_ENERGIES[3] + model.head.atomic_energies(torch.tensor([3]), features).mean()
    torch.testing.assert_close(alone.energies[0], expected, rtol=1e-14, atol=0)
    assert not alone.forces.any()
    assert not alone.hessian.any()


def test_smooth_at_the_cutoffs(model: Potential) -> None:
    """Two atoms that part at a cutoff, with a third beside one of them, or between them, where it sees both."""
    for cutoff in cutoffs(model.representation):
        for third in (0.0, cutoff / 2):
            x = torch.zeros(2, 3, 3, dtype=torch.float64)
            x[:, 1, 0] = cutoff + torch.tensor([-1e-6, 1e-6], dtype=torch.float64)
            x[:, 2, 0], x[:, 2, 1] = third, 1.1
            result = anipot.single_point(model, torch.tensor([[6, 8, 1]]).expand(2, -1), x)
            slope = float(result.forces.abs().max()) * 2e-6
            assert float(result.energies.diff().abs()) < slope + 1e-12
            assert float(result.forces.diff(dim=0).abs().max()) < 1e-5


def in_blocks(model: Potential, size: int, at_least: int, *args: Any, **ask: bool) -> anipot.SinglePoint:
    """Return ``single_point`` by torch in blocks of about ``size`` bytes, of which there are ``at_least`` so many."""
    blocks: list[object] = []

    def counted(*given: Any) -> Iterator[Any]:
        blocks.extend(original(*given))
        yield from blocks

    original = anipot.derivatives._blocks
    limit = mock.patch.object(Potential, "block_bytes", mock.PropertyMock(return_value=size))
    with anipot.reference_path(), limit, mock.patch("anipot.derivatives._blocks", counted):
        result = anipot.single_point(model, *args, **ask)
    assert len(blocks) >= at_least
    return result


def test_blocks_of_atoms_change_nothing(model: Potential) -> None:
    numbers, x = molecule(40, 10)
    lattice = 9 * torch.eye(3, dtype=torch.float64), torch.tensor([True, True, False])
    ask = {"stress": True, "atomic_energies": True, "members": True}
    whole = in_blocks(model, 2**40, 1, *batched(numbers, x), *lattice, **ask)
    parts = in_blocks(model, 200_000, 3 if model.is_local else 1, *batched(numbers, x), *lattice, **ask)
    for name in ("energies", "forces", "stress", "atomic_energies"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parts.members.forces, whole.members.forces, rtol=0, atol=1e-13)


def test_blocks_of_molecules_change_nothing(model: Potential) -> None:
    numbers, x = anipot.pad([molecule(n, 40 + n) for n in (9, 4, 1, 12, 7)])
    pbc = torch.tensor([[1, 1, 0]] * 3 + [[0, 0, 0]] * 2).bool()
    lattice = 6.5 * torch.eye(3, dtype=torch.float64).expand(5, 3, 3), pbc
    ask = {"atomic_energies": True, "members": True}
    whole = in_blocks(model, 2**40, 1, numbers, x, *lattice, **ask)
    parts = in_blocks(model, 30_000, 3, numbers, x, *lattice, **ask)
    for name in ("energies", "forces", "atomic_energies"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parts.members.forces, whole.members.forces, rtol=0, atol=1e-13)


def test_empty_batches(model: Potential) -> None:
    for shape in ((0, 5), (3, 0), (0, 0)):
        species = torch.empty(shape, dtype=torch.long)
        result = anipot.single_point(model, species, torch.empty(*shape, 3), hessian=True, atomic_energies=True)
        assert result.energies.shape == (shape[0],)
        assert result.forces.shape == (*shape, 3)
        assert result.hessian.shape == (shape[0], 3 * shape[1], 3 * shape[1])
        assert not result.energies.any()


def test_one_can_differentiate_oneself(model: Potential) -> None:
    numbers, x = molecule(7, 11)
    x.requires_grad_()
    cell = (4.5 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    energies = model(batched(numbers, x), cell, torch.tensor([True, True, True])).energies
    gradient, from_cell = torch.autograd.grad(energies.sum(), (x, cell), create_graph=True)
    result = anipot.single_point(model, *batched(numbers, x), cell, torch.tensor([True, True, True]), stress=True)
    torch.testing.assert_close(-gradient, result.forces[0], rtol=0, atol=1e-12)
    virial = x.T @ gradient + cell.T @ from_cell
    torch.testing.assert_close(virial / torch.linalg.det(cell), result.stress[0], rtol=0, atol=1e-12)
    (gradient**2).sum().backward()  # force training
    weights = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(w).all() for w in weights)
    assert any(w.any() for w in weights)
    assert result.forces.requires_grad is False


def test_gradcheck_of_representations() -> None:
    for name in REPRESENTATIONS:
        rep = REPRESENTATIONS[name]().double()
        numbers, x = molecule(4, 12)
        species = anipot.SpeciesConverter(ELEMENTS).convert(numbers)[None]
        mix = torch.randn(rep.num_features, dtype=torch.float64)
        fn = lambda y: (rep((species, y)).features * mix).sum(-1)  # noqa: E731,B023
        assert torch.autograd.gradcheck(fn, x[None].requires_grad_())
        assert torch.autograd.gradgradcheck(fn, x[None].requires_grad_())


def test_float32_networks_on_float64_coordinates(model: Potential) -> None:
    numbers, x = molecule(8, 13)
    exact = anipot.single_point(model, *batched(numbers, x))
    for dtype in (torch.float32, torch.float64):
        rough = anipot.single_point(model.float(), *batched(numbers, x.to(dtype)))
        assert rough.energies.dtype == torch.float64
        assert rough.forces.dtype == dtype
        torch.testing.assert_close(rough.energies, exact.energies, rtol=0, atol=2e-6 * 8)
    torch.testing.assert_close(model.shifter.self_energies, torch.tensor(SELF_ENERGIES, dtype=torch.float64))
    assert all(b.dtype == torch.float64 for b in model.representation.buffers() if b.is_floating_point())
