"""Make the molecules from which the default model of the zoo is trained: SMILES, then conformers as extxyz.

Molecules of C, H, N and O: all that grow from one heavy atom by adding atoms, bonds and rings up to a few heavy atoms
(a random choice where there are too many), those of ``molecules.smi``, and pairs of small ones side by side. Conformers
come from distance geometry (ETKDG, doi:10.1021/acs.jcim.5b00654) and are relaxed with MMFF94.

Run: python structures.py OUTPUT.xyz    (needs rdkit; the same seed gives the same file)
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from tqdm import tqdm

HEAVY = {"C": 4, "N": 3, "O": 2}
#: Molecules that do not grow by single atoms of these valences.
LINEAR = ["N#N", "[C-]#[O+]", "[N-]=[N+]=O", "[C-]#[NH+]", "C[N+](=O)[O-]", "[O-][N+](=O)O", "C[N-][N+]#N"]
#: Groups that fall apart, or that no network should spend its weights on.
UNWANTED = [
    Chem.MolFromSmarts(pattern)
    for pattern in (
        "[#8]~[#8]",
        "[#7]~[#7]~[#7]",
        "[#7]~[#8]~[#7]",
        "[#8]~[#7]~[#8]",
        "[#7;X2]=[#7;X2]=*",
        "*=[#6]=*",
        "[r3]=*",
        "[R]#*",
        "[R2;r3,r4]",
        "[#7,#8;r3]~[#7,#8]",
        "[#7,#8]~[#7,#8]~[#7,#8]",
        "[#7]~[#7].[#7]~[#8]",
        "C#C[#7,#8]",
        "[OX2H][CX4][OX2H]",
        "[NX3;H2][CX4][OX2H]",
        "[OX2H]C=[CX3]",
    )
]


def grown(molecule: Chem.Mol) -> Iterator[Chem.Mol]:
    """Yield the molecules with one more heavy atom, or one more ring or bond."""
    atoms = list(molecule.GetAtoms())
    free = [atom.GetNumImplicitHs() for atom in atoms]
    for i, room in enumerate(free):
        for element, valence in HEAVY.items():
            for order in range(1, min(room, valence, 3) + 1):
                new = Chem.RWMol(molecule)
                new.AddBond(i, new.AddAtom(Chem.Atom(element)), Chem.BondType.values[order])
                yield new
    distances = Chem.GetDistanceMatrix(molecule)
    for i in range(len(atoms)):
        for j in range(i):
            if free[i] and free[j] and 2 <= distances[i, j] <= 5:
                new = Chem.RWMol(molecule)
                new.AddBond(i, j, Chem.BondType.SINGLE)
                yield new


def sensible(molecule: Chem.Mol, unusual: bool = False) -> bool:
    """Whether a molecule obeys its valences and, if it shall be a usual one, has none of the unwanted groups."""
    try:
        Chem.SanitizeMol(molecule)
    except Chem.MolSanitizeException:
        return False
    if unusual:
        return True
    hetero = sum(atom.GetSymbol() != "C" for atom in molecule.GetAtoms())
    if molecule.GetNumHeavyAtoms() > 3 and 2 * hetero > molecule.GetNumHeavyAtoms() + 1:
        return False
    return not any(molecule.HasSubstructMatch(pattern) for pattern in UNWANTED)


def enumerate_smiles(largest: int, limit: int, rng: random.Random, unusual: bool = False) -> list[str]:
    """Return canonical SMILES of up to ``largest`` heavy atoms; of each size ``limit`` at most go on and are kept."""
    sizes = {n: set[str]() for n in range(1, largest + 1)}
    sizes[1] = {"C", "N", "O"}
    for n in sizes:
        todo = sorted(sizes[n])
        kept = set(todo if len(todo) <= limit else rng.sample(todo, limit))
        todo, sizes[n] = sorted(kept), kept
        while todo:
            for new in grown(Chem.MolFromSmiles(todo.pop())):
                if not sensible(new, unusual):
                    continue
                smiles, size = Chem.MolToSmiles(new), new.GetNumHeavyAtoms()
                if size == n and smiles not in kept and len(kept) < 2 * limit:
                    kept.add(smiles)
                    todo.append(smiles)
                elif size == n + 1 and size <= largest:
                    sizes[size].add(smiles)
    return [smiles for n in sizes for smiles in sorted(sizes[n])]


def conformers(smiles: str, number: int, seed: int) -> list[Atoms]:
    """Return up to ``number`` relaxed conformers; none where distance geometry finds none."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    found = AllChem.EmbedMultipleConfs(molecule, number, randomSeed=seed + 1, pruneRmsThresh=0.3)
    if not len(found):
        return []
    if AllChem.MMFFHasAllMoleculeParams(molecule):
        AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=500)
    else:
        AllChem.UFFOptimizeMoleculeConfs(molecule, maxIters=500)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    return [
        Atoms(symbols, positions=molecule.GetConformer(i).GetPositions(), info={"smiles": smiles, "conformer": n})
        for n, i in enumerate(found)
    ]


def side_by_side(one: Atoms, other: Atoms, rng: np.random.Generator) -> Atoms:
    """Return two molecules in random orientation whose closest atoms are 1.7 to 3.5 Å apart."""
    pair = one.copy(), other.copy()
    for atoms in pair:
        turn, upper = np.linalg.qr(rng.normal(size=(3, 3)))
        atoms.positions = (atoms.positions - atoms.positions.mean(0)) @ (turn * np.sign(np.diag(upper)))
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    wanted, shift = rng.uniform(1.7, 3.5), 0.0
    closest = 0.0
    while closest < wanted:
        shift += 0.05
        moved = pair[1].positions + shift * direction
        closest = np.linalg.norm(pair[0].positions[:, None] - moved, axis=-1).min()
    pair[1].positions += shift * direction
    both = pair[0] + pair[1]
    both.info = {"smiles": f"{one.info['smiles']}.{other.info['smiles']}", "conformer": 0}
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--largest", type=int, default=7, help="heavy atoms of the molecules that are grown")
    parser.add_argument("--limit", type=int, default=500, help="molecules of each size")
    parser.add_argument("--pairs", type=int, default=600, help="pairs of small molecules")
    parser.add_argument(
        "--unusual", action="store_true", help="also what falls apart easily, and nothing of molecules.smi"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    rng = random.Random(args.seed)
    named = LINEAR if args.unusual else (Path(__file__).parent / "molecules.smi").read_text().split()
    listed = {Chem.MolToSmiles(Chem.MolFromSmiles(smiles)): None for smiles in named}
    smiles = list(dict.fromkeys([*enumerate_smiles(args.largest, args.limit, rng, args.unusual), *listed]))
    frames = [Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], info={"smiles": "[H][H]", "conformer": 0})]
    for text in tqdm(smiles, unit="molecule"):
        heavy = Chem.MolFromSmiles(text).GetNumHeavyAtoms()
        frames += conformers(text, 1 if heavy < 4 else 2 if heavy < 7 else 3, args.seed)
    numbers = np.random.default_rng(args.seed)
    small = [atoms for atoms in frames if len(atoms) <= 12]
    for _ in range(args.pairs):
        i, j = numbers.integers(len(small), size=2)
        frames.append(side_by_side(small[i], small[j], numbers))
    ase.io.write(args.output, frames, format="extxyz")
    print(f"{len(smiles)} molecules, {len(frames)} structures in {args.output}")


if __name__ == "__main__":
    main()
