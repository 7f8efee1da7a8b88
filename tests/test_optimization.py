"""Relaxation of many systems at once: the steps of ASE, one batch for all, and what is said of those that fail."""

import math

import ase.io
import ase.optimize
import ase.spacegroup
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.filters import FrechetCellFilter
from ase.units import Hartree

import anipot
from anipot.derivatives import SinglePoint
from anipot.optimization import batch, lbfgs, model_hessian
from anipot.units import HARTREE_TO_EV

NAMES = ("H2O", "CH3CH2OH", "CH4", "C6H6", "CH3CHO", "NH3", "HCOOH", "H2CO")


@pytest.fixture(scope="module")
def model():
    return anipot.load().double()


def rattled(names=NAMES, amount=0.08):
    frames = [molecule(name) for name in names]
    for seed, atoms in enumerate(frames):
        atoms.rattle(amount, seed=seed)
    return frames


def by_ase(atoms, model, optimizer=ase.optimize.LBFGS, fmax=0.01, steps=1000, cell=False):
    """Return the relaxed atoms and the number of steps."""
    atoms = atoms.copy()
    atoms.calc = model.ase()
    dynamics = optimizer(FrechetCellFilter(atoms) if cell else atoms, logfile=None)
    dynamics.run(fmax=fmax, steps=steps)
    return atoms, dynamics.nsteps


@pytest.mark.parametrize("method", ["lbfgs", "fire"])
def test_takes_the_steps_of_ase(model, method, monkeypatch):
    """Without the model Hessian every system goes the way that ASE would take it, whoever is beside it."""
    monkeypatch.setattr(lbfgs, "RISE", math.inf)  # ASE lets energies rise
    frames = rattled(amount=0.02)
    options = {"precondition": False, "memory": 100} if method == "lbfgs" else {}
    found = anipot.optimize(frames, model, method=method, batch_size=3, **options)
    for atoms, one in zip(frames, found, strict=True):
        expected, steps = by_ase(atoms, model, getattr(ase.optimize, method.upper()))
        assert one.converged
        assert one.steps == steps
        np.testing.assert_allclose(one.atoms.positions, expected.positions, atol=1e-6)
        assert one.atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-8)


def test_the_model_hessian_leads_to_the_same_minima_in_fewer_steps(model):
    frames = rattled()
    found = anipot.optimize(frames, model, fmax=1e-3)
    taken = 0
    for atoms, one in zip(frames, found, strict=True):
        expected, steps = by_ase(atoms, model, fmax=1e-3)
        assert one.converged
        assert one.fmax < 1e-3
        assert one.atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-4)
        taken += steps
    assert sum(one.steps for one in found) < 0.6 * taken


def test_results_say_what_the_model_says(model):
    found = anipot.optimize(rattled(), model, path=True)
    for one in found:
        again = one.atoms.copy()
        again.calc = model.ase()
        assert one.atoms.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(one.atoms.get_forces(), again.get_forces(), atol=1e-7)
        assert one.fmax == pytest.approx(np.linalg.norm(again.get_forces(), axis=1).max(), abs=1e-7)
        assert one.energy * Hartree == pytest.approx(again.get_potential_energy(), abs=1e-8)
        assert len(one.path) == len(one.energies) == len(one.forces_max) == one.steps + 1
        np.testing.assert_allclose(one.path[-1].positions, one.atoms.positions)


def test_order_and_results_do_not_depend_on_the_batch(model):
    frames = rattled()
    for precondition in (True, False):
        alone = [anipot.optimize(atoms, model, fmax=1e-3, precondition=precondition)[0] for atoms in frames]
        for size in (1, 3, None):
            together = anipot.optimize(frames, model, fmax=1e-3, precondition=precondition, batch_size=size)
            for one, other in zip(alone, together, strict=True):
                assert one.atoms.symbols.formula == other.atoms.symbols.formula
                assert other.steps == pytest.approx(one.steps, abs=3 if precondition else 0)  # rounded to float32
                assert other.energies[-1] == pytest.approx(one.energies[-1], abs=1e-6)


def test_takes_files_and_padded_batches_and_changes_nothing(model, tmp_path):
    frames = rattled(("H2O", "CH4"))
    before = [atoms.positions.copy() for atoms in frames]
    ase.io.write(tmp_path / "two.traj", frames)
    padded = anipot.pad([(torch.tensor(a.numbers), torch.tensor(a.positions)) for a in frames])
    found = [anipot.optimize(given, model) for given in (frames, tmp_path / "two.traj", tuple(padded))]
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, atol=1e-6)
    assert all((atoms.positions == old).all() for atoms, old in zip(frames, before, strict=True))
    assert anipot.optimize([], model) == []


def test_indices_of_elements_and_float32(model):
    other = anipot.load(periodic_table_index=False)
    one = anipot.optimize(rattled(("H2CO",)), other)[0]
    assert one.converged
    assert other.dtype is torch.float32
    expected = anipot.optimize(rattled(("H2CO",)), model)[0]
    assert one.atoms.get_potential_energy() == pytest.approx(expected.atoms.get_potential_energy(), abs=1e-4)


@pytest.mark.parametrize("precondition", [True, False])
def test_fixed_atoms_stay(model, precondition):
    frames = rattled(("CH3CH2OH", "C6H6"))
    frames[0].set_constraint(FixAtoms([0, 1, 2]))
    found = anipot.optimize(frames, model, precondition=precondition)
    np.testing.assert_array_equal(found[0].atoms.positions[:3], frames[0].positions[:3])
    assert found[0].converged
    assert np.linalg.norm(found[0].atoms.get_forces(apply_constraint=False)[:3], axis=1).max() > 0.05
    assert len(found[0].atoms.constraints) == 1
    expected, _ = by_ase(frames[0], model)
    assert found[0].atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-3)


def crystal():
    """Return dry ice, out of shape."""
    places = [(0, 0, 0), (0.118, 0.118, 0.118)]
    atoms = ase.spacegroup.crystal("CO", places, spacegroup=205, cellpar=(5.6, 5.6, 5.6, 90, 90, 90))
    strain = np.array([[0.02, 0.01, 0], [0, -0.01, 0.02], [0, 0, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.03, seed=1)
    return atoms


def test_cells_take_the_steps_of_ase(model, monkeypatch):
    monkeypatch.setattr(lbfgs, "RISE", math.inf)
    frames = [crystal(), crystal()]
    frames[1].rattle(0.01, seed=2)
    found = anipot.optimize(frames, model, cell=True, precondition=False, memory=100, fmax=1e-9, steps=12)
    for atoms, one in zip(frames, found, strict=True):
        expected, steps = by_ase(atoms, model, cell=True, fmax=1e-9, steps=12)
        assert one.steps == steps == 12
        assert np.abs(expected.cell.array - atoms.cell.array).max() > 0.01
        np.testing.assert_allclose(one.atoms.cell.array, expected.cell.array, atol=1e-6)
        np.testing.assert_allclose(one.atoms.positions, expected.positions, atol=1e-6)
        np.testing.assert_allclose(one.atoms.get_stress(), expected.get_stress(), atol=1e-6)


def test_cells_under_pressure(model):
    pressed = anipot.optimize(crystal(), model, cell=True, fmax=2e-3, pressure=5.0)[0]
    assert pressed.converged
    gpa = pressed.atoms.get_stress() * 160.21766208
    np.testing.assert_allclose(gpa, [-5, -5, -5, 0, 0, 0], atol=0.05)
    enthalpy = pressed.energy + 5.0 / 160.21766208 / Hartree * pressed.atoms.get_volume()
    assert pressed.energies[-1] == pytest.approx(enthalpy, abs=1e-8)


def test_says_who_ran_out_of_steps(model):
    found = anipot.optimize(rattled(("CH4", "C6H6")), model, steps=2, fmax=1e-6)
    for one in found:
        assert not one.converged
        assert one.steps == 2
        assert "after 2 steps" in one.why
    assert anipot.optimize(rattled(("CH4",)), model, steps=0)[0].steps == 0


def test_atoms_on_one_spot_do_not_disturb_others(model):
    broken = molecule("CH4")
    broken.positions[1] = broken.positions[2]
    good, bad, other = anipot.optimize([molecule("C6H6"), broken, molecule("H2O")], model, batch_size=2)
    assert good.converged
    assert other.converged
    assert not bad.converged
    assert "one spot" in bad.why
    assert bad.steps == 0
    np.testing.assert_array_equal(bad.atoms.positions, broken.positions)


def disturbed(change):
    """Return ``single_point`` whose results ``change`` gets to see."""

    def single_point(model, species, *args, **options):
        result = anipot.single_point(model, species, *args, **options)
        energies, forces = change(species, result.energies, result.forces)
        return SinglePoint(species, energies, forces)

    return single_point


@pytest.mark.parametrize("method", ["lbfgs", "fire"])
def test_energies_that_are_not_finite(model, monkeypatch, method):
    """Benzene breaks down in the third call; it is told from the others, with the last good geometry."""
    calls = []

    def change(species, energies, forces):
        calls.append(1)
        benzene = (species >= 0).sum(1) == 12
        return torch.where(benzene & (len(calls) == 3), torch.nan, energies), forces

    monkeypatch.setattr(batch, "single_point", disturbed(change))
    found = anipot.optimize(rattled(), model, method=method)
    for name, one in zip(NAMES, found, strict=True):
        assert one.converged == (name != "C6H6")
    bad = found[NAMES.index("C6H6")]
    assert "nan" in bad.why
    assert bad.steps == 2
    assert np.isfinite(bad.atoms.get_potential_energy())
    assert np.isfinite(bad.atoms.positions).all()


def test_an_optimisation_that_climbs(model, monkeypatch):
    """Forces of the wrong sign: every step goes up, however short, and that is said."""
    monkeypatch.setattr(batch, "single_point", disturbed(lambda _, energies, forces: (energies, -forces)))
    one = anipot.optimize(rattled(("CH3CHO",)), model)[0]
    assert not one.converged
    assert "rises whichever way" in one.why
    assert one.steps < 100


def test_energies_do_not_rise(model):
    """Far from a minimum, with steps as long as they may be."""
    for one in anipot.optimize(rattled(amount=0.3), model):
        assert one.converged
        accepted = np.minimum.accumulate(one.energies)
        assert one.energies[-1] <= accepted.min() + 2e-5


@pytest.mark.parametrize("precondition", [True, False])
def test_who_runs_out_of_steps_is_not_left_uphill(model, precondition):
    """Wherever it is cut, a relaxation ends at the lowest geometry so far, not at a step that would be undone."""
    options = {"precondition": precondition, "fmax": 1e-3}
    start = rattled(("HCOOH",), amount=0.4)
    whole = anipot.optimize(start, model, **options)[0].energies
    risen = [i for i in range(2, len(whole) - 1) if whole[i] > whole[:i].min() + 1e-4]
    assert risen
    for steps in risen[:4]:
        one = anipot.optimize(start, model, steps=steps, **options)[0]
        assert (one.converged, one.steps) == (False, steps)
        np.testing.assert_allclose(one.energies[:-1], whole[:steps], atol=1e-9)
        assert one.energy == pytest.approx(whole[:steps].min(), abs=2e-5)
        assert one.energies[-1] == pytest.approx(one.energy, abs=1e-9)
        assert one.fmax == pytest.approx(np.linalg.norm(one.atoms.get_forces(), axis=1).max())
        assert f"{one.fmax:.3g}" in one.why


@pytest.mark.parametrize(
    ("atoms", "options", "text"),
    [
        (Atoms("HBr", [[0, 0, 0], [1.4, 0, 0]]), {}, r"system 1 \(HBr\): atom 1 is Br; this model knows H, C, N, O"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), {}, "system 1 .*atom 1 stands at"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], info={"charge": 1}), {}, "system 1 .*charge of 1"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], constraint=FixBondLength(0, 1)), {}, "system 1 .*FixBondLength"),
        (Atoms(), {}, "system 1 has no atoms"),
        (molecule("H2O"), {"cell": True}, "system 0 .*must repeat"),
        (molecule("H2O"), {"method": "newton"}, "'newton'"),
        (molecule("H2O"), {"fmax": 0}, "fmax must be above 0"),
        (molecule("H2O"), {"pressure": 1.0}, "a pressure of 1 GPa acts on cells that relax: set cell=True"),
        (molecule("H2O"), {"cell": True, "pressure": float("nan")}, "pressure must be a finite number of GPa, got nan"),
        (molecule("H2O"), {"batch_size": 0}, "batch_size must be at least 1"),
        (molecule("H2O"), {"method": "fire", "precondition": True}, "lbfgs"),
    ],
)
def test_bad_input(model, atoms, options, text):
    with pytest.raises(ValueError, match=text):
        anipot.optimize([molecule("H2O"), atoms], model, **options)


def test_wants_atoms(model):
    with pytest.raises(TypeError, match="system 1 is a str"):
        anipot.optimize([molecule("H2O"), "water"], model)


@pytest.mark.parametrize("name", ["C6H6", "C2H2", "CH3CN", "HCOOH", "trans-butane"])
def test_model_hessian_resists_neither_translation_nor_rotation(name):
    atoms = molecule(name)
    positions = torch.tensor(atoms.positions)
    hessian = model_hessian(torch.tensor(atoms.numbers)[None], positions[None])[0]
    torch.testing.assert_close(hessian, hessian.T)
    rigid = [axis.expand_as(positions) for axis in torch.eye(3, dtype=torch.float64)]
    rigid += [torch.linalg.cross(axis, positions) for axis in rigid]
    motions = torch.stack([motion.flatten() for motion in rigid])
    assert (motions @ hessian).abs().max() < 1e-10
    eigenvalues = torch.linalg.eigvalsh(hessian) * HARTREE_TO_EV
    free = 5 if name == "C2H2" else 6
    assert eigenvalues[0] > -1e-10
    assert eigenvalues[free] > 0.01  # whatever else moves meets resistance


def test_model_hessian_of_torsions_is_a_derivative():
    """Rows dφ/dx, by differences of ASE's dihedrals."""
    from anipot.optimization.model_hessian import TORSION, _Bonds, _torsions

    atoms = Atoms("H4", [[1.0, 0.1, 0.3], [0, 0, 0.1], [0, 1.3, 0], [0.6, 1.5, 0.9]])
    chain = [[1], [0, 2], [1, 3], [2]]
    slot = torch.tensor([[*line, 0][:2] for line in chain])
    weight = torch.tensor([[1.0, float(len(line) > 1)] for line in chain], dtype=torch.float64)
    positions = torch.tensor(atoms.positions)
    (found,), (rows,), (constant,) = _torsions(_Bonds(slot, positions[slot] - positions[:, None], weight))
    assert sorted(found.tolist()) == [0, 1, 2, 3]
    assert float(constant) == TORSION
    numeric = np.zeros((4, 3))
    for j, axis in np.ndindex(4, 3):
        both = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[found[j], axis] += sign * 1e-5
            both.append(np.radians(moved.get_dihedral(*found.tolist())))
        numeric[j, axis] = (both[0] - both[1]) / 2e-5
    sign = np.sign((numeric * rows.numpy()).sum())
    np.testing.assert_allclose(rows, sign * numeric, atol=1e-8)


def test_model_hessian_of_a_crystal_is_that_of_its_repetition():
    """Every image counts: moving all images of an atom alike meets the resistance found in a large cell."""
    small = bulk("C", "diamond", a=3.57)
    large = small.repeat(3)
    found = []
    for atoms in (small, large):
        cell, pbc = torch.tensor(atoms.cell.array)[None], torch.ones(1, 3, dtype=torch.bool)
        given = torch.tensor(atoms.numbers)[None], torch.tensor(atoms.positions)[None]
        found.append(model_hessian(*given, cell, pbc)[0].reshape(len(atoms), 3, len(atoms), 3))
    folded = found[1].reshape(27, 2, 3, 27, 2, 3).sum(dim=3)
    for image in folded:
        torch.testing.assert_close(image, found[0])


def test_model_hessian_is_near_that_of_a_potential(ani2x):
    """Along all vibrations of a minimum, the model Hessian is right within a factor of eight, most within two."""
    for name in ("CH3CH2OH", "C6H6", "HCOOH"):
        atoms = anipot.optimize(molecule(name), ani2x, fmax=1e-3)[0].atoms
        given = torch.tensor(atoms.numbers)[None], torch.tensor(atoms.positions)[None]
        exact = anipot.single_point(ani2x, *given, hessian=True).hessian[0].double()
        guess = model_hessian(*given)[0]
        values, vectors = torch.linalg.eigh(exact)
        vibrations = vectors[:, values.abs().argsort()[6:]]
        curvature = (vibrations * (exact @ vibrations)).sum(0)
        ratio = (vibrations * (guess @ vibrations)).sum(0) / curvature
        assert ((ratio > 1 / 8) & (ratio < 8)).all()
        assert ((ratio > 1 / 2) & (ratio < 2)).float().mean() > 0.6
