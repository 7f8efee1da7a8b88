"""Optimise acetamide, then its Hessian, normal modes, frequencies and zero-point energy.

Run: python 04_vibrations.py
"""

from pathlib import Path

import torch
from ase import units
from ase.io import read
from ase.optimize import BFGS

import anipot

DATA = Path(__file__).parent / "data"

# Frequencies mean something at a stationary point only: optimise first, and tightly. Float64 pays off here.
model = anipot.load("ani1x", dtype=torch.float64)
acetamide = next(atoms for atoms in read(DATA / "molecules.xyz", index=":") if atoms.info["name"] == "CH3CONH2")
acetamide.calc = model.ase()
BFGS(acetamide, logfile=None).run(fmax=1e-4)

species, coordinates = torch.tensor(acetamide.numbers)[None], torch.tensor(acetamide.positions)[None]
hessian = anipot.single_point(model, species, coordinates, hessian=True).hessian  # (1, 27, 27) Hartree/Å²
masses = torch.tensor(acetamide.get_masses())[None]

modes = anipot.vibrational_analysis(masses, hessian, project=coordinates)
print("  mode   cm⁻¹   reduced mass, u   force constant, mDyne/Å")
for i, (freq, constant, mass) in enumerate(zip(modes.freqs[0], modes.fconstants[0], modes.rmasses[0], strict=True)):
    print(f"{i:6d} {float(freq):7.1f} {float(mass):14.3f} {float(constant):18.3f}")

# An imaginary frequency is printed as a negative number; translations and rotations are exactly 0 when projected out.
real = modes.freqs[0][modes.freqs[0] > 1.0]
imaginary = modes.freqs[0][modes.freqs[0] < -1.0]
print(f"{len(imaginary)} imaginary frequencies")
print(f"zero-point energy {0.5 * float(real.sum()) * units.invcm / (units.kcal / units.mol):.2f} kcal/mol")
