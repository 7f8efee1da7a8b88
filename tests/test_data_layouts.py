"""Readers: files in each published layout give the same structures, in one system of units; damaged ones are named."""

from __future__ import annotations

import multiprocessing
import pickle
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from weights_at_hand import SHARED

import anipot
from anipot import units
from anipot.data import store
from anipot.data.blocks import Block, DataError, Source
from anipot.data.layouts.columns import species
from anipot.data.source import open_source

HARTREE, BOHR, KCAL = units.HARTREE_TO_EV, units.BOHR_TO_ANGSTROM, units.HARTREE_TO_KCALMOL
DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs published data sets; none in {DATA}")


class Molecule(NamedTuple):
    """n structures of one molecule, in Å and Hartree."""

    numbers: np.ndarray
    coordinates: np.ndarray
    energies: np.ndarray
    forces: np.ndarray


def molecule(numbers: list[int], n: int) -> Molecule:
    random = np.random.default_rng(sum(numbers))
    shape = (n, len(numbers), 3)
    return Molecule(np.array(numbers), random.normal(size=shape), -random.random(n) * 100, random.normal(size=shape))


WATER, METHANE = molecule([8, 1, 1], 4), molecule([6, 1, 1, 1, 1], 3)
MOLECULES = (WATER, METHANE)
SYMBOLS = {1: b"H", 6: b"C", 8: b"O"}


def write_hdf5(path: Path, groups: dict[str, dict[str, Any]], **attributes: Any) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for group, arrays in groups.items():
            for key, array in arrays.items():
                file[f"{group}/{key}"] = array


def ani1(path: Path) -> dict[str, Any]:
    groups = {
        f"gdb11_s01/gdb11_s01-{i}": {
            "species": np.array([SYMBOLS[z] for z in m.numbers]),
            "coordinates": m.coordinates,
            "energies": m.energies,
            "forces": -m.forces,
            "smiles": np.array([b"C"]),
        }
        for i, m in enumerate(MOLECULES)
    }
    write_hdf5(path, groups)
    return {"fields": {"energies": "energies", "forces": "-forces"}}


def ani1x(path: Path) -> dict[str, Any]:
    groups = {
        name: {
            "atomic_numbers": m.numbers.astype(np.uint8),
            "coordinates": m.coordinates,
            "wb97x_dz.energy": m.energies,
            "wb97x_dz.forces": m.forces,
            "hf_dz.energy": m.energies,
        }
        for name, m in zip(("H2O1", "C1H4"), MOLECULES, strict=True)
    }
    write_hdf5(path, groups)
    return {}


def _grouped(m: Molecule) -> dict[str, Any]:
    elements = np.tile(m.numbers, (len(m.energies), 1))
    return {"species": elements, "coordinates": m.coordinates, "energies": m.energies, "forces": m.forces}


def ani2x(path: Path) -> dict[str, Any]:
    write_hdf5(path, {f"{len(m.numbers):03d}": _grouped(m) for m in MOLECULES})
    return {}


def torchani2(path: Path) -> dict[str, Any]:
    write_hdf5(path, {"H2O": _grouped(WATER), "CH4": _grouped(METHANE)}, grouping="by_formula")
    return {}


def spice(path: Path) -> dict[str, Any]:
    groups = {
        name: {
            "atomic_numbers": m.numbers.astype(np.int16),
            "conformations": m.coordinates / BOHR,
            "dft_total_energy": m.energies,
            "dft_total_gradient": -m.forces * BOHR,
            "smiles": np.array([b"[H][H]"]),
        }
        for name, m in zip(("O", "C#C.[Na+]"), MOLECULES, strict=True)
    }
    write_hdf5(path, groups)
    with h5py.File(path, "r+") as file:
        for group in file.values():
            group["conformations"].attrs["units"] = "bohr"
            group["dft_total_energy"].attrs["units"] = "hartree"
            group["dft_total_gradient"].attrs["units"] = "hartree/bohr"
    return {}


def qm7x(path: Path) -> dict[str, Any]:
    groups = {
        f"{number}/Geom-m{number}-i1-c1-{i}": {
            "atNUM": m.numbers,
            "atXYZ": m.coordinates[i],
            "ePBE0+MBD": m.energies[i : i + 1] * HARTREE,
            "totFOR": m.forces[i] * HARTREE,
        }
        for number, m in zip((1, 22), MOLECULES, strict=True)
        for i in range(len(m.energies))
    }
    write_hdf5(path, groups)
    return {}


def _padded(values: Callable[[Molecule], np.ndarray]) -> np.ndarray:
    return np.concatenate(
        [
            np.pad(values(m), [(0, 0), (0, 5 - len(m.numbers)), *[(0, 0)] * (values(m).ndim - 2)])
            for m in (METHANE, WATER)
        ]
    )


def padded(path: Path) -> dict[str, Any]:
    np.savez(
        path,
        z=_padded(lambda m: np.tile(m.numbers, (len(m.energies), 1))),
        R=_padded(lambda m: m.coordinates),
        E=np.concatenate([METHANE.energies, WATER.energies])[:, None] * HARTREE,
        F=_padded(lambda m: m.forces) * HARTREE,
    )
    return {"length": "Å", "fields": {"energies": "E [eV]", "forces": "F [eV/Å]"}}


def qm7x_table(path: Path) -> dict[str, Any]:
    arrays = {
        "atNUM": _padded(lambda m: np.tile(m.numbers, (len(m.energies), 1))),
        "atXYZ": _padded(lambda m: m.coordinates),
        "ePBE0+MBD": np.concatenate([METHANE.energies, WATER.energies])[:, None] * HARTREE,
        "totFOR": _padded(lambda m: m.forces) * HARTREE,
    }
    np.savez_compressed(path, **arrays)
    return {}


def _atoms(m: Molecule, i: int) -> Atoms:
    return Atoms(m.numbers, m.coordinates[i])


def schnetpack(path: Path) -> dict[str, Any]:
    with ase.db.connect(path) as database:
        database.metadata = {
            "_property_unit_dict": {"energy": "kcal/mol", "forces": "kcal/mol/Bohr"},
            "_distance_unit": "Bohr",
            "atomrefs": {"energy": [0.0, -0.5 * KCAL, *[0.0] * 4, -37.5 * KCAL, 0.0, -75.0 * KCAL]},
        }
        for m in MOLECULES:
            for i in range(len(m.energies)):
                atoms = Atoms(m.numbers, m.coordinates[i] / BOHR)
                data = {"energy": m.energies[i : i + 1] * KCAL, "forces": m.forces[i] * KCAL * BOHR}
                database.write(atoms, data=data)
    return {}


def schnetpack_before_1(path: Path) -> dict[str, Any]:
    references = np.zeros((10, 2))
    references[[1, 6, 8], 0] = np.array([-0.5, -37.5, -75.0]) * HARTREE
    with ase.db.connect(path) as database:
        database.metadata = {"atomrefs": references.tolist(), "atref_labels": ["energy", "other"]}
        for m in MOLECULES:
            for i in range(len(m.energies)):
                data: dict[str, Any] = {}
                for key, array in (("energy", m.energies[i : i + 1]), ("forces", m.forces[i])):
                    data[key] = b64encode((array * HARTREE).tobytes()).decode()
                    data[f"_shape_{key}"], data[f"_dtype_{key}"] = array.shape, str(array.dtype)
                database.write(_atoms(m, i), data=data)
    return {"length": "Ang", "fields": {"energies": "energy [eV]", "forces": "forces [eV/Ang]"}}


def _calculated(m: Molecule, i: int) -> Atoms:
    atoms = _atoms(m, i)
    atoms.calc = SinglePointCalculator(atoms, energy=m.energies[i] * HARTREE, forces=m.forces[i] * HARTREE)
    return atoms


EV = {"fields": {"energies": "energy [eV]", "forces": "forces [eV/Å]"}}


def ase_db(path: Path) -> dict[str, Any]:
    with ase.db.connect(path) as database:
        database.write(Atoms("He"))
        for m in MOLECULES:
            for i in range(len(m.energies)):
                database.write(_calculated(m, i))
        database.delete([1])
    return {"length": "Å", **EV}


def extxyz(path: Path) -> dict[str, Any]:
    frames = [_calculated(METHANE, i) for i in range(3)] + [_calculated(WATER, i) for i in range(4)]
    ase.io.write(path, [frames[i] for i in (0, 3, 1, 4, 5, 2, 6)], format="extxyz")
    return EV


def other_keys(path: Path) -> dict[str, Any]:
    frames = []
    for m in MOLECULES:
        for i in range(len(m.energies)):
            atoms = _atoms(m, i)
            atoms.info["dft energy"] = m.energies[i] * KCAL
            atoms.arrays["gradient"] = -m.forces[i] * KCAL
            frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return {"fields": {"energies": "dft energy [kcal/mol]", "forces": "-gradient [kcal/mol/Å]"}}


class Sample(NamedTuple):
    """A small file in a published layout: name, ending, how it is written, layout as it is recognised."""

    write: Callable[[Path], dict[str, Any]]
    ending: str
    layout: str
    digits: float = 1e-14


SAMPLES = [
    Sample(ani1, "h5", "ani1"),
    Sample(ani1x, "h5", "ani1x"),
    Sample(ani2x, "h5", "grouped"),
    Sample(torchani2, "h5", "grouped"),
    Sample(spice, "hdf5", "spice"),
    Sample(qm7x, "hdf5", "qm7x"),
    Sample(padded, "npz", "npz"),
    Sample(qm7x_table, "npz", "npz"),
    Sample(schnetpack, "db", "ase_db"),
    Sample(schnetpack_before_1, "db", "ase_db"),
    Sample(ase_db, "db", "ase_db"),
    Sample(extxyz, "xyz", "extxyz", 1e-7),
    Sample(other_keys, "extxyz", "extxyz", 1e-7),
]
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.write.__name__)


def opened(sample: Sample, folder: Path) -> Source:
    path = folder / f"sample.{sample.ending}"
    return open_source(path, **sample.write(path))


def check_molecule(block: Block, m: Molecule, digits: float) -> None:
    np.testing.assert_array_equal(block.species, np.tile(m.numbers, (len(m.energies), 1)))
    found = (block.coordinates, block.properties["energies"], block.properties["forces"])
    for array, expected in zip(found, (m.coordinates, m.energies, m.forces), strict=True):
        assert array.dtype == np.float64
        np.testing.assert_allclose(array, expected, rtol=digits, atol=digits)


@each_sample
def test_structures_come_in_our_units(sample, tmp_path):
    source = opened(sample, tmp_path)
    assert source.layout == sample.layout
    assert {(group.size, group.num_atoms) for group in source.groups} == {(4, 3), (3, 5)}
    assert set(source.quantities) == {"energies", "forces"}
    assert not source.periodic
    for i, group in enumerate(source.groups):
        block = source.read(i, slice(0, group.size))
        check_molecule(block, WATER if group.num_atoms == 3 else METHANE, sample.digits)
        assert block.cell is None
        assert (block.file, block.group) == (source.paths[0], group.name)


@each_sample
def test_some_rows_and_none(sample, tmp_path):
    source = opened(sample, tmp_path)
    for i, group in enumerate(source.groups):
        whole = source.read(i, slice(0, group.size))
        for rows in (slice(1, 99), slice(0, 0), np.array([0, 2]), np.array([], dtype=np.int64)):
            part = source.read(i, rows)
            picked = np.arange(group.size)[rows]
            np.testing.assert_array_equal(part.coordinates, whole.coordinates[picked])
            np.testing.assert_array_equal(part.properties["forces"], whole.properties["forces"][picked])
            np.testing.assert_array_equal(part.rows, whole.rows[picked])
        with pytest.raises(IndexError):
            source.read(i, np.array([group.size]))
        with pytest.raises(IndexError, match="ascending"):
            source.read(i, np.array([1, 0]))


def _total(source: Source, i: int) -> float:
    return float(source.read(i, slice(0, 3)).properties["forces"].sum())


@each_sample
def test_other_processes_read(sample, tmp_path):
    source = opened(sample, tmp_path)
    expected = [_total(source, i) for i in (0, 1)] * 3  # files are open here when the others are forked
    again = pickle.loads(pickle.dumps(source))
    assert [_total(again, i) for i in (0, 1)] * 3 == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_total, [(source, i) for i in (0, 1)] * 3) == expected


@each_sample
def test_a_copy_is_the_same(sample, tmp_path):
    source = opened(sample, tmp_path)
    assert store.copy(source, tmp_path / "copy.h5") == 7
    copied = open_source(tmp_path / "copy.h5")
    assert [(group.size, group.num_atoms) for group in copied.groups] == [(4, 3), (3, 5)]
    for i, m in enumerate(MOLECULES):
        block = copied.read(i, slice(0, 9))
        check_molecule(block, m, sample.digits)
        original = next(j for j, group in enumerate(source.groups) if group.num_atoms == len(m.numbers))
        if "molecule" in block.properties:
            assert copied.metadata["molecules"][int(block.properties["molecule"][0])] == source.groups[original].name
        elif "frame" in block.properties:
            np.testing.assert_array_equal(block.properties["frame"], source.read(original, slice(0, 9)).rows)
        else:
            assert sample.write is ani2x
    assert copied.metadata["files"] == [Path(source.paths[0]).name]


# What each layout knows, and what it asks for.


def test_frames_keep_their_numbers(tmp_path):
    source = opened(Sample(extxyz, "xyz", "extxyz"), tmp_path)
    assert source.read(0, slice(0, 9)).rows.tolist() == [1, 3, 4, 6]
    assert source.read(1, np.array([0, 2])).rows.tolist() == [0, 5]
    assert source.read(1, np.array([0, 2])).where(1) == f"{tmp_path}/sample.xyz, group '005', index 5"


def test_single_atoms_of_schnetpack(tmp_path):
    for sample in (Sample(schnetpack, "db", "ase_db"), Sample(schnetpack_before_1, "db", "ase_db")):
        folder = tmp_path / sample.write.__name__
        folder.mkdir()
        found = opened(sample, folder).metadata["self_energies"]
        assert found == pytest.approx({"H": -0.5, "C": -37.5, "O": -75.0}, rel=1e-12)


def test_signs_of_ani1_are_asked_for(tmp_path):
    path = tmp_path / "a.h5"
    ani1(path)
    assert set(open_source(path).quantities) == {"energies"}
    with pytest.raises(
        DataError, match=r"'forces' holds forces in some files .* and gradients in others; say fields=.*'\+forces'"
    ):
        open_source(path, fields={"forces": "forces"})
    for forces in ({"key": "forces", "negate": False}, "+forces"):
        said = open_source(path, fields={"forces": forces})
        np.testing.assert_array_equal(said.read(0, slice(0, 4)).properties["forces"], -WATER.forces)
    said = open_source(path, fields={"forces": "-forces [Hartree/Å]"})
    np.testing.assert_array_equal(said.read(0, slice(0, 4)).properties["forces"], WATER.forces)


def test_methods_of_ani1x_are_asked_for(tmp_path):
    path = tmp_path / "a.h5"
    ani1x(path)
    with h5py.File(path, "r+") as file:
        for group in file.values():
            group["ccsd(t)_cbs.energy"] = np.full(len(group["coordinates"]), np.nan)
            group["wb97x_dz.dipole"] = np.ones((len(group["coordinates"]), 3))
            group["wb97x_tz.mbis_volumes"] = np.ones(group["coordinates"].shape[:2])
    with pytest.raises(DataError, match=r"energies of ccsd\(t\)_cbs, wb97x_dz; say which"):
        open_source(path)
    fields = {
        "energies": "ccsd(t)_cbs.energy",
        "dipole": "wb97x_dz.dipole",
        "volumes": {"key": "wb97x_tz.mbis_volumes"},
    }
    fields["volumes"]["per_atom"] = True
    source = open_source(path, fields=fields)
    block = source.read(0, slice(0, 2))
    assert np.isnan(block.properties["energies"]).all()
    np.testing.assert_array_equal(block.properties["dipole"], np.ones((2, 3)))
    assert source.quantities["volumes"].unit == "bohr^3"
    assert block.properties["volumes"].shape == (2, 5)
    assert open_source(path, fields={}).read(0, slice(0, 1)).properties == {}


def test_molecules_of_spice_may_lack_labels(tmp_path):
    path = tmp_path / "a.h5"
    spice(path)
    with h5py.File(path, "r+") as file:
        file["O/mbis_charges"] = np.ones((4, 3, 1))
        file["O/mbis_charges"].attrs["units"] = "elementary_charge"
    source = open_source(path)
    charges = {group.name: source.read(i, slice(0, 9)).properties["charges"] for i, group in enumerate(source.groups)}
    np.testing.assert_array_equal(charges["O"], np.ones((4, 3)))
    assert charges["C#C.[Na+]"].shape == (3, 5)
    assert np.isnan(charges["C#C.[Na+]"]).all()
    del source  # closes the file
    with h5py.File(path, "r+") as file:
        for group in file.values():
            del group["conformations"].attrs["units"], group["dft_total_energy"].attrs["units"]
    with pytest.raises(
        DataError, match=r"units of energies are not in the file.*energies': 'dft_total_energy \[Hartree\]'"
    ):
        open_source(path)
    with pytest.raises(DataError, match="unit of 'conformations' is not in the file; say it, for example length='Å'"):
        open_source(path, fields={})
    block = open_source(path, length="bohr", fields={"forces": "dft_total_gradient"}).read(1, slice(0, 9))
    np.testing.assert_allclose(block.properties["forces"], WATER.forces, rtol=1e-14)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_md17_asks_for_units(tmp_path, save):
    path = tmp_path / "md17_ethanol.npz"
    arrays = {"z": WATER.numbers.astype(np.uint8), "R": WATER.coordinates, "E": WATER.energies[:, None] * KCAL}
    save(path, F=WATER.forces * KCAL, name=b"water", theory="PBE+vdW-TS", **arrays)
    with pytest.raises(DataError, match=r"units of energies, forces are not in the file; .*it has E, F"):
        open_source(path, length="Å")
    fields = {"energies": "E [kcal/mol]", "forces": "F [kcal/mol/Å]"}
    with pytest.raises(DataError, match="unit of coordinates is not in the file"):
        open_source(path, fields=fields)
    source = open_source(path, length="Å", fields=fields)
    check_molecule(source.read(0, slice(0, 4)), WATER, 1e-14)
    assert source.metadata == {"name": "water", "level_of_theory": "PBE+vdW-TS"}


def test_sgdml_says_its_units_and_lattice(tmp_path):
    path = tmp_path / "water.npz"
    lattice = np.array([[5.0, 1.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 7.0]])  # vectors are columns
    arrays = {"z": WATER.numbers, "R": WATER.coordinates / BOHR, "E": WATER.energies, "F": WATER.forces * BOHR}
    np.savez(path, type=b"d", r_unit="bohr", e_unit="Hartree", lattice=lattice / BOHR, **arrays)
    source = open_source(path)
    block = source.read(0, slice(0, 4))
    check_molecule(block, WATER, 1e-14)
    assert source.periodic
    np.testing.assert_allclose(block.cell[3], [[5, 0, 0], [1, 6, 0], [0, 0, 7]], atol=1e-14)
    assert block.pbc.all()


def test_rmd17_is_known(tmp_path):
    path = tmp_path / "rmd17_water.npz"
    np.savez_compressed(
        path,
        nuclear_charges=WATER.numbers,
        coords=WATER.coordinates,
        energies=WATER.energies * KCAL,
        forces=WATER.forces * KCAL,
        old_indices=np.arange(4),
        old_energies=WATER.energies,
        old_forces=WATER.forces,
    )
    check_molecule(open_source(path).read(0, slice(0, 4)), WATER, 1e-14)


def test_tables_with_cells_say_what_is_periodic(tmp_path):
    path = tmp_path / "a.npz"
    cells = np.random.default_rng(0).normal(size=(4, 3, 3))
    structure = {"symbols": np.array(["O", "H", "H"]), "R": WATER.coordinates, "cell": cells}
    np.savez(path, **structure)
    with pytest.raises(DataError, match=r"has cells \('cell'\) but does not say which axes are periodic"):
        open_source(path, length="Å")
    block = open_source(path, length="Å", pbc=[True, True, False]).read(0, np.array([1, 3]))
    np.testing.assert_array_equal(block.cell, cells[[1, 3]])
    assert block.pbc.tolist() == [[True, True, False]] * 2
    assert not open_source(path, length="Å", pbc=False).periodic
    np.savez(path, pbc=np.array([[True] * 3, [False] * 3] * 2), **structure)
    assert open_source(path, length="Å").read(0, np.array([0, 3])).pbc.tolist() == [[True] * 3, [False] * 3]
    np.savez(path, symbols=structure["symbols"], R=WATER.coordinates)
    with pytest.raises(DataError, match="pbc=True, but no cells"):
        open_source(path, length="Å", pbc=True)


def test_tables_under_any_names(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, elements=WATER.numbers, xyz=WATER.coordinates, Eh=WATER.energies, dEdx=-WATER.forces)
    with pytest.raises(DataError, match=r"no species; .*elements \(3,\), xyz \(4, 3, 3\)"):
        open_source(path)
    structure = {"species": "elements", "coordinates": "xyz"}
    fields = {**structure, "energies": "Eh [Hartree]", "forces": "-dEdx [Hartree/Å]"}
    check_molecule(open_source(path, length="Å", fields=fields).read(0, slice(0, 4)), WATER, 1e-15)
    with pytest.raises(DataError, match=r"no 'abc' \(for species\)"):
        open_source(path, length="Å", fields={**structure, "species": "abc"})


def test_stress_of_ase(tmp_path):
    """Six components, nine, and a tensor; the sign of ASE is ours."""
    voigt = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    atoms = Atoms("He", cell=[4, 5, 6], pbc=[True, True, False])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=voigt)
    tensor = Atoms("He", cell=[4, 5, 6], pbc=True, info={"virial": np.arange(9.0).reshape(3, 3)})
    ase.io.write(tmp_path / "a.xyz", [atoms, tensor], format="extxyz")
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(atoms, data={"virial": np.arange(9.0).reshape(1, 3, 3)})
    expected = voigt_6_to_full_3x3_stress(voigt) / HARTREE
    for name in ("a.xyz", "a.db"):
        fields = {"stress": "stress [eV/Å^3]", "virial": {"key": "virial", "shape": [3, 3]}}
        source = open_source(tmp_path / name, length="Å", fields=fields)
        assert source.periodic
        block = source.read(0, slice(0, 2))
        np.testing.assert_allclose(block.properties["stress"][0], expected, rtol=1e-7)
        np.testing.assert_allclose(block.properties["virial"][-1], np.arange(9.0).reshape(3, 3))
        assert block.pbc[0].tolist() == [True, True, False]
        np.testing.assert_allclose(block.cell[0], np.diag([4.0, 5.0, 6.0]))
    assert np.isnan(open_source(tmp_path / "a.xyz", fields=fields).read(0, slice(0, 2)).properties["stress"][1]).all()
    with ase.db.connect(tmp_path / "a.db") as database:
        database.update(1, data={"virial": voigt})  # in which order?
    with pytest.raises(DataError, match=r"key 'virial': shape \(1, 6\), expected \(1, 3, 3\)"):
        open_source(tmp_path / "a.db", length="Å", fields={"virial": fields["virial"]}).read(0, slice(0, 1))


def test_labels_of_few_frames_are_found(tmp_path):
    frames = [Atoms("He", info={"energy": 1.0}) for _ in range(500)]
    frames[333].info["rare"] = 5.0
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    with ase.db.connect(tmp_path / "a.db") as database:
        for atoms in frames[300:400]:
            database.write(atoms, data={key: value for key, value in atoms.info.items() if key == "rare"})
    for name, row in (("a.xyz", 333), ("a.db", 33)):
        found = open_source(tmp_path / name, length="Å", fields={"energies": "rare [eV]"}).read(0, slice(0, 500))
        assert np.flatnonzero(np.isfinite(found.properties["energies"])).tolist() == [row]
        with pytest.raises(DataError, match="there is no 'rar'"):
            open_source(tmp_path / name, length="Å", fields={"energies": "rar [eV]"})


def test_lattices_say_what_is_periodic(tmp_path):
    path = tmp_path / "a.xyz"
    lattice = 'Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3'
    for comment, pbc in (("", True), (' pbc="F F F"', False), (' pbc="F T F"', True), (" pbc=[F,F,F]", False)):
        path.write_text(f"1\n{lattice}{comment}\nHe 0 0 0\n")
        source = open_source(path)
        assert source.periodic == pbc
        assert (source.read(0, slice(0, 1)).pbc is not None) == pbc


def test_units_are_not_guessed(tmp_path):
    path = tmp_path / "a.xyz"
    extxyz(path)
    with pytest.raises(
        DataError, match=r"units of energies, forces are not in the file; say them.*it has energy, forces$"
    ):
        open_source(path)
    with pytest.raises(DataError, match=r"energies .'energy'. cannot be in 'eV/Å'"):
        open_source(path, fields={"energies": "energy [eV/Å]"})
    with pytest.raises(DataError, match="there is no 'Energy'"):
        open_source(path, fields={"energies": "Energy [eV]"})
    with pytest.raises(DataError, match="cannot read the unit 'parsec'"):
        open_source(path, length="parsec", fields={})
    with pytest.raises(ValueError, match=r"expected 'key', 'key .unit.'"):
        open_source(path, fields={"energies": "energy [eV"})
    assert open_source(path, fields={}).quantities == {}
    scaled = open_source(path, length="nm", fields={}).read(0, slice(0, 9)).coordinates
    np.testing.assert_allclose(scaled, WATER.coordinates * 10, rtol=1e-6, atol=1e-6)


def test_several_files_are_one(tmp_path):
    extxyz(tmp_path / "b.xyz")
    ani2x(tmp_path / "c.h5")
    write_hdf5(tmp_path / "a.h5", {"003": {**_grouped(WATER), "charges": np.ones((4, 3))}})
    (tmp_path / "notes.txt").write_text("none of these")
    with pytest.raises(DataError, match=r"b\.xyz: units of energies"):
        open_source(tmp_path)
    fields = {"energies": "energy [eV]", "forces": "forces [eV/Å]", "charges": "charges [e]"}
    ase.io.write(tmp_path / "atom.xyz", Atoms("He", info={"energy": -1.0}), format="extxyz")
    with pytest.raises(DataError, match=r"there is no 'charges' \(for charges\)"):
        open_source([tmp_path / "b.xyz", tmp_path / "atom.xyz"], fields=fields)
    del fields["charges"]
    some = open_source([tmp_path / "b.xyz", tmp_path / "atom.xyz"], fields=fields)
    assert np.isnan(some.read(2, slice(0, 1)).properties["forces"]).all()
    assert some.read(2, slice(0, 1)).properties["energies"] == pytest.approx([-1 / HARTREE])
    (tmp_path / "atom.xyz").unlink()
    source = open_source([tmp_path / "a.h5", tmp_path / "c.h5"])
    assert [group.size for group in source.groups] == [4, 4, 3]
    check_molecule(source.read(1, slice(0, 4)), WATER, 1e-15)
    check_molecule(source.read(2, slice(0, 4)), METHANE, 1e-15)
    assert source.read(2, slice(0, 1)).file == str(tmp_path / "c.h5")
    with_charges = open_source(tmp_path / "a.h5", fields={"energies": "energies", "charges": "charges [e]"})
    joined = type(source)([with_charges, open_source(tmp_path / "c.h5")])
    assert set(joined.quantities) == {"energies", "charges", "forces"}
    assert np.isnan(joined.read(1, slice(0, 4)).properties["charges"]).all()
    assert np.isnan(joined.read(0, slice(0, 4)).properties["forces"]).all()
    assert joined.read(0, slice(0, 4)).properties["charges"].sum() == 12


# Damaged files.


def change(path: Path, group: str, key: str, value: Any = None) -> None:
    with h5py.File(path, "r+") as file:
        del file[f"{group}/{key}"]
        if value is not None:
            file[f"{group}/{key}"] = value


def read_all(path: Path, **options: Any) -> None:
    source = open_source(path, **options)
    for i, group in enumerate(source.groups):
        source.read(i, slice(0, group.size))


HDF5_DAMAGE = [
    (ani1, "gdb11_s01/gdb11_s01-1", "species", "coordinates", "energies"),
    (ani1x, "H2O1", "atomic_numbers", "coordinates", "wb97x_dz.energy"),
    (ani2x, "005", "species", "coordinates", "energies"),
    (spice, "O", "atomic_numbers", "conformations", "dft_total_energy"),
]


@pytest.mark.parametrize(("write", "group", "elements", "positions", "energies"), HDF5_DAMAGE)
def test_damaged_groups_are_named(tmp_path, write, group, elements, positions, energies):
    path = tmp_path / "a.h5"
    options = write(path)
    with h5py.File(path) as file:
        numbers, coordinates, labels = (file[f"{group}/{key}"][()] for key in (elements, positions, energies))
    place = rf"a\.h5, group '{group}'"
    damage: list[tuple[str, Any, str]] = [
        (positions, None, rf"{place}: no array '{positions}'; it has"),
        (elements, None, rf"{place}: no array '{elements}'; it has"),
        (positions, coordinates[..., :2], rf"{place}, key '{positions}': shape .*, 2\), expected \(n, atoms, 3\)"),
        (elements, numbers[..., :-1], rf"{place}, key '{elements}': shape .*, expected"),
        (energies, labels[:-1], rf"{place}, key '.*energ.*': shape \({len(labels) - 1},\), expected \({len(labels)}"),
        (energies, np.stack([labels] * 2, 1), rf"{place}, key '.*energ.*': shape .*, 2\), expected \({len(labels)},\)"),
    ]
    if write is not spice:
        damage.append((energies, None, rf"{place}: no array '{energies}'"))
    for key, value, message in damage:
        write(path)
        change(path, group, key, value)
        with pytest.raises(DataError, match=message.replace("(t)", r"\(t\)")):
            read_all(path, **options)
    write(path)
    numbers[..., -1] = b"Xx" if numbers.dtype.kind == "S" else 120
    if numbers.dtype.kind == "S":
        numbers = np.array([b"C", b"H", b"H", b"H", b"Xx"])
    change(path, group, elements, numbers)
    with pytest.raises(
        DataError, match=rf"{place}, .*key '{elements}': .*(Xx|120).* of atom {numbers.shape[-1] - 1} is no"
    ):
        read_all(path, **options)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.ending != "xyz"], ids=lambda sample: sample.write.__name__)
def test_cut_files_are_named(sample, tmp_path):
    path = tmp_path / f"sample.{sample.ending}"
    options = sample.write(path)
    whole = path.read_bytes()
    for part in (0, 50, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:part])
        with pytest.raises(DataError, match=rf"sample\.{sample.ending}"):
            read_all(path, **options)


def test_conformers_of_qm7x(tmp_path):
    path = tmp_path / "1000.hdf5"
    for key, value, message in (
        ("atNUM", [6, 1, 1], "3 atoms, expected 5"),
        ("atXYZ", np.zeros((4, 3)), r"shape \(1, 4, 3\), expected \(1, 5, 3\)"),
        ("ePBE0+MBD", [1.0, 2.0], r"shape \(2,\), expected \(1,\)"),
        ("totFOR", None, "no array 'totFOR'"),
    ):
        qm7x(path)
        change(path, "22/Geom-m22-i1-c1-1", key, value)
        with pytest.raises(DataError, match=rf"1000\.hdf5, group '22/Geom-m22-i1-c1-1'.*{message}"):
            read_all(path)


def test_damaged_tables_are_named(tmp_path):
    path = tmp_path / "a.npz"
    padded(path)
    good = dict(np.load(path))
    options = padded(path)
    inside, empty, nonsense = good["z"].copy(), good["z"].copy(), good["z"].copy()
    inside[3, 1], empty[4], nonsense[5, 0] = 0, 0, 200
    for key, value, message in (
        ("z", inside, r"index 3, key 'z': \[8, 0, 1, 0, 0\], expected atoms, and padding behind them only"),
        ("z", empty, "index 4, key 'z'"),
        ("z", nonsense, "index 5, key 'z': .*200.* of atom 0 is no element"),
        ("z", good["z"][:-1], r"key 'z': shape \(6, 5\), expected \(7, 5\) or \(5,\)"),
        ("R", good["R"][..., 0], r"key 'R': shape \(7, 5\), expected \(n, atoms, 3\)"),
        ("E", good["E"][:-1], r"key 'E': shape \(6, 1\), expected \(7,\)"),
        ("F", good["F"][:, :-1], r"key 'F': shape \(7, 4, 3\), expected \(7, 5, 3\)"),
        ("F", np.array(["a"] * 7), "there is no 'F'"),
    ):
        np.savez(path, **{**good, key: value})
        with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
            read_all(path, **options)
    np.savez(path, **{**good, "Z": good["z"]})
    with pytest.raises(DataError, match=r"several arrays that may be species \(z, Z\)"):
        read_all(path, **options)


FRAME = "2\nProperties=species:S:1:pos:R:3 energy=1.0\nH 0 0 0\nH 0 0 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FRAME + FRAME[: FRAME.rindex("H")], r"frame 1 \(line 5\) ends after 1 atoms, expected 2"),
        (FRAME[: FRAME.rindex("H")] + FRAME, r"frame 0 \(line 1\) ends after 1 atoms, expected 2"),
        (FRAME + "H 0 0 2\n" + FRAME, r"frame 1 \(line 5\): b'H 0 0 2\\n', expected a number of atoms"),
        (FRAME + "\n" + FRAME, r"frame 1 \(line 5\): an empty line"),
        (FRAME + FRAME[:-3], "frame 1 cannot be read"),
        (FRAME + FRAME.replace("H 0 0 1", "Xx 0 0 1"), "frame 1 cannot be read.*Xx"),
        (FRAME + FRAME.replace("H 0 0 1", "X 0 0 1"), "frame 1, key 'numbers': .*0.* of atom 1 is no element"),
        (FRAME + FRAME.replace("H 0 0 1", "H 0 0 one"), "frame 1 cannot be read"),
        (FRAME + FRAME.replace("1.0", '"1.0 2.0"'), r"frame 1, key 'energy': shape \(1, 2\), expected \(1,\)"),
        (FRAME + FRAME.replace("1.0", "many"), "frame 1, key 'energy': expected numbers"),
        ("0\nnothing\n", r"frame 0 \(line 1\): b'0\\n', expected a number of atoms"),
    ],
)
def test_damaged_frames_are_named(tmp_path, text, message):
    path = tmp_path / "a.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"a\.xyz, {message}"):
        read_all(path, fields={"energies": "energy [eV]"})


def test_damaged_frames_do_not_keep_a_file_from_being_opened(tmp_path):
    """The first frame tells what a file holds; where it cannot be read others do."""
    path = tmp_path / "a.xyz"
    late = FRAME.replace("energy=1.0", "energy=1.0 late=2.0")
    bad = FRAME.replace("H 0 0 1", "Xx 0 0 1")
    path.write_text(bad + 150 * FRAME + bad.replace("energy", "late=3.0 energy") + late + 150 * FRAME)
    source = open_source(path, fields={"energies": "energy [eV]", "late": "late"})
    assert source.read(0, slice(152, 153)).properties["late"] == 2.0
    with pytest.raises(DataError, match="frame 0 cannot be read"):
        source.read(0, slice(0, 1))
    path.write_text(bad)
    with pytest.raises(DataError, match="frame 0 cannot be read"):
        open_source(path, fields={"energies": "energy [eV]"})


def test_damaged_rows_do_not_keep_a_database_from_being_opened(tmp_path):
    path = tmp_path / "a.db"
    with ase.db.connect(path) as database:
        for i in range(3):
            database.write(_calculated(WATER, i))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE systems SET positions = x'00' WHERE id = 1")
    source = open_source(path, length="Å", fields={"energies": "energy [eV]"})
    assert np.isfinite(source.read(0, slice(1, 3)).properties["energies"]).all()
    with pytest.raises(DataError, match=r"row 0 \(id 1\) cannot be read"):
        source.read(0, slice(0, 1))


def test_damaged_rows_are_named(tmp_path):
    path = tmp_path / "a.db"
    with ase.db.connect(path) as database:
        database.write(_calculated(WATER, 0), data={"charges": np.zeros(3)})
        database.write(_calculated(WATER, 1), data={"charges": np.zeros(2)})
    with pytest.raises(DataError, match=r"a\.db, frame 1, key 'charges': shape \(1, 2\), expected \(1, 3\)"):
        read_all(path, length="Å", fields={"charges": "charges [e]"})


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "a.h5").write_text("no HDF5")
    with pytest.raises(DataError, match=r"a\.h5: a file of no known layout; layout= may be one of store, ani1"):
        open_source(tmp_path / "a.h5")
    write_hdf5(tmp_path / "a.h5", {"group": {"positions": np.zeros((2, 3, 3))}})
    with pytest.raises(DataError, match=r"HDF5 of no known layout, its first arrays are positions in 'group'"):
        open_source(tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"a\.h5, group 'group': no array 'species'; it has positions"):
        open_source(tmp_path / "a.h5", layout="ani1")
    with pytest.raises(DataError, match="no layout 'ani3'; expected one of store, ani1"):
        open_source(tmp_path / "a.h5", layout="ani3")
    with pytest.raises(DataError, match="there is no such file"):
        open_source(tmp_path / "b.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no files that end in"):
        open_source(tmp_path / "empty")
    ani1x(tmp_path / "c.h5")
    with pytest.raises(DataError, match="say themselves what is periodic"):
        open_source(tmp_path / "c.h5", pbc=True)


@pytest.mark.parametrize("array", [["H", "Q"], [b"H", b""], [1, 0], [1, 119], [1.0, 1.5], [1.0, np.nan], [-1, 6]])
def test_no_elements(array):
    with pytest.raises(DataError, match=r"here, key 'z': .* of atom . is no element"):
        species(array, "here", "z")


def test_elements():
    assert species([b"Cl", b"H "], "").tolist() == [17, 1]
    assert species(np.array([["C", "H"], ["O", "H"]], dtype=object), "").tolist() == [[6, 1], [8, 1]]
    assert species(np.array([6.0, 1.0]), "").tolist() == [6, 1]


# Published files: units and signs are those of nature.


def slope(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found * expected).sum() / (expected * expected).sum())


def agree(source: Source, model: anipot.Potential, groups: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return energies of a model less those of a source, kcal/mol, and slopes of its forces, group by group."""
    differences, slopes = [], []
    for i in range(groups):
        block = source.read(i, slice(0, rows))
        result = anipot.single_point(model, torch.tensor(block.species), torch.tensor(block.coordinates))
        differences.append((result.energies.numpy() - block.properties["energies"]) * KCAL)
        if "forces" in block.properties:
            slopes.append(slope(result.forces.numpy(), block.properties["forces"]))
    return np.concatenate(differences), np.array(slopes)


@needs_data
def test_published_ani1(ani1x):
    source = open_source(DATA / "ani1_gdb_s01" / "ani_gdb_s01.h5")
    assert [(group.size, group.num_atoms) for group in source.groups] == [(5400, 5), (3600, 4), (1800, 3)]
    assert np.std(agree(source, ani1x, 3, 40)[0]) < 0.6
    fields = {"energies": "energies", "forces": "-forces"}  # this file has gradients
    differences, slopes = agree(open_source(DATA / "ani1_gdb_s01" / "gdb11_S01_06r.h5", fields=fields), ani1x, 3, 40)
    assert np.std(differences) < 0.6
    assert (slopes > 0.9).all()
    with pytest.raises(DataError, match=r"key 'cm5': shape \(1, 6\), expected \(1, 5\)"):
        open_source(DATA / "ani1_gdb_s01" / "gdb11_S01_06r.h5", fields={"charges": "cm5 [e]"}).read(0, slice(0, 1))


@needs_data
def test_published_ani1x(ani1x):
    fields = {"energies": "wb97x_dz.energy", "forces": "wb97x_dz.forces", "dipole": "wb97x_tz.dipole"}
    fields["ccsd"] = "ccsd(t)_cbs.energy"
    fields["charges"] = "wb97x_tz.mbis_charges"
    source = open_source(DATA / "ani1x_physicsml" / "ani1x.h5", fields=fields)
    assert (len(source.groups), sum(group.size for group in source.groups)) == (50, 96)
    differences, slopes = agree(source, ani1x, 25, 9)
    assert np.sqrt(np.mean(differences**2)) < 3
    assert np.mean(slopes) == pytest.approx(0.98, abs=0.02)
    blocks = [source.read(i, slice(0, 9)) for i in range(50)]
    assert sum(np.isfinite(block.properties["ccsd"]).sum() for block in blocks) == 3
    of_charges = np.concatenate(
        [np.einsum("na,nad->nd", block.properties["charges"], block.coordinates) for block in blocks]
    )
    dipoles = np.concatenate([block.properties["dipole"] for block in blocks])
    there = np.isfinite(of_charges + dipoles)
    assert slope(dipoles[there], of_charges[there]) == pytest.approx(1, abs=0.06)


@needs_data
def test_published_ani1ccx(ani1ccx):
    source = open_source(DATA / "ani1ccx_dftbml" / "ani1ccx_dftbml.h5")  # one method: nothing to ask
    assert (len(source.groups), sum(group.size for group in source.groups)) == (471, 17630)
    assert source.columns[0].key == "ccsd(t)_cbs.energy"
    assert np.std(agree(source, ani1ccx, 20, 2)[0]) < 3


@needs_data
def test_published_ani2x():
    source = open_source(DATA / "ani2x_diatomics" / "ani2x_minimal.hdf5")
    block = source.read(0, slice(0, 6000))
    assert len(block) == 5706
    nitrogen = block.take((block.species == 7).all(axis=1))
    vectors = nitrogen.coordinates[:, 1] - nitrogen.coordinates[:, 0]
    r = np.linalg.norm(vectors, axis=1)
    along = np.einsum("nd,nd->n", nitrogen.properties["forces"][:, 1], vectors) / r
    fit = np.polynomial.Polynomial.fit(r, nitrogen.properties["energies"], 12)
    assert slope(along, -fit.deriv()(r)) == pytest.approx(1, abs=1e-3)


@needs_data
def test_published_spice():
    source = open_source(DATA / "spice_mini" / "SPICE-1.1.4_n2.hdf5")
    block = source.read(0, slice(0, 50))
    with h5py.File(source.paths[0]) as file:
        group = file["103147721"]
        np.testing.assert_allclose(block.coordinates, group["conformations"][()] * BOHR, rtol=1e-7)
        np.testing.assert_allclose(block.properties["forces"], -group["dft_total_gradient"][()] / BOHR, rtol=1e-7)
    of_charges = np.einsum("na,nad->nd", block.properties["charges"], block.coordinates)
    assert slope(block.properties["dipole"], of_charges) == pytest.approx(1, abs=0.1)
    assert np.isnan(source.read(1, slice(0, 1)).properties["charges"]).all()
    with pytest.raises(DataError, match="units of energies, forces, dipole are not in the file"):
        open_source(DATA / "spice_mini" / "molflux_spice_mock.h5")


@needs_data
def test_published_md17():
    """Frames follow each other: the energy changes as the forces say."""
    fields = {"energies": "E [kcal/mol]", "forces": "F [kcal/mol/Å]"}
    source = open_source(DATA / "md17_ethanol" / "md17_ethanol_first2000.npz", length="Å", fields=fields)
    block = source.read(0, slice(0, 2000))
    steps, forces = np.diff(block.coordinates, axis=0), block.properties["forces"]
    work = (0.5 * (forces[1:] + forces[:-1]) * steps).sum(axis=(1, 2))
    assert slope(-np.diff(block.properties["energies"]), work) == pytest.approx(1, abs=2e-3)


@needs_data
def test_published_qm7x():
    table = open_source(DATA / "qm7x_250" / "qm7x_226.npz")
    assert set(table.quantities) == {"energies", "forces", "dipole", "charges"}
    block = table.read(0, slice(0, 100))
    assert np.abs(block.properties["charges"].sum(axis=1)).max() < 1e-3
    fields = {"energies": "E [eV]", "forces": "F [eV/Å]"}
    source = open_source(DATA / "qm7x_250" / "qm7x_250_small.npz", length="Å", fields=fields)
    assert [group.num_atoms for group in source.groups] == list(range(4, 24))
    rows = np.concatenate([source.read(i, slice(0, group.size)).rows for i, group in enumerate(source.groups)])
    assert sorted(rows.tolist()) == list(range(2500))
    assert np.abs(source.read(5, slice(0, 99)).properties["forces"].sum(axis=1)).max() < 1e-6


@needs_data
def test_published_xyz(ani1x):
    fields = {"energies": "energy [eV]", "forces": "forces [eV/Å]", "stress": "stress [eV/Å^3]"}
    silicon = open_source(DATA / "mlearn_pbc" / "Si_test.extxyz", fields=fields)
    assert silicon.periodic
    for i, group in enumerate(silicon.groups):
        block = silicon.read(i, slice(0, group.size))
        assert block.pbc.all()
        assert (np.linalg.det(block.cell) > 0).any()
        for frame, stress in zip(block.rows, block.properties["stress"], strict=True):
            expected = ase.io.read(DATA / "mlearn_pbc" / "Si_test.extxyz", int(frame)).get_stress(voigt=False)
            np.testing.assert_allclose(stress, expected / HARTREE, rtol=1e-12)
    fields.pop("stress")
    differences, slopes = agree(open_source(DATA / "bpa3_wb97x" / "train_300K.xyz", fields=fields), ani1x, 1, 20)
    assert np.std(differences) < 1.5
    assert slopes == pytest.approx(0.99, abs=0.02)
    with pytest.raises(DataError, match="units of energies, forces are not in the file"):
        open_source(DATA / "metatrain_mini" / "ethanol_reduced_100.xyz")
