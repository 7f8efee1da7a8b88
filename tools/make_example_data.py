"""Write the structures in examples/data. Run from the root of the repository: python tools/make_example_data.py

Molecules are the G2 geometries that ASE carries. The water box is put together here from a seed and relaxed with
ANI-1x until no force is large, so that dynamics can start from it. Conformers of ibuprofen are those of RDKit, as it
leaves them; dipoles of methanol are those of GFN2-xTB by tblite. The other malondialdehyde has its proton at the other
oxygen: positions of atoms that stand for each other are exchanged. Names of files limit what is written:
python tools/make_example_data.py ibuprofen.xyz
"""

import sys
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write
from ase.optimize import FIRE

import anipot

FOLDER = Path(__file__).parents[1] / "examples" / "data"
MOLECULES = ["CH4", "H2O", "CH3OH", "CH3COOH", "CH3CONH2", "C6H6"]
SEED = 2026
#: Atoms of malondialdehyde that stand for each other: oxygens, outer carbons, the hydrogens on these.
COUNTERPARTS = ((0, 4), (1, 3), (6, 8))


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


def ethanol(file: Path) -> None:
    """Write one molecule."""
    write(file, clean(molecule("CH3CH2OH")), columns=["symbols", "positions"])


def molecules(file: Path) -> None:
    """Write several molecules with their names."""
    frames = [clean(molecule(name)) for name in MOLECULES]
    for name, frame in zip(MOLECULES, frames, strict=True):
        frame.info["name"] = name
    write(file, frames, columns=["symbols", "positions"])


def water27(file: Path) -> None:
    """Write a box of water from which dynamics can start."""
    box = water_box(per_axis=3, density=0.997)
    box.calc = anipot.load("ani1x").ase()
    FIRE(box, logfile=None).run(fmax=0.3, steps=400)
    write(file, clean(box), columns=["symbols", "positions"])


def ibuprofen(file: Path) -> None:
    """Write 40 conformers by ETKDG (doi:10.1021/acs.jcim.5b00654), not relaxed."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    made = Chem.AddHs(Chem.MolFromSmiles("CC(C)Cc1ccc(cc1)C(C)C(=O)O"))
    options = AllChem.ETKDGv3()
    options.randomSeed = SEED
    AllChem.EmbedMultipleConfs(made, 40, options)
    symbols = [atom.GetSymbol() for atom in made.GetAtoms()]
    frames = [clean(Atoms(symbols, conformer.GetPositions())) for conformer in made.GetConformers()]
    write(file, frames, columns=["symbols", "positions"])


def methanol_dipoles(file: Path) -> None:
    """Write 200 geometries around the minimum, 100 to 1500 K, with GFN2-xTB dipoles (doi:10.1021/acs.jctc.8b01176)."""
    from tblite.ase import TBLite

    from anipot.sampling import conformers, normal_modes

    model = anipot.load(dtype=torch.float64)
    relaxed = anipot.optimize(molecule("CH3OH"), model, fmax=1e-4)[0].atoms
    modes = normal_modes(model, relaxed.numbers, relaxed.positions)
    frames = []
    for positions in conformers(modes, 200, (100, 1500), np.random.default_rng(SEED))[0]:
        atoms = clean(Atoms(relaxed.numbers, positions))
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        dipole = atoms.get_dipole_moment().round(6)  # e·Å
        atoms.calc = None
        atoms.info["dipole"] = dipole
        frames.append(atoms)
    write(file, frames, columns=["symbols", "positions"])


def malondialdehyde_other(file: Path) -> None:
    """Write the mirror image of malondialdehyde, with each atom in the role of its counterpart."""
    atoms = ase.io.read(FOLDER / "malondialdehyde.xyz")
    order = np.arange(len(atoms))
    for left, right in COUNTERPARTS:
        order[[left, right]] = right, left
    write(file, Atoms(atoms.numbers, atoms.positions[order]), columns=["symbols", "positions"])


def main(names: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for make in (ethanol, molecules, water27, ibuprofen, methanol_dipoles, malondialdehyde_other):
        file = FOLDER / f"{make.__name__}.xyz"
        if not names or file.name in names:
            make(file)


if __name__ == "__main__":
    main(sys.argv[1:])
