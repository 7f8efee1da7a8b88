"""Reading NeuroChem files: a small ensemble written here, and the published ones."""

from __future__ import annotations

import bz2
import math
import os
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from anipot import CELU, Gaussian
from anipot.interfaces import neurochem

PARAMS = """DESC = ANI_NORMAL
TM = 1
Rcr = 5.2000e+00
Rca = 3.5000e+00
EtaR = [1.6000000e+01]
ShfR = [9.0000000e-01,1.1687500e+00]
Zeta = [3.2000000e+01]
ShfZ = [1.9634954e-01,5.8904862e-01]
EtaA = [8.0000000e+00]
ShfA = [9.0000000e-01]
Atyp = [H,C]
"""
SIZES = (10, 3, 1)  # 2 elements × 2 radial terms + 3 pairs × 2 angular terms


def description(element: str, activation: int = 9, sizes: tuple[int, ...] = SIZES) -> str:
    """Return the text of an .nnf file."""
    text = f"inputsize={sizes[0]};\natom_net {element} $\n"
    for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        code = 6 if i == len(sizes) - 1 else activation
        text += f"layer [\nnodes={n_out};\nactivation={code};\ntype=0;\nblocksize={n_in};\nbtchnorm=0;\n"
        text += f"weights=FILE:ANN-{element}.nnf-l{i}.wparam[{n_in * n_out}];\n"
        text += f"biases=FILE:ANN-{element}.nnf-l{i}.bparam[{n_out}];\n]\n"
    return text + "\n $ \n"


def write_network(folder: Path, element: str, seed: int, packed: bool, activation: int = 9) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = description(element, activation).encode()
    data = f"{len(text)}=\n".encode() + bz2.compress(text) if packed else text
    (folder / f"ANN-{element}.nnf").write_bytes(data)
    rng = np.random.default_rng(seed)
    for i, (n_in, n_out) in enumerate(pairwise(SIZES), start=1):
        rng.normal(size=(n_out, n_in)).astype("<f4").tofile(folder / f"ANN-{element}.nnf-l{i}.wparam")
        rng.normal(size=n_out).astype("<f4").tofile(folder / f"ANN-{element}.nnf-l{i}.bparam")


def write_ensemble(folder: Path, members: int = 2, seed: int = 0) -> Path:
    """Write a small ensemble of two elements in the published format."""
    folder.mkdir(parents=True)
    (folder / "rHC.params").write_text(PARAMS)
    (folder / "sae_linfit.dat").write_text("H,0=-0.6009529800000001\nC,1=-38.08316124\n")
    for member in range(members):
        for i, element in enumerate(("H", "C")):
            write_network(folder / f"train{member}" / "networks", element, 100 * seed + 10 * member + i, packed=i == 0)
    return folder


def shared_files() -> Path:
    """Return the folder of published weights and references; skip where there is none."""
    folder = Path(os.environ.get("ANIPOT_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "weights" / "ani-model-zoo").is_dir():
        pytest.skip(f"no published weights in {folder}; set ANIPOT_SHARED")
    return folder


@pytest.fixture
def shared() -> Path:
    return shared_files()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_ensemble(tmp_path / "tiny_2x")


def test_constants_are_exact(tiny: Path) -> None:
    constants = neurochem.read_constants(tiny / "rHC.params")
    assert constants["elements"] == ["H", "C"]
    assert (constants["Rcr"], constants["ShfR"], constants["ShfZ"]) == (5.2, [0.9, 1.16875], [0.19634954, 0.58904862])
    assert neurochem.read_self_energies(tiny / "sae_linfit.dat") == {"H": -0.6009529800000001, "C": -38.08316124}


def test_weights_are_as_written(tiny: Path) -> None:
    folder = tiny / "train1" / "networks"
    for element in "HC":  # one packed with bzip2, one plain
        network = neurochem.read_network(folder / f"ANN-{element}.nnf")
        assert network.sizes == SIZES
        assert isinstance(network.activation, CELU)
        assert network.activation.alpha == 0.1
        for i, linear in enumerate(network.linears, start=1):
            weight = np.fromfile(folder / f"ANN-{element}.nnf-l{i}.wparam", "<f4").reshape(SIZES[i], SIZES[i - 1])
            assert np.array_equal(linear.weight.detach().numpy(), weight)
            assert np.array_equal(
                linear.bias.detach().numpy(), np.fromfile(folder / f"ANN-{element}.nnf-l{i}.bparam", "<f4")
            )


def test_gaussian_activation(tmp_path: Path) -> None:
    write_network(tmp_path, "H", 0, packed=False, activation=5)
    assert isinstance(neurochem.read_network(tmp_path / "ANN-H.nnf").activation, Gaussian)


def energy(potential: torch.nn.Module) -> float:
    methane = torch.tensor([[6, 1, 1, 1, 1]])
    xyz = [[0.03, 0.006, 0.01], [-0.8, 0.4, -0.3], [-0.7, -0.8, 0.2], [0.5, 0.5, 0.8], [0.7, -0.2, -0.9]]
    return potential.double()((methane, torch.tensor([xyz], dtype=torch.float64))).energies.item()


def test_every_way_to_hand_an_ensemble_over(tiny: Path, tmp_path: Path) -> None:
    expected = energy(neurochem.read_ensemble(tiny))
    assert math.isfinite(expected)
    (tmp_path / "tiny_2x.info").write_text("tiny_2x/rHC.params\ntiny_2x/sae_linfit.dat\ntiny_2x/train\n2\n")
    archive = Path(shutil.make_archive(str(tmp_path / "flat"), "zip", tiny))
    deep = tmp_path / "deep-1.0-py3-none-any.whl"
    with zipfile.ZipFile(deep, "w") as file:
        for path in tiny.rglob("*"):
            if path.is_file():
                file.write(path, f"deep/resources/tiny_2x/{path.relative_to(tiny)}")
    for place in (tmp_path, tmp_path / "tiny_2x.info", archive, deep, str(tiny)):
        potential = neurochem.read_ensemble(place)
        assert len(potential) == 2
        assert energy(potential) == expected
    checksums = {neurochem.read_ensemble(place).details["sha256"] for place in (tiny, archive, deep)}
    assert len(checksums) == 1


def test_one_member(tiny: Path) -> None:
    member = neurochem.read_ensemble(tiny / "train1")
    assert len(member) == 1
    assert energy(member) == energy(neurochem.read_ensemble(tiny)[1])


def test_members_in_numerical_order(tmp_path: Path) -> None:
    files = neurochem.find_ensemble(write_ensemble(tmp_path / "many", members=12))
    assert [files.relative(member) for member in files.members] == [f"train{i}/networks" for i in range(12)]


def test_which_of_several(tiny: Path, tmp_path: Path) -> None:
    write_ensemble(tmp_path / "other_3x", seed=1)
    with pytest.raises(ValueError, match=r"has several models, other_3x, tiny_2x: say which one"):
        neurochem.read_ensemble(tmp_path)
    assert neurochem.read_ensemble(tmp_path, "other_3x").name == "other_3x"
    with pytest.raises(ValueError, match=r"no model 'ani-2x_8x'; it has other_3x, tiny_2x"):
        neurochem.read_ensemble(tmp_path, "ani-2x_8x")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("rHC.params", "5.2000e+00", "five", r"rHC.params, line 3: expected a number, got 'five'"),
        ("rHC.params", "Rca =", "Rcx =", r"rHC.params has no Rca; expected a NeuroChem .params file"),
        ("rHC.params", "[H,C]", "[H,Q]", r"rHC.params, line 11: no element has the symbol 'Q'"),
        ("rHC.params", "[H,C]", "[H,C,N]", r"sae_linfit.dat has no self energy of N"),
        ("rHC.params", "ShfA = [9", "ShfA = [9,9", r"ANN-H.nnf takes 10 numbers .* the AEV has 16"),
        ("sae_linfit.dat", "C,1=", "C;1=", r"sae_linfit.dat, line 2: expected a self energy such as 'H,0=-0.6'"),
        ("sae_linfit.dat", "-38.08316124", "nan", r"sae_linfit.dat, line 2: expected a number, got 'nan'"),
        (
            "net",
            "activation=9",
            "activation=7",
            r"ANN-C.nnf, line 5: activation 7 is not known; known are 5 \(Gaussian\)",
        ),
        (
            "net",
            "activation=9",
            "activation=6",
            r"ANN-C.nnf, layer 1 \(line 3\): all layers but the last must have one",
        ),
        ("net", "activation=6", "activation=9", r"layer 2 \(line 12\): the last layer must have activation 6"),
        ("net", "type=0", "type=1", r"ANN-C.nnf, line 6: type=1 is not known"),
        ("net", "nodes=3", "nodes=4", r"line 9: ANN-C.nnf-l1.wparam is said to hold 30 numbers; the layer needs 40"),
        ("net", "nodes=3", "nodes=x", r"ANN-C.nnf, line 4: expected a whole number, got 'x'"),
        ("net", "nodes=3;\n", "", r"layer 1 \(line 3\) does not say its nodes"),
        ("net", "inputsize=10", "inputsize=11", r"layer 1 \(line 3\) takes 10 numbers, but 11 come before it"),
        ("net", "FILE:", "DATA:", r"ANN-C.nnf, line 9: expected FILE:name\[count\]"),
        ("net", "]\n\n $ \n", "", r"the layer of line 12 does not end; the file is truncated"),
    ],
)
def test_what_is_wrong_is_named(tiny: Path, file: str, old: str, new: str, message: str) -> None:
    replace(tiny / "train0/networks/ANN-C.nnf" if file == "net" else tiny / file, old, new)
    with pytest.raises(ValueError, match=message):
        neurochem.read_ensemble(tiny)


def test_damaged_files_are_named(tiny: Path) -> None:
    folder = tiny / "train0" / "networks"
    weights = folder / "ANN-C.nnf-l1.wparam"
    good = weights.read_bytes()
    cases = [
        (
            weights,
            good[:-4],
            r"ANN-C.nnf-l1.wparam has 116 bytes; .*ANN-C.nnf, layer 1 .* needs 30 float32 .* 120 bytes",
        ),
        (weights, b"", r"ANN-C.nnf-l1.wparam is empty \(0 bytes\)"),
        (weights, np.full(30, np.nan, "<f4").tobytes(), r"ANN-C.nnf-l1.wparam holds NaN or infinite numbers"),
        (
            folder / "ANN-H.nnf",
            (folder / "ANN-H.nnf").read_bytes()[:60],
            r"ANN-H.nnf: its bzip2 stream of .* is damaged",
        ),
        (tiny / "sae_linfit.dat", b"\xff\xfe", r"sae_linfit.dat is not text"),
    ]
    for path, data, message in cases:
        before = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            neurochem.read_ensemble(tiny)
        path.write_bytes(before)
    weights.unlink()
    with pytest.raises(ValueError, match=r"ANN-C.nnf-l1.wparam is missing"):
        neurochem.read_ensemble(tiny)


def test_damaged_zip(tiny: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "flat"), "zip", tiny))
    data = bytearray(archive.read_bytes())
    (tmp_path / "short.zip").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"short.zip is not a complete zip file"):
        neurochem.read_ensemble(tmp_path / "short.zip")
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo("train0/networks/ANN-C.nnf-l1.wparam")
    data[info.header_offset + 80] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"ANN-C.nnf-l1.wparam is damaged"):
        neurochem.read_ensemble(archive)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        neurochem.read_ensemble(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no NeuroChem model"):
        neurochem.read_ensemble(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="neither a folder, a zip file"):
        neurochem.read_ensemble(tmp_path / "a.txt")
    (tmp_path / "a.info").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="expected four lines"):
        neurochem.read_ensemble(tmp_path / "a.info")


@pytest.mark.parametrize(
    ("folder", "methane"),
    [("ani-1x_8x", -40.45309012870), ("ani-1ccx_8x", -40.41963148077), ("ani-2x_8x", -40.45361047679)],
)
def test_published(shared: Path, folder: str, methane: float) -> None:
    potential = neurochem.read_ensemble(shared / "weights" / "ani-model-zoo", folder)
    assert len(potential) == 8
    assert energy(potential) == pytest.approx(methane, abs=1e-10)
