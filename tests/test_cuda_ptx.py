"""What NVRTC makes of the kernels computes what the sources say: PTX, run on the host instruction by instruction.

All other tests of the kernels can be run on PTX too: ``CUDA_ON_HOST=compute_90 pytest tests/test_cuda_*.py``.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from contracts import assert_same, by_torch, molecule, natively, potential, user_aev
from cuda_on_host import compiled, cuda_on_host, needs_compiler
from cuda_on_host.ptx import NotKnown, translate
from torch import Tensor
from torch.testing import assert_close

import anipot
from anipot.engine import engine_of

pytestmark = needs_compiler


def systems() -> tuple[Tensor, ...]:
    """Molecules with ghosts that hold NaN, in a cell each, with some of its axes periodic."""
    species, x = anipot.pad([molecule(n, seed) for n, seed in ((6, 1), (14, 2), (1, 3))])
    x[species < 0] = float("nan")
    cell = torch.tensor([[6.0, 0, 0], [1, 6, 0], [0.5, -1, 7]], dtype=torch.float64).repeat(3, 1, 1)
    return species, x, cell, torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("target", "dtype"),
    [("compute_90", torch.float32), ("compute_90", torch.float64), ("compute_70", torch.float32)],  # no cp.async
)
def test_steps(target: str, dtype: torch.dtype) -> None:
    """Search, AEVs, networks, energies, forces and stress of all members."""
    model, system = potential("aev_user", "ensemble").to(dtype), systems()
    ask = {"stress": True, "atomic_energies": True, "members": True}
    with cuda_on_host(kind=target):
        assert engine_of(model).covers() == ""
        found = natively(model, *system, **ask)
    assert_same(found, by_torch(model, *system, **ask), dtype, unit=2.0**-47)


def test_derivatives() -> None:
    """The operations of AEVs, second derivatives as well, of an atom with many neighbors too."""
    aev, random = user_aev(), torch.Generator().manual_seed(3)
    center = torch.arange(3).repeat_interleave(torch.tensor([140, 1, 9]))
    kinds = torch.randint(4, center.shape, generator=random)
    vectors = 1.1 * torch.randn(len(center), 3, dtype=torch.float64, generator=random)
    gradient = torch.randn(3, aev.num_features, dtype=torch.float64, generator=random)
    direction = torch.randn(vectors.shape, dtype=torch.float64, generator=random)

    def derivatives() -> list[Tensor]:
        v, g = vectors.clone().requires_grad_(), gradient.clone().requires_grad_()
        features = aev.from_neighborhoods(center, kinds, v, 3)
        (slope,) = torch.autograd.grad((features * g).sum(), v, create_graph=True)
        return [features.detach(), slope.detach(), *torch.autograd.grad((slope * direction).sum(), (g, v))]

    with cuda_on_host(kind="compute_90"):
        found = derivatives()
    with anipot.reference_path():
        expected = derivatives()
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


PROGRAM = """
.visible .entry wrong(
	.param .align 8 .b8 wrong_param_0[8]
)
.maxntid 64, 1, 1
{{
	.reg .pred %p<2>;
	.reg .b32 %r<3>;
	.shared .align 4 .b8 numbers[256];
	mov.u32 %r1, %tid.x;
	shl.b32 %r2, %r1, 2;
	setp.eq.s32 %p1, %r1, 40;
	{}
	ret;
}}
"""


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("st.shared.u32 [%r2], %r1;", ""),
        ("st.shared.u32 [%r2+4], %r1;", "outside of shared memory: 4 bytes at 0x100"),
        ("st.shared.u32 [%r1], %r1;", "not aligned in shared memory: 4 bytes at 0x"),
        ("@%p1 bar.warp.sync -1;", "a collective of a warp that not all lanes take part in"),
        ("@%p1 bar.sync 0;", "threads returned before a barrier that others wait at"),
    ],
)
def test_what_a_gpu_would_not_tell(instruction: str, message: str) -> None:
    library = compiled("wrong", translate(PROGRAM.format(instruction)))
    launch = "import ctypes, sys; c = ctypes.CDLL(sys.argv[1]); one, none = ctypes.c_longlong(1), ctypes.c_longlong(0)"
    launch += "; c.anipot_host_launch(ctypes.cast(c.wrong, ctypes.c_void_p), one, one, one, 64, none, None, 1)"
    ended = subprocess.run([sys.executable, "-c", launch, str(library)], capture_output=True, text=True, check=False)
    assert (ended.returncode != 0) == bool(message)
    assert message in ended.stderr


def test_instructions_that_are_not_known_are_told() -> None:
    with pytest.raises(NotKnown, match=r"wrong, line 7: bar.sync 1 \(a barrier of its own number"):
        translate(PROGRAM.format("bar.sync 1;"))
