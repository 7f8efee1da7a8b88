"""Reaction paths and transition states: the numbers of ASE, of one image alone, and what Hessians say."""

import json
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import FIRE

import anipot
from anipot.cli import main
from anipot.optimization.paths import BatchedNEB
from anipot.workfolder import WorkFolder


@pytest.fixture(scope="module")
def model():
    return anipot.load().double()


def umbrella():
    """Return ammonia, and ammonia turned over."""
    start = molecule("NH3")
    end = start.copy()
    end.positions[:, 2] *= -1
    return start, end


@pytest.fixture(scope="module")
def path(model):
    return anipot.reaction_path(*umbrella(), model, images=5, fmax=0.02)


def test_umbrella(path, model):
    """A symmetric path: its highest image is flat, and both barriers are one."""
    assert path.converged
    assert path.fmax < 0.02
    assert path.highest == 2
    assert path.barrier == pytest.approx(path.reverse_barrier, abs=1e-6)
    top = path.images[2]
    nitrogen, *hydrogens = top.positions
    normal = np.cross(hydrogens[1] - hydrogens[0], hydrogens[2] - hydrogens[0])
    assert abs((nitrogen - hydrogens[0]) @ normal) / np.linalg.norm(normal) < 1e-3
    assert np.linalg.norm(top.get_forces(), axis=1).max() < 0.02
    assert (np.diff(path.lengths) > 0).all()


def test_band_has_the_forces_of_ase(model):
    """One call for all images gives what ASE computes image by image."""
    start, end = umbrella()
    images = [start.copy() for _ in range(4)] + [end.copy()]
    NEB(images, method="improvedtangent").interpolate("idpp")
    alone = [image.copy() for image in images]
    for image in alone:
        image.calc = model.ase()
    options = {"method": "improvedtangent", "climb": True, "remove_rotation_and_translation": True}
    ours, theirs = BatchedNEB(images, model, **options), NEB(alone, **options)
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-7)
    steps = [FIRE(band, logfile=None) for band in (ours, theirs)]
    for optimizer in steps:
        optimizer.run(fmax=0.05, steps=10)
    for one, other in zip(ours.images, theirs.images, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)


def test_goes_through_a_guess(model):
    """A torsion by way of a guess on the other side takes the other way round."""
    start = molecule("C2H6")
    stays = start.positions[:, 2] < 0.9
    turned = []
    for angle in (60, 120):
        atoms = start.copy()
        atoms.rotate(angle, "z")
        atoms.positions[stays] = start.positions[stays]
        turned.append(atoms)
    found = anipot.reaction_path(start, turned[1], model, images=6, between=turned[0])
    assert found.converged
    assert len(found.images) == 6
    assert 0.08 < found.barrier < 0.16  # 0.125 eV by experiment


@pytest.mark.parametrize("images", [3, 4])
def test_few_images_by_way_of_a_guess(model, images):
    """The guess itself may be all that stands between it and an end."""
    start, end = umbrella()
    flat = start.copy()
    flat.positions[:, 2] = 0
    found = anipot.reaction_path(start, end, model, images=images, between=flat, steps=3)
    assert len(found.images) == images
    assert 0.1 < found.barrier < 0.5
    flat.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="atom 0 stands at"):
        anipot.reaction_path(start, end, model, images=images, between=flat)


def test_fixed_atoms_stay(model):
    start, end = umbrella()
    for atoms in (start, end):
        atoms.set_constraint(FixAtoms([0]))
    end.positions += start.positions[0] - end.positions[0]
    found = anipot.reaction_path(start, end, model, images=5, relax_ends=False, fmax=0.1)
    for image in found.images:
        np.testing.assert_allclose(image.positions[0], start.positions[0], atol=1e-12)


def test_says_what_is_wrong(model):
    start, end = umbrella()
    with pytest.raises(ValueError, match="start has the atoms NH3, end OH2"):
        anipot.reaction_path(start, molecule("H2O"), model)
    with pytest.raises(ValueError, match="at least 3 images"):
        anipot.reaction_path(start, end, model, images=2)
    with pytest.raises(ValueError, match="same structure"):
        anipot.reaction_path(start, start, model)
    short = anipot.reaction_path(start, end, model, images=5, steps=2, fmax=1e-4)
    assert not short.converged
    assert short.fmax > 1e-4
    assert short.steps <= 3


@pytest.fixture(scope="module")
def sella():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("sella")


def test_transition_state(sella, path, model):
    """One imaginary mode; both sides fall into the minima that the path came from, over the same barrier."""
    state = anipot.transition_state(path.images[path.highest], model)
    assert state.converged
    assert state.imaginary == 1
    assert state.frequencies.shape == (6,)
    assert np.linalg.norm(state.atoms.get_forces(), axis=1).max() < 0.01
    assert state.barriers == pytest.approx((path.barrier, path.reverse_barrier), abs=2e-3)
    over = [side.atoms.positions[0] - side.atoms.positions[1:].mean(0) for side in state.sides]
    assert over[0] @ over[1] < 0


def test_a_minimum_is_no_transition_state(sella, model):
    """Where the search may take no step it stays in a minimum, and says that nothing is imaginary."""
    relaxed = anipot.optimize(molecule("H2O"), model, fmax=1e-3)[0].atoms
    state = anipot.transition_state(relaxed, model, fmax=0.05, steps=0)
    assert not state.converged
    assert state.imaginary == 0
    assert state.sides is None
    assert state.why


def test_transition_states_are_of_molecules(model):
    atoms = molecule("NH3", cell=[5, 5, 5], pbc=True)
    with pytest.raises(ValueError, match="periodic"):
        anipot.transition_state(atoms, model)
    with pytest.raises(ValueError, match="this is a single atom"):
        anipot.transition_state(Atoms("H"), model)


def test_command(sella, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    start, end = umbrella()
    ase.io.write("start.xyz", start)
    ase.io.write("end.xyz", end)
    assert main(["neb", "start.xyz", "end.xyz", "--images", "5", "--ts", "--dtype", "float64"]) == 0
    assert "imaginary mode" in capsys.readouterr().out
    folder = tmp_path / "start_neb"
    names = {file.name for file in folder.iterdir()}
    assert names >= {"command.txt", "path.xyz", "path.png", "path.svg", "results.json", "transition_state.xyz"}
    assert {file.name for file in (folder / "inputs").iterdir()} == {"start.xyz", "end.xyz"}
    values = json.loads((folder / "results.json").read_text())
    images = ase.io.read(folder / "path.xyz", ":")
    energies = np.array([image.get_potential_energy() for image in images])
    np.testing.assert_allclose(values["energies_ev"], energies - energies[0], atol=1e-6)
    assert values["barrier_ev"] == pytest.approx(max(values["energies_ev"]))
    assert sum(one < 0 for one in values["transition_state"]["frequencies_per_cm"]) == 1


@pytest.mark.parametrize("name", ["end.xyz", "--between", "--model"])
def test_command_keeps_what_it_reads(tmp_path, monkeypatch, capsys, name):
    """All that is named may lie in the folder of the last command, which is to be replaced."""
    monkeypatch.chdir(tmp_path)
    start, end = umbrella()
    WorkFolder("out", ["neb"])
    inside = Path("out/inside.safetensors" if name == "--model" else "out/inside.xyz")
    ase.io.write("start.xyz", start)
    ase.io.write("end.xyz", end)
    if name == "--model":
        anipot.load().save(inside)
    else:
        ase.io.write(inside, end)
    files = ["start.xyz", str(inside)] if name == "end.xyz" else ["start.xyz", "end.xyz", name, str(inside)]
    assert main(["neb", *files, "--folder", "out", "--overwrite"]) == 2
    assert f"{inside} lies in out, which --overwrite would delete" in capsys.readouterr().err
    assert inside.exists()


def test_command_marks_what_did_not_converge(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("both.traj", umbrella())
    assert main(["neb", "both.traj", "--images", "5", "--steps", "1", "--fmax", "1e-5"]) == 1
    assert "forces on the band reach" in capsys.readouterr().err
    assert not json.loads((tmp_path / "both_neb" / "results.json").read_text())["converged"]
    ase.io.write("one.xyz", umbrella()[0])
    assert main(["neb", "one.xyz"]) == 2
    assert "holds 1 frames; expected two" in capsys.readouterr().err
