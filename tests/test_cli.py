"""The command: output that ASE reads back, exit codes, and dynamics that survive a kill."""

import json

import ase.io
import pytest
import torch
from ase import Atoms

from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Potential
from anipot.cli import main


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


def test_vib_and_info(model, water, capsys):
    assert main(["vib", water, "--model", model]) == 0
    assert "zero-point energy" in capsys.readouterr().out
    assert main(["info", model]) == 0


def test_opt_not_converged(model, water, tmp_path):
    out = str(tmp_path / "o.xyz")
    assert main(["opt", water, "--model", model, "--steps", "1", "--fmax", "1e-9", "-o", out]) == 1
    assert not ase.io.read(out).info["converged"]


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_md_resumes_to_the_same_end(model, water, tmp_path, ensemble):
    ends = []
    for name, stops in (("a", [20]), ("b", [13, 20])):
        out = str(tmp_path / f"{name}.xyz")
        for i, stop in enumerate(stops):
            options = ["--ensemble", ensemble, "--interval", "5", "--timestep", "0.1", "--temperature", "10"]
            resume = ["--resume"] if i else []
            assert (
                main(["md", water, "--model", model, "--steps", str(stop), "--trajectory", out, *options, *resume]) == 0
            )
        frames = ase.io.read(out, ":")
        assert [a.info["step"] for a in frames] == [0, 5, 10, 15, 20]
        ends.append(frames[-1].positions)
    assert ends[1] == pytest.approx(ends[0], abs=1e-6)
