"""Heads of properties, and the physical contracts that they keep on every representation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import ase
import ase.io
import ase.units
import numpy as np
import pytest
import torch
from contracts import ELEMENTS, REPRESENTATIONS, SELF_ENERGIES, molecule
from torch import Tensor, nn

import anipot
import anipot.contributions
import anipot.neighbors
from anipot import (
    CELU,
    AtomicNetwork,
    AtomicProperty,
    Atomwise,
    Charges,
    DipoleMoment,
    ElementalDipoleMoment,
    EnergyShifter,
    Ensemble,
    GatedNetwork,
    PaiNN,
    Polarizability,
    Potential,
    SchNet,
    ScSchNet,
)
from anipot.cli import main

NAN = float("nan")


def net(n: int, out: int = 1) -> AtomicNetwork:
    return AtomicNetwork((n, 7, out), CELU(0.3))


HEADS: dict[str, Callable[[int], nn.Module]] = {
    "elemental_sum": lambda n: anipot.ANIModel([net(n) for _ in ELEMENTS]),
    "sum": lambda n: Atomwise(net(n), "sum", 0.1, 2.0, [0.5, -0.5, 1.0, 2.0]),
    "mean": lambda n: Atomwise(net(n), "mean"),
    "shifts": lambda n: AtomicProperty([net(n), None, net(n), net(n)]),
    "tensors": lambda n: AtomicProperty(net(n, 3)),
    "charges": lambda n: Charges(net(n)),
    "dipole": lambda n: DipoleMoment(net(n), ELEMENTS),
    "dipole_charged": lambda n: DipoleMoment(net(n), ELEMENTS, neutral=False),
    "dipole_size": lambda n: DipoleMoment(net(n), ELEMENTS, magnitude=True),
    "dipole_elemental": lambda n: ElementalDipoleMoment([net(n) for _ in ELEMENTS], ELEMENTS),
    "dipole_ensemble": lambda n: Ensemble([DipoleMoment(net(n), ELEMENTS) for _ in range(3)]),
}
TURNING: dict[str, Callable[[int], nn.Module]] = {
    "dipole_gated": lambda n: DipoleMoment(GatedNetwork(n), ELEMENTS),
    "polarizability": lambda n: Polarizability(GatedNetwork(n), ELEMENTS),
}


def made(representation: str) -> Potential:
    torch.manual_seed(3)
    rep = REPRESENTATIONS[representation]()
    n = rep.num_features
    heads = HEADS | (TURNING if isinstance(rep, PaiNN) else {})
    properties = {name: build(n) for name, build in heads.items()}
    shifter = EnergyShifter(SELF_ENERGIES)
    return Potential(ELEMENTS, rep, Atomwise(net(n)), shifter, properties=properties).double()


@pytest.fixture(params=REPRESENTATIONS)
def model(request: pytest.FixtureRequest) -> Potential:
    return made(request.param)


def test_every_exported_head_is_under_contract() -> None:
    exported = {getattr(anipot.head, name) for name in anipot.head.__all__}
    heads = {type(build(8)) for build in (HEADS | TURNING).values()}
    assert {thing for thing in exported if hasattr(thing, "from_environments")} == heads


def turned(name: str, value: Tensor, q: Tensor) -> Tensor:
    if name == "polarizability":
        return q @ value @ q.T
    vector = name.startswith("dipole") and name != "dipole_size"
    return value @ q.T if vector else value


def test_rotation_translation_permutation(model: Potential) -> None:
    numbers, x = molecule(8, 1)
    before = anipot.single_point(model, numbers[None], x[None], properties=True)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    q = q * torch.linalg.det(q)
    order = torch.randperm(8)
    moved = (x @ q.T + torch.tensor([4.0, -20.0, 7.0]))[order]
    after = anipot.single_point(model, numbers[order][None], moved[None], properties=True)
    torch.testing.assert_close(after.energies, before.energies, rtol=0, atol=1e-10)
    for name, value in before.properties.items():
        expected = turned(name, value, q)
        if getattr(model.property_heads[name], "per_atom", False):
            expected = expected[:, order]
        scale = float(value.nan_to_num().abs().max()) + 1
        torch.testing.assert_close(after.properties[name], expected, rtol=0, atol=1e-10 * scale, equal_nan=True)


def test_batch_equals_singles_with_nan_ghosts(model: Potential) -> None:
    molecules = [molecule(n, seed) for n, seed in [(5, 1), (9, 2), (1, 3)]]
    species, x = anipot.pad(molecules)
    species = torch.nn.functional.pad(species, (1, 1, 0, 1), value=-1)
    x = torch.nn.functional.pad(x, (0, 0, 1, 1, 0, 1))
    x[species < 0] = NAN
    both = anipot.single_point(model, species, x, properties=True).properties
    for b, (numbers, positions) in enumerate(molecules):
        n = len(numbers)
        alone = anipot.single_point(model, numbers[None], positions[None], properties=True).properties
        for name, value in alone.items():
            here = both[name][b]
            if getattr(model.property_heads[name], "per_atom", False):
                assert (both[name][species < 0] == 0).all()
                here = here[1 : n + 1]
            scale = float(value.nan_to_num().abs().max()) + 1
            torch.testing.assert_close(here, value[0], rtol=0, atol=1e-11 * scale, equal_nan=True)


def test_large_and_small_systems(model: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, x = anipot.pad([molecule(n, n) for n in (9, 3, 7, 8)])
    whole = anipot.single_point(model, numbers, x, properties=True)
    monkeypatch.setattr(type(model.representation), "block_bytes", 20_000, raising=False)
    parts = anipot.single_point(model, numbers, x, properties=["dipole", "shifts"])
    torch.testing.assert_close(parts.forces, whole.forces, rtol=0, atol=1e-9)
    assert set(parts.properties) == {"dipole", "shifts"}
    for name, value in parts.properties.items():
        torch.testing.assert_close(value, whole.properties[name], rtol=1e-9, atol=1e-9, equal_nan=True)
    assert anipot.single_point(model, numbers, x).properties is None


@pytest.mark.parametrize("terms", [False, True])
def test_kernels_and_torch_say_the_same(terms: bool) -> None:
    """With energies, forces and Hessians of the native engine, properties come without a graph."""
    torch.manual_seed(1)
    head = anipot.ANIModel([net(384) for _ in ELEMENTS]).double()
    properties = {"dipole": HEADS["dipole_elemental"](384).double(), "charges": HEADS["charges"](384).double()}
    more = {"properties": properties, "terms": [anipot.ZBL(ELEMENTS)] if terms else []}
    model = Potential(ELEMENTS, anipot.AEVComputer.like_1x(), head, EnergyShifter(SELF_ENERGIES), **more)
    species, coordinates = anipot.pad([molecule(9, 1), molecule(5, 2)])
    coordinates = coordinates.masked_fill((species < 0)[..., None], NAN)
    ask = {"hessian": True, "members": True, "atomic_energies": True, "properties": True}
    found = anipot.single_point(model, species, coordinates, **ask)
    with anipot.reference_path():
        expected = anipot.single_point(model, species, coordinates, **ask)
    assert found.properties is not None
    assert found.properties.keys() == {"dipole", "charges"}
    for name, value in expected.properties.items():
        torch.testing.assert_close(found.properties[name], value, atol=1e-10, rtol=0)
        assert not found.properties[name].requires_grad
    for name in ("energies", "forces", "hessian", "atomic_energies"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-9, rtol=0)


def test_atoms_without_the_property_are_nan_and_masked() -> None:
    head = HEADS["shifts"](6)
    species = torch.tensor([[0, 1, 2, -1]])
    values = head((species, torch.rand(1, 4, 6)))
    assert head.mask(species).tolist() == [[True, False, True, False]]
    assert values.isnan().tolist() == [[False, True, False, False]]
    assert float(values[0, 3].detach()) == 0
    values[head.mask(species)].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_dipole_by_hand() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1]

    head = DipoleMoment(Fixed(), ["H", "O"], neutral=False)
    rep = SchNet(2, 4, 1)
    model = Potential(["H", "O"], rep, Atomwise.pyramid(4), EnergyShifter([0, 0]), properties={"dipole": head}).double()
    numbers = torch.tensor([[8, 1, 1]])
    x = torch.tensor([[[0.1, 0.2, 0.3], [1.0, 0.2, 0.1], [-0.3, 0.9, 0.0]]], dtype=torch.float64)
    q = rep((model.converter.convert(numbers), x)).features[0, :, 0]
    water = ase.Atoms("OHH", x[0].numpy())
    expected = (q[:, None] * (x[0] - torch.from_numpy(water.get_center_of_mass()))).sum(0)
    torch.testing.assert_close(model.properties((numbers, x))["dipole"][0], expected, rtol=0, atol=1e-13)


def test_charges_of_a_dipole_are_a_head_and_add_up_to_zero() -> None:
    rep = SchNet(4, 8, 1)
    dipole = DipoleMoment(net(8), ELEMENTS)
    heads = {"dipole": dipole, "charges": dipole.charges}
    model = Potential(ELEMENTS, rep, Atomwise.pyramid(8), EnergyShifter(SELF_ENERGIES), properties=heads).double()
    numbers, x = molecule(7, 4)
    atoms = ase.Atoms(numbers.numpy(), x.numpy(), calculator=model.ase())
    charges = atoms.get_charges()
    assert abs(charges.sum()) < 1e-12
    center = atoms.get_center_of_mass()
    np.testing.assert_allclose(atoms.get_dipole_moment(), charges @ (atoms.positions - center), rtol=0, atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(
        float(model((numbers[None], x[None])).energies.detach()) * ase.units.Ha
    )


def test_polar_tensors_by_finite_differences() -> None:
    for name in ("aev_1x", "painn"):
        model = made(name)
        numbers, x = molecule(5, 5)
        tensors = anipot.atomic_polar_tensors(model, numbers[None], x[None])[0]
        h = 1e-5
        steps = h * torch.eye(15, dtype=torch.float64).view(15, 5, 3)
        pairs = (numbers.expand(30, -1), torch.cat([x + steps, x - steps]))
        dipoles = model.properties(pairs, names=["dipole"])["dipole"]
        expected = ((dipoles[:15] - dipoles[15:]) / (2 * h)).view(5, 3, 3).mT
        torch.testing.assert_close(tensors, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(tensors.sum(0), torch.zeros(3, 3).double(), rtol=0, atol=1e-10)
    graph = anipot.atomic_polar_tensors(model, numbers[None], x[None], create_graph=True)
    (graph**2).sum().backward()  # dipole derivatives can be trained on
    with pytest.raises(ValueError, match=r"'dipole_size' has the shape \(1,\)"):
        anipot.atomic_polar_tensors(model, numbers[None], x[None], dipole="dipole_size")


def test_intensive_and_extensive() -> None:
    rep = SchNet(4, 8, 1)
    shifter = EnergyShifter(SELF_ENERGIES)
    with pytest.raises(ValueError, match="mean over atoms, but energies are sums"):
        Potential(ELEMENTS, rep, Atomwise.pyramid(8, aggregation="mean"), shifter)
    heads = {"gap": Atomwise.pyramid(8, aggregation="mean"), "volume": Atomwise.pyramid(8)}
    model = Potential(ELEMENTS, rep, Atomwise.pyramid(8), shifter, properties=heads).double()
    numbers, x = molecule(4, 1)
    one = model.properties((numbers[None], x[None]))
    two = model.properties((numbers.repeat(2)[None], torch.cat([x, x + 1e3])[None]))
    torch.testing.assert_close(two["gap"], one["gap"], rtol=1e-12, atol=0)
    torch.testing.assert_close(two["volume"], 2 * one["volume"], rtol=1e-12, atol=0)
    chain = anipot.Sequential(anipot.SpeciesConverter(ELEMENTS), rep, heads["gap"])
    torch.testing.assert_close(chain((numbers[None], x[None])).energies, one["gap"])


def test_chemical_shifts_as_published() -> None:
    aev = anipot.AEVComputer.like_1x(num_species=5)
    head = AtomicProperty.chemical_shifts(aev.num_features, 5)
    assert aev.num_features == 560
    assert [type(head.networks[0].activation), head.networks[0].sizes] == [nn.ELU, (560, 256, 1)]
    chain = anipot.Sequential(anipot.SpeciesConverter(["H", "C", "N", "O", "S"]), aev, head)
    assert chain((torch.tensor([[16, 1, 1]]), torch.rand(1, 3, 3))).shape == (1, 3)


def test_contributions_of_sc_schnet() -> None:
    torch.manual_seed(0)
    rep = ScSchNet(4, 12, 3)
    assert rep.contribution_weights.tolist() == [0.25] * 4
    numbers, x = anipot.pad([molecule(6, 1), molecule(3, 2)])
    species = anipot.SpeciesConverter(ELEMENTS).convert(numbers)
    x = torch.where((species < 0)[..., None], NAN, x)
    parts = rep.contributions((species, x.float()))
    embedding = rep.embedding.weight[species[species >= 0]]
    torch.testing.assert_close(parts[0], embedding.norm(dim=-1).mean() * 0.25)
    assert parts.shape == (4,)
    with torch.no_grad():
        rep.contribution_weights.zero_()[0] = 1
    torch.testing.assert_close(rep((species, x.float())).features[species >= 0], embedding)
    rep((species, x.float())).features.sum().backward()
    assert rep.contribution_weights.grad.abs().min() > 0


def test_no_cutoff_means_all_pairs_of_a_molecule() -> None:
    rep = SchNet.original(4).double()
    assert (rep.num_features, rep.num_interactions, rep.basis.num_functions) == (64, 3, 301)
    assert math.isinf(rep.cutoff)
    species = torch.tensor([[1, 0]])
    far = torch.tensor([[[0.0, 0, 0], [25.0, 0, 0]]], dtype=torch.float64)
    alone = rep((species[:, :1], far[:, :1])).features
    assert (rep((species, far)).features[:, :1] - alone).abs().max() > 1e-6
    with pytest.raises(ValueError, match=r"molecule 0 .*infinite cutoff"):
        rep((species, far), 9 * torch.eye(3).double(), torch.tensor([True, False, False]))
    model = Potential(ELEMENTS, rep, Atomwise.pyramid(64), EnergyShifter(SELF_ENERGIES)).double()
    numbers, x = molecule(6, 1)
    atoms = ase.Atoms(numbers.numpy(), x.numpy(), calculator=model.ase())
    np.testing.assert_allclose(atoms.get_forces().sum(0), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SchNet(4, cutoff=0), r"cutoff must be positive \(Å\), and finite where no basis is given, got 0"),
        (lambda: SchNet(0), "num_species must be a positive integer, got 0"),
        (lambda: SchNet(4, num_interactions=0), "num_interactions must be a positive integer, got 0"),
        (lambda: PaiNN(4, cutoff=-1.0), r"positive cutoff \(Å\), got 20, -1.0"),
        (lambda: anipot.GaussianBasis([], 1.0), r"centers must be one or more finite numbers \(Å\), got \[\]"),
        (lambda: anipot.GaussianBasis([1.0], -1.0), r"gammas must be positive \(Å⁻²\), got \[-1.0\]"),
        (lambda: anipot.GaussianBasis([1.0, 2.0], [1.0] * 3), "gammas must be one number or 2"),
        (lambda: anipot.GaussianBasis.equidistant(1, 5.0), "at least 2 functions"),
        (lambda: SchNet(4, 8, 1, math.inf, anipot.GaussianBasis([1.0], 1.0), anipot.CosineCutoff()),
         "a finite cutoff needs a cutoff function and an infinite one has none"),
        (lambda: Atomwise(net(4), "max"), "aggregation must be 'sum' or 'mean', got 'max'"),
        (lambda: Atomwise(net(4), stddev=0), "stddev must be positive and mean finite, got 0 and 0.0"),
        (lambda: AtomicProperty([None, None]), "needs a network"),
        (lambda: Charges([net(4), None]), "every element needs a network"),
        (lambda: ElementalDipoleMoment([net(4)], ["H", "C"]), "one network for each of 2 elements, got 1"),
    ],
)  # fmt: skip
def test_bad_construction(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_use() -> None:
    rep, shifter = SchNet(4, 8, 1), EnergyShifter(SELF_ENERGIES)
    with pytest.raises(ValueError, match="the head takes 9 features, but the representation returns 8"):
        Potential(ELEMENTS, rep, Atomwise(net(9)), shifter)
    heads = {"dipole": DipoleMoment(net(8), ELEMENTS[::-1])}
    with pytest.raises(ValueError, match=r"'dipole' is made for the elements \('O', 'N', 'C', 'H'\)"):
        Potential(ELEMENTS, rep, Atomwise.pyramid(8), shifter, properties=heads)
    heads = {"dipole": DipoleMoment(net(8), ELEMENTS), "alpha": Polarizability(GatedNetwork(8), ELEMENTS)}
    model = Potential(ELEMENTS, rep, Atomwise.pyramid(8), shifter, properties=heads)
    water = torch.tensor([[8, 1, 1]]), torch.rand(1, 3, 3)
    with pytest.raises(ValueError, match=r"no property 'dipol'; it has dipole, alpha"):
        anipot.single_point(model, *water, properties=["dipol"])
    with pytest.raises(TypeError, match="needs features that turn with the molecule"):
        anipot.single_point(model, *water, properties=["alpha"])
    pbc = torch.tensor([True] * 3)
    with pytest.raises(ValueError, match="molecule 0 is periodic: its moments depend on the choice of the cell"):
        anipot.single_point(model, *water, 9 * torch.eye(3), pbc, properties=["dipole"])
    with pytest.raises(ValueError, match=r"molecule 0, atom 1 has element index 7"):
        rep((torch.tensor([[1, 7]]), torch.rand(1, 2, 3)))


def test_shell(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("painn")
    atoms = [ase.Atoms(m[0].numpy(), m[1].numpy()) for m in (molecule(5, 1), molecule(3, 2))]
    ase.io.write(tmp_path / "in.xyz", atoms)
    monkeypatch.setattr("anipot.cli.sp.load", lambda args: model)
    out = tmp_path / "out.json"
    assert main(["sp", str(tmp_path / "in.xyz"), "--properties", "-o", str(out), "--model", "mine"]) == 0
    small = json.loads(out.read_text())[1]
    assert np.shape(small["properties"]["dipole"]) == (3,)
    assert np.shape(small["properties"]["polarizability"]) == (3, 3)
    assert np.shape(small["atomic_properties"]["charges"]) == (3,)
    shifts = small["atomic_properties"]["shifts"]
    assert [value is None for value in shifts] == [s == "C" for s in small["symbols"]]
    assert (
        main(["sp", str(tmp_path / "in.xyz"), "--properties", "-o", str(tmp_path / "out.xyz"), "--model", "mine"]) == 0
    )
    again = ase.io.read(tmp_path / "out.xyz", 1)
    np.testing.assert_allclose(again.get_dipole_moment(), small["properties"]["dipole"], atol=1e-6)
    np.testing.assert_allclose(again.info["polarizability"], small["properties"]["polarizability"], atol=1e-6)
    np.testing.assert_allclose(again.arrays["tensors"], small["atomic_properties"]["tensors"], atol=1e-6)
    assert (
        main(["sp", str(tmp_path / "in.xyz"), "--properties", "-o", str(tmp_path / "out.csv"), "--model", "mine"]) == 0
    )
    assert "polarizability" in (tmp_path / "out.csv").read_text()


def test_a_log_of_contributions(tmp_path) -> None:
    rep = ScSchNet(4, 8, 2)
    log = anipot.contributions.ContributionLog(rep, every=3)
    numbers, x = molecule(5, 1)
    batch = anipot.SpeciesConverter(ELEMENTS).convert(numbers)[None], x[None].float()
    for step in range(7):
        log(step, batch)
        with torch.no_grad():
            rep.contribution_weights *= 2
    np.testing.assert_allclose(log.values[2], 64 * log.values[0], rtol=1e-6)
    log.write_csv(tmp_path / "log.csv")
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "step,embedding,interaction 1,interaction 2"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "3", "6"]
    assert [list(line.get_xdata()) for line in log.plot().lines] == [[0, 3, 6]] * 3
    with pytest.raises(TypeError, match="those of an ScSchNet, got SchNet"):
        anipot.contributions.ContributionLog(SchNet(4, 8, 1))


def test_heads_that_do_not_fit_are_refused() -> None:
    rep, shifter, species = SchNet(4, 8, 1), EnergyShifter(SELF_ENERGIES), torch.tensor([[3, 0]])
    with pytest.raises(ValueError, match="members of an Ensemble must know the same elements"):
        Ensemble([Atomwise(net(8), atomref=[0.0] * 4), anipot.ANIModel([net(8)] * 2)])
    with pytest.raises(ValueError, match=r"must be alike, got num_features of \[8, 9\]"):
        Ensemble([Atomwise(net(8)), Atomwise(net(9))])
    with pytest.raises(ValueError, match="must be alike, got extensive"):
        Ensemble([Atomwise(net(8)), Atomwise(net(8), "mean")])
    for head in (anipot.ANIModel([net(8)] * 2), Atomwise(net(8), atomref=[1, 2]), AtomicProperty([net(8)] * 2)):
        with pytest.raises(ValueError, match="molecule 0, atom 0 has element index 3, but there are 2 elements"):
            head((species, torch.rand(1, 2, 8)))
    with pytest.raises(TypeError, match="DipoleMoment cannot be the head: it has no atomic_energies"):
        Potential(ELEMENTS, rep, DipoleMoment(net(8), ELEMENTS), shifter)
    with pytest.raises(TypeError, match="Linear cannot be the term: it has no cutoff and no atomic_energies"):
        Potential(ELEMENTS, rep, Atomwise.pyramid(8), shifter, terms=[nn.Linear(2, 2)])
    for name in ("energy", "forces", "keys", "a.b"):
        with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
            Potential(ELEMENTS, rep, Atomwise.pyramid(8), shifter, properties={name: Atomwise.pyramid(8)})
    with pytest.raises(ValueError, match="must return one value, got 2"):
        Atomwise(net(8, 2))
    charges = {"charges": Charges(net(8))}
    model = Potential(ELEMENTS, rep, Atomwise.pyramid(8), shifter, properties=charges)
    with pytest.raises(ValueError, match="'charges' has values of atoms"):
        anipot.atomic_polar_tensors(model, torch.tensor([[8, 1, 1]]), torch.rand(1, 3, 3), dipole="charges")


def test_an_ensemble_of_means_is_a_mean() -> None:
    torch.manual_seed(0)
    head, input_ = Atomwise(net(8), "mean"), (torch.tensor([[0, 1, -1]]), torch.rand(1, 3, 8))
    torch.testing.assert_close(Ensemble([head, head])(input_).energies, head(input_).energies)


def test_networks_per_element_as_a_property_and_two_dtypes() -> None:
    rep, shifter = SchNet(4, 8, 1), EnergyShifter(SELF_ENERGIES)
    gated = DipoleMoment(GatedNetwork(6), ELEMENTS)
    properties = {"total": anipot.ANIModel([net(8) for _ in ELEMENTS]), "q": Charges(net(8)).double()}
    model = Potential(ELEMENTS, rep, Atomwise(net(8)).double(), shifter, properties=properties)
    numbers, x = molecule(5, 1)
    found = model.properties((numbers[None], x[None]))
    assert found["total"].shape == (1,)
    assert found["q"].dtype == torch.float64
    assert anipot.single_point(model, numbers[None], x[None]).forces.shape == (1, 5, 3)
    heads = {"dipole": gated, "charges": gated.charges}
    model = Potential(ELEMENTS, PaiNN(4, 6, 1), Atomwise(net(6)), shifter, properties=heads)
    assert abs(float(model.properties((numbers[None], x[None]))["charges"].detach().sum())) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert model((numbers[None], x[None].float())).energies.isfinite().all()


def test_the_public_sentence_with_one_network() -> None:
    numbers, x = molecule(5, 1)
    parts = SchNet(4, 8, 1), Atomwise.pyramid(8), EnergyShifter(SELF_ENERGIES)
    chain = torch.nn.Sequential(anipot.SpeciesConverter(ELEMENTS), *parts).double()
    expected = anipot.single_point(Potential(ELEMENTS, *parts).double(), numbers[None], x[None])
    torch.testing.assert_close(anipot.single_point(chain, numbers[None], x[None]).forces, expected.forces)
    indices = anipot.SpeciesConverter(ELEMENTS).convert(numbers)[None]
    bare = anipot.single_point(torch.nn.Sequential(*parts), indices, x[None])
    torch.testing.assert_close(bare.energies, expected.energies)


def test_own_images_need_no_shifts() -> None:
    """An engine may bring pairs and vectors without counting lattice vectors."""
    model = made("schnet")
    species, x = torch.tensor([[0]]), torch.zeros(1, 1, 3, dtype=torch.float64)
    cell, pbc = 3 * torch.eye(3, dtype=torch.float64)[None], torch.tensor([[True] * 3])
    pairs = anipot.neighbors.find_pairs(species, x, cell, pbc, model.cutoff)
    vectors = anipot.neighbors.displacements(pairs, x, cell, pbc)
    with_shifts = model.members_from_vectors(species[0], pairs, vectors)
    without = model.members_from_vectors(species[0], pairs._replace(shift=None), vectors)
    torch.testing.assert_close(without, with_shifts)
    alone = model.members_from_vectors(species[0], anipot.neighbors.Pairs(*(p[:0] for p in pairs)), vectors[:0])
    assert abs(float((with_shifts - alone).detach())) > 1e-6
