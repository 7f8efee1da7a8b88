"""Optimise acetamide; its frequencies with error bars, thermochemistry, an isotope, and a mode to look at.

Run: python 04_vibrations.py
"""

from pathlib import Path

import torch
from ase.io import read

import anipot

DATA = Path(__file__).parent / "data"

# Frequencies mean something at a stationary point only: relax first, and tightly. Float64 pays off there.
model = anipot.load("ani1x", dtype=torch.float64)
acetamide = next(atoms for atoms in read(DATA / "molecules.xyz", index=":") if atoms.info["name"] == "CH3CONH2")
modes = anipot.normal_modes(acetamide, model, optimize=True, members=True)[0]
print(modes)

# Imaginary frequencies are negative numbers here, and written with an i above; at a minimum there are none.
print(f"{len(modes.imaginary)} imaginary frequencies, {len(modes.low)} below 100 cm⁻¹")
print(f"zero-point energy {modes.zero_point_energy:.4f} ± {modes.zero_point_energy_std:.4f} eV")

# The harmonic entropy of a methyl group that turns is too large; quasi-harmonic treatments mend it.
for low_modes in ("harmonic", "rrho"):
    heat = modes.thermochemistry(298.15, 101325, symmetry_number=1, low_modes=low_modes)
    print(f"G(298 K) = {heat.free_energy:.4f} eV, modes below 100 cm⁻¹ {low_modes}")

# N–D stretches lie below N–H stretches by a factor of about √2.
nitrogen = list(modes.atoms.symbols).index("N")
amide = [i for i in range(len(acetamide)) if acetamide.numbers[i] == 1 and modes.atoms.get_distance(i, nitrogen) < 1.2]
heavy = anipot.normal_modes(modes.atoms, model, masses=dict.fromkeys(amide, 2.0141))[0]
print(f"highest mode {modes.frequencies[-1]:.0f} cm⁻¹, with ND2 {heavy.frequencies[-1]:.0f} cm⁻¹")

# Frames of a mode for any viewer: modes.animate(i, "mode.xyz"); in a notebook: modes.view(i); for ASE: modes.to_ase().
frames = modes.animate(len(modes.frequencies) - 1)
print(f"{len(frames)} frames of mode {len(modes.frequencies) - 1}: {modes.describe(len(modes.frequencies) - 1)}")
