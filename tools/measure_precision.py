"""Measure what float32 networks cost against float64 ones, and print the tables of docs/units_and_precision.md.

Run from the root of the repository, with the folder of reference systems:

    python tools/measure_precision.py ../shared/reference

Each reference is a .npz file with ``numbers``, ``positions`` and, where periodic, ``cell`` and ``pbc``. Coordinates are
the same float64 numbers for both. Only energies and forces of this library are compared with each other; that its
float64 values are right is the business of the tests.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import anipot
from anipot.units import HARTREE_TO_KCALMOL

MODELS = {"ani1x": "ANI-1x", "ani1ccx": "ANI-1ccx", "ani2x": "ANI-2x"}
#: Colliding atoms with forces of thousands of Hartree/Å: relative errors are what counts there, not absolute ones.
LARGEST_FORCE = 10.0
#: Shown one by one in the second table.
SHOWN = ("ethanol", "caffeine", "ala10_112", "water300_pbc")


def read(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Return species (B, A), coordinates (B, A, 3), cell and pbc of one reference."""
    data = np.load(path)
    species, coordinates = torch.from_numpy(data["numbers"]), torch.from_numpy(data["positions"])
    if species.dim() == 1:
        species, coordinates = species[None], coordinates[None]
    cell = torch.from_numpy(data["cell"]) if "cell" in data else None
    pbc = torch.from_numpy(data["pbc"]) if "pbc" in data else None
    return species, coordinates, cell, pbc


def differences(name: str, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return for each reference |E32 − E64| (B,), numbers of atoms (B,), and |F32 − F64| of its real atoms (n, 3)."""
    single, double = anipot.load(name, dtype=torch.float32), anipot.load(name, dtype=torch.float64)
    found = {}
    for path in sorted(folder.glob("*.npz")):
        if f"{name}_energy" not in np.load(path):
            continue
        system = read(path)
        low, high = anipot.single_point(single, *system), anipot.single_point(double, *system)
        usual = high.forces.abs().flatten(1).amax(-1) < LARGEST_FORCE
        if not usual.any():
            continue
        real = (system[0] >= 0)[usual]
        forces = (low.forces - high.forces).abs()[usual][real]
        energies = (low.energies - high.energies).abs()[usual]
        found[path.stem] = energies.numpy(), real.sum(-1).numpy(), forces.numpy()
    return found


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit(__doc__)
    columns = (
        "structures",
        "largest energy error, Hartree per atom",
        "largest force error, Hartree/Å",
        "rms force error",
    )
    all_found = {name: differences(name, Path(sys.argv[1])) for name in MODELS}
    print(f"| model | {' | '.join(columns)} |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in all_found.items():
        energy, where = max((float((e / n).max()), key) for key, (e, n, _) in found.items())
        force, there = max((float(f.max()), key) for key, (_, _, f) in found.items())
        rms = np.sqrt(np.mean(np.concatenate([f.ravel() for _, _, f in found.values()]) ** 2))
        count = sum(len(e) for e, _, _ in found.values())
        print(f"| {MODELS[name]} | {count} | {energy:.1e} (`{where}`) | {force:.1e} (`{there}`) | {rms:.1e} |")
    print("\nError of the total energy of some of them, kcal/mol:\n")
    print(f"| structure | atoms | {' | '.join(MODELS.values())} |")
    print("| --- | --- | --- | --- | --- |")
    for key in SHOWN:
        errors = [float(found[key][0].max()) * HARTREE_TO_KCALMOL for found in all_found.values()]
        print(f"| `{key}` | {all_found['ani2x'][key][1][0]} | {' | '.join(f'{error:.1e}' for error in errors)} |")


if __name__ == "__main__":
    main()
