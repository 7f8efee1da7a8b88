"""Run ten small molecules at constant energy and say whether the default model holds them together.

Vibrations start with the kinetic energy of 600 K, half of which goes into potential energy, so that they are at about
300 K. A run is stable if no bond between neighbors grows by half and the energy drifts by less than 1 meV per atom.

Run: python check_dynamics.py [MODEL] --steps 10000 --output dynamics.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ase.build
import numpy as np
from ase import units
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import build_neighbor_list
from ase.optimize import LBFGS
from tqdm import tqdm

import anipot

MOLECULES = ("H2O", "NH3", "CH4", "C2H4", "CH3CH2OH", "CH3CONH2", "CH3COOH", "C6H6", "C4H4NH", "H2CCHCN")


def run(name: str, calculator: object, steps: int) -> dict[str, object]:
    """Return the drift and the spread of the energy, the mean temperature and the longest bond of a trajectory."""
    atoms = ase.build.molecule(name)
    atoms.calc = calculator
    LBFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    bonds = build_neighbor_list(atoms, self_interaction=False).get_connectivity_matrix().tocoo()
    bonds = [(i, j) for i, j in zip(bonds.row, bonds.col, strict=True) if i != j]
    length = lambda: np.array([atoms.get_distance(i, j) for i, j in bonds])  # noqa: E731
    start = length()
    thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(0))
    Stationary(atoms)
    ZeroRotation(atoms)
    vibrations = 3 * len(atoms) - 6
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(vibrations * units.kB * 600 / (2 * atoms.get_kinetic_energy())))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    energies, temperatures, stretch = [], [], 0.0
    for step, _ in enumerate(tqdm(dynamics.irun(steps), total=steps, desc=name)):
        if step % 10 == 0:
            energies.append(atoms.get_total_energy() / len(atoms))
            temperatures.append(2 * atoms.get_kinetic_energy() / (vibrations * units.kB))
            stretch = max(stretch, float((length() / start).max()))
    slope = np.polyfit(np.arange(len(energies)), energies, 1)[0] * len(energies)
    spread = float(np.ptp(energies))
    return {
        "molecule": name,
        "steps": steps,
        "drift_meV_per_atom": round(1000 * float(slope), 4),
        "spread_meV_per_atom": round(1000 * spread, 4),
        "mean_temperature_K": round(float(np.mean(temperatures)), 1),
        "longest_bond_ratio": round(stretch, 3),
        "stable": bool(stretch < 1.5 and abs(slope) < 1e-3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    calculator = anipot.load(args.model).ase()
    found = [run(name, calculator, args.steps) for name in MOLECULES]
    for one in found:
        print("  ".join(f"{key} {value}" for key, value in one.items()))
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
