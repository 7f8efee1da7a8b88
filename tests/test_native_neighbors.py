"""The native search against ASE's, and the list that a calculator keeps between calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from contracts import INSTRUCTION_SETS, molecule, needs_kernels, potential
from test_neighbors import SEEDS, as_set, ase_set, random_atoms, tensors
from torch import Tensor

import anipot
from anipot.interfaces.ase import Calculator
from anipot.kernels import instruction_set
from anipot.kernels.pairs import find_pairs
from anipot.neighbors import Pairs, brute_force, displacements

pytestmark = needs_kernels


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_set(request.param):
        yield request.param


def search(x: Tensor, real: Tensor, cell: Tensor | None, pbc: Tensor | None, cutoff: float) -> Pairs:
    found = find_pairs(real, x, cell, pbc, cutoff)
    assert found is not None, "the native search refused"
    return Pairs(*found)


def test_pairs_equal_those_of_ase(isa: str) -> None:
    for seed in SEEDS:
        atoms = random_atoms(seed)
        cutoff = [1.9, 3.7, 5.2][seed % 3]
        assert as_set(search(*tensors(atoms), cutoff)) == ase_set(atoms, cutoff), f"seed {seed}"


@pytest.mark.parametrize("threads", [1, 3])
def test_many_atoms_need_bins(threads: int, isa: str) -> None:
    """Large systems of all kinds, with more bins than one along each axis, in the order of the plain search."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed, pbc in enumerate([(0, 0, 0), (1, 1, 1), (1, 0, 1), (0, 1, 0)]):
            rng = np.random.default_rng(seed)
            cell = np.array([[15.0, 0, 0], [-7, 13, 0], [4, 6, 18]]) + rng.normal(size=(3, 3))
            atoms = Atoms("H400", rng.normal(scale=9, size=(400, 3)), cell=cell, pbc=pbc)
            pairs = search(*tensors(atoms), 3.0)
            assert as_set(pairs) == ase_set(atoms, 3.0)
            plain = brute_force(*tensors(atoms), 3.0)
            for ours, theirs in zip(pairs, plain, strict=True):
                assert torch.equal(ours, theirs)
    finally:
        torch.set_num_threads(before)


def test_a_batch_finds_what_each_molecule_has(isa: str) -> None:
    """Cells and axes of their own, ghosts that hold NaN, float32 too; molecules without an atom."""
    systems = [random_atoms(seed) for seed in range(48)]
    size = max(map(len, systems)) + 2
    x = torch.full((len(systems) + 1, size, 3), float("nan"), dtype=torch.float64)
    real = torch.zeros(x.shape[:2], dtype=torch.bool)
    for b, atoms in enumerate(systems):
        x[b, 1 : len(atoms) + 1], real[b, 1 : len(atoms) + 1] = torch.tensor(atoms.positions), True
    cell = torch.tensor(np.array([atoms.cell.array for atoms in [*systems, systems[1]]]))
    pbc = torch.tensor(np.array([atoms.pbc for atoms in [*systems, systems[1]]]))
    pairs = search(x, real, cell, pbc, 4.0)
    for ours, theirs in zip(pairs, brute_force(x, real, cell, pbc, 4.0), strict=True):
        assert torch.equal(ours, theirs)
    for b, atoms in enumerate(systems):
        mine = pairs.center // size == b
        part = Pairs(pairs.center[mine], pairs.neighbor[mine], pairs.shift[mine])
        assert as_set(part, b * size + 1) == ase_set(atoms, 4.0), f"molecule {b}"
    single = x.float(), real, cell.float(), pbc
    for ours, theirs in zip(search(*single, 4.0), brute_force(*single, 4.0), strict=True):
        assert torch.equal(ours, theirs)


def test_atoms_on_faces_and_far_apart(isa: str) -> None:
    """Fractional coordinates of exactly 0 and 1, vectors of about the cutoff, and 1e9 Å of nothing in between."""
    cell = 4.0 * torch.eye(3, dtype=torch.float64)[None]
    x = torch.tensor([[[0.0, 0, 0], [4.0, 2.0, 0], [-4.0, 4.0, 8.0], [2.0, -1e-17, 3.9999999999999996]]]).double()
    real, pbc = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    for cutoff in (1.99, 2.0000001, 3.99, 4.0000001, 7.0, 12.5):
        pairs, plain = search(x, real, cell, pbc, cutoff), brute_force(x, real, cell, pbc, cutoff)
        for ours, theirs in zip(pairs, plain, strict=True):
            assert torch.equal(ours, theirs)
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1e9, 0, 0], [1e9 + 1, 0, 0]]], dtype=torch.float64)
    pairs = search(x, real, None, None, 5.0)
    assert pairs.shift is None
    assert as_set(pairs) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (2, 3, 0, 0, 0), (3, 2, 0, 0, 0)}
    x[0, 2:, 0] -= 1e9 - 1e7
    far = displacements(search(x, real, cell, pbc, 3.0), x, cell, pbc)
    assert 1 <= float(far.norm(dim=-1).max()) < 3.0


MODEL = "aev_user", "ensemble"  # cutoffs of 4.6 and 3.1 Å


def water_like(num_atoms: int = 24, cell: float = 8.0) -> Atoms:
    numbers, x = molecule(num_atoms, 2, spacing=2.1)
    lattice = cell * np.array([[1.0, 0, 0], [0.2, 1.1, 0], [-0.1, 0.3, 0.9]])
    return Atoms(numbers.numpy(), x.numpy(), cell=lattice, pbc=True)


def shake(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    atoms.positions += rng.normal(scale=0.01, size=(len(atoms), 3))


def one_fast(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    shake(atoms, rng, step)
    atoms.positions[3] += [0.06, 0.13, 0.02]


def strain(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    shake(atoms, rng, step)
    deformation = np.eye(3) + rng.normal(scale=0.004, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)


def cell_alone(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    """Atoms stay where they are while their images come closer."""
    atoms.set_cell(atoms.cell.array * (1 - 0.004 * rng.uniform(size=(3, 1))))


def wrap(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    atoms.positions += [0.05, 0.0, 0.03]
    if step % 10 == 5:
        atoms.wrap()


def turn(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    shake(atoms, rng, step)
    atoms.rotate(1.0, "z", rotate_cell=True)


def axes(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    shake(atoms, rng, step)
    if step % 4 == 3:
        atoms.pbc = [(1, 1, 1), (1, 0, 1), (0, 0, 0), (0, 1, 0)][step // 4 % 4]


def free_axis(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    """The row of an axis that does not repeat may be anything."""
    shake(atoms, rng, step)
    atoms.pbc = [1, 0, 1]
    atoms.cell[1] = np.array([0, 9, 0]) + rng.normal(size=3)


def elements(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    shake(atoms, rng, step)
    if step % 5 == 4:
        atoms.numbers = rng.permutation(atoms.numbers)
    if step == 17:
        atoms.numbers[:] = 6


def count(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    shake(atoms, rng, step)
    if step % 5 == 2:
        del atoms[int(rng.integers(len(atoms)))]
    if step % 5 == 4:
        atoms.append("O")
        atoms.positions[-1] = rng.uniform(-4, 0, 3) * 3 + [0, 0, -9]


def free(atoms: Atoms, rng: np.random.Generator, step: int) -> None:
    atoms.pbc = False
    one_fast(atoms, rng, step)


#: What happens at each step, and how many searches of 40 calls may and have to be.
TRAJECTORIES: dict[Callable[[Atoms, np.random.Generator, int], None], tuple[int, int]] = {
    shake: (1, 8),
    one_fast: (10, 38),
    strain: (2, 20),
    cell_alone: (2, 20),
    wrap: (3, 20),
    turn: (1, 4),
    axes: (8, 20),
    free_axis: (1, 8),
    elements: (5, 8),
    count: (14, 24),
    free: (10, 38),
}


def same_as_fresh(calc: Calculator, atoms: Atoms) -> None:
    other = atoms.copy()
    other.calc = Calculator(calc.model, skin=0)
    periodic = ["stress"] if atoms.pbc.any() else []
    for name in ["energy", "energies", "forces", *periodic]:
        ours, theirs = calc.get_property(name, atoms), other.calc.get_property(name, other)
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("change", TRAJECTORIES, ids=lambda change: change.__name__)
def test_a_kept_list_never_shows(change: Callable[[Atoms, np.random.Generator, int], None]) -> None:
    rng, atoms, calc = np.random.default_rng(5), water_like(), potential(*MODEL).ase(skin=0.6)
    for step in range(40):
        change(atoms, rng, step)
        same_as_fresh(calc, atoms)
        if step in (0, 13, 39):
            plain = Calculator(calc.model, skin=0)
            with anipot.reference_path():
                expected = plain.get_property("forces", atoms)
            np.testing.assert_allclose(calc.get_property("forces", atoms), expected, rtol=0, atol=1e-12)
    assert calc._engine is not None
    least, most = TRAJECTORIES[change]
    assert least <= calc._engine.searches <= most


def test_a_pair_that_comes_in_from_beyond_the_skin() -> None:
    """Two atoms just outside of the list come together, both by as much: no list may serve longer than it can prove."""
    calc = potential(*MODEL).ase(skin=1.0)
    for distance in np.arange(calc.model.cutoff + 1.005, 1.0, -0.02):
        same_as_fresh(calc, Atoms("OC", [[-distance / 2, 0, 0], [distance / 2, 0, 0]]))
    assert 2 <= calc._engine.searches <= 6


def test_one_calculator_for_systems_in_turn_and_bad_steps() -> None:
    """Other systems, and steps that cannot be computed, come between the steps of a trajectory."""
    rng, atoms, calc = np.random.default_rng(0), water_like(), potential(*MODEL).ase(skin=0.6)
    others = [Atoms("CH", [[0, 0, 0], [0, 0, 1.1]]), water_like(12, 7.0), Atoms("O"), Atoms()]
    for step in range(12):
        shake(atoms, rng, step)
        same_as_fresh(calc, atoms)
        if step % 3 == 0:
            same_as_fresh(calc, others[step // 3])
        bad = atoms.copy()
        bad.positions[step] = bad.positions[step - 1]
        with pytest.raises(ValueError, match="stand on one spot"):
            calc.get_property("forces", bad)
        bad.positions[step] = np.nan
        with pytest.raises(ValueError, match="must be finite"):
            calc.get_property("forces", bad)
        same_as_fresh(calc, atoms)


def test_a_skin_that_is_set_later() -> None:
    rng, atoms, calc = np.random.default_rng(1), water_like(), potential(*MODEL).ase(skin=0.0)
    for skin in (0.0, 0.5, 0.0, 0.3, 1.5):
        calc.skin = skin
        for step in range(4):
            shake(atoms, rng, step)
            same_as_fresh(calc, atoms)
    assert calc._engine.searches == 4 + 1 + 4 + 1 + 1


def test_a_spread_and_a_cutoff_in_between() -> None:
    """Members, and another cutoff of the model, with the list of the calls before."""
    rng, atoms, calc = np.random.default_rng(2), water_like(), potential(*MODEL).ase(skin=0.6)
    for cutoff in (4.6, 4.2, 4.9, 3.2):
        calc.model.representation.Rcr = cutoff
        calc.reset()
        for step in range(3):
            shake(atoms, rng, step)
            same_as_fresh(calc, atoms)
            spread = calc.get_spread(atoms)
            with anipot.reference_path():
                expected = Calculator(calc.model, skin=0).get_spread(atoms)
            for name, value in expected.items():
                np.testing.assert_allclose(spread[name], value, rtol=1e-12, atol=1e-11, err_msg=name)
