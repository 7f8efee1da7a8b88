"""The TorchSim adapter: flat systems in one call, the contract of TorchSim, and its integrators on our potentials."""

import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import anipot

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchSim scripts its functions, which torch 2.13 calls deprecated
    from anipot.interfaces import torchsim
from anipot.interfaces.torchsim import TorchSimModel, evaluate_systems


@pytest.fixture(scope="module")
def model():
    return anipot.load(dtype=torch.float64)


def flat(systems):
    """Return systems as the tensors of a state."""
    numbers = torch.as_tensor(np.concatenate([atoms.numbers for atoms in systems]))
    positions = torch.as_tensor(np.concatenate([atoms.positions for atoms in systems]))
    index = torch.repeat_interleave(torch.arange(len(systems)), torch.tensor([len(atoms) for atoms in systems]))
    cells = torch.as_tensor(np.stack([atoms.cell.array for atoms in systems]))
    return numbers, positions, index, cells, torch.as_tensor(systems[0].pbc)


def boxes():
    rng = np.random.default_rng(0)
    found = []
    for name, length in (("H2O", 4.0), ("CH4", 6.0), ("CH3OH", 7.5)):
        atoms = molecule(name, cell=length * np.eye(3) + rng.normal(scale=0.2, size=(3, 3)), pbc=True)
        atoms.positions += rng.normal(scale=0.05, size=(len(atoms), 3))
        found.append(atoms)
    return found


def check_against_ase(found, systems, calculator, stress):
    start = 0
    for i, atoms in enumerate(systems):
        atoms = atoms.copy()
        atoms.calc = calculator
        assert float(found["energy"][i]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        forces = found["forces"][start : start + len(atoms)]
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-8)
        if stress:
            np.testing.assert_allclose(found["stress"][i], atoms.get_stress(voigt=False), atol=1e-9)
        start += len(atoms)


def test_systems_of_several_sizes_at_once(model):
    free = [molecule(name) for name in ("CH3CH2OH", "H2O", "C6H6", "NH3")] + [Atoms("H")]
    check_against_ase(evaluate_systems(model, *flat(free)), free, model.ase(), False)
    found = evaluate_systems(model, *flat(boxes()), stress=True)
    check_against_ase(found, boxes(), model.ase(), True)
    assert all(value.dtype == torch.float64 and not value.requires_grad for value in found.values())
    none = evaluate_systems(model, *flat(free), forces=False, stress=True)
    assert "forces" not in none
    assert not none["stress"].any()


def test_unknown_elements_are_named(model):
    with pytest.raises(ValueError, match="Si"):
        evaluate_systems(model, *flat([molecule("H2O"), molecule("SiH4")]))


@pytest.mark.skipif(torchsim._reason is None, reason="TorchSim is installed")
def test_without_torchsim_it_says_so():
    with pytest.raises(ImportError, match=r"needs TorchSim: pip install anipot\[torchsim\]"):
        TorchSimModel("mini")


@pytest.fixture(scope="module")
def ts():
    return pytest.importorskip("torch_sim", reason="TorchSim needs Python 3.12")


def test_contract_of_torchsim(ts, model):
    """TorchSim's own check, with carbon, nitrogen and oxygen in place of its metals."""
    from torch_sim.models.interface import validate_model_outputs

    def light(state):
        state = state.clone()
        for heavy, ours in ((14, 6), (12, 7), (26, 8)):
            state.atomic_numbers[state.atomic_numbers == heavy] = ours
        return state

    validate_model_outputs(TorchSimModel(model), torch.device("cpu"), torch.float64, state_modifier=light)


def test_a_state_gives_what_ase_gives(ts, model):
    state = ts.io.atoms_to_state(boxes(), torch.device("cpu"), torch.float64)
    before = state.positions.clone()
    adapter = TorchSimModel(model)
    check_against_ase({k: v.numpy() for k, v in adapter(state).items()}, boxes(), model.ase(), True)
    assert torch.equal(state.positions, before)
    adapter.compute_stress = False
    assert set(adapter(state)) == {"energy", "forces"}
    single = TorchSimModel(model, dtype=torch.float32)
    narrow = ts.io.atoms_to_state(boxes(), torch.device("cpu"), torch.float32)
    assert {value.dtype for value in single(narrow).values()} == {torch.float32}


def test_replicas_in_nve_conserve_energy_and_follow_ase(ts, model):
    """Two waters and a methanol, from rest: velocity Verlet is the same in both programs."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    systems = [molecule("H2O"), molecule("CH3OH"), molecule("H2O")]
    for i, atoms in enumerate(systems):
        atoms.rattle(0.03, seed=i)
    adapter = TorchSimModel(model)
    state = ts.io.atoms_to_state(systems, torch.device("cpu"), torch.float64)
    step = torch.tensor(0.0005 * ts.units.MetalUnits.time, dtype=torch.float64)
    state = ts.nve_init(state=state, model=adapter, kT=torch.tensor(0.0, dtype=torch.float64))
    state.momenta = torch.zeros_like(state.momenta)
    for _ in range(40):
        state = ts.nve_step(state=state, model=adapter, dt=step)
    ends = state.positions.split([3, 6, 3])
    for atoms, end in zip(systems, ends, strict=True):
        atoms.calc = model.ase()
        VelocityVerlet(atoms, 0.5 * units.fs).run(40)
        np.testing.assert_allclose(end, atoms.positions, atol=1e-5)


def test_batched_optimisation_reaches_the_minima_of_ase(ts, model):
    from ase.optimize import BFGS

    systems = [molecule("H2O"), molecule("CH3OH")]
    converged = ts.generate_force_convergence_fn(0.005)
    final = ts.optimize(
        system=systems, model=TorchSimModel(model), optimizer=ts.Optimizer.fire, convergence_fn=converged
    )
    for atoms, energy in zip(systems, final.energy, strict=True):
        atoms.calc = model.ase()
        BFGS(atoms, logfile=None).run(fmax=0.005)
        assert float(energy) == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
