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


#: Water and a hydroxyl radical, 16 features of the first atom: G2, G4 and G5 below for H and O, HH, HO and OO.
REFERENCE_SYSTEM = Atoms(
    "OHHOH",
    [[0.1, 0.2, 0.0], [1.0, 0.1, 0.3], [-0.2, 1.1, 0.1], [1.6, 1.9, 1.4], [1.2, 2.6, 0.9]],
    cell=[[3.6, 0.0, 0.0], [0.5, 3.9, 0.0], [-0.3, 0.7, 4.2]],
)
REFERENCE_ROWS = [(0.5, 0.0), (4.0, 1.2)], [(0.01, 1.0, 1.0), (0.3, 4.0, -1.0)]
#: Of DScribe 2.1.2 (numpy 2.4.6, ASE 3.29.0), 2026-11-21, printed by ``python tests/test_acsf.py``.
# fmt: off
REFERENCE = {
    "molecule": [
        1.1032866364019, 1.359647983574914, 0.007201529330090326, 4.7089067935241365e-05,
        0.4792992301988718, 0.059089080707616204, 0.30875864583800644, 1.681168424312239e-05, 0.0, 0.0,
        0.9860600403127517, 0.18751497011417828, 0.7110551358029895, 0.00022582300412819114, 0.0, 0.0,
    ],
    "crystal": [
        1.2114154202230831, 1.4631863165575756, 0.013026039214971315, 5.541221299063087e-05,
        1.1206762801026098, 0.06439199597756946, 0.7225729305476677, 3.2415743685500525e-05,
        0.003259983071321677, 7.535635133993988e-09,
        2.7577465382326096, 0.4080762402592331, 2.207829291631927, 0.027496541167157423,
        0.15442859034648787, 0.0002984331668614572,
    ],
}
# fmt: on


def reference_features(periodic: bool) -> list[float]:
    system = REFERENCE_SYSTEM.copy()
    system.pbc = periodic
    radial, rows = REFERENCE_ROWS
    parts = dscribe_features(system, ("H", "O"), 4.0, radial, rows, rows)
    return [float(value) for part in parts for value in part[0].ravel()]


@pytest.mark.parametrize("name", REFERENCE)
def test_numbers_of_dscribe(name: str) -> None:
    species = torch.tensor([[1, 0, 0, 1, 0]])
    x, cell = torch.tensor(REFERENCE_SYSTEM.positions)[None], torch.tensor(REFERENCE_SYSTEM.cell.array)
    pbc = torch.full((3,), name == "crystal")
    radial, rows = REFERENCE_ROWS
    g4, g5 = (ACSF(2, 4.0, radial, rows, form)((species, x), cell, pbc).features[0, 0] for form in ("G4", "G5"))
    actual = torch.cat([g4, g5[4:]])
    torch.testing.assert_close(actual, torch.tensor(REFERENCE[name], dtype=torch.float64), rtol=1e-12, atol=0)


# -------------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("form", ["G4", "G5"])
@pytest.mark.parametrize("zeta", [1.0, 1.5, 2.0, 2.5, 4.0, 16.0])
def test_atoms_in_a_line_have_finite_and_right_derivatives(form: str, zeta: float) -> None:
    """1 + cos θ of the middle atom and 1 − cos θ of the others are 0, but for rounding."""
    rep = ACSF(1, 6.0, angular=[(0.02, zeta, 1), (0.02, zeta, -1)], form=form)
    for seed in range(4):
        axis = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x = torch.tensor([-1.2, 0.0, 1.1, 2.7], dtype=torch.float64)[:, None] * axis / axis.norm()
        species = torch.zeros(1, 4, dtype=torch.long)
        mix = torch.linspace(0.5, 1.5, 8, dtype=torch.float64).view(4, 2)

        def total(y: Tensor, species: Tensor = species, mix: Tensor = mix) -> Tensor:
            return (rep((species, y)).features * mix.to(y.dtype)).sum()

        assert torch.autograd.gradcheck(total, x[None].requires_grad_())
        assert torch.autograd.gradgradcheck(total, x[None].requires_grad_(), atol=1e-5)
        hessian = torch.autograd.functional.hessian(total, x[None].float().detach())
        assert isinstance(hessian, Tensor)
        assert torch.isfinite(hessian).all()


def test_learned_weights_have_gradients() -> None:
    numbers, x = molecule(5, 5)
    species = anipot.SpeciesConverter(ELEMENTS).convert(numbers)[None]
    rep = wACSF(ELEMENTS, 4.5, RADIAL, SHIFTED, learned=True).double()
    assert [name for name, _ in rep.named_parameters()] == ["weights"]
    assert not list(wACSF(ELEMENTS, 4.5, RADIAL).parameters())

    def of_weights(weights: Tensor, y: Tensor) -> Tensor:
        return torch.func.functional_call(rep, {"weights": weights}, ((species, y),)).features

    inputs = rep.weights.detach().clone().requires_grad_(), x[None].requires_grad_()
    assert torch.autograd.gradcheck(of_weights, inputs)
    assert torch.autograd.gradgradcheck(of_weights, inputs)


def test_ghosts_and_dtypes() -> None:
    padded, x = anipot.pad([molecule(6, 6), molecule(3, 7)])
    species = anipot.SpeciesConverter(ELEMENTS).convert(padded)
    x[species < 0] = math.nan
    for rep in (ACSF(4, 4.5, RADIAL, ANGULAR), wACSF(ELEMENTS, 4.5, RADIAL, SHIFTED, "G5")):
        result = rep((species, x)).features
        assert (result[species < 0] == 0).all()
        alone = rep((species[1:, :3], x[1:, :3])).features
        torch.testing.assert_close(result[1:, :3], alone, rtol=1e-13, atol=0)
        rough = rep.float()((species, x.float())).features
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough.double(), result, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(rep((species, x)).features, result, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------- construction


def test_attributes_rebuild_and_parts_are_optional() -> None:
    system = SYSTEMS["molecule"]()
    a = ACSF(4, 4.5, RADIAL, ANGULAR + SHIFTED, "G5", 3.7, SmoothCutoff())
    same = ACSF(a.num_species, a.cutoff, a.radial, a.angular, a.form, a.angular_cutoff, a.cutoff_function)
    np.testing.assert_array_equal(features(same, system), features(a, system))
    only = ACSF(4, 4.5, RADIAL), ACSF(4, 4.5, (), ANGULAR + SHIFTED, "G5", 3.7, SmoothCutoff())
    assert [rep.num_features for rep in only] == [4 * 4, 10 * 10]
    np.testing.assert_array_equal(features(only[1], system), features(a, system)[:, 16:])
    w = wACSF(ELEMENTS, 4.5, RADIAL, SHIFTED, learned=True)
    args = (w.elements, w.cutoff, w.radial, w.angular, w.form, w.angular_cutoff, w.cutoff_function, w.learned)
    again = wACSF(*args)
    again.load_state_dict(w.state_dict())
    np.testing.assert_array_equal(features(again, system), features(w, system))


def test_grids() -> None:
    for rep in (ACSF.shifted(3, 5.0), wACSF.shifted(["H", "C", "O"], 5.0)):
        gamma, mu = rep.radial.T
        torch.testing.assert_close(mu, torch.linspace(0.5, 4.5, 22, dtype=torch.float64))
        torch.testing.assert_close(gamma, (0.5 / (mu[1] - mu[0]) ** 2).expand(22))
        assert rep.num_features == (32 if isinstance(rep, wACSF) else 3 * 22 + 6 * 10)
    centred = wACSF.centred(["H"], 6.0, 11, 3, zetas=(1, 8), angular_cutoff=3.5, form="G5", learned=True)
    torch.testing.assert_close(centred.radial[:, 0], 0.5 / torch.linspace(1.0, 5.5, 11, dtype=torch.float64) ** 2)
    assert not centred.radial[:, 1].any()
    widths = [0.5 / r**2 for r in (1.0, 2.0, 3.0)]
    expected = [(gamma, zeta, sign, 0.0) for gamma in widths for zeta in (1, 8) for sign in (1, -1)]
    torch.testing.assert_close(centred.angular, torch.tensor(expected, dtype=torch.float64))
    assert (centred.form, centred.angular_cutoff, centred.learned) == ("G5", 3.5, True)
    assert ACSF.shifted(1, 5.0, num_radial=0).num_features == 10
    assert ACSF.centred(1, 5.0, num_widths=0).num_features == 22


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ACSF(4, 0.0, RADIAL), r"0 < angular_cutoff <= cutoff \(Å\), got .* cutoff = 0"),
        (lambda: ACSF(4, math.nan, RADIAL), r"0 < angular_cutoff <= cutoff"),
        (lambda: ACSF(4, 4.0, RADIAL, angular_cutoff=-1.0), r"got angular_cutoff = -1, cutoff = 4"),
        (lambda: ACSF(4, 4.0, RADIAL, angular_cutoff=4.5), r"got angular_cutoff = 4.5, cutoff = 4"),
        (lambda: ACSF(0, 4.0, RADIAL), r"num_species must be at least 1, got 0"),
        (lambda: ACSF(4, 4.0), r"no functions: radial and angular are both empty"),
        (lambda: ACSF(4, 4.0, [(0.5, 1.0), (0.5,)]), r"radial\[1\] must be \(γ, μ\), got 1 numbers"),
        (lambda: ACSF(4, 4.0, [0.5, 1.0]), r"radial\[0\] must be \(γ, μ\), got 1 numbers: 0.5"),
        (lambda: ACSF(4, 4.0, [(-0.5, 1.0)]), r"radial\[0\] has γ = -0.5, expected at least 0"),
        (lambda: ACSF(4, 4.0, [(0.5, math.inf)]), r"radial\[0\] must be finite numbers"),
        (lambda: ACSF(4, 4.0, (), [(0.5, 1.0)]), r"angular\[0\] must be \(γ, ζ, λ\) or \(γ, ζ, λ, μ\), got 2 numbers"),
        (lambda: ACSF(4, 4.0, (), [(0.5, 0.5, 1)]), r"angular\[0\] has ζ = 0.5, expected at least 1"),
        (lambda: ACSF(4, 4.0, (), [(0.5, 1, 1), (0.5, 1, 0)]), r"angular\[1\] has λ = 0, expected 1 or -1"),
        (lambda: ACSF(4, 4.0, RADIAL, form="G3"), r"form must be 'G4' .* or 'G5' .*, got 'G3'"),
        (lambda: wACSF(["H", "Xx"], 4.0, RADIAL), r"no element has the symbol 'Xx'"),
        (lambda: wACSF(["H", "H"], 4.0, RADIAL), r"no symbol twice, got \('H', 'H'\)"),
        (lambda: wACSF([], 4.0, RADIAL), r"at least one symbol"),
        (lambda: ACSF.shifted(4, 0.9), r"needs a cutoff above 1 Å, got 0.9"),
        (lambda: ACSF.centred(4, 5.0, -1), r"number of Gaussians must not be negative, got -1"),
    ],
)
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_potential_has_the_elements_of_its_weights() -> None:
    rep = wACSF(["C", "H"], 4.0, RADIAL)
    head = anipot.ANIModel([anipot.AtomicNetwork((4, 4, 1), anipot.CELU(0.1)) for _ in range(2)])
    with pytest.raises(ValueError, match=r"made for the elements \('C', 'H'\), but \('H', 'C'\) were given"):
        anipot.Potential(["H", "C"], rep, head, anipot.EnergyShifter([0.0, 0.0]))


if __name__ == "__main__":
    print({"molecule": reference_features(False), "crystal": reference_features(True)})
