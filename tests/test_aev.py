"""AEVs of radial terms alone, and of angular terms alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts import ELEMENTS, SELF_ENERGIES, by_torch, molecule, needs_kernels

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Potential
from anipot.engine import engine_of

RADIAL: dict[str, Any] = {"EtaR": [9.0, 16.0], "ShfR": [0.9, 1.9, 2.9]}
ANGULAR: dict[str, Any] = {"EtaA": 8.0, "Zeta": [8.0, 14.1], "ShfA": [0.9, 1.8], "ShfZ": [0.3, 1.2, 2.1]}
NO_RADIAL: dict[str, Any] = dict.fromkeys(RADIAL, ())
NO_ANGULAR: dict[str, Any] = dict.fromkeys(ANGULAR, ())


def aev(**constants: Any) -> AEVComputer:
    return AEVComputer(4.6, 3.1, **constants, num_species=4)


def test_each_part_is_its_columns_of_the_whole() -> None:
    numbers, x = molecule(12, 1)
    species = anipot.SpeciesConverter(ELEMENTS).convert(numbers)[None]
    cell, pbc = 5 * torch.eye(3, dtype=torch.float64), torch.tensor([True, False, True])
    whole, radial, angular = aev(**RADIAL, **ANGULAR), aev(**RADIAL, **NO_ANGULAR), aev(**NO_RADIAL, **ANGULAR)
    length = whole.radial_length
    assert (radial.num_features, angular.num_features) == (length, whole.angular_length)
    for where in ((), (cell, pbc)):
        with anipot.reference_path():
            expected = whole((species, x[None]), *where).features
        torch.testing.assert_close(radial((species, x[None]), *where).features, expected[..., :length], rtol=0, atol=0)
        torch.testing.assert_close(angular((species, x[None]), *where).features, expected[..., length:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("constants", "missing"), [((RADIAL, NO_ANGULAR), "angular"), ((NO_RADIAL, ANGULAR), "radial")]
)
@needs_kernels
def test_a_part_is_computed_by_torch(constants: tuple[Any, Any], missing: str) -> None:
    torch.manual_seed(1)
    representation = aev(**constants[0], **constants[1])
    networks = [AtomicNetwork((representation.num_features, 8, 1), CELU(0.1)) for _ in ELEMENTS]
    model = Potential(ELEMENTS, representation, ANIModel(networks), EnergyShifter(SELF_ENERGIES)).double()
    assert engine_of(model).covers() == f"the AEVs have no {missing} terms"
    numbers, x = molecule(9, 2)
    result = anipot.single_point(model, numbers[None], x[None], hessian=True)
    expected = by_torch(model, numbers[None], x[None], hessian=True)
    torch.testing.assert_close(result.forces, expected.forces, rtol=0, atol=1e-14)
    torch.testing.assert_close(result.hessian, expected.hessian, rtol=0, atol=1e-13)
    fn = lambda y: (model((numbers[None], y)).energies).sum()  # noqa: E731
    assert torch.autograd.gradcheck(fn, x[None].requires_grad_())


def test_constants_are_all_there_or_none() -> None:
    with pytest.raises(
        ValueError, match="no terms: the constants of the radial and of the angular terms are all empty"
    ):
        aev(**NO_RADIAL, **NO_ANGULAR)
    with pytest.raises(
        ValueError, match="ShfR must be one or more finite numbers, got none; all of EtaR, ShfR are empty"
    ):
        aev(**RADIAL | {"ShfR": []}, **ANGULAR)
    with pytest.raises(ValueError, match="EtaA, Zeta must be one or more finite numbers"):
        aev(**RADIAL, **ANGULAR | {"EtaA": [], "Zeta": []})
