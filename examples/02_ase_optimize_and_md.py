"""Optimise ethanol and run molecular dynamics with ASE. Units here are ASE's: eV and Å.

Run: python 02_ase_optimize_and_md.py    (writes ethanol_md.traj into the current folder)
"""

import os
from pathlib import Path

import numpy as np
from ase import units
from ase.io import Trajectory, read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta  # ASE 3.29; MaxwellBoltzmannDistribution before
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import anipot

DATA = Path(__file__).parent / "data"
STEPS = 20 if os.environ.get("ANIPOT_EXAMPLE_FAST") else 1000

atoms = read(DATA / "ethanol.xyz")
atoms.calc = anipot.load("ani1x").ase()

optimizer = BFGS(atoms, logfile=None)
optimizer.run(fmax=0.01)
print(f"optimised in {optimizer.nsteps} steps: {atoms.get_potential_energy():.4f} eV")

# Constant temperature: Langevin dynamics at 300 K.
rng = np.random.default_rng(1)
thermalize_momenta(atoms, temperature_K=300, rng=rng)
langevin = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=rng)
with Trajectory("ethanol_md.traj", "w", atoms) as trajectory:
    langevin.attach(trajectory.write, interval=10)
    langevin.run(STEPS)
print(f"Langevin: {STEPS} steps, {atoms.get_temperature():.0f} K at the end")

# Constant energy: how well total energy is conserved says whether forces are the gradient of the energy.
dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
totals = [atoms.get_total_energy()]
dynamics.attach(lambda: totals.append(atoms.get_total_energy()), interval=1)
dynamics.run(STEPS)
tenth = len(totals) // 10
drift = np.mean(totals[-tenth:]) - np.mean(totals[:tenth])
print(f"NVE: {STEPS} steps, total energy fluctuates by {np.std(totals) / len(atoms):.1e} eV per atom", end=" ")
print(f"and drifts by {drift / len(atoms):.1e} eV per atom")
