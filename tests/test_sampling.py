"""New structures: the formulas of the papers, the same result after a kill, labels that reach their structures."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Ensemble, Potential
from anipot.cli import main
from anipot.data.blocks import Block, DataError
from anipot.data.memory import MemorySource, blocks_of_atoms
from anipot.data.source import open_source
from anipot.sampling import (
    CalculatorFactory,
    CalculatorLabeller,
    NormalModes,
    PotentialLabeller,
    SampleSettings,
    conformers,
    disagreement,
    displaced,
    join,
    label,
    normal_modes,
    sample,
    until_uncertain,
)
from anipot.sampling.geometry import beside, collides, superpose
from anipot.sampling.normal_modes import BOLTZMANN
from anipot.sampling.picked import ID, text_id
from anipot.sampling.state import State, identities
from anipot.units import HARTREE_TO_EV, HARTREE_TO_KCALMOL

CALM = SampleSettings(
    threshold=1.3, conformers=30, trajectories=3, steps=60, relax=False, methods=("modes", "dynamics"), seed=3
)


def committee(members: int = 3, scale: float = 0.05) -> Potential:
    """Return an ensemble whose members say something about any molecule, and nothing wild."""
    torch.manual_seed(1)
    models = []
    for _ in range(members):
        networks = [AtomicNetwork((384, 8, 1), CELU(0.1)).double() for _ in range(4)]
        for network in networks:
            network.linears[-1].weight.data *= scale
            network.linears[-1].bias.data.zero_()
        models.append(ANIModel(networks))
    shifter = EnergyShifter([-0.5, -38.0, -54.0, -75.0])
    return Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), Ensemble(models), shifter, name="calm").double()


@pytest.fixture(scope="module")
def model() -> Potential:
    return committee()


@pytest.fixture
def molecules() -> list[Atoms]:
    """Return molecules of which the committee is sure, but of the first."""
    return [molecule(name) for name in ("H2O", "CH3OH", "N2H4", "H2CO")]


def block(*frames: Atoms) -> Block:
    return blocks_of_atoms(frames, {})[0][0]


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def test_disagreement_is_the_spread_over_the_root_of_the_atoms(model):
    frames = [molecule("CH3OH") for _ in range(7)]
    for i, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=i)
    each = [[member.ase().get_potential_energy(atoms) for member in model] for atoms in frames]
    expected = np.std(each, axis=1, ddof=1) / HARTREE_TO_EV * HARTREE_TO_KCALMOL / np.sqrt(6)
    for batch_atoms in (1, 12, 4096):
        assert disagreement(model, block(*frames), batch_atoms) == pytest.approx(expected, rel=1e-6)
    assert expected.min() > 0


def test_a_lone_model_has_nobody_to_ask(model, molecules, tmp_path):
    with pytest.raises(ValueError, match="1 member"):
        sample(model[0], tmp_path / "p.h5", molecules, CALM)


def bonded() -> NormalModes:
    """Two springs at right angles: three atoms, modes that are not those of any molecule, but known."""
    modes = np.zeros((2, 3, 3))
    modes[0, 0, 0], modes[1, 1, 1] = 1.0, 1.0
    return NormalModes(np.array([8, 1, 1]), molecule("H2O").positions, modes, np.array([2.0, 5.0]))


def test_harmonic_energies_share_three_halves_kt_for_each_atom():
    found = bonded()
    temperatures = np.full(20000, 300.0)
    shift = displaced(found, temperatures, np.random.default_rng(0)) - found.coordinates
    lengths = np.einsum("nax,max->nm", shift, found.modes)
    constants = found.force_constants / anipot.units.MHESSIAN_TO_FCONST
    shares = 0.5 * constants * lengths**2 / (1.5 * 3 * BOLTZMANN * 300)
    total = shares.sum(1)
    assert total.max() <= 1
    assert total.min() >= 0
    assert total.mean() == pytest.approx(0.5, abs=0.01)  # uniform between 0 and 1
    assert total.var() == pytest.approx(1 / 12, abs=0.003)
    assert shares.mean(0) == pytest.approx([0.25, 0.25], abs=0.01)
    assert (lengths > 0).mean(0) == pytest.approx([0.5, 0.5], abs=0.02)


def test_boltzmann_constant_is_that_of_ase():
    from ase import units

    assert pytest.approx(units.kB / units.Hartree, rel=1e-9) == BOLTZMANN


def test_normal_modes_of_a_published_model_have_the_harmonic_energy(ani1x):
    """Displaced a little along real modes, a molecule has the energy that its force constants say."""
    from ase.optimize import BFGS

    atoms = molecule("CH3OH")
    atoms.calc = ani1x.ase()
    BFGS(atoms, logfile=None).run(fmax=1e-5)
    found = normal_modes(ani1x, atoms.numbers, atoms.positions)
    assert found.modes.shape == (12, 6, 3)
    assert np.linalg.norm(found.modes.reshape(12, -1), axis=1) == pytest.approx(np.ones(12))
    cold = np.full(8, 0.5)  # K
    rng = np.random.default_rng(5)
    geometries = displaced(found, cold, np.random.default_rng(5))
    share = rng.dirichlet(np.ones(12), size=8) * rng.random((8, 1))  # the numbers that it drew
    expected = share.sum(1) * 1.5 * 6 * BOLTZMANN * 0.5 * HARTREE_TO_EV
    minimum = atoms.get_potential_energy()
    for geometry, energy in zip(geometries, expected, strict=True):
        atoms.positions[:] = geometry
        assert atoms.get_potential_energy() - minimum == pytest.approx(energy, rel=0.03)


def test_a_linear_molecule_has_one_mode_more_and_an_atom_none(model):
    found = normal_modes(model, np.array([8, 6, 8]), np.array([[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]]))
    assert len(found.modes) == 4
    lone = normal_modes(model, np.array([8]), np.zeros((1, 3)))
    assert displaced(lone, np.full(3, 300.0), np.random.default_rng(0)).shape == (3, 1, 3)


def test_soft_and_negative_modes_do_not_tear_molecules_apart():
    found = bonded()
    loose = NormalModes(found.numbers, found.coordinates, found.modes, np.array([-1.0, 1e-9]))
    geometries, temperatures = conformers(loose, 50, (500.0, 800.0), np.random.default_rng(0))
    assert len(geometries) == len(temperatures) == 50
    assert np.abs(geometries - found.coordinates).max() <= 2.0
    assert not collides(found.numbers, geometries).any()
    assert ((temperatures >= 500) & (temperatures <= 800)).all()


@pytest.mark.parametrize("closest", [1.2, 3.0, 6.0])
def test_dimers_touch_at_the_distance_that_was_asked_for(closest):
    one, other = molecule("C6H6"), molecule("CH3OH")
    for seed in range(5):
        placed = beside(one.positions, other.positions, closest, np.random.default_rng(seed))
        distances = np.linalg.norm(one.positions[:, None] - placed[None], axis=-1)
        assert distances.min() == pytest.approx(closest, abs=1e-9)
        inner = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (placed, other.positions)]
        assert inner[0] == pytest.approx(inner[1], abs=1e-9)


@pytest.mark.parametrize("name", ["CH3OH", "CO2", "H2", "C6H6"])
def test_superposition_finds_the_turn(name):
    from scipy.spatial.transform import Rotation

    fixed = molecule(name).positions
    turn = Rotation.random(random_state=4).as_matrix()
    moved = fixed @ turn.T + [1.0, -2.0, 3.0]
    rotation, shift, left = superpose(moved, fixed)
    assert left < 1e-7
    assert moved @ rotation.T + shift == pytest.approx(fixed, abs=1e-7)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_a_mirror_image_is_another_molecule():
    hand = np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.4, 0], [0, 0, 1.8], [-0.7, -0.7, -0.6]])
    assert superpose(hand * [1, 1, -1], hand)[2] > 0.1


def test_dynamics_stops_at_the_first_uncertain_geometry(model):
    atoms = molecule("CH3OH")
    calculator = model.ase()
    rho = disagreement(model, block(atoms))[0]
    sure = until_uncertain(calculator, atoms, 1e9, 300, np.random.default_rng(0), steps=12, interval=5)
    assert sure.steps == 12
    assert sure.uncertain is None
    assert not np.allclose(sure.trusted, atoms.positions)
    at_once = until_uncertain(calculator, atoms, rho / 2, 300, np.random.default_rng(0))
    assert at_once.steps == 0
    assert np.array_equal(at_once.uncertain, atoms.positions)
    late = until_uncertain(calculator, atoms, rho * 1.0001, 800, np.random.default_rng(2), steps=400, interval=4)
    assert late.uncertain is not None
    assert late.steps % 4 == 0
    atoms.positions[:] = late.uncertain
    assert disagreement(model, block(atoms))[0] == pytest.approx(late.rho)
    assert late.rho > rho * 1.0001
    atoms.positions[:] = late.trusted
    assert disagreement(model, block(atoms))[0] <= rho * 1.0001


# ---------------------------------------------------------------------------------------------------------------------
# The search


def test_chosen_structures_are_above_the_threshold_and_the_same_in_both_files(model, molecules, tmp_path):
    settings = SampleSettings(**{**vars(CALM), "methods": ("modes", "dynamics", "dimers"), "dimers": 10})
    report = sample(model, tmp_path / "p.h5", molecules, settings, progress=False)
    frames = ase.io.read(tmp_path / "p.extxyz", ":")
    source = open_source(tmp_path / "p.h5")
    assert report.chosen == len(frames) == sum(group.size for group in source.groups) > 20
    assert sum(chosen for _, chosen in report.totals.values()) == report.chosen + report.duplicates
    by_id = {atoms.info["id"]: atoms for atoms in frames}
    assert len(by_id) == len(frames)
    for i, group in enumerate(source.groups):
        found = source.read(i, slice(0, group.size))
        rho = disagreement(model, found)
        assert (rho > settings.threshold).all()
        assert found.properties["qbc"] * HARTREE_TO_KCALMOL == pytest.approx(rho)
        for k, number in enumerate(found.properties["id"]):
            atoms = by_id[text_id(number)]
            assert atoms.numbers.tolist() == found.species[k].tolist()
            assert atoms.positions == pytest.approx(found.coordinates[k], abs=1e-7)
            assert atoms.info["qbc_kcalmol"] == pytest.approx(rho[k], abs=1e-6)
            assert text_id(identities(found)[k]) == atoms.info["id"]
    assert not list(tmp_path.glob("*.state"))
    origins = " ".join(atoms.info["origin"] for atoms in frames)
    assert "normal modes at" in origins
    assert "apart" in origins


def test_threshold_zero_takes_everything_and_asks_nobody(model, molecules, tmp_path):
    methods = ("modes", "dynamics")
    how = {"trajectories": 2, "steps": 25, "interval": 10, "timestep": 0.1}
    settings = SampleSettings(methods, 0, (50, 60), conformers=5, relax=False, **how)
    report = sample(model[0], tmp_path / "p.h5", molecules, settings, progress=False)
    assert report.totals["modes"] == (20, 20)
    assert report.totals["dynamics"] == (24, 24)  # of 4 molecules, twice after 10, 20 and 25 steps
    assert report.chosen == 44
    origins = " ".join(atoms.info["origin"] for atoms in ase.io.read(tmp_path / "p.extxyz", ":"))
    assert origins.count(", 2.5 fs at") == 8


def test_frames_are_chosen_where_they_are_and_once(model, tmp_path):
    frames = [molecule("CH3OH") for _ in range(40)]
    for i, atoms in enumerate(frames):
        atoms.rattle(0.01 + 0.005 * i, seed=i)
    frames.append(frames[-1].copy())
    rho = disagreement(model, block(*frames))
    threshold = float(np.median(rho))
    source = MemorySource([block(*frames)])
    settings = SampleSettings(methods=("frames",), threshold=threshold)
    report = sample(model, tmp_path / "p.h5", settings=settings, frames=source, progress=False)
    assert report.totals["frames"] == (41, int((rho > threshold).sum()))
    assert report.duplicates == int(rho[-1] > threshold)
    limited = SampleSettings(methods=("frames",), threshold=threshold, limit=3)
    sample(model, tmp_path / "q.h5", settings=limited, frames=source, progress=False)
    best = sorted(a.info["qbc_kcalmol"] for a in ase.io.read(tmp_path / "q.extxyz", ":"))
    assert best[-1] == pytest.approx(rho.max(), abs=1e-6)
    assert len(best) in (2, 3)  # the largest may be the one that came twice


def test_periodic_frames_keep_their_cells(model, tmp_path):
    atoms = molecule("CH3OH", cell=[6, 7, 8], pbc=[True, False, True])
    settings = SampleSettings(methods=("dynamics",), threshold=1e-6, relax=False)
    sample(model, tmp_path / "p.h5", [atoms], settings, progress=False)
    found = ase.io.read(tmp_path / "p.extxyz")
    assert found.pbc.tolist() == [True, False, True]
    assert found.cell.lengths() == pytest.approx([6, 7, 8])
    assert open_source(tmp_path / "p.h5").periodic


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_result_depends_on_the_seed_only(model, molecules, tmp_path, workers):
    sample(model, tmp_path / "a.h5", molecules, CALM, progress=False)
    sample(model, tmp_path / "b.h5", molecules, CALM, progress=False, workers=workers)
    other = SampleSettings(**{**vars(CALM), "seed": 4})
    sample(model, tmp_path / "c.h5", molecules, other, progress=False)
    texts = [(tmp_path / f"{name}.extxyz").read_bytes() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 4, 11])
def test_a_run_that_stops_anywhere_goes_on(model, molecules, tmp_path, monkeypatch, after):
    sample(model, tmp_path / "whole.h5", molecules, CALM, progress=False)
    commit, done = State.commit, []

    def stop(self, step, outcome):
        if len(done) == after:
            raise _Killed
        commit(self, step, outcome)
        done.append(step)

    monkeypatch.setattr(State, "commit", stop)
    with pytest.raises(_Killed):
        sample(model, tmp_path / "cut.h5", molecules, CALM, progress=False)
    monkeypatch.setattr(State, "commit", lambda self, step, outcome: (commit(self, step, outcome), done.append(step)))
    with pytest.raises(FileExistsError, match="resume"):
        sample(model, tmp_path / "cut.h5", molecules, CALM, progress=False)
    other = SampleSettings(**{**vars(CALM), "threshold": 1.4})
    with pytest.raises(DataError, match="settings"):
        sample(model, tmp_path / "cut.h5", molecules, other, progress=False, resume=True)
    sample(model, tmp_path / "cut.h5", molecules, CALM, progress=False, resume=True)
    assert len(done) == len(set(done))  # no step was done twice
    assert (tmp_path / "cut.extxyz").read_bytes() == (tmp_path / "whole.extxyz").read_bytes()
    for i, group in enumerate(open_source(tmp_path / "whole.h5").groups):
        whole, cut = (open_source(tmp_path / f"{name}.h5").read(i, slice(0, group.size)) for name in ("whole", "cut"))
        assert np.array_equal(whole.coordinates, cut.coordinates)
        assert np.array_equal(whole.properties["id"], cut.properties["id"])


def test_a_molecule_that_does_not_relax_is_told(model, tmp_path):
    settings = SampleSettings(methods=("modes",), fmax=1e-9, relax_steps=2, threshold=0.1)
    report = sample(model, tmp_path / "p.h5", [molecule("CH4")], settings, progress=False, names=["methane"])
    assert report.chosen == 0
    assert report.notes == ["methane did not relax to 1e-09 eV/Å in 2 steps"]


def test_one_broken_molecule_does_not_end_the_search(model, tmp_path):
    broken = Atoms("CH4", molecule("CH4").positions)
    broken.positions[1] = broken.positions[0]
    settings = SampleSettings(methods=("modes",), relax_steps=1, fmax=100, threshold=0.1, conformers=5)
    report = sample(model, tmp_path / "p.h5", [broken, molecule("H2O")], settings, names="ab", progress=False)
    assert report.totals["modes"][0] == 5
    assert len(report.notes) == 1
    assert report.notes[0].startswith("a: ")


def test_given_frames_with_other_elements_are_refused(model, tmp_path):
    source = MemorySource([block(molecule("H2O")), block(molecule("SH2"))])
    settings = SampleSettings(methods=("frames",))
    with pytest.raises(DataError, match="atom 0 is S; the model knows H, C, N, O"):
        sample(model, tmp_path / "p.h5", settings=settings, frames=source, progress=False)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"methods": ("magic",)}, "magic"),
        ({"threshold": -1.0}, "threshold"),
        ({"temperature": (300, 100)}, "temperature"),
        ({"conformers": 0}, "conformers"),
        ({"start": "there"}, "start"),
    ],
)
def test_settings_are_checked(change, text):
    with pytest.raises(ValueError, match=text):
        SampleSettings(**{**vars(CALM), **change})


def test_inputs_are_checked(model, tmp_path):
    with pytest.raises(ValueError, match="holds S; the model knows"):
        sample(model, tmp_path / "p.h5", [molecule("H2O"), molecule("SH2")], CALM)
    with pytest.raises(ValueError, match="periodic"):
        sample(model, tmp_path / "p.h5", [molecule("H2O", cell=[5, 5, 5], pbc=True)], CALM)
    with pytest.raises(ValueError, match="need molecules"):
        sample(model, tmp_path / "p.h5", [], CALM)


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def structures(spoil=lambda blocks: None) -> MemorySource:
    """Return 30 structures of two sizes with ids."""
    blocks = []
    for name in ("H2O", "CH3OH"):
        frames = [molecule(name) for _ in range(15)]
        for i, atoms in enumerate(frames):
            atoms.rattle(0.05, seed=i)
        found = block(*frames)
        found.properties["id"] = identities(found)
        blocks.append(found)
    spoil(blocks)
    return MemorySource(blocks, {"id": ID})


def test_a_potential_labels_what_single_point_says(model, tmp_path):
    source = structures()
    report = label(source, tmp_path / "l.h5", PotentialLabeller(model, batch_atoms=20), progress=False)
    assert (report.labelled, report.failed, report.failures) == (30, 0, None)
    labelled = open_source(tmp_path / "l.h5")
    assert labelled.metadata["level_of_theory"] == "calm"
    for i in range(2):
        given, found = source.read(i, slice(0, 15)), labelled.read(i, slice(0, 15))
        expected = anipot.single_point(model, torch.tensor(given.species), torch.tensor(given.coordinates))
        assert np.array_equal(found.properties["id"], given.properties["id"])
        assert found.properties["energies"] == pytest.approx(expected.energies.numpy(), abs=1e-9)
        assert found.properties["forces"] == pytest.approx(expected.forces.numpy(), abs=1e-9)
    assert not list(tmp_path.glob("*failed*"))


def test_what_a_potential_cannot_compute_is_listed_and_left_out(model, tmp_path):
    def spoil(blocks):
        blocks[1].species[4, 0] = 16
        blocks[1].coordinates[7, 2, 1] = np.nan

    source = structures(spoil)
    report = label(source, tmp_path / "l.h5", PotentialLabeller(model), progress=False)
    assert (report.labelled, report.failed) == (28, 2)
    lines = [json.loads(line) for line in Path(report.failures).read_text().splitlines()]
    assert [(line["group"], line["row"]) for line in lines] == [(1, 4), (1, 7)]
    assert "is S" in lines[0]["reason"]
    assert lines[0]["id"] == int(source.read(1, slice(4, 5)).properties["id"][0])
    assert len(open_source(tmp_path / "l.h5").read(1, slice(0, 13)).species) == 13


KILLED = """
import os, sys, numpy as np
sys.path.insert(0, {tests!r})
from test_sampling import *
import anipot.sampling.labelling as module
module._FLUSH = 0.0

class Killed(PotentialLabeller):
    def label(self, blocks):
        for i, found in enumerate(super().label(blocks)):
            if i == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield found

label(spoiled(), {output!r}, Killed(committee(), rows=4), progress=False)
"""


def spoiled() -> MemorySource:
    def spoil(blocks):
        blocks[0].species[1, 0] = 16
        blocks[1].species[3, 0] = 16

    return structures(spoil)


def test_a_killed_labelling_goes_on(model, tmp_path, monkeypatch):
    output = tmp_path / "cut.h5"
    script = KILLED.format(tests=str(Path(__file__).parent), output=str(output))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not output.exists()
    with pytest.raises(DataError, match="another labeller"):
        label(spoiled(), output, PotentialLabeller(committee(members=2)), resume=True, progress=False)
    seen = []
    source = spoiled()
    read = source.read
    monkeypatch.setattr(source, "read", lambda group, rows: (seen.append((group, rows.start)), read(group, rows))[1])
    resumed = label(source, output, PotentialLabeller(model, rows=4), resume=True, progress=False)
    assert seen[0] == (1, 0)  # four blocks were kept
    whole = label(spoiled(), tmp_path / "whole.h5", PotentialLabeller(model, rows=4), progress=False)
    assert (resumed.labelled, resumed.failed) == (whole.labelled, whole.failed) == (28, 2)
    assert Path(resumed.failures).read_text() == Path(whole.failures).read_text()
    for i in range(2):
        a, b = (open_source(path).read(i, slice(0, 14)) for path in (output, tmp_path / "whole.h5"))
        assert np.array_equal(a.properties["id"], b.properties["id"])
        assert a.properties["forces"] == pytest.approx(b.properties["forces"], abs=1e-12)
    with pytest.raises(FileExistsError, match="complete"):
        label(spoiled(), output, PotentialLabeller(model), resume=True, progress=False)


BRITTLE = """
import os
import numpy as np
from ase.calculators.lj import LennardJones

class Brittle(LennardJones):
    def calculate(self, atoms, *rest):
        if atoms.positions[0, 0] > 90:
            os._exit(1)
        if atoms.positions[0, 0] > 80:
            raise RuntimeError("no convergence")
        super().calculate(atoms, *rest)
        if atoms.positions[0, 0] > 70:
            self.results["forces"] = self.results["forces"] * np.nan
"""


@pytest.mark.slow
def test_a_calculator_may_fail_and_even_die(tmp_path, monkeypatch):
    """One structure takes its process down; all others are labelled, each with its own labels."""
    (tmp_path / "brittle.py").write_text(BRITTLE)
    monkeypatch.syspath_prepend(tmp_path)

    def spoil(blocks):
        for row, place in ((3, 100.0), (5, 85.0), (6, 75.0)):
            blocks[0].coordinates[row] += place

    source = structures(spoil)
    labeller = CalculatorLabeller(CalculatorFactory("brittle:Brittle", {"sigma": 1.0}))
    report = label(source, tmp_path / "l.h5", labeller, progress=False)
    assert (report.labelled, report.failed) == (27, 3)
    reasons = [json.loads(line)["reason"] for line in Path(report.failures).read_text().splitlines()]
    assert "died" in reasons[0]
    assert reasons[1] == "RuntimeError: no convergence"
    assert "NaN" in reasons[2]
    reference = CalculatorFactory("ase.calculators.lj:LennardJones", {"sigma": 1.0})()
    found = open_source(tmp_path / "l.h5").read(1, slice(0, 15))
    assert np.array_equal(found.properties["id"], source.read(1, slice(0, 15)).properties["id"])
    for i in range(15):
        atoms = Atoms(found.species[i], found.coordinates[i], calculator=reference)
        assert found.properties["energies"][i] * HARTREE_TO_EV == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
        assert found.properties["forces"][i] * HARTREE_TO_EV == pytest.approx(atoms.get_forces(), rel=1e-9)


@pytest.mark.slow
def test_tblite_labels(tmp_path):
    pytest.importorskip("tblite")
    source = structures()
    labeller = CalculatorLabeller(CalculatorFactory("tblite"), ("energies", "forces", "dipole"), workers=2)
    report = label(source, tmp_path / "l.h5", labeller, progress=False)
    assert (report.labelled, report.failed) == (30, 0)
    found = open_source(tmp_path / "l.h5").read(0, slice(0, 15))
    assert found.properties["energies"].min() == pytest.approx(-5.0704, abs=0.005)  # of water at rest, Hartree
    assert np.linalg.norm(found.properties["dipole"], axis=1) == pytest.approx(np.full(15, 0.45), abs=0.2)  # e Å
    assert np.abs(found.properties["forces"].sum(1)).max() < 1e-6


def test_calculators_are_found_or_refused():
    with pytest.raises(ValueError, match="no calculator 'nonsense'"):
        CalculatorFactory("nonsense")()
    with pytest.raises(ValueError, match="no calculator 'ase:Nothing'"):
        CalculatorFactory("ase:Nothing")()
    with pytest.raises(ValueError, match="expected energies"):
        CalculatorLabeller(CalculatorFactory("emt"), ("forces",))


# ---------------------------------------------------------------------------------------------------------------------
# Results of other programs


@pytest.fixture
def picked(model, molecules, tmp_path) -> Path:
    sample(model, tmp_path / "picked.h5", molecules, CALM, progress=False)
    return tmp_path / "picked.h5"


def computed(atoms: Atoms, calculator) -> Atoms:
    """Return the frame with its energy, forces and dipole as ASE has them."""
    atoms = atoms.copy()
    atoms.calc = calculator
    values = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "dipole": atoms.positions.sum(0)}
    atoms.calc = SinglePointCalculator(atoms, **values)
    return atoms


def test_results_reach_their_structures(model, picked, tmp_path):
    """In any order, turned and shifted, in one file or in folders named after the ids."""
    from scipy.spatial.transform import Rotation

    teacher = committee(members=1).ase()
    frames = ase.io.read(picked.with_suffix(".extxyz"), ":")
    rng = np.random.default_rng(0)
    rng.shuffle(frames)
    half = len(frames) // 2
    turned = []
    for atoms in frames[:half]:
        moved = atoms.copy()
        moved.positions = atoms.positions @ Rotation.random(random_state=rng).as_matrix().T + rng.normal(size=3)
        turned.append(computed(moved, teacher))
    ase.io.write(tmp_path / "one.extxyz", turned)
    for atoms in frames[half:]:
        folder = tmp_path / "many" / atoms.info["id"]
        folder.mkdir(parents=True)
        result = computed(atoms, teacher)
        result.info.clear()
        ase.io.write(folder / "result.xyz", result, format="extxyz")
    report = join(open_source(picked), [tmp_path / "one.extxyz", tmp_path / "many"], tmp_path / "t.h5", progress=False)
    assert report.joined == len(frames)
    source, given = open_source(tmp_path / "t.h5"), open_source(picked)
    assert set(source.quantities) == {"id", "energies", "forces", "dipole"}
    for i, group in enumerate(source.groups):
        found, asked = source.read(i, slice(0, group.size)), given.read(i, slice(0, group.size))
        assert np.array_equal(found.properties["id"], asked.properties["id"])
        assert np.array_equal(found.coordinates, asked.coordinates)
        expected = anipot.single_point(teacher.model, torch.tensor(found.species), torch.tensor(found.coordinates))
        assert found.properties["energies"] == pytest.approx(expected.energies.numpy(), abs=1e-6)
        assert found.properties["forces"] == pytest.approx(expected.forces.numpy(), abs=1e-6)


def test_keys_and_units_of_results(picked, tmp_path):
    frames = ase.io.read(picked.with_suffix(".extxyz"), ":")
    for i, atoms in enumerate(frames):
        atoms.info["REF_energy"] = -100.0 - i
        atoms.arrays["gradient"] = np.full((len(atoms), 3), 0.5)
    ase.io.write(tmp_path / "r.extxyz", frames)
    fields = {"energies": "REF_energy [kcal/mol]", "forces": "-gradient [Hartree/bohr]"}
    join(open_source(picked), [tmp_path / "r.extxyz"], tmp_path / "t.h5", fields=fields, progress=False)
    found = open_source(tmp_path / "t.h5").read(0, slice(0, 1)).properties
    assert -1 < found["energies"][0] * HARTREE_TO_KCALMOL + 100 < len(frames)
    assert found["forces"] == pytest.approx(-0.5 / 0.529177210564, rel=1e-6)


def test_a_dipole_of_three_atoms_is_no_value_of_atoms(model, molecules, tmp_path):
    water = [atoms for atoms in molecules if len(atoms) == 3]
    assert water
    sample(model, tmp_path / "w.h5", water, CALM, progress=False)
    teacher = committee(members=1).ase()
    frames = [computed(atoms, teacher) for atoms in ase.io.read(tmp_path / "w.extxyz", ":")]
    ase.io.write(tmp_path / "r.extxyz", frames)
    fields = {"energies": "energy [eV]", "forces": "forces [eV/Å]", "dipole": "dipole [e*Å]"}
    picked = open_source(tmp_path / "w.h5")
    join(picked, [tmp_path / "r.extxyz"], tmp_path / "t.h5", fields=fields, progress=False)
    found = open_source(tmp_path / "t.h5").read(0, slice(0, 1)).properties
    np.testing.assert_allclose(found["dipole"][0], frames[0].positions.sum(0), rtol=1e-6)
    assert found["forces"].shape == (1, 3, 3)
    with pytest.raises(DataError, match=r"no result has charges \('q \[e\]'\); nothing was written"):
        join(picked, [tmp_path / "r.extxyz"], tmp_path / "u.h5", fields=fields | {"charges": "q [e]"}, progress=False)


def test_results_that_do_not_fit_are_named(picked, tmp_path):
    teacher = committee(members=1).ase()
    frames = [computed(atoms, teacher) for atoms in ase.io.read(picked.with_suffix(".extxyz"), ":")]
    names = [atoms.info["id"] for atoms in frames]
    frames[0].positions[0] += 0.05  # not where it was
    frames[1].numbers[0] = 7  # another element
    frames[2].info["id"] = "id-00000000000ff"  # of another search
    del frames[3].info["id"]
    frames[4].calc = None
    frames[5].calc.results["forces"][0, 0] = np.nan
    ase.io.write(tmp_path / "r.extxyz", [*frames, frames[6]])
    (tmp_path / "notes.pdf").write_text("no result")
    results = [tmp_path / "r.extxyz", tmp_path / "notes.pdf"]
    with pytest.raises(DataError, match=r"6 without a result .* nothing was written"):
        join(open_source(picked), results, tmp_path / "t.h5", progress=False)
    assert not (tmp_path / "t.h5").exists()
    report = join(open_source(picked), results, tmp_path / "t.h5", incomplete=True, progress=False)
    assert sorted(report.missing) == sorted(names[:6])
    assert report.joined == len(frames) - 6
    reasons = [
        f"frame 0 ({names[0]}): an atom is 0.0",
        f"frame 1 ({names[1]}): atoms N",
        "frame 2 (id-00000000000ff): not among the structures",
        "frame 3: no id",
        f"frame 4 ({names[4]}): no energy; it holds id, ",
        f"frame 5 ({names[5]}): forces hold NaN",
        f"frame {len(frames)} ({names[6]}): a second result",
        "notes.pdf: cannot be read",
    ]
    assert len(report.problems) == len(reasons)
    for problem, reason in zip(report.problems, reasons, strict=True):
        assert reason in problem


def test_folders_may_hold_other_files(picked, tmp_path):
    """A program leaves inputs, logs and geometries without energies beside its results."""
    teacher = committee(members=1).ase()
    frames = ase.io.read(picked.with_suffix(".extxyz"), ":")
    for atoms in frames:
        folder = tmp_path / "runs" / atoms.info["id"]
        folder.mkdir(parents=True)
        (folder / "notes.pdf").write_text("no result")
        ase.io.write(folder / "start.xyz", atoms)
        ase.io.write(folder / "last.extxyz", [atoms, computed(atoms, teacher)])
    report = join(open_source(picked), [tmp_path / "runs"], tmp_path / "t.h5", progress=False)
    assert report.joined == len(frames)
    with pytest.raises(DataError, match=f"{len(frames)} without a result"):
        join(open_source(picked), [tmp_path / "runs"], tmp_path / "u.h5", pattern="start.*", progress=False)


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def test_commands_from_molecules_to_a_training_set(model, molecules, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / "m.safetensors")
    ase.io.write("mol.xyz", molecules)
    options = ["--model", "m.safetensors", "--no-relax", "--steps", "10", "--conformers", "10", "--threshold", "1.3"]
    assert main(["sample", "mol.xyz", "-o", "p.h5", *options]) == 0
    said = capsys.readouterr().out
    assert "modes: " in said
    assert "structures in p.h5 and p.extxyz" in said
    assert main(["sample", "mol.xyz", "-o", "p.h5", *options]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["sample", "mol.xyz", "-o", "p.h5", "--resume", *options]) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["label", "p.h5", "-o", "l.h5", "--calculator", "m.safetensors"]) == 0
    count = sum(group.size for group in open_source("p.h5").groups)
    assert f"{count} structures in l.h5" in capsys.readouterr().out
    assert main(["label", "p.extxyz", "-o", "l2.h5", "--calculator", "m.safetensors", "--properties", "energies"]) == 0
    frames = [computed(atoms, model.ase()) for atoms in ase.io.read("p.extxyz", ":")]
    ase.io.write("r.extxyz", frames)
    assert main(["join", "p.h5", "r.extxyz", "-o", "t.h5", "--level-of-theory", "calm"]) == 0
    capsys.readouterr()
    labelled, joined = open_source("l.h5"), open_source("t.h5")
    assert joined.metadata["level_of_theory"] == "calm"
    for i, group in enumerate(joined.groups):
        a, b = (source.read(i, slice(0, group.size)).properties for source in (labelled, joined))
        assert np.array_equal(a["id"], b["id"])
        assert a["energies"] == pytest.approx(b["energies"], abs=1e-7)
    assert main(["join", "p.h5", "mol.xyz", "-o", "u.h5"]) == 2
    said = capsys.readouterr().err
    assert "without a result" in said
    assert "(--incomplete writes what there is)" in said
    (tmp_path / "cut.h5").write_bytes((tmp_path / "l.h5").read_bytes()[:5000])
    assert main(["label", "cut.h5", "-o", "u.h5", "--calculator", "m.safetensors"]) == 2
    assert "cut.h5 cannot be read as HDF5" in capsys.readouterr().err
    assert (
        main(["sample", "p.h5", "-o", "f.h5", "--method", "frames", "--threshold", "2", "--model", "m.safetensors"])
        == 0
    )


@pytest.mark.slow
def test_a_killed_search_goes_on(model, molecules, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / "m.safetensors")
    ase.io.write("mol.xyz", molecules)
    options = ["--model", "m.safetensors", "--no-relax", "--trajectories", "12", "--steps", "40", "--threshold", "1.3"]
    command = [
        sys.executable,
        "-c",
        "from anipot.cli import main; raise SystemExit(main())",
        "sample",
        "mol.xyz",
        *options,
        "-o",
    ]
    running = subprocess.Popen([*command, "cut.h5"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and steps_in("cut.h5.state") < 5 and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert 5 <= steps_in("cut.h5.state") < 42
    assert not Path("cut.h5").exists()
    assert main(["sample", "mol.xyz", *options, "-o", "cut.h5", "--resume"]) == 0
    assert main(["sample", "mol.xyz", *options, "-o", "whole.h5"]) == 0
    assert Path("cut.extxyz").read_bytes() == Path("whole.extxyz").read_bytes()


def steps_in(path: str) -> int:
    if not Path(path).exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as file:
            return int(file.execute("SELECT COUNT(*) FROM steps").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet, or being written
        return 0
    finally:
        file.close()
