"""Kernels prove themselves once on a kind of device, and who is wrong does not compute."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from contracts import NATIVE_PAIRS, by_torch, computed_by, molecule, natively, on_cuda, potential
from cuda_on_host import HostKernel, cuda_on_host, needs_compiler

import anipot
from anipot.engine import engine_of, proof
from anipot.engine.parts import Parts
from anipot.kernels.cuda import program, support
from anipot.kernels.cuda.errors import KernelError


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Let the host be a device with a cache that is empty; return why it was given up."""
    given_up: dict[str, str] = {}

    def give_up(index: int, why: str) -> None:
        given_up["why"] = why
        monkeypatch.setattr(program, "wanted", lambda tensor: False)

    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path))
    monkeypatch.setattr(proof, "identity", lambda device: {"device": "a host"})
    monkeypatch.setattr("anipot.engine.cuda.give_up", give_up)
    with cuda_on_host():
        yield given_up


@pytest.mark.parametrize("path", on_cuda)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", NATIVE_PAIRS, ids="-".join)
def test_rounding_is_no_fault(pair: tuple[str, str], dtype: torch.dtype, path: str) -> None:
    with computed_by(path) as place:
        differences = dict(proof.differences(Parts(potential(*pair).to(place, dtype))))
    assert differences.keys() == {"energies", "forces", "stress"}
    assert max(differences.values()) < (1e-10 if dtype == torch.float64 else 1e-5)


@needs_compiler
def test_compared_once(found: dict[str, str], tmp_path: Path) -> None:
    with patch.object(proof, "differences", wraps=proof.differences) as compared:
        for k, pair in enumerate([("aev_1x", "ensemble")] * 3 + [("aev_1x", "ani_gaussian")]):
            species, x = (t[None] for t in molecule(5, k))
            natively(potential(*pair), species, x)
    assert compared.call_count == 2  # once for each kind of networks
    assert len(list(tmp_path.glob("kernels/compared-*.proof"))) == 2
    assert not found


def wrong(name: str, field: str, factor: float) -> Any:
    """Let a kernel compute with another number than it is given."""
    launch = HostKernel.launch

    def otherwise(kernel: HostKernel, grid: Any, threads: int, arguments: Any, *given: Any) -> None:
        right = getattr(arguments, field) if kernel.name == name else None
        if right is not None:
            setattr(arguments, field, factor * right)
        launch(kernel, grid, threads, arguments, *given)
        if right is not None:
            setattr(arguments, field, right)

    return patch.object(HostKernel, "launch", otherwise)


@needs_compiler
@pytest.mark.parametrize(("name", "field", "factor"), [("search_direct", "cutoff", 0.7), ("networks", "seed", 1.01)])
def test_who_is_wrong_does_not_compute(
    name: str, field: str, factor: float, found: dict[str, str], tmp_path: Path
) -> None:
    model, (species, x) = potential("aev_2x", "ani_celu"), (t[None] for t in molecule(9, 1))
    with wrong(name, field, factor):
        result = anipot.single_point(model, species, x)
    assert re.match(r"on this device they give other \w+ than torch operations do", found["why"])
    assert not list(tmp_path.glob("kernels/*.proof"))
    assert torch.allclose(result.forces, by_torch(model, species, x).forces, atol=1e-10)


@needs_compiler
def test_users_hear_of_it_once(found: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_reasons", {0: ""})
    monkeypatch.setattr(support, "_noticed", set())
    support.give_up(0, "on this device they give other forces than torch operations do")
    with pytest.warns(UserWarning, match="no CUDA kernels on cuda:0: on this device they give other forces"):
        assert not support.works(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not support.works(0)


@needs_compiler
def test_what_cannot_be_compared_is_no_fault(found: dict[str, str], tmp_path: Path) -> None:
    """Forces beyond what is added up, and weights that are not finite."""
    for factor in (1e6, float("nan")):
        model = potential("aev_1x", "ani_celu")
        with torch.no_grad():
            model.head[0].linears[-1].weight.mul_(factor)
            engine_of(model).covers()
        assert not found
    assert not list(tmp_path.glob("kernels/*.proof"))
    model, (species, x) = potential("aev_1x", "ani_celu"), (t[None] for t in molecule(9, 1))
    assert torch.allclose(natively(model, species, x).forces, by_torch(model, species, x).forces, atol=1e-10)


@needs_compiler
def test_networks_that_have_no_room_are_no_fault(
    found: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Molecules of elements with smaller networks may have room."""
    model = potential("aev_1x", "ani_celu")
    wide = anipot.AtomicNetwork((model.representation.num_features, 4000, 8, 1), anipot.CELU(0.1)).double()
    model.head[3] = wide
    natively(model, torch.tensor([[6, 1, 1, 7]]), molecule(4, 1)[1][None])
    assert not found
    assert not list(tmp_path.glob("kernels/*.proof"))


@needs_compiler
def test_a_launch_that_fails_is_a_fault(found: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise KernelError("networks cannot be launched")

    model, (species, x) = potential("aev_1x", "ani_celu"), (t[None] for t in molecule(5, 1))
    monkeypatch.setattr(HostKernel, "launch", fails)
    assert "cannot be launched" in engine_of(model).covers()
    assert found["why"] == "networks cannot be launched"
    result = anipot.single_point(model, species, x)
    assert torch.allclose(result.forces, by_torch(model, species, x).forces, atol=1e-10)
