"""What a training is made of: settings, models, starting points, kept features, data sets."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from contracts import ELEMENTS, molecule
from torch import nn
from training_data import ani, schnet, write_frames

import anipot
from anipot import AtomicNetwork, AtomicProperty, Atomwise
from anipot.data import AtomsDataset, Quantity
from anipot.training import ModelOutput, predict, read_settings, train
from anipot.training.building import build_potential, freeze, start_from
from anipot.training.cache import FeatureCache
from anipot.training.config import DataSettings, ModelSettings, SplitSettings
from anipot.training.data import open_parts
from anipot.training.export import export
from anipot.training.folder import RunFolder
from anipot.training.layers import Scales
from anipot.training.members import train_all
from anipot.training.reading import differences, parse, to_plain
from anipot.training.run import Run
from anipot.training.starting import (
    energy_scale,
    scale_outputs,
    set_self_energies,
    shift_of,
    silence_energies,
    standardise_inputs,
)
from anipot.units import HARTREE_TO_EV

# Lightning calls what torch 2.13 announces to remove.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")

FIELDS = {"energies": "energy [eV]", "forces": "forces [eV/Å]"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("data") / "frames.xyz", 60)


@pytest.fixture(scope="module")
def dataset(frames: Path) -> AtomsDataset:
    return anipot.data.open(frames, fields=FIELDS)


# ------------------------------------------------------------------------------------------ settings


def test_settings_survive_writing(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "optimizer: {kind: SGD, lr: 1e-4}\nmodel: {head: {class: Atomwise, hidden: [8]}}\n"
    )
    overrides = ["data.path=[a.h5, b.h5]", "outputs.1.weight=0", "schedule={kind: cosine}", "trainer.max_epochs=3"]
    settings = read_settings(tmp_path / "a.yaml", overrides[:1] + overrides[2:])
    assert settings.optimizer.lr == 1e-4
    assert settings.data.path == ["a.h5", "b.h5"]
    assert settings.folder == "runs/a"
    assert parse(to_plain(settings)) == settings
    assert [o.weight for o in read_settings(tmp_path / "a.yaml", overrides[1:2]).outputs] == [
        1.0,
        0.0,
    ]  # of the default
    (tmp_path / "b.yaml").write_text("outputs: [{property: energies}, {property: forces, weight: 2}]\n")
    assert [o.weight for o in read_settings(tmp_path / "b.yaml", overrides).outputs] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.representatoin=SchNet", "there is no setting model.representatoin; did you mean model.representation?"),
        ("optimizer.lr=fast", "optimizer.lr"),
        ("optimizer.kind=Adagrad", "optimizer must be one of Adam, AdamW, SGD, got 'Adagrad'"),
        ("data.batch_size=2.5", "data.batch_size"),
        ("outputs=[{property: energies, los: mae}]", "there is no setting outputs.0.los; did you mean outputs.0.loss?"),
        ("epochs", "expected key=value, got 'epochs'"),
        ("data.path=[a", r"data.path=\[a: '\[a' is not YAML"),
        ("outputs.2.weight=1", "outputs is a list of 2, got '2'"),
    ],
)
def test_bad_settings_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        read_settings(None, [override])


def test_files_that_are_no_settings(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_settings(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="is not YAML"):
        read_settings(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="holds list, expected settings by name"):
        read_settings(tmp_path / "b.yaml")


def test_differences_are_said():
    assert differences({"a": [1]}, {"a": [2]}) == ["a was [1] and is [2]"]
    assert differences({"a": 1}, {}) == ["a was 1 and is not there"]


# ------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize(
    ("settings", "head", "widths"),
    [
        ({"representation": "AEVComputer.like_1x"}, "ANIModel", (384, 160, 128, 96, 1)),
        ({"representation": {"class": "PaiNN", "num_features": 16}}, "Atomwise", (16, 8, 1)),
        (
            {
                "representation": {"class_path": "anipot.SchNet", "init_args": {"num_features": 12, "cutoff": 4.0}},
                "head": {"class": "ANIModel", "hidden": {"H": [5], "C": [6], "N": [7], "O": [8]}, "activation": "SiLU"},
            },
            "ANIModel",
            (12, 5, 1),
        ),
        (
            {
                "representation": {
                    "class": "SchNet",
                    "num_features": 12,
                    "basis": {"class": "GaussianBasis.equidistant", "num_functions": 9, "stop": 5.0},
                    "cutoff_function": {"class": "SmoothCutoff", "order": 4},
                },
                "head": {"class": "Atomwise.pyramid"},
            },
            "Atomwise",
            (12, 6, 1),
        ),
        ({"representation": {"class": "wACSF.shifted", "cutoff": 5.0}}, "ANIModel", (32, 160, 128, 96, 1)),
        ({"representation": {"class": "ACSF.shifted", "cutoff": 5.0}}, "ANIModel", (188, 160, 128, 96, 1)),
    ],
)
def test_models_from_settings(settings, head, widths):
    model = build_potential(ModelSettings(**settings), ELEMENTS)
    assert type(model.head).__name__ == head
    network = model.head[0] if head == "ANIModel" else model.head.networks[0]
    assert network.sizes == widths
    assert model.elements == ELEMENTS
    numbers, positions = molecule(6, 0)
    assert torch.isfinite(model((numbers[None], positions[None].float())).energies).all()


def test_heads_of_properties_and_terms_from_settings():
    settings = ModelSettings(
        representation={"class": "PaiNN", "num_features": 8},
        properties={
            "dipole": {"class": "DipoleMoment", "network": {"class": "GatedNetwork"}},
            "charges": {"class": "Charges", "hidden": [6]},
            "shifts": {"class": "AtomicProperty", "hidden": {"H": [4], "C": [4], "N": [4], "O": [4]}},
        },
        terms=["ZBL"],
        dtype="float64",
    )
    model = build_potential(settings, ELEMENTS)
    assert list(model.property_heads) == ["dipole", "charges", "shifts"]
    assert model.dtype == torch.float64
    assert model.property_heads["shifts"].elemental
    assert type(model.terms[0]).__name__ == "ZBL"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"representation": "ShNet"}, r"model.representation: there is no 'ShNet'; did you mean \w*SchNet"),
        ({"representation": {"num_features": 3}}, "expected a name, or a mapping with class and its arguments"),
        ({"representation": {"class": "SchNet", "cutof": 3}}, "no argument 'cutof', did you mean 'cutoff'"),
        (
            {"representation": {"class": "SchNet", "cutoff": -3.0}},
            "model.representation: SchNet: cutoff must be positive",
        ),
        ({"representation": "SchNet.unheard"}, "SchNet has no 'unheard'"),
        (
            {"head": {"class": "ANIModel", "hidden": {"H": [3]}}},
            "model.head.hidden has no widths for C, N, O; it has H",
        ),
        ({"weights": "xavier"}, "model.weights must be default or kaiming"),
        ({"dtype": "half"}, "model.dtype must be float32 or float64"),
    ],
)
def test_bad_models_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_potential(ModelSettings(**settings), ELEMENTS)


def test_kaiming_starts_with_biases_of_zero():
    model = build_potential(ModelSettings(weights="kaiming"), ELEMENTS)
    layers = [layer for network in model.head for layer in network.linears]
    assert all(not layer.bias.any() for layer in layers)
    assert float(layers[0].weight.detach().std()) == pytest.approx(384**-0.5, rel=0.05)


def test_freezing():
    model = ani()
    freeze(model, ["head.*.linears.1", "head.0.linears.0.bias"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"head.{i}.linears.1.{w}" for i in range(4) for w in ("weight", "bias")} | {
        "head.0.linears.0.bias"
    }
    with pytest.raises(ValueError, match=r"no parameter fits 'heads'; there are head\.0"):
        freeze(model, ["heads"])


# ------------------------------------------------------------------------------------------ starting points


def test_standardised_networks_start_at_means_of_zero(dataset):
    plain, model = ani(), ani()
    scales = standardise_inputs(model, dataset)
    inputs = {i: [] for i in range(4)}
    for i, network in enumerate(model.head):
        network.linears[0].register_forward_pre_hook(lambda module, x, i=i: inputs[i].append(x[0].detach()))
    for block in dataset.blocks():
        predict(model, _one(block), ("energies",), graph=False)
    for i, network in enumerate(model.head):
        factor, center = scales.inputs[f"head.{i}.linears.0.weight"]
        x = torch.cat(inputs[i])
        standard = (x - center) * factor
        assert float(standard.mean(0).abs().max()) < 1e-6
        assert float(standard.std(0).max()) < 1.1
        first = plain.head[i].linears[0]
        torch.testing.assert_close(network.linears[0](x), first(standard))


def _one(block):
    class Batch:
        species = torch.from_numpy(block.species)
        coordinates = torch.from_numpy(block.coordinates)
        cell = pbc = properties = None

    return Batch()


def test_outputs_are_of_the_size_of_labels(dataset):
    statistics = dataset.statistics()
    outputs = [ModelOutput("energies"), ModelOutput("forces")]
    assert energy_scale(outputs, statistics) == pytest.approx(statistics.quantities["forces"].rms)
    atoms = statistics.atoms / statistics.structures
    assert energy_scale(outputs[:1], statistics) == pytest.approx(statistics.energy_std / atoms**0.5)
    model, scales = ani(), Scales()
    before = [network.linears[-1].weight.clone() for network in model.head]
    scale_outputs(model, outputs, statistics, None, ("",), scales)
    size = energy_scale(outputs, statistics)
    for i, network in enumerate(model.head):
        torch.testing.assert_close(network.linears[-1].weight, before[i] * size)
        assert scales.outputs[f"head.{i}.linears.3.bias"] == size
    old = ani()
    scale_outputs(old, outputs, statistics, None, (), Scales())
    torch.testing.assert_close(old.head[0].linears[-1].weight, before[0])


def test_labels_of_heads_set_means_and_sizes():
    n, a = 30, 3
    generator = np.random.default_rng(0)
    data = AtomsDataset.from_arrays(
        [8, 1, 1], generator.random((n, a, 3)), shifts=100 + 20 * generator.standard_normal((n, a)),
        gap=0.3 + 0.01 * generator.standard_normal(n), quantities={"gap": Quantity("gap", "Hartree")},
    )  # fmt: skip
    heads = {
        "shifts": AtomicProperty(AtomicNetwork((12, 6, 1), nn.SiLU())),
        "gap": Atomwise(AtomicNetwork((12, 6, 1), nn.SiLU()), aggregation="mean"),
    }
    model = schnet(properties={name: head.double() for name, head in heads.items()})
    outputs = [ModelOutput("shifts"), ModelOutput("gap", quantity=data.quantities["gap"])]
    scales = Scales()
    scale_outputs(model, outputs, data.statistics(), 1.0, ("",), scales)
    assert scales.outputs["property_heads.shifts.networks.0.linears.1.weight"] == pytest.approx(20, rel=0.2)
    found = [predict(model, _one(block), ("shifts", "gap"), graph=False) for block in data.blocks()]
    assert float(torch.cat([f["shifts"] for f in found]).mean()) == pytest.approx(100, abs=15)
    assert float(torch.cat([f["gap"] for f in found]).mean()) == pytest.approx(0.3, abs=0.01)


def test_self_energies(dataset):
    statistics, model = dataset.statistics(), ani()
    set_self_energies(model, "fit", dataset, statistics)
    expected = [statistics.self_energies[element] for element in ELEMENTS]
    torch.testing.assert_close(model.shifter.self_energies, torch.tensor(expected, dtype=torch.float64))
    set_self_energies(model, {"H": -0.5, "C": -38, "N": -54, "O": -75}, dataset, statistics)
    assert model.shifter.self_energies.tolist() == [-0.5, -38, -54, -75]
    with pytest.raises(ValueError, match="there is no self energy of N, O; there are H, C"):
        set_self_energies(model, {"H": -0.5, "C": -38}, dataset, statistics)
    with pytest.raises(ValueError, match="the file tells none"):
        set_self_energies(model, "data", dataset, statistics)
    with pytest.raises(ValueError, match=r"model\.self_energies must be fit"):
        set_self_energies(model, "guess", dataset, statistics)


def test_self_energies_are_moved_by_the_errors_of_an_old_model(dataset):
    """A model that is off by a constant for each element is put right."""
    teacher = ani(99, hidden=(8,))
    teacher.shifter.self_energies += torch.tensor([0.1, -0.2, 0.3, 0.05])
    shift, _ = shift_of(teacher, dataset)
    torch.testing.assert_close(shift, -torch.tensor([0.1, -0.2, 0.3, 0.05]).double(), atol=1e-4, rtol=0)


def test_energies_that_are_not_trained_are_zero():
    model = schnet()
    silence_energies(model)
    numbers, positions = molecule(6, 0)
    assert float(model((numbers[None], positions[None])).energies.detach()) == 0


# ------------------------------------------------------------------------------------------ kept features


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_kept_features_give_the_same_energies_and_gradients(dataset, share):
    model = ani()
    atoms = sum(len(block) * block.num_atoms for block in dataset.blocks())
    cache = FeatureCache(model, dataset, memory=int(share * atoms * 384 * 8))
    for epoch in range(2):
        for batch in dataset.batches(7, shuffle=True, seed=epoch, dtype=torch.float64):
            ours, theirs = cache(model, batch), predict(model, batch, ("energies",))["energies"]
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
            parameters = list(model.parameters())
            gradients = [torch.autograd.grad((e**2).sum(), parameters, allow_unused=True) for e in (ours, theirs)]
            for a, b in zip(*gradients, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    torch.testing.assert_close(a, b)
    assert cache.num_atoms <= cache.capacity == int(share * atoms)
    assert cache.num_atoms >= 0.8 * cache.capacity
    assert copy.deepcopy(cache) is cache


def test_features_that_change_are_not_kept(dataset):
    with pytest.raises(ValueError, match="the representation is trained"):
        FeatureCache(schnet(), dataset)
    with pytest.raises(ValueError, match="energy terms see the geometry"):
        FeatureCache(ani(terms=[anipot.ZBL(ELEMENTS)]), dataset)


# ------------------------------------------------------------------------------------------ data


def test_parts_of_data(frames, tmp_path):
    settings = DataSettings(path=str(frames), fields=FIELDS, split=SplitSettings(40, 10, -1))
    said: list[str] = []
    parts = open_parts(settings, ["energies"], say=said.append)
    assert {name: len(part) for name, part in parts.named().items()} == {"train": 40, "validation": 10, "test": 10}
    assert list(parts.train.quantities) == ["energies"]
    assert "40 for train" in said[-1]
    anipot.data.write_split(tmp_path / "split.json", parts.named())
    settings.split = SplitSettings(file=str(tmp_path / "split.json"))
    again = open_parts(settings, ["energies"], say=said.append)
    assert [p.selection for p in again.named().values()] == [p.selection for p in parts.named().values()]
    np.savez(tmp_path / "published.npz", train_1=np.arange(30), test_1=np.arange(30, 60))
    names = {"train": "train_1", "test": "test_1"}
    settings.split = SplitSettings(file=str(tmp_path / "published.npz"), names=names, validation=5)
    parts = open_parts(settings, ["energies"], say=said.append)
    assert {name: len(part) for name, part in parts.named().items()} == {"train": 25, "validation": 5, "test": 30}
    settings.split.names = {"train": "train_2"}
    with pytest.raises(ValueError, match="has no 'train_2' for train; it has train_1, test_1"):
        open_parts(settings, ["energies"], say=said.append)


def test_folds_cover_all_but_the_test(frames):
    settings = DataSettings(path=str(frames), fields=FIELDS, split=SplitSettings(40, 10, 10))
    folds = [open_parts(settings, ["energies"], (i, 5), say=lambda text: None) for i in range(5)]
    assert {len(parts.validation) for parts in folds} == {10}
    together = folds[0].validation.selection
    for parts in folds[1:]:
        assert not len(together & parts.validation.selection)
        together = together | parts.validation.selection
        assert parts.test.selection == folds[0].test.selection
        assert parts.known.selection == folds[0].known.selection
    assert together == folds[0].known.selection


def test_files_for_each_part(frames, tmp_path):
    other = write_frames(tmp_path / "other.xyz", 6, seed=3)
    settings = DataSettings(path=str(frames), fields=FIELDS, validation=str(other), test=str(other))
    parts = open_parts(settings, ["energies", "forces"], say=lambda text: None)
    assert {name: len(part) for name, part in parts.named().items()} == {"train": 60, "validation": 6, "test": 6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": None}, "data.path is not set"),
        ({"split": SplitSettings(60, 0, 0)}, "leaves no structure for validation"),
        ({"checks": "maybe"}, "data.checks must be refuse, skip or ignore"),
        ({"check_limits": {"min_distance": 100.0}}, "data.checks=skip leaves them out"),
        ({"limits": {"elements": ["H"]}}, "leaves no structure for train of the 0 that there are"),
        ({"limits": {"max_atom": 9}}, "data.limits has no argument 'max_atom', did you mean 'max_atoms'"),
        ({"check_limits": {"force": 9}}, "data.check_limits has no argument 'force'"),
    ],
)
def test_bad_data_settings(frames, options, message):
    with pytest.raises(ValueError, match=message):
        open_parts(DataSettings(**{"path": str(frames), "fields": FIELDS} | options), ["energies"], say=lambda t: None)


def test_units_are_asked_for_where_settings_have_them(frames):
    with pytest.raises(
        ValueError, match=r"say them, as in fields=(?s:.*)fields and length are data.fields and data.len"
    ):
        open_parts(DataSettings(path=str(frames)), ["energies"])


def test_labels_must_be_there(frames):
    with pytest.raises(ValueError, match=r"outputs: the data have no dipole; they have energies, forces \(data.fields"):
        open_parts(DataSettings(path=str(frames), fields=FIELDS), ["dipole"])


def test_bad_records_can_be_skipped(frames):
    said: list[str] = []
    limits = {"max_force": 0.05}
    settings = DataSettings(path=str(frames), fields=FIELDS, checks="skip", check_limits=limits)
    parts = open_parts(settings, ["energies", "forces"], say=said.append)
    assert sum(len(part) for part in parts.named().values()) < 60
    assert "records are bad" in said[0]


def test_limits_do_not_stumble_over_what_is_skipped(frames, tmp_path):
    lines = frames.read_text().splitlines()
    lines[3] = "Qq" + lines[3][2:]
    (tmp_path / "bad.xyz").write_text("\n".join(lines) + "\n")
    options = {"path": str(tmp_path / "bad.xyz"), "fields": FIELDS, "limits": {"max_atoms": 8}}
    parts = open_parts(DataSettings(**options, checks="skip"), ["energies"], say=lambda text: None)
    sound = open_parts(DataSettings(**options | {"path": str(frames)}), ["energies"], say=lambda text: None)
    assert sum(map(len, parts.named().values())) == sum(map(len, sound.named().values())) - 1
    with pytest.raises(ValueError, match="frame 0 cannot be read"):
        open_parts(DataSettings(**options), ["energies"], say=lambda text: None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["best=val_dipole_mae"], "best is 'val_dipole_mae', but the validation gives val_loss, val_energies_loss"),
        (["stopping={monitor: loss}"], "stopping.monitor is 'loss', but the validation gives val_loss"),
        (["schedule={kind: plateau, monitor: val_los}"], "schedule.monitor is 'val_los', but"),
        (["trainer.epochs=3"], "trainer has no argument 'epochs'.*max_epochs"),
        (["trainer.logger=true"], "trainer.logger is not for settings"),
    ],
)
def test_what_a_trainer_cannot_do_is_said_before_it_begins(frames, tmp_path, overrides, message):
    fields = 'data.fields={energies: "energy [eV]", forces: "forces [eV/Å]"}'
    settings = read_settings(None, [f"folder={tmp_path}", f"data.path={frames}", fields, *overrides])
    with pytest.raises(ValueError, match=message):
        Run(settings, RunFolder(tmp_path, settings))


# ------------------------------------------------------------------------------------------ from one model to the next


def test_a_run_starts_from_another(frames, tmp_path):
    """Labels of another name and another level; the old weights, a frozen layer, and self energies that fit."""
    small = [f"data.path={frames}", "data.batch_size=16", "trainer.max_epochs=1", "tensorboard=false"]
    small += ["model.head={class: ANIModel, hidden: [8, 6]}"]
    old = train(read_settings(None, [*small, f"folder={tmp_path / 'old'}", f"data.fields={json.dumps(FIELDS)}"]))
    labelled = tmp_path / "labelled.xyz"
    images = ase.io.read(frames, ":")
    for atoms in images:
        atoms.info["other"] = atoms.get_potential_energy() / HARTREE_TO_EV - 0.1 * len(atoms)
    ase.io.write(labelled, images)
    fields = {"ccsd": "other [Hartree]"}
    small[0] = f"data.path={labelled}"
    options = [f"model.start_from={old}", "model.freeze=[head.*.linears.1]", "optimizer={kind: SGD, lr: 1e-9}"]
    options += ["outputs=[{property: ccsd, head: energies, scaling: sqrt_atoms}]", f"data.fields={json.dumps(fields)}"]
    new = train(read_settings(None, [*small[:-1], *options, f"folder={tmp_path / 'new'}"]))
    before, after = anipot.load(old), anipot.load(new)
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        same = torch.equal(a, b)
        assert same or "linears.1" not in name
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    results = json.loads((new / "results.json").read_text())
    assert results["test"]["ccsd"]["per atom"]["count"] == 6
    assert "ccsd, test" in after.details["training"]["errors"]
    log = (new / "log.txt").read_text()
    assert "moved by least squares of its errors" in log
    assert "features of" in log  # energies alone are trained: they are kept
    other = 'data.fields={ccsd: "other [eV]"}'
    third = read_settings(None, [*small[:-1], *options[:-1], other, f"folder={tmp_path / 'third'}"])
    with pytest.raises(ValueError, match=r"ccsd is in eV with shape .* but energies in Hartree"):
        train(third)
    with pytest.raises(ValueError, match=r"model\.start_from .* knows H, C, N, O, but the data hold Si"):
        start_from(ModelSettings(start_from=str(old)), 0, ["Si"])


def test_a_property_is_added_to_an_ensemble(frames, tmp_path):
    """The energies stay as they were, to the last bit, and the new head is trained from standardised features."""
    small = [f"data.path={frames}", "data.batch_size=16", "trainer.max_epochs=2", "tensorboard=false"]
    small += ["model.head={class: ANIModel, hidden: [8, 6]}", f"data.fields={json.dumps(FIELDS)}"]
    facts = ["members=2", "model.name=old", "details={doi: 10.1/2}", "outputs=[{property: energies}]"]
    old = train_all(read_settings(None, [*small, *facts, f"folder={tmp_path / 'old'}"]))
    images = ase.io.read(frames, ":")
    for i, atoms in enumerate(images):
        atoms.info["mu"] = atoms.positions.T @ (atoms.numbers - atoms.numbers.mean()) * 0.01
        if i % 3 == 0:
            atoms.info["mu"] = np.full(3, np.nan)
    ase.io.write(tmp_path / "labelled.xyz", images)
    fields = FIELDS | {"dipole": "mu [e*Angstrom]"}
    options = [f"data.path={tmp_path / 'labelled.xyz'}", f"data.fields={json.dumps(fields)}", *small[1:4]]
    options += [f"model.start_from={old}", "model.properties={dipole: {class: ElementalDipoleMoment, hidden: [8]}}"]
    options += ["outputs=[{property: dipole}, {property: energies, weight: 0}]", f"folder={tmp_path / 'new'}"]
    new = train(read_settings(None, options))
    before, after = anipot.load(old), anipot.load(new)
    assert len(before) == len(after) == 2
    structures = next(iter(anipot.data.open(frames, fields=FIELDS).blocks()))
    system = torch.from_numpy(structures.species), torch.from_numpy(structures.coordinates)
    found = [anipot.single_point(model, *system).energies for model in (before, after)]
    assert torch.equal(*found)
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=False):
        assert torch.equal(a, b), name
    assert "they stay those of the model that this one starts from" in (new / "log.txt").read_text()
    told = after.details
    assert told["started_from"]["name"] == "old"
    assert told["started_from"]["doi"] == "10.1/2"
    assert {"dipole, test", "energies, test"} <= told["training"]["errors"].keys()
    card = export(new, tmp_path / "zoo", "both")
    assert "## What it started from" in (card / "README.md").read_text()
    errors = json.loads((new / "results.json").read_text())
    assert errors["validation"]["dipole"]["e*Å"]["rmse"] < 1
    again = [*small, "outputs=[{property: energies}]", "members=2", f"model.start_from={old}"]
    both = train_all(read_settings(None, [*again, "trainer.max_epochs=1", f"folder={tmp_path / 'again'}"]))
    assert anipot.load(both).details["started_from"]["doi"] == "10.1/2"


def test_elements_must_be_known():
    with pytest.raises(ValueError, match=r"model\.elements are H, C, but the data hold N"):
        build_potential(ModelSettings(elements=["H", "C"]), ELEMENTS)


def test_predictions_for_no_structures(dataset):
    """What a process gets of the last batch of an epoch when there is nothing left for it."""
    batch = next(iter(dataset.batches(4)))
    empty = batch._each(lambda tensor: tensor[:0])
    for model in (ani().float(), schnet().float()):
        for graph in (True, False):
            found = predict(model, empty, ("energies", "forces"), graph=graph)
            assert found["energies"].shape == (0,)
            assert found["forces"].shape == (0, batch.species.shape[1], 3)
