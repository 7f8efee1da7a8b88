"""Every recipe in examples/configs runs as it stands on data of its kind, with two steps instead of many."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import ase.io
import numpy as np
import pytest
from training_data import write_frames
from weights_at_hand import ROOT, SHARED, reason_missing, use_weights

import anipot
from anipot.training import read_settings, train

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
RECIPES = sorted((ROOT / "examples" / "configs").glob("*.yaml"))
FIELDS = """data.fields={energies: "energy [eV]", forces: "forces [eV/Å]", dipole_magnitude: "mu [D]",
  formation_energy_per_atom: "formation [eV]"}"""


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules with labels of all recipes."""
    file = write_frames(tmp_path_factory.mktemp("data") / "frames.xyz", 40)
    frames = ase.io.read(file, ":")
    for i, atoms in enumerate(frames):
        atoms.info |= {"mu": 1.0 + 0.1 * (i % 7), "formation": -0.3 - 0.01 * i}
    ase.io.write(file, frames)
    return file


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ase.build import bulk

    generator, frames = np.random.default_rng(0), []
    for i in range(40):
        atoms = bulk("NaCl", "rocksalt", a=5.6 + 0.01 * i)
        atoms.positions += generator.normal(scale=0.02, size=(2, 3))
        atoms.info["formation"] = -2.0 - 0.01 * i
        frames.append(atoms)
    file = tmp_path_factory.mktemp("data") / "crystals.xyz"
    ase.io.write(file, frames)
    return file


def test_recipes_are_there():
    needed = {"ani", "schnet_2017", "schnet", "sc_schnet_qm9", "sc_schnet_md17", "painn", "acsf", "wacsf"}
    assert needed <= {recipe.stem for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe, frames, crystals, tmp_path, monkeypatch):
    settings = read_settings(recipe)
    if settings.model.start_from:
        use_weights(monkeypatch, tmp_path)
        if why := reason_missing(settings.model.start_from):
            pytest.skip(why)
    data = crystals if "materials" in recipe.stem else frames
    fields = 'data.fields={formation_energy_per_atom: "formation [eV]"}' if data == crystals else FIELDS
    small = ["data.split={train: 24, validation: 8, test: 8}", "data.batch_size=8", "trainer.max_steps=2"]
    members = ["members=2"] if settings.members > 1 else []
    overrides = [f"data.path={data}", fields, *small, *members, "tensorboard=false", f"folder={tmp_path / 'run'}"]
    with mock.patch("anipot.training.results.draw"), mock.patch("anipot.training.results.plot_curves"):
        folder = train(read_settings(recipe, overrides))
    model = anipot.load(folder / "model.safetensors")
    assert len(model) == len(members) + 1
    assert model.name == settings.model.name
    for output in settings.outputs:
        assert output.property in ("energies", "forces") or output.property in model.property_heads


def test_the_ani_recipe_is_that_of_the_articles():
    settings = read_settings(ROOT / "examples" / "configs" / "ani.yaml")
    assert [o.scaling for o in settings.outputs] == ["sqrt_atoms", "atom"]
    assert [o.weight for o in settings.outputs] == [1.0, 0.1]
    assert (settings.optimizer.kind, settings.optimizer.lr, settings.optimizer.biases) == ("AdamW", 1e-3, 1e-3)
    assert list(settings.optimizer.weight_decay) == [0, 1e-5, 1e-6, 0]
    assert (settings.schedule.factor, settings.schedule.patience, settings.schedule.stop_below) == (0.5, 100, 1e-5)
    assert settings.data.batch_size == 2560
    assert settings.loss_unit == "Hartree"


#: A file of each layout, and what is said about it.
LAYOUTS = {
    "ani1_gdb_s01/ani_gdb_s01.h5": ["outputs=[{property: energies, scaling: sqrt_atoms}]"],
    "ani1x_physicsml/ani1x.h5": ["data.fields={energies: wb97x_dz.energy, forces: wb97x_dz.forces}"],
    "ani2x_diatomics/ani2x_minimal.hdf5": [],
    "md17_ethanol/md17_ethanol_first2000.npz": [
        'data.fields={energies: "E [kcal/mol]", forces: "F [kcal/mol/Å]"}',
        "data.length=Å",
        "data.limits={max_energy: 0.0}",
    ],
    "rmd17_ethanol_botnet/train.xyz": ['data.fields={energies: "energy [eV]", forces: "forces [eV/Å]"}'],
    "spice_mini/SPICE-1.1.4_n2.hdf5": [],
    "qm7x_250/qm7x_250_small.npz": ['data.fields={energies: "E [eV]", forces: "F [eV/Å]"}', "data.length=Å"],
}


@pytest.mark.parametrize("file", LAYOUTS)
def test_every_layout_trains(file, tmp_path):
    data = SHARED / "data" / file
    if not data.exists():
        pytest.skip(f"there is no {data}")
    options = ["data.split={train: 40, validation: 7, test: 8}", "data.batch_size=32", "trainer.max_steps=2"]
    options += ["data.checks=skip", "tensorboard=false", f"folder={tmp_path / 'run'}", f"data.path={data}"]
    with mock.patch("anipot.training.results.draw"), mock.patch("anipot.training.results.plot_curves"):
        folder = train(read_settings(None, [*options, *LAYOUTS[file]]))
    assert anipot.load(folder).details["training"]["errors"]
