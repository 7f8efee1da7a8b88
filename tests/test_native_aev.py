"""The AEV as an operation of torch: values, two derivatives, and the transforms that torch applies to operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from contracts import AEVS as PUBLISHED
from contracts import KERNEL_PATHS, computed_by, molecule, needs_kernels, potential, user_aev
from torch import Tensor

import anipot
from anipot import AEVComputer, CosineCutoff, SmoothCutoff
from anipot.kernels import aev as kernels
from anipot.representation.cutoffs import NATIVE_CUTOFFS

pytestmark = needs_kernels

OPS = torch.ops.anipot
CPU = torch.device("cpu")


def tiny(cutoff: torch.nn.Module) -> AEVComputer:
    """Few features, from exponents that are 1, whole, large and neither."""
    return AEVComputer(
        4.6, 3.1, [4.0, 9.0], [0.9, 1.9], [3.0, 5.0], [1.0, 2.0, 14.1, 70.0], [0.9, 1.8], [0.3, 2.1], 3, cutoff
    )


AEVS: dict[str, Callable[[], AEVComputer]] = {
    **PUBLISHED,
    "cosine": lambda: tiny(CosineCutoff()),
    "smooth": lambda: tiny(SmoothCutoff()),
    "smooth4": lambda: tiny(SmoothCutoff(order=4, eps=1e-3)),
    "one of each": lambda: AEVComputer(4.0, 4.0, 3.0, 1.5, 2.0, 1.5, 1.2, 0.7, 1),
    "five": lambda: AEVComputer(5.1, 3.3, 9.0, [1.0] * 5, [4.0] * 5, 8.0, [0.9, 1.3, 1.7, 2.1, 2.5], [0.3, 2.1], 7),
    # More elements and more values than a vector has lanes.
    "many": lambda: AEVComputer(
        5.1,
        4.6,
        9.0,
        [1.0, 2.0],
        4.0,
        31.0,
        [0.8 + 0.2 * i for i in range(13)],
        [0.1 + 0.18 * i for i in range(17)],
        18,
    ),
}


@pytest.fixture(params=KERNEL_PATHS)
def place(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Every way in which kernels compute, and the device that it takes."""
    with computed_by(request.param) as device:
        yield device


def neighborhoods(
    aev: AEVComputer, seed: int = 0, counts: tuple[int, ...] = (5, 0, 1, 4)
) -> tuple[Tensor, Tensor, Tensor]:
    """Centers, species of the neighbors and vectors, some of which end beyond one cutoff or both."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    species = torch.randint(0, aev.num_species, (len(center),), generator=generator)
    vectors = torch.randn(len(center), 3, generator=generator, dtype=torch.float64)
    lengths = 0.9 + 4.6 * torch.rand(len(center), 1, generator=generator, dtype=torch.float64)
    return center, species, vectors / vectors.norm(dim=-1, keepdim=True) * lengths


def native(
    aev: AEVComputer, center: Tensor, species: Tensor, num_atoms: int, place: torch.device = CPU
) -> Callable[[Tensor], Tensor]:
    """The operation at some place, from vectors on the CPU to features on the CPU."""
    constants, sizes = kernels.constants_and_sizes(aev, NATIVE_CUTOFFS[type(aev.cutoff_function)])
    center, species, constants = center.to(place), species.to(place), constants.to(place)
    return lambda v: kernels.aev(center, species, v.to(place), constants, sizes, num_atoms).to(v.device)


def derivatives(fn: Callable[[Tensor], Tensor], vectors: Tensor) -> list[Tensor]:
    """Features, a gradient, its product with a direction, and the gradient of that with respect to both its factors."""
    generator = torch.Generator().manual_seed(1)
    vectors = vectors.clone().requires_grad_()
    features = fn(vectors)
    weights = torch.randn(features.shape, generator=generator, dtype=torch.float64).to(features).requires_grad_()
    direction = torch.randn(vectors.shape, generator=generator, dtype=torch.float64).to(features)
    (gradient,) = torch.autograd.grad(features, vectors, weights, create_graph=True)
    again, to_weights = torch.autograd.grad(gradient, (vectors, weights), direction)
    return [features.detach(), gradient.detach(), again, to_weights]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", AEVS)
def test_two_derivatives_equal_those_of_torch(name: str, dtype: torch.dtype, place: torch.device) -> None:
    aev = AEVS[name]()
    counts = (23, 0, 1, 4, 2, 40, 0)
    center, species, vectors = neighborhoods(aev, counts=counts)
    vectors = vectors.to(dtype)
    plain = lambda v: aev.from_neighborhoods(center, species, v, len(counts))  # noqa: E731
    ours = derivatives(native(aev, center, species, len(counts), place), vectors)
    with anipot.reference_path():
        exact, torchs = derivatives(plain, vectors.double()), derivatives(plain, vectors)
    for order, (x, y, truth) in enumerate(zip(ours, torchs, exact, strict=True)):
        assert x.dtype == y.dtype == dtype
        error, allowed = float((x - truth).abs().max()), float((y - truth).abs().max())
        # Terms with large exponents lose digits in any order of operations; the kernels may lose no more than torch.
        scale = torch.finfo(dtype).eps * float(truth.abs().max())
        assert error <= 4 * allowed + 64 * scale, f"derivative {order}: {error:.1e}, {allowed:.1e}"


def test_crowds(place: torch.device) -> None:
    """More neighbors than any liquid has, and than there is room for in the shared memory of a GPU."""
    aev, counts = tiny(SmoothCutoff()), (3, 230, 0, 130)
    center, species, vectors = neighborhoods(aev, counts=counts)
    vectors[::3] *= 0.5  # most of them within the angular cutoff
    ours = derivatives(native(aev, center, species, len(counts), place), vectors)
    with anipot.reference_path():
        theirs = derivatives(lambda v: aev.from_neighborhoods(center, species, v, len(counts)), vectors)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-13 * float(y.abs().max()))


@pytest.mark.parametrize("name", ["cosine", "smooth", "smooth4", "one of each"])
def test_gradcheck(name: str, place: torch.device) -> None:
    aev = AEVS[name]()
    center, species, vectors = neighborhoods(aev)
    fn = native(aev, center, species, 4, place)
    assert torch.autograd.gradcheck(fn, vectors.requires_grad_())
    mix = torch.randn(4, aev.num_features, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda v: torch.einsum("af,afk->k", fn(v), mix), vectors)


def test_third_derivatives_say_what_to_do() -> None:
    aev = user_aev()
    center, species, vectors = neighborhoods(aev)
    vectors.requires_grad_()

    def third(fn: Callable[[Tensor], Tensor]) -> Tensor:
        value = fn(vectors).square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, vectors, create_graph=True)
            value = gradient.square().sum()
        return gradient

    with pytest.raises(NotImplementedError, match=r"third derivatives .*reference_path\(\)"):
        third(native(aev, center, species, 4))
    with anipot.reference_path():
        assert torch.isfinite(third(lambda v: aev.from_neighborhoods(center, species, v, 4))).all()


def test_opcheck() -> None:
    aev = tiny(SmoothCutoff())
    center, species, vectors = neighborhoods(aev)
    constants, sizes = kernels.constants_and_sizes(aev, 1)
    gradient, tangent = torch.randn(4, aev.num_features, dtype=torch.float64), torch.randn_like(vectors)
    for differentiable in (False, True):
        for tensor in (gradient, tangent, vectors):
            tensor.requires_grad_(differentiable)
        for name, leading in (
            ("aev", ()),
            ("aev_backward", (gradient,)),
            ("aev_tangent", (tangent,)),
            ("aev_backward_tangent", (tangent, gradient)),
        ):
            if not (differentiable and name == "aev_backward_tangent"):  # it has no derivative
                args = (*leading, center, species, vectors, constants, sizes, 4)
                torch.library.opcheck(getattr(OPS, name).default, args)


def test_compile() -> None:
    aev = user_aev()
    torch._dynamo.reset()

    def energy(center: Tensor, species: Tensor, vectors: Tensor) -> Tensor:
        return aev.from_neighborhoods(center, species, vectors, 4).square().sum()

    constants, sizes = kernels.constants_and_sizes(aev, 1)
    op = torch.compile(
        lambda c, s, v: kernels.aev(c, s, v, constants, sizes, 4).square().sum(), backend="aot_eager", fullgraph=True
    )
    for seed, counts in ((0, (5, 0, 1, 4)), (1, (3, 3, 6, 7))):  # the second with other shapes
        center, species, vectors = neighborhoods(aev, seed, counts)
        vectors.requires_grad_()
        out = [fn(center, species, vectors) for fn in (energy, op)]
        gradients = [torch.autograd.grad(value, vectors)[0] for value in out]
        torch.testing.assert_close(out[1], out[0], rtol=1e-14, atol=0)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-14)


def test_vmap() -> None:
    """Over vectors, over incoming gradients, over both: the batched backward of Hessians."""
    aev = user_aev()
    center, species, vectors = neighborhoods(aev)
    fn = native(aev, center, species, 4)
    many = torch.stack([vectors, 1.1 * vectors, -0.7 * vectors])
    assert torch.equal(torch.vmap(fn)(many), torch.stack([fn(v) for v in many]))
    assert torch.equal(torch.vmap(fn, in_dims=1)(many.transpose(0, 1)), torch.stack([fn(v) for v in many]))
    weights = torch.randn(3, 4, aev.num_features, dtype=torch.float64)
    leaf = vectors.clone().requires_grad_()
    features = fn(leaf)
    (batched,) = torch.autograd.grad(features, leaf, weights, is_grads_batched=True, create_graph=True)
    singles = [torch.autograd.grad(features, leaf, w, create_graph=True)[0] for w in weights]
    assert torch.equal(batched, torch.stack(singles))
    (again,) = torch.autograd.grad(batched.sum(), leaf, retain_graph=True)
    (single,) = torch.autograd.grad(torch.stack(singles).sum(), leaf)
    torch.testing.assert_close(again, single, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in torch.func.jvp
@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian"])
def test_function_transforms(transform: str) -> None:
    """What torch.func does with the plain operations it does with the kernels at hand too."""
    aev = tiny(CosineCutoff())
    center, species, vectors = neighborhoods(aev)
    mix = torch.randn(4, aev.num_features, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    fn = lambda v: (aev.from_neighborhoods(center, species, v, 4) * mix).sum()  # noqa: E731
    with anipot.reference_path():
        expected = getattr(torch.func, transform)(fn)(vectors)
    torch.testing.assert_close(getattr(torch.func, transform)(fn)(vectors), expected, rtol=0, atol=1e-11)


def test_gradients_of_the_constants() -> None:
    """Constants that are being fitted get their gradient."""
    aev = user_aev()
    center, species, vectors = neighborhoods(aev)
    mix = torch.randn(4, aev.num_features, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    constants = [getattr(aev, name).requires_grad_() for name in ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")]
    fn = lambda: (aev.from_neighborhoods(center, species, vectors, 4) * mix).sum()  # noqa: E731
    with anipot.reference_path():
        expected = torch.autograd.grad(fn(), constants, allow_unused=True)
    found = torch.autograd.grad(fn(), constants, allow_unused=True)
    for name, x, y in zip(("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ"), found, expected, strict=True):
        assert (x is None) == (y is None), f"the gradient of {name} is lost"
        if y is not None:
            torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)


def test_integers_of_32_bits() -> None:
    aev = user_aev()
    center, species, vectors = neighborhoods(aev)
    expected = aev.from_neighborhoods(center, species, vectors, 4)
    for c, s in ((center.int(), species), (center, species.int()), (center.int(), species.int())):
        with anipot.reference_path():
            torch.testing.assert_close(aev.from_neighborhoods(c, s, vectors, 4), expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(aev.from_neighborhoods(c, s, vectors, 4), expected, rtol=0, atol=0)


def test_tensors_of_other_kinds() -> None:
    """Strided ones, no pair at all; half precision is left to torch."""
    aev = user_aev()
    center, species, vectors = neighborhoods(aev)
    expected = aev.from_neighborhoods(center, species, vectors, 4)
    strided = torch.stack([vectors, vectors], -1)[..., 0]
    every_second = torch.stack([center, center], -1)[..., 1]
    assert torch.equal(aev.from_neighborhoods(every_second, species, strided, 4), expected)
    for num_atoms in (0, 3):
        nothing = vectors[:0].clone().requires_grad_()
        none = aev.from_neighborhoods(center[:0], species[:0], nothing, num_atoms)
        assert none.shape == (num_atoms, aev.num_features)
        assert not none.any()
        assert torch.autograd.grad(none.sum(), nothing)[0].shape == (0, 3)
    assert not kernels.covers(vectors.bfloat16())
    rough = aev.from_neighborhoods(center, species, vectors.bfloat16(), 4)
    torch.testing.assert_close(rough.double(), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("path", KERNEL_PATHS)
def test_hessians_and_force_training(path: str) -> None:
    """The double backward through whole potentials, also with float32 networks, against plain torch."""
    numbers, x = molecule(8, 3)
    cell, pbc = 5.1 * torch.eye(3, dtype=torch.float64), torch.tensor([True, False, True])
    for name in ("aev_2x", "aev_user"):
        for dtype in (torch.float64, torch.float32):
            model, found = potential(name, "ensemble").to(dtype), []
            for how in (path, "torch"):
                with computed_by(how) as place:
                    moved, *system = (a.to(place) for a in (model, numbers[None], x[None], cell, pbc))
                    hessian = anipot.single_point(moved, *system, hessian=True).hessian.to(x.device)
                    leaf = x.clone().requires_grad_()
                    energy = moved((system[0], leaf[None].to(place)), *system[2:]).energies.sum().to(x.device)
                    (gradient,) = torch.autograd.grad(energy, leaf, create_graph=True)
                    # The bias of the last layer is part of the native operation, and of no gradient.
                    loss = (gradient**2).sum()
                    weights = torch.autograd.grad(loss, moved.parameters(), allow_unused=True, materialize_grads=True)
                    weights = [w.to(x.device) for w in weights]
                    found.append([hessian, gradient.detach(), *weights])
            for ours, theirs in zip(*found, strict=True):
                atol = 512 * torch.finfo(dtype).eps * max(1e-3, float(theirs.abs().max()))
                torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in torch.func.hessian
def test_torch_func_differentiates_whole_potentials() -> None:
    model, (species, x) = potential("aev_1x", "ani_celu"), (t[None] for t in molecule(5, 1))

    def energy(y: torch.Tensor) -> torch.Tensor:
        return model((species, y)).energies.sum()

    found = anipot.single_point(model, species, x, hessian=True)
    torch.testing.assert_close(-torch.func.grad(energy)(x), found.forces, rtol=0, atol=1e-10)
    second = torch.func.hessian(energy)(x).reshape(15, 15)
    torch.testing.assert_close(second, found.hessian[0].reshape(15, 15), rtol=0, atol=1e-9)
