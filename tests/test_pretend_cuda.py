"""All that takes a model on a GPU, with tensors that only say that they are there: no device is mixed with another."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import ase.io
import pytest
import torch
from ase.build import bulk
from ase.build import molecule as ase_molecule
from contracts import PAIRS, molecule, potential
from cuda_on_host import needs_compiler
from pretend_cuda import CUDA, is_there, pretend_cuda
from torch import Tensor

import anipot
from anipot.cli import main
from anipot.engine import engine_of
from anipot.terms import ZBL

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def place() -> Iterator[torch.device]:
    with pretend_cuda() as device:
        yield device


@pytest.fixture
def mini() -> anipot.Potential:
    return anipot.load(device="cuda")


def system(place: torch.device) -> tuple[Tensor, ...]:
    species, x = anipot.pad([molecule(5, 5), molecule(3, 2)])
    cell = 6 * torch.eye(3, dtype=torch.float64, device=place)
    return species.to(place), x.to(place), cell, torch.tensor([True, False, True], device=place)


def test_devices_are_told_apart(place: torch.device) -> None:
    here, there = torch.ones(3), torch.ones(3, device=place)
    assert there.device == CUDA != here.device
    assert (here + here.to(place).cpu()).is_cpu
    assert (2 * there[1:]).is_cuda
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        here + there
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    model = torch.nn.Linear(3, 2).to(place)
    with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        model(here)


#: Every representation, and every head.
SOME = [*{r: (r, h) for r, h in PAIRS}.values(), *{h: (r, h) for r, h in PAIRS}.values()]


@pytest.mark.parametrize("pair", SOME, ids="-".join)
def test_single_points(pair: tuple[str, str], place: torch.device) -> None:
    model = potential(*pair).to(place)
    result = anipot.single_point(model, *system(place), stress=True, hessian=True, members=True, atomic_energies=True)
    for value in (result.energies, result.forces, result.stress, result.hessian, result.members.forces):
        assert is_there(value)
        assert torch.isfinite(value).all()
    with anipot.reference_path():
        assert is_there(anipot.single_point(model, *system(place), stress=True).stress)


def test_kernels_compute(place: torch.device) -> None:
    model = potential("aev_2x", "ensemble").to(place)
    anipot.single_point(model, *system(place))
    assert engine_of(model).covers() == ""
    assert engine_of(model).searches == 1
    with anipot.reference_path():
        assert "reference_path" in engine_of(model).covers()


def test_derivatives_of_all_kinds(place: torch.device) -> None:
    model = potential("aev_user", "ensemble").to(place)
    species, x, cell, pbc = system(place)
    leaf = x.clone().requires_grad_()
    energy = model((species, leaf), cell, pbc).energies.sum()
    (gradient,) = torch.autograd.grad(energy, leaf, create_graph=True)
    (gradient**2).sum().backward()
    assert is_there(gradient)
    assert is_there(anipot.hessian_vector_product(model, species, x, torch.ones_like(x), cell, pbc))


def test_parts_beside_the_networks(mini: anipot.Potential, place: torch.device) -> None:
    """A dipole, a term, an ensemble of potentials, and copies."""
    species, x, cell, pbc = system(place)
    assert is_there(anipot.single_point(mini, species, x, properties=True).properties["dipole"])
    parts = mini.elements, mini.representation, mini.head, mini.shifter
    with_term = anipot.Potential(*parts, terms=[ZBL(mini.elements)]).to(place)
    two = anipot.EnsemblePotential([mini, copy.deepcopy(mini)])
    for model in (with_term, two, copy.deepcopy(mini)):
        result = anipot.single_point(model, species, x, cell, pbc, stress=True, hessian=True)
        assert is_there(result.stress)
        assert is_there(result.hessian)


def test_a_file_is_read_to_the_device(mini: anipot.Potential, tmp_path: Path) -> None:
    mini.save(tmp_path / "model.safetensors")
    assert anipot.load(tmp_path / "model.safetensors", device="cuda").device == CUDA


def test_chemistry(mini: anipot.Potential) -> None:
    molecules = [ase_molecule("CH3OH"), ase_molecule("H2O")]
    box = ase_molecule("H2O", cell=[6, 6, 6], pbc=True)
    assert len(anipot.optimize(molecules, mini, steps=3, path=True)) == 2
    assert len(anipot.optimize([box], mini, steps=3, cell=True, pressure=0.1, method="fire")) == 1
    assert len(anipot.normal_modes([ase_molecule("H2O")], mini, optimize=True, members=True)) == 1
    moved = molecules[0].copy()
    moved.positions[-1] += 0.2
    assert len(anipot.reaction_path(molecules[0], moved, mini, images=3, steps=2, relax_ends=False).images) == 3
    assert anipot.phonons(bulk("C", "diamond", a=3.57, cubic=True), mini, supercell=[1, 1, 1]).fmax < 1e-5
    molecules[0].calc = mini.ase()
    assert molecules[0].get_dipole_moment().shape == (3,)
    assert molecules[0].calc.get_hessian().shape == (18, 18)
    assert molecules[0].calc.get_spread()["forces_std"].shape == (6, 3)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "two.xyz"
    ase.io.write(file, [ase_molecule("CH3OH"), ase_molecule("H2O")])
    for command in (["sp", "--forces"], ["opt", "--steps", "3"], ["md", "--steps", "5"]):
        name, *options = command
        assert main([name, str(file), *options, "--device", "cuda"]) in (0, 1), name  # 1: not converged in 3 steps


def test_training(place: torch.device) -> None:
    training = pytest.importorskip("anipot.training")
    outputs = [training.ModelOutput("energies", scaling="atom"), training.ModelOutput("forces")]
    species, x, cell, pbc = system(place)
    labels = {"energies": torch.zeros(2, dtype=torch.float64, device=place), "forces": torch.zeros_like(x)}
    batch = SimpleNamespace(species=species, coordinates=x, cell=cell, pbc=pbc, properties=labels)
    for name in ("aev_user", "painn"):
        task = training.AtomisticTask(potential(name, "ensemble"), outputs).to(place)
        loss = task.training_step(batch, 0)
        assert is_there(loss)
        task.backward(loss)
        task.validation_step(batch, 0)
        assert torch.isfinite(task.val_terms.compute()).all()
