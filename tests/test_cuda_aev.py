"""The CUDA kernels of AEVs, compiled for the host, on devices of little shared memory."""

from __future__ import annotations

import pytest
import torch
from contracts import user_aev
from cuda_on_host import cuda_on_host, needs_compiler
from torch import Tensor
from torch.testing import assert_close

import anipot
from anipot.kernels.cuda import aev as kernels
from anipot.kernels.cuda.aev import forward_memory
from anipot.kernels.cuda.errors import CaptureError

#: Of ANI-2x.
SIZES = [7, 0, 2, 1, 16, 1, 1, 8, 4]


def test_triples_at_a_time() -> None:
    plain = forward_memory(SIZES, torch.float32, False, 99 * 1024)
    assert plain == (32, 4 * 8 + 4 * 32 * 13 * 4)
    many = [*SIZES[:5], 2, 4, 32, 16]  # 129 factors
    assert forward_memory(many, torch.float64, True, 227 * 1024) == (28, 4 * 8 + 4 * 28 * 129 * 16)
    assert forward_memory(many, torch.float64, True, 0)[0] == 1


@needs_compiler
def test_what_is_too_large_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take a minute, and has no room."""
    compiled: list[object] = []
    monkeypatch.setattr(kernels, "aev_program", lambda *args, **_: compiled.append(args))
    cpu = torch.device("cpu")
    with cuda_on_host():
        assert not kernels.ready((*SIZES[:5], 1, 1, 150, 150), torch.float32, cpu)
        assert not kernels.ready((*SIZES[:5], 1, 1, 2000, 1), torch.float64, cpu)
        assert not compiled
        assert kernels.ready((*SIZES[:5], 1, 1, 2000, 1), torch.float64, cpu, operations=False)
        assert kernels.ready((*SIZES[:5], 2, 4, 16, 8), torch.float64, cpu)
    assert len(compiled) == 2


@needs_compiler
@pytest.mark.parametrize("limit", [2400, 5000])
def test_little_shared_memory(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warp takes fewer triples at a time where not as many as lanes have room, in all operations."""
    aev, random = user_aev(), torch.Generator().manual_seed(3)
    center = torch.arange(3).repeat_interleave(torch.tensor([14, 1, 9]))
    kinds = torch.randint(4, center.shape, generator=random)
    vectors = 1.1 * torch.randn(len(center), 3, dtype=torch.float64, generator=random)
    gradient = torch.randn(3, aev.num_features, dtype=torch.float64, generator=random)
    direction = torch.randn(vectors.shape, dtype=torch.float64, generator=random)

    def derivatives() -> list[Tensor]:
        v, g = vectors.clone().requires_grad_(), gradient.clone().requires_grad_()
        features = aev.from_neighborhoods(center, kinds, v, 3)
        (slope,) = torch.autograd.grad((features * g).sum(), v, create_graph=True)
        return [features.detach(), slope.detach(), *torch.autograd.grad((slope * direction).sum(), (g, v))]

    with anipot.reference_path():
        expected = derivatives()
    monkeypatch.setattr("cuda_on_host.HostProgram.shared_limit", limit)
    with cuda_on_host():
        found = derivatives()
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@needs_compiler
def test_what_cannot_be_loaded_now_may_be_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded while a graph is captured; that is over some time."""

    def within_capture(*args: object, **options: object) -> None:
        raise CaptureError("a CUDA graph is captured")

    cpu, sizes = torch.device("cpu"), (*SIZES[:-1], 3)
    with cuda_on_host():
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "aev_program", within_capture)
            assert not kernels.ready(sizes, torch.float32, cpu)
        assert kernels.ready(sizes, torch.float32, cpu)
