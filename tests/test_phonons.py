"""Phonons: against phonopy's own finite displacements, and against the modes of the supercell itself."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

import anipot
from anipot.spectroscopy.crystals import THZ_TO_INVERSE_CM, phonons

phonopy = pytest.importorskip("phonopy")


@pytest.fixture(scope="module")
def model():
    return anipot.load(dtype=torch.float64)


@pytest.fixture(scope="module")
def diamond(model):
    atoms = bulk("C")
    atoms.calc = model.ase()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4)
    atoms.calc = None
    return atoms


@pytest.fixture(scope="module")
def found(diamond, model):
    return phonons(diamond, model, (2, 2, 2))


def test_like_displacements(diamond, model, found):
    numeric = phonopy.Phonopy(found.phonopy.unitcell, 2 * np.eye(3, dtype=int), primitive_matrix=np.eye(3))
    numeric.generate_displacements(distance=0.005, is_plusminus=True)
    calculator, forces = model.ase(), []
    for cell in numeric.supercells_with_displacements:
        atoms = Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True, calculator=calculator)
        forces.append(atoms.get_forces())
    numeric.forces = forces
    numeric.produce_force_constants()
    q = np.array([[0.5, 0, 0.5], [0.5, 0.5, 0.5], [0.1, 0.2, 0.3]])
    numeric.run_qpoints(q)
    expected = np.asarray(numeric.qpoints.frequencies) * THZ_TO_INVERSE_CM
    assert expected.max() > 500
    np.testing.assert_allclose(found.frequencies(q), expected, atol=0.5)


def test_wave_vectors_that_fit_are_modes_of_the_supercell(diamond, model, found):
    q = np.array([[i, j, k] for i in (0, 0.5) for j in (0, 0.5) for k in (0, 0.5)])
    at_q = np.sort(found.frequencies(q).ravel())
    modes = anipot.normal_modes(diamond.repeat(2), model)[0].frequencies
    np.testing.assert_allclose(np.sort(np.concatenate([modes, [0, 0, 0]])), at_q, atol=0.5)


def test_sound_vanishes_at_gamma(found):
    assert np.abs(found.frequencies()[0, :3]).max() < 0.5


@pytest.mark.parametrize("supercell", [(2, 2), (1.5, 1, 1), (2, 0, 2), [[1, 1, 0], [1, 1, 0], [0, 0, 1]]])
def test_a_supercell_must_have_a_volume(diamond, model, supercell):
    with pytest.raises(ValueError, match="three multiples, or a 3 × 3 matrix of integers with a volume above 0, got"):
        anipot.phonons(diamond, model, supercell)


@pytest.mark.filterwarnings("ignore:N2 is no stationary point")
def test_default_supercell_is_twice_the_cutoff_wide(model):
    solid = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], cell=[[5, 0, 0], [1, 6, 0], [0, 2, 11]], pbc=True)
    whole = phonons(solid, model)
    np.testing.assert_array_equal(np.diag(whole.phonopy.supercell_matrix), [3, 2, 1])
    lengths = 1 / np.linalg.norm(np.linalg.inv(whole.phonopy.supercell.cell), axis=0)
    assert (lengths >= 2 * model.cutoff - 1e-6).all()


def test_density_and_heat(found):
    wavenumbers, density = found.density((8, 8, 8))
    assert np.trapezoid(density, wavenumbers) == pytest.approx(6, rel=0.05)
    try:
        heat = found.thermal([10.0, 5000.0], (6, 6, 6))
    except ValueError as error:
        pytest.fail(str(error))
    assert heat["heat_capacity"][1] == pytest.approx(6 * units.kB, rel=0.02)  # Dulong and Petit
    assert heat["heat_capacity"][0] < 1e-3 * units.kB
    assert heat["free_energy"][0] > 0  # zero-point motion


def test_imaginary_modes_have_no_heat(model):
    """Carbon in simple cubic order: no force on any atom by symmetry, and far from stable."""
    with pytest.raises(ValueError, match=r"imaginary modes, down to \d+\.\di cm\^-1"):
        phonons(bulk("C", "sc", a=1.8), model, (3, 3, 3)).thermal([300.0], (4, 4, 4))


def test_bad_input(model):
    with pytest.raises(ValueError, match="need a crystal, periodic along all axes"):
        phonons(molecule("H2O"), model)
    water = molecule("H2O", cell=[6, 6, 6], pbc=True)
    water.positions[1] *= 1.1
    with pytest.warns(UserWarning, match="H2O is no stationary point: forces reach"):
        phonons(water, model, (1, 1, 1))


def test_plot(found):
    pytest.importorskip("matplotlib")
    ax = found.plot("GXG", points=20)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["Γ", "X", "Γ"]
    assert len(ax.lines) >= 6
