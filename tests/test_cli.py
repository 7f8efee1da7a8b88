"""The command: output that ASE reads back, exit codes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Ensemble, Potential
from anipot.cli import main
from anipot.cli.common import load_named
from anipot.units import HARTREE_TO_EV as EV
from anipot.zoo import ZooError


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that share a core wait for each other far longer than these tiny models compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    networks = [AtomicNetwork((384, 8, 1), CELU(0.1)).double() for _ in range(4)]
    potential = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([-1.0] * 4))
    potential.save(tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


@pytest.fixture
def water(tmp_path):
    frames = [Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])]
    ase.io.write(tmp_path / "w.xyz", frames)
    return str(tmp_path / "w.xyz")


def test_sp_round_trip(model, water, tmp_path):
    for name in ("o.xyz", "o.json", "o.csv"):
        assert main(["sp", water, "--model", model, "--forces", "-o", str(tmp_path / name)]) == 0
    frames = ase.io.read(tmp_path / "o.xyz", ":")
    records = json.loads((tmp_path / "o.json").read_text())
    for atoms, values in zip(frames, records, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(values["energy_hartree"] * 27.211386024367243, abs=1e-6)
        assert atoms.get_forces().shape == (len(atoms), 3)


@pytest.mark.parametrize(
    ("extra", "text"),
    [(["--stress"], "frame 0"), (["-o", "x.foo"], ".foo"), (["--hessian"], "JSON"), (["--charge", "1"], "charge")],
)
def test_bad_usage(model, water, capsys, extra, text):
    assert main(["sp", water, "--model", model, *extra]) == 2
    assert text in capsys.readouterr().err


def test_info(model):
    assert main(["info", model]) == 0


def run_shell(hook, *args):
    """Run the command in a process of its own, after ``hook``, which arranges for a signal."""
    code = f"import os, signal, sys\nfrom anipot.cli import main, sp\n{hook}\nsys.exit(main())"
    root = Path(anipot.__file__).parents[1]
    command, env = [sys.executable, "-c", code, *args], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def box(tmp_path):
    ase.io.write(tmp_path / "box.xyz", Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=[5] * 3, pbc=1))
    return str(tmp_path / "box.xyz")


def sp(model, out, *args):
    """Run single points in this process and return the JSON records."""
    assert main(["sp", *map(str, args), "--model", model, "-o", str(out)]) == 0
    return json.loads(Path(out).read_text())


def test_sp_json_holds_everything(tmp_path, model, box):
    torch.manual_seed(1)
    members = [ANIModel([AtomicNetwork((384, 4, 1), CELU(0.1)).double() for _ in range(4)]) for _ in range(3)]
    ensemble = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), Ensemble(members), EnergyShifter([-1.0] * 4))
    ensemble.save(tmp_path / "e.safetensors")
    flags = ["--forces", "--stress", "--hessian", "--members", "--atomic-energies"]
    (values,) = sp(str(tmp_path / "e.safetensors"), tmp_path / "o.json", box, *flags)
    shapes = {
        "forces_hartree_per_angstrom": (3, 3),
        "stress_hartree_per_angstrom3": (3, 3),
        "hessian_hartree_per_angstrom2": (9, 9),
        "atomic_energies_hartree": (3,),
        "members_energies_hartree": (3,),
    }
    for key, shape in shapes.items():
        assert np.shape(values[key]) == shape, key
    assert sum(values["atomic_energies_hartree"]) == pytest.approx(values["energy_hartree"], abs=1e-9)
    assert np.mean(values["members_energies_hartree"]) == pytest.approx(values["energy_hartree"], abs=1e-9)
    assert values["members_std_hartree"] > 0
    assert values["qbc_hartree"] == pytest.approx(values["members_std_hartree"] / 3**0.5)
    (values,) = sp(model, tmp_path / "s.json", box, "--members")  # one member has no spread
    assert values["qbc_hartree"] is None


def test_sp_extxyz_reads_back(model, box, tmp_path):
    (values,) = sp(model, tmp_path / "o.json", box, "--forces", "--stress")
    out = tmp_path / "o.extxyz"
    assert main(["sp", box, "--model", model, "--forces", "--stress", "-o", str(out)]) == 0
    atoms = ase.io.read(out)
    np.testing.assert_allclose(atoms.get_forces(), np.array(values["forces_hartree_per_angstrom"]) * EV, atol=1e-7)
    stress = np.array(values["stress_hartree_per_angstrom3"]) * EV
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=1e-9)
    assert atoms.pbc.all()


def test_sp_batches_keep_the_order(model, tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    for i, n in enumerate([5, 1, 3, 2, 5, 4, 1]):
        positions = np.arange(n)[:, None] * [1.1, 0.2, 0] + rng.normal(0, 0.05, (n, 3))
        frames.append(Atoms("HCNOH"[:n], positions, cell=[6, 7, 8] if i % 2 else None, pbc=i % 2))
    ase.io.write(tmp_path / "a.xyz", frames[:4])
    ase.io.write(tmp_path / "b.xyz", frames[4:])
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    whole = sp(model, tmp_path / "o.json", *files, "--forces")
    small = sp(model, tmp_path / "p.json", *files, "--forces", "--max-atoms", "6")
    places = [(str(f), i) for f, n in zip(files, (4, 3), strict=True) for i in range(n)]
    assert [(v["file"], v["frame"]) for v in whole] == [(v["file"], v["frame"]) for v in small] == places
    calculator = load_named(model).ase()
    for atoms, a, b in zip(frames, whole, small, strict=True):
        assert a["symbols"] == b["symbols"] == atoms.get_chemical_symbols()
        atoms.calc = calculator
        for values in (a, b):
            assert values["energy_hartree"] * EV == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
            forces = np.array(values["forces_hartree_per_angstrom"]) * EV
            np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-6)


@pytest.mark.parametrize(
    ("index", "frames"), [(":", [0, 1, 2]), ("1:", [1, 2]), ("-1", [2]), ("::2", [0, 2]), ("-2:", [1, 2])]
)
def test_sp_rows_carry_file_and_frame(model, tmp_path, index, frames):
    file = tmp_path / "h.xyz"
    ase.io.write(file, [Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.1 * i]]) for i in range(3)])
    out = tmp_path / "o.csv"
    assert main(["sp", str(file), "--model", model, f"--index={index}", "-o", str(out)]) == 0
    with open(out, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file"], int(row["frame"])) for row in rows] == [(str(file), i) for i in frames]
    records = sp(model, tmp_path / "o.json", file, f"--index={index}")
    assert [v["frame"] for v in records] == frames
    assert [v["energy_hartree"] for v in records] == [float(row["energy_hartree"]) for row in rows]


def test_sp_bad_input(model, water, tmp_path, capsys):
    good = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    ase.io.write(tmp_path / "element.xyz", [good, Atoms("HAr", [[0, 0, 0], [0, 0, 2]])])
    (tmp_path / "nan.xyz").write_text("2\n\nH 0 0 0\nH 0 nan 0.74\n")
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "garbage.xyz").write_text("this is\nno structure\n")
    (tmp_path / "spot.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0\n")
    cases = {
        "element.xyz": ["frame 1, atom 1 is Ar", "H, C, N, O"],
        "nan.xyz": ["frame 0, atom 1", "nan"],
        "empty.xyz": [""],
        "garbage.xyz": ["cannot be read"],
        "spot.xyz": ["frame 0"],
        "missing.xyz": ["no file"],
        ".": ["no file"],
    }
    for name, texts in cases.items():
        file, out = tmp_path / name, tmp_path / "o.json"
        capsys.readouterr()
        assert main(["sp", water, str(file), "--model", model, "-o", str(out)]) == 2, name
        message = capsys.readouterr().err
        assert all(text in message for text in [str(file), *texts]), message
        assert not out.exists()
    assert main(["sp", water, "--model", model, "-o", str(tmp_path / "no" / "o.json")]) == 2
    assert main(["sp", water, "--model", model, "--device", "abacus"]) == 2
    assert main(["sp", water, "--model", model, "--index", "x"]) == 2


def test_sp_sigint_leaves_nothing_half_written(model, water, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "o.json").write_text("earlier")
    hook = """
batch, calls = sp._batch, []
def interrupted(*args):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return batch(*args)
sp._batch = interrupted
"""
    done = run_shell(hook, "sp", water, "--model", model, "--max-atoms", "3", "-o", str(folder / "o.json"))
    assert done.returncode == 130, done.stderr
    assert [p.name for p in folder.iterdir()] == ["o.json"]
    assert (folder / "o.json").read_text() == "earlier"


def test_stress_wants_a_volume(model, tmp_path, capsys):
    file, out = str(tmp_path / "slab.xyz"), str(tmp_path / "o.xyz")
    ase.io.write(file, Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[5, 5, 0], pbc=(1, 1, 0)))
    npt = ["md", file, "--ensemble", "npt", "--steps", "1", "--folder", out]
    for args in (["sp", file, "--stress", "-o", out], ["opt", file, "--cell", "-o", out], npt):
        assert main([*args, "--model", model]) == 2
        assert "frame 0 has the cell" in capsys.readouterr().err
        assert not Path(out).exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--debug", "sp", "none.xyz"],
        ["sp", "none.xyz", "--debug"],
        ["opt", "none.xyz", "--debug", "-o", "o.xyz"],
        ["vib", "none.xyz", "--debug"],
        ["md", "none.xyz", "--debug", "--steps", "1"],
    ],
)
def test_debug_shows_the_traceback(model, tmp_path, monkeypatch, capsys, args):
    monkeypatch.chdir(tmp_path)
    for arguments, shown in ((args, True), ([a for a in args if a != "--debug"], False)):
        assert main([*arguments, "--model", model]) == 2
        message = capsys.readouterr().err
        assert ("Traceback" in message) == shown
        assert "no file none.xyz" in message


@pytest.mark.parametrize("args", [["info", "--debug", "nosuchmodel"], ["zoo", "path", "nosuchmodel", "--debug"]])
def test_debug_of_the_others(capsys, args):
    assert main(args) != 0
    assert "Traceback" in capsys.readouterr().err


def test_exit_code_without_weights(water, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ZooError("no weights")

    monkeypatch.setattr(anipot, "load", fail)
    assert main(["sp", water, "--model", "ani2x"]) == 1
    assert "no weights" in capsys.readouterr().err
    assert main(["sp"]) == 2
    assert main(["--version"]) == 0
