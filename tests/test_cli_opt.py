"""``anipot opt``: a folder with geometries, numbers and a picture, and exit codes that say how it went."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import anipot
from anipot.cli import main


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def frames(tmp_path):
    found = [molecule(name) for name in ("H2O", "CH3OH", "CH4")]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    ase.io.write(tmp_path / "three.xyz", found)
    return ase.io.read(tmp_path / "three.xyz", ":")


def test_leaves_a_folder(frames, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["opt", "three.xyz", "-o", "copy.traj", "--trajectory", "steps.traj"]) == 0
    assert "3 of 3 frames converged; more in three_opt" in capsys.readouterr().out
    folder = tmp_path / "three_opt"
    names = {file.name for file in folder.iterdir()}
    assert names == {"command.txt", "inputs", "results.json", "optimized.xyz", "convergence.png", "convergence.svg"}
    assert (folder / "command.txt").read_text().startswith("anipot opt three.xyz -o copy.traj")
    records = json.loads((folder / "results.json").read_text())["frames"]
    relaxed, copied = ase.io.read(folder / "optimized.xyz", ":"), ase.io.read("copy.traj", ":")
    expected = anipot.optimize(frames, anipot.load())
    for record, atoms, copy, one in zip(records, relaxed, copied, expected, strict=True):
        assert record["converged"]
        assert atoms.info["converged"]
        assert record["steps"] == one.steps == len(record["energies_hartree"]) - 1
        assert record["fmax_ev_per_angstrom"] < 0.01
        assert record["energy_hartree"] == pytest.approx(one.energy, abs=1e-7)
        np.testing.assert_allclose(atoms.positions, one.atoms.positions, atol=1e-5)
        np.testing.assert_allclose(copy.get_forces(), one.atoms.get_forces(), atol=1e-4)
    steps = ase.io.read("steps.traj", ":")
    assert len(steps) == sum(one.steps + 1 for one in expected)


def test_does_not_write_over_a_folder(frames, capsys):
    arguments = ["opt", "three.xyz", "--index", "0"]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert main([*arguments, "--folder", "other"]) == 0


def test_marks_what_did_not_converge(frames, tmp_path, capsys):
    assert main(["opt", "three.xyz", "--steps", "1", "--fmax", "1e-9"]) == 1
    told = capsys.readouterr().err
    assert "three.xyz, frame 2 did not converge: the largest force is" in told
    assert "3 of 3 frames did not converge" in told
    assert not any(atoms.info["converged"] for atoms in ase.io.read("three_opt/optimized.xyz", ":"))
    assert all(one["why"] for one in json.loads((tmp_path / "three_opt" / "results.json").read_text())["frames"])


@pytest.mark.parametrize("extra", [["--method", "fire"], ["--no-precondition"], ["--batch-size", "1"]])
def test_options(frames, extra):
    assert main(["opt", "three.xyz", "--index", "2", *extra]) == 0
    atoms = ase.io.read("three_opt/optimized.xyz")
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.01


def test_cells(tmp_path):
    atoms = Atoms("CO2", [[0, 0, 0], [1.17, 0, 0], [-1.17, 0, 0]], cell=[4.5, 3.5, 3.5], pbc=True)
    ase.io.write(tmp_path / "box.xyz", atoms)
    assert main(["opt", "box.xyz", "--cell", "--pressure", "1", "--steps", "3", "--fmax", "1e-9"]) == 1
    relaxed = ase.io.read("box_opt/optimized.xyz")
    assert np.abs(relaxed.cell.array - atoms.cell.array).max() > 1e-4
    stress = relaxed.get_stress()
    relaxed.calc = anipot.load().ase()
    np.testing.assert_allclose(relaxed.get_stress(), stress, atol=1e-6)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--cell"], "frame 0 is not periodic"),
        (["--pressure", "1"], "--cell"),
        (["-o", "x.foo"], ".foo"),
        (["--fmax", "0"], "fmax"),
        (["--method", "newton"], "newton"),
    ],
)
def test_bad_usage(frames, capsys, extra, text):
    assert main(["opt", "three.xyz", *extra]) == 2
    assert text in capsys.readouterr().err
    assert not Path("three_opt").exists()  # so that the corrected command can be given


@pytest.mark.parametrize("command", ["opt", "vib", "md", "neb", "sp"])
def test_frames_without_atoms(frames, tmp_path, capsys, command):
    ase.io.write("none.xyz", Atoms())
    more = {"md": ["--steps", "1"], "neb": ["none.xyz"]}.get(command, [])
    assert main([command, "none.xyz", *more]) == 2
    assert "none.xyz, frame 0 has no atoms" in capsys.readouterr().err
    assert not list(tmp_path.glob(f"none_{command}"))
