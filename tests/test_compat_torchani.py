"""TorchANI 2.2 names: the listings of its paper, the shapes that scripts rely on, and values beside TorchANI itself."""

from __future__ import annotations

import importlib
import math
import warnings
from collections import OrderedDict
from types import ModuleType

import pytest
import torch
from weights_at_hand import reason_missing, use_weights

import anipot
from anipot.compat import torchani
from anipot.compat.torchani.models import BuiltinModel

METHANE = torch.tensor([[6, 1, 1, 1, 1]])
METHANE_INDICES = torch.tensor([[1, 0, 0, 0, 0]])
COORDINATES = torch.tensor(
    [[[0.03, 0.006, 0.01], [-0.8, 0.4, -0.3], [-0.7, -0.8, 0.2], [0.5, 0.5, 0.8], [0.7, -0.2, -0.9]]],
    dtype=torch.float64,
)
ENERGIES = {"ani1x": -40.45309012870, "ani1ccx": -40.41963148077, "ani2x": -40.45361047679}
ELEMENTS = ["H", "C", "N", "O"]
SELF_ENERGIES = [-0.6, -38.1, -54.7, -75.2]
PBC = torch.tensor([True, True, True])


def aev_1x() -> torchani.AEVComputer:
    return torchani.AEVComputer.cover_linearly(5.2, 3.5, 16.0, 8.0, 16, 4, 32.0, 8, 4)


def network(seed: int, width: int = 384) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    layers = (
        torch.nn.Linear(width, 12),
        torch.nn.CELU(0.1),
        torch.nn.Linear(12, 6),
        torch.nn.CELU(0.1),
        torch.nn.Linear(6, 1),
    )
    return torch.nn.Sequential(*layers).double()


def ani_model(seed: int = 0) -> torchani.ANIModel:
    return torchani.ANIModel([network(seed + i) for i in range(4)])


def small_model(members: int = 1, periodic_table_index: bool = True) -> BuiltinModel:
    models = [ani_model(10 * i) for i in range(members)]
    head = torchani.Ensemble(models) if members > 1 else models[0]
    shifter = torchani.EnergyShifter(SELF_ENERGIES)
    return BuiltinModel(ELEMENTS, aev_1x(), head, shifter, "small", periodic_table_index=periodic_table_index)


# ---------------------------------------------------------------------------------------------------------------------
# The listings of the paper


@pytest.mark.parametrize("name", ENERGIES)
def test_published_methane(name: str, request: pytest.FixtureRequest) -> None:
    model = BuiltinModel.of(request.getfixturevalue(name))
    _, energies = model((METHANE, COORDINATES))
    assert energies.dtype == torch.float64
    assert energies.item() == pytest.approx(ENERGIES[name], abs=1e-8)


@pytest.mark.parametrize("name", ENERGIES)
def test_constructors_as_in_2_2(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    use_weights(monkeypatch, tmp_path_factory.getbasetemp() / "compat-weights")
    if why := reason_missing(name):
        pytest.skip(why)
    make = getattr(torchani.models, name.upper().replace("CCX", "ccx").replace("X", "x"))
    model, numbers, member = make().double(), make(periodic_table_index=True).double(), make(True, 0).double()
    assert len(model) == 8
    assert len(member) == 1
    species = model.species_to_tensor("CHHHH")[None]
    assert species.tolist() == METHANE_INDICES.tolist()
    _, energies = model((species, COORDINATES))
    assert energies.item() == pytest.approx(ENERGIES[name], abs=1e-8)
    assert torch.equal(energies, numbers((METHANE, COORDINATES)).energies)
    assert torch.equal(numbers[0]((METHANE, COORDINATES)).energies, member((METHANE, COORDINATES)).energies)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_forces_by_autograd() -> None:
    model, coordinates = small_model(), COORDINATES.clone().requires_grad_()
    _, energies = model((METHANE, coordinates))
    forces = -torch.autograd.grad(energies.sum(), coordinates)[0]
    torch.testing.assert_close(forces, anipot.single_point(model, METHANE, COORDINATES).forces, rtol=0, atol=1e-12)


def test_stress_by_scaling() -> None:
    model = small_model()
    cell = torch.tensor([[4.0, 0.2, 0.0], [0.0, 4.5, 0.3], [0.5, 0.0, 5.0]], dtype=torch.float64)
    scaling = torch.eye(3, dtype=torch.float64, requires_grad=True)
    _, energies = model((METHANE, COORDINATES @ scaling), cell=cell @ scaling, pbc=PBC)
    stress = torch.autograd.grad(energies.sum(), scaling)[0] / torch.linalg.det(cell).abs()
    expected = anipot.single_point(model, METHANE, COORDINATES, cell, PBC, stress=True).stress
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(stress[None], expected, rtol=1e-9, atol=1e-13)


def test_hessian_and_vibrations() -> None:
    model = small_model()
    species, coordinates = METHANE.repeat(2, 1), torch.cat([COORDINATES, 1.1 * COORDINATES]).requires_grad_()
    energies = model((species, coordinates)).energies
    hessian = torchani.utils.hessian(coordinates, energies=energies)
    assert hessian.shape == (2, 15, 15)
    expected = anipot.single_point(model, species, coordinates.detach(), hessian=True).hessian
    torch.testing.assert_close(hessian, expected, rtol=1e-9, atol=1e-12)
    forces = -torch.autograd.grad(energies.sum(), coordinates, create_graph=True)[0]
    torch.testing.assert_close(torchani.utils.hessian(coordinates, forces=forces), hessian)

    masses = torchani.utils.get_atomic_masses(METHANE)
    freqs, modes, fconstants, rmasses = torchani.utils.vibrational_analysis(masses, hessian[:1], mode_type="MDU")
    assert freqs.shape == fconstants.shape == rmasses.shape == (15,)
    assert modes.shape == (15, 5, 3)
    assert (freqs[1:] >= freqs[:-1]).all()
    # ν = sqrt(k / μ) / 2π, by the conversions of torchani.units
    eigenvalues = fconstants / torchani.units.mhessian2fconst(1.0) / rmasses
    top = torchani.units.sqrt_mhessian2invcm(eigenvalues[-1].sqrt() / (2 * math.pi))
    assert float(top) == pytest.approx(float(freqs[-1]), rel=1e-10)


def test_force_training() -> None:
    """The loss of the paper, with the gradients of its parameters beside finite differences."""
    model = small_model()
    torch.manual_seed(1)
    true_forces = 0.01 * torch.randn(1, 5, 3, dtype=torch.float64)

    def loss() -> torch.Tensor:
        coordinates = COORDINATES.clone().requires_grad_()
        _, energies = model((METHANE, coordinates))
        forces = -torch.autograd.grad(energies.sum(), coordinates, create_graph=True, retain_graph=True)[0]
        force_loss = (true_forces - forces).pow(2).sum(dim=(1, 2)) / 5
        return (torch.nn.functional.mse_loss(energies, torch.tensor([-40.5])) + 0.1 * force_loss).mean()

    loss().backward()
    weights = [p for i in (0, 1) for p in model.neural_networks[i].parameters() if p.dim() == 2]
    for weight in weights:
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        place = int(weight.grad.abs().argmax())
        expected = finite_difference(loss, weight, place)
        assert float(weight.grad.flatten()[place]) == pytest.approx(expected, rel=1e-5)


def finite_difference(function, weight: torch.Tensor, place: int, step: float = 1e-5) -> float:
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.view(-1)[place] += sign * step
        values.append(function().item())
        with torch.no_grad():
            weight.view(-1)[place] -= sign * step
    return (values[0] - values[1]) / (2 * step)


def test_float32_targets_train() -> None:
    """Energies are float64; a float32 target beside them must not stop the backward pass."""
    model = small_model().float()
    _, energies = model((METHANE, COORDINATES.float()))
    torch.nn.MSELoss(reduction="none")(energies, torch.zeros(1)).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.neural_networks[0].parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Models


def test_names_of_the_parts() -> None:
    model = small_model(3)
    assert model.aev_computer.aev_length == 384
    assert len(model.neural_networks) == model.neural_networks.size == 3
    assert model.sae_dict == dict(zip(ELEMENTS, SELF_ENERGIES, strict=True))
    assert model.species == ELEMENTS
    assert torch.equal(model.species_converter((METHANE, COORDINATES)).species, METHANE_INDICES)
    steps = model.species_converter((METHANE, COORDINATES))
    steps = model.energy_shifter(model.neural_networks(model.aev_computer(steps)))
    torch.testing.assert_close(steps.energies, model((METHANE, COORDINATES)).energies, rtol=0, atol=1e-12)


def test_members_are_of_the_same_class() -> None:
    model = small_model(3)
    assert isinstance(model[0], BuiltinModel)
    assert model[0].species_to_tensor(["C", "H"]).tolist() == [1, 0]
    means = torch.stack([member((METHANE, COORDINATES)).energies for member in model]).mean(0)
    torch.testing.assert_close(means, model((METHANE, COORDINATES)).energies, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", [True, False])
def test_atomic_energies(average: bool) -> None:
    model = small_model(3)
    atomic = model.atomic_energies((METHANE, COORDINATES), average=average).energies
    assert atomic.shape == ((1, 5) if average else (3, 1, 5))
    whole = (model((METHANE, COORDINATES)) if average else model.members_energies((METHANE, COORDINATES))).energies
    torch.testing.assert_close(atomic.sum(-1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unbiased", [True, False])
def test_energies_qbcs(unbiased: bool) -> None:
    model = small_model(3)
    _, energies, qbcs = model.energies_qbcs((METHANE, COORDINATES), unbiased=unbiased)
    members = model.members_energies((METHANE, COORDINATES)).energies
    torch.testing.assert_close(energies, members.mean(0))
    torch.testing.assert_close(qbcs, members.std(0, correction=int(unbiased)) / math.sqrt(5))


def test_energies_qbcs_of_one_model_are_refused() -> None:
    with pytest.raises(ValueError, match="small has one member"):
        small_model().energies_qbcs((METHANE, COORDINATES))


def test_species_to_tensor_gives_indices_always() -> None:
    assert small_model(periodic_table_index=True).species_to_tensor("CH").tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"atom 1 is 'C'|atom 1 is 'l'"):
        small_model().species_to_tensor("Cl")


# ---------------------------------------------------------------------------------------------------------------------
# Modules


def test_cover_linearly_is_the_aev_of_ani1x() -> None:
    ours, published = aev_1x(), anipot.AEVComputer.like_1x()
    for name in ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ"):
        torch.testing.assert_close(getattr(ours, name), getattr(published, name), rtol=0, atol=1e-7)
    assert ours.sizes == (4, 16, 64, 32, 320)


def test_sequentials_carry_cell_and_pbc() -> None:
    cell = 4 * torch.eye(3, dtype=torch.float64)
    parts = aev_1x(), ani_model(), torchani.EnergyShifter(SELF_ENERGIES)
    expected = small_model()((METHANE, COORDINATES), cell, PBC).energies
    chain = torchani.nn.Sequential(torchani.SpeciesConverter(ELEMENTS), *parts)
    torch.testing.assert_close(chain((METHANE, COORDINATES), cell=cell, pbc=PBC).energies, expected)
    free = torch.nn.Sequential(*parts)((METHANE_INDICES, COORDINATES)).energies
    torch.testing.assert_close(free, small_model()((METHANE, COORDINATES)).energies)


def test_networks_by_name() -> None:
    networks = OrderedDict((element, network(i)) for i, element in enumerate(ELEMENTS))
    model = torchani.ANIModel(networks)
    assert list(model.keys()) == ELEMENTS
    assert model["C"] is model[1] is networks["C"]
    assert dict(model.items()) == dict(networks)
    with pytest.raises(KeyError, match="no network is named 'Cl'"):
        model["Cl"]
    # Checkpoints of a list of networks have the keys of TorchANI 2.2.
    assert "3.0.weight" in ani_model().state_dict()


def test_constants_unpack(tmp_path) -> None:
    file = tmp_path / "r.params"
    file.write_text(
        "TM = 1\nRcr = 5.2\nRca = 3.5\nEtaR = [16.0]\nShfR = [0.9,1.5]\nZeta = [32.0]\nShfZ = [0.2,0.6]\n"
        "EtaA = [8.0]\nShfA = [0.9]\nAtyp = [H,C,N,O]\n"
    )
    consts = torchani.neurochem.Constants(file)
    assert consts.species == ELEMENTS
    assert consts.num_species == 4
    assert consts.Rcr == consts["Rcr"] == 5.2
    assert consts.species_to_tensor(["O", "H"]).tolist() == [3, 0]
    assert torchani.AEVComputer(**consts).aev_length == 4 * 2 + 10 * 2


def test_load_sae_follows_the_indices_of_the_file(tmp_path) -> None:
    file = tmp_path / "sae_linfit.dat"
    file.write_text("C,1=-38.1\nH,0=-0.6\n")
    shifter, by_symbol = torchani.neurochem.load_sae(file, return_dict=True)
    assert shifter.self_energies.tolist() == [-0.6, -38.1]
    assert by_symbol == {"H": -0.6, "C": -38.1}


def test_neurochem_listing(shared) -> None:
    """The model built from its files by hand, as the tutorial does it."""
    folder = shared / "weights" / "ani-model-zoo" / "resources" / "ani-1x_8x"
    consts = torchani.neurochem.Constants(folder / "rHCNO-5.2R_16-3.5A_a4-8.params")
    shifter = torchani.neurochem.load_sae(folder / "sae_linfit.dat")
    ensemble = torchani.neurochem.load_model_ensemble(consts.species, str(folder / "train"), 8)
    model = torch.nn.Sequential(torchani.AEVComputer(**consts), ensemble, shifter).double()
    species = consts.species_to_tensor("CHHHH")[None]
    assert model((species, COORDINATES)).energies.item() == pytest.approx(ENERGIES["ani1x"], abs=1e-8)
    first = torchani.neurochem.load_model(consts.species, folder / "train0" / "networks")
    assert list(first.keys()) == ELEMENTS


# ---------------------------------------------------------------------------------------------------------------------
# Utilities


def test_hessian_says_what_it_needs() -> None:
    x = COORDINATES.clone().requires_grad_()
    with pytest.raises(ValueError, match="either energies or forces"):
        torchani.utils.hessian(x)
    with pytest.raises(ValueError, match="need requires_grad_"):
        torchani.utils.hessian(x, energies=torch.zeros(1))


def test_vibrational_analysis_takes_one_molecule() -> None:
    with pytest.raises(ValueError, match=r"masses must have shape \(1, A\)"):
        torchani.utils.vibrational_analysis(torch.ones(2, 1), torch.eye(3).repeat(2, 1, 1))


def test_padding_helpers() -> None:
    batches = [
        {"species": torch.tensor([[1, 0]]), "coordinates": torch.ones(1, 2, 3), "energies": torch.tensor([1.0])},
        {"species": torch.tensor([[1]]), "coordinates": torch.ones(1, 1, 3), "energies": torch.tensor([2.0])},
    ]
    padded = torchani.utils.pad_atomic_properties(batches)
    assert padded["species"].tolist() == [[1, 0], [1, -1]]
    assert padded["coordinates"].shape == (2, 2, 3)
    assert padded["energies"].tolist() == [1.0, 2.0]
    assert torchani.utils.present_species(padded["species"]).tolist() == [0, 1]
    last = {name: padded[name][1:] for name in ("species", "coordinates")}
    assert torchani.utils.strip_redundant_padding(last)["coordinates"].shape == (1, 1, 3)


def test_map2central_moves_along_periodic_axes_only() -> None:
    cell = torch.tensor([[2.0, 0, 0], [1.0, 3.0, 0], [0, 0, 4.0]])
    inside = torch.tensor([[[0.5, 0.5, 0.5]]])
    outside = inside + cell[0] - 2 * cell[1] + cell[2]
    torch.testing.assert_close(torchani.utils.map2central(cell, outside, PBC), inside)
    moved = torchani.utils.map2central(cell, outside, torch.tensor([True, True, False]))
    torch.testing.assert_close(moved, inside + cell[2])


def test_masses_and_symbols() -> None:
    from ase.data import atomic_masses, chemical_symbols

    assert torchani.utils.PERIODIC_TABLE[1:] == chemical_symbols[1:]
    numbers = torch.arange(1, 100)
    assert torchani.utils.get_atomic_masses(numbers).tolist() == atomic_masses[1:100].tolist()
    with pytest.raises(ValueError, match="0 is no atomic number"):
        torchani.utils.get_atomic_masses(torch.tensor([0]))


def test_units() -> None:
    from ase import units

    assert torchani.units.hartree2ev(1.0) == pytest.approx(units.Hartree, rel=1e-14)
    assert torchani.units.hartree2kcalmol(1.0) == pytest.approx(units.Hartree / (units.kcal / units.mol), rel=1e-12)
    assert torchani.units.ev2kjoulemol(1.0) == pytest.approx(units.mol / units.kJ, rel=1e-12)
    root = math.sqrt(units.Hartree)  # of 1 Hartree/(Å² u), in the units of ASE
    assert torchani.units.sqrt_mhessian2milliev(1 / (2 * math.pi)) == pytest.approx(
        1000 * units._hbar * units.m * math.sqrt(units._e / units._amu) / units._e * root, rel=1e-9
    )
    assert torchani.units.INVCM_TO_EV / units.invcm == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("name", ["data", "optim", "neurochem.Trainer", "cuaev"])
def test_what_is_missing_says_what_to_use(name: str) -> None:
    *path, last = name.split(".")
    module = getattr(torchani, path[0]) if path else torchani
    with pytest.raises(AttributeError, match=rf"anipot has no torchani\.{name}: \w+"):
        getattr(module, last)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense


# ---------------------------------------------------------------------------------------------------------------------
# ASE


def test_calculator() -> None:
    from ase.build import molecule

    model, methane = small_model(), molecule("CH4")
    methane.calc = torchani.ase.Calculator(model.species, model)
    energy = methane.get_potential_energy()
    x = torch.tensor(methane.positions)[None]
    expected = torchani.units.hartree2ev(model((METHANE, x)).energies.item())
    assert energy == pytest.approx(expected, abs=1e-9)
    # A chain without converter: its species are named by the first argument.
    chain = torch.nn.Sequential(aev_1x(), ani_model(), torchani.EnergyShifter(SELF_ENERGIES))
    methane.calc = torchani.ase.Calculator(ELEMENTS, chain)
    assert methane.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    with pytest.raises(ValueError, match="the model is made for"):
        torchani.ase.Calculator(["H", "C"], model)


def test_calculator_overwrites_positions_on_request() -> None:
    from ase.build import molecule

    atoms = molecule("CH4", cell=[6, 6, 6], pbc=True)
    atoms.translate([7, -7, 0])
    before = atoms.positions.copy()
    model = small_model()
    atoms.calc = model.ase()
    energy = atoms.get_potential_energy()
    assert (atoms.positions == before).all()
    atoms.calc = model.ase(overwrite=True)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    scaled = atoms.get_scaled_positions(wrap=False)
    assert ((scaled >= 0) & (scaled < 1)).all()
    assert not atoms.calc.check_state(atoms)


# ---------------------------------------------------------------------------------------------------------------------
# Beside TorchANI


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    """Return TorchANI itself, or skip; its warnings about extensions that were not compiled are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("torchani", reason="needs torchani, which is in the extra [dev]")
        importlib.import_module("torchani.grad")
    return module


def peer_aev(peer: ModuleType) -> torch.nn.Module:
    """TorchANI 2.9 with the constants of ``aev_1x``."""
    ours = aev_1x()
    shifts = [getattr(ours, name).tolist() for name in ("ShfR", "ShfA", "ShfZ")]
    return peer.AEVComputer.from_constants(5.2, 3.5, 16.0, shifts[0], 8.0, 32.0, shifts[1], shifts[2], 4).double()


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(7)
    grid = torch.cartesian_prod(*[torch.arange(2.0)] * 3)[None] * 1.4
    species = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 3], [1, 0, 0, 2, 3, 0, -1, -1]])
    return species, (grid + 0.3 * torch.rand(2, 8, 3)).double()


def test_beside_torchani_features_and_energies(peer) -> None:
    species, x = random_batch()
    theirs = peer_aev(peer)(species, x)
    ours = aev_1x()((species, x))
    # TorchANI rounds its constants to float32.
    torch.testing.assert_close(ours.aevs, theirs, rtol=0, atol=2e-6)
    networks = ani_model()
    expected = torch.zeros(2, dtype=torch.float64)
    for element, net in enumerate(networks):
        atomic = net(theirs).squeeze(-1)
        expected += torch.where(species == element, atomic, 0.0).sum(-1)
    torch.testing.assert_close(networks(ours).energies, expected, rtol=0, atol=1e-5)


def test_beside_torchani_hessian_and_vibrations(peer) -> None:
    model = small_model()
    coordinates = COORDINATES.clone().requires_grad_()
    energies = model((METHANE, coordinates)).energies
    forces = -torch.autograd.grad(energies.sum(), coordinates, create_graph=True)[0]
    hessian = torchani.utils.hessian(coordinates, forces=forces)
    theirs = peer.grad.hessians(forces, coordinates, retain_graph=True)
    torch.testing.assert_close(hessian, theirs, rtol=0, atol=1e-12)
    positive = hessian.detach() @ hessian.detach() + 0.05 * torch.eye(15).double()  # theirs has NaN for imaginary modes
    masses = torchani.utils.get_atomic_masses(METHANE)
    for mode_type in ("MDU", "MDN", "MWN"):
        ours = torchani.utils.vibrational_analysis(masses, positive, mode_type=mode_type)
        theirs = peer.grad.vibrational_analysis(masses, positive, mode_kind=mode_type.lower())
        for name in ("freqs", "fconstants", "rmasses"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(ours.modes.abs(), theirs.modes.abs(), rtol=0, atol=1e-6)


def test_beside_torchani_units(peer) -> None:
    from torchani import units

    for name in ("hartree2ev", "hartree2kcalmol", "hartree2kjoulemol", "ev2kcalmol", "ev2kjoulemol"):
        assert getattr(torchani.units, name)(1.0) == pytest.approx(getattr(units, name)(1.0), rel=1e-9)
    for name in ("sqrt_mhessian2invcm", "sqrt_mhessian2milliev", "mhessian2fconst"):
        assert getattr(torchani.units, name)(1.0) == pytest.approx(getattr(units, name)(1.0), rel=1e-7)
