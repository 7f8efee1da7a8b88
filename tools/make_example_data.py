"""Write the structures in examples/data. Run from the root of the repository: python tools/make_example_data.py

Molecules are the G2 geometries that ASE carries. The water box is put together here from a seed and relaxed with
ANI-1x until no force is large, so that dynamics can start from it.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import write
from ase.optimize import FIRE

import anipot

FOLDER = Path(__file__).parents[1] / "examples" / "data"
MOLECULES = ["CH4", "H2O", "CH3OH", "CH3COOH", "CH3CONH2", "C6H6"]
SEED = 2026


def water_box(per_axis: int, density: float) -> Atoms:
    """Return per_axis³ waters on a cubic lattice, turned at random; density in g/cm³."""
    rng = np.random.default_rng(SEED)
    water = molecule("H2O")
    water.positions -= water.get_center_of_mass()
    spacing = (water.get_masses().sum() / (density * 0.602214076)) ** (1 / 3)  # 1 g/cm³ = 0.602… u/Å³
    box = Atoms(cell=per_axis * spacing * np.eye(3), pbc=True)
    for site in np.ndindex(per_axis, per_axis, per_axis):
        copy = water.copy()
        turn, sign = np.linalg.qr(rng.normal(size=(3, 3)))
        copy.positions = copy.positions @ (turn * np.sign(np.diag(sign))) + (np.array(site) + 0.5) * spacing
        box += copy
    return box


def clean(atoms: Atoms) -> Atoms:
    """Return the structure alone, rounded to 1e-5 Å."""
    return Atoms(atoms.numbers, atoms.positions.round(5), cell=atoms.cell.array.round(5), pbc=atoms.pbc)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    write(FOLDER / "ethanol.xyz", clean(molecule("CH3CH2OH")), columns=["symbols", "positions"])
    frames = [clean(molecule(name)) for name in MOLECULES]
    for name, frame in zip(MOLECULES, frames, strict=True):
        frame.info["name"] = name
    write(FOLDER / "molecules.xyz", frames, columns=["symbols", "positions"])

    box = water_box(per_axis=3, density=0.997)
    box.calc = anipot.load("ani1x").ase()
    FIRE(box, logfile=None).run(fmax=0.3, steps=400)
    write(FOLDER / "water27.xyz", clean(box), columns=["symbols", "positions"])


if __name__ == "__main__":
    main()
