"""The CUDA kernel of the networks, compiled for the host, against torch; and its plans for devices."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from cuda_on_host import cuda_on_host, needs_compiler
from torch import Tensor, nn

from anipot import CELU, Gaussian, ShiftedSoftplus
from anipot.head.dense import dense_layers
from anipot.kernels.cuda import network_plan
from anipot.kernels.cuda.network_plan import SHAPES, Device, DoesNotFit, Plan, Problem, Shape, places, plan, tasks
from anipot.kernels.cuda.networks import Networks, NetworkTables, variants

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "celu": lambda: CELU(0.1),
    "celu1": lambda: CELU(1.3),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "softplus": ShiftedSoftplus,
    "gaussian": Gaussian,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
}
DTYPES = [torch.float64, torch.float32]
H200, T4, RTX3090 = Device(132, 227 * 1024), Device(40, 64 * 1024), Device(82, 99 * 1024)


class ExactSoftplus(nn.Module):
    """Without torch's threshold of 20, beyond which its softplus is off by up to 2e-9."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x)) - math.log(2.0)


def network(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True) -> nn.Module:
    """An activation of its own after each layer; weights so large that activations leave their linear range."""
    parts: list[nn.Module] = []
    for n_in, n_out in pairwise((*sizes, 1)):
        parts += [nn.Linear(n_in, n_out, bias=bias), activation()]
    with torch.no_grad():
        for part in parts[:-2:2]:
            part.weight.mul_(3)
    return nn.Sequential(*parts[:-1])


class Case:
    """Networks of members and elements, and rows of features."""

    def __init__(
        self,
        networks: list[list[nn.Module]],
        counts: list[int],
        dtype: torch.dtype,
        columns: Sequence[int] | None = None,
        apart: bool = False,
        gradients: bool = True,
    ) -> None:
        self.networks = [[n.to(dtype) for n in member] for member in networks]
        self.counts, self.dtype, self.apart, self.gradients = counts, dtype, apart, gradients
        self.weight_width = next(networks[0][0].parameters()).shape[1]
        self.columns = list(range(self.weight_width)) if columns is None else list(columns)
        self.features = torch.randn(sum(counts), len(self.columns), dtype=dtype)

    def make(self) -> Networks:
        width = self.weight_width
        layers = [
            [dense_layers(n, width) if rows else [] for n, rows in zip(member, self.counts, strict=True)]
            for member in self.networks
        ]
        tables = NetworkTables(layers, self.columns, gradients=self.gradients)
        return Networks(tables, self.counts, members=self.apart)

    def by_kernel(self, seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """Energies of members and gradients, in memory that was poisoned before and may only be written inside."""
        with cuda_on_host(seed):
            made = self.make()
            rows, width, room = *self.features.shape, 64
            energies = torch.full((len(self.networks) * rows + room,), math.nan, dtype=torch.float64)
            gradients = torch.full((made.groups * rows * width + room,), math.nan, dtype=self.dtype)
            e, g = energies[:-room].view(-1, rows), gradients[:-room].view(-1, rows, width)
            made.launch(self.features, e, g if self.gradients else None)
        assert energies[-room:].isnan().all()
        assert gradients[-room:].isnan().all()
        return e, (g if self.apart else g.sum(0)) if self.gradients else None

    def by_torch(self) -> tuple[Tensor, Tensor]:
        """The same in float64."""
        x = torch.zeros(len(self.features), self.weight_width, dtype=torch.float64)
        x[:, self.columns] = self.features.double()
        x.requires_grad_()
        energies = torch.stack(
            [
                torch.cat([exact(n)(part).view(-1) for n, part in zip(member, x.split(self.counts), strict=True)])
                for member in self.networks
            ]
        )
        outputs = energies if self.apart else energies.mean(0, keepdim=True)
        gradients = [torch.autograd.grad(e.sum(), x, retain_graph=True)[0][:, self.columns] for e in outputs]
        return energies.detach(), torch.stack(gradients) if self.apart else gradients[0]

    def check(self) -> None:
        energies, gradients = self.by_kernel()
        true_energies, true_gradients = self.by_torch()
        close(energies, true_energies, self.dtype)
        if gradients is not None:
            close(gradients, true_gradients, self.dtype)


def exact(module: nn.Module) -> nn.Module:
    """Return a copy in float64 without torch's shortcuts."""
    parts = [ExactSoftplus() if isinstance(part, ShiftedSoftplus) else part for part in copy.deepcopy(module)]  # type: ignore
    return nn.Sequential(*parts).double()


def close(found: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    """Rounding errors of ``dtype`` beside the largest number."""
    assert found.shape == truth.shape
    error = ((found.double() - truth).abs().max() / truth.abs().max()).item()
    assert error < (1e-13 if dtype == torch.float64 else 3e-6), error


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


def only(monkeypatch: pytest.MonkeyPatch, *shapes: Shape) -> None:
    """Leave no choice of how many rows a block takes."""
    monkeypatch.setattr(network_plan, "SHAPES", {shape.rows: [shape] for shape in shapes})


def shape_of(rows: int, stages: int) -> Shape:
    return next(shape for shape in SHAPES[rows] if shape.stages == stages)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, dtype: torch.dtype) -> None:
    make = ACTIVATIONS[activation]
    Case([[network((12, 16, 9), make)] for _ in range(2)], [11], dtype).check()


@needs_compiler
@pytest.mark.parametrize("activation", ["celu", "silu"])
def test_other_activations_in_one_network(activation: str) -> None:
    """Derivatives of some layers have memory of their own, of others not."""
    layers = [nn.Linear(7, 30), nn.GELU(), nn.Linear(30, 20), ACTIVATIONS[activation](), nn.Linear(20, 5), nn.Tanh()]
    Case([[nn.Sequential(*layers, nn.Linear(5, 1))]], [9], torch.float64).check()


@needs_compiler
def test_large_inputs_stay_finite() -> None:
    for activation in ACTIVATIONS.values():
        case = Case([[network((4, 8), activation)]], [8], torch.float32)
        case.features.mul_(1000)
        energies, gradients = case.by_kernel()
        assert energies.isfinite().all()
        assert gradients is not None
        assert gradients.isfinite().all()


@needs_compiler
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(activation: str) -> None:
    case = Case([[network((4, 8, 8), ACTIVATIONS[activation])]], [5], torch.float32)
    case.features[2, 1] = math.nan
    energies, gradients = case.by_kernel()
    bad = torch.arange(5) == 2
    assert (energies[0].isnan() == bad).all()
    assert gradients is not None
    assert (gradients.isnan().all(1) == bad).all()


@needs_compiler
@pytest.mark.parametrize(("rows", "stages"), [(8, 3), (8, 1), (16, 2), (32, 2)])
def test_numbers_of_rows(rows: int, stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All remainders of rows, in layers narrower and wider than the tiles of all warps."""
    only(monkeypatch, shape_of(rows, stages))
    monkeypatch.setattr("cuda_on_host.HostProgram.shared_limit", 227 * 1024)
    networks = [network((20, 70, 33)), network((20, 260, 3))]
    for n in (1, 7, 8, 9, 16, 31, 33, 70):
        Case([networks], [n, 70 - n], torch.float32).check()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "stages"), [(8, 3), (16, 2), (32, 2)])
def test_odd_widths(rows: int, stages: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that are multiples of nothing, members that differ, no bias, columns left out, and an element unused."""
    only(monkeypatch, shape_of(rows, stages))
    monkeypatch.setattr("cuda_on_host.HostProgram.shared_limit", 227 * 1024)
    hidden = [[(67, 5), (1,), (31, 2, 18)], [(3,), (1,), (19, 131)], [(40, 41, 42, 43), (1,), (9,)]]
    networks = [[network((39, *h), bias=m != 1) for h in member] for m, member in enumerate(hidden)]
    columns = [*range(2, 13), *range(20, 39)]
    Case(networks, [13, 0, 21], dtype, columns).check()


@needs_compiler
@pytest.mark.parametrize("apart", [False, True])
def test_members(apart: bool) -> None:
    """Gradients of members that one block adds up, or of each."""
    networks = [[network((16, 24 + m, 8)), network((16, 8))] for m in range(4)]
    counts = [900, 1200] if not apart else [9, 12]
    case = Case(networks, counts, torch.float32, apart=apart)
    with cuda_on_host():
        assert case.make().groups == (4 if apart else 1)
    case.check()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_energies_alone(dtype: torch.dtype) -> None:
    """Values of two layers at a time have memory."""
    networks = [[network((40, 64, 17, 90, 30), ACTIVATIONS["gelu"]), network((40, 12))] for _ in range(2)]
    Case(networks, [19, 2], dtype, gradients=False).check()


@needs_compiler
@pytest.mark.parametrize("seed", range(3))
def test_energies_of_members_of_one_block(seed: int) -> None:
    case = Case([[network((4, 8))] for _ in range(3)], [1100], torch.float64, gradients=False)
    with cuda_on_host():
        assert case.make().groups == 1
    close(case.by_kernel(seed)[0], case.by_torch()[0], torch.float64)


@needs_compiler
def test_features_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """More features than have room in shared memory at a time."""
    case = Case([[network((1008, 40, 24, 16))]], [20], torch.float64, range(3, 900))
    only(monkeypatch, shape_of(16, 2))
    with cuda_on_host():
        assert case.make().plan.hidden < 600
    case.check()


@needs_compiler
def test_columns_in_whole_units_and_not() -> None:
    """Weights are read 16 bytes at a time where columns and addresses allow it, wherever rows of features begin."""
    aligned = [*range(8, 24), *range(32, 60)]
    networks = [[network((64, 24, 16), ACTIVATIONS["celu"])]]
    for columns, units in ((aligned, 1), (aligned[:-1], 0), ([k + 1 for k in aligned], 0), (aligned[::-1], 0)):
        case = Case(networks, [9], torch.float64, columns)
        with cuda_on_host():
            assert case.make()._tables.tensors["layers"][9] == units  # the last number of the first layer
        case.check()


@needs_compiler
def test_any_order_of_threads_gives_the_same_bits() -> None:
    networks = [[network((33, 70, 20)), network((33, 200, 140))] for _ in range(2)]
    case = Case(networks, [17, 30], torch.float32)
    first, *others = [case.by_kernel(seed) for seed in range(3)]
    for energies, gradients in others:
        assert torch.equal(energies, first[0])
        assert gradients is not None
        assert torch.equal(gradients, first[1])  # type: ignore[arg-type]


@needs_compiler
def test_weights_are_read_where_they_are() -> None:
    case = Case([[network((8, 16))]], [4], torch.float64)
    with cuda_on_host():
        made = case.make()
        with torch.no_grad():
            case.networks[0][0][0].weight.add_(0.3)  # type: ignore[index]
        energies, gradients = torch.empty(1, 4, dtype=torch.float64), torch.empty(1, 4, 8, dtype=torch.float64)
        made.launch(case.features, energies, gradients)
    true_energies, true_gradients = case.by_torch()
    close(energies, true_energies, torch.float64)
    close(gradients[0], true_gradients, torch.float64)


@needs_compiler
def test_networks_of_ani2x() -> None:
    """Networks of hydrogen and carbon with the columns of methane."""
    hidden = [(256, 192, 160), (224, 192, 160)]
    networks = [network((1008, *h), ACTIVATIONS["celu"]) for h in hidden]
    columns = [*range(32), *range(112, 176), *range(336, 368)]
    Case([networks], [32, 8], torch.float32, columns).check()


@needs_compiler
def test_errors() -> None:
    case = Case([[network((8, 16))]], [4], torch.float32)
    layers = dense_layers(case.networks[0][0], 8)
    energies, gradients = torch.empty(1, 4, dtype=torch.float64), torch.empty(1, 4, 8)
    with cuda_on_host():
        made = case.make()
        with pytest.raises(ValueError, match=r"expected contiguous torch.float32 of shape \(4, 8\), got .* \(4, 7\)"):
            made.launch(torch.empty(4, 7), energies, gradients)
        with pytest.raises(ValueError, match=r"shape \(1, 4, 8\), got torch.float64"):
            made.launch(case.features, energies, gradients.double())
        with pytest.raises(ValueError, match="with gradients"):
            made.launch(case.features, energies)
        with pytest.raises(ValueError, match=r"float64 energies \(1, 4\), got torch.float32"):
            made.launch(case.features, energies.float(), gradients)
        with pytest.raises(ValueError, match="network of 1 layers"):
            NetworkTables([[layers[1:]]], range(16), gradients=True)
        with pytest.raises(ValueError, match="columns up to 8 of a weight of 8"):
            NetworkTables([[layers]], range(9), gradients=True)
        with pytest.raises(DoesNotFit, match="hidden layers of 4016 values"):
            Case([[network((8, 4000, 16))]], [4], torch.float32).make()


def test_nothing_to_compute() -> None:
    made = Networks(NetworkTables([[[], []]], range(4), gradients=True), [0, 0], members=False)
    made.launch(torch.empty(0, 4), torch.empty(1, 0, dtype=torch.float64), torch.empty(1, 0, 4))


# ---- plans ----------------------------------------------------------------------------------------------------------

ANI2X = [(256, 192, 160), (224, 192, 160), (192, 160, 128), (192, 160, 128)]


def ani2x(counts: Sequence[int], width: int = 384, size: int = 4, apart: bool = False) -> Problem:
    """H, C, N, O."""
    used = [places(h, (1, 1, 1), True) for h, n in zip(ANI2X, counts, strict=True) if n]
    end, features = max(p.end for p in used), max(p.features for p in used)
    return Problem(end, features, counts, 8, width, 4, size, apart)


def test_small_molecules_take_small_blocks_and_large_ones_large() -> None:
    benzene, water = plan(ani2x((6, 6, 0, 0)), H200), plan(ani2x((40000, 0, 0, 20000), 128), H200)
    assert (benzene.shape.rows, benzene.shape.stages, benzene.groups) == (8, 3, 8)
    assert (water.shape.rows, water.groups) == (32, 1)
    assert 2 * (water.shared + 1024) <= 228 * 1024  # two blocks on a multiprocessor
    assert plan(ani2x((40000, 0, 0, 20000), 128, apart=True), H200).groups == 8
    assert plan(ani2x((40000, 0, 0, 20000), 128), RTX3090).shape.rows == 16  # where two blocks of 32 have no room


@pytest.mark.parametrize("device", [H200, T4, RTX3090])
@pytest.mark.parametrize("size", [4, 8])
def test_published_networks_fit_all_devices(device: Device, size: int) -> None:
    for width in (384, 1008):
        if (device, size) != (T4, 8):
            assert plan(ani2x((300, 100, 20, 30), width, size), device).shared <= device.shared_limit


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("kinds", [(1, 1, 1, 1, 1), (3, 1, 5, 6, 2), (7, 7, 7, 7, 7)])
def test_places_do_not_overlap_where_values_are_needed(kinds: Sequence[int], gradients: bool) -> None:
    widths = (40, 17, 64, 5, 90)
    at = places(widths, kinds, gradients)

    def taken(start: int, n: int) -> set[int]:
        assert start % 16 == 0
        return set(range(start, start + -(-n // 16) * 16))

    values = [taken(a, n) for a, n in zip(at.value, widths, strict=True)]
    slopes = [taken(a, n) for a, n in zip(at.slope, widths, strict=True)]
    assert max(map(max, values + slopes)) < at.end
    assert not any(a & b for a, b in pairwise(values))
    assert min(values[0] | slopes[0]) == 0
    assert at.features > max(values[0] | slopes[0] if gradients else values[0])
    if gradients:
        own = [s for s, v in zip(slopes, values, strict=True) if s != v]
        everything = values + own
        assert sum(map(len, everything)) == len(set().union(*everything))
        assert [s == v for s, v in zip(slopes, values, strict=True)] == [kind in (1, 2, 4) for kind in kinds]


def test_tasks_are_all_rows_once_and_of_even_size() -> None:
    counts = [70, 0, 33]
    made = Plan(SHAPES[32][0], 0, False, 2, 0)
    found = tasks(counts, [1, 9, 5], made)
    assert [task[0] for task in found] == [2] * 4 + [0] * 6  # those with the most work first
    for group in range(2):
        rows = sorted(r for e, first, n, g in found if g == group for r in range(first, first + n))
        assert rows == list(range(103))
    assert {n for e, _, n, _ in found if e == 0} == {23, 24}


def test_variants_are_those_that_plans_choose() -> None:
    found = variants()
    assert len(found) == 2 * sum(map(len, SHAPES.values()))
    assert ("networks", {"ANIPOT_ROWS": 32, "ANIPOT_STAGES": 2}) in found
    assert ("networks", {"ANIPOT_ROWS": 8, "ANIPOT_STAGES": 3, "ANIPOT_DOUBLE": 1}) in found
