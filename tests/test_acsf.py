"""Symmetry functions against DScribe, against sums written straight from the equations, and where they might break."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list
from contracts import molecule
from torch import Tensor, nn

import anipot
from anipot import ACSF, CosineCutoff, SmoothCutoff, wACSF
from anipot.elements import atomic_numbers

ELEMENTS = ("H", "C", "N", "O")
RADIAL = [(0.0, 0.0), (0.5, 0.0), (4.0, 1.2), (12.0, 3.0)]
#: Rows in no order, with values in common; as products they would be more.
ANGULAR = [
    (0.01, 1.0, 1.0),
    (0.01, 1.0, -1.0),
    (0.3, 4.0, -1.0),
    (0.01, 16.0, 1.0),
    (0.0, 2.0, 1.0),
    (0.05, 3.5, -1.0),
    (0.05, 7.0, 1.0),
]
SHIFTED = [(0.4, 2.0, 1.0, 1.1), (0.4, 2.0, -1.0, 2.3), (0.1, 1.0, -1.0)]
CELL = np.array([[3.9, 0.2, 0.0], [-0.7, 4.3, 0.3], [0.4, -1.1, 4.8]])


def atoms(num_atoms: int, seed: int, cell: Any = None, pbc: Any = False) -> Atoms:
    numbers, x = molecule(num_atoms, seed)
    return Atoms(numbers.numpy(), x.numpy(), cell=cell, pbc=pbc)


def crowd() -> Atoms:
    """Atoms along all directions, some of them outside the cell."""
    system = atoms(7, 3, CELL, (True, True, True))
    system.positions += np.random.default_rng(0).integers(-2, 3, (7, 3)) @ CELL
    return system


SYSTEMS: dict[str, Callable[[], Atoms]] = {
    "molecule": lambda: atoms(14, 1),
    "two atoms": lambda: atoms(2, 2),
    "crystal": crowd,
    "one atom in a small cell": lambda: Atoms("C", [[0.1, 0.2, 0.3]], cell=CELL / 1.7, pbc=True),
    "slab": lambda: atoms(6, 4, CELL, (True, False, True)),
}


def features(representation: nn.Module, system: Atoms) -> np.ndarray:
    """Return (A, F)."""
    species = anipot.SpeciesConverter(ELEMENTS).convert(torch.tensor(system.numbers)[None])
    x = torch.tensor(system.positions)[None]
    if not system.pbc.any():
        return representation((species, x)).features[0].detach().numpy()
    cell, pbc = torch.tensor(system.cell.array), torch.tensor(system.pbc)
    return representation((species, x), cell, pbc).features[0].detach().numpy()


# ---------------------------------------------------------------------------------------------------------- equations


def neighbors(system: Atoms, cutoff: float) -> list[list[tuple[int, np.ndarray]]]:
    """Return, for each atom, its neighbors' atomic numbers and vectors, from ASE."""
    i, j, vectors = primitive_neighbor_list("ijD", system.pbc, system.cell, system.positions, cutoff)
    found: list[list[tuple[int, np.ndarray]]] = [[] for _ in system]
    for a, b, v in zip(i, j, vectors, strict=True):
        found[a].append((int(system.numbers[b]), v))
    return found


def by_the_book(
    system: Atoms,
    elements: tuple[str, ...] | None,
    cutoff: float,
    radial: Any,
    angular: Any,
    form: str,
    angular_cutoff: float,
    f_c: Callable[[float, float], float],
    weights: dict[int, float] | None = None,
) -> np.ndarray:
    """One loop for each sum of the equations: sets for ``elements``, or weights of atomic numbers for one set."""
    numbers = None if elements is None else atomic_numbers(elements)
    of_pairs = None if numbers is None else list(itertools.combinations_with_replacement(numbers, 2))
    rows = []
    for near in neighbors(system, cutoff):
        row = []
        for element in numbers or [None]:
            for gamma, mu in radial:
                total = 0.0
                for z, v in near:
                    r = np.linalg.norm(v)
                    if element in (None, z):
                        total += (weights[z] if weights else 1) * math.exp(-gamma * (r - mu) ** 2) * f_c(r, cutoff)
                row.append(total)
        for pair in of_pairs or [None]:
            for gamma, zeta, sign, *shift in angular:
                mu = shift[0] if shift else 0.0
                total = 0.0
                for (z_j, v_j), (z_k, v_k) in itertools.combinations(near, 2):
                    if pair is not None and tuple(sorted((z_j, z_k))) != tuple(sorted(pair)):
                        continue
                    r_j, r_k, r_jk = (float(np.linalg.norm(v)) for v in (v_j, v_k, v_k - v_j))
                    sides = [r_j, r_k] if form == "G5" else [r_j, r_k, r_jk]
                    if max(sides) >= angular_cutoff:
                        continue
                    cosine = v_j @ v_k / (r_j * r_k)
                    term = 2 ** (1 - zeta) * max(1 + sign * cosine, 0) ** zeta
                    for r in sides:
                        term *= math.exp(-gamma * (r - mu) ** 2) * f_c(r, angular_cutoff)
                    total += term * (weights[z_j] * weights[z_k] if weights else 1)
                row.append(total)
        rows.append(row)
    return np.array(rows)


def cosine(r: float, cutoff: float) -> float:
    return 0.5 * (math.cos(math.pi * r / cutoff) + 1)


def smooth(r: float, cutoff: float) -> float:
    return math.exp(1 - 1 / (1 - (r / cutoff) ** 2))


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("form", ["G4", "G5"])
@pytest.mark.parametrize("angular", [ANGULAR, SHIFTED], ids=["centred", "shifted"])
def test_equations(name: str, form: str, angular: Any) -> None:
    system = SYSTEMS[name]()
    z = dict.fromkeys(range(1, 10), 0.0) | {n: float(n) for n in atomic_numbers(ELEMENTS)}
    for cutoffs, function, f_c in (((4.1, 4.1), CosineCutoff(), cosine), ((4.4, 3.2), SmoothCutoff(), smooth)):
        args: Any = (cutoffs[0], RADIAL, angular, form, cutoffs[1])
        expected = by_the_book(system, ELEMENTS, *args, f_c)
        np.testing.assert_allclose(features(ACSF(4, *args, function), system), expected, rtol=1e-12, atol=1e-15)
        expected = by_the_book(system, None, *args, f_c, z)
        np.testing.assert_allclose(features(wACSF(ELEMENTS, *args, function), system), expected, rtol=1e-12, atol=1e-13)
        learned = wACSF(ELEMENTS, *args, function, learned=True).double()
        np.testing.assert_allclose(features(learned, system), expected, rtol=1e-12, atol=1e-13)
        own = {1: 0.3, 6: -1.7, 7: 2.2, 8: 0.9}
        with torch.no_grad():
            learned.weights.copy_(torch.tensor(list(own.values()), dtype=torch.float64))
        expected = by_the_book(system, None, *args, f_c, own)
        np.testing.assert_allclose(features(learned, system), expected, rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------------------------------------ DScribe


def dscribe_features(system: Atoms, elements: tuple[str, ...], cutoff: float, g2: Any, g4: Any, g5: Any) -> Any:
    """Return G2 (A, E, G2), G4 (A, pairs, G4) and G5 (A, pairs, G5) of DScribe in the order of this library."""
    from dscribe.descriptors import ACSF as Other

    inside = system.copy()
    inside.wrap()  # DScribe does not see all images of atoms outside the cell
    other = Other(
        r_cut=cutoff, g2_params=g2, g4_params=g4, g5_params=g5, species=elements, periodic=bool(system.pbc.any())
    )
    raw = other.create(inside)
    n = len(elements)
    start = n * (1 + len(g2))  # for each element G1, then G2
    radial = raw[:, :start].reshape(len(system), n, -1)[:, :, 1:]
    lower = raw[:, start:].reshape(len(system), n * (n + 1) // 2, -1)  # (0, 0), (1, 0), (1, 1), (2, 0), …
    upper = [b * (b + 1) // 2 + a for a in range(n) for b in range(a, n)]
    return radial, lower[:, upper, : len(g4)], lower[:, upper, len(g4) :]


@pytest.mark.parametrize("name", SYSTEMS)
def test_dscribe(name: str) -> None:
    pytest.importorskip("dscribe")
    system = SYSTEMS[name]()
    # For atoms in a line DScribe takes −1e-17 to the power of ζ, which is NaN for ζ = 3.5.
    rows = [row for row in ANGULAR if row[1] % 1 == 0 or len(system) > 1]
    for cutoff in (3.3, 4.7):
        radial, g4, g5 = dscribe_features(system, ELEMENTS, cutoff, RADIAL, rows, rows)
        for form, angular in (("G4", g4), ("G5", g5)):
            expected = np.concatenate([radial.reshape(len(system), -1), angular.reshape(len(system), -1)], axis=1)
            actual = features(ACSF(4, cutoff, RADIAL, rows, form), system)
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-15)
