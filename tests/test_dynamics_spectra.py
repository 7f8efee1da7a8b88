"""Spectra from trajectories: the frequencies and intensities of the model's own normal modes, and clear refusals."""

import json
import math
import os
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.optimize import BFGS
from contracts import without_properties

import anipot
from anipot import CELU, AtomicNetwork, DipoleMoment, Potential
from anipot.cli import main
from anipot.dynamics import (
    MolecularDynamics,
    Settings,
    Trajectory,
    TruncatedError,
    add_dipoles,
    body_frame,
    infrared_spectrum,
    kinetic_temperature,
    power_spectrum,
    read_trajectory,
)
from anipot.dynamics.correlation import LIGHT, autocorrelation, density, lobe, window
from anipot.dynamics.temperature import degrees_of_freedom

#: K; so cold that the surface is harmonic, to a tenth of a cm⁻¹.
COLD = 2.0
#: cm⁻¹; lines of this width take half of the trajectory.
RESOLUTION = 25


def with_dipole(model):
    """Return a model with a dipole head of random weights."""
    torch.manual_seed(0)
    network = AtomicNetwork((model.representation.num_features, 16, 1), CELU(0.1)).double()
    heads = {"dipole": DipoleMoment(network, model.elements)}
    return Potential(model.elements, model.representation, model.head, model.shifter, "dipolar", properties=heads)


@pytest.fixture(scope="module")
def model():
    return with_dipole(anipot.load(dtype=torch.float64))


@pytest.fixture(scope="module")
def vibrating(tmp_path_factory):
    """Formaldehyde with an energy of kT in each vibration: modes, and the folder of its run."""
    atoms, plain = molecule("H2CO"), without_properties(anipot.load(dtype=torch.float64))
    atoms.calc = plain.ase()
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=200)
    hessian = torch.as_tensor(atoms.calc.get_hessian(atoms)) / units.Hartree
    found = anipot.vibrational_analysis(
        torch.as_tensor(atoms.get_masses()), hessian, project=torch.as_tensor(atoms.positions)
    )
    frequencies, modes = found.freqs[6:].numpy(), found.modes[6:].numpy()
    masses, momenta = atoms.get_masses()[:, None], np.zeros((4, 3))
    for sign, mode in zip((1, -1, 1, 1, -1, -1), modes, strict=True):
        momenta += sign * masses * mode * math.sqrt(units.kB * COLD / (0.5 * (masses * mode**2).sum()))
    atoms.set_momenta(momenta)
    start, folder = atoms.copy(), tmp_path_factory.mktemp("run")
    run = MolecularDynamics(
        atoms, plain, folder, Settings(timestep=0.5), interval=4, formats=["extxyz", "h5md"], keep_momenta=True
    )
    run.run(6400)
    return start, frequencies, modes, folder


def test_peaks_are_the_normal_modes_of_the_model(vibrating):
    _, frequencies, _, folder = vibrating
    spectrum = power_spectrum(read_trajectory(folder / "trajectory.h5"), resolution=RESOLUTION)
    np.testing.assert_allclose(spectrum.peaks(), frequencies, atol=0.3)
    for frequency in frequencies:
        assert spectrum.area(frequency - 42, frequency + 42) == pytest.approx(1, abs=0.02)
    assert spectrum.temperature == pytest.approx(COLD, rel=0.01)
    assert spectrum.area() == pytest.approx(6, abs=0.05)


def test_the_time_step_is_undone(vibrating):
    """Velocity Verlet moves a harmonic frequency to (2/Δ) arcsin(ωΔ/2)."""
    _, frequencies, _, folder = vibrating
    raw = power_spectrum(read_trajectory(folder / "trajectory.h5"), resolution=RESOLUTION, correct_timestep=False)
    half = math.pi * LIGHT * 0.5
    shifted = np.arcsin(half * frequencies) / half
    assert (shifted - frequencies).max() > 9
    np.testing.assert_allclose(raw.peaks(), shifted, atol=0.3)


def test_positions_alone_give_the_same(vibrating):
    folder = vibrating[-1]
    whole = read_trajectory(folder / "trajectory.h5")
    frames = [atoms.copy() for atoms in ase.io.read(folder / "trajectory.xyz", ":")]
    for atoms in frames:
        del atoms.arrays["momenta"]
    bare = read_trajectory(frames)
    assert bare.velocities is None
    a, b = (power_spectrum(trajectory, resolution=RESOLUTION) for trajectory in (whole, bare))
    np.testing.assert_allclose(b.peaks(), a.peaks(), atol=0.1)
    # Velocities of Verlet are (ωΔ)²/6 slower than positions change, 1.3 % of the energy of a bond to hydrogen.
    assert b.area(800, 3200) == pytest.approx(a.area(800, 3200), rel=0.015)


def test_infrared_areas_are_the_intensities_of_the_modes(vibrating, model):
    """∫A = N_A/(12 ε₀ c²) |∂μ/∂Q|² of each mode: 974.9 km/mol for 1 e²/u, independent of dynamics."""
    start, frequencies, modes, folder = vibrating
    trajectory = add_dipoles(read_trajectory(folder / "trajectory.h5"), model)
    species = torch.as_tensor(start.numbers)[None]
    tensors = anipot.atomic_polar_tensors(model, species, torch.as_tensor(start.positions)[None])[0].numpy()
    # modes in mass-weighted coordinates, ∂x/∂Q with ΣmQ² = 1
    scale = np.sqrt((start.get_masses()[:, None] * modes**2).sum((1, 2)))[:, None, None]
    intensities = 974.8801 * (np.einsum("aij,kaj->ki", tensors, modes / scale) ** 2).sum(-1)
    spectrum = infrared_spectrum(trajectory, temperature=COLD, resolution=RESOLUTION)
    areas = [spectrum.area(frequency - 42, frequency + 42) for frequency in frequencies]
    assert intensities.max() > 5 * intensities.min()
    np.testing.assert_allclose(areas, intensities, rtol=0.02, atol=1e-3 * intensities.max())


@pytest.mark.parametrize("ending", ["xyz", "h5"])
def test_dynamics_writes_dipoles(model, tmp_path, ending):
    run = MolecularDynamics(molecule("H2CO"), model, tmp_path, interval=4, formats=["extxyz", "h5md"])
    run.run(12)
    trajectory = read_trajectory(tmp_path / f"trajectory.{ending}")
    np.testing.assert_allclose(add_dipoles(trajectory, model).dipoles, trajectory.dipoles, atol=1e-6)


def test_quantum_corrections(vibrating, model):
    """ω(1 - exp(-x)) Q(ω) C(ω) with x = ħω/kT, relative to that of harmonic vibrations."""
    trajectory = add_dipoles(read_trajectory(vibrating[-1] / "trajectory.h5"), model)
    options = {"temperature": 2000.0, "resolution": RESOLUTION}
    of = {q: infrared_spectrum(trajectory, quantum=q, **options) for q in ("harmonic", "none", "standard")}
    i = int(np.argmin(np.abs(of["none"].wavenumbers - 1490)))
    x = 6.62607004e-34 * 29979245800 * of["none"].wavenumbers[i] / (1.38064852e-23 * 2000)
    ratio = of["none"].values[i] / of["harmonic"].values[i]
    assert ratio == pytest.approx((1 - math.exp(-x)) / x, rel=1e-6)
    assert of["standard"].values[i] / of["none"].values[i] == pytest.approx(2 / (1 + math.exp(-x)), rel=1e-6)
    with pytest.raises(ValueError, match=r"quantum must be one of harmonic, none, standard, schofield, got 'tunnel'"):
        infrared_spectrum(trajectory, temperature=300, quantum="tunnel")


def test_autocorrelation_is_its_definition():
    series, weights = np.random.default_rng(0).normal(size=(50, 70)), np.random.default_rng(1).random(70)
    found = autocorrelation(series, 20, weights)
    for lag in range(20):
        pairs = (series[: 50 - lag] * series[lag:]) @ weights
        assert found[lag] == pytest.approx(pairs.mean())
    with pytest.raises(ValueError, match="50 frames have lags from 0 to 49, but 51 were asked for"):
        autocorrelation(series, 51)


def test_tidynamics_agrees():
    tidynamics = pytest.importorskip("tidynamics")
    series = np.random.default_rng(0).normal(size=(200, 3))
    np.testing.assert_allclose(autocorrelation(series, 200), tidynamics.acf(series), atol=1e-10)


@pytest.mark.parametrize("name", ["hann", "blackman", "cosine", "none"])
def test_a_line_is_as_wide_as_promised(name):
    grid = np.arange(0, 3000, 0.1)
    depth = math.ceil(lobe(name) / (LIGHT * 20.0))
    line = density(np.cos(2 * math.pi * LIGHT * 1500 * np.arange(depth)) * window(name, depth), 1.0, grid)
    above = grid[line > line.max() / 2]
    assert np.ptp(above) == pytest.approx(20, abs=0.3)
    assert np.trapezoid(line, grid) == pytest.approx(1, abs=2e-3)


def test_refusals(vibrating):
    trajectory = read_trajectory(vibrating[-1] / "trajectory.h5")
    with pytest.raises(ValueError, match=r"a resolution of 1 cm⁻¹ needs 38.3 ps, .* has 3.2 ps, enough for 12"):
        power_spectrum(trajectory, resolution=1)
    with pytest.raises(ValueError, match=r"frames every 2 fs tell wavenumbers up to 6671 cm⁻¹, .* to 9000 cm⁻¹"):
        power_spectrum(trajectory, resolution=RESOLUTION, last=9000)
    with pytest.raises(ValueError, match=r"the temperature of .* is 0 K: give one above 0 K"):
        power_spectrum(trajectory, resolution=RESOLUTION, temperature=0)
    with pytest.raises(ValueError, match=r"no atoms of .* are chosen"):
        power_spectrum(trajectory, atoms=[])
    broken = trajectory.velocities.copy()
    broken[3, 1, 0] = np.nan
    with pytest.raises(ValueError, match="has velocities in frame 3 that are no finite numbers"):
        replace(trajectory, velocities=broken)
    still = replace(trajectory, velocities=np.zeros_like(trajectory.velocities))
    with pytest.raises(ValueError, match="is 0 K: nothing moves in it"):
        power_spectrum(still, resolution=RESOLUTION)
    with pytest.raises(ValueError, match="no window 'tukeyish'"):
        power_spectrum(trajectory, window="tukeyish")
    with pytest.raises(ValueError, match="has no property head named 'dipole'; it has none"):
        add_dipoles(trajectory, without_properties(anipot.load()))


def test_a_trajectory_that_is_cut_off(vibrating, tmp_path):
    text = (vibrating[-1] / "trajectory.xyz").read_text()
    frames = text.split("\n4\n")
    body = "\n4\n".join(frames[:20])
    for name, end in (("mid-frame", 300), ("in the last number", 3)):
        path = tmp_path / f"{name}.xyz"
        path.write_text(body[:-end])
        with pytest.raises(TruncatedError, match=r"ends in the middle of a frame, after 19 whole ones"):
            read_trajectory(path)
        assert len(read_trajectory(path, drop_incomplete=True)) == 19
    path.write_text("")
    with pytest.raises(ValueError, match=r"0 frames|cannot be read"):
        read_trajectory(path)


@pytest.mark.parametrize("ending", ["xyz", "traj", "h5"])
def test_same_trajectory_from_any_file(vibrating, tmp_path, ending):
    folder = vibrating[-1]
    whole = read_trajectory(folder / "trajectory.h5", index=":50")
    path = folder / f"trajectory.{ending}"
    if ending == "traj":
        path = tmp_path / "t.traj"
        ase.io.write(path, ase.io.read(folder / "trajectory.xyz", ":50"))
    found = read_trajectory(path, index=":50")
    assert (found.interval, found.timestep, len(found)) == (2.0, 0.5, 50)
    np.testing.assert_allclose(found.velocities, whole.velocities, atol=1e-7)
    np.testing.assert_allclose(found.positions, whole.positions, atol=1e-7)
    other = read_trajectory(path, index="10:50:2")
    np.testing.assert_allclose(other.positions, whole.positions[10::2], atol=1e-7)
    assert other.interval == 4.0


def test_frames_that_make_no_trajectory():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])
    with pytest.raises(ValueError, match="frame 0 does not tell its time; give the time between frames"):
        read_trajectory([atoms, atoms])
    with pytest.raises(ValueError, match="holds H2 in its first frame and HO in frame 1"):
        read_trajectory([atoms, Atoms("HO", atoms.positions)], interval=1)
    with pytest.raises(ValueError, match="holds 1 frames of those asked for"):
        read_trajectory([atoms], interval=1)
    frames = [atoms.copy() for _ in range(4)]
    for frame, time in zip(frames, (0.0, 1.0, 5.0, 6.0), strict=True):
        frame.info["time_fs"] = time
    with pytest.raises(ValueError, match="are not equally spaced: 1 fs, but 4 fs at frame 1"):
        read_trajectory(frames)
    assert len(read_trajectory(frames[:3])) == 2  # the last frame of a run may stand off its interval


def test_unwrapped_positions_do_not_jump():
    cell = np.array([[4.0, 0, 0], [1.5, 5, 0], [0, 0, 6]])
    path = np.cumsum(np.random.default_rng(0).normal(scale=0.5, size=(100, 3, 3)), axis=0)
    wrapped = [Atoms("H3", x, cell=cell, pbc=(True, True, False)) for x in path]
    for atoms in wrapped:
        atoms.wrap()
    trajectory = read_trajectory(wrapped, interval=1.0)
    assert np.abs(np.diff(trajectory.positions, axis=0)).max() > 3
    moved = trajectory.unwrapped() - trajectory.positions[0]
    np.testing.assert_allclose(moved, path - path[0], atol=1e-9)


def test_temperature_counts_what_moves():
    rng = np.random.default_rng(0)
    positions = np.repeat(molecule("H2O").positions[None], 20, axis=0)
    velocities = rng.normal(size=(20, 3, 3))
    masses = molecule("H2O").get_masses()
    assert degrees_of_freedom(Trajectory(np.array([8, 1, 1]), masses, positions, 1.0, velocities)) == 9
    velocities -= np.average(velocities, axis=1, weights=masses)[:, None]
    assert degrees_of_freedom(Trajectory(np.array([8, 1, 1]), masses, positions, 1.0, velocities)) == 6
    single = Trajectory(np.array([2]), np.array([4.0]), positions[:, :1], 1.0, velocities[:, :1])
    assert degrees_of_freedom(single) == 3
    box = Trajectory(np.array([8, 1, 1]), masses, positions, 1.0, velocities, pbc=np.array([True] * 3))
    assert degrees_of_freedom(box) == 6


def test_temperature_is_that_of_ase(vibrating):
    folder = vibrating[-1]
    frames = ase.io.read(folder / "trajectory.xyz", ":100")
    mean = np.mean([atoms.get_temperature() for atoms in frames])  # shares the energy among 3N = 12
    assert kinetic_temperature(read_trajectory(frames)) == pytest.approx(mean * 12 / 6, rel=1e-6)


def test_command_leaves_tables_and_pictures(vibrating, model, tmp_path, monkeypatch, capsys):
    folder = vibrating[-1]
    monkeypatch.chdir(tmp_path)
    model.save("dipolar.safetensors")
    command = ["spectrum", str(folder / "trajectory.h5"), "--resolution", str(RESOLUTION)]
    assert main([*command, "--model", "dipolar.safetensors"]) == 0
    out = tmp_path / "trajectory_spectrum"
    facts = json.loads((out / "results.json").read_text())
    np.testing.assert_allclose(facts["power"]["peaks_per_cm"], vibrating[1], atol=0.3)
    assert set(facts) >= {"power", "infrared", "duration_ps"}
    for name in ("power", "infrared"):
        assert {path.suffix for path in out.glob(f"{name}.*")} == {".csv", ".png", ".svg"}
    table = np.loadtxt(out / "power.csv", delimiter=",", skiprows=1)
    assert np.trapezoid(table[:, 1], table[:, 0]) == pytest.approx(facts["power"]["area_modes"], rel=1e-4)
    capsys.readouterr()
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err


def test_command_refuses(vibrating, tmp_path, monkeypatch, capsys):
    folder = vibrating[-1]
    monkeypatch.chdir(tmp_path)
    frames = ase.io.read(folder / "trajectory.xyz", ":30")
    ase.io.write("nodipole.xyz", frames)
    os.truncate("nodipole.xyz", os.path.getsize("nodipole.xyz") - 40)
    cases = [
        (["nodipole.xyz"], "29 whole ones"),
        (["nodipole.xyz", "--drop-incomplete", "--resolution", "1000", "--kind", "infrared"], "has no dipoles"),
        (["nodipole.xyz", "--drop-incomplete", "--skip", "5"], "nothing is left after 5000 fs"),
        (["none.xyz"], "no file none.xyz"),
    ]
    for args, text in cases:
        assert main(["spectrum", *args]) == 2
        assert text in capsys.readouterr().err
    assert not list(tmp_path.glob("*_spectrum"))


def test_turning_with_the_molecule(vibrating):
    """A molecule that is also set in fast rotation shows the same internal spectrum, but for centrifugal shifts."""
    trajectory = read_trajectory(vibrating[-1] / "trajectory.h5")
    time = np.arange(len(trajectory)) * trajectory.interval
    axis, rate = np.array([1.0, 2.0, 2.0]) / 3, 2e-3  # 1/fs
    turns = np.array([_rotation(axis, rate * t) for t in time])
    positions = trajectory.positions @ turns.transpose(0, 2, 1)
    velocities = trajectory.velocities @ turns.transpose(0, 2, 1) + rate * np.cross(axis, positions)
    drift = np.array([0.01, 0, 0])
    positions, velocities = positions + drift * time[:, None, None], velocities + drift
    turning = Trajectory(trajectory.numbers, trajectory.masses, positions, 2.0, velocities, timestep=0.5)
    still, found = body_frame(trajectory), body_frame(turning)
    np.testing.assert_allclose(found.positions, still.positions, atol=1e-9)
    np.testing.assert_allclose(found.velocities, still.velocities, atol=1e-9)
    options = {"temperature": COLD, "resolution": RESOLUTION}
    one, other = power_spectrum(trajectory, **options), power_spectrum(turning, **options)
    np.testing.assert_allclose(other.values, one.values, atol=1e-6 * one.values.max())
    assert power_spectrum(turning, internal=False, **options).area(0, 200) > 10
    assert power_spectrum(turning, **options).area(0, 200) < 0.01


def test_nobody_turns_with_what_is_fixed():
    """An atom that swings about a fixed one vibrates; seen from a frame that turns with both, nothing would move."""
    positions = np.zeros((20000, 2, 3))
    positions[:, 1, 2] = 1
    positions[:, 1, 0] = 0.01 * np.sin(2 * np.pi * LIGHT * 1500 * 0.5 * np.arange(20000))
    swinging = Trajectory(np.array([6, 1]), np.array([12.0, 1.0]), positions, 0.5)
    spectrum = power_spectrum(swinging)
    assert spectrum.peaks() == pytest.approx([1500], abs=0.1)
    assert spectrum.area() == pytest.approx(3, rel=0.01), "all heat of three directions is in one of them"


def test_a_molecule_that_falls_apart_is_told():
    x = np.zeros((400, 2, 3))
    x[:, 1, 0] = 0.37 + 0.005 * np.arange(400) + 0.005 * np.sin(np.arange(400))
    x[:, 0] = -x[:, 1]
    with pytest.warns(UserWarning, match="begins with 1 bonded parts and ends with 2"):
        power_spectrum(Trajectory(np.array([1, 1]), np.ones(2), x, 0.5), resolution=200)


def _rotation(axis, angle):
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(axis * angle).as_matrix()
