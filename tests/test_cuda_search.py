"""The CUDA search, compiled for the host, against ASE's and the search by trying everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from cuda_on_host import cuda_on_host, needs_compiler
from test_neighbors import SEEDS, as_set, ase_set, random_atoms, tensors
from torch import Tensor

from anipot.kernels.cuda import search as cuda
from anipot.kernels.cuda.composition import Composition
from anipot.kernels.cuda.errors import KernelError
from anipot.kernels.cuda.search import Search
from anipot.kernels.pairs import find_pairs
from anipot.neighbors import Pairs, brute_force, displacements

pytestmark = needs_compiler


@pytest.fixture(params=["direct", "bins"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Search small molecules in one launch, or like large ones."""
    if request.param == "bins":
        monkeypatch.setattr(cuda, "DIRECT_ATOMS", 0)
        monkeypatch.setattr(cuda, "ATOMS_PER_BIN", 1)
    return request.param


def pairs_of(x: Tensor, real: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float, seed: int = 0) -> Pairs:
    with cuda_on_host(seed):
        found = find_pairs(real, x, cell, pbc, cutoff)
    assert found is not None, "the search refused"
    return Pairs(*found)


def test_pairs_equal_those_of_ase(path: str) -> None:
    for seed in SEEDS:
        atoms = random_atoms(seed)
        cutoff = [1.9, 3.7, 5.2][seed % 3]
        assert as_set(pairs_of(*tensors(atoms), cutoff)) == ase_set(atoms, cutoff), f"seed {seed}"


def same(found: Pairs, expected: Pairs) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_many_atoms_in_the_order_of_the_plain_search(path: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = np.array([[15.0, 0, 0], [-7, 13, 0], [4, 6, 18]]) + rng.normal(size=(3, 3))
    pbc = [(0, 0, 0), (1, 1, 1), (1, 0, 1), (0, 1, 0)][seed]
    atoms = Atoms("H300", rng.normal(scale=9, size=(300, 3)), cell=cell, pbc=pbc)
    assert same(pairs_of(*tensors(atoms), 3.0, seed), brute_force(*tensors(atoms), 3.0))


def batch(size: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Molecules with cells and axes of their own, with ghosts that hold NaN, and one that is nothing but ghosts."""
    systems = [random_atoms(seed) for seed in range(size)]
    width = max(map(len, systems)) + 2
    x = torch.full((len(systems) + 1, width, 3), float("nan"), dtype=torch.float64)
    real = torch.zeros(x.shape[:2], dtype=torch.bool)
    for b, atoms in enumerate(systems):
        x[b, 1 : len(atoms) + 1], real[b, 1 : len(atoms) + 1] = torch.tensor(atoms.positions), True
    cell = torch.tensor(np.array([atoms.cell.array for atoms in [*systems, systems[1]]]))
    pbc = torch.tensor(np.array([atoms.pbc for atoms in [*systems, systems[1]]]))
    return x, real, cell, pbc


def test_a_batch_finds_what_each_molecule_has(path: str) -> None:
    x, real, cell, pbc = batch()
    expected = brute_force(x, real, cell, pbc, 4.0)
    for seed in range(3):
        assert same(pairs_of(x, real, cell, pbc, 4.0, seed), expected)
    single = x.float(), real, cell.float(), pbc
    assert same(pairs_of(*single, 4.0), brute_force(*single, 4.0))
    free, plain = pairs_of(x, real, None, None, 4.0), brute_force(x, real, None, None, 4.0)
    assert free.shift is None
    assert same(free[:2], plain[:2])


def test_atoms_on_faces_and_far_apart(path: str) -> None:
    """Fractional coordinates of exactly 0 and 1, vectors of about the cutoff, and 1e9 Å of nothing in between."""
    cell = 4.0 * torch.eye(3, dtype=torch.float64)[None]
    x = torch.tensor([[[0.0, 0, 0], [4.0, 2.0, 0], [-4.0, 4.0, 8.0], [2.0, -1e-17, 3.9999999999999996]]]).double()
    real, pbc = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    for cutoff in (1.99, 2.0000001, 3.99, 4.0000001, 7.0, 12.5):
        assert same(pairs_of(x, real, cell, pbc, cutoff), brute_force(x, real, cell, pbc, cutoff))
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1e9, 0, 0], [1e9 + 1, 0, 0]]], dtype=torch.float64)
    pairs = pairs_of(x, real, None, None, 5.0)
    assert as_set(pairs) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (2, 3, 0, 0, 0), (3, 2, 0, 0, 0)}
    x[0, 2:, 0] -= 1e9 - 1e7
    far = displacements(pairs_of(x, real, cell, pbc, 3.0), x, cell, pbc)
    assert 1 <= float(far.norm(dim=-1).max()) < 3.0


def test_no_atoms_at_all(path: str) -> None:
    for shape in [(0, 3), (2, 0), (2, 3)]:
        pairs = pairs_of(torch.zeros(*shape, 3), torch.zeros(shape, dtype=torch.bool), None, None, 4.0)
        assert len(pairs.center) == 0


def lists(search: Search) -> tuple[Tensor, ...]:
    found = search.count, search.neighbor, search.neighbor_kind, search.vectors, search.shift
    return tuple(t for t in found if t is not None)


def poison(search: Search) -> None:
    for t in lists(search):
        t.fill_(-77)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_for_the_aevs(path: str, dtype: torch.dtype) -> None:
    """Elements, vectors and shifts, the same bits however threads take turns, in buffers that are used again."""
    x, real, cell, pbc = batch()
    species = torch.where(real, torch.arange(real.numel()).view(real.shape) % 4, -1)
    expected = brute_force(x, real, cell, pbc, 4.0)
    v = displacements(expected, x, cell, pbc)
    most = int(torch.bincount(expected.center).max())
    first: tuple[Tensor, ...] | None = None
    for seed in range(3):
        with cuda_on_host(seed):
            search = Search(Composition.of(species), 4.0, capacity=most + 2, dtype=dtype, shift=True)
            assert search.is_direct == (path == "direct")
            for _ in range(2):
                poison(search)
                search.launch(x, cell, pbc)
        if first is None:
            first = lists(search)
        assert all(torch.equal(ours, others) for ours, others in zip(lists(search), first, strict=True))
        assert search.status.tolist() == [most, 0, 0, 0]
    count, neighbor, kind, vectors, shift = lists(search)
    slot = search.atoms.slot.long()
    written = torch.arange(most + 2) < count[:, None]
    for t in (neighbor, kind, vectors, shift):
        assert bool((t[~written] == -77).all())
    center, j = slot[:, None].expand_as(neighbor)[written], slot[neighbor[written].long()]
    found = {
        (i, k, *s): at
        for at, (i, k, s) in enumerate(zip(*map(Tensor.tolist, (center, j, shift[written])), strict=True))
    }
    order = [found[i, k, *s] for i, k, s in zip(*map(Tensor.tolist, expected), strict=True)]
    assert len(found) == len(order) == int(count.sum())
    assert torch.equal(kind[written][order].long(), species.reshape(-1)[expected.neighbor])
    torch.testing.assert_close(
        vectors[written][order].double(), v, rtol=0, atol=1e-13 if dtype == torch.float64 else 3e-7
    )
    torch.testing.assert_close(search.volume, torch.linalg.det(cell).abs(), rtol=1e-13, atol=1e-13)


def test_no_room_for_all_neighbors(path: str) -> None:
    """The largest count is told, and nothing written where there is no room."""
    x, real, cell, pbc = batch()
    with cuda_on_host():
        search = Search(Composition.of(real.long() - 1), 4.0, capacity=7, shift=True)
        whole = Search(search.atoms, 4.0, capacity=600, shift=True)
        guarded = []
        for name in ("neighbor", "neighbor_kind", "vectors", "shift"):
            buffer = getattr(search, name)
            with_guards = torch.full((buffer.numel() + 128,), -77, dtype=buffer.dtype)
            inner = with_guards[64:-64].view(buffer.shape)
            setattr(search._arguments, name, inner.data_ptr())
            setattr(search, name, inner)
            guarded.append(with_guards)
        for one in (search, whole):
            one.launch(x, cell, pbc)
    assert 7 < int(search.status[0]) == int(whole.status[0]) <= 600
    assert torch.equal(search.count, whole.count.clamp(max=7))
    for t in guarded:
        assert bool((torch.cat([t[:64], t[-64:]]) == -77).all())
    for ours, theirs in zip(lists(search)[1:], lists(whole)[1:], strict=True):
        written = torch.arange(7) < search.count[:, None]
        assert torch.equal(ours[written], theirs[:, :7][written])


def status_of(x: Tensor, cell: Tensor | None = None, pbc: Tensor | None = None, cutoff: float = 4.0) -> list[int]:
    with cuda_on_host():
        search = Search(Composition.of(torch.zeros(x.shape[:2], dtype=torch.long)), cutoff, capacity=20)
        search.launch(x, cell, pbc)
    return search.status.tolist()[1:]


def test_what_is_wrong_is_told(path: str) -> None:
    x = 3.0 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    cell, pbc = 9.0 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1), torch.tensor([[True] * 3, [True, False, True]])
    assert status_of(x, cell, pbc) == [0, 0, 0]
    for bad in (float("nan"), float("inf"), -1e300 * 1e10):
        y, lattice = x.clone(), cell.clone()
        y[1, 1, 2] = lattice[1, 2, 0] = bad
        assert status_of(y)[1] == status_of(y, cell, pbc)[1] == status_of(x, lattice, pbc)[1] == 1
        lattice[1, 2, 0], lattice[1, 1, 0] = 0.0, bad  # the axis that does not repeat
        assert status_of(x, lattice, pbc) == [0, 0, 0]
    y = x.clone()
    y[1, 2] = y[1, 0]
    assert status_of(y) == status_of(y, cell, pbc) == [1, 0, 0]
    y[1, 2] = y[1, 0] + cell[1, 2] - 3 * cell[1, 0] + 5e-7
    assert status_of(y, cell, pbc) == [1, 0, 0]
    y[1, 2] += 2e-6
    assert status_of(y, cell, pbc) == [0, 0, 0]
    flat = cell.clone()
    flat[0, 2] = flat[0, 0] + flat[0, 1] + 1e-9
    assert status_of(x, flat, pbc)[1] == 2
    assert status_of(x, cell * 1e-4, pbc, 4.0)[2] == 1
    y[0, 0, 0] = 1e12
    assert status_of(y, cell, pbc)[2] == 1
    assert status_of(y) == [0, 0, 0]


def test_the_search_in_torch_tells_what_is_wrong(path: str) -> None:
    x = torch.full((1, 2, 3), float("nan"))
    with cuda_on_host():
        assert find_pairs(torch.ones(1, 2, dtype=torch.bool), x, None, None, 4.0) is None
    with pytest.raises(ValueError, match="positive and finite, got inf"):
        Search(Composition.of(torch.zeros(1, 2)), float("inf"))
    with cuda_on_host(), pytest.raises(TypeError, match=r"contiguous and torch\.float64"):
        Search(Composition.of(torch.zeros(1, 2, dtype=torch.long)), 4.0).launch(x)


def test_molecules_that_need_bins_and_more_bins_than_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice that is made without tests meddling with it; then bins for a sparse gas, far more than atoms."""
    rng = np.random.default_rng(3)
    x = torch.tensor(rng.uniform(0, 22, (2, cuda.DIRECT_ATOMS + 8, 3)))
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    real[0, 40:] = False
    with cuda_on_host():
        search = Search(Composition.of(real.long() - 1), 2.5)
        assert not search.is_direct
    expected = brute_force(x, real, None, None, 2.5)
    assert same(pairs_of(x, real, None, None, 2.5)[:2], expected[:2])
    monkeypatch.setattr(cuda, "DIRECT_ATOMS", 0)
    monkeypatch.setattr(cuda, "ATOMS_PER_BIN", 1 / 64)
    x, real = 3 * x[:, :150], real[:, :150]
    expected = brute_force(x, real, None, None, 4.0)
    for seed in range(3):
        with cuda_on_host(seed):
            search = Search(Composition.of(real.long() - 1), 4.0)
            search.launch(x)
        assert int((search._kept["bin_start"].diff() > 0).sum()) > 100
        assert len(search._kept["bin_start"]) > 8192 + 1
        assert same(pairs_of(x, real, None, None, 4.0, seed)[:2], expected[:2])


def test_positions_that_single_precision_rounds_by_much(path: str) -> None:
    """Two drops 1e5 Å apart: a float32 knows where atoms are to 0.004 Å, and vectors must be as good as ever."""
    rng = np.random.default_rng(8)
    x = torch.tensor(rng.uniform(0, 9, (2, 120, 3)))
    x[0, 60:] += 1e5
    x[1, 20:] *= -2
    real = torch.ones(2, 120, dtype=torch.bool)
    expected = brute_force(x, real, None, None, 4.0)
    squares = displacements(expected, x, None, None).square().sum(-1)
    assert int((squares > 3.99**2).sum()) > 10
    assert same(pairs_of(x, real, None, None, 4.0)[:2], expected[:2])
    first: Tensor | None = None
    for seed in range(3):
        with cuda_on_host(seed):
            search = Search(Composition.of(real.long() - 1), 4.0, capacity=80)
            assert search.neighbor is not None
            search.neighbor.fill_(-77)
            search.launch(x)
        first = search.neighbor if first is None else first
        assert torch.equal(search.neighbor, first)


def test_what_the_kernels_cannot_do_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, real = torch.rand(1, 3, 3), torch.ones(1, 3, dtype=torch.bool)
    with cuda_on_host():
        assert find_pairs(real, x, None, None, 0.0) is None

        def fails(*_: object) -> None:
            raise KernelError("no compiler")

        monkeypatch.setattr(cuda, "program", fails)
        assert find_pairs(real, x, None, None, 3.0) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("num_atoms", [58, 512, 513, 20000])
def test_on_a_gpu(num_atoms: int, periodic: bool) -> None:
    """Pairs as on the CPU; lists of the same bits at every launch, and as part of a graph."""
    rng = np.random.default_rng(num_atoms)
    length = (num_atoms / 0.1) ** (1 / 3)
    cell = length * torch.tensor([[[1.0, 0, 0], [0.2, 1, 0], [-0.1, 0.1, 1]]], dtype=torch.float64)
    x = torch.tensor(rng.uniform(-length, 2 * length, (1, num_atoms, 3)))
    real, pbc = torch.ones(1, num_atoms, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    system = (x, real, cell, pbc) if periodic else (x, real, None, None)
    there = [None if t is None else t.cuda() for t in system]
    found = find_pairs(there[1], there[0], *there[2:], 5.2)
    assert found is not None
    expected = find_pairs(real, x, *system[2:], 5.2) or brute_force(*system, 5.2)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours.cpu(), theirs)
    search = Search(Composition.of(there[1].long() - 1), 5.2, capacity=128, shift=True)
    first: tuple[Tensor, ...] = ()
    for _ in range(3):
        poison(search)
        search.launch(there[0], *there[2:])
        first = first or tuple(t.clone() for t in lists(search))
        assert all(torch.equal(ours, others) for ours, others in zip(lists(search), first, strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        search.launch(there[0], *there[2:])
    poison(search)
    graph.replay()
    assert all(torch.equal(ours, others) for ours, others in zip(lists(search), first, strict=True))
    assert search.status[1:].tolist() == [0] * 3
