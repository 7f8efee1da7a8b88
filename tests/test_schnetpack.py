"""Models of SchNetPack give here what they give there."""

from __future__ import annotations

import itertools
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import anipot
from anipot.interfaces.inert_pickle import Record, read
from anipot.interfaces.schnetpack import ENERGY_UNITS, read_model

SEEDED = ("schnet_fresh2", "schnet_fresh3", "painn_fresh2", "painn_fresh3")
TRAINED = ("md_ethanol", "painn_ethanol")


@pytest.fixture(scope="session")
def peers(shared: Path) -> Path:
    folder = shared / "peers" / "schnetpack"
    if not folder.is_dir():
        pytest.skip(f"needs the models of SchNetPack; none in {folder}")
    return folder


def expected(folder: Path, name: str) -> dict[str, torch.Tensor]:
    with np.load(folder / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fib"}


@pytest.mark.parametrize("file", ["model.pt", "state_dict.pt"])
@pytest.mark.parametrize("name", SEEDED + TRAINED)
def test_molecules(peers: Path, name: str, file: str) -> None:
    unit = "kcal/mol" if name in TRAINED else "hartree"
    model = read_model(peers / name / file, energy_unit=unit).double()
    e = expected(peers / name, "expected.npz")
    result = anipot.single_point(model, e["numbers"], e["positions"])
    factor = ENERGY_UNITS[unit]
    offset = model.shifter.sae(model.converter.convert(e["numbers"]))
    network = (result.energies - offset) * factor
    torch.testing.assert_close(network, e["energies_network_f64"], rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(result.energies * factor, e["energies_f64"], rtol=1e-9, atol=0)
    scale = float(e["forces_f64"].abs().max())
    torch.testing.assert_close(result.forces * factor, e["forces_f64"], rtol=0, atol=1e-9 * scale)
    features = model.representation((model.converter.convert(e["numbers"]), e["positions"])).features
    torch.testing.assert_close(features, e["scalar_representation_f64"], rtol=1e-9, atol=1e-9)
    rough = anipot.single_point(model.float(), e["numbers"], e["positions"].float())
    atol = 1e-5 * float(e["energies_network_f64"].abs().max())
    torch.testing.assert_close((rough.energies - offset) * factor, e["energies_network_f64"], rtol=0, atol=atol)


@pytest.mark.parametrize("name", SEEDED)
def test_periodic_cells(peers: Path, name: str) -> None:
    model = read_model(peers / name / "model.pt", energy_unit="Hartree", elements=["H", "C", "N", "O"]).double()
    e = expected(peers / name, "expected_periodic.npz")
    result = anipot.single_point(model, e["numbers"], e["positions"], e["cell"], e["pbc"].bool(), stress=True)
    torch.testing.assert_close(result.energies, e["energies_f64"], rtol=1e-9, atol=0)
    torch.testing.assert_close(result.forces, e["forces_f64"], rtol=0, atol=1e-9)
    # SchNetPack divides by the determinant with its sign: minus the stress of a left-handed cell.
    sign = torch.linalg.det(e["cell"]).sign()[:, None, None]
    full = torch.tensor([b for b in range(len(e["pbc"])) if e["pbc"][b].all()])
    torch.testing.assert_close(result.stress[full], (sign * e["stress_f64"])[full], rtol=0, atol=1e-10)


@pytest.mark.parametrize("file", ["model.pt", "state_dict.pt"])
def test_so3net_is_refused_by_name(peers: Path, file: str) -> None:
    with pytest.raises(ValueError, match=r"si16.*SO3net; known are SchNet and PaiNN"):
        read_model(peers / "si16" / file, energy_unit="eV")


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    target = tmp_path / "touched"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (target,))

    torch.save({"representation": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"bomb\.pt"):
        read_model(tmp_path / "bomb.pt", energy_unit="eV")
    assert not target.exists()
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"plain\.pkl cannot be read"):
        read_model(tmp_path / "plain.pkl", energy_unit="eV")
    assert not target.exists()


def test_what_is_missing_is_said(peers: Path, tmp_path: Path) -> None:
    path = peers / "schnet_fresh2" / "state_dict.pt"
    with pytest.raises(FileNotFoundError, match="no file"):
        read_model(tmp_path / "nothing.pt", energy_unit="eV")
    with pytest.raises(ValueError, match=r"unknown length unit 'mile'"):
        read_model(path, energy_unit="eV", length_unit="mile")
    with pytest.raises(ValueError, match=r"no embedding of Fm; it has 99 elements"):
        read_model(path, energy_unit="eV", elements=["Fm"])
    weights = torch.load(path, weights_only=True)
    torch.save({**weights, "representation.electronic_embeddings.0.weight": torch.ones(2)}, tmp_path / "more.pt")
    with pytest.raises(ValueError, match=r"more\.pt has parts that are not known here: .*electronic_embeddings"):
        read_model(tmp_path / "more.pt", energy_unit="eV")
    weights.pop("representation.interactions.1.in2f.weight")
    torch.save(weights, tmp_path / "less.pt")
    with pytest.raises(ValueError, match=r"less\.pt is not a complete model.*interactions\.1\.in2f"):
        read_model(tmp_path / "less.pt", energy_unit="eV")


def test_length_unit(peers: Path) -> None:
    e = expected(peers / "schnet_fresh2", "expected.npz")
    model = read_model(peers / "schnet_fresh2" / "state_dict.pt", energy_unit="hartree", length_unit="bohr").double()
    x = e["positions"] * anipot.units.BOHR_TO_ANGSTROM
    torch.testing.assert_close(model((e["numbers"], x)).energies, e["energies_f64"], rtol=1e-9, atol=0)


def test_an_element_without_weights_is_named(peers: Path) -> None:
    model = read_model(peers / "painn_fresh2" / "state_dict.pt", energy_unit="hartree", elements=["H", "C"])
    with pytest.raises(ValueError, match=r"molecule 0, atom 1 is O \(atomic number 8\); this model knows H, C"):
        model((torch.tensor([[1, 8]]), torch.rand(1, 2, 3)))


# Small models made here, without SchNetPack: trees of modules whose classes have the names of theirs.


def class_of(kind: str) -> type[nn.Module]:
    """Return a class that a pickle names ``schnetpack.x.y.Name``."""
    module, _, name = kind.rpartition(".")
    for parent in itertools.accumulate(module.split("."), "{}.{}".format):
        known = sys.modules.setdefault(parent, types.ModuleType(parent))
    if not hasattr(known, name):
        setattr(known, name, type(name, (nn.Module,), {"__module__": module}))
    return getattr(known, name)


def node(kind: str, children: dict[str, nn.Module] | None = None, **attributes: Any) -> nn.Module:
    made = class_of(f"schnetpack.{kind}")()
    for name, value in attributes.items():
        made.register_buffer(name, value) if isinstance(value, torch.Tensor) else setattr(made, name, value)
    for name, child in (children or {}).items():
        made.add_module(name, child)
    return made


def shifted_softplus(x: torch.Tensor) -> torch.Tensor:
    return x


def dense(inputs: int, outputs: int, activation: Any = None, bias: bool = True) -> nn.Module:
    made = node("nn.base.Dense")
    made.weight = nn.Parameter(torch.zeros(outputs, inputs))
    made.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
    made.activation = nn.Identity() if activation is None else activation
    return made


def mlp(sizes: list[int], activation: Any) -> nn.Sequential:
    layers = [dense(n, m, activation) for n, m in itertools.pairwise(sizes[:-1])]
    return nn.Sequential(*layers, dense(*sizes[-2:]))


def atomwise(key: str, **options: Any) -> nn.Module:
    options = {"per_atom_output_key": None, "aggregation_mode": "sum", **options}
    net = mlp([4, 2, 1], nn.functional.silu)
    return node("atomistic.atomwise.Atomwise", {"outnet": net}, output_key=key, model_outputs=[key], **options)


def add_offsets(key: str, mean: float, table: torch.Tensor, **options: Any) -> nn.Module:
    options = {"add_mean": False, "add_atomrefs": False, "is_extensive": True, **options}
    kind = "transform.atomistic.AddOffsets"
    return node(kind, _property=key, mean=torch.tensor([mean]), atomref=table, **options)


def mollifier(eps: float = 1e-7) -> nn.Module:
    return node("nn.cutoff.MollifierCutoff", cutoff=torch.tensor([4.0]), eps=torch.tensor([eps]))


def schnet() -> nn.Module:
    ssp = shifted_softplus

    def block() -> nn.Module:
        parts = {"in2f": dense(4, 3, bias=False), "f2out": mlp([3, 4, 4], ssp), "filter_network": mlp([5, 3, 3], ssp)}
        return node("representation.schnet.SchNetInteraction", parts)

    basis = node("nn.radial.GaussianRBFCentered")  # trainable: parameters, not buffers
    basis.widths, basis.offsets = nn.Parameter(torch.linspace(1.0, 4.0, 5)), nn.Parameter(torch.zeros(5))
    parts = {"radial_basis": basis, "cutoff_fn": mollifier(), "embedding": nn.Embedding(100, 4)}
    parts |= {"electronic_embeddings": nn.ModuleList(), "interactions": nn.ModuleList([block(), block()])}
    return node("representation.schnet.SchNet", parts)


def painn() -> nn.Module:
    def context(inputs: int) -> nn.Module:
        return mlp([inputs, 4, 12], nn.functional.silu)

    def mix() -> nn.Module:
        parts = {"intraatomic_context_net": context(8), "mu_channel_mix": dense(4, 8, bias=False)}
        return node("representation.painn.PaiNNMixing", parts, epsilon=1e-3)

    kind = "representation.painn.PaiNNInteraction"
    steps = [node(kind, {"interatomic_context_net": context(4)}) for _ in range(2)]
    basis = node("nn.radial.BesselRBF", freqs=torch.arange(1, 6) * torch.pi / 4.0)
    parts = {"radial_basis": basis, "cutoff_fn": mollifier(), "embedding": nn.Embedding(100, 4)}
    parts |= {"interactions": nn.ModuleList(steps), "mixing": nn.ModuleList([mix(), mix()])}
    return node("representation.painn.PaiNN", {**parts, "filter_net": dense(5, 12)})


def whole(representation: nn.Module, outputs: list[nn.Module], post: list[nn.Module]) -> nn.Module:
    parts = {"representation": representation, "output_modules": nn.ModuleList(outputs)}
    parts["input_modules"] = nn.ModuleList([node("atomistic.distances.PairwiseDistances")])
    parts["postprocessors"] = nn.ModuleList([node("transform.casting.CastTo64"), *post])
    model = node("model.base.NeuralNetworkPotential", parts, do_postprocessing=True)
    for name, value in model.state_dict().items():
        if name.endswith(("weight", "bias")):
            angles = torch.arange(value.numel(), dtype=torch.float64) * 0.37 + len(name)
            value.copy_((0.6 * torch.sin(angles)).reshape(value.shape))
    return model


TABLE = torch.arange(100.0) / 8


def standard(representation: nn.Module) -> nn.Module:
    outputs = [atomwise("energy"), atomwise("other"), node("atomistic.response.Forces", energy_key="energy")]
    energy = add_offsets("energy", 7.0, TABLE, add_atomrefs=True)
    return whole(representation, outputs, [energy, add_offsets("other", 11.0, TABLE, add_mean=True)])


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Name the classes of SchNetPack while a test runs."""
    before = set(sys.modules)
    activations = types.ModuleType("schnetpack.nn.activations")
    activations.shifted_softplus = shifted_softplus  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "schnetpack.nn.activations", activations)
    monkeypatch.setattr(shifted_softplus, "__module__", "schnetpack.nn.activations")
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "schnetpack":
            del sys.modules[name]


X = torch.tensor([[[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [0.5, 2.5, 2.0]]], dtype=torch.float64)
Z = torch.tensor([[8, 1, 1, 6]])

# Energies and forces of SchNetPack 2.2.0 (torch 2.13.0, CPU, float64), by tools/make_schnetpack_references.py.
SMALL = {
    "schnet": (
        -1.1179195283051389,
        [
            -0.0001874321755441675,
            -0.0005192260540683521,
            -0.0003200306810965719,
            -0.0010480850196256527,
            0.0011589937238113395,
            0.00022359347000481652,
            0.0012974601519594683,
            -0.0003500410937308015,
            0.0005226408788240513,
            -6.19429567896482e-05,
            -0.00028972657601218605,
            -0.00042620366773229594,
        ],
    ),
    "painn": (
        -0.4627933991051094,
        [
            -0.20201528024231782,
            -0.6585076519823883,
            0.03309486848462042,
            1.7993375085280476,
            -1.2968477072198152,
            -0.191565531686403,
            -1.6168540973744254,
            1.60479529527913,
            -0.19423150945330608,
            0.019531869088695437,
            0.35056006392307354,
            0.3527021726550887,
        ],
    ),
}


def energy_of(path: Path, **options: Any) -> float:
    model = read_model(path, energy_unit="hartree", **options).double()
    return float(model((Z, X)).energies.detach())


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("kind", ["schnet", "painn"])
def test_mollifier_and_other_bases(kind: str, tmp_path: Path) -> None:
    torch.save(standard({"schnet": schnet, "painn": painn}[kind]()), tmp_path / "model")
    model = read_model(tmp_path / "model", energy_unit="hartree", output="energy").double()
    result = anipot.single_point(model, Z, X)
    energy, forces = SMALL[kind]
    # Theirs rounds the frequencies of a Bessel basis to float32.
    rtol = 1e-10 if kind == "schnet" else 1e-6
    torch.testing.assert_close(result.energies, torch.tensor([energy], dtype=torch.float64), rtol=rtol, atol=0)
    expected = torch.tensor(forces, dtype=torch.float64).reshape(1, 4, 3)
    scale = float(expected.abs().max())
    torch.testing.assert_close(result.forces, expected, rtol=0, atol=rtol * scale)


def test_mollifier_is_theirs() -> None:
    # schnetpack.nn.mollifier_cutoff, with eps = 1e-7
    r = torch.linspace(0, 4, 2001, dtype=torch.float64)
    mask = (r + 1e-7 < 4).double()
    there = torch.exp(1 - 1 / (1 - (r * mask / 4) ** 2)) * mask
    torch.testing.assert_close(anipot.MollifierCutoff()(r, 4.0), there, rtol=1e-14, atol=0)


@pytest.mark.usefixtures("theirs")
def test_flags_of_offsets(tmp_path: Path) -> None:
    def energy(*post: nn.Module, **attributes: Any) -> float:
        model = whole(schnet(), [atomwise("energy")], list(post))
        vars(model).update(attributes)
        torch.save(model, tmp_path / "model")
        return energy_of(tmp_path / "model")

    bare, refs = energy(), 2.0  # (8 + 1 + 1 + 6) / 8
    for mean, table in ((False, False), (True, False), (False, True), (True, True)):
        found = energy(add_offsets("energy", 7.0, TABLE, add_mean=mean, add_atomrefs=table))
        assert found - bare == pytest.approx(4 * 7.0 * mean + refs * table, abs=1e-9)
    both = {"add_mean": True, "add_atomrefs": True}
    assert energy(add_offsets("other", 7.0, TABLE, **both)) == bare
    assert energy(add_offsets("energy", 7.0, TABLE, **both), do_postprocessing=False) == bare
    with pytest.raises(ValueError, match="does not grow with the number of atoms"):
        energy(add_offsets("energy", 7.0, TABLE, add_mean=True, is_extensive=False))
    with pytest.raises(ValueError, match=r"model has postprocessors\.1 of the class ScaleProperty; known are"):
        energy(node("transform.atomistic.ScaleProperty"))
    with pytest.raises(ValueError, match=r"no bool for add_mean of postprocessors\.1"):
        energy(add_offsets("energy", 7.0, TABLE, add_mean=None))


@pytest.mark.usefixtures("theirs")
def test_state_dicts_and_checkpoints(tmp_path: Path) -> None:
    one = whole(schnet(), [atomwise("energy")], [add_offsets("energy", 7.0, TABLE, add_mean=True, add_atomrefs=True)])
    torch.save(one, tmp_path / "model")
    weights = one.state_dict()
    torch.save(weights, tmp_path / "state_dict")
    model = read_model(tmp_path / "state_dict", energy_unit="hartree")
    assumed = model.info()["source"]["assumed"]
    assert assumed["cutoff function"] == "mollifier, since eps is stored"
    assert set(assumed) == {
        *("cutoff function", "activation of SchNet", "activation of the head", "elements", "offsets"),
        *("aggregation", "parts without weights"),
    }
    state = {**{f"model.{k}": v for k, v in weights.items()}, "outputs.0.loss.weight": torch.ones(1)}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "plain.ckpt")
    torch.save({"state_dict": state, "hyper_parameters": {"model": one}}, tmp_path / "full.ckpt")
    energies = [energy_of(tmp_path / name) for name in ("model", "state_dict", "plain.ckpt", "full.ckpt")]
    assert energies == [energies[0]] * 4
    torch.save(standard(painn()).state_dict(), tmp_path / "several")
    with pytest.raises(ValueError, match=r"several has the atomwise outputs output 0, output 1; choose one"):
        energy_of(tmp_path / "several")
    with pytest.raises(ValueError, match=r"several has 2 AddOffsets and 2 outputs, and a state dict does not tell"):
        energy_of(tmp_path / "several", output="output 0")
    torch.save(whole(painn(), [atomwise("energy")], []).state_dict(), tmp_path / "painn")
    source = read_model(tmp_path / "painn", energy_unit="hartree").info()["source"]
    assert {"epsilon", "activation of PaiNN"} <= set(source["assumed"])


OTHERS = {
    "Aggregation": ("atomistic.aggregation.Aggregation", {"keys": ["energy", "zbl"], "output_key": "total"}),
    "Aggregation of others into it": ("atomistic.aggregation.Aggregation", {"keys": ["a"], "output_key": "energy"}),
    "ZBLRepulsionEnergy": ("atomistic.nuclear_repulsion.ZBLRepulsionEnergy", {"output_key": "zbl"}),
    "EnergyCoulomb": ("atomistic.electrostatic.EnergyCoulomb", {"output_key": "coulomb"}),
    "EnergyEwald": ("atomistic.electrostatic.EnergyEwald", {"output_key": "coulomb"}),
    "DipoleMoment": ("atomistic.atomwise.DipoleMoment", {"dipole_key": "energy"}),
}


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", list(OTHERS))
def test_outputs_that_change_the_energy_are_refused_by_name(name: str, tmp_path: Path) -> None:
    kind, options = OTHERS[name]
    torch.save(whole(schnet(), [atomwise("energy"), node(kind, **options)], []), tmp_path / "model")
    said = rf"model has output_modules\.1 of the class {name.split()[0]}, which may change the energy 'energy'"
    with pytest.raises(ValueError, match=said):
        energy_of(tmp_path / "model")


@pytest.mark.usefixtures("theirs")
def test_outputs_that_leave_the_energy_alone(tmp_path: Path) -> None:
    others = [
        node("atomistic.atomwise.DipoleMoment", {"outnet": mlp([4, 2, 1], torch.tanh)}, dipole_key="dipole_moment"),
        node("atomistic.aggregation.Aggregation", keys=["a", "b"], output_key="c"),
        node("atomistic.response.Response", energy_key="energy", map_properties={"forces": "forces"}),
    ]
    torch.save(whole(schnet(), [atomwise("energy")], []), tmp_path / "one")
    torch.save(whole(schnet(), [atomwise("energy"), *others], []), tmp_path / "more")
    assert energy_of(tmp_path / "more") == energy_of(tmp_path / "one")
    torch.save(whole(schnet(), [atomwise("energy", aggregation_mode="avg")], []), tmp_path / "mean")
    with pytest.raises(ValueError, match=r"aggregates the output 'energy' by 'avg'"):
        energy_of(tmp_path / "mean")


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("representation.cutoff_fn", "nn.cutoff.SwitchFunction"),
        ("representation.radial_basis", "nn.radial.OtherRBF"),
        ("representation.embedding", "nn.embedding.NuclearEmbedding"),
        ("representation.electronic_embeddings.0", "nn.embedding.ElectronicEmbedding"),
        ("representation", "representation.field_schnet.FieldSchNet"),
        ("input_modules.1", "atomistic.external_fields.StaticExternalFields"),
        ("representation.interactions.0.f2out.0.activation", "nn.activations.ShiftedSoftplus"),
        ("representation.interactions.1.in2f.activation", "nn.other.Swish"),
    ],
)
def test_other_parts_are_refused_by_name(part: str, kind: str, tmp_path: Path) -> None:
    model = whole(schnet(), [atomwise("energy")], [])
    parent, _, name = part.rpartition(".")
    vars(model.get_submodule(parent)).pop(name, None)
    model.get_submodule(parent).add_module(name, node(kind, cutoff=torch.tensor([4.0])))
    torch.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match=rf"model has .*{kind.split('.')[-1]}.*known"):
        energy_of(tmp_path / "model")


@pytest.mark.usefixtures("theirs")
def test_a_mollifier_that_ends_early_is_refused(tmp_path: Path) -> None:
    model = whole(schnet(), [atomwise("energy")], [])
    model.get_submodule("representation").cutoff_fn = mollifier(eps=0.5)
    torch.save(model, tmp_path / "model")
    with pytest.raises(ValueError, match=r"a MollifierCutoff at 4 Å with a relative eps of 0\.125"):
        energy_of(tmp_path / "model")
    weights = {k: v for k, v in model.state_dict().items() if "cutoff_fn" not in k}
    torch.save({**weights, "representation.cutoff_fn.switch_on": torch.ones(1)}, tmp_path / "switch")
    with pytest.raises(ValueError, match=r"switch has the cutoff function SwitchFunction"):
        energy_of(tmp_path / "switch")


def test_arguments_of_a_wrong_type(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"energy unit must be one of the words hartree.*got NoneType"):
        read_model(tmp_path, energy_unit=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list of symbols"):
        read_model(tmp_path, energy_unit="eV", elements="HC")


CUT = "representation.cutoff_fn.cutoff"
DAMAGE: dict[str, tuple[str, Any, str]] = {
    "embedding": ("representation.embedding.weight", torch.ones(4), r"shape \(4,\); expected \(any, any\)"),
    "cutoffs": (CUT, torch.ones(3), "3 numbers in .*cutoff; expected one"),
    "negative": (CUT, -torch.ones(1), "relative eps"),
    "nan": (CUT, torch.tensor([torch.nan]), "no finite numbers"),
    "integers": (CUT, torch.tensor([4]), "no finite numbers in float32"),
    "widths": ("representation.radial_basis.widths", torch.zeros(5), "cannot|can be built: gammas"),
    "layer": ("output_modules.0.outnet.1.weight", torch.ones(1, 7), r"expected \(any, 2\)"),
    "two": ("output_modules.0.outnet.1.weight", torch.ones(2, 2), "returns 2 values"),
    "double": ("output_modules.0.outnet.1.bias", torch.ones(1).double(), "in torch.float64, but its embedding in"),
    "gap": ("representation.interactions.900.in2f.weight", torch.ones(1), "with gaps"),
}


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", list(DAMAGE))
def test_damaged_weights(name: str, tmp_path: Path) -> None:
    key, value, said = DAMAGE[name]
    weights = whole(schnet(), [atomwise("energy")], []).state_dict()
    torch.save({**weights, key: value}, tmp_path / "damaged")
    with pytest.raises(ValueError, match=f"damaged .*({said})"):
        energy_of(tmp_path / "damaged")


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", ["loop", "none", "string", "unknown", "list", "hook", "dot"])
def test_damaged_trees(name: str, tmp_path: Path) -> None:
    model: Any = whole(schnet(), [atomwise("energy")], [])
    if name == "loop":
        model._modules["representation"]._modules["embedding"] = model
    elif name in ("none", "string"):
        model._modules["representation"]._modules = {"none": None, "string": {"a": "b"}}[name]
    elif name == "hook":
        model.get_submodule("representation").register_forward_hook(shifted_softplus)
    elif name == "dot":
        model._modules["output_modules"]._modules["1.x"] = nn.Identity()
    torch.save({"unknown": types.SimpleNamespace(a=1), "list": [model]}.get(name, model), tmp_path / "damaged")
    with pytest.raises(ValueError, match="damaged"):
        energy_of(tmp_path / "damaged")


# Files made to do harm.


def forged(path: Path, steps: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + steps + b".")
        archive.writestr("x/data/0", bytes(16))
        for name, data in records.items():
            archive.writestr(f"x/{name.replace('__', '/')}", data)
    return path


def names(*parts: str) -> bytes:
    return b"".join(f"c{part.rpartition('.')[0]}\n{part.rpartition('.')[2]}\n".encode() for part in parts)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(numel: int = 4, kind: str = "torch.FloatStorage", key: str = "0", word: str = "storage") -> bytes:
    return b"(" + text(word) + names(kind) + text(key) + text("cpu") + integer(numel) + b"tQ"


def tensor(size: int, stride: int, offset: int = 0, hooks: bytes = b"N", of: bytes | None = None) -> bytes:
    head = names("torch._utils._rebuild_tensor_v2") + b"(" + (storage() if of is None else of) + integer(offset)
    return head + b"(" + integer(size) + b"t(" + integer(stride) + b"t\x89" + hooks + b"tR"


REBUILD = names("torch._utils._rebuild_tensor_v2")
FORGED = {
    "build on a function": (REBUILD + b"N}" + text("__defaults__") + b"K\x01s\x86b", "changes a Name"),
    "build on a tensor": (tensor(4, 1) + b"}b", "changes a Tensor"),
    "build on a class": (names("torch.nn.Linear") + b"}" + text("forward") + b"K\x01sb", "changes a Name"),
    "a call of a number": (b"K\x01)R", "calls something"),
    "a call without a tuple": (REBUILD + b"K\x01R", "calls something"),
    "hostile arguments": (REBUILD + b"(K\x01K\x02K\x03K\x04K\x05K\x06tR", "no storage"),
    "hooks": (tensor(4, 1, hooks=b"}" + text("a") + b"K\x01s"), "hooks"),
    "a set of all": (names("builtins.set") + text("abc") + b"\x85R", "not made of a list"),
    "a dict of all": (names("collections.OrderedDict") + b"]\x85R", "made of something"),
    "another word": (storage(word="module"), "no storage of a tensor"),
    "no tuple": (text("storage") + b"Q", "no storage of a tensor"),
    "type of a storage": (storage(kind="os.system"), r"type os\.system; known"),
    "path for a key": (storage(key="../../0"), "no number for a key"),
    "no such record": (storage(key="7"), "data/7"),
    "too many": (storage(numel=5), r"16 bytes, but 5 × 4"),
    "a negative number": (storage(numel=-4), "no length"),
    "outside": (tensor(4, 2), "outside its storage"),
    "outside by the offset": (tensor(2, 1, offset=3), "outside its storage"),
    "far outside": (tensor(2, 2**47), "outside its storage"),
    "a negative stride": (tensor(2, -1, offset=1), "not integers ≥ 0"),
    "a negative offset": (tensor(2, 1, offset=-1), "not integers ≥ 0"),
    "blown up": (tensor(2**40, 0), "outside its storage"),
    "two descriptions": (storage() + storage(numel=2, kind="torch.DoubleStorage"), "two ways"),
    "a key slow to hash": (b"})K\x01s", "key of type tuple"),
    "an extension": (b"\x82\x01", "EXT1|extension"),
    "an old instance": (b"(ios\nsystem\n", "INST"),
    "an empty stack": (b"0", "empty"),
    "an unknown memo": (b"h\x09", "9"),
    "garbage": (b"\xff\xff", "."),
    "nothing": (b"", "."),
}


@pytest.mark.parametrize("name", list(FORGED))
def test_forged_pickles(name: str, tmp_path: Path) -> None:
    steps, said = FORGED[name]
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(ValueError, match=rf"forged\.pt cannot be read as a file of torch: .*({said})"):
        read_model(forged(tmp_path / "forged.pt", steps), energy_unit="eV")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_names_are_only_names(tmp_path: Path) -> None:
    dotted = text("torch._utils") + text("_rebuild_tensor_v2.__globals__.clear") + b"\x93"
    found = read(forged(tmp_path / "a.pt", dotted + b")R"))
    assert isinstance(found, Record)
    assert found.kind.name == "_rebuild_tensor_v2.__globals__.clear"
    found = read(forged(tmp_path / "b.pt", names("os.system") + text("touch touched") + b"\x85R"))
    assert isinstance(found, Record)
    assert found.kind.label == "os.system"
    with pytest.raises(ValueError, match=r"b\.pt: what it holds \(os\.system\) is not a module of torch"):
        read_model(tmp_path / "b.pt", energy_unit="eV")


def test_archives_that_are_not_of_torch_save(tmp_path: Path) -> None:
    for name, records, said in (
        ("script.pt", {"constants.pkl": b""}, "TorchScript"),
        ("code.pt", {"code__a.py": b""}, "TorchScript"),
        ("big.pt", {"byteorder": b"big"}, "byte order"),
        ("two.pt", {"../y/data.pkl": b""}, "."),
    ):
        with pytest.raises(ValueError, match=rf"{name} (cannot|holds neither).*{said}"):
            read_model(forged(tmp_path / name, b"}", **records), energy_unit="eV")
    with zipfile.ZipFile(tmp_path / "zipped.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
    with pytest.raises(ValueError, match=r"data\.pkl is compressed"):
        read_model(tmp_path / "zipped.pt", energy_unit="eV")
    torch.save({"a": torch.ones(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"saved in the old format; save it again with torch ≥ 1\.6"):
        read_model(tmp_path / "old.pt", energy_unit="eV")
    whole_file = forged(tmp_path / "whole.pt", tensor(4, 1)).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(ValueError, match=r"cut\.pt cannot be read"):
        read_model(tmp_path / "cut.pt", energy_unit="eV")


def test_all_protocols_and_types(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    things = {"a": x.T, "b": x[1:, ::2], "c": torch.tensor(2), "d": torch.tensor([True, False]), "e": x[:0]}
    things |= {"f": x.half(), "g": x.bfloat16(), "h": nn.Parameter(x), "i": torch.tensor(1.5, dtype=torch.float64)}
    for protocol in (2, 3, 4, 5):
        torch.save(
            {**things, "rest": [(1, 2.5), {3}, None, b"4", "ü", 2**70]}, tmp_path / "x", pickle_protocol=protocol
        )
        found = read(tmp_path / "x")
        for name, value in things.items():
            torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=0)
        assert found["rest"][:3] == [(1, 2.5), {3}, None]
        assert found["rest"][4:] == ["ü", 2**70]
