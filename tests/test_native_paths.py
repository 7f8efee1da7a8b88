"""The kernels of every instruction set against plain torch: systems of all kinds, both precisions, bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import test_errors
import torch
from contracts import (
    INSTRUCTION_SETS,
    NATIVE_PAIRS,
    assert_same,
    by_torch,
    fresh,
    molecule,
    natively,
    needs_kernels,
    potential,
)
from torch import Tensor

import anipot
from anipot.kernels import instruction_set

pytestmark = needs_kernels

NAN = float("nan")
TRICLINIC = torch.tensor([[7.0, 0.3, 0.0], [-1.5, 7.4, 0.2], [0.5, -2.0, 8.0]], dtype=torch.float64)
TINY = torch.tensor([[3.9, 0.2, 0.0], [-1.3, 3.7, 0.3], [0.4, -0.8, 4.2]], dtype=torch.float64)
ALL = {"stress": True, "atomic_energies": True, "members": True}


def one(num_atoms: int, seed: int, cell: Tensor | None = None, pbc: str = "") -> tuple[Any, ...]:
    numbers, x = molecule(num_atoms, seed)
    return numbers[None], x[None], cell, None if cell is None else mask(pbc)


def mask(axes: str) -> Tensor:
    return torch.tensor([axis in axes for axis in "xyz"])


def several(sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Molecules of these sizes with ghosts before, between and behind them, which hold NaN."""
    species, x = anipot.pad([molecule(n, seed) for seed, n in enumerate(sizes)])
    species = torch.nn.functional.pad(species, (1, 2), value=-1)
    x = torch.nn.functional.pad(x, (0, 0, 1, 2))
    species[0, 2] = -1
    x[species < 0] = NAN
    return species, x


def far_out() -> tuple[Any, ...]:
    """Atoms outside of a left-handed cell."""
    species, x, cell, pbc = one(18, 5, TRICLINIC[[1, 0, 2]], "xyz")
    shifts = torch.randint(-3, 4, (18, 3), generator=torch.Generator().manual_seed(0)).double()
    return species, x + shifts @ cell, cell, pbc


def vacuum(cell: Tensor, axes: str, value: float) -> Tensor:
    cell = cell.clone()
    cell[~mask(axes)] = value
    return cell


CELLS = torch.stack([TRICLINIC, TINY, 9 * torch.eye(3, dtype=torch.float64), TINY[[2, 1, 0]]])
#: Species, coordinates, cell, pbc; the stress is asked for where there is one.
SYSTEMS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "molecule": lambda: one(14, 1),
    "one atom": lambda: one(1, 2),
    "nobody": lambda: (torch.full((2, 3), -1), torch.full((2, 3, 3), NAN, dtype=torch.float64), None, None),
    "batch": lambda: (*several([5, 11, 0, 1, 2]), None, None),
    "orthorhombic": lambda: one(30, 3, torch.diag(torch.tensor([7.5, 8.0, 6.5]).double()), "xyz"),
    "triclinic": lambda: one(30, 4, TRICLINIC, "xyz"),
    "far out": far_out,
    "tiny": lambda: one(3, 6, TINY, "xyz"),
    "slab": lambda: one(12, 7, vacuum(TRICLINIC, "xy", 0.0), "xy"),
    "slab of NaN": lambda: one(12, 7, vacuum(TRICLINIC, "yz", NAN), "yz"),
    "tall slab": lambda: one(12, 7, TINY * torch.tensor([[1.0], [5.0], [1.0]]), "xz"),
    "wire": lambda: one(5, 8, TINY, "y"),
    "no axis": lambda: one(5, 8, TINY, ""),
    "one cell for all": lambda: (*several([4, 9, 1]), TRICLINIC, mask("xyz")),
    "own cells": lambda: (*several([6, 3, 12, 2]), CELLS, mask("xyz")),
    "own cells and axes": lambda: (*several([6, 3, 12, 2]), CELLS, torch.stack([*map(mask, ("xyz", "xz", "", "y"))])),
}
STRESS = {"orthorhombic", "triclinic", "far out", "tiny", "tall slab", "wire", "one cell for all", "own cells"}


def ask(name: str) -> dict[str, bool]:
    return ALL | {"stress": name in STRESS}


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_set(request.param):
        yield request.param


def system(name: str, dtype: torch.dtype) -> tuple[Any, ...]:
    species, x, cell, pbc = SYSTEMS[name]()
    return species, x.to(dtype), None if cell is None else cell.to(dtype), pbc


@cache
def expected(pair: tuple[str, str], name: str, rounded: bool) -> anipot.SinglePoint:
    """Float64 networks on coordinates that are rounded to float32 or not."""
    species, x, cell, pbc = system(name, torch.float32 if rounded else torch.float64)
    return by_torch(potential(*pair), species, x.double(), None if cell is None else cell.double(), pbc, **ask(name))


@pytest.mark.parametrize("pair", NATIVE_PAIRS, ids=["-".join(pair) for pair in NATIVE_PAIRS])
def test_every_system_in_both_precisions(pair: tuple[str, str], isa: str) -> None:
    double = potential(*pair)
    for weights in (torch.float64, torch.float32):
        model = fresh(double.to(weights))
        for name in SYSTEMS:
            for coordinates in (torch.float64, torch.float32):
                result = natively(model, *system(name, coordinates), **ask(name))
                assert result.energies.dtype == result.atomic_energies.dtype == torch.float64
                assert result.forces.dtype == coordinates
                rounded = torch.float32 in (weights, coordinates)
                truth = expected(pair, name, coordinates == torch.float32)
                try:
                    assert_same(result, truth, torch.float32 if rounded else torch.float64)
                except AssertionError as error:
                    raise AssertionError(f"{name}, {weights} networks, {coordinates}: {error}") from None


def test_what_is_not_asked_for_changes_nothing(isa: str) -> None:
    """Energies, forces and stress are one calculation each, whatever else is asked for in the same call."""
    model = potential("aev_user", "ensemble")
    for name in ("batch", "own cells"):
        args = system(name, torch.float64)
        whole = natively(model, *args, **(ask(name) | {"members": False}))
        energies = natively(model, *args, forces=False)
        assert energies.forces is energies.stress is energies.atomic_energies is energies.members is None
        assert torch.equal(energies.energies, whole.energies)
        assert torch.equal(natively(model, *args).forces, whole.forces)
        if name in STRESS:
            stress = natively(model, *args, forces=False, stress=True)
            assert stress.forces is None
            assert torch.equal(stress.stress, whole.stress)
    ghosts = args[0] < 0
    assert (whole.forces[ghosts] == 0).all()
    assert (whole.atomic_energies[ghosts] == 0).all()


def test_indices_an_intercept_and_a_sequential(isa: str) -> None:
    """Models that are not a Potential of atomic numbers with plain self energies."""
    model = potential("aev_1x", "ensemble")
    species, x, cell, pbc = system("own cells", torch.float64)
    indices = model.converter.convert(species)
    plain = natively(model, species, x, cell, pbc, **ALL)
    chain = torch.nn.Sequential(model.representation, model.head, model.shifter)
    assert_same(natively(chain, indices, x, cell, pbc, **ALL), plain)
    shifter = anipot.EnergyShifter([*model.shifter.self_energies, 12.5], fit_intercept=True)
    parts = (model.elements, model.representation, model.head, shifter)
    shifted = natively(anipot.Potential(*parts, periodic_table_index=False), indices, x, cell, pbc, **ALL)
    torch.testing.assert_close(shifted.energies, plain.energies + 12.5, rtol=1e-15, atol=0)
    assert torch.equal(shifted.atomic_energies, plain.atomic_energies)
    nobody = natively(anipot.Potential(*parts), *system("nobody", torch.float64))
    assert not nobody.energies.any()


def test_memory_in_any_order(isa: str) -> None:
    """Views, transposed, expanded and misaligned tensors, and such that a graph or inference mode has made."""
    model = potential("aev_1x", "ani_celu")
    species, x, cell, pbc = system("own cells", torch.float64)
    truth = natively(model, species, x, cell, pbc, **ALL)
    odd = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    with torch.inference_mode():
        inference = x.clone()
    fortran = cell.mT.contiguous().mT
    for other in (x.transpose(0, 2).contiguous().transpose(0, 2), odd, x.clone().requires_grad_(), inference):
        assert_same(natively(model, species.mT.contiguous().mT, other, fortran, pbc.expand(4, 3), **ALL), truth)


@pytest.mark.parametrize("case", test_errors.CASES)
def test_bad_input_is_refused_in_the_same_words(case: str) -> None:
    model = potential("aev_1x", "ensemble")
    (species, x), options, error, _ = test_errors.CASES[case]
    good = natively(model, test_errors.S, test_errors.X)
    said = []
    for compute in (by_torch, anipot.single_point, anipot.single_point):
        with pytest.raises(error) as caught:
            compute(model, species, x, **options)
        said.append((caught.type, str(caught.value)))
    assert said[0] == said[1] == said[2]
    assert torch.equal(natively(model, test_errors.S, test_errors.X).forces, good.forces)


def test_a_missing_stress_is_refused_in_the_same_words() -> None:
    model = potential("aev_1x", "ensemble")
    for name in ("molecule", "no axis", "own cells and axes", "slab"):
        said = []
        for compute in (by_torch, anipot.single_point):
            with pytest.raises(ValueError, match="stress was asked for") as caught:
                compute(model, *system(name, torch.float64), stress=True)
            said.append(str(caught.value))
        assert said[0] == said[1], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("representation", ["aev_1x", "aev_2x", "aev_user"])
def test_a_call_that_fails_leaves_nothing_behind(representation: str, dtype: torch.dtype, isa: str) -> None:
    """Two atoms on one spot, and NaN weights, fill the working memory with NaN; the next result is right."""
    model = potential(representation, "ensemble").to(dtype)
    systems = [molecule(n, 3) for n in (9, 12, 23, 40)]
    good = [natively(model, numbers[None], x[None]) for numbers, x in systems]
    weight = model.head[1][0].linears[0].weight
    kept = weight.detach().clone()
    for numbers, x in systems:
        same = x.clone()
        same[1] = same[0]
        with pytest.raises(ValueError, match="atoms 0 and 1 stand on one spot"):
            anipot.single_point(model, numbers[None], same[None])
        weight.data.fill_(NAN)
        anipot.single_point(model, numbers[None], x[None])
        weight.data.copy_(kept)
        for (others, y), truth in zip(systems, good, strict=True):
            result = natively(model, others[None], y[None])
            for name in ("energies", "forces"):
                torch.testing.assert_close(getattr(result, name), getattr(truth, name), rtol=0, atol=0)
