"""``anipot.Study``: the numbers are those of ASE with the same model, and each step leaves its files."""

import gc
import json

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations
from contracts import without_properties

import anipot
from anipot import CELU, AtomicNetwork, DipoleMoment, Potential


@pytest.fixture(scope="module")
def model():
    return anipot.load("mini", dtype=torch.float64)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_numbers_are_those_of_ase(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    water = molecule("H2O")
    water.calc = model.ase()
    start = water.get_potential_energy(), water.get_forces()
    BFGS(water, logfile=None).run(fmax=1e-4)
    vibrations = Vibrations(water, delta=1e-3, nfree=4)
    vibrations.run()

    study = anipot.Study(molecule("H2O"), model)
    point = study.single_point()
    assert point.energy == pytest.approx(start[0], abs=1e-8)
    assert point.forces == pytest.approx(start[1], abs=1e-8)
    assert point.fmax == pytest.approx(np.linalg.norm(start[1], axis=1).max())
    assert study.optimize(fmax=1e-4).atoms.get_potential_energy() == pytest.approx(
        water.get_potential_energy(), abs=1e-6
    )
    assert study.atoms.get_potential_energy() == pytest.approx(water.get_potential_energy(), abs=1e-6)
    modes = study.normal_modes()
    assert modes.frequencies == pytest.approx(vibrations.get_frequencies()[-3:].real, abs=0.5)
    heat = study.thermochemistry(temperature=350, symmetry_number=2)
    energies = modes.frequencies * units.invcm
    gas = IdealGasThermo(energies, "nonlinear", study.atoms.get_potential_energy(), study.atoms, 2, 0)
    assert heat.free_energy == pytest.approx(gas.get_gibbs_energy(350, 101325, verbose=False), abs=1e-8)


def test_members_and_names_of_what_is_computed(model):
    study = anipot.Study(molecule("H2O"), model)
    spread = study.calculator.get_spread(study.atoms)
    point = study.single_point()
    assert point.energy_std == spread["energy_std"] > 0
    assert repr(point).startswith(f"Point(H2O, {point.energy:.4f} ± {point.energy_std:.4f} eV, fmax ")
    assert repr(study) == "Study(H2O, mini)"
    assert "eV/Å" in repr(study.optimize())
    assert repr(study.normal_modes(members=True)).endswith(" cm^-1)")
    assert repr(study.thermochemistry(symmetry_number=2)).startswith("Thermochemistry(ideal gas at 298.15 K, G -")


def test_single_model_has_no_spread(model):
    assert anipot.Study(molecule("H2O"), model[0]).single_point().energy_std is None


def test_dynamics_are_those_of_ase(model):
    atoms = molecule("H2O")
    atoms.set_momenta(np.random.default_rng(1).normal(scale=0.3, size=(3, 3)))
    study = anipot.Study(atoms, model)
    study.init_md(ensemble="nve", timestep=0.5, interval=1, keep_momenta=True)
    study.run_md(10)
    found = study.run_md(15)  # it goes on: 25 in all
    atoms.calc = model.ase()
    VelocityVerlet(atoms, 0.5 * units.fs).run(25)
    assert study.atoms.positions == pytest.approx(atoms.positions, abs=1e-8)
    assert study.atoms.get_momenta() == pytest.approx(atoms.get_momenta(), abs=1e-8)
    assert (found["ended"], found["steps"], found["frames"]) == ("done", 25, 26)


def test_folder_of_each_step(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("water.xyz", molecule("H2O"))
    study = anipot.Study("water.xyz", model, "water")
    study.single_point()
    study.optimize(fmax=0.002)
    study.thermochemistry(symmetry_number=2)  # computes the modes first
    study.init_md(temperature=200, ensemble="nvt", friction=0.005, interval=1, seed=3)
    study.run_md(100)
    spectrum = study.spectrum(resolution=900)
    names = ("single_point", "optimize", "normal_modes", "thermochemistry", "md", "spectrum")
    steps = [tmp_path / "water" / f"{i:02d}_{name}" for i, name in enumerate(names, 1)]
    assert sorted(path for path in (tmp_path / "water").iterdir() if path.name[:2].isdigit()) == steps
    assert (tmp_path / "water" / "inputs" / "water.xyz").is_file()
    first = (tmp_path / "water" / "command.txt").read_text()
    assert first.startswith("study = anipot.Study('water.xyz', 'mini', 'water')\n# anipot ")
    told = [(step / "command.txt").read_text().splitlines()[0] for step in steps]
    assert told[1] == "study.optimize(fmax=0.002)"
    assert told[4] == "study.init_md(temperature=200, ensemble='nvt', timestep=0.5, friction=0.005, interval=1, seed=3)"
    assert results(steps[1])["fmax_ev_per_angstrom"] < 0.002
    assert ase.io.read(steps[1] / "optimized.xyz").info["converged"]
    assert len(results(steps[2])["frequencies_per_cm"]) == len(list((steps[2] / "modes").iterdir())) == 3
    assert results(steps[3])["symmetry_number"] == 2
    assert results(steps[4])["settings"]["friction"] == 0.005
    assert results(steps[5])["power"]["peaks_per_cm"] == pytest.approx(spectrum.peaks())
    assert all((step / f"{name}.png").is_file() for step, name in zip(steps[4:], ("md", "power"), strict=True))


def test_steps_begin_where_the_last_one_ended(model):
    study = anipot.Study(molecule("H2O"), model)
    before = study.normal_modes(optimize=True)
    assert study.single_point().fmax < 0.001
    after = study.thermochemistry(symmetry_number=2)
    assert after.zero_point_energy == before.zero_point_energy  # nothing was computed again
    study.atoms.rattle(0.02)
    with pytest.warns(UserWarning, match="no stationary point"):
        assert study.thermochemistry(symmetry_number=2, ignore_imaginary=True).zero_point_energy != (
            before.zero_point_energy
        )


@pytest.fixture
def dipolar(model):
    """The same with a dipole head of random weights."""
    torch.manual_seed(0)
    head = DipoleMoment(AtomicNetwork((model.representation.num_features, 8, 1), CELU(0.1)).double(), model.elements)
    parts = model.elements, model.representation, model.head, model.shifter
    return Potential(*parts, properties={"dipole": head})


def test_thermochemistry_knows_new_masses(model):
    study = anipot.Study(anipot.optimize(molecule("H2O"), model, fmax=1e-4)[0].atoms, model)
    light = study.thermochemistry(symmetry_number=2).zero_point_energy
    study.normal_modes(masses={1: 2.0141, 2: 2.0141})
    heavy = study.thermochemistry(symmetry_number=2).zero_point_energy  # of the modes just asked for
    assert heavy < 0.8 * light
    study.atoms.set_masses([15.999, 2.0141, 2.0141])
    assert study.thermochemistry(symmetry_number=2).zero_point_energy == pytest.approx(heavy, rel=1e-4)


def test_a_crystal_has_no_dipole(dipolar, tmp_path):
    """A model with a dipole head is as good for it as any; nothing asks for a dipole."""
    study = anipot.Study(bulk("C"), dipolar, tmp_path / "diamond")
    assert study.single_point().properties == {}
    assert study.normal_modes().intensities is None
    study.init_md(interval=1)
    study.run_md(3)
    (trajectory,) = (tmp_path / "diamond").rglob("trajectory.xyz")
    frames = ase.io.read(trajectory, ":")
    assert len(frames) == 4
    assert all("dipole" not in atoms.calc.results for atoms in frames)


def test_infrared_spectrum_needs_a_dipole(dipolar, model):
    study = anipot.Study(molecule("H2O"), dipolar)
    assert study.single_point().properties["dipole"] == pytest.approx(study.atoms.get_dipole_moment())
    study.init_md(interval=1)
    study.run_md(60)
    assert study.spectrum("infrared", resolution=2000, temperature=300).kind == "infrared"
    plain = anipot.Study(molecule("H2O"), without_properties(model))
    plain.init_md(interval=1)
    plain.run_md(5)
    with pytest.raises(ValueError, match="no dipoles"):
        plain.spectrum("infrared")


def test_what_is_refused(model, tmp_path):
    study = anipot.Study(molecule("H2O"), model)
    with pytest.raises(ValueError, match="call init_md first"):
        study.run_md(5)
    with pytest.raises(ValueError, match="call init_md and run_md first"):
        study.spectrum()
    with pytest.raises(ValueError, match="kind must be one of power, infrared, got 'raman'"):
        study.spectrum("raman")
    with pytest.raises(ValueError, match="no dynamics 'nvt berendsen'"):
        study.init_md(ensemble="nvt", thermostat="berendsen")
    study.init_md()
    study.run_md(2)
    study.optimize(fmax=0.1)
    with pytest.raises(ValueError, match="from where the atoms are: call init_md first"):
        study.run_md(5)
    with pytest.warns(UserWarning, match="H2O did not converge: .* 1 step"):
        anipot.Study(molecule("H2O"), model).optimize(steps=1)
    with pytest.raises(ValueError, match="atom 0 is Si"):
        anipot.Study(molecule("SiH4"), model)
    ase.io.write(tmp_path / "two.xyz", [molecule("H2O"), molecule("N2")])
    with pytest.raises(ValueError, match=r"two.xyz holds 2 structures"):
        anipot.Study(tmp_path / "two.xyz", model)


def test_folders_are_not_replaced_unasked(model, tmp_path):
    folder = tmp_path / "study"
    anipot.Study(molecule("H2O"), model, folder).optimize()
    assert len(ase.io.read(folder / "inputs" / "start.xyz")) == 3
    with pytest.raises(FileExistsError, match="exists already"):
        anipot.Study(molecule("N2"), model, folder)
    with pytest.raises(ValueError, match="which overwrite=True would delete"):
        anipot.Study(folder / "inputs" / "start.xyz", model, folder, overwrite=True)
    anipot.Study(molecule("N2"), model, folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["command.txt", "inputs"]


def test_dynamics_without_a_folder_leave_nothing(model):
    study = anipot.Study(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), model)
    run = study.init_md()
    study.run_md(3)
    assert (run.folder / "trajectory.xyz").is_file()
    del study
    gc.collect()
    assert not run.folder.exists()
