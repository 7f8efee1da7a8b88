"""Energy terms: against other programs and published numbers, and under the contracts of every potential."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from contracts import ELEMENTS, SELF_ENERGIES, needs_kernels
from contracts import molecule as scattered
from torch import Tensor, nn

import anipot
from anipot import (
    CELU,
    D3,
    ZBL,
    AEVComputer,
    ANIModel,
    AtomicNetwork,
    CosineCutoff,
    Coulomb,
    EnergyShifter,
    Ensemble,
    Potential,
    SmoothCutoff,
)
from anipot.environments import Environments
from anipot.neighbors import Pairs, displacements, find_pairs
from anipot.separate import terms_alone
from anipot.structures import System
from anipot.terms import ErfDamping, ShortRangeExclusion
from anipot.units import BOHR_TO_ANGSTROM, COULOMB, HARTREE_TO_EV

NAN = float("nan")
CHARGES = {"H": 0.4, "C": -0.3, "N": -0.5, "O": -0.8}
CELL = torch.tensor([[5.3, 0.4, 0.0], [-0.9, 5.8, 0.2], [0.6, -0.7, 6.1]], dtype=torch.float64)
ALL = torch.tensor([True, True, True])


def networks() -> ANIModel:
    torch.manual_seed(3)
    return ANIModel([AtomicNetwork((384, 6, 1), CELU(0.1)) for _ in range(4)])


BUILD: dict[str, Callable[[], nn.Module]] = {
    "zbl": lambda: ZBL(ELEMENTS, cutoff=2.6, inner=1.2),
    "zbl_trainable": lambda: ZBL(ELEMENTS, cutoff=3.1, cutoff_function=SmoothCutoff(), trainable=True),
    "d3": lambda: D3(ELEMENTS, "wB97X"),
    "d3_triples": lambda: D3(ELEMENTS, "B97-3c", s9=1.0),
    "coulomb": lambda: Coulomb(ELEMENTS, CHARGES),
    "coulomb_network": lambda: Coulomb(ELEMENTS, networks()[0], neutral=True, damping=ErfDamping(0.6)),
    "ewald": lambda: Coulomb(ELEMENTS, CHARGES, cutoff=5.0),
    "ewald_networks": lambda: Coulomb(
        ELEMENTS, networks(), neutral=True, damping=ShortRangeExclusion(4.1, SmoothCutoff()), cutoff=5.0
    ),
}
NEEDS = {"d3": ("tad_dftd3", "dftd3"), "d3_triples": ("tad_dftd3", "dftd3"), "ewald": ("torchpme",)}
NEEDS["ewald_networks"] = NEEDS["ewald"]
PERIODIC = [name for name in BUILD if not name.startswith("coulomb") and name != "d3_triples"]


def term(name: str) -> nn.Module:
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library)
    torch.manual_seed(5)
    return BUILD[name]().double()


def potential(*terms: nn.Module) -> Potential:
    torch.manual_seed(7)
    members = [ANIModel([AtomicNetwork((384, 8, 1), CELU(0.1)) for _ in range(4)]) for _ in range(2)]
    shifter = EnergyShifter(SELF_ENERGIES)
    return Potential(ELEMENTS, AEVComputer.like_1x(), Ensemble(members), shifter, terms=terms).double()


@pytest.fixture(params=list(BUILD))
def model(request: pytest.FixtureRequest) -> Potential:
    return potential(term(request.param))


@pytest.fixture(params=PERIODIC)
def periodic_model(request: pytest.FixtureRequest) -> Potential:
    return potential(term(request.param))


def environments(
    part: Any, species: Tensor, x: Tensor, cell: Tensor | None = None, pbc: Tensor | None = None, features: Any = None
) -> Environments:
    """Return the surroundings in a batch of element indices (B, A)."""
    pairs = find_pairs(species, x, cell, pbc, part.cutoff)
    vectors = displacements(pairs, x, cell, pbc)
    features = x.new_zeros(species.numel(), 384) if features is None else features
    return Environments(species.reshape(-1), pairs, vectors, features, None, System(species, x, cell, pbc))


def energy(part: Any, atoms: Atoms, elements: tuple[str, ...]) -> Tensor:
    """Return the energy of a term alone."""
    species = anipot.SpeciesConverter(elements).convert(torch.tensor(atoms.numbers)[None])
    x = torch.tensor(atoms.positions)[None]
    cell = pbc = None
    if atoms.pbc.any():
        cell, pbc = torch.tensor(atoms.cell.array)[None], torch.tensor(atoms.pbc)[None]
    return part.atomic_energies(environments(part, species, x, cell, pbc)).sum().detach()


def central_difference(f: Callable[[float], Tensor], h: float) -> Tensor:
    """Return df/dx at 0 to fourth order."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


# ---------------------------------------------------------------------------------------------------------------- ZBL

#: Hartree. SchNetPack at 4c967da8 (2025-12-19), ZBLRepulsionEnergy("Ha", "Ang", "e", trainable=False, cutoff_fn=...)
#: in float64 on ase.build.molecule (ASE 3.29), all pairs; no cutoff function, and CosineCutoff(5.0).
SCHNETPACK = {
    ("CH3CH2OH", None): 1.1690763532028816,
    ("CH3CH2OH", 5.0): 0.976786021517259,
    ("CH3CONH2", None): 1.4311074582513807,
    ("CH3CONH2", 5.0): 1.194013128356179,
}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("name", "cutoff"), SCHNETPACK)
def test_zbl_of_schnetpack(name: str, cutoff: float | None, trainable: bool) -> None:
    if cutoff is None:
        zbl = ZBL(ELEMENTS, cutoff=200.0, inner=100.0, trainable=trainable)
    else:
        zbl = ZBL(ELEMENTS, cutoff=cutoff, cutoff_function=CosineCutoff(), trainable=trainable)
    assert abs(float(energy(zbl, molecule(name), ELEMENTS)) - SCHNETPACK[name, cutoff]) < 1e-13


def test_zbl_formula_as_lammps_prints_it() -> None:
    """https://docs.lammps.org/pair_zbl.html, whose a₀ is rounded: 0.46850 Å for 0.46853 Å."""
    r = np.array([0.2, 0.5, 0.9])
    for (a, za), (b, zb) in [(("H", 1), ("O", 8)), (("C", 6), ("N", 7)), (("O", 8), ("O", 8))]:
        for length, tolerance in ((0.46850, 3e-4), (0.8854 * BOHR_TO_ANGSTROM, 1e-13)):
            x = r * (za**0.23 + zb**0.23) / length
            terms = [0.18175, 0.50986, 0.28022, 0.02817], [3.19980, 0.94229, 0.40290, 0.20162]
            phi = sum(c * np.exp(-e * x) for c, e in zip(*terms, strict=True))
            expected = 14.399645 / 27.211386 * za * zb / r * phi
            zbl = ZBL([a, b] if a != b else [a], cutoff=2.0, inner=1.0)
            z = torch.tensor([za, zb]).double()
            found = zbl.pair_energies(z[0].expand(3), z[1].expand(3), torch.tensor(r)).detach().numpy()
            np.testing.assert_allclose(found, expected, rtol=max(tolerance, 1e-7))


def test_zbl_is_switched_off_smoothly() -> None:
    zbl = ZBL(ELEMENTS, cutoff=2.0, inner=1.0)
    carbon = torch.tensor([6.0], dtype=torch.float64)
    for where, moved in ((1.0, 1e-5), (2.0, 1e-5)):
        derivatives = []
        for side in (-moved, moved):
            r = torch.tensor([where + side], dtype=torch.float64, requires_grad=True)
            e = zbl.pair_energies(carbon, carbon, r).sum()
            (first,) = torch.autograd.grad(e, r, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), r)
            derivatives.append(torch.stack([e.detach(), first.detach()[0], second[0]]))
        torch.testing.assert_close(*derivatives, rtol=2e-3, atol=2e-3)
    unswitched = ZBL(ELEMENTS, cutoff=100.0, inner=99.0)
    r = torch.tensor([0.4, 1.0], dtype=torch.float64)
    both = carbon.expand(2)
    torch.testing.assert_close(zbl.pair_energies(both, both, r), unswitched.pair_energies(both, both, r))
    assert not zbl.pair_energies(both, both, r + 1.6).any()


def test_zbl_can_be_trained() -> None:
    zbl = ZBL(ELEMENTS, cutoff=3.0, trainable=True)
    assert {name for name, _ in zbl.named_parameters()} == {"power", "length", "exponents", "coefficients"}
    numbers, x = scattered(5, 1)
    model = potential(zbl)
    energies = model((numbers[None], x[None])).energies
    energies.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in zbl.parameters())
    with torch.no_grad():
        for p in zbl.parameters():
            p.sub_(30.0)
    power, length, exponents, coefficients = zbl.constants()
    assert power > 0
    assert length > 0
    assert (exponents > 0).all()
    torch.testing.assert_close(coefficients.sum(), torch.ones((), dtype=torch.float64))


# ----------------------------------------------------------------------------------------------------------------- D3

#: Hartree. dftd3 (s-dftd3) 1.7.0, DispersionModel(numbers, positions / 0.5291772105638411).get_dispersion(
#: RationalDampingParam(...), grad=False) on ase.build.molecule (ASE 3.29).
WB97X = {"a1": 0.0, "s8": 0.2641, "a2": 5.4959, "s6": 1.0, "s9": 0.0}
B973C = {"a1": 0.37, "s8": 1.5, "a2": 4.1, "s6": 1.0, "s9": 1.0}
S_DFTD3 = {
    ("H2O", "wB97X"): -0.0005697436752040756,
    ("H2O", "B97-3c"): -0.000847156281533003,
    ("CH3CH2OH", "wB97X"): -0.007414294730713075,
    ("CH3CH2OH", "B97-3c"): -0.00980049051462281,
    ("C6H6", "wB97X"): -0.022351723804877002,
    ("C6H6", "B97-3c"): -0.025777148719037867,
    ("CH3CONH2", "wB97X"): -0.009438854277060172,
    ("CH3CONH2", "B97-3c"): -0.011987836015017394,
}


@pytest.mark.parametrize(("name", "method"), S_DFTD3)
def test_d3_of_s_dftd3(name: str, method: str) -> None:
    pytest.importorskip("tad_dftd3")
    d3 = D3(ELEMENTS, method, s9=1.0 if method == "B97-3c" else 0.0)
    assert d3.parameters_in_use == (B973C if method == "B97-3c" else WB97X)
    atoms = molecule(name)
    assert abs(float(energy(d3, atoms, ELEMENTS)) - S_DFTD3[name, method]) < 1e-11
    interface = pytest.importorskip("dftd3.interface")
    model = interface.DispersionModel(atoms.numbers, atoms.positions / BOHR_TO_ANGSTROM)
    found = model.get_dispersion(interface.RationalDampingParam(**d3.parameters_in_use), grad=True)
    assert abs(float(found["energy"]) - S_DFTD3[name, method]) < 1e-11
    args = torch.tensor(atoms.numbers)[None], torch.tensor(atoms.positions)[None]
    forces = anipot.single_point(potential(d3), *args).forces - anipot.single_point(potential(), *args).forces
    np.testing.assert_allclose(forces[0].numpy(), -found["gradient"] / BOHR_TO_ANGSTROM, rtol=0, atol=1e-11)


def test_d3_of_a_large_cell_is_that_of_the_molecule() -> None:
    """Two programs: s-dftd3 for the cell, tad-dftd3 for the molecule."""
    term("d3_triples")
    atoms = molecule("CH3CH2OH")
    atoms.positions -= 7.3  # out of the cell
    for method, s9 in (("wB97X", 0.0), ("B97-3c", 1.0)):
        d3 = D3(ELEMENTS, method, s9=s9)
        free = energy(d3, atoms, ELEMENTS)
        for pbc in ((True, True, True), (True, False, True), (False, True, False)):
            atoms.set_cell(np.diag([60.0, 61.0, 62.0]))
            atoms.pbc = pbc
            torch.testing.assert_close(energy(d3, atoms, ELEMENTS), free, rtol=0, atol=1e-10)
        atoms.pbc = False


@pytest.mark.parametrize("name", ["wb97x", "ωB97X-D3(BJ)", "wB97X-D3BJ"])
def test_d3_knows_the_usual_spellings(name: str) -> None:
    pytest.importorskip("tad_dftd3")
    assert D3(ELEMENTS, name).parameters_in_use == WB97X


def test_d3_parameters_can_be_given() -> None:
    pytest.importorskip("tad_dftd3")
    assert D3(ELEMENTS, a1=0.4, s8=1.2, a2=4.0).parameters_in_use == {
        "a1": 0.4,
        "s8": 1.2,
        "a2": 4.0,
        "s6": 1.0,
        "s9": 0.0,
    }
    assert D3(ELEMENTS, "wB97X", s8=0.0).parameters_in_use == WB97X | {"s8": 0.0}
    again = D3(ELEMENTS, "made by me", **B973C)
    assert again.parameters_in_use == B973C
    assert "made by me: a1=0.37" in repr(again)
    with pytest.raises(ValueError, match=r"'b3lip'; it has them for .*b3lyp.*wb97x"):
        D3(ELEMENTS, "b3lip")
    with pytest.raises(ValueError, match=r"needs a method, or all of a1, s8 and a2; got {'a1': 0.4}"):
        D3(ELEMENTS, a1=0.4)
    with pytest.raises(ValueError, match="no parameters for Rf, Og; it ends at Lr"):
        D3(["C", "Rf", "Og"], "pbe")


def test_d3_has_no_hessian_of_crystals() -> None:
    model = potential(term("d3"))
    numbers, x = scattered(4, 1, 1.5)
    with pytest.raises(NotImplementedError, match=r"molecule 1 is periodic: D3 has .* no second derivatives"):
        anipot.single_point(
            model,
            numbers.expand(2, -1),
            x.expand(2, -1, -1),
            CELL,
            torch.stack([~ALL, ALL]),
            hessian=True,
        )


# ------------------------------------------------------------------------------------------------------------ Coulomb

#: Madelung constants with respect to the nearest distance and charges of ±1: OEIS A085469 and A181152. Zinc blende is
#: the mean of both lattices (potentials at ½½½ and ¼¼¼ of a cube): √3/4 NaCl + 1/2 CsCl.
MADELUNG = {"rocksalt": 1.74756459463318, "cesiumchloride": 1.76267477307099}
MADELUNG["zincblende"] = math.sqrt(3) / 4 * MADELUNG["rocksalt"] + MADELUNG["cesiumchloride"] / 2  # 1.63805505338879


@pytest.mark.parametrize(
    ("structure", "symbols"), [("rocksalt", "NaCl"), ("cesiumchloride", "CsCl"), ("zincblende", "ZnS")]
)
def test_madelung_constants(structure: str, symbols: str) -> None:
    pytest.importorskip("torchpme")
    atoms = bulk(symbols, structure, a=4.9)
    nearest = 4.9 * {"rocksalt": 0.5, "cesiumchloride": math.sqrt(3) / 2, "zincblende": math.sqrt(3) / 4}[structure]
    elements = tuple(atoms.get_chemical_symbols())
    for cutoff in (3.0, 7.3):
        coulomb = Coulomb(elements, [1.0, -1.0], cutoff=cutoff, accuracy=1e-12)
        constant = -energy(coulomb, atoms, elements) * nearest / COULOMB
        assert abs(float(constant) - MADELUNG[structure]) < 1e-10
    roughly = -energy(Coulomb(elements, [1.0, -1.0], cutoff=6.0), atoms, elements) * nearest / COULOMB
    assert abs(float(roughly) - MADELUNG[structure]) < 1e-8


def test_a_charged_cell_has_a_background() -> None:
    """E = −ξ k q² / 2L with ξ = 2.837297479 for a simple cubic lattice (doi:10.1103/PhysRevB.51.4014)."""
    pytest.importorskip("torchpme")
    atoms = Atoms("Na", cell=np.eye(3) * 6.2, pbc=True)
    found = energy(Coulomb(["Na"], [0.7], cutoff=4.0, accuracy=1e-12), atoms, ("Na",))
    assert abs(float(found) + 2.837297479480 * COULOMB * 0.49 / (2 * 6.2)) < 1e-10


def test_coulomb_of_a_molecule_is_the_sum_over_pairs() -> None:
    atoms = molecule("CH3CONH2")
    q = np.array([CHARGES[s] for s in atoms.get_chemical_symbols()])
    r = atoms.get_all_distances() + np.diag([np.inf] * len(atoms))
    expected = 0.5 * 14.399645478 / HARTREE_TO_EV * (q[:, None] * q / r).sum()  # e²/4πε₀ in eV Å
    assert abs(float(energy(Coulomb(ELEMENTS, CHARGES), atoms, ELEMENTS)) - expected) < 1e-8
    for damping, factor in (
        (ErfDamping(0.7), np.vectorize(math.erf)(r / 1.4)),
        (ShortRangeExclusion(3.0), np.where(r < 3, 0.5 - 0.5 * np.cos(np.pi * np.minimum(r, 3) / 3), 1)),
    ):
        expected = 0.5 * COULOMB * (q[:, None] * q / r * factor).sum()
        found = energy(Coulomb(ELEMENTS, CHARGES, damping=damping), atoms, ELEMENTS)
        assert abs(float(found) - expected) < 1e-13
    neutral = q - q.mean()
    expected = 0.5 * COULOMB * (neutral[:, None] * neutral / r).sum()
    found = energy(Coulomb(ELEMENTS, CHARGES, neutral=True), atoms, ELEMENTS)
    assert abs(float(found) - expected) < 1e-13


def test_ewald_of_a_large_cell_is_the_sum_over_pairs() -> None:
    """Where the molecule has no dipole, and its cell no other effect than r⁻⁵."""
    pytest.importorskip("torchpme")
    atoms = molecule("CH4")
    charges = {"H": 0.1, "C": -0.4}
    free = energy(Coulomb(["H", "C"], charges), atoms, ("H", "C"))
    finite = Coulomb(["H", "C"], charges, cutoff=9.0)
    assert float(energy(finite, atoms, ("H", "C"))) == float(free)
    for damping in (None, ErfDamping(0.5), ShortRangeExclusion(5.0)):
        atoms.pbc = False
        free = energy(Coulomb(["H", "C"], charges, damping=damping), atoms, ("H", "C"))
        atoms.set_cell(np.eye(3) * 30)
        atoms.pbc = True
        found = energy(Coulomb(["H", "C"], charges, damping=damping, cutoff=9.0), atoms, ("H", "C"))
        torch.testing.assert_close(found, free, rtol=0, atol=2e-8)


def test_ewald_does_not_depend_on_its_cutoff() -> None:
    pytest.importorskip("torchpme")
    numbers, x = scattered(6, 6)
    results = []
    for cutoff in (4.0, 6.0, 9.0):
        coulomb = Coulomb(ELEMENTS, CHARGES, cutoff=cutoff, damping=ErfDamping(0.2), accuracy=1e-11)
        args = potential(coulomb), numbers[None], x[None], CELL, ALL
        results.append(anipot.single_point(*args, stress=True, hessian=True))
    for result in results[1:]:
        torch.testing.assert_close(result.energies, results[0].energies, rtol=0, atol=1e-9)
        torch.testing.assert_close(result.forces, results[0].forces, rtol=0, atol=1e-9)
        torch.testing.assert_close(result.stress, results[0].stress, rtol=0, atol=1e-9)
        torch.testing.assert_close(result.hessian, results[0].hessian, rtol=0, atol=1e-8)


def test_ewald_is_smooth_where_its_pairs_end() -> None:
    pytest.importorskip("torchpme")
    x = torch.zeros(2, 2, 3, dtype=torch.float64)
    x[:, 1, 0] = 5.0 + torch.tensor([-1e-7, 1e-7], dtype=torch.float64)
    coulomb = Coulomb(ELEMENTS, CHARGES, cutoff=5.0)
    species = torch.tensor([[1, 3]]).expand(2, -1)
    cell = 14 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    found = coulomb.atomic_energies(environments(coulomb, species, x, cell, ALL.expand(2, 3))).view(2, 2).sum(-1)
    # The slope of the whole crystal over 2e-7 Å is far below the accuracy, 1e-9 of the interaction at the cutoff.
    assert abs(float(found.detach().diff())) < 2e-9


@pytest.mark.parametrize("name", ["coulomb_network", "ewald_networks"])
def test_charges_of_a_network_are_neutral_and_can_be_trained(name: str) -> None:
    coulomb = term(name)
    model = potential(coulomb)
    species, x = anipot.pad([scattered(5, 1), scattered(3, 2)])
    x[species < 0] = NAN
    system = model.system(species, x, None, None)
    pairs = find_pairs(*system, model.cutoff)
    seen = model.environments(system.species.reshape(-1), pairs, displacements(pairs, x, None, None), system)
    charges = coulomb.atomic_charges(seen)
    assert charges.dtype == torch.float64
    torch.testing.assert_close(charges.view(2, 5).sum(-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)
    assert not charges.view(2, 5)[1, 3:].any()
    assert float(charges.detach().abs().max()) > 1e-3
    x = torch.nan_to_num(x).requires_grad_()
    (gradient,) = torch.autograd.grad(model((species, x)).energies.sum(), x, create_graph=True)
    (gradient**2).sum().backward()
    weights = [p.grad for p in coulomb.parameters() if p.grad is not None]
    assert weights
    assert all(torch.isfinite(w).all() for w in weights)
    assert any(w.any() for w in weights)


# ------------------------------------------------------------------------------------------------------- all of them


def test_rotation_translation_permutation(model: Potential) -> None:
    numbers, x = scattered(6, 1)
    ask = {"members": True, "hessian": True}
    ref = anipot.single_point(model, numbers[None], x[None], **ask)
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turned = anipot.single_point(model, numbers[None], (x @ q.T)[None] + torch.tensor([3.0, -40.0, 7.0]), **ask)
    torch.testing.assert_close(turned.energies, ref.energies, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned.members.forces, ref.members.forces @ q.T, rtol=0, atol=1e-10)
    big = torch.kron(torch.eye(6, dtype=torch.float64), q.contiguous())
    torch.testing.assert_close(turned.hessian[0], big @ ref.hessian[0] @ big.T, rtol=0, atol=1e-8)
    order = torch.randperm(6)
    mixed = anipot.single_point(model, numbers[order][None], x[order][None])
    torch.testing.assert_close(mixed.energies, ref.energies, rtol=0, atol=1e-11)
    torch.testing.assert_close(mixed.forces, ref.forces[:, order], rtol=0, atol=1e-11)


def padded() -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    molecules = [scattered(n, seed) for n, seed in [(4, 1), (6, 2), (1, 3), (2, 4)]]
    species, x = anipot.pad(molecules)
    species = torch.nn.functional.pad(species, (1, 2, 0, 1), value=-1)  # ghosts in front, behind, and a row of them
    x = torch.nn.functional.pad(x, (0, 0, 1, 2, 0, 1))
    x[species < 0] = NAN
    return molecules, species, x


def test_batch_equals_singles_whatever_the_padding(model: Potential) -> None:
    molecules, species, x = padded()
    ask = {"hessian": True, "atomic_energies": True, "members": True}
    result = anipot.single_point(model, species, x, **ask)
    forward = model((species, x)).energies
    torch.testing.assert_close(forward.detach(), result.energies, rtol=1e-14, atol=0)
    for b, (numbers, positions) in enumerate(molecules):
        n = len(numbers)
        alone = anipot.single_point(model, numbers[None], positions[None], **ask)
        torch.testing.assert_close(result.energies[b], alone.energies[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(result.forces[b, 1 : n + 1], alone.forces[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(result.atomic_energies[b, 1 : n + 1], alone.atomic_energies[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(
            result.members.forces[:, b, 1 : n + 1], alone.members.forces[:, 0], rtol=0, atol=1e-12
        )
        part = result.hessian[b, 3 : 3 * n + 3, 3 : 3 * n + 3]
        torch.testing.assert_close(part, alone.hessian[0], rtol=0, atol=1e-11)
    for values in (result.forces, result.atomic_energies):
        assert (values[species < 0] == 0).all()
    assert not torch.isnan(result.hessian).any()
    assert float(result.energies[-1]) == 0


def test_ghosts_of_crystals(periodic_model: Potential) -> None:
    molecules, species, x = padded()
    pbc = ALL.expand(5, 3).clone()
    pbc[1] = False  # a molecule among crystals
    cells = torch.stack([CELL, CELL, CELL * 0.8, CELL[[1, 0, 2]], CELL])
    result = anipot.single_point(periodic_model, species, x, cells, pbc)
    chosen = pbc.any(-1)
    stress = anipot.single_point(
        periodic_model, species[chosen], x[chosen], cells[chosen], pbc[chosen], stress=True, members=True
    )
    for b, (numbers, positions) in enumerate(molecules):
        n = len(numbers)
        alone = anipot.single_point(periodic_model, numbers[None], positions[None], cells[b], pbc[b], stress=b != 1)
        torch.testing.assert_close(result.energies[b], alone.energies[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(result.forces[b, 1 : n + 1], alone.forces[0], rtol=0, atol=1e-11)
        if b != 1:
            row = b - (b > 1)
            torch.testing.assert_close(stress.stress[row], alone.stress[0], rtol=0, atol=1e-12)
            torch.testing.assert_close(stress.members.stress.mean(0)[row], alone.stress[0], rtol=0, atol=1e-12)
    assert not result.forces[species < 0].any()
    assert not torch.isnan(stress.stress).any()
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(periodic_model((species, x), cells, pbc).energies.sum(), x)
    torch.testing.assert_close(-gradient, result.forces, rtol=0, atol=1e-11)


def test_forces_and_hessian_by_finite_differences(model: Potential) -> None:
    numbers, x = scattered(5, 5)
    result = anipot.single_point(model, numbers[None], x[None], hessian=True)
    steps = torch.eye(15, dtype=torch.float64).view(15, 5, 3)

    def moved(h: float) -> anipot.SinglePoint:
        return anipot.single_point(model, numbers.expand(15, -1), x + h * steps)

    # The angular part of the AEVs has a kink in its second derivatives at the cutoff, hence the tolerances.
    forces = -central_difference(lambda h: moved(h).energies, 1e-3)
    torch.testing.assert_close(forces.view(5, 3), result.forces[0], rtol=0, atol=1e-7)
    hessian = -central_difference(lambda h: moved(h).forces.view(15, 15), 1e-3)
    scale = float(result.hessian.abs().max())
    torch.testing.assert_close(hessian, result.hessian[0], rtol=0, atol=1e-6 * scale)
    v = torch.rand(1, 5, 3, dtype=torch.float64)
    product = anipot.hessian_vector_product(model, numbers[None], x[None], v)
    torch.testing.assert_close(product.flatten(), result.hessian[0] @ v.flatten(), rtol=0, atol=1e-11 * scale)


CELLS = {
    "triclinic": (CELL, [1, 1, 1]),
    "left-handed": (CELL[[1, 0, 2]], [1, 1, 1]),
    "slab": (CELL, [1, 1, 0]),
    "wire": (CELL, [0, 0, 1]),
}


@pytest.mark.parametrize("kind", CELLS)
def test_forces_and_stress_of_crystals_by_finite_differences(periodic_model: Potential, kind: str) -> None:
    cell, pbc = CELLS[kind][0], torch.tensor(CELLS[kind][1], dtype=torch.bool)
    numbers, x = scattered(5, 6)
    if isinstance(periodic_model.terms[0], Coulomb) and not pbc.all():
        with pytest.raises(ValueError, match=r"molecule 0 has pbc .* an Ewald sum needs all three axes"):
            anipot.single_point(periodic_model, numbers[None], x[None], cell, pbc)
        return
    result = anipot.single_point(periodic_model, numbers[None], x[None], cell, pbc, stress=True)
    volume = float(torch.linalg.det(cell).abs())
    for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:

        def strained(h: float, i: int = i, j: int = j) -> Tensor:
            strain = torch.eye(3, dtype=torch.float64)
            strain[i, j] += h / 2
            strain[j, i] += h / 2
            return periodic_model((numbers[None], (x @ strain)[None]), cell @ strain, pbc).energies.detach()[0]

        expected = central_difference(strained, 1e-4) / volume
        # Pairs that cross the cutoff of D3 leave 1e-9 Hartree in differences of energies.
        assert abs(float(result.stress[0, i, j] - expected)) < 3e-7
    v = torch.rand(5, 3, dtype=torch.float64)

    def moved(h: float) -> Tensor:
        return periodic_model((numbers[None], (x + h * v)[None]), cell, pbc).energies.detach()[0]

    assert abs(float(central_difference(moved, 1e-3) + (result.forces[0] * v).sum())) < 3e-7


@pytest.mark.parametrize("name", ["zbl", "ewald", "ewald_networks"])
def test_hessian_of_crystals_by_finite_differences(name: str) -> None:
    model = potential(term(name))
    numbers, x = scattered(4, 6)
    result = anipot.single_point(model, numbers[None], x[None], CELL, ALL, hessian=True)
    steps = torch.eye(12, dtype=torch.float64).view(12, 4, 3)

    def moved(h: float) -> Tensor:
        return anipot.single_point(model, numbers.expand(12, -1), x + h * steps, CELL, ALL).forces.view(12, 12)

    scale = float(result.hessian.abs().max())
    torch.testing.assert_close(-central_difference(moved, 1e-3), result.hessian[0], rtol=0, atol=1e-6 * scale)


def test_a_supercell_and_wrapping_change_nothing(periodic_model: Potential) -> None:
    numbers, x = scattered(4, 7)
    one = anipot.single_point(periodic_model, numbers[None], x[None], CELL, ALL, stress=True)
    many = torch.cat([x, x + CELL[0]])
    double = CELL * torch.tensor([[2.0], [1.0], [1.0]])
    two = anipot.single_point(periodic_model, numbers.repeat(2)[None], many[None], double, ALL, stress=True)
    torch.testing.assert_close(two.energies, 2 * one.energies, rtol=0, atol=2e-9)
    torch.testing.assert_close(two.stress, one.stress, rtol=0, atol=2e-9)
    torch.testing.assert_close(two.forces.view(2, 4, 3), one.forces.expand(2, 4, 3), rtol=0, atol=2e-9)
    far = x + torch.randint(-3, 4, (4, 3)).double() @ CELL
    for where, lattice in [(far, CELL), (far, CELL[[1, 0, 2]])]:
        same = anipot.single_point(periodic_model, numbers[None], where[None], lattice, ALL, stress=True)
        torch.testing.assert_close(same.energies, one.energies, rtol=0, atol=1e-10)
        torch.testing.assert_close(same.forces, one.forces, rtol=0, atol=1e-10)
        torch.testing.assert_close(same.stress, one.stress, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["zbl", "zbl_trainable", "d3", "d3_triples"])
def test_separated_molecules_add_up(name: str) -> None:
    model = potential(term(name))
    (n1, x1), (n2, x2) = scattered(4, 8), scattered(5, 9)
    together = model((torch.cat([n1, n2])[None], torch.cat([x1, x2 + 1e4])[None])).energies
    parts = model((n1[None], x1[None])).energies + model((n2[None], x2[None])).energies
    torch.testing.assert_close(together, parts, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["coulomb", "ewald"])
def test_separated_charges_attract_each_other(name: str) -> None:
    coulomb = term(name)
    (n1, x1), (n2, x2) = scattered(4, 8), scattered(5, 9)
    q1, q2 = (sum(CHARGES[anipot.elements.symbol(int(n))] for n in numbers) for numbers in (n1, n2))
    atoms = [Atoms(n.numpy(), x.numpy()) for n, x in ((n1, x1), (n2, x2 + 1e6))]
    parts = sum(energy(coulomb, a, ELEMENTS) for a in atoms)
    distance = float((x2.mean(0) + 1e6 - x1.mean(0)).norm())
    left = energy(coulomb, atoms[0] + atoms[1], ELEMENTS) - parts
    assert abs(float(left) - COULOMB * q1 * q2 / distance) < 1e-11


def test_gradients_twice(model: Potential) -> None:
    part = model.terms[0]
    numbers, x = scattered(3, 12)
    species = anipot.SpeciesConverter(ELEMENTS).convert(numbers)[None]
    features = torch.rand(3, 384, dtype=torch.float64)
    fn = lambda y: part.atomic_energies(environments(part, species, y, features=features)).sum()  # noqa: E731
    assert torch.autograd.gradcheck(fn, x[None].requires_grad_())
    assert torch.autograd.gradgradcheck(fn, x[None].requires_grad_())


@pytest.mark.parametrize("name", PERIODIC)
def test_gradients_of_crystals(name: str) -> None:
    part: Any = term(name)
    numbers, x = scattered(3, 12)
    species = anipot.SpeciesConverter(ELEMENTS).convert(numbers)[None]

    def total(y: Tensor, cell: Tensor) -> Tensor:
        return part.atomic_energies(environments(part, species, y, cell, ALL[None])).sum()

    args = x[None].requires_grad_(), CELL[None].clone().requires_grad_()
    # Terms of 1e-9 come and go at the cutoffs of Ewald sums and of D3.
    assert torch.autograd.gradcheck(total, args, eps=1e-4, atol=2e-5)
    if not isinstance(part, D3):
        assert torch.autograd.gradgradcheck(total, args, eps=1e-4, atol=2e-5)


def test_one_can_differentiate_oneself(periodic_model: Potential) -> None:
    numbers, x = scattered(5, 11)
    x.requires_grad_()
    cell = CELL.clone().requires_grad_()
    energies = periodic_model((numbers[None], x[None]), cell, ALL).energies
    gradient, from_cell = torch.autograd.grad(energies.sum(), (x, cell))
    result = anipot.single_point(periodic_model, numbers[None], x[None], cell, ALL, stress=True)
    torch.testing.assert_close(-gradient, result.forces[0], rtol=0, atol=1e-12)
    virial = x.T @ gradient + cell.T @ from_cell
    torch.testing.assert_close((virial / torch.linalg.det(cell)).detach(), result.stress[0], rtol=0, atol=1e-12)


def test_lone_atoms_and_empty_batches(model: Potential) -> None:
    alone = anipot.single_point(model, torch.tensor([[8]]), torch.zeros(1, 1, 3, dtype=torch.float64), hessian=True)
    expected = anipot.single_point(potential(), torch.tensor([[8]]), torch.zeros(1, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(alone.energies, expected.energies, rtol=1e-15, atol=0)
    assert not alone.forces.any()
    assert not alone.hessian.any()
    for shape in ((0, 5), (3, 0), (0, 0)):
        species = torch.empty(shape, dtype=torch.long)
        result = anipot.single_point(model, species, torch.empty(*shape, 3), hessian=True, atomic_energies=True)
        assert result.forces.shape == (*shape, 3)
        assert not result.energies.any()
        assert model((species, torch.empty(*shape, 3))).energies.shape == (shape[0],)
    ghosts = anipot.single_point(model, torch.full((2, 3), -1), torch.full((2, 3, 3), NAN), hessian=True)
    assert not ghosts.energies.any()
    assert not ghosts.forces.any()
    assert not ghosts.hessian.any()


def test_blocks_change_nothing(model: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    species, x = anipot.pad([scattered(n, n) for n in (9, 4, 7, 5)])
    ask = {"atomic_energies": True, "members": True}
    whole = anipot.single_point(model, species, x, **ask)
    monkeypatch.setattr("anipot.derivatives.BLOCK_BYTES", 50_000)
    parts = anipot.single_point(model, species, x, **ask)
    for name in ("energies", "forces", "atomic_energies"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(parts.members.forces, whole.members.forces, rtol=0, atol=1e-12)


def test_blocks_of_crystals_change_nothing(periodic_model: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    species, x = anipot.pad([scattered(n, n) for n in (4, 2, 5)])
    cells = torch.stack([CELL, 0.9 * CELL, CELL[[2, 1, 0]]])
    args = periodic_model, species, x, cells, ALL
    whole = anipot.single_point(*args, stress=True, members=True)
    monkeypatch.setattr("anipot.derivatives.BLOCK_BYTES", 50_000)
    parts = anipot.single_point(*args, stress=True, members=True)
    torch.testing.assert_close(parts.members.forces, whole.members.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.members.stress, whole.members.stress, rtol=0, atol=1e-12)


def test_float32_networks(model: Potential) -> None:
    numbers, x = scattered(5, 13)
    exact = anipot.single_point(model, numbers[None], x[None])
    for dtype in (torch.float32, torch.float64):
        rough = anipot.single_point(model.float(), numbers[None], x[None].to(dtype), hessian=True)
        assert rough.energies.dtype == torch.float64
        assert rough.forces.dtype == dtype
        torch.testing.assert_close(rough.energies, exact.energies, rtol=0, atol=1e-5)
    if isinstance(model.terms[0], ZBL) and not model.terms[0].trainable:
        assert model.terms[0].exponents.dtype == torch.float64


def test_a_potential_is_the_sum_of_its_parts() -> None:
    """Through single_point, single members, the ASE calculator and energies of the terms by hand."""
    names = ["zbl", *(n for n in ("d3", "ewald") if all(find_spec(library) for library in NEEDS[n]))]
    terms: list[Any] = [term(name) for name in names]
    full, bare = potential(*terms), potential()
    assert [shown.split("(")[0] for shown in full.info()["terms"]] == [type(t).__name__ for t in terms]
    numbers, x = scattered(6, 14)
    for cell, pbc in ((None, None), (CELL, ALL)):
        args = numbers[None], x[None], cell, pbc
        ask = {"stress": cell is not None, "members": True, "atomic_energies": True}
        total, network = anipot.single_point(full, *args, **ask), anipot.single_point(bare, *args, **ask)
        atoms = Atoms(numbers.numpy(), x.numpy(), cell=None if cell is None else cell.numpy(), pbc=cell is not None)
        added = sum(energy(t, atoms, ELEMENTS) for t in terms)
        torch.testing.assert_close(total.energies - network.energies, added[None], rtol=0, atol=1e-12)
        torch.testing.assert_close(total.members.energies - network.members.energies, added.expand(2, 1))
        torch.testing.assert_close(total.members.energies_std, network.members.energies_std, rtol=0, atol=1e-12)
        torch.testing.assert_close(total.atomic_energies.sum(-1), total.energies)
        singles = [anipot.single_point(potential(t), *args, **ask) for t in terms]
        for name in ("forces", "stress") if cell is not None else ("forces",):
            base = getattr(network, name)
            parts = base + sum(getattr(single, name) - base for single in singles)
            torch.testing.assert_close(getattr(total, name), parts, rtol=0, atol=1e-12)
        torch.testing.assert_close(full[1]((args[0], args[1]), cell, pbc).energies.detach(), total.members.energies[1])
        atoms.calc = full.ase()
        assert abs(atoms.get_potential_energy() / HARTREE_TO_EV - float(total.energies)) < 1e-11
        np.testing.assert_allclose(atoms.get_forces() / HARTREE_TO_EV, total.forces[0].numpy(), rtol=0, atol=1e-12)
        atoms.rattle(0.02, seed=1)
        moved = anipot.single_point(full, numbers[None], torch.tensor(atoms.positions)[None], cell, pbc)
        assert abs(atoms.get_potential_energy() / HARTREE_TO_EV - float(moved.energies)) < 1e-11
        if cell is not None:
            voigt = atoms.get_stress(voigt=False) / HARTREE_TO_EV
            moved = anipot.single_point(
                full, numbers[None], torch.tensor(atoms.positions)[None], cell, pbc, stress=True
            )
            np.testing.assert_allclose(voigt, moved.stress[0].numpy(), rtol=0, atol=1e-12)
        else:
            hessian = full.ase().get_hessian(atoms) / HARTREE_TO_EV
            again = anipot.single_point(full, numbers[None], torch.tensor(atoms.positions)[None], hessian=True)
            np.testing.assert_allclose(hessian, again.hessian[0].numpy(), rtol=0, atol=1e-11)


def test_coulomb_in_the_ase_calculator() -> None:
    """An infinite cutoff, and a list of neighbors that stays valid."""
    model = potential(term("coulomb"))
    atoms = molecule("CH3CH2OH")
    atoms.calc = model.ase()
    for _ in range(2):
        atoms.rattle(0.1, seed=3)
        direct = model((torch.tensor(atoms.numbers)[None], torch.tensor(atoms.positions)[None])).energies
        assert abs(atoms.get_potential_energy() / HARTREE_TO_EV - float(direct.detach())) < 1e-11
    atoms.center(vacuum=3)
    atoms.pbc = True
    with pytest.raises(ValueError, match=r"molecule 0 has pbc \[True, True, True\], but an infinite cutoff"):
        atoms.get_potential_energy()


# ------------------------------------------------------------------------------------------------------- user errors


def test_an_infinite_cutoff_means_all_pairs() -> None:
    numbers, x = scattered(5, 1)
    pairs = find_pairs(
        torch.stack([numbers, -torch.ones_like(numbers)]), x.expand(2, -1, -1) * 1e3, None, None, math.inf
    )
    assert pairs.shift is None
    assert sorted(zip(pairs.center.tolist(), pairs.neighbor.tolist(), strict=True)) == [
        (i, j) for i in range(5) for j in range(5) if i != j
    ]


def test_wrong_arguments() -> None:
    for build in (lambda e: ZBL(e), lambda e: Coulomb(e, [0.0] * len(e))):
        with pytest.raises(ValueError, match="no element has the symbol 'Xx'"):
            build(["H", "Xx"])
    for cutoffs in ({"cutoff": 1.0, "inner": 2.0}, {"cutoff": 1.0, "inner": -0.1}, {"cutoff": math.inf}):
        with pytest.raises(ValueError, match="ZBL needs 0 ≤ inner < cutoff"):
            ZBL(ELEMENTS, **cutoffs)
    with pytest.raises(ValueError, match="cutoff of ZBL must be positive and finite"):
        ZBL(ELEMENTS, cutoff=-1.0, cutoff_function=CosineCutoff())
    with pytest.raises(ValueError, match=r"charges are needed for H, O, all of them and no others, got {'H': 0.4}"):
        Coulomb(["H", "O"], {"H": 0.4})
    with pytest.raises(ValueError, match="no others"):
        Coulomb(["H"], {"H": 0.4, "O": 1.0})
    with pytest.raises(ValueError, match="2 finite numbers"):
        Coulomb(["H", "O"], [0.4])
    with pytest.raises(ValueError, match="made for 4 elements, not 1"):
        Coulomb(["H"], networks())
    with pytest.raises(ValueError, match="must be positive"):
        Coulomb(["H"], [0.4], cutoff=0.0)
    with pytest.raises(ValueError, match="accuracy must lie between"):
        Coulomb(["H"], [0.4], accuracy=0.5)
    with pytest.raises(ValueError, match="sigma must be positive"):
        ErfDamping(0.0)
    with pytest.raises(ValueError, match="cutoff must be positive and finite"):
        ShortRangeExclusion(math.inf)
    with pytest.raises(ValueError, match=r"the term ZBL is made for \('C', 'H', 'N', 'O'\), but the potential for"):
        potential(ZBL(["C", "H", "N", "O"]))
    with pytest.raises(ValueError, match="made for 2 elements, but 4"):
        potential(ZBL(["C", "H"]))


def test_dampings_must_end_before_an_ewald_sum() -> None:
    pytest.importorskip("torchpme")
    for damping in (ErfDamping(2.0), ShortRangeExclusion(6.0)):
        with pytest.raises(ValueError, match=r"the damping leaves out .* at the cutoff of the Ewald sum, 5.0 Å"):
            Coulomb(ELEMENTS, CHARGES, damping=damping, cutoff=5.0)


def test_charges_of_an_ensemble_are_refused() -> None:
    coulomb = Coulomb(ELEMENTS, Ensemble([networks(), networks()])).double()
    numbers, x = scattered(4, 1)
    with pytest.raises(ValueError, match=r"must come from one model, got \(2, 4\)"):
        potential(coulomb)((numbers[None], x[None]))
    with pytest.raises(ValueError, match=r"must return \(4, 1\), got \(4, 2\)"):
        potential(Coulomb(ELEMENTS, nn.Linear(384, 2)))((numbers[None], x[None]))


@pytest.mark.parametrize("name", ["d3", "ewald", "coulomb_network"])
def test_a_system_is_needed(name: str) -> None:
    part: Any = term(name)
    empty = torch.empty(0, dtype=torch.long)
    vectors = torch.empty(0, 3, dtype=torch.float64)
    bare = Environments(torch.tensor([0]), Pairs(empty, empty, None), vectors, torch.zeros(1, 384).double())
    with pytest.raises(ValueError, match="needs coordinates and cells, but was given vectors of pairs only"):
        part.atomic_energies(bare)


def test_pairs_of_crystals_are_refused_by_the_sum_over_pairs() -> None:
    empty, vectors = torch.empty(0, dtype=torch.long), torch.empty(0, 3, dtype=torch.float64)
    pairs = Pairs(empty, empty, torch.empty(0, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="give it a finite cutoff for an Ewald sum"):
        term("coulomb").atomic_energies(Environments(torch.tensor([0]), pairs, vectors, torch.zeros(1, 384)))


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tad_dftd3", "torchpme"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package tad-dftd3: pip install anipot\[d3\]"):
        D3(ELEMENTS, "pbe")
    with pytest.raises(ModuleNotFoundError, match=r"torch-pme for its Ewald sum: pip install anipot\[ewald\]"):
        Coulomb(ELEMENTS, CHARGES, cutoff=5.0)
    Coulomb(ELEMENTS, CHARGES)


def test_missing_s_dftd3(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tad_dftd3")
    d3 = D3(ELEMENTS, "pbe")
    monkeypatch.setitem(sys.modules, "dftd3.interface", None)
    atoms = molecule("H2O")
    assert float(energy(d3, atoms, ELEMENTS)) < 0
    atoms.center(vacuum=3)
    atoms.pbc = True
    with pytest.raises(ModuleNotFoundError, match=r"needs the package dftd3: pip install anipot\[d3\]"):
        energy(d3, atoms, ELEMENTS)


@needs_kernels
@pytest.mark.parametrize("periodic", [False, True])
def test_networks_are_native_beside_terms_that_need_no_features(periodic: bool) -> None:
    bare = potential()
    args = bare.elements, bare.representation, bare.head, bare.shifter
    model = Potential(*args, terms=[ZBL(bare.elements), Coulomb(bare.elements, [0.1, -0.1, 0.2, -0.2], neutral=True)])
    model = Potential(*args, terms=[ZBL(bare.elements)]) if periodic else model
    species, x = anipot.pad([scattered(7, 1, spacing=1.1), scattered(4, 2, spacing=1.1)])
    x[species < 0] = torch.nan
    lattice = (6.5 * torch.eye(3, dtype=torch.float64), torch.tensor([True, True, False])) if periodic else ()
    ask = {"stress": periodic, "hessian": True, "atomic_energies": True, "members": True}
    with mock.patch("anipot.derivatives.terms_alone", side_effect=terms_alone) as apart:
        found = anipot.single_point(model, species, x, *lattice, **ask)
    assert apart.call_count == 1
    with anipot.reference_path():
        expected = anipot.single_point(model, species, x, *lattice, **ask)
    for name in ("energies", "forces", "atomic_energies", "hessian", *(["stress"] if periodic else [])):
        wanted = getattr(expected, name)
        atol = 1e-12 * max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(getattr(found, name), wanted, rtol=0, atol=atol)
        if name != "hessian":
            ours, theirs = getattr(found.members, name), getattr(expected.members, name)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    learned = AtomicNetwork((384, 4, 1), CELU(0.1)).double()
    model.terms.append(Coulomb(bare.elements, learned))  # which does need features
    if not periodic:
        both = anipot.single_point(model, species, x).energies
        assert (both - found.energies).abs().max() > 1e-6
        with anipot.reference_path():
            torch.testing.assert_close(both, anipot.single_point(model, species, x).energies)
