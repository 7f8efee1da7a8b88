"""The contracts and the published references by the CUDA kernels: on a GPU where there is one, and on the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_contracts
import test_references
import torch
from contracts import NATIVE_PAIRS, computed_by, fresh, moved, on_cuda, potential
from test_references import MODELS, SYSTEMS, load

import anipot
from anipot.engine import engine_of

# Every contract is a test of this file too.
globals().update({k: v for k, v in vars(test_contracts).items() if k.startswith("test_")})


@pytest.fixture(params=on_cuda, autouse=True, scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Compute with the CUDA kernels."""
    with computed_by(request.param) as device, moved(device):
        yield device


#: On the host, where threads take turns, some have to do.
ON_HOST = [("aev_1x", "ani_gaussian"), ("aev_2x", "ani_celu"), ("aev_user", "ensemble")]


@pytest.fixture(params=NATIVE_PAIRS, ids=["-".join(pair) for pair in NATIVE_PAIRS])
def model(request: pytest.FixtureRequest, place: torch.device) -> anipot.Potential:
    if place.type == "cpu" and request.param not in ON_HOST:
        pytest.skip("for a GPU")
    return potential(*request.param)


def test_the_kernels_compute(place: torch.device) -> None:
    model = potential("aev_2x", "ensemble").to(place)
    numbers = torch.tensor([[8, 1, 1]], device=place)
    original = test_contracts.anipot.single_point
    assert engine_of(model).covers() == ""
    original(model, numbers, torch.rand(1, 3, 3, device=place))


@pytest.mark.parametrize("system", SYSTEMS)
def test_published_references(system: str, place: torch.device, shared: Path, request: pytest.FixtureRequest) -> None:
    known = load(shared, system)
    if place.type == "cpu" and known["numbers"].size > 60:
        pytest.skip("large systems are for a GPU")
    for name in MODELS:
        if f"{name}_energy" in known:
            fresh(request.getfixturevalue(name))
            test_references.test_float64(system, name, shared, request)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "check", [test_references.test_one_batch_of_everything, test_references.test_float32_within_2e6_hartree_per_atom]
)
def test_published_batch_and_float32(
    name: str, check: Any, place: torch.device, shared: Path, request: pytest.FixtureRequest
) -> None:
    if place.type == "cpu":
        pytest.skip("large systems are for a GPU")
    fresh(request.getfixturevalue(name))
    check(name, shared, request)
