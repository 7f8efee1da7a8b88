"""Energies, forces and the spread of an ensemble: for one molecule, and for a padded batch of several.

Run: python 01_energies_and_forces.py
"""

from pathlib import Path

import torch
from ase.io import read

import anipot
from anipot.units import HARTREE_TO_KCALMOL

DATA = Path(__file__).parent / "data"
model = anipot.load("ani1x")

# One molecule. A batch has one row for each molecule, so one molecule is a batch of one.
ethanol = read(DATA / "ethanol.xyz")
species = torch.tensor(ethanol.numbers)[None]  # (1, 9) atomic numbers
coordinates = torch.tensor(ethanol.positions)[None]  # (1, 9, 3) Å
result = anipot.single_point(model, species, coordinates, members=True)

print(f"ethanol: {float(result.energies[0]):.8f} Hartree")
print("forces, Hartree/Å:")
for symbol, force in zip(ethanol.symbols, result.forces[0].tolist(), strict=True):
    print(f"  {symbol:2s}" + "".join(f"{component:12.6f}" for component in force))
spread = float(result.members.energies_std[0]) * HARTREE_TO_KCALMOL
print(f"standard deviation of the {len(model)} members: {spread:.2f} kcal/mol")

# Several molecules of different sizes: pad them into one batch. Ghost atoms have species -1.
frames = read(DATA / "molecules.xyz", index=":")
batch = anipot.pad([(torch.tensor(atoms.numbers), torch.tensor(atoms.positions)) for atoms in frames])
result = anipot.single_point(model, *batch)
print("\nmolecule       energy, Hartree   largest force, Hartree/Å")
for atoms, energy, forces in zip(frames, result.energies.tolist(), result.forces, strict=True):
    print(f"{atoms.info['name']:12s} {energy:17.8f} {float(forces.norm(dim=-1).max()):12.6f}")

# A model is a torch module, so that its energies can be differentiated like anything else in torch.
x = batch.coordinates.clone().requires_grad_()
energies = model((batch.species, x)).energies
forces = -torch.autograd.grad(energies.sum(), x)[0]
difference = float((forces - result.forces).abs().max())
print(f"\nautograd gives the same forces: largest difference {difference:.1e} Hartree/Å")
