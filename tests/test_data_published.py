"""Published data sets, from files made in exactly the layout in which they are published, and from real ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from data_server import Page, serve
from weights_at_hand import SHARED

from anipot import units
from anipot.cli import main
from anipot.data import DataError, load, published, read_split
from anipot.data.download import DownloadError, OfflineError, Patience, RemoteFile
from anipot.data.published import archives
from anipot.data.published.base import Published, rows_in_store
from anipot.data.published.qm9_xyz import parse, parse_uncharacterized
from anipot.data.source import open_source

rng = np.random.default_rng(7)
KCAL, EV = 1 / units.HARTREE_TO_KCALMOL, 1 / units.HARTREE_TO_EV

#: The first file of QM9, dsgdb9nsd_000001.xyz.
METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t\
-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


def water(index: int) -> str:
    """Return a file of QM9 with exponents as Mathematica writes them."""
    numbers = "\t".join(f"{index}.{i}" for i in range(15))
    return (
        f"3\ngdb {index}\t{numbers}\t\nO\t-3.43*^-6\t 0.9776\t 0.0076\t-0.589706\n"
        "H\t 0.0647\t 0.0206\t 0.0015\t 0.294853\nH\t 0.8718\t 1.3008\t 6.9*^-4\t 0.294853\n"
        "1671.4222\t3803.6305\t3907.698\nO\tO\t\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
    )


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, data in members.items():
                zipped.writestr(name, data)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def hdf5(tree: Mapping[str, object]) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        for name, data in tree.items():
            h5.create_dataset(name, data=data, compression="gzip")
    return file.getvalue()


def given(monkeypatch: pytest.MonkeyPatch, dataset: Published, files: Mapping[str, bytes | Path]) -> Published:
    """Put files in the place of downloads."""
    dataset.downloads.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, data in files.items():
        paths[name] = dataset.downloads / name
        if isinstance(data, Path):
            shutil.copy(data, paths[name])
        else:
            paths[name].write_bytes(data)
    monkeypatch.setattr(dataset, "_download", lambda progress, patience: paths)
    return dataset


def everything(dataset: Published) -> dict[str, np.ndarray]:
    """Fetch a data set of molecules of one size, and return all that is in it."""
    source = open_source(dataset.fetch(progress=False))
    assert len(source.groups) == 1
    block = source.read(0, slice(None))
    return {"species": block.species, "coordinates": block.coordinates, **block.properties}


def report(dataset: Published) -> dict:
    return json.loads(dataset.report_path.read_text())


# --- what is known of them ---


@pytest.mark.parametrize("name", published.names())
def test_facts(name, tmp_path):
    kind = published.DATASETS[name]
    for variant in kind.variants or [None]:
        dataset = published.find(f"{name}:{variant}" if variant else name, folder=tmp_path)
        assert dataset.labels[0].name == "energies"
        assert dataset.citations
        assert all(doi.startswith("10.") for doi in dataset.citations)
        assert dataset.level_of_theory
        json.dumps(dataset.facts())
        for label in dataset.labels:
            assert np.isfinite(label.factor)
        for file in dataset.files():
            assert file.urls
            assert all(url.startswith("http") and file.name in (*url.split("/"), file.name) for url in file.urls)
        assert dataset.path.parent.parent == tmp_path
    assert len({published.find(f"{name}:{v}", folder=tmp_path).path for v in kind.variants}) == len(kind.variants)
    assert name in published.table(dataset.labels) or "energies" in published.table(dataset.labels)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"no published data set 'qm10'; known are qm9, md17"):
        published.find("qm10")
    with pytest.raises(ValueError, match=r"MD17 has no 'methane'; expected one of aspirin, azobenzene"):
        published.find("md17:methane")
    with pytest.raises(ValueError, match=r"'md17' takes \(molecule.*one of aspirin"):
        published.find("md17")
    with pytest.raises(ValueError, match="'ani1ccx' takes"):
        published.find("ani1ccx:x")
    assert published.find("COMP6", "s66X8").variant == "S66x8"
    assert published.find("md17", molecule="uracil").variant == "uracil"


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path))
    assert published.QM9().path == tmp_path / "data" / "qm9" / "qm9-characterized.h5"
    assert published.ANI1ccx().downloads == published.ANI1x().downloads


# --- QM9 ---


def qm9_files() -> dict[str, bytes]:
    texts = {1: METHANE, 2: water(2), 3: water(3), 4: water(4).replace("6.9*^-4", "6.9*10"), 5: water(5)}
    folder = {f"dsgdb9nsd_{i:06d}.xyz": text.encode() for i, text in texts.items()}
    listed = "".join(f"header {i}\n" for i in range(9)) + "     3    O    O   1.0\n" + "-----\n"
    return {"folder": folder, "uncharacterized.txt": listed.encode()}  # type: ignore[dict-item]


def qm9(monkeypatch, tmp_path, selection="characterized") -> Published:
    made = qm9_files()
    archive = pack(tmp_path / "made" / "dsgdb9nsd.xyz.tar.bz2", made["folder"])  # type: ignore[arg-type]
    files = {archive.name: archive, "uncharacterized.txt": made["uncharacterized.txt"]}
    if selection == "all":
        del files["uncharacterized.txt"]
    return given(monkeypatch, published.QM9(selection, folder=tmp_path), files)


def test_qm9(monkeypatch, tmp_path):
    dataset = qm9(monkeypatch, tmp_path)
    source = open_source(dataset.fetch(progress=False))
    assert [(group.size, group.num_atoms) for group in source.groups] == [(2, 3), (1, 5)]
    waters, methane = (source.read(i, slice(None)) for i in range(2))
    assert methane.species.tolist() == [[6, 1, 1, 1, 1]]
    np.testing.assert_array_equal(methane.coordinates[0, 1], [0.002150416, -0.0060313176, 0.0019761204])
    found = {name: values[0] for name, values in methane.properties.items()}
    assert found["energies"] == -40.47893
    assert (found["internal_energy"], found["enthalpy"], found["free_energy"]) == (-40.476062, -40.475117, -40.498597)
    assert (found["homo"], found["lumo"], found["gap"]) == (-0.3877, 0.1171, 0.5048)
    assert (found["heat_capacity"], found["zero_point_energy"]) == (6.469, 0.044749)
    assert found["isotropic_polarizability"] == pytest.approx(13.21 * units.BOHR_TO_ANGSTROM**3, rel=1e-12)
    assert found["spatial_extent"] == pytest.approx(35.3641 * units.BOHR_TO_ANGSTROM**2, rel=1e-12)
    assert found["rotational_constants"].tolist() == [157.7118, 157.70997, 157.70699]
    assert found["charges"].tolist() == [-0.535689, 0.133921, 0.133922, 0.133923, 0.133923]
    assert waters.properties["gdb_index"].tolist() == [2, 5]  # 3 is on the list, 4 cannot be read
    assert waters.coordinates[0, 0, 0] == -3.43e-6
    debye = 0.20819433  # e Å
    assert waters.properties["dipole_magnitude"][0] == pytest.approx(2.3 * debye, rel=1e-6)
    assert source.quantities["heat_capacity"].unit == "cal/mol/K"
    assert source.metadata["self_energies"]["C"] == -37.846772
    assert source.metadata["name"] == "qm9:characterized"


def test_qm9_reports_what_it_cannot_read(monkeypatch, tmp_path):
    dataset = qm9(monkeypatch, tmp_path, "all")
    dataset.fetch(progress=False)
    (record,) = report(dataset)["records"]
    assert record["where"].endswith("dsgdb9nsd.xyz.tar.bz2, dsgdb9nsd_000004.xyz")
    assert "line 5: could not convert string to float: '6.9*10'" in record["reason"]
    assert (report(dataset)["structures"], report(dataset)["bad"], report(dataset)["expected"]) == (4, 1, 133_885)
    with pytest.raises(DataError, match=r"dsgdb9nsd_000004\.xyz, line 5: could not convert"):
        qm9(monkeypatch, tmp_path / "refuse", "all").fetch(progress=False, on_bad="refuse")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("5\ngdb", "x\ngdb", "line 1: 'x', expected the number of atoms"),
        ("5\ngdb", "9\ngdb", "has 10 lines, expected 14 for 9 atoms"),
        ("gdb 1", "gdb9 1", "line 2: .*expected 'gdb', a number and 15 properties"),
        ("\t6.469", "", "line 2: .*15 properties"),
        ("-40.47893", "nan", "line 2: .*not all finite"),
        ("C\t-0.01", "Xx\t-0.01", "line 3: .*Xx"),
        ("\t 0.133921", "", "line 4: .*expected an element and four numbers"),
    ],
)
def test_qm9_file_that_is_not_whole(old, new, message):
    assert parse(METHANE, "m").index == 1
    with pytest.raises(DataError, match=f"^m,? ?{message}"):
        parse(METHANE.replace(old, new, 1), "m")


def test_qm9_list_that_is_none():
    assert parse_uncharacterized("\n" * 9 + "  58  C\n 61 N\nend\n", "u") == {58, 61}
    with pytest.raises(DataError, match="u: expected nine lines"):
        parse_uncharacterized("\n" * 9 + " a b\nend\n", "u")


def test_qm9_over_the_web(monkeypatch, tmp_path):
    """Downloaded, checked, converted once, and then had without the network."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    made = qm9_files()
    archive = pack(tmp_path / "made" / "dsgdb9nsd.xyz.tar.bz2", made["folder"]).read_bytes()  # type: ignore[arg-type]
    pages = {"dsgdb9nsd.xyz.tar.bz2": archive, "uncharacterized.txt": made["uncharacterized.txt"]}
    dataset = published.QM9(folder=tmp_path)
    with serve() as site:
        site.pages = {name: Page(data, cuts=[len(data) // 2]) for name, data in pages.items()}
        files = tuple(
            RemoteFile(name, (site.url(name),), f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
            for name, data in pages.items()
        )
        monkeypatch.setattr(dataset, "files", lambda: files)
        path = dataset.fetch(progress=False, patience=Patience(pause=0.01), keep_downloads=False)
        assert len(site.requests) == 4
    assert not any(dataset.downloads.glob("*.bz2"))
    assert {p.name for p in dataset.folder.iterdir() if not p.name.endswith(".lock")} == {
        "downloads",
        "qm9-characterized.h5",
        "qm9-characterized.report.json",
    }
    assert (
        open_source(path).metadata["files"]["uncharacterized.txt"]
        == hashlib.sha256(pages["uncharacterized.txt"]).hexdigest()
    )
    assert len(load("qm9", folder=tmp_path)) == 3


# --- MD17, rMD17, ISO17 ---


def trajectory(frames: int, atoms: int = 9) -> dict[str, np.ndarray]:
    return {
        "x": rng.normal(size=(frames, atoms, 3)),
        "e": -97_000 + rng.normal(size=frames),
        "f": rng.normal(size=(frames, atoms, 3)),
    }


ETHANOL = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1], dtype=np.uint8)


def sgdml(data: Mapping[str, np.ndarray]) -> bytes:
    return npz(E=data["e"][:, None], F=data["f"], R=data["x"], z=ETHANOL, name="ethanol", theory="DFT", type="d")


def test_md17(monkeypatch, tmp_path):
    data = trajectory(7)
    dataset = given(monkeypatch, published.MD17("ethanol", folder=tmp_path), {"md17_ethanol.npz": sgdml(data)})
    found = everything(dataset)
    np.testing.assert_array_equal(found["species"], np.broadcast_to(ETHANOL, (7, 9)))
    np.testing.assert_array_equal(found["coordinates"], data["x"])
    np.testing.assert_allclose(found["energies"], data["e"] * KCAL, rtol=1e-14)
    np.testing.assert_allclose(found["forces"], data["f"] * KCAL, rtol=1e-14)
    assert dataset.splits() == {}
    assert published.MD17("ethanol").self_energies["H"] == pytest.approx(-0.49962, abs=1e-5)


def test_md17_by_coupled_cluster(monkeypatch, tmp_path):
    parts = {part: trajectory(n) for part, n in (("train", 4), ("test", 3))}
    members = {f"ethanol_ccsd_t-{part}.npz": sgdml(data) for part, data in parts.items()}
    archive = pack(tmp_path / "made" / "ethanol_ccsd_t.zip", members)
    dataset = given(monkeypatch, published.MD17("ethanol_ccsd_t", folder=tmp_path), {archive.name: archive})
    source = open_source(dataset.fetch(progress=False))
    splits = dataset.splits()
    assert {name: rows.tolist() for name, rows in splits.items()} == {"train": [0, 1, 2, 3], "test": [4, 5, 6]}
    for part, data in parts.items():
        np.testing.assert_array_equal(source.read(0, splits[part]).coordinates, data["x"])
    assert not dataset.unpacked.exists()


def test_rmd17(monkeypatch, tmp_path):
    data = trajectory(6)
    data["e"][2] = np.nan
    lists = {f"train_{i}": rng.permutation(6)[:3] for i in range(1, 6)} | {
        f"test_{i}": np.array([5]) for i in range(1, 6)
    }
    arrays = npz(
        nuclear_charges=ETHANOL, coords=data["x"], energies=data["e"], forces=data["f"],
        old_indices=np.arange(6) * 10, old_energies=data["e"] + 1, old_forces=data["f"],
    )  # fmt: skip
    members = {"rmd17/npz_data/rmd17_ethanol.npz": arrays, "rmd17/npz_data/rmd17_aspirin.npz": b"other"}
    for name, rows in lists.items():
        part, number = name.split("_")
        members[f"rmd17/splits/index_{part}_0{number}.csv"] = "".join(f"{row}\n" for row in rows).encode()
    archive = pack(tmp_path / "made" / "rmd17.tar.bz2", members)
    dataset = given(monkeypatch, published.RMD17("ethanol", folder=tmp_path), {archive.name: archive})
    found = everything(dataset)
    kept = [0, 1, 3, 4, 5]  # one frame has no energy
    np.testing.assert_array_equal(found["coordinates"], data["x"][kept])
    np.testing.assert_allclose(found["energies"], data["e"][kept] * KCAL, rtol=1e-14)
    assert found["md17_frame"].tolist() == [0, 10, 30, 40, 50]
    splits = dataset.splits()
    assert set(splits) == set(lists)
    for name, rows in lists.items():
        wanted = [row for row in rows if row != 2]
        np.testing.assert_array_equal(found["coordinates"][splits[name]], data["x"][wanted])
    (record,) = report(dataset)["records"]
    assert record["where"].endswith("rmd17_ethanol.npz, group '009', index 2")
    assert record["reason"] == "the energy is missing"
    parts = read_split(dataset.splits_path, load("rmd17:ethanol", folder=tmp_path))
    assert {name: len(part) for name, part in parts.items()} == {name: len(rows) for name, rows in splits.items()}


def iso17_archive(path: Path) -> tuple[Path, dict[str, list[float]]]:
    sizes = {"reference": 5, "test_within": 2, "test_other": 3, "reference_eq": 2, "test_eq": 1}
    symbols = "C7O2H10"
    members, found = {}, {}
    for name, size in sizes.items():
        database = path.parent / f"{name}.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        found[name] = (-11_000 + rng.normal(size=size)).tolist()
        with connect(database, use_lock_file=False) as db:
            for energy in found[name]:
                atoms = Atoms(symbols, positions=rng.normal(size=(19, 3)))
                db.write(atoms, total_energy=energy, data={"atomic_forces": (-atoms.positions).tolist()})
        members[f"iso17/{name}.db"] = database.read_bytes()
    members["iso17/train_ids.txt"] = b"5\n1\n2\n"
    members["iso17/validation_ids.txt"] = b"3\n4\n"
    return pack(path, members), found


def test_iso17(monkeypatch, tmp_path):
    archive, made = iso17_archive(tmp_path / "made" / "iso17.tar.gz")
    dataset = given(monkeypatch, published.ISO17(folder=tmp_path), {archive.name: archive})
    found = everything(dataset)
    np.testing.assert_allclose(found["forces"], -found["coordinates"] * EV, rtol=1e-12)
    splits = dataset.splits()
    for part in ("reference", "test_within", "test_other"):
        np.testing.assert_allclose(found["energies"][splits[part]], np.array(made[part]) * EV, rtol=1e-14)
    reference = np.array(made["reference"]) * EV
    np.testing.assert_allclose(found["energies"][splits["train"]], reference[[4, 0, 1]], rtol=1e-14)
    np.testing.assert_allclose(found["energies"][splits["validation"]], reference[[2, 3]], rtol=1e-14)
    minima = given(monkeypatch, published.ISO17("equilibrium", folder=tmp_path), {archive.name: archive})
    assert len(everything(minima)["energies"]) == 3
    assert set(minima.splits()) == {"reference_eq", "test_eq"}


# --- ANI, COMP6 ---


def gdb(gradients: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return a file as the tools of the authors write it, and what is in it."""
    data = {
        "x": rng.normal(size=(5, 3, 3)).astype("f4"),
        "e": -76 + rng.normal(size=5),
        "f": rng.normal(size=(5, 3, 3)),
    }
    tree = {
        "gdb11_s01/gdb11_s01-0/coordinates": data["x"],
        "gdb11_s01/gdb11_s01-0/energies": data["e"],
        "gdb11_s01/gdb11_s01-0/species": np.array([b"O", b"H", b"H"]),
        "gdb11_s01/gdb11_s01-1/coordinates": data["x"] + 1,
        "gdb11_s01/gdb11_s01-1/energies": data["e"] + 1,
        "gdb11_s01/gdb11_s01-1/species": np.array([b"O", b"O", b"O"]),
    }
    if gradients:
        tree |= {f"gdb11_s01/gdb11_s01-{i}/forces": -data["f"].astype("f4") for i in range(2)}
        tree["gdb11_s01/gdb11_s01-0/lot"] = np.array([b"wb97x/6-31g*"])
    else:
        tree |= {f"gdb11_s01/gdb11_s01-{i}/coordinatesHE": data["x"] for i in range(2)}
        tree |= {f"gdb11_s01/gdb11_s01-{i}/energiesHE": data["e"] for i in range(2)}
        tree |= {f"gdb11_s01/gdb11_s01-{i}/smiles": np.array([b"O", b"[H]"]) for i in range(2)}
    return hdf5(tree), data


def test_ani1(monkeypatch, tmp_path):
    file, data = gdb()
    members = {"ANI-1_release/README": b"", "ANI-1_release/ani_gdb_s01.h5": file, "ANI-1_release/ani_gdb_s02.h5": file}
    archive = pack(tmp_path / "made" / "ANI1_release.tar.gz", members)
    dataset = given(monkeypatch, published.ANI1(2, folder=tmp_path), {archive.name: archive})
    found = everything(dataset)
    assert len(found["energies"]) == 20
    np.testing.assert_allclose(found["energies"][:5], data["e"], rtol=1e-15)
    np.testing.assert_array_equal(found["coordinates"][:5], data["x"])
    assert found["species"][[0, 5]].tolist() == [[8, 1, 1], [8, 8, 8]]
    assert found["molecule"][[0, 5, 10, 15]].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"holds no ani_gdb_s03\.h5"):
        given(monkeypatch, published.ANI1(3, folder=tmp_path), {archive.name: archive}).fetch(progress=False)


def test_records_that_a_reader_refuses(monkeypatch, tmp_path):
    """An element that there is not, and a label too few: the groups are left out, each record is on the list."""
    x, e = rng.normal(size=(3, 2, 3)), rng.normal(size=3)
    tree = {}
    for i, (species, energies) in enumerate([(b"OH", e), (b"XH", e), (b"OH", e[:2]), (b"HH", e)]):
        tree[f"gdb11_s01/m{i}/coordinates"] = x + i
        tree[f"gdb11_s01/m{i}/energies"] = energies
        tree[f"gdb11_s01/m{i}/species"] = np.frombuffer(species, "S1")
    archive = pack(tmp_path / "made" / "ANI1_release.tar.gz", {"ANI-1_release/ani_gdb_s01.h5": hdf5(tree)})
    dataset = given(monkeypatch, published.ANI1(1, folder=tmp_path), {archive.name: archive})
    found = everything(dataset)
    np.testing.assert_allclose(found["coordinates"], np.concatenate([x, x + 3]), rtol=1e-6)
    assert found["molecule"].tolist() == [0] * 3 + [3] * 3
    listed = {record["where"].split("ani_gdb_s01.h5, ")[1]: record["reason"] for record in report(dataset)["records"]}
    assert list(listed) == [f"group 'gdb11_s01/m{i}', index {j}" for i in (1, 2) for j in range(3)]
    assert "X" in listed["group 'gdb11_s01/m1', index 0"]
    assert "expected (3," in listed["group 'gdb11_s01/m2', index 2"]
    again = given(monkeypatch, published.ANI1(1, folder=tmp_path / "refuse"), {archive.name: archive})
    with pytest.raises(DataError, match="gdb11_s01/m1"):
        again.fetch(progress=False, on_bad="refuse")


def release() -> tuple[bytes, dict[str, np.ndarray]]:
    """Return a file of the layout of ani1x-release.h5: every key, missing labels NaN."""
    n, a = 4, 3
    data = {"x": rng.normal(size=(n, a, 3)).astype("f4")}
    for name in ("wb97x_dz.energy", "wb97x_tz.energy", "ccsd(t)_cbs.energy", "hf_dz.energy", "mp2_dz.corr_energy"):
        data[name] = -76 + rng.normal(size=n)
    for level in ("wb97x_dz", "wb97x_tz"):
        data[f"{level}.forces"] = rng.normal(size=(n, a, 3)).astype("f4")
        data[f"{level}.dipole"] = rng.normal(size=(n, 3)).astype("f4")
    for name in ("wb97x_dz.cm5_charges", "wb97x_dz.hirshfeld_charges", "wb97x_tz.mbis_charges"):
        data[name] = rng.normal(size=(n, a)).astype("f4")
    data["ccsd(t)_cbs.energy"][[0, 2]] = np.nan
    data["wb97x_tz.energy"][1] = np.nan
    data["wb97x_tz.forces"][1] = np.nan
    tree = {f"H2O/{name}": values for name, values in data.items() if name != "x"}
    tree |= {"H2O/atomic_numbers": np.array([8, 1, 1], dtype="u1"), "H2O/coordinates": data["x"]}
    return hdf5(tree), data


@pytest.mark.parametrize(
    ("name", "prefix", "kept"),
    [
        ("ani1x", "wb97x_dz", [0, 1, 2, 3]),
        ("ani1x:wb97x_tz", "wb97x_tz", [0, 2, 3]),
        ("ani1ccx", "ccsd(t)_cbs", [1, 3]),
    ],
)
def test_ani1x(monkeypatch, tmp_path, name, prefix, kept):
    file, data = release()
    dataset = given(monkeypatch, published.find(name, folder=tmp_path), {"ani1x-release.h5": file})
    found = everything(dataset)
    np.testing.assert_allclose(found["energies"], data[f"{prefix}.energy"][kept], rtol=1e-15)
    forces, level = ("dft_forces", "wb97x_dz") if name == "ani1ccx" else ("forces", prefix)
    np.testing.assert_array_equal(found[forces], data[f"{level}.forces"][kept])
    if name == "ani1x":
        np.testing.assert_array_equal(found["cm5_charges"], data["wb97x_dz.cm5_charges"])
        np.testing.assert_array_equal(found["dipole"], data["wb97x_dz.dipole"])
    assert report(dataset)["bad"] == 0
    assert report(dataset)["read"] - report(dataset)["structures"] == 4 - len(kept)


@pytest.mark.parametrize("kind", ["ani2x", "comp6v2"])
def test_grouped_by_size(monkeypatch, tmp_path, kind):
    x, e, f = rng.normal(size=(4, 2, 3)).astype("f4"), -100 + rng.normal(size=4), rng.normal(size=(4, 2, 3))
    species = np.array([[9, 1], [17, 1], [6, 8], [16, 8]])
    file = hdf5({"002/coordinates": x, "002/energies": e, "002/forces": f, "002/species": species})
    stem = {"ani2x": "final_h5/ANI-2x-wB97X-631Gd.h5", "comp6v2": "comp6v2_final_h5/COMP6v2_wB97X-631Gd.h5"}[kind]
    name = {"ani2x": "ANI-2x-wB97X-631Gd.tar.gz", "comp6v2": "COMP6v2_wB97X-631Gd.tar.gz"}[kind]
    archive = pack(tmp_path / "made" / name, {stem: file})
    found = everything(given(monkeypatch, published.find(kind, folder=tmp_path), {name: archive}))
    np.testing.assert_array_equal(found["species"], species)
    np.testing.assert_allclose(found["energies"], e, rtol=1e-15)
    np.testing.assert_allclose(found["forces"], f, rtol=1e-7)


def test_comp6(monkeypatch, tmp_path):
    """What the files call forces is the gradient."""
    file, data = gdb(gradients=True)
    names = [remote.name for remote in published.COMP6("GDB7to9").files()]
    found = everything(given(monkeypatch, published.COMP6("GDB7to9", folder=tmp_path), dict.fromkeys(names, file)))
    assert len(found["energies"]) == 30
    np.testing.assert_allclose(found["forces"][:5], data["f"], rtol=1e-6)
    assert found["molecule"][::5].tolist() == [0, 1, 2, 3, 4, 5]


# --- Materials Project ---


def document(name: str, **changes: object) -> dict:
    sites = [
        {"species": [{"element": "Si", "occu": 1}], "abc": [0, 0, 0], "xyz": [0.0, 0.0, 0.0], "label": "Si"},
        {"species": [{"element": "O", "occu": 1.0}], "abc": [0.25] * 3, "xyz": [1.0, 1.5, 2.0], "label": "O"},
    ]
    structure = {"@class": "Structure", "lattice": {"matrix": [[4, 0, 0], [0, 5, 0], [0, 1, 6]]}, "sites": sites}
    numbers = {"energy_per_atom": -5.0, "formation_energy_per_atom": -1.0, "band_gap": 1.5, "total_magnetization": 2.0}
    return {"material_id": name, "structure": structure, **numbers, **changes}


def test_materials_project_from_a_file(tmp_path):
    disordered = document("mp-3")
    disordered["structure"]["sites"][1]["species"].append({"element": "S", "occu": 0.5})
    documents = [document("mp-1"), document("mp-2", band_gap=None), disordered]
    path = tmp_path / "summary.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump(documents, file)
    dataset = published.MaterialsProject(path, folder=tmp_path)
    source = open_source(dataset.fetch(progress=False, keep_downloads=False))
    assert path.exists()
    block = source.read(0, slice(None))
    assert source.periodic
    assert block.pbc.all()
    assert block.cell[0].tolist() == [[4, 0, 0], [0, 5, 0], [0, 1, 6]]
    assert block.species.tolist() == [[14, 8]] * 2
    assert block.coordinates[0].tolist() == [[0, 0, 0], [1, 1.5, 2]]
    np.testing.assert_allclose(block.properties["energies"], [-10 * EV] * 2, rtol=1e-14)
    np.testing.assert_allclose(block.properties["formation_energy_per_atom"], [-EV] * 2, rtol=1e-14)
    np.testing.assert_allclose(block.properties["band_gap"], [1.5 * EV, np.nan], rtol=1e-14)
    assert block.properties["total_magnetization"].tolist() == [2, 2]
    assert source.metadata["materials"] == ["mp-1", "mp-2"]
    assert "site 1 is disordered" in report(dataset)["records"][0]["reason"]


def test_materials_project_by_its_client(monkeypatch, tmp_path):
    asked = []

    class Client:
        def __init__(self, key: str, **options: object):
            self.materials = types.SimpleNamespace(summary=self)

        def __enter__(self):
            return self

        def __exit__(self, *error: object):
            pass

        def search(self, num_sites: tuple[int, int], fields: list[str]):
            asked.append(num_sites)
            if num_sites == (5, 6) and asked.count((5, 6)) == 1:
                raise ConnectionError("broken")
            if num_sites != (1, 2):
                return []
            made = document("mp-149")
            structure = types.SimpleNamespace(as_dict=lambda: made["structure"])
            return [types.SimpleNamespace(**{**made, "structure": structure})]

    module = types.ModuleType("mp_api.client")
    module.MPRester = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mp_api", types.ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", module)
    monkeypatch.delenv("ANIPOT_OFFLINE", raising=False)
    dataset = published.MaterialsProject(api_key="k" * 32, folder=tmp_path)
    with pytest.raises(ConnectionError):
        dataset.fetch(progress=False)
    assert everything(dataset)["energies"].tolist() == pytest.approx([-10 * EV])
    assert asked[:4] == [(1, 2), (3, 4), (5, 6), (5, 6)]  # answers are kept


def test_materials_project_says_what_it_takes(monkeypatch, tmp_path):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.delenv("ANIPOT_OFFLINE", raising=False)
    with pytest.raises(DownloadError, match=r"there is no key: get one at https.*MaterialsProject\(file="):
        published.MaterialsProject(folder=tmp_path).fetch()
    with pytest.raises(DownloadError, match="a key of 16 characters, expected 32"):
        published.MaterialsProject(api_key="k" * 16, folder=tmp_path).fetch()
    monkeypatch.setitem(sys.modules, "mp_api", None)
    with pytest.raises(DownloadError, match="pip install mp-api"):
        published.MaterialsProject(api_key="k" * 32, folder=tmp_path).fetch()
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    with pytest.raises(OfflineError, match="ANIPOT_OFFLINE is set"):
        published.MaterialsProject(api_key="k" * 32, folder=tmp_path).fetch()
    with pytest.raises(DataError, match="no such file"):
        published.MaterialsProject(tmp_path / "none.json", folder=tmp_path).fetch()
    (tmp_path / "bad.json").write_text('{"data": 1}')
    with pytest.raises(DataError, match="expected a list of documents"):
        published.MaterialsProject(tmp_path / "bad.json", folder=tmp_path).fetch(progress=False)


# --- archives, restarts ---


def test_archive_that_ends_early(tmp_path):
    whole = pack(tmp_path / "a.tar.gz", {"x/data.h5": rng.bytes(100_000)}).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(whole[:50_000])
    target = tmp_path / "out" / "data.h5"
    with pytest.raises(DataError, match=r"b\.tar\.gz cannot be read"):
        archives.take(tmp_path / "b.tar.gz", {"data.h5": target}, progress=False)
    assert not target.exists()
    archives.take(tmp_path / "a.tar.gz", {"x/data.h5": target}, progress=False)
    assert target.stat().st_size == 100_000
    assert [path.name for path in target.parent.iterdir()] == ["data.h5"]


def test_interrupted_conversion_goes_on(monkeypatch, tmp_path):
    data = trajectory(50)
    data["x"][3] = np.nan
    data["f"][40, 2] = np.inf
    dataset = given(monkeypatch, published.MD17("ethanol", folder=tmp_path), {"md17_ethanol.npz": sgdml(data)})
    from anipot.data import store

    copy, seen = store.copy, []

    def interrupted(source, path, checks, **options):
        def stop(block):
            seen.append(int(block.rows[0]))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return checks(block)

        return copy(source, path, stop, size=10, **options)

    monkeypatch.setattr(store, "copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset.fetch(progress=False)
    assert not dataset.path.exists()
    found = everything(dataset)
    assert seen == [0, 10, 20, 20, 30, 40]
    kept = np.delete(np.arange(50), [3, 40])
    np.testing.assert_array_equal(found["coordinates"], data["x"][kept])
    records = [(record["where"].split(", ")[-1], record["reason"]) for record in report(dataset)["records"]]
    assert records[0][0] == "index 3"
    assert "stands at [nan, nan, nan]" in records[0][1]
    assert records[1:] == [("index 40", "forces are infinite")]


def test_rows_in_store_leave_out_what_is_not_there(monkeypatch, tmp_path):
    data = trajectory(4)
    dataset = given(monkeypatch, published.MD17("ethanol", folder=tmp_path), {"md17_ethanol.npz": sgdml(data)})
    path = dataset.fetch(progress=False)
    rows = rows_in_store(path, {"a": np.array([3, 9, 0])})
    assert rows["a"].tolist() == [3, 0]


# --- the command ---


def test_list(capsys, tmp_path):
    assert main(["data", "list", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", *published.names()]
    assert "0 of 16" in next(line for line in lines if line.startswith("md17"))


@pytest.mark.parametrize("name", published.names())
def test_list_one(capsys, tmp_path, name):
    kind = published.DATASETS[name]
    for chosen in (name, *(f"{name}:{variant}" for variant in kind.variants)):
        assert main(["data", "list", chosen, "--folder", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert kind.homepage in shown
        assert "\nenergies" in shown
        if chosen == name and kind.variants:
            assert all(f"{name}:{variant}" in shown for variant in kind.variants)
        else:
            assert "(not fetched yet)" in shown
            assert name == "materialsproject" or "download: http" in shown


def test_fetch_command(capsys, monkeypatch, tmp_path):
    documents = [document("mp-1"), {"material_id": "mp-2"}]
    (tmp_path / "some.json").write_text(json.dumps(documents))
    command = ["data", "fetch", "materialsproject", "--file", str(tmp_path / "some.json"), "--folder", str(tmp_path)]
    assert main([*command, "--on-bad", "refuse"]) == 2
    assert "some.json, document 1: KeyError: 'structure'" in capsys.readouterr().err
    assert main([*command, "--delete-downloads"]) == 0
    shown = capsys.readouterr().out
    assert f"materialsproject: {tmp_path / 'materialsproject' / 'materialsproject-some.h5'}\n  1 structures\n" in shown
    assert "1 record left out, listed in" in shown
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    assert main(["data", "fetch", "md17:ethanol", "--folder", str(tmp_path)]) == 1
    assert "put it at" in capsys.readouterr().err
    assert main(["data", "fetch", "comp6", "--folder", str(tmp_path)]) == 2
    assert "one of ANI-MD, DrugBank" in capsys.readouterr().err


def test_all_parts(tmp_path):
    from anipot.cli.data_fetch import _find

    assert [d.variant for d in _find("comp6:all", str(tmp_path), None)] == list(published.COMP6.variants)
    assert [d.variant for d in _find("qm9:all", str(tmp_path), None)] == ["all"]


# --- the real files, where they are at hand ---


def real(name: str) -> Path:
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return path


def test_real_ani1(monkeypatch, tmp_path):
    members = {"ANI-1_release/ani_gdb_s01.h5": real("ani1_gdb_s01/ani_gdb_s01.h5").read_bytes()}
    archive = pack(tmp_path / "made" / "ANI1_release.tar.gz", members)
    dataset = given(monkeypatch, published.ANI1(1, folder=tmp_path), {archive.name: archive})
    source = open_source(dataset.fetch(progress=False))
    assert [(group.size, group.num_atoms) for group in source.groups] == [(1800, 3), (3600, 4), (5400, 5)]
    assert source.read(0, slice(0, 1)).properties["energies"] == pytest.approx(-76.4, abs=0.2)


def test_real_ani1x(monkeypatch, tmp_path):
    path = real("ani1x_physicsml/ani1x.h5")
    sizes = {}
    for name in ("ani1x", "ani1x:wb97x_tz", "ani1ccx"):
        dataset = given(monkeypatch, published.find(name, folder=tmp_path), {"ani1x-release.h5": path})
        source = open_source(dataset.fetch(progress=False))
        sizes[name] = sum(group.size for group in source.groups)
        assert report(dataset)["bad"] == 0
    assert sizes["ani1x"] == 96
    assert sizes["ani1ccx"] == 3


def test_real_ani2x(monkeypatch, tmp_path):
    members = {"final_h5/ANI-2x-wB97X-631Gd.h5": real("ani2x_diatomics/ani2x_minimal.hdf5").read_bytes()}
    archive = pack(tmp_path / "made" / "ANI-2x-wB97X-631Gd.tar.gz", members)
    found = everything(given(monkeypatch, published.ANI2x(folder=tmp_path), {archive.name: archive}))
    assert len(found["energies"]) == 5706
    bound = np.linalg.norm(found["coordinates"][:, 0] - found["coordinates"][:, 1], axis=1)
    assert 0.5 < bound.min() < bound.max() < 10


def test_real_md17(monkeypatch, tmp_path):
    path = real("md17_ethanol/md17_ethanol_first2000.npz")
    found = everything(given(monkeypatch, published.MD17("ethanol", folder=tmp_path), {"md17_ethanol.npz": path}))
    work = np.einsum("nai,nai->n", found["coordinates"][1:] - found["coordinates"][:-1], found["forces"][:-1])
    slope = np.polyfit(-work, np.diff(found["energies"]), 1)[0]
    assert slope == pytest.approx(1, abs=0.05)  # units and sign of energies and forces belong together
