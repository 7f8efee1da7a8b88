"""Print the numbers in tests/test_schnetpack.py; run with the sources of SchNetPack on PYTHONPATH."""

import schnetpack as spk
import torch
from ase import Atoms
from schnetpack import atomistic
from schnetpack import nn as snn
from schnetpack.interfaces import AtomsConverter
from schnetpack.transform import AddOffsets, ASENeighborList, CastTo64

POSITIONS = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0], [0.5, 2.5, 2.0]]


def fill(model):
    for name, value in model.state_dict().items():
        if name.endswith(("weight", "bias")):
            angles = torch.arange(value.numel(), dtype=torch.float64) * 0.37 + len(name)
            value.copy_((0.6 * torch.sin(angles)).reshape(value.shape))


def representations():
    args = {"cutoff_fn": snn.MollifierCutoff(4.0)}
    basis = snn.GaussianRBFCentered(5, 4.0, trainable=True)
    yield "schnet", spk.representation.SchNet(4, 2, basis, n_filters=3, **args)
    yield "painn", spk.representation.PaiNN(4, 2, snn.BesselRBF(5, 4.0), shared_filters=True, epsilon=1e-3, **args)


for kind, representation in representations():
    table = torch.arange(100.0) / 8
    model = spk.model.NeuralNetworkPotential(
        representation,
        input_modules=[atomistic.PairwiseDistances()],
        output_modules=[
            atomistic.Atomwise(4, output_key="energy"),
            atomistic.Atomwise(4, output_key="other"),
            atomistic.Forces(),
        ],
        postprocessors=[
            CastTo64(),
            AddOffsets("energy", add_atomrefs=True, atomrefs=table, property_mean=torch.tensor([7.0])),
            AddOffsets("other", add_mean=True, property_mean=torch.tensor([11.0])),
        ],
    )
    fill(model)
    model = model.double().eval()
    atoms = Atoms(numbers=[8, 1, 1, 6], positions=POSITIONS)
    inputs = AtomsConverter(neighbor_list=ASENeighborList(cutoff=4.0), dtype=torch.float64)(atoms)
    result = model(inputs)
    print(kind, result["energy"].tolist(), result["forces"].reshape(-1).tolist(), list(model.state_dict()), sep="\n")
