"""Conformers of drugs, and how long it takes to relax them: the case ``optimize`` of tools/benchmark.py.

Conformers come from RDKit (ETKDG, a fixed seed). anipot relaxes them in one batch, by its own steps and by those of
ASE (``precondition=False``); "one by one" is ASE's L-BFGS with
the same potential, conformer after conformer, and TorchANI is ASE's L-BFGS with its calculator. All end at the same
largest force. Peers take the first conformers only, of all molecules in turn; every time is one of a conformer.

Where an optimiser ends is a minimum up to ``FMAX`` only, which leaves some hundredths of eV along soft torsions. So
ends are relaxed on to ``TIGHT`` with float64 networks before their energies are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Conformers per molecule; molecules of H, C, N and O with 19 to 47 atoms, 33 on average.
EACH = 40
#: What relaxes conformers: takes ``Atoms`` and most steps, and returns the relaxed ones with their numbers of steps.
Relax = Callable[[Sequence[Any], int], list[tuple[Any, int]]]
FMAX, STEPS = 0.01, 1000
#: eV/Å to which ends are relaxed, and eV within which two of them are one minimum.
TIGHT, SAME = 2e-4, 1e-4
SEED = 7
DRUGS = (
    *("CC(=O)Oc1ccccc1C(=O)O", "CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "COc1ccc2cc(ccc2c1)C(C)C(=O)O"),
    *("Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CCN(CC)CC(=O)Nc1c(C)cccc1C", "CCN(CC)CCOC(=O)c1ccc(N)cc1"),
    *("CC(C)NCC(O)COc1cccc2ccccc12", "CC(C)NCC(O)COc1ccc(CC(N)=O)cc1", "COCCc1ccc(OCC(O)CNC(C)C)cc1"),
    *("CC(C)(C)NCC(O)c1ccc(O)c(CO)c1", "CN(C)CCOC(c1ccccc1)c1ccccc1", "CC(C(=O)O)c1cccc(c1)C(=O)c1ccccc1"),
    *("CCOc1ccc(NC(C)=O)cc1", "NC(=O)N1c2ccccc2C=Cc2ccccc12", "O=C1NC(=O)C(N1)(c1ccccc1)c1ccccc1"),
    *("CN1CCCC1c1cccnc1", "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O", "COc1ccc(cc1)C(CN(C)C)C1(O)CCCCC1"),
    *("COc1cccc(c1)C1(O)CCCCC1CN(C)C", "NCCc1ccc(O)c(O)c1", "COc1ccc2[nH]cc(CCNC(C)=O)c2c1"),
    *("COc1cc(CCN)cc(OC)c1OC", "COc1cc(Cc2cnc(N)nc2N)cc(OC)c1OC", "NNC(=O)c1ccncc1"),
)


def write(file: Path) -> None:
    """Make the conformers, in turn one of each molecule, so that every part has all of them."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    of_each = []
    for smiles in DRUGS:
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
        found = AllChem.EmbedMultipleConfs(molecule, EACH, randomSeed=SEED)
        of_each.append([(numbers, molecule.GetConformer(i).GetPositions()) for i in found])
    conformers = [one for turn in zip(*of_each, strict=True) for one in turn]
    width = max(len(numbers) for numbers, _ in conformers)
    Z, X = np.full((len(conformers), width), -1), np.zeros((len(conformers), width, 3))
    for row, (numbers, positions) in enumerate(conformers):
        Z[row, : len(numbers)], X[row, : len(numbers)] = numbers, positions
    np.savez(file, Z=Z, X=X)


def read(file: str, count: int) -> list[Any]:
    """Return the first conformers as ``Atoms``."""
    from ase import Atoms

    data = np.load(file)
    return [Atoms(z[z > 0], x[z > 0]) for z, x in zip(data["Z"][:count], data["X"][:count], strict=True)]


class Relaxation:
    """What is timed: relaxes conformers when it is called, and writes where they end beside their file.

    Parameters
    ----------
    relax
        Takes ``Atoms`` and returns the relaxed ones with their numbers of steps.
    file, count
        The conformers, and how many of them.
    who
        For the name of the file that is written.
    """

    def __init__(self, relax: Relax, file: str, count: int, who: str) -> None:
        self.relax, self.frames = relax, read(file, count)
        self.ends = Path(file).with_name(f"{Path(file).stem}_{who}_{count}.npz")
        self.items = count
        self.told: dict[str, Any] = {}
        relax([self.frames[0].copy()], 10)  # what is compiled, read or allocated at first

    def __call__(self) -> None:
        found = self.relax([atoms.copy() for atoms in self.frames], STEPS)
        width = max(map(len, self.frames))
        positions = np.zeros((self.items, width, 3))
        for row, (atoms, _) in enumerate(found):
            positions[row, : len(atoms)] = atoms.positions
        steps = [steps for _, steps in found]
        np.savez(self.ends, X=positions)
        self.told = {
            "conformers": self.items,
            "steps": float(np.mean(steps)),
            "gave_up": sum(n >= STEPS for n in steps),
            "ends": str(self.ends),
        }


def by_ase(calculator: Any) -> Relax:
    """Return what relaxes conformers one by one with ASE's L-BFGS."""
    from ase.optimize import LBFGS

    def relax(frames: Sequence[Any], steps: int) -> list[tuple[Any, int]]:
        found = []
        for atoms in frames:
            atoms.calc = calculator
            dynamics = LBFGS(atoms, logfile=None)
            dynamics.run(fmax=FMAX, steps=steps)
            atoms.calc = None
            found.append((atoms, dynamics.nsteps))
        return found

    return relax


def by_anipot(model: Any, **options: Any) -> Relax:
    """Return what relaxes conformers in one batch."""
    import anipot

    def relax(frames: Sequence[Any], steps: int) -> list[tuple[Any, int]]:
        return [(one.atoms, one.steps) for one in anipot.optimize(frames, model, fmax=FMAX, steps=steps, **options)]

    return relax


def minima(model: Any, file: str, ends: dict[str, str]) -> dict[str, Any]:
    """Return how many conformers fell into the minimum that they reach one by one, and where they stood before.

    Parameters
    ----------
    model
        The potential, float64.
    file
        The conformers.
    ends
        Files with the ends, by who wrote them; "one_by_one" among them.
    """
    import anipot

    energies, above = {}, {}
    for who, name in ends.items():
        positions = np.load(name)["X"]
        frames = read(file, len(positions))
        for atoms, end in zip(frames, positions, strict=True):
            atoms.positions = end[: len(atoms)]
        found = anipot.optimize(frames, model, fmax=TIGHT, steps=3 * STEPS)
        energies[who] = np.array([one.atoms.get_potential_energy() for one in found])
        above[who] = float(np.mean([one.energies[0] * anipot.units.HARTREE_TO_EV for one in found] - energies[who]))
    told: dict[str, Any] = {}
    for who, found in energies.items():
        common = min(len(found), len(energies["one_by_one"]))
        difference = found[:common] - energies["one_by_one"][:common]
        told[who] = {
            "conformers": common,
            "same": int((np.abs(difference) < SAME).sum()),
            "lower": int((difference <= -SAME).sum()),
            "higher": int((difference >= SAME).sum()),
            "mean_difference_ev": float(difference.mean()),
            "mean_height_above_minimum_ev": above[who],
        }
    return told
