"""The calculator against ASE's contract, with ASE's own tools."""

from __future__ import annotations

import copy
import io
import pickle

import ase.calculators.calculator
import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import MTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE, LBFGS
from ase.vibrations import Vibrations
from contracts import potential

import anipot
from anipot.interfaces.ase import Calculator

PROPERTIES = ["energy", "free_energy", "forces", "energies", "stress"]


@pytest.fixture(scope="module")
def model() -> anipot.Potential:
    return potential("aev_1x", "ensemble")


def box() -> Atoms:
    atoms = molecule("H2O", cell=[[3.9, 0, 0], [0.4, 4.1, 0], [0, -0.6, 4.4]], pbc=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_one_calculation_gives_everything(model: anipot.Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = box()
    atoms.calc = model.ase()
    calls = []
    original = Calculator.calculate
    monkeypatch.setattr(Calculator, "calculate", lambda self, *a, **k: (calls.append(1), original(self, *a, **k)))
    values = {name: atoms.calc.get_property(name, atoms) for name in PROPERTIES}
    assert len(calls) == 1
    ref = anipot.single_point(
        model,
        torch.tensor(atoms.numbers)[None],
        torch.tensor(atoms.positions)[None],
        torch.tensor(atoms.cell.array),
        torch.tensor(atoms.pbc),
        stress=True,
        atomic_energies=True,
    )
    assert isinstance(values["energy"], float)
    assert values["energy"] == values["free_energy"] == pytest.approx(float(ref.energies) * units.Hartree, rel=1e-14)
    np.testing.assert_allclose(values["forces"], ref.forces[0].numpy() * units.Hartree, atol=1e-12)
    np.testing.assert_allclose(values["energies"].sum(), values["energy"], rtol=1e-13)
    stress = ref.stress[0].numpy() * units.Hartree
    voigt = [stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]]
    np.testing.assert_allclose(values["stress"], voigt, atol=1e-12)
    for name in ("forces", "energies", "stress"):
        assert values[name].dtype == np.float64
    for calc in (pickle.loads(pickle.dumps(atoms.calc)), copy.deepcopy(atoms.calc)):
        other = atoms.copy()
        other.calc = calc
        assert other.get_potential_energy() == values["energy"]
    assert atoms.get_properties(PROPERTIES)["stress"].shape == (6,)


def test_what_is_not_there_raises_ases_own_error(model: anipot.Potential) -> None:
    atoms = molecule("H2O")
    atoms.calc = model.ase()
    atoms.get_potential_energy()
    for get in (atoms.get_stress, atoms.get_dipole_moment, atoms.get_charges):
        with pytest.raises(PropertyNotImplementedError):
            get()
    atoms.info["charge"] = 1
    for get in (atoms.get_potential_energy, lambda: atoms.calc.calculate(atoms)):
        with pytest.raises(ValueError, match="total charge of 1"):
            get()
    atoms.info["charge"] = "plus"
    with pytest.raises(ValueError, match="must be a number, got 'plus'"):
        atoms.get_potential_energy()
    del atoms.info["charge"]
    atoms.set_initial_charges([1.0, 0, 0])
    with pytest.raises(ValueError, match="total charge of 1"):
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match="molecule 0, atom 0 is Fe"):
        model.ase().get_potential_energy(Atoms("Fe"))
    with pytest.raises(ValueError, match="no atoms"):
        model.ase().get_hessian()


def test_ase_finds_it_by_name(model: anipot.Potential, tmp_path) -> None:
    model.save(tmp_path / "mine.safetensors")
    cls = ase.calculators.calculator.get_calculator_class("anipot")
    atoms = molecule("H2O")
    atoms.calc = cls(model=str(tmp_path / "mine.safetensors"))
    assert atoms.calc.name == "anipot"
    other = molecule("H2O")
    other.calc = model.ase()
    assert atoms.get_potential_energy() == other.get_potential_energy()
    from anipot.interfaces.ase_plugin import __ase_plugins__

    assert [plugin.implementation for plugin in __ase_plugins__] == [cls]


def test_round_trips_through_files_and_databases(model: anipot.Potential, tmp_path) -> None:
    atoms = box()
    atoms.calc = model.ase()
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    ase.io.write(tmp_path / "x.xyz", atoms, format="extxyz")
    back = ase.io.read(tmp_path / "x.xyz")
    assert back.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(back.get_forces(), forces, atol=1e-6)
    with ase.db.connect(tmp_path / "x.db") as db:
        db.write(atoms)
    row = ase.db.connect(tmp_path / "x.db").get(1)
    assert row.calculator == "anipot"
    assert row.energy == energy
    np.testing.assert_array_equal(row.stress, stress)


def test_hessian_and_spread(model: anipot.Potential, tmp_path) -> None:
    atoms = molecule("H2O")
    atoms.calc = model.ase()
    hessian = atoms.calc.get_hessian(atoms)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-3, nfree=4)
    vibrations.run()
    numeric = vibrations.get_vibrations().get_hessian_2d()
    np.testing.assert_allclose(hessian, numeric, atol=1e-4 * np.abs(hessian).max())
    spread = atoms.calc.get_spread(atoms)
    assert spread["forces_members"].shape == (3, 3, 3)
    np.testing.assert_allclose(spread["forces_members"].mean(0), atoms.get_forces(), atol=1e-12)
    assert spread["qbc"] == pytest.approx(spread["energy_std"] / 3**0.5)
    other = atoms.calc.get_spread(molecule("C2H6"))
    assert other["energy_std"] != spread["energy_std"] == atoms.calc.get_spread(atoms)["energy_std"]
    assert spread["energy_std"] == pytest.approx(spread["energies_members"].std(ddof=1))
    assert atoms.calc.get_spread(box())["stress_std"].shape == (6,)


def test_one_instance_for_many_atoms(model: anipot.Potential) -> None:
    shared = model.ase()
    systems = [molecule("H2O"), box(), molecule("C2H6"), molecule("H2O"), Atoms("C"), Atoms()]
    for atoms in [*systems, *reversed(systems)]:
        own = model.ase(skin=0)
        expected = own.get_property("forces", atoms)
        np.testing.assert_allclose(shared.get_property("forces", atoms), expected, atol=1e-12)
    assert shared.get_potential_energy(Atoms()) == 0


def test_what_was_computed_is_kept_apart(model: anipot.Potential) -> None:
    """The calculator's own atoms are those of the last calculation, whatever happens to the ones it was given."""
    atoms = box()
    atoms.set_tags([1, 2, 3])
    atoms.calc = calc = model.ase()
    kept = []
    for step in range(3):
        atoms.rattle(0.01, seed=step)
        atoms.info["step"] = step
        atoms.get_forces()
        kept.append(calc.atoms)
        assert np.array_equal(calc.atoms.get_tags(), [1, 2, 3])
    assert [frame.info["step"] for frame in kept] == [0, 1, 2]
    assert len({frame.positions.tobytes() for frame in kept}) == 3
    before = atoms.positions.copy()
    atoms.positions += 1.0
    assert np.array_equal(calc.atoms.positions, before)
    another = kept[-1].copy()
    another.calc = copy.copy(calc)
    atoms.positions -= 1.5
    expected = atoms.get_potential_energy()
    another.get_potential_energy()
    assert atoms.get_potential_energy() == expected
    for change in (lambda: atoms.set_cell(1.1 * atoms.cell), lambda: atoms.set_pbc([1, 0, 1]), lambda: atoms.pop(0)):
        change()
        assert calc.calculation_required(atoms, ["forces"])
        forces, fresh = atoms.get_forces(), atoms.copy()
        fresh.calc = model.ase()
        np.testing.assert_allclose(forces, fresh.get_forces(), atol=1e-12)  # lists of neighbors differ in their order


def test_cells_without_a_volume(model: anipot.Potential) -> None:
    """A stress is there as soon as there is a volume, and gone with it."""
    atoms = box()
    atoms.calc = model.ase()
    for cell, pbc, there in (
        ([4.0, 4.0, 0.0], [1, 1, 0], False),
        ([4.0, 4.0, 5.0], [1, 1, 0], True),
        ([4.0, 4.0, 5.0], False, False),
        ([4.0, 4.0, 0.0], [1, 1, 0], False),
    ):
        atoms.set_cell(cell)
        atoms.set_pbc(pbc)
        atoms.get_forces()
        assert ("stress" in atoms.calc.results) == there


def test_optimizers_and_filters(ani1x: anipot.Potential) -> None:
    energies = []
    for optimizer in (BFGS, LBFGS, FIRE):
        atoms = molecule("CH3CH2OH")
        atoms.calc = ani1x.ase()
        assert optimizer(atoms, logfile=None).run(fmax=0.005, steps=500)
        energies.append(atoms.get_potential_energy())
    assert max(energies) - min(energies) < 1e-4
    diamond = Atoms("C8", cell=3.4 * np.eye(3), pbc=True)
    diamond.set_scaled_positions(
        np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]) / 4
    )
    diamond.calc = ani1x.ase()
    assert LBFGS(FrechetCellFilter(diamond), logfile=None).run(fmax=0.01, steps=200)
    assert np.abs(diamond.get_stress()).max() < 0.01


def test_neb_with_one_calculator(ani1x: anipot.Potential) -> None:
    start = molecule("NH3")
    end = start.copy()
    end.positions[:, 2] *= -1
    calc = ani1x.ase()
    for atoms in (start, end):
        atoms.calc = calc
        LBFGS(atoms, logfile=None).run(fmax=0.02)
    images = [start, *[start.copy() for _ in range(3)], end]
    for image in images:
        image.calc = calc
    neb = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=True)
    neb.interpolate()
    assert FIRE(neb, logfile=None).run(fmax=0.1, steps=150)
    energies = [calc.get_potential_energy(image) for image in images]
    assert 0.1 < max(energies) - energies[0] < 0.5  # inversion of ammonia: 0.25 eV


def peptide(shared) -> Atoms:
    with np.load(shared / "reference" / "ala10_112.npz") as ref:
        return Atoms(ref["numbers"], ref["positions"])


@pytest.mark.slow
def test_energy_is_conserved(ani1x: anipot.Potential, shared) -> None:
    """1 000 steps of 0.5 fs with float32 networks and about 100 atoms drift less than 1e-5 eV per atom.

    Momenta of 100 K: well above, the kinks in the second derivative of CELU let the energy of velocity Verlet wander by
    1e-5 eV per atom and more in the same time, in float64 just as in float32.
    """
    atoms = peptide(shared)
    atoms.calc = copy.deepcopy(ani1x).float().ase()
    LBFGS(atoms, logfile=None).run(fmax=0.02, steps=300)
    thermalize_momenta(atoms, temperature_K=100, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.run(100)
    energies: list[float] = []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy() / len(atoms)))
    dynamics.run(1000)
    drift = np.polyfit(np.linspace(0, 1, len(energies)), energies, 1)[0]
    print(f"drift {drift:.1e} eV per atom")
    assert abs(drift) < 1e-5
    assert atoms.calc._neighbors.searches < 500


@pytest.mark.slow
def test_npt_of_water_and_its_stress(ani2x: anipot.Potential, shared) -> None:
    with np.load(shared / "reference" / "water300_pbc.npz") as ref:
        atoms = Atoms(ref["numbers"], ref["positions"], cell=ref["cell"], pbc=ref["pbc"])
    model = copy.deepcopy(ani2x)[0]
    atoms.calc = copy.deepcopy(model).float().ase()
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    MTKNPT(atoms, 0.5 * units.fs, 300, 0.0, tdamp=50 * units.fs, pdamp=500 * units.fs).run(40)
    assert np.isfinite(atoms.positions).all()
    assert np.isfinite(atoms.cell.array).all()
    atoms.calc = model.ase()
    stress, numeric = atoms.get_stress(), np.zeros(6)
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * 5e-6
            strain[j, i] += sign * 5e-6
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        numeric[k] = (energies[0] - energies[1]) / 2e-5 / atoms.get_volume()
    np.testing.assert_allclose(stress, numeric, atol=1e-6)


def test_langevin_with_constraints_and_a_log(model: anipot.Potential) -> None:
    atoms = molecule("C2H6")
    atoms.calc = model.ase()
    atoms.set_constraint(FixAtoms([0]))
    log = io.StringIO()
    Langevin(
        atoms, 0.2 * units.fs, temperature_K=100, friction=0.01, fixcm=False, rng=np.random.default_rng(0), logfile=log
    ).run(5)
    assert len(log.getvalue().splitlines()) == 7
