"""The systems of tools/benchmark.py: from the shared folder, or made here from a seed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SHARED = Path(os.environ.get("ANIPOT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SYSTEMS = SHARED / "bench" / "systems"
#: Where files of structures are.
FOLDERS = (SYSTEMS, Path(__file__).resolve().parent)
#: Molecules of a flat batch stand this far apart, Å.
APART = 25.0
#: Copies of a box that stand side by side are displaced this much (Å), so that no two are the same.
COPY_NOISE = 0.01
#: Molecules for message passing have this many atoms, and are displaced this much (Å) each time one comes again.
POOL_ATOMS = (16, 20)
POOL_NOISE = 0.03


class Structure(NamedTuple):
    numbers: np.ndarray  # (A,)
    positions: np.ndarray  # (A, 3) Å
    cell: np.ndarray | None  # (3, 3) Å; periodic along all axes, or None


def structure(name: str) -> Structure:
    """Return a system by its name: ``water``, ``built_…``, a file, or one of these repeated, ``water501_1x2x5``."""
    if match := re.fullmatch(r"(\w+)_(\d+)x(\d+)x(\d+)", name):
        return repeated(structure(match[1]), tuple(map(int, match.groups()[1:])))
    if name in ("water", "built_benzene"):
        from ase.build import molecule

        atoms = molecule("H2O" if name == "water" else "C6H6")
        return Structure(atoms.numbers.copy(), atoms.positions.copy(), None)
    if match := re.fullmatch(r"built_(water|alkane)(\d+)", name):
        atoms = int(match[2])
        return water_box(atoms // 3) if match[1] == "water" else alkane((atoms - 2) // 3)
    path = next((path for folder in FOLDERS if (path := folder / f"{name}.xyz").is_file()), SYSTEMS / f"{name}.xyz")
    if not path.is_file():
        raise ValueError(f"no system is named {name!r}: there is no {path.name} in the shared folder")
    from ase.io import read

    atoms = read(path, format="extxyz")
    return Structure(atoms.numbers.copy(), atoms.positions.copy(), atoms.cell.array.copy() if atoms.pbc.all() else None)


def repeated(system: Structure, times: tuple[int, ...], seed: int = 0) -> Structure:
    """Return copies of a periodic box side by side, whose atoms are displaced a little at random."""
    if system.cell is None:
        raise ValueError("only periodic systems can be repeated")
    shifts = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), axis=-1).reshape(-1, 3) @ system.cell
    positions = (system.positions + shifts[:, None]).reshape(-1, 3)
    positions = positions + np.random.default_rng(seed).normal(scale=COPY_NOISE, size=positions.shape)
    return Structure(np.tile(system.numbers, len(shifts)), positions, system.cell * np.array(times)[:, None])


def water_box(molecules: int, seed: int = 0) -> Structure:
    """Return water at 0.997 g/mL: molecules on a grid, each turned at random; some grid points stay empty."""
    rng = np.random.default_rng(seed)
    side = (molecules * 18.01528 / (0.997 * 0.602214)) ** (1 / 3)
    points = int(np.ceil(molecules ** (1 / 3) - 1e-9))
    chosen = np.sort(rng.permutation(points**3)[:molecules])
    centers = np.stack(np.unravel_index(chosen, (points,) * 3), axis=1) * side / points
    water = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.2399, 0.9266, 0.0]])
    rotations = np.linalg.qr(rng.normal(size=(molecules, 3, 3)))[0]
    positions = centers[:, None] + water @ rotations
    return Structure(np.tile([8, 1, 1], molecules), positions.reshape(-1, 3), side * np.eye(3))


def alkane(carbons: int, seed: int = 0) -> Structure:
    """Return an outstretched alkane whose atoms are displaced a little at random."""
    k = np.arange(-1, carbons + 1)  # the first and last stand for the hydrogens at the ends
    zigzag = np.stack([1.27 * k, 0.87 * (k % 2), 0 * k], axis=1)
    chain = zigzag[1:-1]
    ends = np.array([chain[i] + (zigzag[j] - chain[i]) * 1.09 / 1.54 for i, j in ((0, 0), (-1, -1))])
    away = np.where(k[1:-1] % 2, 1.0, -1.0)[:, None] * np.array([0.0, 0.63, 0.0])
    sides = [chain + away + np.array([0.0, 0.0, z]) for z in (-0.89, 0.89)]
    positions = np.concatenate([chain, ends, *sides])
    numbers = np.array([6] * carbons + [1] * (2 * carbons + 2))
    return Structure(numbers, positions + np.random.default_rng(seed).normal(scale=0.03, size=positions.shape), None)


def data_set(name: str) -> dict[str, np.ndarray]:
    """Return Z (B, A) with ghosts below 1 and X (B, A, 3) of ``batch20``, and E and F of ``train10k``."""
    path = SYSTEMS / f"{name}.npz"
    if path.is_file():
        return dict(np.load(path))
    molecules = {"built_batch": 2560, "built_train": 2560, "built_epoch": 5376}.get(name)
    if molecules is None:
        raise ValueError(f"no data set is named {name!r}: there is no {path.name} in the shared folder")
    rng = np.random.default_rng(0)
    chains = [alkane(n) for n in (4, 5, 6, 7)]
    widest = max(len(chain.numbers) for chain in chains)
    Z, X = np.full((molecules, widest), -1), np.zeros((molecules, widest, 3))
    for row, which in enumerate(rng.integers(len(chains), size=len(Z))):
        n = len(chains[which].numbers)
        Z[row, :n] = chains[which].numbers
        X[row, :n] = chains[which].positions + rng.normal(scale=0.03, size=(n, 3))
    # The labels serve to time a training step, not to learn anything.
    return {"Z": Z, "X": X, "E": rng.normal(size=len(Z)), "F": rng.normal(scale=0.01, size=X.shape)}


def batch(name: str, molecules: int) -> tuple[np.ndarray, np.ndarray]:
    """Return species (B, A) and positions (B, A, 3) of the first molecules, no wider than the largest of them."""
    data = data_set(name)
    species, positions = data["Z"][:molecules], data["X"][:molecules]
    width = int((species > 0).sum(1).max())
    return species[:, :width], positions[:, :width]


def displaced(system: Structure, copies: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return species (B, A) and positions (B, A, 3) of copies of a molecule whose atoms are displaced a little."""
    noise = np.random.default_rng(seed).normal(scale=POOL_NOISE, size=(copies, *system.positions.shape))
    return np.tile(system.numbers, (copies, 1)), system.positions + noise


def flat(species: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch as one molecule, on a grid so wide that no two see each other."""
    side = int(np.ceil(len(species) ** (1 / 3)))
    grid = np.stack(np.unravel_index(np.arange(len(species)), (side,) * 3), axis=1) * APART
    real = species > 0
    return species[real][None], (positions + grid[:, None])[real][None]


def pool(name: str, molecules: int) -> list[Structure]:
    """Return molecules of 16 to 20 atoms: those of ``pool``, or alkanes for ``built_pool``, in turn and displaced."""
    path = SYSTEMS / f"{name}.npz"
    if path.is_file():
        data = np.load(path)
        found = [Structure(z[z > 0], x[z > 0], None) for z, x in zip(data["Z"], data["X"], strict=True)]
        found = [one for one in found if POOL_ATOMS[0] <= len(one.numbers) <= POOL_ATOMS[1]]
    elif name == "built_pool":
        found = [alkane(5), alkane(6)]
    else:
        raise ValueError(f"no data set is named {name!r}: there is no {path.name} in the shared folder")
    rng = np.random.default_rng(3)
    chosen = [found[index % len(found)] for index in range(molecules)]
    return [
        one._replace(positions=one.positions + rng.normal(scale=POOL_NOISE, size=one.positions.shape)) for one in chosen
    ]


def padded(molecules: Sequence[Structure]) -> tuple[np.ndarray, np.ndarray]:
    """Return species (B, A), ghosts -1, and positions (B, A, 3)."""
    width = max(len(one.numbers) for one in molecules)
    species, positions = np.full((len(molecules), width), -1), np.zeros((len(molecules), width, 3))
    for row, one in enumerate(molecules):
        species[row, : len(one.numbers)] = one.numbers
        positions[row, : len(one.numbers)] = one.positions
    return species, positions


class Graph(NamedTuple):
    """Molecules as one list of atoms, and both directions of their pairs."""

    numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3) Å
    molecule: np.ndarray  # (N,)
    counts: np.ndarray  # (B,) atoms of each molecule
    center: np.ndarray  # (P,) ascending
    neighbor: np.ndarray  # (P,)
    offsets: np.ndarray  # (P, 3) what a neighbor's position lacks because of periodicity, Å
    cells: np.ndarray  # (B, 3, 3) Å; zero for molecules


def graph(molecules: Sequence[Structure], cutoff: float) -> Graph:
    """Return molecules with their neighbor lists, as the libraries of message passing want them."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    parts: list[list[Any]] = [[], [], []]
    counts = np.array([len(one.numbers) for one in molecules])
    starts = np.cumsum(counts) - counts
    cells = np.stack([np.zeros((3, 3)) if one.cell is None else one.cell for one in molecules])
    for one, cell, start in zip(molecules, cells, starts, strict=True):
        atoms = Atoms(one.numbers, one.positions, cell=cell, pbc=one.cell is not None)
        center, neighbor, shift = neighbor_list("ijS", atoms, cutoff)
        for part, found in zip(parts, (center + start, neighbor + start, shift @ cell), strict=True):
            part.append(found)
    numbers, positions = (np.concatenate([getattr(one, key) for one in molecules]) for key in ("numbers", "positions"))
    molecule = np.repeat(np.arange(len(molecules)), counts)
    return Graph(numbers, positions, molecule, counts, *(np.concatenate(part) for part in parts), cells)
