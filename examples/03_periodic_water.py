"""A periodic box of water: stress, its check by finite differences, and a short run at constant pressure.

Run: python 03_periodic_water.py
"""

import os
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.io import read
from ase.md.nptberendsen import NPTBerendsen
from ase.md.velocitydistribution import thermalize_momenta  # ASE 3.29; MaxwellBoltzmannDistribution before

import anipot

DATA = Path(__file__).parent / "data"
STEPS = 4 if os.environ.get("ANIPOT_EXAMPLE_FAST") else 200

model = anipot.load("ani1x")
water = read(DATA / "water27.xyz")  # 27 waters in a cube of 9.3 Å

# Tensors: rows of the cell are the lattice vectors, pbc says along which of them the system repeats.
system = torch.tensor(water.numbers)[None], torch.tensor(water.positions)[None]
cell, pbc = torch.tensor(water.cell.array), torch.tensor(water.pbc)
result = anipot.single_point(model, *system, cell, pbc, stress=True)
print(f"energy {float(result.energies[0]):.6f} Hartree; stress, Hartree/Å³:")
print("\n".join("  " + "".join(f"{value:12.6f}" for value in row) for row in result.stress[0].tolist()))

# The same for the trace, by finite differences in float64: dE/dV, when cell and coordinates are scaled together.
exact = anipot.load("ani1x", dtype=torch.float64)
step, volume = 1e-4, float(torch.linalg.det(cell))
up, down = (exact((system[0], system[1] * s), cell * s, pbc).energies.item() for s in (1 + step, 1 - step))
trace = (up - down) / (2 * step) / volume
print(f"trace {float(result.stress[0].trace()):.8f}, by finite differences {trace:.8f} Hartree/Å³")

# A slab of the same waters: periodic along x and y, free along z. Atoms are not wrapped along z.
slab = anipot.single_point(model, *system, cell, torch.tensor([True, True, False]))
print(f"as a slab {float(slab.energies[0]):.6f} Hartree")

# Constant pressure and temperature through ASE.
water.calc = model.ase()
thermalize_momenta(water, temperature_K=300, rng=np.random.default_rng(1))
dynamics = NPTBerendsen(
    water,
    0.5 * units.fs,
    temperature_K=300,
    pressure_au=1.01325 * units.bar,
    compressibility_au=4.57e-5 / units.bar,
    taut=100 * units.fs,
    taup=500 * units.fs,
)


def report() -> None:
    pressure = -water.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
    density = water.get_masses().sum() / water.get_volume() / 0.602214076
    print(f"step {dynamics.nsteps:4d}: {water.get_temperature():5.0f} K {pressure:7.3f} GPa {density:6.3f} g/cm³")


dynamics.attach(report, interval=max(1, STEPS // 4))
dynamics.run(STEPS)
