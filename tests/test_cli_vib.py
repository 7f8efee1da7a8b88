"""``anipot vib``: what it prints and leaves behind, and what it refuses."""

import json

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from anipot.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write(
        "water.xyz", [molecule("H2O"), molecule("N2"), molecule("H2O", positions=2 * molecule("H2O").positions)]
    )


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_leaves_a_folder(tmp_path, capsys):
    pytest.importorskip("pymsym")
    assert main(["vib", "water.xyz", "--opt", "--members", "-o", "copy.json"]) == 0
    told = capsys.readouterr().out
    assert "water.xyz, frame 0: H2O: 3 modes, zero-point energy" in told
    assert "ideal gas at 298.15 K, 101325 Pa, nonlinear, symmetry number 2 (C2v)" in told
    left = tmp_path / "water_vib"
    assert (left / "command.txt").read_text().startswith("anipot vib water.xyz --opt --members -o copy.json\n")
    assert (left / "inputs" / "water.xyz").is_file()
    assert sorted(file.name for file in (left / "modes").iterdir()) == ["000.xyz", "001.xyz", "002.xyz"]
    assert (tmp_path / "copy.json").read_text() == (left / "results.json").read_text()
    (frame,) = results(left)["frames"]
    assert np.shape(frame["modes"]) == (3, 3, 3)
    for key in (
        "frequencies_per_cm",
        "reduced_masses_u",
        "force_constants_mdyne_per_angstrom",
        "frequencies_std_per_cm",
    ):
        assert len(frame[key]) == 3
        assert min(frame[key]) > 0
    assert frame["fmax_ev_per_angstrom"] < 0.001
    heat = frame["thermochemistry"]
    assert heat["enthalpy_ev"] - heat["temperature_k"] * heat["entropy_ev_per_k"] == pytest.approx(
        heat["free_energy_ev"]
    )
    np.testing.assert_allclose(ase.io.read(left / "geometry.xyz").positions, frame["positions_angstrom"], atol=1e-7)


def test_infrared(tmp_path, capsys):
    import torch

    import anipot

    torch.manual_seed(0)
    model = anipot.load()
    charges = anipot.AtomicNetwork((model.representation.num_features, 8, 1), anipot.CELU(0.1))
    heads = {"dipole": anipot.DipoleMoment(charges, model.elements)}
    whole = anipot.Potential(model.elements, model.representation, model.head, model.shifter, properties=heads)
    whole.save("dipole.safetensors")
    assert main(["vib", "water.xyz", "--opt", "--model", "dipole.safetensors"]) == 0
    assert "km/mol" in capsys.readouterr().out
    (frame,) = results(tmp_path / "water_vib")["frames"]
    assert len(frame["intensities_km_per_mol"]) == 3


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["vib", "water.xyz", "--index", "1", "--folder", "here"]) == 0
    assert (tmp_path / "here" / "spectrum.png").stat().st_size > 1000
    assert (tmp_path / "here" / "spectrum.svg").is_file()


def test_an_atom(tmp_path, capsys):
    pytest.importorskip("pymsym")
    ase.io.write("atom.xyz", molecule("N"))
    assert main(["vib", "atom.xyz", "--spin", "1.5"]) == 0
    told = capsys.readouterr().out
    assert "N: 0 modes, zero-point energy 0.0000 eV" in told
    assert "monatomic" in told
    assert results(tmp_path / "atom_vib")["frames"][0]["thermochemistry"]["symmetry_number"] == 1


def test_a_crystal(tmp_path, capsys):
    from ase.build import bulk

    ase.io.write("diamond.xyz", bulk("C", cubic=True))
    assert main(["vib", "diamond.xyz"]) == 0
    assert "harmonic at 298.15 K" in capsys.readouterr().out


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("anipot.workfolder.can_draw", lambda: False)
    assert main(["vib", "water.xyz"]) == 0
    assert "pictures are left out, they need matplotlib: pip install anipot[plot]" in capsys.readouterr().err
    assert not list((tmp_path / "water_vib").glob("spectrum.*"))


def test_several_frames_and_a_bad_geometry(tmp_path, capsys):
    assert main(["vib", "water.xyz", "--index", ":"]) == 0
    captured = capsys.readouterr()
    assert "system 2 (H2O) is no stationary point: forces reach" in captured.err
    frames = results(tmp_path / "water_vib")["frames"]
    assert [(frame["frame"], len(frame["frequencies_per_cm"])) for frame in frames] == [(0, 3), (1, 1), (2, 3)]
    assert (tmp_path / "water_vib" / "frame_1_geometry.xyz").is_file()
    assert frames[2]["imaginary_modes"]
    assert "no thermochemistry: H2O is no minimum" in captured.out
    assert "is no minimum" in frames[2]["thermochemistry"]["error"]


def test_isotopes_and_fixed_atoms(tmp_path):
    plain, heavy, fixed = (["vib", "water.xyz", "--folder", name] for name in ("plain", "heavy", "fixed"))
    assert (
        main(plain) == main([*heavy, "--mass", "1=2.0141", "--mass", "2=2.0141"]) == main([*fixed, "--fix", "0,1"]) == 0
    )
    light, deuterated, held = (results(tmp_path / name)["frames"][0] for name in ("plain", "heavy", "fixed"))
    ratio = np.array(deuterated["frequencies_per_cm"]) / light["frequencies_per_cm"]
    assert ((ratio > 0.7) & (ratio < 0.75)).all()
    assert deuterated["masses_u"] == [15.999, 2.0141, 2.0141]
    assert len(held["frequencies_per_cm"]) == 2
    assert held["fixed_atoms"] == [0, 1]


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--mass", "1:2"], "expected ATOM=U"),
        (["--mass", "7=2"], "masses name atom 7, but there are 3"),
        (["--fix", "a"], "expected numbers of atoms"),
        (["--fix", "9"], "--fix names atom 9, but water.xyz, frame 0 has 3"),
        (["--width", "0"], "--width is 0"),
        (["-o", "x.txt"], "ending '.txt'"),
        (["--index", "5"], "water.xyz"),
        (["--members", "--model", "single.safetensors"], "needs an ensemble"),
    ],
)
def test_bad_usage(tmp_path, capsys, extra, text):
    import anipot

    anipot.load()[0].save("single.safetensors")
    assert main(["vib", "water.xyz", *extra]) == 2
    assert text in capsys.readouterr().err


def test_an_old_folder_is_kept_unless_told(capsys):
    assert main(["vib", "water.xyz"]) == 0
    assert main(["vib", "water.xyz"]) == 2
    assert (
        "water_vib exists already; choose another folder or overwrite it (--folder, --overwrite)"
        in capsys.readouterr().err
    )
    assert main(["vib", "water.xyz", "--overwrite"]) == 0
    assert main(["vib", "water_vib/inputs/water.xyz", "--folder", "water_vib", "--overwrite"]) == 2
    assert "which --overwrite would delete" in capsys.readouterr().err
