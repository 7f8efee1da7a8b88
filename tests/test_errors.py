"""What cannot be computed is refused in words: what was seen, what was expected, and where."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from contracts import potential

import anipot
from anipot import Potential

NAN = float("nan")
BOX = 9 * torch.eye(3, dtype=torch.float64)
ALL = torch.tensor([True, True, True])


@pytest.fixture(scope="module")
def model() -> Potential:
    return potential("aev_1x", "ensemble")


def water(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
    return torch.tensor([[8, 1, 1]]).repeat(batch, 1), x.repeat(batch, 1, 1)


def changed(tensor: torch.Tensor, index: tuple, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


S, X = water()
CASES = {
    "unknown element": ((changed(S, (1, 2), 15), X), {}, ValueError, r"molecule 1, atom 2 is P .*15.*knows H, C, N, O"),
    "no element": ((changed(S, (0, 0), 0), X), {}, ValueError, r"molecule 0, atom 0 is no element \(0\)"),
    "huge number": ((changed(S, (0, 1), 500), X), {}, ValueError, r"molecule 0, atom 1 is no element \(500\)"),
    "species -2": ((changed(S, (1, 0), -2), X), {}, ValueError, "molecule 1, atom 0 has species -2"),
    "nan": ((S, changed(X, (0, 2, 1), NAN)), {}, ValueError, "molecule 0, atom 2 has coordinates.*nan.*finite"),
    "inf": ((S, changed(X, (1, 0, 0), float("inf"))), {}, ValueError, "molecule 1, atom 0 has coordinates.*inf"),
    "one spot": (
        (S, X * changed(torch.ones(2, 3, 3), (1, 1), 0)),
        {},
        ValueError,
        "molecule 1: atoms 0 and 1 stand on one spot",
    ),
    "one spot by an image": (
        (S, changed(X, (0, 1, 0), 9.0)),
        {"cell": BOX, "pbc": ALL},
        ValueError,
        r"molecule 0: atoms 0 and 1 \(its image \[-1, 0, 0\]\) stand on one spot",
    ),
    "flat species": ((S[0], X[0]), {}, ValueError, r"got \(3,\) and \(3, 3\); for one molecule pass species\[None\]"),
    "sizes": ((S, X[:, :2]), {}, ValueError, r"got \(2, 3\) and \(2, 2, 3\)"),
    "two coordinates": ((S, X[..., :2]), {}, ValueError, r"got \(2, 3\) and \(2, 3, 2\)"),
    "integer coordinates": ((S, X.long()), {}, TypeError, "coordinates must be float32 or float64 .*int64"),
    "half": ((S, X.half()), {}, TypeError, "coordinates must be float32 or float64 .*float16"),
    "float species": ((S.double(), X), {}, TypeError, "species must be integers .*float64"),
    "list species": ((S.tolist(), X), {}, TypeError, "species must be a tensor of integers, got list"),
    "pbc without cell": ((S, X), {"pbc": ALL}, ValueError, r"molecule 0 has pbc \[True, True, True\], but no cell"),
    "cell without pbc": ((S, X), {"cell": BOX}, ValueError, "a cell was given without pbc"),
    "cell shape": (
        (S, X),
        {"cell": BOX[:2], "pbc": ALL},
        ValueError,
        r"cell must have shape \(3, 3\) or \(2, 3, 3\), got \(2, 3\)",
    ),
    "cell batch": ((S, X), {"cell": BOX.expand(3, 3, 3), "pbc": ALL}, ValueError, r"got \(3, 3, 3\)"),
    "cell dtype": (
        (S, X),
        {"cell": BOX.float(), "pbc": ALL},
        TypeError,
        "dtype of the coordinates, torch.float64, got torch.float32",
    ),
    "pbc dtype": ((S, X), {"cell": BOX, "pbc": ALL.long()}, TypeError, "pbc must be bool.*int64"),
    "pbc shape": (
        (S, X),
        {"cell": BOX, "pbc": ALL[:2]},
        ValueError,
        r"pbc must have shape \(3,\) or \(2, 3\), got \(2,\)",
    ),
    "zero cell": ((S, X), {"cell": 0 * BOX, "pbc": ALL}, ValueError, "molecule 0 has a singular cell"),
    "flat cell": (
        (S, X),
        {"cell": changed(BOX, (2,), 1.0)[[0, 1, 1]], "pbc": ALL},
        ValueError,
        "molecule 0 has a singular cell",
    ),
    "nan cell": ((S, X), {"cell": changed(BOX, (0, 0), NAN), "pbc": ALL}, ValueError, "molecule 0 has a singular cell"),
    "charge": ((S, X), {"charge": 1}, ValueError, "molecule 0 has a total charge of 1; .*neutral"),
    "charges": ((S, X), {"charge": torch.tensor([0, -1])}, ValueError, "molecule 1 has a total charge of -1"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(model: Potential, case: str) -> None:
    (species, x), options, error, message = CASES[case]
    with pytest.raises(error, match=message):
        model((species, x), **options)
    with pytest.raises(error, match=message):
        anipot.single_point(model, species, x, **options)


def test_stress_needs_a_period_and_a_volume(model: Potential) -> None:
    with pytest.raises(ValueError, match="no molecule of the batch is periodic"):
        anipot.single_point(model, S, X, stress=True)
    pbc = torch.tensor([[True, True, True], [False, False, False]])
    with pytest.raises(ValueError, match="molecule 1 is not periodic"):
        anipot.single_point(model, S, X, BOX, pbc, stress=True)
    slab = changed(BOX, (2,), 0.0)
    with pytest.raises(ValueError, match="cell of molecule 0 has no volume"):
        anipot.single_point(model, S, X, slab, torch.tensor([True, True, False]), stress=True)


def test_cells_that_do_not_matter(model: Potential) -> None:
    free = anipot.single_point(model, S, X).energies
    none = torch.zeros(3, dtype=torch.bool)
    for cell in (0 * BOX, BOX / 100, changed(BOX, (1, 1), NAN)):
        assert torch.equal(anipot.single_point(model, S, X, cell, none).energies, free)
    slab, pbc = 3.1 * torch.eye(3, dtype=torch.float64), torch.tensor([True, True, False])
    expected = anipot.single_point(model, S, X, slab, pbc).energies
    for row in (0.0, 77.0):
        same = anipot.single_point(model, S, X, changed(slab, (2,), row), pbc).energies
        torch.testing.assert_close(same, expected, rtol=1e-14, atol=0)


def test_construction_and_members(model: Potential) -> None:
    with pytest.raises(ValueError, match="0 < Rca <= Rcr"):
        anipot.AEVComputer(3.0, 4.0, 16, 1, 8, 32, 1, 1, 4)
    with pytest.raises(ValueError, match="EtaR must be positive"):
        anipot.AEVComputer(5.0, 4.0, -16, 1, 8, 32, 1, 1, 4)
    with pytest.raises(ValueError, match="ShfA must be one or more finite"):
        anipot.AEVComputer(5.0, 4.0, 16, 1, 8, 32, [], 1, 4)
    with pytest.raises(ValueError, match="head is made for 4 elements, but 3"):
        Potential(["H", "C", "N"], anipot.AEVComputer.like_1x(3), model.head, anipot.EnergyShifter([0.0] * 3))
    with pytest.raises(ValueError, match="no element has the symbol 'Xx'"):
        anipot.SpeciesConverter(["H", "Xx"])
    with pytest.raises(IndexError, match="has 3 members, 0 to 2; got 3"):
        model[3]
    assert len(model) == len(list(model)) == 3
    each = torch.stack([member((S, X)).energies for member in model])
    torch.testing.assert_close(each.mean(0), model((S, X)).energies, rtol=1e-14, atol=0)
    result = anipot.single_point(model, S, X, members=True)
    torch.testing.assert_close(result.members.energies, each, rtol=1e-14, atol=0)
    torch.testing.assert_close(result.members.qbc, each.std(0) / 3**0.5, rtol=1e-9, atol=0)
    torch.testing.assert_close(model.members_energies((S, X)).energies, each)
    torch.testing.assert_close(model.atomic_energies((S, X)).energies.sum(-1), each.mean(0), rtol=1e-14, atol=0)


def test_sequentials_are_potentials_too(model: Potential) -> None:
    parts = (anipot.SpeciesConverter(model.elements), model.representation, model.head, model.shifter)
    expected = anipot.single_point(model, S, X, BOX / 2, ALL, stress=True)
    ours, plain = anipot.Sequential(*parts), torch.nn.Sequential(*parts)
    torch.testing.assert_close(ours((S, X), BOX / 2, ALL).energies, expected.energies, rtol=1e-14, atol=0)
    torch.testing.assert_close(plain((S, X)).energies, model((S, X)).energies, rtol=1e-14, atol=0)
    for sequential in (ours, plain):
        result = anipot.single_point(sequential, S, X, BOX / 2, ALL, stress=True)
        torch.testing.assert_close(result.stress, expected.stress, rtol=1e-14, atol=0)
    indices = model.converter.convert(S)
    result = anipot.single_point(torch.nn.Sequential(*parts[1:]), indices, X)
    torch.testing.assert_close(result.energies, model((S, X)).energies, rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match="element index 8, but there are 4"):
        anipot.single_point(torch.nn.Sequential(*parts[1:]), S, X)
    with pytest.raises(TypeError, match=r"expected a Potential .* got Sequential of \['Linear'\]"):
        anipot.single_point(torch.nn.Sequential(torch.nn.Linear(1, 1)), S, X)


def test_vibrations_of_a_batch_and_its_errors(model: Potential) -> None:
    masses = torch.tensor([[15.999, 1.008, 1.008], [15.999, 1.008, 0.0]], dtype=torch.float64)
    hessian = anipot.single_point(model, changed(S, (1, 2), -1).long(), X, hessian=True).hessian
    result = anipot.vibrational_analysis(masses, hessian)
    assert torch.isnan(result.freqs[1, 6:]).all()
    alone = anipot.vibrational_analysis(masses[1, :2], hessian[1, :6, :6])
    torch.testing.assert_close(result.freqs[1, :6], alone.freqs)
    for kind in ("MDU", "MDN", "MWN"):
        modes = anipot.vibrational_analysis(masses[0], hessian[0], kind).modes.flatten(1)
        norm = modes.norm(dim=1)
        expected = result.rmasses[0].rsqrt() if kind == "MDU" else torch.ones(9, dtype=torch.float64)
        torch.testing.assert_close(norm, expected)
    projected = anipot.vibrational_analysis(masses[0], hessian[0], project=X[0])
    assert int((projected.freqs == 0).sum()) == 6
    with pytest.raises(ValueError, match="mode_type must be one of"):
        anipot.vibrational_analysis(masses, hessian, "XYZ")
    with pytest.raises(ValueError, match="masses must have shape"):
        anipot.vibrational_analysis(masses[0], hessian)
    with pytest.raises(ValueError, match="hessian holds NaN"):
        anipot.vibrational_analysis(masses, hessian * NAN)


def test_inference_mode_does_not_disturb_derivatives(model: Potential) -> None:
    expected = anipot.single_point(model, S, X, BOX, ALL, stress=True, hessian=True)
    with torch.inference_mode():
        s, x, box = S.clone(), X.clone(), BOX.clone()  # tensors that cannot be part of a graph
        inside = anipot.single_point(model, s, x, box, ALL, stress=True, hessian=True)
        product = anipot.hessian_vector_product(model, s, x, x, box, ALL)
    outside = anipot.single_point(model, s, x, box, ALL, stress=True, hessian=True)
    for result in (inside, outside):
        for name in ("energies", "forces", "stress", "hessian"):
            torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=0, atol=1e-12)
    torch.testing.assert_close(product, anipot.hessian_vector_product(model, S, X, X, BOX, ALL))


def test_any_integers_will_do(model: Potential) -> None:
    expected = model((S, X)).energies
    for dtype in (torch.uint8, torch.int8, torch.int32):
        torch.testing.assert_close(model((S.to(dtype), X)).energies, expected)
    assert model[np.int64(1)].name.endswith("[1]")
    with pytest.raises(TypeError, match="chosen by an integer, got True"):
        model[True]
    assert not copy.deepcopy(model).eval()[0].training
    empty = anipot.single_point(model, S[:0], X[:0], members=True)
    assert empty.members.qbc.shape == (0,)
