"""Dynamics: runs that survive a kill and go on, refuse what does not fit, and say when they left what they know."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.md import velocitydistribution

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Ensemble, Potential
from anipot.cli import main
from anipot.dynamics import (
    DynamicsError,
    Guard,
    MolecularDynamics,
    Settings,
    kinetic_temperature,
    read_h5md,
    read_log,
    read_trajectory,
)
from anipot.dynamics.guard import bonds, num_parts
from anipot.dynamics.temperature import degrees_of_freedom
from anipot.sampling.dynamics import draw_momenta


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Pictures take longer than these runs; one test draws them."""
    monkeypatch.setattr("anipot.workfolder.can_draw", lambda: False)


def potential(members=1, seed=0):
    torch.manual_seed(seed)
    models = [ANIModel([AtomicNetwork((384, 8, 1), CELU(0.1)).double() for _ in range(4)]) for _ in range(members)]
    head = Ensemble(models) if members > 1 else models[0]
    return Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), head, EnergyShifter([-1.0] * 4))


@pytest.fixture
def model(tmp_path):
    potential().save(tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


@pytest.fixture
def ensemble(tmp_path):
    potential(3).save(tmp_path / "e.safetensors")
    return str(tmp_path / "e.safetensors")


@pytest.fixture
def water(tmp_path):
    ase.io.write(tmp_path / "w.xyz", Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    return str(tmp_path / "w.xyz")


@pytest.fixture
def box(tmp_path):
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=[5, 5, 6], pbc=True)
    ase.io.write(tmp_path / "box.xyz", atoms)
    return str(tmp_path / "box.xyz")


def command(model, file, folder, steps, *extra):
    options = ["--interval", "5", "--checkpoint-interval", "5", "--timestep", "0.1", "--temperature", "10"]
    return ["md", str(file), "--model", model, "--folder", str(folder), "--steps", str(steps), *options, *extra]


def md(*args):
    """Run dynamics in this process and return the exit code."""
    return main(command(*args))


def steps_of(folder):
    return [atoms.info["step"] for atoms in ase.io.read(folder / "trajectory.xyz", ":")]


def check_same_run(one, other):
    """Check that two runs left the same frames, log and final state."""
    assert steps_of(one) == steps_of(other)
    for a, b in zip(*(ase.io.read(folder / "trajectory.xyz", ":") for folder in (one, other)), strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
        np.testing.assert_allclose(a.cell.array, b.cell.array, atol=1e-7)
    np.testing.assert_allclose(np.loadtxt(one / "md.log"), np.loadtxt(other / "md.log"), rtol=1e-5, atol=1e-5)
    states = [dict(np.load(folder / "restart.npz")) for folder in (one, other)]
    assert set(states[0]) == set(states[1])
    for key in set(states[0]) - {"facts"}:
        np.testing.assert_allclose(states[0][key], states[1][key], rtol=1e-6, atol=1e-7, err_msg=key)


ENSEMBLES = {
    "nve": [],
    "langevin": ["--ensemble", "nvt"],
    "nose-hoover": ["--ensemble", "nvt", "--thermostat", "nose-hoover"],
    "npt": ["--ensemble", "npt", "--pressure", "1000"],
    "npt-full": ["--ensemble", "npt", "--barostat", "full", "--pressure", "1000"],
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_pieces_make_the_unbroken_run(model, box, tmp_path, name):
    extra = [*ENSEMBLES[name], "--format", "both"]
    assert md(model, box, tmp_path / "a", 23, *extra) == 0
    for stop, more in ((7, []), (7, ["--resume"]), (15, ["--resume"]), (23, ["--resume"])):
        assert md(model, box, tmp_path / "b", stop, *extra, *more) == 0
    assert steps_of(tmp_path / "b") == [0, 5, 10, 15, 20, 23]
    check_same_run(tmp_path / "a", tmp_path / "b")
    frames, same = (list(read_h5md(tmp_path / folder / "trajectory.h5")) for folder in "ab")
    for a, b in zip(frames, same, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)
    cells = np.array([atoms.cell.lengths() for atoms in frames])
    ratios = cells[-1] / cells[0]
    assert (np.abs(ratios - 1).max() > 1e-9) == (name in ("npt", "npt-full"))
    assert (np.ptp(ratios) > 1e-9) == (name == "npt-full")


def test_the_first_frame_is_written_once(model, water, tmp_path):
    """Also where a run ends before its first step, and goes on, in another process or in this one."""
    for steps, more in ((0, []), (0, ["--resume"]), (10, ["--resume"])):
        assert md(model, water, tmp_path / "a", steps, "--format", "both", *more) == 0
    assert steps_of(tmp_path / "a") == [0, 5, 10]
    assert read_log(tmp_path / "a" / "md.log")["step"].tolist() == [0, 5, 10]
    assert [frame.info["step"] for frame in read_h5md(tmp_path / "a" / "trajectory.h5")] == [0, 5, 10]
    run = MolecularDynamics(molecule("H2O"), model, tmp_path / "b", interval=5)
    for steps in (0, 0, 10):
        run.run(steps)
    assert steps_of(tmp_path / "b") == [0, 5, 10]


def test_both_formats_hold_the_same(model, box, tmp_path):
    assert md(model, box, tmp_path / "t", 20, "--format", "both", "--ensemble", "npt") == 0
    text = ase.io.read(tmp_path / "t" / "trajectory.xyz", ":")
    for a, b in zip(text, read_h5md(tmp_path / "t" / "trajectory.h5"), strict=True):
        assert a.info["step"] == b.info["step"]
        assert a.info["time_fs"] == pytest.approx(b.info["time_fs"])
        for name in ("positions", "numbers", "pbc"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-8)
        np.testing.assert_allclose(a.cell.array, b.cell.array, atol=1e-8)
        np.testing.assert_allclose(a.get_momenta(), b.get_momenta(), atol=1e-7)
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-7)
        np.testing.assert_allclose(a.get_stress(), b.get_stress(), atol=1e-8)
        assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=1e-7)


def test_mdanalysis_reads_the_h5md_file(model, box, tmp_path):
    MDAnalysis = pytest.importorskip("MDAnalysis")
    assert md(model, box, tmp_path / "t", 20, "--format", "both") == 0
    universe = MDAnalysis.Universe.empty(3, trajectory=True)
    universe.load_new(str(tmp_path / "t" / "trajectory.h5"), format="H5MD")
    frames = ase.io.read(tmp_path / "t" / "trajectory.xyz", ":")
    assert len(universe.trajectory) == len(frames)
    for step, atoms in zip(universe.trajectory, frames, strict=True):
        np.testing.assert_allclose(step.positions, atoms.positions, atol=1e-5)
        np.testing.assert_allclose(step.dimensions, [5, 5, 6, 90, 90, 90], atol=1e-5)
        assert step.time * 1e3 == pytest.approx(atoms.info["time_fs"])  # ps there
        np.testing.assert_allclose(step.velocities, atoms.get_velocities() * units.fs * 1e3, atol=1e-6)  # Å/ps
        np.testing.assert_allclose(step.forces, atoms.get_forces() * units.mol / units.kJ, atol=1e-4)


def run_shell(hook, *args):
    """Run the command in a process of its own, after ``hook``, which arranges for a signal."""
    code = f"import os, signal, sys\nfrom anipot.dynamics import checkpoint, run\nfrom anipot.cli import main\n{hook}"
    root = Path(anipot.__file__).parents[1]
    line, env = [sys.executable, "-c", f"{code}\nsys.exit(main())", *args], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=root, env=env, capture_output=True, text=True, timeout=120)


KILL = """
write = checkpoint.write
def dying(path, atoms, dynamics, rng, facts):
    if facts["step"] == 15:  # the trajectory is ahead of the checkpoint, and ends in half a frame
        open(path.parent / "trajectory.xyz", "a").write("3\\nProperties=spec")
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, atoms, dynamics, rng, facts)
checkpoint.write = dying
"""


@pytest.mark.parametrize("name", ["nve", "langevin"])
def test_survives_sigkill(model, water, tmp_path, name):
    extra = [*ENSEMBLES[name], "--format", "both"]
    assert md(model, water, tmp_path / "a", 23, *extra) == 0
    done = run_shell(KILL, *command(model, water, tmp_path / "b", 23, *extra))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "step=15" in (tmp_path / "b" / "trajectory.xyz").read_text()
    killed = [atoms.info["step"] for atoms in read_h5md(tmp_path / "b" / "trajectory.h5")]
    assert killed == [0, 5, 10, 15]  # what its writer left is readable
    assert md(model, water, tmp_path / "b", 23, *extra, "--resume") == 0
    assert steps_of(tmp_path / "b") == [0, 5, 10, 15, 20, 23]
    assert [atoms.info["step"] for atoms in read_h5md(tmp_path / "b" / "trajectory.h5")] == [0, 5, 10, 15, 20, 23]
    check_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_step_and_leaves_a_checkpoint(model, water, tmp_path, number):
    assert md(model, water, tmp_path / "a", 20) == 0
    hook = f"""
made = run.integrator
def interrupted(*args):
    dynamics = made(*args)
    dynamics.attach(lambda: dynamics.nsteps == 12 and os.kill(os.getpid(), signal.{number}))
    return dynamics
run.integrator = interrupted
"""
    out = tmp_path / "b"
    done = run_shell(hook, *command(model, water, out, 1000000))
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
    with np.load(out / "restart.npz") as state:
        assert json.loads(str(state["facts"]))["step"] == 12
    assert json.loads((out / "results.json").read_text())["ended"] == "interrupted at step 12"
    assert md(model, water, out, 20, "--resume") == 0
    check_same_run(tmp_path / "a", out)


def test_refuses_to_go_on_with_something_else(model, water, box, tmp_path, capsys):
    out = tmp_path / "t"
    assert md(model, water, out, 5) == 0
    before = (out / "trajectory.xyz").read_bytes()
    other = tmp_path / "other.xyz"
    ase.io.write(other, Atoms("OHC", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
    potential(seed=1).save(tmp_path / "another.safetensors")
    another = str(tmp_path / "another.safetensors")
    cases = [
        (water, ["--ensemble", "nvt"], ["nvt", "nve"]),
        (water, ["--timestep", "0.25"], ["0.25", "0.1"]),
        (water, ["--temperature", "11"], ["11.0", "10.0"]),
        (water, ["--interval", "1"], ["interval is 1", "5"]),
        (water, ["--format", "both"], ["trajectory.h5"]),
        (water, ["--model", another], ["was written with the model", "goes on with the model it began with"]),
        (water, ["--dtype", "float32"], ["torch.float64", "torch.float32"]),
        (other, [], ["CHO", "H2O", "atom 2 is C here and H there"]),
        (box, [], ["pbc [True", "[False"]),
    ]
    for file, extra, texts in cases:
        capsys.readouterr()
        assert md(model, file, out, 10, "--resume", *extra) == 2
        message = capsys.readouterr().err
        assert all(text in message for text in texts), message
    assert md(model, water, out, 4, "--resume") == 2
    assert "already at step 5" in capsys.readouterr().err
    assert (out / "trajectory.xyz").read_bytes() == before


def test_another_place_of_the_same_model_is_the_same_model(model, water, tmp_path):
    assert md(model, water, tmp_path / "t", 5) == 0
    moved = Path(model).rename(tmp_path / "moved.safetensors")
    assert md(str(moved), water, tmp_path / "t", 10, "--resume") == 0


def test_replaces_only_when_asked(model, water, tmp_path, capsys):
    out = tmp_path / "t"
    assert md(model, water, out, 5) == 0
    assert md(model, water, out, 5) == 2
    assert f"{out} exists already" in capsys.readouterr().err
    assert md(model, out / "trajectory.xyz", out, 5, "--overwrite") == 2
    assert "--overwrite would delete" in capsys.readouterr().err
    assert md(model, water, out, 5, "--overwrite", "--ensemble", "npt") == 2  # refused before anything is deleted
    assert steps_of(out) == [0, 5]
    assert md(model, water, out, 10, "--overwrite") == 0
    assert steps_of(out) == [0, 5, 10]
    assert md(model, water, out, 5, "--overwrite", "--resume") == 2
    with pytest.raises(ValueError, match=r"trajectory\.xyz exists already; resume the run, or overwrite it"):
        MolecularDynamics(ase.io.read(water), model, out)


def test_damaged_checkpoints_and_trajectories(model, water, tmp_path, capsys):
    assert md(model, water, tmp_path / "t", 5, "--resume") == 2
    assert "holds nothing to resume" in capsys.readouterr().err
    assert md(model, water, tmp_path / "t", 5, "--format", "both") == 0
    (tmp_path / "t" / "trajectory.h5").write_bytes(b"no HDF5")
    assert md(model, water, tmp_path / "t", 10, "--format", "both", "--resume") == 2
    assert "trajectory.h5 cannot be read" in capsys.readouterr().err
    os.truncate(tmp_path / "t" / "trajectory.xyz", 10)
    assert md(model, water, tmp_path / "t", 10, "--format", "both", "--resume") == 2
    assert "shorter than at the checkpoint" in capsys.readouterr().err
    (tmp_path / "t" / "restart.npz").write_text("no zip")
    assert md(model, water, tmp_path / "t", 5, "--format", "both", "--resume") == 2
    assert "is not a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("size", [20, 3000, -200])
def test_a_file_that_is_cut_off_is_refused_at_once(model, water, tmp_path, size):
    """HDF5 waits for what a writer might still add, and reads zeros where there is nothing."""
    assert md(model, water, tmp_path / "t", 10, "--format", "h5md") == 0
    file = tmp_path / "t" / "trajectory.h5"
    whole = file.stat().st_size
    os.truncate(file, size % whole)
    with pytest.raises(ValueError, match=f"trajectory.h5 is cut off: {size % whole} bytes are left of "):
        read_trajectory(file)


def test_the_folder_holds_what_it_should(model, water, tmp_path, monkeypatch, capsys):
    out = tmp_path / "t"
    assert md(model, water, out, 20) == 0
    assert "pictures are left out, they need matplotlib" in capsys.readouterr().err
    monkeypatch.undo()
    assert md(model, water, out, 20, "--overwrite") == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"command.txt", "inputs", "md.log", "md.png", "md.svg", "restart.npz", "results.json"} | {
        "trajectory.xyz"
    }
    facts, log = json.loads((out / "results.json").read_text()), read_log(out / "md.log")
    assert facts["ended"] == "done"
    assert facts["steps"] == 20
    assert facts["time_ps"] == pytest.approx(0.002)
    assert facts["temperature_k"] == pytest.approx(log["T_K"][1:].mean())
    assert facts["drift_mev_per_atom"] == pytest.approx(np.diff(log["E_tot_eV"][[0, -1]])[0] * 1000 / 3, abs=1e-4)
    assert facts["density_g_per_cm3"] is None
    frame = ase.io.read(out / "trajectory.xyz", -1)
    assert frame.get_potential_energy() == pytest.approx(log["E_pot_eV"][-1], abs=1e-6)
    (out / "md.log").write_text((out / "md.log").read_text()[:-20])  # cut in the middle of a line
    assert len(read_log(out / "md.log")["step"]) == len(log["step"]) - 1
    with pytest.raises(ValueError, match="no log of anipot md"):
        read_log(water)


def test_chains_conserve_their_energy_and_langevin_has_none(tmp_path):
    """The drift is that of ``get_conserved_energy``, far below the heat that the chain moves in and out."""
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=[6] * 3, pbc=True)
    mini = anipot.load()
    settings = {"temperature": 300, "timestep": 0.25, "tdamp": 20, "pdamp": 100}
    for name in ("nvt", "npt"):
        kind = Settings(name, thermostat="nose-hoover", **settings)
        run = MolecularDynamics(atoms.copy(), mini, tmp_path / name, kind, interval=5)
        run.run(400)
        log = read_log(run.log)
        assert np.ptp(log["E_tot_eV"]) > 0.05
        assert np.abs(log["drift_meV_per_atom"]).max() * 3e-3 < 0.05 * np.ptp(log["E_tot_eV"])
    run = MolecularDynamics(atoms.copy(), mini, tmp_path / "langevin", Settings("nvt", **settings))
    run.run(10)
    assert np.isnan(read_log(run.log)["drift_meV_per_atom"]).all()


@pytest.mark.parametrize(("thermostat", "fixed"), [("nose-hoover", []), ("langevin", [0, 1])])
def test_a_thermostat_heats_what_moves(tmp_path, thermostat, fixed):
    """Not 500 K where 9 of 15 degrees of freedom move; fixed atoms are not counted as cold ones."""
    atoms = anipot.optimize(molecule("CH4"), "mini")[0].atoms
    atoms.set_constraint([FixAtoms(fixed)] if fixed else None)
    settings = Settings("nvt", thermostat=thermostat, friction=0.02, tdamp=20)
    MolecularDynamics(atoms, "mini", tmp_path, settings, interval=4).run(5000)
    trajectory = read_trajectory(tmp_path / "trajectory.xyz").after(300)
    assert kinetic_temperature(trajectory) == pytest.approx(300, abs=90)  # such runs of 2 ps scatter by 35 K
    assert degrees_of_freedom(trajectory) == 9
    np.testing.assert_allclose(np.ptp(trajectory.positions[:, fixed], axis=0), 0)


@pytest.mark.parametrize(("settings", "degrees"), [("nve", 9), ("nose-hoover", 9), ("langevin", 15)])
def test_the_log_tells_the_temperature_of_what_moves(tmp_path, settings, degrees):
    kind = Settings() if settings == "nve" else Settings("nvt", thermostat=settings)
    run = MolecularDynamics(molecule("CH4"), "mini", tmp_path, kind, interval=1)
    run.run(2)
    run = MolecularDynamics(molecule("CH4"), "mini", tmp_path, kind, interval=1, resume=True)
    run.run(4)
    log = read_log(run.log)
    np.testing.assert_allclose(log["T_K"], 2 * log["E_kin_eV"] / (degrees * units.kB), rtol=1e-5)


def test_a_run_goes_on_with_the_masses_it_began_with(model, water, tmp_path, capsys):
    assert md(model, water, tmp_path / "a", 5) == 0
    heavy = ase.io.read(water)
    heavy.set_masses([None, 2.0141, None])
    ase.io.write(water, heavy, columns=["symbols", "positions", "masses"])
    assert md(model, water, tmp_path / "a", 10, "--resume") == 2
    assert "atom 1 (H) has 2.0141 u but " in capsys.readouterr().err


def test_a_chain_wants_nothing_fixed(model, tmp_path, capsys):
    atoms = molecule("CH4")
    atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "held.xyz", atoms)
    assert md(model, tmp_path / "held.xyz", tmp_path / "out", 5, *ENSEMBLES["nose-hoover"]) == 2
    assert "a Langevin thermostat does; the structure has FixAtoms" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert md(model, tmp_path / "held.xyz", tmp_path / "out", 5, *ENSEMBLES["langevin"]) == 0


def test_nve_drift_goes_with_the_square_of_the_step(tmp_path):
    """Velocity Verlet: the energy wobbles by O(dt²)."""
    wobble = []
    for timestep in (0.4, 0.2):
        run = MolecularDynamics(
            molecule("H2O"), potential_of_mini(), tmp_path / str(timestep), Settings(timestep=timestep), interval=1
        )
        run.run(int(80 / timestep))
        wobble.append(read_log(run.log)["drift_meV_per_atom"].std())
    assert wobble[0] / wobble[1] == pytest.approx(4, rel=0.15)


def potential_of_mini():
    return anipot.load(dtype=torch.float64)


def test_fixed_atoms_hold_the_others():
    """Their drift and rotation against them are vibrations, from which nothing is taken."""
    atoms, drawn = molecule("CH3OH"), molecule("CH3OH")
    for one in (atoms, drawn):
        one.set_constraint(FixAtoms([0, 2]))
    draw_momenta(atoms, 300.0, np.random.default_rng(0))
    draw = getattr(velocitydistribution, "thermalize_momenta", None)  # of later releases of ASE
    draw = draw or velocitydistribution.MaxwellBoltzmannDistribution
    draw(drawn, temperature_K=300.0, rng=np.random.default_rng(0))
    np.testing.assert_allclose(atoms.get_momenta(), drawn.get_momenta(), atol=1e-12)


def test_initial_momenta_do_not_drift(model, water, box, tmp_path):
    for name, file in (("free", water), ("periodic", box)):
        assert md(model, file, tmp_path / name, 0) == 0
        with np.load(tmp_path / name / "restart.npz") as state:
            momenta, positions = state["momenta"], state["positions"]
        assert np.abs(momenta).max() > 0.01
        np.testing.assert_allclose(momenta.sum(0), 0, atol=1e-12)
        rotation = np.abs(Atoms("OH2", positions, momenta=momenta).get_angular_momentum()).max()
        assert rotation < 1e-10 if name == "free" else rotation > 1e-4


def test_momenta_can_be_kept(model, water, tmp_path, capsys):
    assert md(model, water, tmp_path / "a", 10) == 0
    file = tmp_path / "a" / "trajectory.xyz"
    assert md(model, file, tmp_path / "b", 0, "--index", "-1", "--keep-momenta") == 0
    end, start = ase.io.read(file, -1), ase.io.read(tmp_path / "b" / "trajectory.xyz", 0)
    np.testing.assert_allclose(start.get_momenta(), end.get_momenta(), atol=1e-7)
    assert md(model, water, tmp_path / "c", 0, "--keep-momenta") == 2
    assert "frame 0 has no momenta to keep" in capsys.readouterr().err


def test_atoms_and_linear_molecules(model, tmp_path):
    for name, atoms in (("one", Atoms("H")), ("two", Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]))):
        ase.io.write(tmp_path / f"{name}.xyz", atoms)
        assert md(model, tmp_path / f"{name}.xyz", tmp_path / name, 5) == 0
        assert np.isfinite(ase.io.read(tmp_path / name / "trajectory.xyz").positions).all()


@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 1, 0), (1, 1, 1)])
def test_log_has_the_columns_of_its_header(model, tmp_path, pbc):
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=[5] * 3, pbc=pbc)
    ase.io.write(tmp_path / "in.xyz", atoms)
    assert md(model, tmp_path / "in.xyz", tmp_path / "t", 10) == 0
    log = read_log(tmp_path / "t" / "md.log")
    assert np.isfinite(log["density_g_per_cm3"]).all() == np.isfinite(log["pressure_bar"]).all() == all(pbc)
    assert np.isfinite(log["drift_meV_per_atom"]).all()


def test_guard_stops(ensemble, water, tmp_path, capsys):
    assert md(ensemble, water, tmp_path / "t", 10, "--guard-energy", "1e-9") == 1
    assert "the guard stopped the run at step 5: rho = " in capsys.readouterr().err
    assert steps_of(tmp_path / "t") == [0, 5]
    facts = json.loads((tmp_path / "t" / "results.json").read_text())
    assert facts["uncertain_frames"] == 2
    assert facts["ended"].startswith("the guard stopped")
    assert len(ase.io.read(tmp_path / "t" / "uncertain.xyz", ":")) == 2


def test_guard_saves_and_warns_once(ensemble, water, tmp_path, capsys):
    extra = ["--guard-force", "1e-9", "--guard-action", "save"]
    assert md(ensemble, water, tmp_path / "t", 10, *extra) == 0
    assert capsys.readouterr().err.count("warning: step 0: spread of a force = ") == 1
    assert md(ensemble, water, tmp_path / "t", 20, *extra, "--resume") == 0
    assert [a.info["step"] for a in ase.io.read(tmp_path / "t" / "uncertain.xyz", ":")] == [0, 5, 10, 15, 20]
    log = read_log(tmp_path / "t" / "md.log")
    atoms = ase.io.read(tmp_path / "t" / "trajectory.xyz", -1)
    spread = anipot.load(ensemble).ase().get_spread(atoms)
    variances = (spread["forces_members"].var(0, ddof=1)).sum(-1)
    assert log["force_spread_eV_per_A"][-1] == pytest.approx(np.sqrt(variances.max()), rel=1e-4)
    sigma = spread["energies_members"].std(ddof=1) / np.sqrt(3) * 23.0605
    assert log["rho_kcal_per_mol"][-1] == pytest.approx(sigma, rel=1e-3)


def test_guard_needs_members_and_thresholds(model, water, tmp_path, capsys):
    assert md(model, water, tmp_path / "t", 10, "--guard-energy", "1") == 2
    assert "needs an ensemble" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
    with pytest.raises(ValueError, match="a guard needs a threshold above 0, got energy=None and force=None"):
        Guard()
    assert Guard(force=1.0).exceeded((np.nan, np.nan)), "NaN is no agreement"


def test_a_molecule_that_falls_apart_is_told(tmp_path):
    atoms = molecule("H2O")
    atoms.set_velocities([[0, 0, 0], [0, 4.0, 0], [0, 0, 0]])  # fast enough to break the bond
    run = MolecularDynamics(atoms, anipot.load(), tmp_path, keep_momenta=True)
    with pytest.warns(UserWarning, match="the system consisted of 1 bonded parts, now of 2"):
        run.run(60)
    assert num_parts(bonds(atoms)) == 2


def test_an_explosion_is_told(tmp_path):
    settings = Settings(timestep=50.0)
    run = MolecularDynamics(molecule("CH4"), anipot.load(), tmp_path, settings, interval=1, notice=lambda text: None)
    with pytest.raises(DynamicsError, match=r"broke at step \d+: .*; a shorter time step"):
        run.run(100)
    assert len(read_log(run.log)["step"]) >= 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"ensemble": "nph"}, "no dynamics 'nph'; known are nve, nvt langevin"),
        ({"ensemble": "nvt", "thermostat": "bath"}, "no dynamics 'nvt bath'"),
        ({"timestep": 0.0}, "timestep must be a number above 0, got 0.0"),
        ({"temperature": -1}, "temperature must be a number from 0 on, got -1"),
        ({"ensemble": "npt", "pressure": float("nan")}, "pressure must be a number, got nan"),
        ({"ensemble": "npt", "pressure": -float("inf")}, "pressure must be a number, got -inf"),
        ({"timestep": float("inf")}, "timestep must be a number above 0, got inf"),
        ({"ensemble": "nvt", "thermostat": "nose-hoover", "temperature": 0}, "temperature must be above 0 for a Nosé"),
    ],
)
def test_settings_are_checked(wrong, text):
    with pytest.raises(ValueError, match=text):
        Settings(**wrong)


def test_intervals_are_checked(tmp_path):
    with pytest.raises(ValueError, match="got 10 and 15"):
        MolecularDynamics(molecule("H2O"), anipot.load(), tmp_path, checkpoint_interval=15)
    with pytest.raises(ValueError, match="got 0 and None"):
        MolecularDynamics(molecule("H2O"), anipot.load(), tmp_path, interval=0)
