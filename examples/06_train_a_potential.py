"""Train a small potential on energies and forces with a plain torch loop, save it and use it.

The data are made here: rattled and strained copper crystals of 8 atoms with energies and forces of ASE's EMT, a cheap
analytic potential that stands in for the calculations that you would use. All structures are periodic, each with a cell
of its own, and a batch of them goes through the model at once.

Run: python 06_train_a_potential.py    (writes copper.safetensors into the current folder)
"""

import os

import numpy as np
import torch
from ase.build import bulk
from ase.calculators.emt import EMT

import anipot
from anipot.units import HARTREE_TO_EV

FAST = bool(os.environ.get("ANIPOT_EXAMPLE_FAST"))
STRUCTURES, EPOCHS, BATCH = (24, 3, 8) if FAST else (240, 60, 8)
rng = np.random.default_rng(0)
torch.manual_seed(0)

# Data: species, coordinates (N, 8, 3), cells (N, 3, 3), energies (N,) and forces (N, 8, 3), in Å and Hartree.
structures = []
for _ in range(STRUCTURES):
    atoms = bulk("Cu") * (2, 2, 2)
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.normal(scale=0.015, size=(3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.06, size=(len(atoms), 3))
    atoms.calc = EMT()
    structures.append(atoms)
coordinates = torch.tensor(np.array([atoms.positions for atoms in structures]))
cells = torch.tensor(np.array([atoms.cell.array for atoms in structures]))
energies = torch.tensor([atoms.get_potential_energy() for atoms in structures]) / HARTREE_TO_EV
forces = torch.tensor(np.array([atoms.get_forces() for atoms in structures])) / HARTREE_TO_EV
species = torch.full(coordinates.shape[:2], 29)
num_atoms, held_out = species.shape[1], STRUCTURES // 6
train, test = torch.arange(held_out, STRUCTURES), torch.arange(held_out)

# Model: one element, AEVs that reach 6 Å, one network; the self energy is the mean energy of an atom in the data.
aev = anipot.AEVComputer(
    Rcr=6.0, Rca=4.0, EtaR=4.0, ShfR=torch.linspace(1.8, 5.6, 16), EtaA=6.0, Zeta=14.1,
    ShfA=torch.linspace(2.0, 3.5, 4), ShfZ=torch.linspace(0.4, 2.75, 4), num_species=1,
)  # fmt: skip
network = anipot.AtomicNetwork((aev.num_features, 64, 64, 1), torch.nn.SiLU())
shifter = anipot.EnergyShifter([float(energies[train].mean()) / num_atoms])
model = anipot.Potential(["Cu"], aev, anipot.ANIModel([network]), shifter, name="copper")


def errors(rows: torch.Tensor, create_graph: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the errors of the energies per atom (B,) and of the forces (B, A, 3)."""
    x = coordinates[rows].clone().requires_grad_()
    predicted = model((species[rows], x), cells[rows], torch.tensor([True, True, True])).energies
    (gradient,) = torch.autograd.grad(predicted.sum(), x, create_graph=create_graph)
    return (predicted - energies[rows]) / num_atoms, -gradient - forces[rows]


optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
for epoch in range(EPOCHS):
    for rows in train[torch.randperm(len(train))].split(BATCH):
        energy_error, force_error = errors(rows, create_graph=True)
        loss = 3 * (energy_error**2).mean() + (force_error**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    schedule.step()
    if epoch % max(1, EPOCHS // 10) == 0 or epoch == EPOCHS - 1:
        energy_error, force_error = (1000 * HARTREE_TO_EV * e.detach() for e in errors(test, create_graph=False))
        print(f"epoch {epoch:3d}: held out, rms {energy_error.square().mean().sqrt():7.2f} meV/atom", end=", ")
        print(f"{force_error.square().mean().sqrt():7.1f} meV/Å")
size = 1000 * HARTREE_TO_EV * forces[test].square().mean().sqrt()
print(f"for comparison, rms of the forces themselves: {size:.1f} meV/Å")

# One file holds all that is needed to rebuild the potential.
model.save("copper.safetensors")
copper = bulk("Cu", a=3.6)
copper.calc = anipot.load("copper.safetensors").ase()
print(f"energy of the perfect crystal {copper.get_potential_energy():.4f} eV per atom", end=", ")
copper.calc = EMT()
print(f"with EMT {copper.get_potential_energy():.4f} eV")
