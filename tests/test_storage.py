"""What is saved is rebuilt to the last bit, whatever a potential is made of; all else is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_properties
import test_terms
import torch
from contracts import ELEMENTS, HEADS, PAIRS, REPRESENTATIONS, SELF_ENERGIES, molecule
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import anipot
from anipot import (
    CELU,
    D3,
    ZBL,
    AEVComputer,
    ANIModel,
    AtomicNetwork,
    AtomicProperty,
    Atomwise,
    Coulomb,
    DipoleMoment,
    EnergyShifter,
    Ensemble,
    GatedNetwork,
    PaiNN,
    Polarizability,
    Potential,
    SchNet,
    ScSchNet,
    zoo,
)
from anipot.blueprints import GROUPS, KINDS
from anipot.cli import main
from anipot.compat import torchani
from anipot.storage import FORMAT, load_model, read_metadata, save_model, to_file
from anipot.terms import ErfDamping, ShortRangeExclusion
from anipot.zoo.check import check_weights, identify
from anipot.zoo.index import find, index

DATA = Path(__file__).parent / "data"
WATER = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0.1, 0], [-0.24, 0.93, 0.2]]]).double()


def shifter() -> EnergyShifter:
    return EnergyShifter(SELF_ENERGIES)


def on(representation: nn.Module, head: nn.Module | None = None, **more: Any) -> Potential:
    head = Atomwise.pyramid(representation.num_features) if head is None else head
    return Potential(ELEMENTS, representation, head, shifter(), **more)


def activated(activation: nn.Module) -> Potential:
    """Networks that are a Sequential, a Sequential in a Sequential, a single layer, and one without biases."""
    aev = AEVComputer(4.0, 3.0, 8.0, [1.0, 2.0], 8.0, 32.0, 1.5, [0.2, 2.9], 4)
    n = aev.num_features
    networks = [
        nn.Sequential(nn.Linear(n, 5), activation, nn.Linear(5, 1)),
        nn.Sequential(nn.Sequential(nn.Linear(n, 4, bias=False), copy.deepcopy(activation)), nn.Linear(4, 1)),
        nn.Linear(n, 1),
        AtomicNetwork((n, 3, 1), activation, bias=False),
    ]
    return on(aev, ANIModel(networks))


def with_terms(*names: str) -> Potential:
    return on(AEVComputer.like_1x(), terms=[test_terms.term(name).float() for name in names])


def of_kind(representation: str, head: str) -> Potential:
    rep = REPRESENTATIONS[representation]()
    return on(rep, HEADS[head](rep.num_features))


def with_intercept() -> Potential:
    model = on(SchNet(4, 8, 1))
    model.shifter = EnergyShifter([*SELF_ENERGIES, math.pi], fit_intercept=True)
    return model


BUILD: dict[str, Callable[[], Potential]] = {
    **{"-".join(pair): lambda pair=pair: of_kind(*pair) for pair in PAIRS},  # type: ignore[misc]
    **{f"properties-{name}": lambda name=name: test_properties.made(name) for name in ("aev_1x", "wacsf", "painn")},
    **{name: lambda name=name: with_terms(name) for name in test_terms.BUILD},  # type: ignore[misc]
    **{k.name: lambda k=k: activated(k.cls()) for k in GROUPS["activations"]},  # type: ignore[misc]
    "radial AEVs": lambda: on(AEVComputer(5.0, 3.0, 16.0, [0.9, 1.7], [], [], [], [], 4)),
    "angular AEVs": lambda: on(AEVComputer(5.0, 3.0, [], [], 8.0, [9.0], [0.9], [0.3, 1.1], 4)),
    "no cutoff": lambda: on(SchNet.original(4)),
    "painn, other activation": lambda: on(PaiNN(4, 8, 2, activation=CELU(0.3), shared_filters=True, epsilon=1e-6)),
    "intercept": with_intercept,
    "learned AEVs": lambda: learned(on(AEVComputer.like_1x())),
    "all at once": lambda: on(
        PaiNN(4, 8, 1),
        properties={"alpha": Polarizability(GatedNetwork(8, 5), ELEMENTS)},
        terms=[ZBL(ELEMENTS), Coulomb(ELEMENTS, Atomwise.pyramid(8), damping=ErfDamping(0.4))],
    ),
}


def learned(model: Potential) -> Potential:
    aev = model.representation
    aev.EtaR = nn.Parameter(1.1 * aev.EtaR)
    return model


def needs(name: str) -> None:
    for library in test_terms.NEEDS.get(name, ()):
        pytest.importorskip(library)


def seeded(name: str, dtype: torch.dtype = torch.float64) -> Potential:
    """Return one of the potentials above with random weights and biases."""
    torch.manual_seed(5)
    model = BUILD[name]().to(dtype)
    for parameter in model.parameters():
        if parameter.dim() == 1 and "learned" not in name and not name.startswith("zbl"):
            nn.init.normal_(parameter, std=0.1)
    return model


def results(model: Potential) -> list[Tensor]:
    """Return energies, forces and properties of two molecules as torch computes them, and of the first natively too."""
    numbers, x = anipot.pad([molecule(6, 3), molecule(4, 4)])
    ask = {"members": True, "atomic_energies": True, "properties": True}
    with anipot.reference_path():
        result = anipot.single_point(model, numbers, x, **ask)
    native = anipot.single_point(model, numbers[:1], x[:1])
    found = [result.energies, result.forces, result.atomic_energies, result.members.energies, native.forces]
    return found + list((result.properties or {}).values())


def assert_same(one: Potential, other: Potential) -> None:
    for a, b in zip(results(one), results(other), strict=True):
        assert torch.equal(a.nan_to_num(99), b.nan_to_num(99))


@pytest.mark.parametrize("name", BUILD)
def test_saved_and_loaded_to_the_last_bit(name: str, tmp_path: Path) -> None:
    needs(name)
    for dtype in (torch.float32, torch.float64):
        model, file = seeded(name, dtype), tmp_path / f"{dtype}.safetensors"
        model.save(file)
        random = torch.get_rng_state()
        loaded = load_model(file)
        assert torch.equal(random, torch.get_rng_state())  # nobody's random numbers are used up
        weights, expected = dict(loaded.named_parameters()), dict(model.named_parameters())
        assert list(weights) == list(expected)
        assert all(torch.equal(weights[k], p) and weights[k].dtype == p.dtype for k, p in expected.items())
        for (k, a), (_, b) in zip(loaded.named_buffers(), model.named_buffers(), strict=True):
            assert torch.equal(a, b), k
            assert a.dtype == b.dtype
        assert_same(loaded, model)
        for again in (model, loaded):
            again.save(tmp_path / "again.safetensors")
            assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def kinds_in(description: Any) -> set[str]:
    parts = description.values() if isinstance(description, dict) else description
    found = {description["kind"]} if isinstance(description, dict) and "kind" in description else set()
    inner = [kinds_in(part) for part in parts if isinstance(part, dict | list)]
    return found.union(*inner)


@pytest.mark.skipif(any(find_spec(n) is None for n in ("tad_dftd3", "torchpme")), reason="needs the packages of terms")
def test_every_export_is_saved_by_the_test_above() -> None:
    """Whoever exports a new module gives it a line in ``blueprints.GROUPS`` and an example here."""
    places = (anipot, anipot.head, anipot.representation, anipot.terms)
    exported = {getattr(place, name) for place in places for name in place.__all__}
    modules = {thing for thing in exported if isinstance(thing, type) and issubclass(thing, nn.Module)}
    # These hold a potential's parts, or stand in every potential.
    modules -= {anipot.Sequential, anipot.SpeciesConverter}
    modules = {thing for thing in modules if not issubclass(thing, Potential)}
    assert modules <= {kind.cls for kind in KINDS.values()}
    seen = set().union(*(kinds_in(to_file(seeded(name))[0]) for name in BUILD))
    assert seen - {"Potential"} == set(KINDS)


# ------------------------------------------------------------------------------------------ what is shared


@pytest.mark.parametrize("names", [("dipole", "charges"), ("charges", "dipole")])
def test_the_charges_of_a_dipole_stay_its_own(names: tuple[str, str], tmp_path: Path) -> None:
    dipole = DipoleMoment(AtomicNetwork((8, 4, 1), CELU(0.2)), ELEMENTS)
    heads = {"dipole": dipole, "charges": dipole.charges}
    model = on(SchNet(4, 8, 1), properties={name: heads[name] for name in names})
    model.save(tmp_path / "x.safetensors")
    loaded = anipot.load(tmp_path / "x.safetensors")
    assert tuple(loaded.property_heads) == names
    assert loaded.property_heads["charges"] is loaded.property_heads["dipole"].charges
    assert_same(loaded, model)
    with torch.no_grad():
        loaded.property_heads["charges"].networks[0].linears[0].weight.add_(1)
    assert not torch.equal(loaded.properties(WATER)["dipole"], model.properties(WATER)["dipole"])


def test_shared_networks_and_single_weights_stay_shared(tmp_path: Path) -> None:
    gated, ties = GatedNetwork(8), [nn.Linear(8, 1) for _ in range(4)]
    ties[2].weight = ties[0].weight
    ties[3] = ties[1]
    heads = {"dipole": DipoleMoment(gated, ELEMENTS), "alpha": Polarizability(gated, ELEMENTS)}
    network = AtomicNetwork((8, 5, 1), nn.Tanh())
    terms = [Coulomb(ELEMENTS, network, damping=ShortRangeExclusion(4.0))]
    heads["shifts"] = AtomicProperty([None, network, network, None])
    model = on(PaiNN(4, 8, 2, shared_interactions=True), ANIModel(ties), properties=heads, terms=terms)
    model.save(tmp_path / "x.safetensors")
    loaded = anipot.load(tmp_path / "x.safetensors")
    assert loaded.property_heads["dipole"].gated is loaded.property_heads["alpha"].network
    assert loaded.head[2].weight is loaded.head[0].weight
    assert loaded.head[3] is loaded.head[1]
    assert loaded.property_heads["shifts"].networks[1] is loaded.terms[0].network
    assert loaded.representation.messages[0] is loaded.representation.messages[1]
    assert_same(loaded, model)
    metadata = read_metadata(tmp_path / "x.safetensors")
    assert not any(path.startswith("representation") for path in metadata["links"])  # the constructor shares these
    assert len(load_file(tmp_path / "x.safetensors")) == len(list(model.parameters()))
    trained = copy.deepcopy(loaded)
    trained(WATER).energies.sum().backward()
    trained.double()
    assert trained.head[2].weight is trained.head[0].weight


# ------------------------------------------------------------------------------------------ the header


def test_details_come_back_and_the_header_is_strict_json(tmp_path: Path) -> None:
    details = {"source": {"kind": "a pickle"}, "loss": [0.1, math.nan, math.inf], "steps": 7, "none": None}
    model = on(SchNet.original(4), name="mine", details=details)
    model.save(tmp_path / "x.safetensors")
    loaded = anipot.load(tmp_path / "x.safetensors")
    assert (loaded.name, str(loaded.details)) == ("mine", str(dict(sorted(details.items()))))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    raw = (tmp_path / "x.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"][FORMAT]
    json.loads(header, parse_constant=refuse)
    with pytest.raises(TypeError, match=r"the details of mine are not JSON-able: .*Tensor"):
        on(SchNet(4, 8, 1), name="mine", details={"x": torch.ones(1)}).save(tmp_path / "y.safetensors")


def test_numbers_of_numpy_and_frozen_and_meta_weights(tmp_path: Path) -> None:
    model = on(SchNet(np.int64(4), np.int32(8), 2, np.float64(4.5)), Atomwise.pyramid(8)).requires_grad_(False)
    model.save(tmp_path / "x.safetensors")
    assert_same(anipot.load(tmp_path / "x.safetensors"), model)


def test_a_file_may_be_replaced_while_its_potential_lives(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    model = seeded("schnet-atomwise")
    model.save(file)
    loaded = anipot.load(file)
    on(SchNet(4, 4, 1)).save(file)
    assert_same(loaded, model)


def test_names_of_torchani_are_saved_as_what_they_are(tmp_path: Path) -> None:
    aev = torchani.AEVComputer.cover_linearly(5.2, 3.5, 16.0, 8.0, 16, 4, 32.0, 8, 4)
    networks = {e: AtomicNetwork((aev.num_features, 4, 1), CELU(0.1)) for e in ELEMENTS}
    model = on(aev, torchani.nn.Ensemble([torchani.ANIModel(networks), torchani.ANIModel(networks)]))
    torchani.models.BuiltinModel.of(model).save(tmp_path / "x.safetensors")
    loaded = anipot.load(tmp_path / "x.safetensors")
    assert (type(loaded), type(loaded.head), type(loaded.representation)) == (Potential, Ensemble, AEVComputer)
    assert_same(loaded, model)


@pytest.mark.parametrize("name", ["version1_ensemble", "version1_single"])
def test_files_of_version_1(name: str, tmp_path: Path) -> None:
    """Written by the release before version 2, together with what it computed."""
    file, known = DATA / f"{name}.safetensors", json.loads((DATA / "version1.json").read_text())
    loaded, metadata = load_model(file), read_metadata(file)
    assert metadata["version"] == 1
    assert loaded.shifter.self_energies.tolist() == metadata["self_energies"]
    assert loaded.representation.ShfR.tolist() == metadata["representation"]["ShfR"]
    assert loaded.details == metadata["details"]
    saved = load_file(file)
    members = loaded.head if metadata["ensemble"] else [loaded.head]
    for m, member in enumerate(members):
        for element, network in zip(metadata["elements"], member, strict=True):
            for i, linear in enumerate(network.linears):
                for kind, weight in linear.named_parameters():
                    stored = saved.pop(f"{m}.{element}.{i}.{kind}")
                    assert torch.equal(weight, stored)
                    assert weight.dtype == stored.dtype
    assert not saved
    species, x = torch.tensor(known[name]["species"]), torch.tensor([known["coordinates"]], dtype=torch.float64)
    with anipot.reference_path():
        result = anipot.single_point(loaded, species, x, members=True)
    for values, key in ((result.members.energies, "members_energies"), (result.forces, "forces")):
        expected = torch.tensor([float.fromhex(number) for number in known[name][key]], dtype=torch.float64)
        scale = 16 * torch.finfo(loaded.dtype).eps  # of another machine's exponentials
        torch.testing.assert_close(values.flatten(), expected, rtol=1e-15, atol=scale)
    loaded.save(tmp_path / "x.safetensors")
    assert read_metadata(tmp_path / "x.safetensors")["version"] == 2
    with anipot.reference_path():
        again = anipot.single_point(load_model(tmp_path / "x.safetensors"), species, x, members=True)
    assert torch.equal(again.members.energies, result.members.energies)
    assert torch.equal(again.forces, result.forces)


# ------------------------------------------------------------------------------------------ what is refused


class Own(nn.Module):
    num_features, num_species, cutoff, num_functions = 8, 4, 3.0, 5
    from_pairs = atomic_energies = from_environments = None  # so that it seems to fit everywhere

    def forward(self, x: Tensor, cutoff: float = 0.0) -> Tensor:
        return x


class OwnNetwork(AtomicNetwork):
    pass


class OwnTerm(ZBL):
    pass


class OwnPotential(Potential):
    def environments(self, *args: Any) -> Any:
        return super().environments(*args)


def replaced(path: str, part: nn.Module) -> Potential:
    model = on(SchNet(4, 8, 1))
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, part)
    return model


def more_parameters() -> Potential:
    model = on(SchNet(4, 8, 1))
    model.representation.temperature = nn.Parameter(torch.ones(2))
    return model


def other_shape() -> Potential:
    model = on(SchNet(4, 8, 1))
    model.representation.embedding.weight.data = torch.ones(5, 8)
    return model


def net(activation: Any) -> Atomwise:
    return Atomwise(AtomicNetwork((8, 4, 1), activation))


REFUSED: dict[str, tuple[Callable[[], Potential], str]] = {
    "representation": (
        lambda: on(Own()),
        r"cannot save representation, Own; known are AEVComputer, ACSF, wACSF, SchNet, ScSchNet, PaiNN$",
    ),
    "basis": (
        lambda: on(SchNet(4, 8, 1, basis=Own())),
        r"cannot save representation.basis, Own; known are GaussianBasis, BesselBasis$",
    ),
    "cutoff function": (
        lambda: on(SchNet(4, 8, 1, cutoff_function=Own())),
        r"cannot save representation.cutoff_function, Own; known are CosineCutoff, SmoothCutoff$",
    ),
    "head": (lambda: on(SchNet(4, 8, 1), Own()), r"cannot save head, Own; known are ANIModel, Atomwise, Ensemble$"),
    "network": (
        lambda: on(SchNet(4, 8, 1), ANIModel([nn.Linear(8, 1), OwnNetwork((8, 1), CELU()), *[nn.Linear(8, 1)] * 2])),
        r"cannot save head.networks.1, OwnNetwork; known are AtomicNetwork, GatedNetwork, nn.Sequential, nn.Linear$",
    ),
    "layer": (
        lambda: on(SchNet(4, 8, 1), Atomwise(nn.Sequential(nn.Linear(8, 4), nn.Dropout(), nn.Linear(4, 1)))),
        r"cannot save head.network.modules.1, Dropout; known are AtomicNetwork.*nn.Tanh$",
    ),
    "activation": (
        lambda: on(SchNet(4, 8, 1), net(nn.PReLU())),
        r"cannot save head.network.activation, PReLU; known are CELU, .*, nn.Tanh$",
    ),
    "function": (
        lambda: on(SchNet(4, 8, 1), net(torch.tanh)),
        r"cannot save head.network.activation, <built-in method tanh.*known are CELU",
    ),
    "property head": (
        lambda: on(SchNet(4, 8, 1), properties={"mine": Own()}),
        r"cannot save property_heads.mine, Own; known are AtomicProperty, .*, Polarizability, ANIModel, Atomwise",
    ),
    "term": (
        lambda: on(SchNet(4, 8, 1), terms=[ZBL(ELEMENTS), OwnTerm(ELEMENTS)]),
        r"cannot save terms.1, OwnTerm; known are ZBL, D3, Coulomb$",
    ),
    "damping": (
        lambda: on(SchNet(4, 8, 1), terms=[Coulomb(ELEMENTS, [0.0] * 4, damping=Own())]),
        r"cannot save terms.0.damping, Own; known are ErfDamping, ShortRangeExclusion$",
    ),
    "potential": (
        lambda: OwnPotential(ELEMENTS, SchNet(4, 8, 1), Atomwise.pyramid(8), shifter()),
        r"cannot save a OwnPotential, which computes in ways of its own: environments",
    ),
    "replaced": (
        lambda: replaced("representation.interactions.0.filters.1", nn.SiLU()),
        r"cannot save representation.interactions.0.filters.1: it is SiLU, but the constructor puts ShiftedSoftplus",
    ),
    "added": (
        lambda: replaced("representation.gate", nn.Linear(2, 2)),
        r"cannot save representation.gate: it is Linear, but the constructor puts nothing there",
    ),
    "parameter": (more_parameters, r"cannot save .*: there is no place for the weight representation.temperature"),
    "shape": (other_shape, r"cannot save .*: the weight representation.embedding.weight has shape \(5, 8\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        build().save(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Return a file, what its header says, and its weights."""
    file = tmp_path / "x.safetensors"
    model = on(SchNet(4, 8, 1), properties={"shifts": AtomicProperty(nn.Linear(8, 1))}, terms=[ZBL(ELEMENTS)])
    save_model(model, file)
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}  # the file will be written over
    return file, read_metadata(file), weights


def change(metadata: dict[str, Any], keys: list[Any], value: Any) -> None:
    for key in keys[:-1]:
        metadata = metadata[key]
    metadata[keys[-1]] = value


WEIGHT = "representation.interactions.0.inward.weight"
DAMAGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], object], str]] = {
    "missing": (lambda m, w: w.pop(WEIGHT), f"the weight {WEIGHT} is missing"),
    "surplus": (lambda m, w: w.update(x=torch.ones(2)), "there is no place for the weight x"),
    "shape": (lambda m, w: w.update({WEIGHT: w[WEIGHT][:3]}), rf"the weight {WEIGHT} has shape \(3, 8\) .*\(8, 8\)"),
    "dtype": (lambda m, w: w.update({WEIGHT: w[WEIGHT].long()}), rf"the weight {WEIGHT} has .*dtype torch.int64"),
    "version": (lambda m, w: m.update(version=3), "has format version 3; this release reads 1, 2"),
    "potential": (lambda m, w: m.update(kind="Other"), "unknown kind 'Other', perhaps of a later release"),
    "kind": (
        lambda m, w: change(m, ["terms", 0, "kind"], "LJ"),
        "unknown kind 'LJ', perhaps of a later",
    ),
    "no head": (lambda m, w: m.pop("head"), "does not describe a potential .*: it has no 'head'"),
    "no kind": (lambda m, w: m["head"].pop("kind"), "does not describe a potential .*: it has no 'kind'"),
    "argument": (lambda m, w: change(m, ["representation", "x"], 1), "does not describe .* 'x'"),
    "value": (
        lambda m, w: change(m, ["representation", "cutoff"], -1.0),
        "does not describe .*must be positive",
    ),
    "type": (lambda m, w: change(m, ["representation", "basis", "centers"], "a"), "does not describe"),
    "part": (
        lambda m, w: change(m, ["representation"], None),
        "does not .*: NoneType cannot be the representation",
    ),
    "elements": (lambda m, w: change(m, ["elements"], ["H"]), "does not describe .*made for 4 elements, but 1"),
    "link": (lambda m, w: change(m, ["links", "head.x"], "head"), "does not describe .*no attribute"),
    "wrong link": (lambda m, w: change(m, ["links", "head"], "representation"), "head cannot be the same as represent"),
    "links": (lambda m, w: m.update(links=3), "does not describe"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_contents(name: str, parts: tuple[Path, dict[str, Any], dict[str, Tensor]]) -> None:
    file, metadata, weights = parts
    damage, message = DAMAGES[name]
    damage(metadata, weights)
    save_file({k: w.contiguous() for k, w in weights.items()}, file, metadata={FORMAT: json.dumps(metadata)})
    with pytest.raises(ValueError, match=rf"x\.safetensors .*{message}"):
        load_model(file)


def test_damaged_files(parts: tuple[Path, dict[str, Any], dict[str, Tensor]], tmp_path: Path) -> None:
    file, _, weights = parts
    raw = file.read_bytes()
    for damaged in (raw[:-1], raw[:100], raw + b"x", b"", b"\xff" * 50):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x.safetensors is not a complete safetensors file"):
            load_model(file)
    for header, message in (("[1]", "has format version None"), ("{", "has a header that is not JSON")):
        save_file(weights, file, metadata={FORMAT: header})
        with pytest.raises(ValueError, match=f"x.safetensors {message}"):
            load_model(file)
    save_file(weights, file)
    with pytest.raises(ValueError, match="is a safetensors file, but not a potential"):
        load_model(file)
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load_model(tmp_path / "nothing.safetensors")


# ------------------------------------------------------------------------------------------ where files go


def test_zoo_and_shell_take_any_potential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("tad_dftd3")
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path / "cache"))
    heads = Ensemble([Atomwise.pyramid(8) for _ in range(8)])  # as many as the published models have
    model = on(ScSchNet(4, 8, 1), heads, terms=[D3(ELEMENTS, "wB97X")], name="ANI-1x")
    model.save(tmp_path / "x.safetensors")
    with pytest.raises(zoo.ZooError, match="says that it is ANI-1x, but ANI-1x has AEVs, got a ScSchNet"):
        zoo.import_path(tmp_path / "x.safetensors")
    assert main(["zoo", "import", str(tmp_path / "x.safetensors"), "--name", "mine"]) == 0
    assert_same(anipot.load("mine", dtype=torch.float32), model)
    assert [status.problem for status in zoo.verify()] == [""]
    assert main(["zoo", "list"]) == 0
    assert main(["info", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "ScSchNet" in shown
    assert "wB97X" in shown
    one = anipot.load("mine", model_index=3)
    torch.testing.assert_close(one(WATER).energies, model.members_energies(WATER).energies[3], rtol=1e-14, atol=0)


def test_only_plain_anis_can_be_published_ones() -> None:
    entry = find("ani1x", index())
    assert entry is not None
    aev, n = AEVComputer.like_1x(), 384
    linear = Ensemble([ANIModel([nn.Linear(n, 1) for _ in ELEMENTS]) for _ in range(8)])
    dense = Ensemble([ANIModel([AtomicNetwork((n, 1), CELU(0.1)) for _ in ELEMENTS]) for _ in range(8)])
    for model, message in (
        (on(aev, linear), "has an AtomicNetwork for each element, got a ANIModel"),
        (on(aev, Ensemble([Atomwise.pyramid(n) for _ in range(8)])), "got a Atomwise"),
        (on(aev, dense, terms=[ZBL(ELEMENTS)]), "and nothing else, got also ZBL"),
        (on(aev, dense, properties={"q": AtomicProperty(nn.Linear(n, 1))}), "got also AtomicProperty"),
        (on(aev, dense), "self energies"),
    ):
        with pytest.raises(ValueError, match=message):
            check_weights(model, entry)
        assert identify(model, {entry.key: entry}) is None
