"""Training files of NeuroChem: the published ones, and what is wrong with others, line by line."""

from __future__ import annotations

import csv
import re
import shutil

import numpy as np
import pytest

import anipot
from anipot.cli import main
from anipot.data.blocks import Block
from anipot.data.quantities import QUANTITIES
from anipot.data.store import StoreWriter
from anipot.interfaces.neurochem_training import (
    LayerSettings,
    NeuroChemSettings,
    parse_training_settings,
    read_training_settings,
)
from anipot.training.neurochem import neurochem_settings

#: In the syntax that was published with ANI-1x.
TEXT = """\
!InputFile for Force Prediction Network
sflparamsfile=r.params
ntwkStoreDir=networks/
atomEnergyFile=sae_linfit.dat
nmax=0! Maximum number of iterations (0 = inf)
tolr=100! Tolerance - early stopping
emult=0.5!Multiplier by eta after tol switch
eta=0.001! Eta -- Learning rate
tcrit=1.0E-5! Eta termination criterion
tmax=0! Maximum time (0 = inf)
tbtchsz=2560
vbtchsz=1280
gpuid=0
nkde=2
energy=1
force=0
fmult=0.0
pbc=0
cmult =0.001
runtype=ANNP_CREATE_HDNN_AND_TRAIN!Create and train a HDN network
network_setup {
  inputsize=384;
  atom_net H $
    layer [
          nodes=160;
          activation=9;
          type=0;
    ]
    layer [ nodes=128; activation=9; type=0; l2norm=1; l2valu=0.00001; ]
    layer [ nodes=1; activation=6; type=0; ]
    $
  atom_net Cl $
    layer [ nodes=32; activation=5; type=0; l2norm=0; l2valu=nan; ]
    layer [ nodes=1; activation=6; type=0; ]
    $

}
adptlrn=OFF ! Adaptive learning (OFF,RMSPROP)
moment=ADAM! Turn on momentum or nesterov momentum
mu=0.99 ! Mu factor for momentum
"""


def test_every_setting_is_read():
    assert parse_training_settings(TEXT) == NeuroChemSettings(
        constants="r.params",
        self_energies="sae_linfit.dat",
        network_folder="networks/",
        input_size=384,
        networks={
            "H": (LayerSettings(160, "celu"), LayerSettings(128, "celu", 1e-5), LayerSettings(1, "none")),
            "Cl": (LayerSettings(32, "gaussian"), LayerSettings(1, "none")),
        },
        learning_rate=1e-3,
        factor=0.5,
        patience=100,
        min_learning_rate=1e-5,
        max_epochs=None,
        batch_size=2560,
        validation_batch_size=1280,
        force_weight=None,
        frozen_layers=(),
        seed=None,
        without_effect={"gpuid": 0, "nkde": 2, "cmult": 0.001, "mu": 0.99},
    )


def test_forces_frozen_layers_and_seeds():
    text = TEXT.replace("force=0", "force=1\nfreezelayer=0,1").replace("fmult=0.0", "fmult=0.25\nseed=7")
    found = parse_training_settings(text)
    assert (found.force_weight, found.frozen_layers, found.seed) == (0.25, (0, 1), 7)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tolr=100!", "tolr=-1!", "line 6: tolr must be a positive whole number, got -1"),
        ("tolr=100!", "tolr=1.5!", "line 6: tolr must be a positive whole number, got 1.5"),
        ("eta=0.001!", "eta=fast!", "line 8: eta must be a positive number, got fast"),
        ("eta=0.001! Eta -- Learning rate\n", "", "does not say eta"),
        ("emult=0.5!", "emult=2!", "line 7: emult must be below 1, got 2.0"),
        ("pbc=0", "pbc=1", "line 18: only pbc=0 is known"),
        ("moment=ADAM!", "moment=NESTEROV!", "line 39: only moment=ADAM is known"),
        ("nkde=2", "warp=9", "settings that are not known: text, line 14: warp=9"),
        ("nkde=2", "gpuid=1", "line 14: gpuid stands twice, here and in line 13"),
        ("nkde=2", "nkde=", "line 14: nkde has no value"),
        ("nkde=2", "nkde 2", "line 14: expected '=', got '2'"),
        ("inputsize=384;", "nodes=384;", "line 22: expected inputsize"),
        ("atom_net Cl $", "atom_net Xx $", "line 32: no element has the symbol 'Xx'"),
        ("atom_net Cl $", "atom_net H $", "line 32: a second network of H"),
        ("nodes=160;", "nodes=0;", "line 24: a layer needs a positive number of nodes, got 0"),
        ("activation=5;", "activation=4;", "line 33: activation 4 is not known; known are 5"),
        ("type=0;\n", "type=1;\n", "line 24: only layers of type 0"),
        ("l2norm=1; l2valu=0.00001;", "l2norm=1; l2valu=nan;", "line 29: expected l2norm=0 or 1 and l2valu>=0"),
        ("l2norm=1; l2valu=0.00001;", "dropout=1;", "line 29: dropout of a layer is not known"),
        ("nodes=128; activation=9;", "nodes=128; activation=5;", "line 23: the network of H: all layers but the last"),
        (
            "layer [ nodes=1; activation=6; type=0; ]\n    $\n\n}",
            "$\n}",
            "line 32: the network of Cl must end in a layer",
        ),
        ("    $\n\n}", "\n\n}", "line 37: expected '$', got '}'"),
        ("force=0", "force=0\nfreezelayer=7", "line 17: freezelayer must be numbers from 0 to 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old, new, message):
    assert TEXT.count(old) >= 1
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_training_settings(TEXT.replace(old, new, 1))


@pytest.mark.parametrize("length", range(0, len(TEXT) - 200, 37))
def test_a_file_that_is_cut_is_refused(length):
    with pytest.raises(ValueError, match=r"text"):
        parse_training_settings(TEXT[:length])


@pytest.mark.parametrize(
    ("model", "elements", "patience", "force_weight", "frozen"),
    [
        ("ani-1x_8x", "H C N O", 100, None, ()),
        ("ani-1ccx_8x", "H C N O", 200, None, (0, 2)),
        ("ani-2x_8x", "H C N O S F Cl", 40, 1e-3, ()),
    ],
)
def test_published_files(shared, model, elements, patience, force_weight, frozen):
    """What they say of the networks is what was published beside them."""
    from anipot.interfaces.neurochem import read_constants, read_model

    for i in range(8):
        folder = shared / "weights" / "ani-model-zoo" / "resources" / model / f"train{i}"
        found = read_training_settings(folder / "inputtrain.ipt")
        assert list(found.networks) == elements.split()
        assert (found.patience, found.force_weight, found.frozen_layers) == (patience, force_weight, frozen)
        assert (found.learning_rate, found.factor, found.max_epochs) == (1e-3, 0.5, None)
        assert re.fullmatch(r"rHCNO.*\.params", found.constants)
        published = read_model(folder, read_constants(folder / found.constants))
        for network, layers in zip(published, found.networks.values(), strict=True):
            assert network.sizes == (found.input_size, *(layer.nodes for layer in layers))


def test_frozen_layers_are_those_that_transfer_learning_left_alone(ani1x, ani1ccx):
    """ANI-1ccx began as ANI-1x; the numbers of its training file count layers from 0."""
    for first, second in zip(ani1x, ani1ccx, strict=True):
        for one, other in zip(first.head, second.head, strict=True):
            same = [bool((a.weight == b.weight).all()) for a, b in zip(one.linears, other.linears, strict=True)]
            assert same == [True, False, True, False]


# ---------------------------------------------------------------------------------------------------------------------
# As settings of a training

PARAMS = """\
TM=1
Rcr=5.2
Rca=3.5
EtaR=[16.0]
ShfR=[0.9,1.4,2.0]
Zeta=[32.0]
ShfZ=[0.2,1.0]
EtaA=[8.0]
ShfA=[0.9,1.6]
Atyp=[Cl,H]
"""


@pytest.fixture
def training_file(tmp_path):
    folder = tmp_path / "chlorine"
    folder.mkdir()
    (folder / "r.params").write_text(PARAMS)
    (folder / "sae_linfit.dat").write_text("H,0=-0.5\nCl,1=-460.0\n")
    text = TEXT.replace("inputsize=384", "inputsize=18").replace("activation=5", "activation=9")
    text = text.replace("nodes=32;", "nodes=32; ").replace(
        "    layer [ nodes=32;", "    layer [ nodes=24; activation=9; type=0; ]\n    layer [ nodes=32;"
    )
    text = text.replace("l2norm=0; l2valu=nan;", "l2norm=1; l2valu=0.00001;")
    (folder / "inputtrain.ipt").write_text(text)
    return folder / "inputtrain.ipt"


def test_settings_of_a_training(training_file):
    found = neurochem_settings(training_file)
    assert found["folder"] == "runs/chlorine"
    assert found["data"] == {"batch_size": 2560, "validation_batch_size": 1280}
    assert found["model"]["elements"] == ["Cl", "H"]  # in the order of the constants
    assert found["model"]["self_energies"] == {"Cl": -460.0, "H": -0.5}
    assert found["model"]["representation"]["ShfR"] == [0.9, 1.4, 2.0]
    assert found["model"]["head"]["hidden"] == {"Cl": [24, 32], "H": [160, 128]}
    assert found["optimizer"] == {"kind": "AdamW", "lr": 1e-3, "weight_decay": [0, 1e-5, 0], "biases": 1e-3}
    assert found["schedule"]["patience"] == 100
    assert found["schedule"]["stop_below"] == 1e-5
    assert found["outputs"] == [{"property": "energies", "scaling": "sqrt_atoms"}]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("inputsize=18", "inputsize=19", "inputsize is 19, but the AEV of r.params has 18 numbers"),
        ("l2valu=0.00001; ]\n    layer [ nodes=1;", "l2valu=0.5; ]\n    layer [ nodes=1;", "l2valu is"),
        ("force=0", "force=0\nfreezelayer=0", "there are no networks in"),
        ("atom_net Cl", "atom_net C", "no atom_net for Cl"),
        ("sae_linfit.dat", "other.dat", "other.dat is missing"),
    ],
)
def test_files_that_do_not_go_together(training_file, old, new, message):
    text = training_file.read_text()
    assert old in text
    training_file.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        neurochem_settings(training_file)


@pytest.fixture
def chlorine_data(tmp_path):
    """Some HCl and H2 with energies and forces of springs."""
    rng = np.random.default_rng(0)
    blocks = []
    for species, rest in (((17, 1), -460.5), ((1, 1), -1.0)):
        length = rng.uniform(0.8, 1.6, size=60)
        x = np.zeros((60, 2, 3))
        x[:, 1, 0] = length
        forces = np.zeros_like(x)
        forces[:, 0, 0] = 0.2 * (length - 1.2)
        forces[:, 1, 0] = -forces[:, 0, 0]
        labels = {"energies": rest + 0.1 * (length - 1.2) ** 2, "forces": forces}
        blocks.append(Block(np.tile(species, (60, 1)), x, labels))
    path = tmp_path / "springs.h5"
    with StoreWriter(path, {name: QUANTITIES[name] for name in ("energies", "forces")}) as writer:
        for block in blocks:
            writer.append(block)
    return path


def test_a_training_by_a_training_file(training_file, chlorine_data, tmp_path, monkeypatch):
    """Networks, optimizers and schedule are those of the file, and it stops where the learning rate is too small."""
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    text = training_file.read_text().replace("tbtchsz=2560", "tbtchsz=16").replace("tolr=100!", "tolr=2!")
    text = text.replace("eta=0.001!", "eta=0.01!").replace("tcrit=1.0E-5!", "tcrit=6e-3!")
    training_file.write_text(text.replace("force=0", "force=1").replace("fmult=0.0", "fmult=0.1"))
    command = ["train", str(training_file), f"data.path={chlorine_data}", "tensorboard=false", "folder=run"]
    assert main([*command, "trainer.accelerator=cpu", "trainer.max_epochs=300", "trainer.log_every_n_steps=1"]) == 0
    model = anipot.load("run/model.safetensors")
    assert model.elements == ("Cl", "H")
    assert [network.sizes for network in model.head] == [(18, 24, 32, 1), (18, 160, 128, 1)]
    assert [float(e) for e in model.shifter.self_energies] == [-460.0, -0.5]
    with open("run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows if row["learning_rate"]]
    assert rates[0] == 0.01
    assert set(rates) <= {0.01, 0.005}  # half of it is below tcrit
    assert max(int(row["epoch"]) for row in rows if row["epoch"]) < 299


def test_transfer_learning_leaves_frozen_layers_alone(shared, ani1x, tmp_path, monkeypatch):
    """The published training file of ANI-1ccx, begun with ANI-1x."""
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    zoo = shared / "weights" / "ani-model-zoo" / "resources"
    shutil.copytree(zoo / "ani-1x_8x" / "train3", tmp_path / "train3")
    shutil.copy(zoo / "ani-1ccx_8x" / "train3" / "inputtrain.ipt", tmp_path / "train3")
    water = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    x = water + 0.05 * np.random.default_rng(0).normal(size=(40, 3, 3))
    with StoreWriter(tmp_path / "water.h5", {"energies": QUANTITIES["energies"]}) as writer:
        writer.append(Block(np.tile([8, 1, 1], (40, 1)), x, {"energies": np.full(40, -76.4)}))
    command = ["train", "train3/inputtrain.ipt", "data.path=water.h5", "tensorboard=false", "folder=run"]
    assert main([*command, "trainer.accelerator=cpu", "trainer.max_epochs=2"]) == 0
    model = anipot.load("run/model.safetensors")
    for element in (0, 3):  # H and O were there
        pairs = zip(ani1x[3].head[element].linears, model.head[element].linears, strict=True)
        same = [bool((old.weight.float() == new.weight).all()) for old, new in pairs]
        assert same == [True, False, True, False]
