"""Train an ANI potential with a plain torch loop and no framework: first on energies, then on energies and forces.

Data: an extxyz file with energies (eV) and forces (eV/Å), such as the rMD17 ethanol of the BOTNet-datasets repository
(doi:10.6084/m9.figshare.12672038). Larger files are streamed; any other layout opens in the same way.

Run: python 09_plain_training_loop.py train.xyz    (writes plain.safetensors into the current folder)
"""

import os
import sys
from pathlib import Path

import torch

import anipot
from anipot import data
from anipot.training import predict
from anipot.units import HARTREE_TO_KCALMOL

FAST = bool(os.environ.get("ANIPOT_EXAMPLE_FAST"))
SHARED = Path(os.environ.get("ANIPOT_SHARED", "shared")) / "data" / "rmd17_ethanol_botnet" / "train.xyz"
file = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
EPOCHS = {"energies": 1 if FAST else 20, "energies and forces": 1 if FAST else 30}
torch.manual_seed(0)

dataset = data.open(file, fields={"energies": "energy [eV]", "forces": "forces [eV/Å]"})
parts = dataset.split({"train": 50 if FAST else 800, "test": 100}, seed=0)
train, test = parts["train"].batches(32, shuffle=True), parts["test"].batches(100)

# Self energies by least squares; a network for each element on the AEVs of ANI-1x, with outputs of a useful size.
self_energies = parts["train"].self_energies()
elements = list(self_energies)
aev = anipot.AEVComputer.like_1x(len(elements))
networks = [anipot.AtomicNetwork((aev.num_features, 128, 96, 64, 1), anipot.CELU(0.1)) for _ in elements]
for network in networks:
    torch.nn.init.normal_(network.linears[-1].weight, std=1e-3)
shifter = anipot.EnergyShifter([self_energies[element] for element in elements])
model = anipot.Potential(elements, aev, anipot.ANIModel(networks), shifter, name="plain")


def loss_of(batch: data.Batch, names: list[str]) -> torch.Tensor:
    """Return the mean of (ΔE)²/√N, plus 0.1 times the mean over atoms of |ΔF|² (doi:10.1063/1.5023802)."""
    found = predict(model, batch, names)
    real = batch.species >= 0
    loss = ((found["energies"] - batch.properties["energies"]) ** 2 / real.sum(-1).sqrt()).mean()
    if "forces" in names:
        loss = loss + 0.1 * ((found["forces"] - batch.properties["forces"])[real] ** 2).sum(-1).mean()
    return loss


def errors() -> str:
    """Return mean absolute errors on the test set, in kcal/mol and kcal/mol/Å."""
    batch = next(iter(test))
    found = predict(model, batch, ["energies", "forces"], graph=False)
    sizes = [(found[name] - batch.properties[name]).abs().nanmean() * HARTREE_TO_KCALMOL for name in found]
    return f"energies {sizes[0]:.3f}, forces {sizes[1]:.3f}"


for stage, epochs in EPOCHS.items():
    names = stage.split(" and ")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for batch in train:
            loss = loss_of(batch, names)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        if epoch % 10 == 0 or epoch == epochs - 1:
            print(f"{stage}, epoch {epoch:3d}: test MAE {errors()}")

model.save("plain.safetensors")
