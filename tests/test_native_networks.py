"""Networks of all shapes and activations by the kernels against torch, and models that are left to torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from contracts import INSTRUCTION_SETS, assert_same, by_torch, fresh, molecule, natively, needs_kernels, potential
from torch import Tensor, nn

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Ensemble, Gaussian, Potential
from anipot import ShiftedSoftplus as Softplus
from anipot.engine import engine_of
from anipot.kernels import instruction_set

pytestmark = needs_kernels

NAN = float("nan")
ELEMENTS = ("H", "C", "N")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "celu": lambda: CELU(0.1),
    "celu1": lambda: CELU(1.3),
    "torch celu": lambda: nn.CELU(0.1),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "softplus": Softplus,
    "gaussian": Gaussian,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
}
DTYPES = [torch.float64, torch.float32]


def small_aev() -> AEVComputer:
    """Three elements, 9 radial and 5 angular terms: whole vectors of no instruction set."""
    radial, angular = [0.8 + 0.4 * i for i in range(9)], [0.9 + 0.5 * i for i in range(5)]
    return AEVComputer(4.8, 3.3, 8.0, radial, 6.0, 8.0, angular, [0.7], len(ELEMENTS))


def dense(sizes: tuple[int, ...], activation: Callable[[], nn.Module], bias: bool = True) -> nn.Module:
    return AtomicNetwork(sizes, activation(), bias)


def sequential(sizes: tuple[int, ...], activation: Callable[[], nn.Module], bias: bool = True) -> nn.Module:
    """An activation of its own after each layer, and biases here and there."""
    parts: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        parts += [nn.Linear(n_in, n_out, bias=bias and i % 2 == 0), activation()]
    return nn.Sequential(*parts[:-1])


def model_of(
    hidden: list[tuple[int, ...]],
    activation: Callable[[], nn.Module] = ACTIVATIONS["celu"],
    make: Callable[..., nn.Module] = dense,
    members: int = 1,
    **options: bool,
) -> Potential:
    """Hidden widths of each element, the last for the rest of them."""
    torch.manual_seed(0)
    aev = small_aev()
    widths = [*hidden, *[hidden[-1]] * (len(ELEMENTS) - len(hidden))]
    models = [
        ANIModel([make((aev.num_features, *w, 1), activation, **options) for w in widths]) for _ in range(members)
    ]
    model = Potential(
        ELEMENTS, aev, Ensemble(models) if members > 1 else models[0], EnergyShifter([-0.6, -38.1, -54.7])
    )
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2 if p.dim() > 1 else 1)  # activations leave their linear range
    return model.double()


def batch(num_atoms: int = 17, seed: int = 1) -> tuple[Tensor, Tensor]:
    numbers, x = molecule(num_atoms, seed)
    numbers[numbers == 8] = 1
    return numbers[None], x[None]


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_set(request.param):
        yield request.param


class ExactSoftplus(nn.Module):
    """Without torch's threshold of 20, beyond which its softplus is off by up to 2e-9."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x)) - math.log(2.0)


def exact(model: Potential) -> Potential:
    """Return a float64 copy whose activations have no shortcuts: torch's own CELU rounds alpha to float32."""
    model = copy.deepcopy(model).double()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Softplus | nn.CELU):
                setattr(parent, name, ExactSoftplus() if isinstance(child, Softplus) else CELU(child.alpha))
    return model


def check(model: Potential, species: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    """Compare with float64: rounding errors in ``dtype``, or else a few times the error that torch makes with it."""
    model = fresh(model.double())
    shift = model.shifter.atomic(model.converter.convert(species))
    ask = {"atomic_energies": True, "members": True}
    truth, torchs = by_torch(exact(model), species, x, **ask), by_torch(model.to(dtype), species, x, **ask)
    mean, each = natively(model, species, x, atomic_energies=True), natively(model, species, x, **ask)
    for found, other, exactly in (
        (mean, torchs, truth),
        (each, torchs, truth),
        (each.members, torchs.members, truth.members),
    ):
        for name in ("energies", "atomic_energies", "forces"):
            a, b, t = (getattr(result, name) for result in (found, other, exactly))
            network, allowed = t, 0.0
            if name != "forces":  # self energies are float64, and there are many
                network = t - (shift.sum(-1) if name == "energies" else shift)
                allowed = torch.finfo(torch.float64).eps * species.shape[1] ** 0.5 * float(t.abs().max())
            allowed += 64 * torch.finfo(dtype).eps * max(float(network.abs().max()), 0.01)
            error, torchs_error = float((a - t).abs().max()), float((b - t).abs().max())
            assert error <= allowed + 4 * torchs_error, f"{name}, {dtype}: off by {error:.1e}"


@pytest.mark.parametrize("make", [dense, sequential])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, make: Callable[..., nn.Module], isa: str) -> None:
    model = model_of([(19, 24), (16,), (32, 16, 8)], ACTIVATIONS[activation], make, 2)
    for dtype in DTYPES:
        check(model, *batch(), dtype)


@pytest.mark.parametrize(("make", "bias"), [(dense, True), (dense, False), (sequential, True)])
@pytest.mark.parametrize("members", [1, 2, 3])
def test_shapes(members: int, make: Callable[..., nn.Module], bias: bool, isa: str) -> None:
    """One layer to five, of widths that are whole vectors and that are not."""
    for hidden in (
        [(), (1,), (3, 7)],
        [(17, 97, 131), (131, 1, 16, 3), (64,)],
        [(96, 80, 64), (7, 7, 7, 7), ()],
    ):
        model = model_of(hidden, make=make, members=members, bias=bias)
        for dtype in DTYPES:
            check(model, *batch(), dtype)


@pytest.mark.parametrize("representation", ["aev_1x", "aev_2x"])
def test_whole_vectors(representation: str, isa: str) -> None:
    """Weights that are read where torch keeps them: features and widths are whole vectors, atoms few or many."""
    for dtype in DTYPES:
        model = potential(representation, "ensemble")
        rep = model.representation
        torch.manual_seed(1)
        model.head = Ensemble(
            [
                ANIModel([AtomicNetwork((rep.num_features, 48, 32, 16, 1), CELU(0.1)) for _ in range(4)])
                for _ in range(2)
            ]
        ).double()
        for num_atoms in (1, 2, 5, 13, 60):
            numbers, x = molecule(num_atoms, num_atoms)
            check(model, numbers[None], x[None], dtype)
        numbers, x = molecule(30, 4)
        numbers[numbers == 7] = 1  # an element that is absent: its features take no room
        check(model, numbers[None], x[None], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_atoms_than_a_block_holds(dtype: torch.dtype, isa: str) -> None:
    """2500 hydrogens, and counts on both sides of the limits of rows that are computed together."""
    model = model_of([(24, 13), (16,)], members=2)
    numbers, x = molecule(2500, 6, spacing=2.2)
    numbers[:] = 1
    numbers[torch.randperm(2500, generator=torch.Generator().manual_seed(0))[:97]] = 6
    check(model, numbers[None], x[None], dtype)
    for count in (23, 24, 95, 96, 97, 193, 1025, 2048, 2049):
        part = natively(model, numbers[None, :count], x[None, :count], atomic_energies=True)
        again = natively(
            model, numbers[None, :count].repeat(2, 1), x[None, :count].repeat(2, 1, 1), atomic_energies=True
        )
        for name in ("energies", "atomic_energies", "forces"):
            a, b = getattr(part, name)[0], getattr(again, name)
            atol = 64 * torch.finfo(dtype).eps * (1.0 if name == "forces" else 10.0)
            torch.testing.assert_close(b, torch.stack([a, a]), rtol=1e-15, atol=atol)
        if count < 200:
            check(model, numbers[None, :count], x[None, :count], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_values(activation: str, dtype: torch.dtype, isa: str) -> None:
    """Activations far out on both sides, at 0, and for tiny numbers."""
    for scale in (0.0, 1e-20, 1e-3, 30.0, 1e4, 1e12):
        model = model_of([(16,)], ACTIVATIONS[activation])
        with torch.no_grad():
            for network in model.head:
                network.linears[0].bias.copy_(torch.linspace(-1, 1, 16))
                for p in network.linears[0].parameters():
                    p.mul_(scale)
        check(model, *batch(), dtype)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fit_that_has_diverged_shows(activation: str, layer: int, value: float) -> None:
    """NaN weights, and infinite ones, never become finite energies that torch does not get."""
    for dtype in DTYPES:
        for name in ("weight", "bias"):
            model = model_of([(19, 16)], ACTIVATIONS[activation]).to(dtype)
            for network in model.head:
                getattr(network.linears[layer], name).data.view(-1)[0] = value
            expected = by_torch(model, *batch())
            found = natively(model, *batch())
            same = torch.testing.assert_close
            same(found.energies, expected.energies, rtol=1e-5, atol=1e-5, equal_nan=True)
            if not torch.isfinite(expected.forces).all():
                assert not torch.isfinite(found.forces).all()


class Own(nn.Module):
    """Something that nobody has heard of."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


class OwnCELU(CELU):
    """A subclass may compute something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OwnHead(ANIModel):
    def atomic_energies(self, species: Tensor, features: Tensor) -> Tensor:
        return 2 * super().atomic_energies(species, features)


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class OwnNetwork(AtomicNetwork):
    def forward(self, features: Tensor) -> Tensor:
        return 3 * super().forward(features)


class OwnAEV(AEVComputer):
    def from_neighborhoods(self, *args: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * super().from_neighborhoods(*args)


class OwnCutoff(anipot.CosineCutoff):
    def forward(self, distances: Tensor, cutoff: float) -> Tensor:
        return super().forward(distances, cutoff) ** 2


class OwnShifter(EnergyShifter):
    def atomic(self, species: Tensor) -> Tensor:
        return 2 * super().atomic(species)


class OwnPotential(Potential):
    def members_from_vectors(self, *args: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * super().members_from_vectors(*args)


def with_networks(change: Callable[[int], nn.Module]) -> Potential:
    model = model_of([(8, 8)])
    torch.manual_seed(2)
    model.head = ANIModel([change(small_aev().num_features) for _ in ELEMENTS]).double()
    return model


def with_part(name: str, part: nn.Module) -> Potential:
    model = model_of([(8, 8)])
    setattr(model, name, part)
    return model.double()


def hooked() -> Potential:
    model = model_of([(8, 8)])
    model.head[1].register_forward_hook(lambda *args: 2 * args[-1])
    return model


def own_aev(kind: type[AEVComputer], cutoff: nn.Module | None = None) -> AEVComputer:
    aev = small_aev()
    constants = [getattr(aev, name) for name in ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")]
    return kind(aev.Rcr, aev.Rca, *constants, len(ELEMENTS), cutoff)


def of_class(kind: type[Potential]) -> Potential:
    model = model_of([(8, 8)])
    return kind(model.elements, model.representation, model.head, model.shifter).double()


#: Models that torch computes, and a word of the reason.
LEFT_TO_TORCH: dict[str, tuple[Callable[[], Potential], str]] = {
    "relu": (lambda: model_of([(8, 8)], nn.ReLU), "ReLU"),
    "own activation": (lambda: model_of([(8, 8)], Own), "Own"),
    "function": (lambda: with_networks(lambda n: AtomicNetwork((n, 8, 1), torch.tanh)), "activation"),
    "subclass of an activation": (lambda: model_of([(8, 8)], lambda: OwnCELU(0.1)), "OwnCELU"),
    "own network": (lambda: with_networks(lambda n: OwnNetwork((n, 8, 1), CELU(0.1))), "OwnNetwork"),
    "own layer": (lambda: with_networks(lambda n: nn.Sequential(OwnLinear(n, 8), CELU(), nn.Linear(8, 1))), ""),
    "identity": (
        lambda: with_networks(lambda n: nn.Sequential(nn.Linear(n, 8), nn.Identity(), nn.Linear(8, 1))),
        "Identity",
    ),
    "no activation": (lambda: with_networks(lambda n: nn.Sequential(nn.Linear(n, 8), nn.Linear(8, 1))), None),
    "two activations": (
        lambda: with_networks(lambda n: nn.Sequential(nn.Linear(n, 8), CELU(), nn.Tanh(), nn.Linear(8, 1))),
        "alternate",
    ),
    "activation first": (lambda: with_networks(lambda n: nn.Sequential(nn.Tanh(), nn.Linear(n, 1))), "alternate"),
    "activation last": (
        lambda: with_networks(lambda n: nn.Sequential(nn.Linear(n, 8), CELU(), nn.Linear(8, 1), nn.Tanh())),
        "alternate",
    ),
    "40 layers": (
        lambda: with_networks(
            lambda n: sequential((n, *[8] * 39, 1), ACTIVATIONS["tanh"]),
        ),
        "40 layers",
    ),
    "nested": (
        lambda: with_networks(lambda n: nn.Sequential(nn.Sequential(nn.Linear(n, 8), CELU()), nn.Linear(8, 1))),
        "",
    ),
    "own head": (lambda: with_part("head", OwnHead(list(model_of([(8, 8)]).head))), "OwnHead"),
    "own member": (lambda: with_part("head", Ensemble([OwnHead(list(model_of([(8,)]).head))] * 2)), "OwnHead"),
    "own aev": (lambda: with_part("representation", own_aev(OwnAEV)), "OwnAEV"),
    "own cutoff": (lambda: with_part("representation", own_aev(AEVComputer, OwnCutoff())), "OwnCutoff"),
    "own shifter": (lambda: with_part("shifter", OwnShifter([-1.0, -2.0, -3.0])), "OwnShifter"),
    "own potential": (lambda: of_class(OwnPotential), "OwnPotential"),
    "hook": (hooked, "hook"),
    "bfloat16": (lambda: model_of([(8, 8)]).bfloat16(), "bfloat16"),
    "columns": (lambda: strided(), "contiguous"),
}


def strided() -> Potential:
    model = model_of([(8, 8)])
    weight = model.head[1].linears[1].weight
    weight.data = weight.data.t()
    return model


@pytest.mark.parametrize("name", LEFT_TO_TORCH)
def test_what_the_kernels_do_not_know_is_left_to_torch(name: str) -> None:
    make, reason = LEFT_TO_TORCH[name]
    model, species_x = make(), batch()
    plain = by_torch(copy.deepcopy(model_of([(8, 8)])), *species_x)
    expected = by_torch(model, *species_x, members=True, atomic_energies=True)
    assert not torch.equal(expected.energies, plain.energies) or name == "columns"
    for _ in range(2):
        found = anipot.single_point(model, *species_x, members=True, atomic_energies=True)
        assert_same(found, expected, model.dtype)
    if model.dtype == torch.float64 and name != "hook":  # batched gradients do not call hooks
        hessian = by_torch(model, *species_x, hessian=True).hessian
        ours = anipot.single_point(model, *species_x, hessian=True).hessian
        torch.testing.assert_close(ours, hessian, rtol=0, atol=1e-10)
    if reason is None:
        assert engine_of(model).covers() == ""
    else:
        assert reason in engine_of(model).covers() != ""


def test_shapes_that_do_not_fit() -> None:
    """torch refuses a weight that does not fit, and spreads a bias of one value."""
    model, species_x = model_of([(8, 8)]), batch()
    linear = model.head[0].linears[0]
    with torch.no_grad():
        linear.bias = nn.Parameter(torch.full((1,), 0.3, dtype=torch.float64))
    assert_same(anipot.single_point(model, *species_x), by_torch(model, *species_x))
    assert_same(anipot.single_point(model, *species_x), by_torch(model, *species_x))
    torch.testing.assert_close(model(species_x).energies, by_torch(model, *species_x).energies, rtol=1e-14, atol=0)
    linear.weight = nn.Parameter(linear.weight.detach()[:, :20].clone())
    for compute in (lambda: anipot.single_point(model, *species_x), lambda: model(species_x)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            compute()


def test_mixed_members_and_elements() -> None:
    """Each network of an ensemble has a shape and an activation of its own."""
    model = model_of([(8, 8)])
    n = model.representation.num_features
    torch.manual_seed(3)
    first = ANIModel([dense((n, 9, 5, 1), nn.Tanh), sequential((n, 16, 1), Softplus), dense((n, 1), nn.SiLU)])
    second = ANIModel([sequential((n, 3, 1), Gaussian), dense((n, 40, 30, 1), CELU), dense((n, 8, 8, 8, 1), nn.GELU)])
    shared = dense((n, 33, 1), nn.Tanh)
    model.head = Ensemble([first, second, ANIModel([shared, shared, shared])])
    for dtype in DTYPES:
        check(model, *batch(), dtype)
    assert engine_of(model).covers() == ""


def test_results_have_no_graph_whatever_the_mode() -> None:
    model, (species, x) = model_of([(8, 8)]), batch()
    expected = natively(model, species, x)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            found = natively(model.train(), species, x.clone().requires_grad_())
        assert not found.forces.requires_grad
        assert not found.energies.requires_grad
        assert torch.equal(found.forces, expected.forces)
