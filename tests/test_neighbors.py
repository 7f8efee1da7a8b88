"""Pair sets against ASE's, and the life of a Verlet list."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from anipot.neighbors import VerletList, brute_force, cell_list, find_pairs, triples
from anipot.structures import System

SEEDS = range(240)


def random_atoms(seed: int) -> Atoms:
    """Triclinic, skewed, left-handed, tiny and flat cells with every combination of pbc, atoms far outside too."""
    rng = np.random.default_rng(seed)
    pbc = np.array(list(itertools.product([0, 1], repeat=3))[seed % 8], dtype=bool)
    cell = np.diag(rng.uniform(1.5, 9, 3)) + rng.normal(scale=rng.choice([0.0, 0.5, 1.5]), size=(3, 3))
    while abs(np.linalg.det(cell)) < 0.1 * np.prod(np.linalg.norm(cell, axis=1)):
        cell += rng.normal(scale=0.5, size=(3, 3))
    if seed % 3 == 0:
        cell = cell[[1, 0, 2]]
    if seed % 5 == 0:
        cell[~pbc] = 0
    positions = rng.uniform(-12 if seed % 2 else 0, 12, (rng.integers(1, 20), 3))
    if seed % 7 == 0:
        positions = positions @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + rng.normal(scale=50, size=3)
    return Atoms(f"H{len(positions)}", positions, cell=cell, pbc=pbc)


def tensors(atoms: Atoms) -> tuple:
    x = torch.tensor(atoms.positions)[None]
    return (
        x,
        torch.ones(1, len(atoms), dtype=torch.bool),
        torch.tensor(atoms.cell.array)[None],
        torch.tensor(atoms.pbc)[None],
    )


def as_set(pairs, start: int = 0) -> set:
    shift = torch.zeros(len(pairs.center), 3) if pairs.shift is None else pairs.shift
    columns = torch.cat([pairs.center[:, None] - start, pairs.neighbor[:, None] - start, shift], 1)
    rows = [tuple(map(int, row)) for row in columns.tolist()]
    assert len(rows) == len(set(rows)), "a pair was found twice"
    return set(rows)


def ase_set(atoms: Atoms, cutoff: float) -> set:
    i, j, shift = neighbor_list("ijS", atoms, cutoff)
    return {(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)}


@pytest.mark.parametrize("search", [brute_force, cell_list])
def test_pairs_equal_those_of_ase(search) -> None:
    for seed in SEEDS:
        atoms = random_atoms(seed)
        cutoff = [1.9, 3.7, 5.2][seed % 3]
        assert as_set(search(*tensors(atoms), cutoff)) == ase_set(atoms, cutoff), f"seed {seed}"


@pytest.mark.parametrize("search", [brute_force, cell_list])
def test_a_batch_finds_what_each_molecule_has(search) -> None:
    systems = [random_atoms(seed) for seed in range(60)]
    size = max(map(len, systems)) + 2
    x = torch.full((len(systems), size, 3), float("nan"), dtype=torch.float64)
    real = torch.zeros(len(systems), size, dtype=torch.bool)
    for b, atoms in enumerate(systems):
        x[b, 1 : len(atoms) + 1], real[b, 1 : len(atoms) + 1] = torch.tensor(atoms.positions), True
    cell = torch.tensor(np.array([atoms.cell.array for atoms in systems]))
    pbc = torch.tensor(np.array([atoms.pbc for atoms in systems]))
    pairs = search(x, real, cell, pbc, 4.0)
    assert bool((pairs.center.diff() >= 0).all())
    for b, atoms in enumerate(systems):
        mine = pairs.center // size == b
        part = type(pairs)(pairs.center[mine], pairs.neighbor[mine], pairs.shift[mine])
        assert as_set(part, b * size + 1) == ase_set(atoms, 4.0), f"molecule {b}"


def test_the_search_in_blocks_and_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["anipot.neighbors.cell_list"]  # the package gives this name to the function
    monkeypatch.setattr(module, "CANDIDATES_AT_ONCE", 50)
    for seed in range(24):
        atoms = random_atoms(seed)
        assert as_set(cell_list(*tensors(atoms), 4.0)) == ase_set(atoms, 4.0)
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1e9, 0, 0], [1e9 + 1, 0, 0]]], dtype=torch.float64)
    pairs = cell_list(x, torch.ones(1, 4, dtype=torch.bool), None, None, 5.0)
    assert as_set(pairs) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0), (2, 3, 0, 0, 0), (3, 2, 0, 0, 0)}


def test_triples_are_every_two_neighbors_once() -> None:
    center = torch.tensor([0, 0, 0, 2, 2, 3, 5, 5, 5, 5])
    j, k = triples(center, 6)
    expected = {(a, b) for a in range(10) for b in range(a + 1, 10) if center[a] == center[b]}
    assert {tuple(sorted(p)) for p in zip(j.tolist(), k.tolist(), strict=True)} == expected
    assert len(j) == len(expected)


def test_a_verlet_list_never_misses_a_pair() -> None:
    rng = np.random.default_rng(3)
    atoms = Atoms("H40", rng.uniform(0, 10, (40, 3)), cell=[[10, 0, 0], [2, 9, 0], [0, -1, 11]], pbc=[1, 1, 0])
    neighbors, cutoff = VerletList(4.0, skin=1.0), 4.0
    for step in range(120):
        atoms.positions += rng.normal(scale=0.02, size=(40, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.002, size=(3, 3))), scale_atoms=True)
        if step % 40 == 20:
            atoms.wrap()
        x, _, cell, pbc = tensors(atoms)
        pairs = neighbors.find_pairs(System(torch.zeros(1, 40, dtype=torch.long), x, cell, pbc))
        assert as_set(pairs) >= ase_set(atoms, cutoff)
    assert 3 < neighbors.searches < 60


def test_a_verlet_list_serves_other_systems_too() -> None:
    neighbors = VerletList(4.0, skin=1.0)
    for seed in (1, 2, 9, 1, 16):
        atoms = random_atoms(seed)
        x, _, cell, pbc = tensors(atoms)
        system = System(torch.zeros(1, len(atoms), dtype=torch.long), x, *((cell, pbc) if pbc.any() else (None, None)))
        assert as_set(neighbors.find_pairs(system)) >= ase_set(atoms, 4.0)


def test_linear_memory_choice() -> None:
    x = torch.rand(1, 3000, 3, dtype=torch.float64) * 40
    species = torch.zeros(1, 3000, dtype=torch.long)
    pairs = find_pairs(species, x, None, None, 3.0)
    i, _ = neighbor_list("ij", Atoms("H3000", x[0].numpy()), 3.0)
    assert len(i) == len(pairs.center)
