"""Energies, forces and stress by the CUDA kernels, compiled for the host, against plain torch."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from cuda_on_host import cuda_on_host, needs_compiler
from test_cuda_search import batch
from torch import Tensor

from anipot.kernels.cuda import results as cuda
from anipot.kernels.cuda.composition import Composition
from anipot.kernels.cuda.results import Results
from anipot.kernels.cuda.search import OVERFLOW, Search

pytestmark = needs_compiler

MEMBERS = 3
SELF_ENERGIES = torch.tensor([-0.5, -37.8, -54.6, -75.1], dtype=torch.float64)
NAMES = ("energies", "atomic_energies", "forces", "stress")


class Case(NamedTuple):
    """Lists of a batch, and what the networks and the AEVs would hand over."""

    search: Search
    row_energies: Tensor
    row_of: Tensor
    gradients: Tensor
    num_slots: tuple[int, int]


def case(dtype: torch.dtype, outputs: int) -> Case:
    """Return a batch of ten molecules; the gradients behind the last neighbor are NaN, as are rows of no atom."""
    x, real, cell, pbc = batch(9)
    species = torch.where(real, torch.arange(real.numel()).view(real.shape) % 4, -1)
    search = Search(Composition.of(species), 5.0, capacity=90, dtype=dtype)
    search.launch(x, cell, pbc)
    assert 40 < int(search.status[0]) < 90
    search.volume.clamp_(min=0.5)  # some cells have none, and no stress
    random = torch.Generator().manual_seed(3)
    n, capacity = search.neighbor.shape
    row_of = torch.randperm(n + 5, generator=random)[:n]
    energies = torch.full((MEMBERS, n + 5), float("nan"), dtype=torch.float64)
    energies[:, row_of] = torch.randn(MEMBERS, n, generator=random, dtype=torch.float64)
    gradients = torch.randn(outputs, n, capacity, 3, generator=random, dtype=torch.float64).to(dtype)
    gradients[:, torch.arange(capacity) >= search.count[:, None]] = float("nan")
    return Case(search, energies, row_of.to(torch.int32), gradients, real.shape)


def expected(case: Case, each: bool, intercept: float) -> dict[str, Tensor]:
    search, atoms = case.search, case.search.atoms
    energies = case.row_energies[:, case.row_of.long()]
    energies = (energies if each else energies.mean(0, keepdim=True)) + SELF_ENERGIES[atoms.kind.long()]  # (O, n)
    outputs, num_molecules = len(energies), atoms.num_molecules
    slot, molecule = atoms.slot.long(), atoms.molecule.long()
    there = torch.arange(search.neighbor.shape[1]) < search.count[:, None]
    center, neighbor = there.nonzero()[:, 0], search.neighbor[there].long()
    g, v = case.gradients[:, there].double(), search.vectors[there].double()
    forces = torch.zeros(outputs, len(slot), 3, dtype=torch.float64)
    forces.index_add_(1, center, g).index_add_(1, neighbor, g, alpha=-1)
    virial = torch.zeros(outputs, num_molecules, 3, 3, dtype=torch.float64)
    virial.index_add_(1, molecule[center], v[None, :, :, None] * g[:, :, None, :])
    stress = (virial + virial.mT) / 2 / search.volume[:, None, None]
    total = torch.zeros(outputs, num_molecules, dtype=torch.float64).index_add(1, molecule, energies)
    total += intercept * (torch.tensor(atoms.sizes) > 0)
    return {
        "energies": total,
        "atomic_energies": torch.zeros(outputs, atoms.num_slots).double().index_copy(1, slot, energies),
        "forces": torch.zeros(outputs, atoms.num_slots, 3).double().index_copy(1, slot, forces),
        "stress": stress,
    }


@pytest.mark.parametrize("chunk", [1024, 5])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(("dtype", "wide"), [(torch.float32, False), (torch.float32, True), (torch.float64, True)])
def test_results_equal_plain_sums(
    monkeypatch: pytest.MonkeyPatch, chunk: int, each: bool, dtype: torch.dtype, wide: bool
) -> None:
    """Whole molecules and chunks of five atoms; the same bits at every repetition and for every order of threads."""
    monkeypatch.setattr(cuda, "CHUNK_ATOMS", chunk)
    out = torch.float64 if wide else torch.float32
    first: dict[str, Tensor] = {}
    for seed in range(3):
        with cuda_on_host(seed):
            given = case(dtype, MEMBERS if each else 1)
            results = Results(
                given.search,
                SELF_ENERGIES,
                members=MEMBERS,
                each=each,
                intercept=torch.tensor([0.7]),
                **dict.fromkeys(NAMES[1:], True),
                dtype=out,
            )
            for _ in range(2):
                for name in ("partial", "virial"):
                    results._kept[name].fill_(float("nan"))
                results.launch(given.row_energies, given.row_of, given.gradients)
        found = {name: getattr(results, name) for name in NAMES}
        first = first or found
        assert all(torch.equal(found[name], first[name]) for name in NAMES)
    assert given.search.status[OVERFLOW] == 0
    for name, value in expected(given, each, float(torch.tensor(0.7))).items():
        assert found[name].dtype == (out if name in ("forces", "stress") else torch.float64)
        rounding = (
            {"rtol": 1e-12, "atol": 1e-11} if found[name].dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
        )
        torch.testing.assert_close(found[name].double(), value, **rounding)
    ghosts = torch.ones(given.search.atoms.num_slots, dtype=torch.bool)
    ghosts[given.search.atoms.slot.long()] = False
    assert not found["forces"][:, ghosts].any()
    assert not found["atomic_energies"][:, ghosts].any()


@pytest.mark.parametrize("asked", [(), ("forces",), ("stress",), ("atomic_energies",)])
def test_only_what_is_asked_for(asked: tuple[str, ...]) -> None:
    with cuda_on_host():
        given = case(torch.float64, 1)
        own = None
        if "forces" in asked:
            shapes = {"energies": (1, given.num_slots[0]), "forces": (1, *given.num_slots, 3)}
            own = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        asking = dict.fromkeys(asked, True)
        results = Results(
            given.search,
            SELF_ENERGIES,
            members=MEMBERS,
            dtype=torch.float64,
            outputs=own,
            **{"forces": False} | asking,
        )
        results.launch(given.row_energies, given.row_of, given.gradients if {"forces", "stress"} & set(asked) else None)
    for name, value in expected(given, False, 0.0).items():
        found = getattr(results, name) if own is None else own.get(name)
        if name == "energies" or name in asked:
            torch.testing.assert_close(found.view(value.shape), value, rtol=1e-12, atol=1e-11)
        else:
            assert found is None


def test_forces_that_are_none_are_told() -> None:
    """Of NaN or too large; nothing else is, and the neighbors that there is no room for are left out."""
    for bad in (float("nan"), float("inf"), 1e9):
        with cuda_on_host():
            given = case(torch.float32, 1)
            results = Results(given.search, SELF_ENERGIES)
            given.gradients[0, int(given.search.count.argmax()), 3, 1] = bad
            results.launch(given.row_energies[:1], given.row_of, given.gradients)
        assert given.search.status[OVERFLOW] == 1


def test_what_is_missing_is_named() -> None:
    with cuda_on_host():
        search = Search(Composition.of(torch.zeros(1, 2, dtype=torch.long)), 3.0)
        with pytest.raises(ValueError, match="give it a capacity"):
            Results(search, SELF_ENERGIES)
        given = case(torch.float32, 1)
        with pytest.raises(ValueError, match="need the gradients"):
            Results(given.search, SELF_ENERGIES).launch(given.row_energies, given.row_of)
