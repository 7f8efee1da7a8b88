"""``anipot doctor``: what it says is so, and wrong kernels do not pass."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_on_host import cuda_on_host, needs_compiler

import anipot
from anipot import AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Potential
from anipot.cli import doctor, main
from anipot.engine import Engine, engine_of
from anipot.kernels import cpu_backend, library

ROOT = Path(__file__).parents[1]
needs_kernels = pytest.mark.skipif(library() is None, reason=cpu_backend().reason)


def potential(elements, activation):
    aev = AEVComputer.like_1x(len(elements))
    networks = [AtomicNetwork((aev.num_features, 8, 1), activation) for _ in elements]
    return Potential(elements, aev, ANIModel(networks), EnergyShifter([-1.0] * len(elements)))


def report(tmp_path, *models):
    """Return the exit code of the command and what it wrote."""
    file = tmp_path / "doctor.json"
    code = main(["doctor", *models, "-o", str(file)])
    return code, json.loads(file.read_text())


def test_sections(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("anipot", "torch", "numpy", "ase", "h5py", "platform", "CUDA", *anipot.zoo.names()):
        assert re.search(rf"^  {name}  +\S", text, re.MULTILINE), name
    for backend in anipot.backends():
        assert backend.reason in text
    assert str(anipot.zoo.cache_dir()) in text


@needs_kernels
def test_every_instruction_set_is_proven(tmp_path):
    native = library()
    before = native.anipot_isa()
    code, found = report(tmp_path)
    assert code == 0
    assert native.anipot_isa() == before
    assert Path(found["native kernels"]["library"]).is_file()
    (model,) = found["self-check"]
    proven = {(check["instruction_set"], check["dtype"]) for check in model["checks"]}
    assert {(before.decode(), "float32"), ("baseline", "float32"), ("baseline", "float64")} <= proven
    for check in model["checks"]:
        # Not 0 in float32: the two ways round differently, so that an exact 0 would mean one was compared with itself.
        difference = check["force_difference_hartree_per_angstrom"]
        assert check["ok"]
        assert 0 < difference < 1e-6 if check["dtype"] == "float32" else difference < 1e-13


@needs_kernels
@pytest.mark.parametrize("wrong", ["energies", "forces", "nan", "nothing"])
def test_wrong_kernels_fail(tmp_path, capsys, monkeypatch, wrong):
    """Kernels of one instruction set that are off by little, by NaN, or that give up."""
    evaluate = Engine.evaluate

    def broken(self, *args, **options):
        values = evaluate(self, *args, **options)
        if values is None or library().anipot_isa() != b"baseline":  # None in reference_path()
            return values
        if wrong == "nothing":
            return None
        if wrong == "energies":
            return values._replace(energies=values.energies + 1e-4)
        values.forces[0, 3, 1] += float("nan") if wrong == "nan" else 1e-4
        return values

    monkeypatch.setattr(Engine, "evaluate", broken)
    code, found = report(tmp_path)
    assert code == 1
    checks = found["self-check"][0]["checks"]
    assert {check["instruction_set"] for check in checks if not check["ok"]} == {"baseline"}
    out, err = capsys.readouterr()
    assert "WRONG" in out
    assert "all is well" not in out
    assert "(baseline)" in err
    others = [name for name in doctor._usable() if name != "baseline"]
    assert (f"ANIPOT_ISA={others[0]}" if others else "ANIPOT_ISA=none") in err


@needs_kernels
@pytest.mark.parametrize(("size", "ok"), [(1e-9, True), (1e-7, False)])
def test_bound_of_float64(monkeypatch, size, ok):
    evaluate = Engine.evaluate

    def shifted(self, *args, **options):
        values = evaluate(self, *args, **options)
        return values and values._replace(forces=values.forces + size)

    monkeypatch.setattr(Engine, "evaluate", shifted)
    checks = list(doctor.self_check(doctor.small_model()))
    assert all(check["ok"] == ok for check in checks if check["dtype"] == "float64")
    assert all(check["ok"] for check in checks if check["dtype"] == "float32")


@needs_kernels
def test_models_of_ones_own(tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("tanh.safetensors", "relu.safetensors")]
    torch.manual_seed(0)
    potential(["H", "S"], torch.nn.Tanh()).save(files[0])
    potential(["H", "C", "N", "O"], torch.nn.ReLU()).save(files[1])
    code, found = report(tmp_path, *files)
    assert code == 0
    covered, other = found["self-check"]
    assert covered["model"] == files[0]
    assert covered["covered"]
    assert covered["checks"]
    assert other["reason"] == engine_of(anipot.load(files[1])).covers() != ""
    assert other["checks"] == []
    assert f"computed by torch: {other['reason']}" in capsys.readouterr().out


def test_no_such_model(capsys):
    assert main(["doctor", "ani3x"]) == 2
    out, err = capsys.readouterr()
    assert "ani3x" in err
    assert "versions" in out


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [("ANIPOT_KERNELS", "/nowhere/_native.so", "unset ANIPOT_KERNELS"), ("ANIPOT_ISA", "none", "unset ANIPOT_ISA")],
)
def test_without_kernels(name, value, advice):
    """All is well without them too, but it is said and what to do about it."""
    if name == "ANIPOT_ISA" and library() is None:
        pytest.skip("no native kernels to choose an instruction set of")
    environment = os.environ | {"OMP_NUM_THREADS": "1", name: value}
    command = [sys.executable, "-c", "import sys; from anipot.cli import main; sys.exit(main(['doctor']))"]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert advice in process.stdout
    assert "cpu-native  not available" in process.stdout
    assert re.search(rf"^  {name}={value}  +{doctor.VARIABLES[name]}$", process.stdout, re.MULTILINE)
    assert "nothing to compare" in process.stdout


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("no native kernels: they were not built", "have a C++17 compiler"),
        ("no native kernels: RuntimeError: ANIPOT_NO_KERNELS was set", "unset ANIPOT_NO_KERNELS"),
    ],
)
def test_advice(monkeypatch, reason, advice):
    monkeypatch.delenv("ANIPOT_KERNELS", raising=False)
    monkeypatch.setattr(anipot, "backends", lambda: [anipot.kernels.Backend("cpu-native", False, False, reason)])
    assert doctor._advice().startswith(advice)
    assert "pip install" in doctor._advice()


@pytest.mark.parametrize(("cores", "warns"), [(1, True), (2, False)])
def test_more_threads_than_cores(monkeypatch, cores, warns):
    monkeypatch.setattr(doctor, "_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert ("OMP_NUM_THREADS=1" in doctor._machine()["threads"]) == warns


@pytest.mark.parametrize("elements", [["C"], ["H", "O"], ["H", "C", "N", "O", "S", "F", "Cl"]])
def test_molecule_has_every_element_in_reach_of_every_other(elements):
    model = potential(elements, torch.nn.Tanh())
    species, coordinates = doctor.molecule(model)
    assert len(species[0]) >= 8
    numbers, counts = species.unique(return_counts=True)
    assert len(numbers) == len(elements)
    assert counts.min() >= 2
    distances = torch.cdist(coordinates[0], coordinates[0])
    for a in numbers:
        for b in numbers:
            between = distances[species[0] == a][:, species[0] == b]
            assert 0.7 < between[between > 0].min() < 3.5  # the angular cutoff of the published models


def test_small_model_leaves_random_numbers_alone():
    state = torch.get_rng_state()
    first, second = doctor.small_model(), doctor.small_model()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_names_that_stand_elsewhere_too():
    """Instruction sets as in the library, and every variable that is read anywhere."""
    interface = (ROOT / "anipot" / "csrc" / "interface.cpp").read_text("utf-8")
    assert tuple(re.findall(r'\{"(\w+)", &kernels_', interface)) == doctor.INSTRUCTION_SETS
    files = [ROOT / "setup.py", *(f for part in ("anipot", "tests", "tools", "examples") for f in part_of(part))]
    read = {name for f in files for name in re.findall(r'environ(?:\.get\(|\[)"(ANIPOT_\w+)"', f.read_text("utf-8"))}
    assert read == set(doctor.VARIABLES)


def part_of(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@needs_compiler
def test_a_device_is_proven(tmp_path, monkeypatch, capsys):
    """The kernels compiled for the host stand in for a device."""
    monkeypatch.setattr(doctor.doctor_cuda, "devices", lambda: [torch.device("cpu")])
    with cuda_on_host():
        code, found = report(tmp_path)
    assert code == 0
    checks = [check for check in found["self-check"][0]["checks"] if check["instruction_set"].startswith("cpu")]
    assert {(check["instruction_set"], check["dtype"]) for check in checks} == {
        (f"cpu{how}", dtype) for how in ("", doctor.doctor_cuda.GRAPH) for dtype in ("float32", "float64")
    }
    assert all(check["ok"] and check["force_difference_hartree_per_angstrom"] > 0 for check in checks)


def test_wrong_devices_are_told(monkeypatch, capsys):
    wrong = {"instruction_set": "cuda:1 graph", "dtype": "float32", "ok": False}
    assert doctor._verdict([wrong]) == 1
    assert "CUDA kernels are wrong here (cuda:1 graph): set ANIPOT_CUDA=launches" in capsys.readouterr().err
    assert doctor._verdict([wrong, wrong | {"instruction_set": "cuda:1"}]) == 1
    assert "set ANIPOT_CUDA=none" in capsys.readouterr().err


@needs_compiler
def test_a_model_that_the_kernels_of_a_device_do_not_cover(tmp_path, monkeypatch, capsys):
    """One layer is enough for a CPU, not for a device: it is said, and not passed over."""
    aev = AEVComputer.like_1x(2)
    networks = [AtomicNetwork((aev.num_features, 1), torch.nn.Tanh()) for _ in range(2)]
    model = Potential(["H", "O"], aev, ANIModel(networks), EnergyShifter([-1.0, -2.0]))
    monkeypatch.setattr(doctor.doctor_cuda, "devices", lambda: [torch.device("cpu")])
    with cuda_on_host():
        found = doctor._checked("one layer", model)
    assert found["uncovered"] == {"cpu": "a network has one layer"}
    assert "computed by torch on cpu: a network has one layer" in capsys.readouterr().out
