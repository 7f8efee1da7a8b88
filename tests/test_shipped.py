"""The model that comes with the package: there without a cache or a network, as it was made, and fit for dynamics."""

from __future__ import annotations

import shutil
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch
from ase import units
from ase.md.verlet import VelocityVerlet

import anipot
from anipot import zoo
from anipot.sampling.dynamics import draw_momenta
from anipot.zoo import shipped


@pytest.fixture(autouse=True)
def _nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    monkeypatch.delenv("ANIPOT_ZOO", raising=False)


def test_load_without_a_name() -> None:
    model = anipot.load()
    assert model.elements == ("H", "C", "N", "O")
    assert len(model) == zoo.status("mini").members > 1
    assert len(anipot.load(model_index=1)) == 1
    assert model.info()["source"] == "shipped with anipot"
    assert not zoo.cache_dir().exists()
    species, x = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.0]]])
    energy = anipot.single_point(model, species, x).energies
    assert torch.equal(energy, anipot.single_point(anipot.load("mini"), species, x).energies)
    assert float(energy) == pytest.approx(-76.37, abs=0.05)
    dipole = anipot.single_point(model, species, x, properties=["dipole"]).properties["dipole"]
    assert 0.2 < float(dipole.norm()) < 0.6  # e·Å; observed is 1.85 D, 0.385 e·Å


def test_files_are_as_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zoo.verify("mini")[0].problem == ""
    folder = Path(str(shipped.packaged()))
    assert sum(path.stat().st_size for path in folder.glob("*/*.safetensors")) < 3e6
    shutil.copytree(folder, tmp_path / "zoo")
    monkeypatch.setattr(shipped, "packaged", lambda: tmp_path / "zoo")
    with (tmp_path / "zoo" / "mini" / "mini.safetensors").open("ab") as file:
        file.write(b"more")
    assert "mini.safetensors is damaged" in zoo.verify("mini")[0].problem
    (tmp_path / "zoo" / "mini" / "mini.safetensors").unlink()
    assert "mini.safetensors is missing" in zoo.verify("mini")[0].problem


def test_its_name_is_taken(tmp_path: Path) -> None:
    assert "mini" in zoo.names()
    anipot.load().save(tmp_path / "mine.safetensors")
    with pytest.raises(zoo.ZooError, match="'mini' is the name"):
        zoo.import_path(tmp_path / "mine.safetensors", name="mini")
    assert zoo.export("mini", tmp_path / "copy.safetensors").stat().st_size > 0
    assert zoo.pull("mini")["mini"].is_file()


def test_other_elements_are_refused() -> None:
    with pytest.raises(ValueError, match="atom 0 is S"):
        anipot.single_point(anipot.load(), torch.tensor([[16]]), torch.zeros(1, 1, 3))


@pytest.mark.parametrize("name", ["CH3CH2OH", "CH3CONH2", "C6H6"])
def test_dynamics_conserve_energy(name: str) -> None:
    atoms = ase.build.molecule(name)
    atoms.calc = anipot.load().ase()
    draw_momenta(atoms, 300.0, np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    energies = [atoms.get_total_energy() for _ in dynamics.irun(400)]
    assert np.ptp(energies) < 2e-3 * len(atoms)
