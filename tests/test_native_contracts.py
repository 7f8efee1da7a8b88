"""The contracts and the published references once more: by plain torch, and by every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import test_contracts
import test_references
from contracts import INSTRUCTION_SETS, NATIVE_PAIRS, fresh, needs_kernels, potential
from test_references import SYSTEMS, load

import anipot
from anipot.kernels import instruction_set

#: The best instruction set is what the tests run with anyway.
PATHS = [*INSTRUCTION_SETS[1:], "torch"]
#: Both kinds of AEVs.
MODELS = ("ani1x", "ani2x")

#: What the kernels compute as a whole, or in part.
SOME = [*NATIVE_PAIRS, ("aev_1x", "atomwise"), ("acsf_g4", "ani_celu"), ("schnet", "atomwise"), ("painn", "ensemble")]

# Every contract is a test of this file too.
globals().update({k: v for k, v in vars(test_contracts).items() if k.startswith("test_")})


@pytest.fixture(params=SOME, ids=["-".join(pair) for pair in SOME])
def model(request: pytest.FixtureRequest) -> anipot.Potential:
    return potential(*request.param)


@pytest.fixture(params=PATHS, autouse=True, scope="module")
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute with one instruction set, or without the kernels."""
    with anipot.reference_path() if request.param == "torch" else instruction_set(request.param):
        yield request.param


@needs_kernels
def test_the_path_is_the_one_asked_for(path: str) -> None:
    *_, best, torch = anipot.backends()
    assert torch.active == (path == "torch") != best.active
    assert best.reason.endswith("reference_path()" if path == "torch" else f", {path}")


@pytest.mark.parametrize("system", SYSTEMS)
def test_published_references(system: str, shared: Path, request: pytest.FixtureRequest) -> None:
    for name in MODELS:
        if f"{name}_energy" in load(shared, system):
            fresh(request.getfixturevalue(name))
            test_references.test_float64(system, name, shared, request)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "check", [test_references.test_one_batch_of_everything, test_references.test_float32_within_2e6_hartree_per_atom]
)
def test_published_batch_and_float32(name: str, check, shared: Path, request: pytest.FixtureRequest) -> None:
    fresh(request.getfixturevalue(name))
    check(name, shared, request)
