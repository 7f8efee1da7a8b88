"""Ensembles of whole potentials: the average of what each says alone, by whatever way it is asked for."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from contracts import ELEMENTS, HEADS, REPRESENTATIONS, SELF_ENERGIES, by_torch, molecule, potential
from torch import Tensor

import anipot
from anipot import (
    D3,
    ZBL,
    AtomicNetwork,
    Atomwise,
    Charges,
    Coulomb,
    DipoleMoment,
    EnergyShifter,
    EnsemblePotential,
    GatedNetwork,
    PaiNN,
    Polarizability,
    Potential,
    SchNet,
    ShiftedSoftplus,
)
from anipot.cli import main
from anipot.engine import engine_of
from anipot.kernels import cpu_backend
from anipot.units import HARTREE_TO_EV

NAN = float("nan")
CELL = torch.tensor([[5.3, 0.4, 0.0], [-0.9, 5.8, 0.2], [0.6, -0.7, 6.1]], dtype=torch.float64)
ALL = torch.tensor([True, True, True])


def one(representation: str, head: str, seed: int, **more: Any) -> Potential:
    """Return a potential with self energies of its own."""
    torch.manual_seed(seed)
    rep = REPRESENTATIONS[representation]()
    shifter = EnergyShifter([e * (1 + seed / 7) for e in SELF_ENERGIES])
    model = Potential(ELEMENTS, rep, HEADS[head](rep.num_features), shifter, name=f"{representation} {seed}", **more)
    return model.double()


def properties(num_features: int) -> dict[str, torch.nn.Module]:
    dipole = DipoleMoment(AtomicNetwork((num_features, 4, 1), ShiftedSoftplus()), ELEMENTS)
    return {"dipole": dipole, "charges": dipole.charges}


MODELS: dict[str, Callable[[], EnsemblePotential]] = {
    "seeds": lambda: EnsemblePotential([one("schnet", "atomwise", seed) for seed in range(4)], "seeds"),
    "kinds": lambda: EnsemblePotential(
        [one("schnet", "atomwise", 1), one("painn", "atomwise_ensemble", 2), one("aev_user", "ensemble", 3)], "kinds"
    ),
    "local": lambda: EnsemblePotential([one("aev_1x", "ensemble", 1), one("acsf_g4", "ani_celu", 2)], "local"),
    "terms": lambda: EnsemblePotential(
        [
            one("schnet", "atomwise", 1, terms=[ZBL(ELEMENTS, cutoff=4.9, inner=1.0)]),
            one("aev_2x", "ani_gaussian", 2, terms=[Coulomb(ELEMENTS, [0.3, -0.2, -0.4, -0.6], cutoff=5.0)]),
        ],
        "terms",
    ),
    "single": lambda: EnsemblePotential([one("wacsf", "ani_celu", 1)], "single"),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> EnsemblePotential:
    if request.param == "terms":
        pytest.importorskip("torchpme")
    return MODELS[request.param]()


def batch() -> tuple[Tensor, Tensor]:
    """Return molecules with ghosts in between, whose coordinates are NaN, and a row of nothing but ghosts."""
    species, x = anipot.pad([molecule(n, n) for n in (5, 8, 1)])
    species = torch.nn.functional.pad(species, (1, 1, 0, 1), value=-1)
    x = torch.nn.functional.pad(x, (0, 0, 1, 1, 0, 1))
    x[species < 0] = NAN
    return species, x


def assert_average(result: anipot.SinglePoint, alone: list[anipot.SinglePoint]) -> None:
    """Compare with the results of each member."""
    for name in ("energies", "forces", "stress", "hessian", "atomic_energies"):
        if getattr(result, name) is None:
            continue
        values = torch.stack([getattr(single, name) for single in alone])
        scale = max(1.0, float(values.abs().max()))
        bound = 1e-15 if "energies" in name else 1e-13
        torch.testing.assert_close(getattr(result, name), values.mean(0), rtol=0, atol=bound * scale)
        if result.members is not None and name != "hessian":
            torch.testing.assert_close(getattr(result.members, name), values, rtol=0, atol=bound * scale)
    if result.members is not None and len(alone) > 1:
        energies = torch.stack([single.energies for single in alone])
        torch.testing.assert_close(result.members.energies_std, energies.std(0), rtol=1e-12, atol=1e-12)
        forces = torch.stack([single.forces for single in alone])
        torch.testing.assert_close(result.members.forces_std, forces.std(0), rtol=1e-9, atol=1e-12)
        qbc = energies.std(0) / result.members.num_atoms.clamp(min=1).double().sqrt()
        torch.testing.assert_close(result.members.qbc, qbc, rtol=1e-12, atol=1e-12)


def test_average_of_its_members_with_nan_ghosts(model: EnsemblePotential) -> None:
    ask = {"hessian": True, "atomic_energies": True}
    species, x = batch()
    alone = [by_torch(member, species, x, **ask) for member in model]
    assert_average(anipot.single_point(model, species, x, members=True, **ask), alone)
    energies = torch.stack([single.energies for single in alone])
    torch.testing.assert_close(model((species, x)).energies, energies.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(model.members_energies((species, x)).energies, energies, rtol=1e-14, atol=0)
    atomic = torch.stack([single.atomic_energies for single in alone]).mean(0)
    torch.testing.assert_close(model.atomic_energies((species, x)).energies, atomic, rtol=1e-14, atol=0)


def test_average_of_its_members_in_a_crystal(model: EnsemblePotential) -> None:
    numbers, x = molecule(7, 2)
    args, ask = (numbers[None], x[None], CELL, ALL), {"stress": True, "hessian": True}
    alone = [by_torch(member, *args, **ask) for member in model]
    assert_average(anipot.single_point(model, *args, members=True, **ask), alone)
    v = torch.rand(1, 7, 3, dtype=torch.float64)
    product = anipot.hessian_vector_product(model, numbers[None], x[None], v, CELL, ALL)
    mean = torch.stack([single.hessian[0] for single in alone]).mean(0)
    torch.testing.assert_close(product.flatten(), mean @ v.flatten(), rtol=0, atol=1e-11 * float(mean.abs().max()))


def test_forces_by_finite_differences(model: EnsemblePotential) -> None:
    numbers, x = molecule(5, 3)
    steps = 2e-5 * torch.eye(15, dtype=torch.float64).view(15, 5, 3)
    energies = model((numbers.expand(30, -1), torch.cat([x + steps, x - steps]))).energies
    expected = -(energies[:15] - energies[15:]) / 4e-5
    forces = anipot.single_point(model, numbers[None], x[None]).forces
    torch.testing.assert_close(forces.flatten(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_blocks_change_nothing(model: EnsemblePotential, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single atoms where all members are local, whole molecules where one is not."""
    species, x = anipot.pad([molecule(n, 40 + n) for n in (9, 4, 1, 12, 7)])
    cell, pbc = (7 * torch.eye(3, dtype=torch.float64)).expand(5, 3, 3), ALL.expand(5, 3)
    ask = {"stress": True, "atomic_energies": True, "members": True}
    whole = anipot.single_point(model, species, x, cell, pbc, **ask)
    monkeypatch.setattr("anipot.derivatives.BLOCK_BYTES", size)
    for member in model:
        monkeypatch.setattr(type(member.representation), "block_bytes", size, raising=False)
    seen: list[int] = []
    for name in ("members_and_properties", "energies_of_neighborhoods"):
        method = getattr(EnsemblePotential, name)

        def counted(self: Any, species: Tensor, *args: Any, method: Any = method) -> Any:
            seen.append(len(species))
            return method(self, species, *args)

        monkeypatch.setattr(EnsemblePotential, name, counted)
    parts = anipot.single_point(model, species, x, cell, pbc, **ask)
    assert len(seen) > 1
    assert sum(seen) == species.numel()
    local = all(hasattr(m.representation, "from_neighborhoods") and not len(m.terms) for m in model)
    assert model.is_local == local
    assert local or all(count % species.shape[1] == 0 for count in seen)
    for name in ("energies", "forces", "stress", "atomic_energies"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parts.members.forces, whole.members.forces, rtol=0, atol=1e-13)


def test_memory_is_the_sum_of_the_members(model: EnsemblePotential) -> None:
    center, vectors = torch.tensor([0, 1]), torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64)
    alone = [member.memory_estimate(center, vectors, 2) for member in model]
    assert torch.equal(model.memory_estimate(center, vectors, 2), torch.stack(alone).sum(0))
    assert model.network_bytes == sum(member.network_bytes for member in model)


def test_members_are_the_potentials_that_were_given() -> None:
    given = [one("schnet", "atomwise", seed) for seed in range(3)]
    model = EnsemblePotential(given)
    assert len(model) == 3
    assert list(model) == given
    assert model[-1] is given[2]
    with pytest.raises(IndexError, match="has 3 members, 0 to 2; got 3"):
        model[3]
    with pytest.raises(TypeError, match="chosen by an integer"):
        model["0"]  # type: ignore[index]
    assert model.cutoff == 4.3
    assert (model.dtype, model.device.type, model.elements) == (torch.float64, "cpu", ELEMENTS)
    given[1].float()
    assert model.dtype == torch.float64
    assert model.float().dtype == torch.float32
    assert model.shifter.self_energies.dtype == torch.float64
    nested = EnsemblePotential([model, given[0]]).double()
    x = molecule(4, 1)
    expected = (model((x[0][None], x[1][None])).energies + given[0]((x[0][None], x[1][None])).energies) / 2
    torch.testing.assert_close(nested((x[0][None], x[1][None])).energies, expected, rtol=1e-14, atol=0)


def test_the_kernels_leave_it_to_torch_and_its_members_to_the_kernels() -> None:
    model = EnsemblePotential([potential("aev_1x", "ani_celu") for _ in range(2)])
    assert "EnsemblePotential has members_and_properties" in engine_of(model).covers()
    if cpu_backend().active:
        assert engine_of(model[0]).covers() == ""


def test_self_energies_and_intercepts() -> None:
    models = [potential("schnet", "atomwise") for _ in range(2)]
    for i, intercept in enumerate((0.5, 0.5)):
        models[i].shifter = EnergyShifter([*(e + i for e in SELF_ENERGIES), intercept], fit_intercept=True)
    species, x = batch()
    result = anipot.single_point(EnsemblePotential(models), species, x, members=True)
    assert_average(result, [anipot.single_point(m, species, x) for m in models])
    ensemble = EnsemblePotential(models)
    models[1].shifter = EnergyShifter([*SELF_ENERGIES, 0.25], fit_intercept=True)
    message = "same intercept of self energies: 0.5 in member 0, 0.25 in 1"
    for action in (lambda: EnsemblePotential(models), lambda: anipot.single_point(ensemble, species, x)):
        with pytest.raises(ValueError, match=message):
            action()


def test_what_does_not_go_together_is_refused() -> None:
    first = potential("schnet", "atomwise")
    turned = Potential(ELEMENTS[::-1], SchNet(4, 8, 1), Atomwise.pyramid(8), EnergyShifter(SELF_ENERGIES))
    for members, error, message in (
        ([], ValueError, "needs at least one potential"),
        ([first, first.head], TypeError, "member 1 is a Atomwise, expected a Potential"),
        ([first, turned], ValueError, r"same elements: \('H', 'C', 'N', 'O'\) in member 0, \('O', .*\) in 1"),
        ([first, _indexed(first)], ValueError, "same periodic_table_index: True in member 0, False in 1"),
    ):
        with pytest.raises(error, match=message):
            EnsemblePotential(members)


def _indexed(model: Potential) -> Potential:
    model = copy.deepcopy(model)
    model.periodic_table_index = False
    return model


def test_element_indices() -> None:
    model = EnsemblePotential([one("schnet", "atomwise", seed) for seed in range(2)])
    numbers, x = molecule(5, 1)
    expected = model((numbers[None], x[None])).energies
    indices = model.converter.convert(numbers)[None]
    model.periodic_table_index = False
    assert torch.equal(model((indices, x[None])).energies, expected)
    assert not model[1].periodic_table_index


def test_properties_are_means_of_those_that_all_have() -> None:
    given = [
        one("schnet", "atomwise", 1, properties=properties(16)),
        one("painn", "atomwise", 2, properties=properties(8) | {"gap": Atomwise.pyramid(8, aggregation="mean")}),
    ]
    model = EnsemblePotential(given)
    species, x = batch()
    result = anipot.single_point(model, species, x, properties=True)
    assert list(result.properties) == ["dipole", "charges"]
    for name, value in result.properties.items():
        expected = torch.stack([m.properties((species, x), names=[name])[name] for m in given]).mean(0)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="member 0 has no property 'gap', and a mean needs all 2"):
        model.properties((species, x), names=["gap"])
    with pytest.raises(ValueError, match="no property 'x'; it has dipole, charges"):
        model.properties((species, x), names="x")
    numbers, positions = molecule(6, 2)
    atoms = Atoms(numbers.numpy(), positions.numpy(), calculator=model.ase())
    expected = model.properties((numbers[None], positions[None]))["dipole"][0].detach()
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected, rtol=0, atol=1e-13)
    tensors = anipot.atomic_polar_tensors(model, numbers[None], positions[None])
    alone = [anipot.atomic_polar_tensors(m, numbers[None], positions[None]) for m in given]
    torch.testing.assert_close(tensors, torch.stack(alone).mean(0), rtol=0, atol=1e-12)
    size = {"dipole": DipoleMoment(AtomicNetwork((16, 4, 1), ShiftedSoftplus()), ELEMENTS, magnitude=True)}
    mixed = EnsemblePotential([given[0], one("schnet", "atomwise", 3, properties=size)])
    with pytest.raises(ValueError, match="values of several shapes for the property 'dipole'"):
        mixed.properties((species, x), names=["dipole"])


def test_ase(model: EnsemblePotential) -> None:
    numbers, x = molecule(6, 4)
    atoms = Atoms(numbers.numpy(), x.numpy(), cell=CELL.numpy(), pbc=True)
    atoms.calc = pickle.loads(pickle.dumps(model.ase()))
    result = anipot.single_point(model, numbers[None], x[None], CELL, ALL, stress=True, members=True, hessian=True)
    ev = HARTREE_TO_EV
    assert atoms.get_potential_energy() == pytest.approx(float(result.energies) * ev, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), result.forces[0] * ev, rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), result.stress[0] * ev, rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.calc.get_hessian(atoms), result.hessian[0] * ev, rtol=0, atol=1e-9)
    spread = atoms.calc.get_spread(atoms)
    np.testing.assert_allclose(spread["energies_members"], result.members.energies[:, 0] * ev, rtol=1e-12)
    atoms.rattle(0.02, seed=1)  # with the list of neighbors of before
    moved = anipot.single_point(model, numbers[None], torch.tensor(atoms.positions)[None], CELL, ALL)
    np.testing.assert_allclose(atoms.get_forces(), moved.forces[0] * ev, rtol=0, atol=1e-10)


def test_one_can_train_through_it() -> None:
    model = EnsemblePotential([one("schnet", "atomwise", 1), one("aev_user", "ani_celu", 2)])
    numbers, x = molecule(5, 6)
    x = x[None].requires_grad_()
    energies = model((numbers[None], x)).energies
    (gradient,) = torch.autograd.grad(energies.sum(), x, create_graph=True)
    (gradient**2).sum().backward()
    for member in model:
        assert any(p.grad is not None and p.grad.any() for p in member.parameters())


def test_it_can_be_compiled() -> None:
    torch._dynamo.reset()
    model = EnsemblePotential([one("schnet", "atomwise", 1), one("aev_user", "ensemble", 2)])
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    species, x = anipot.pad([molecule(6, 1), molecule(4, 2)])
    x = torch.where((species < 0)[..., None], NAN, x).requires_grad_()
    energies, expected = (f((species, x)).energies for f in (fast, model))
    torch.testing.assert_close(energies, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(e.sum(), x)[0] for e in (energies, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)
    torch._dynamo.reset()


def test_saved_and_loaded(model: EnsemblePotential, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    model.details["why"] = {"kind": "a test"}
    model.save(file)
    loaded = anipot.load(file)
    assert type(loaded) is EnsemblePotential
    assert [(m.name, type(m.representation)) for m in loaded] == [(m.name, type(m.representation)) for m in model]
    assert (loaded.name, loaded.details) == (model.name, model.details)
    species, x = batch()
    ask = {"members": True, "atomic_energies": True}
    ours, theirs = (by_torch(m, species, x, **ask) for m in (loaded, model))
    assert torch.equal(ours.members.energies, theirs.members.energies)
    assert torch.equal(ours.members.forces, theirs.members.forces)
    for again in (model, loaded):
        again.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    last = anipot.load(file, model_index=-1, periodic_table_index=False)
    assert (type(last), last.name, last.periodic_table_index) == (Potential, model[-1].name, False)


def test_shared_parts_of_members_stay_shared(tmp_path: Path) -> None:
    rep, shifter = SchNet(4, 8, 1), EnergyShifter(SELF_ENERGIES)
    model = EnsemblePotential([Potential(ELEMENTS, rep, Atomwise.pyramid(8), shifter) for _ in range(2)])
    model.save(tmp_path / "x.safetensors")
    loaded = anipot.load(tmp_path / "x.safetensors")
    assert loaded[0].representation is loaded[1].representation
    assert loaded[0].head is not loaded[1].head
    unknown = Atomwise(AtomicNetwork((8, 4, 1), torch.nn.PReLU()))
    mixed = EnsemblePotential([model[0], Potential(ELEMENTS, rep, unknown, shifter)])
    with pytest.raises(TypeError, match=r"cannot save members.1.head.network.activation, PReLU; known are CELU"):
        mixed.save(tmp_path / "y.safetensors")


class OwnEnsemble(EnsemblePotential):
    def members_and_properties(self, *args: Any) -> Any:
        return super().members_and_properties(*args)


def test_own_ensembles_are_not_saved_as_something_else(tmp_path: Path) -> None:
    model = OwnEnsemble([potential("schnet", "atomwise")])
    assert not model.is_local
    with pytest.raises(TypeError, match=r"cannot save a OwnEnsemble.*ways of its own: members_and_properties"):
        model.save(tmp_path / "x.safetensors")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_info_is_strict_json_and_shows_all_parts(tmp_path: Path, capsys: Any) -> None:
    terms = [ZBL(ELEMENTS), Coulomb(ELEMENTS, [0.0] * 4)]
    heads = properties(64)
    rep, shifter = SchNet.original(4), EnergyShifter(SELF_ENERGIES)
    details = {"loss": NAN, "level_of_theory": "wB97X"}
    endless = Potential(ELEMENTS, rep, Atomwise.pyramid(64), shifter, "endless", details, properties=heads, terms=terms)
    facts = endless.info()
    assert (facts["cutoff"], facts["cutoff_note"], facts["loss"]) == (None, "infinite: all pairs of a molecule", None)
    assert facts["representation"].startswith("SchNet(")
    assert facts["properties"] == {"dipole": "DipoleMoment(magnitude=False, neutral=True)", "charges": "Charges"}
    assert [shown[:7] for shown in facts["terms"]] == ["ZBL(H, ", "Coulomb"]
    assert "properties: dipole, charges; terms: ZBL, Coulomb" in repr(endless)
    member = Potential(ELEMENTS, SchNet(4, 8, 1), Atomwise.pyramid(8), shifter, "short")
    both = EnsemblePotential([endless, member], "both", details)
    for model in (endless, both):
        model.save(tmp_path / "x.safetensors")
        assert main(["info", str(tmp_path / "x.safetensors"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out, parse_constant=refuse) == model.info()
        assert main(["info", str(tmp_path / "x.safetensors")]) == 0
        shown = capsys.readouterr().out
        assert "cutoff: none\ncutoff_note: infinite: all pairs of a molecule\n" in shown
        assert "ZBL(" in shown
    assert [p["name"] for p in both.info()["potentials"]] == ["endless", "short"]
    assert "properties" not in both.info()
    assert both.info()["parameters"] == sum(p.numel() for p in both.parameters())
    short = endless[0]
    assert (list(short.property_heads), len(short.terms)) == (["dipole", "charges"], 2)


def test_d3_and_turning_features_in_an_ensemble() -> None:
    pytest.importorskip("tad_dftd3")
    torch.manual_seed(1)
    heads = {
        "alpha": Polarizability(GatedNetwork(8), ELEMENTS),
        "q": Charges(AtomicNetwork((8, 1), ShiftedSoftplus())),
    }
    shifter = EnergyShifter(SELF_ENERGIES)
    given = [
        Potential(ELEMENTS, PaiNN(4, 8, 1), Atomwise.pyramid(8), shifter, properties=heads, terms=[D3(ELEMENTS, "PBE")])
        for _ in range(2)
    ]
    model = EnsemblePotential(given).double()
    assert model.needs_positions
    numbers, x = molecule(6, 2)
    alone = [anipot.single_point(m, numbers[None], x[None], hessian=True, properties=True) for m in given]
    result = anipot.single_point(model, numbers[None], x[None], hessian=True, properties=True, members=True)
    assert_average(result, alone)
    for name, value in result.properties.items():
        expected = torch.stack([single.properties[name] for single in alone]).mean(0)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-13)
