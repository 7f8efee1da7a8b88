"""The pieces that are exported, on small seeded networks, and structures to try them on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from cuda_on_host import cuda_on_host, needs_compiler
from torch import Tensor, nn

import anipot
from anipot import (
    ACSF,
    CELU,
    AEVComputer,
    ANIModel,
    AtomicNetwork,
    Atomwise,
    EnergyShifter,
    Ensemble,
    Gaussian,
    GaussianBasis,
    PaiNN,
    Potential,
    SchNet,
    ScSchNet,
    ShiftedSoftplus,
    SmoothCutoff,
    wACSF,
)
from anipot.kernels import cpu_backend, instruction_set, library

ELEMENTS = ("H", "C", "N", "O")
SELF_ENERGIES = [-0.6, -38.1, -54.7, -75.2]


def user_aev() -> AEVComputer:
    """AEVs with several values of every constant and the smooth cutoff."""
    return AEVComputer(
        4.6, 3.1, [9.0, 16.0], [0.8, 1.9, 3.0], [6.0, 9.0], [8.0, 14.1], [0.9, 1.8], [0.3, 1.2, 2.1], 4, SmoothCutoff()
    )


#: Those that the native kernels know.
AEVS: dict[str, Callable[[], AEVComputer]] = {
    "aev_1x": AEVComputer.like_1x,
    "aev_2x": lambda: AEVComputer.like_2x(num_species=4),
    "aev_user": user_aev,
}

REPRESENTATIONS: dict[str, Callable[[], nn.Module]] = {
    **AEVS,
    "acsf_g4": lambda: ACSF.shifted(4, 4.9, num_radial=8, num_widths=2, zetas=[1, 4.5]),
    "acsf_g5": lambda: ACSF.centred(
        4, 4.6, num_radial=5, form="G5", angular_cutoff=3.4, cutoff_function=SmoothCutoff()
    ),
    "wacsf": lambda: wACSF.shifted(ELEMENTS, 5.1, num_radial=12),
    "wacsf_learned": lambda: wACSF.centred(ELEMENTS, 4.7, form="G5", angular_cutoff=4.1, learned=True),
    "schnet": lambda: SchNet(4, 16, 2, 4.3, GaussianBasis.equidistant(9, 4.3)),
    "schnet_mollified": lambda: SchNet(4, 12, 2, 4.0, None, SmoothCutoff(), 14, True, True),
    "sc_schnet": lambda: ScSchNet(4, 10, 2, 4.2),
    "painn": lambda: PaiNN(4, 8, 2, 4.1),
    "painn_gaussian": lambda: PaiNN(
        4, 6, 2, 3.8, GaussianBasis.equidistant(7, 3.8), shared_interactions=True, shared_filters=True
    ),
}


def _networks(num_features: int, activation: nn.Module) -> ANIModel:
    return ANIModel([AtomicNetwork((num_features, 12 + e, 8, 1), activation) for e in range(4)])


HEADS: dict[str, Callable[[int], nn.Module]] = {
    "ani_celu": lambda n: _networks(n, CELU(0.1)),
    "ani_gaussian": lambda n: _networks(n, Gaussian()),
    "ensemble": lambda n: Ensemble([_networks(n, CELU(0.1)) for _ in range(3)]),
    "atomwise": lambda n: Atomwise(AtomicNetwork((n, 9, 1), ShiftedSoftplus()), mean=-0.2, stddev=1.3),
    "atomwise_ensemble": lambda n: Ensemble([Atomwise.pyramid(n) for _ in range(2)]),
}

PAIRS = [(r, h) for r in REPRESENTATIONS for h in HEADS]
NATIVE_PAIRS = [(r, h) for r in AEVS for h in ("ani_celu", "ani_gaussian", "ensemble")]


def potential(representation: str, head: str) -> Potential:
    """Return a seeded float64 potential."""
    torch.manual_seed(7)
    rep = REPRESENTATIONS[representation]()
    for p in rep.parameters():  # biases start at 0, which would hide mistakes
        torch.nn.init.normal_(p, std=0.1) if p.dim() == 1 else None
    model = Potential(ELEMENTS, rep, HEADS[head](rep.num_features), EnergyShifter(SELF_ENERGIES), name="contract")
    return model.double()


def cutoffs(representation: nn.Module) -> list[float]:
    """Return all distances at which a representation loses sight of something."""
    names = ("cutoff", "Rca", "angular_cutoff")
    return sorted({getattr(representation, name) for name in names if hasattr(representation, name)})


def molecule(num_atoms: int, seed: int, spacing: float = 1.3) -> tuple[Tensor, Tensor]:
    """Return atomic numbers (a,) and coordinates (a, 3) of atoms scattered without clashes."""
    generator = torch.Generator().manual_seed(seed)
    side = int(num_atoms ** (1 / 3)) + 2
    grid = torch.cartesian_prod(*[torch.arange(side)] * 3).double() * spacing
    sites = grid[torch.randperm(len(grid), generator=generator)[:num_atoms]]
    noise = 0.25 * torch.rand(num_atoms, 3, generator=generator, dtype=torch.float64)
    numbers = torch.tensor([1, 6, 7, 8])[torch.randint(0, 4, (num_atoms,), generator=generator)]
    return numbers, sites + noise


def without_properties(model: anipot.Potential) -> anipot.Potential:
    """Return a potential without its property heads: ``mini`` has a dipole."""
    return anipot.Potential(model.elements, model.representation, model.head, model.shifter, "plain")


def _has(name: str) -> bool:
    try:
        with instruction_set(name):
            return True
    except ValueError:
        return False


#: What the native kernels run with on this machine, the best first; empty where they were not built.
INSTRUCTION_SETS = [name for name in ("avx512", "avx2", "baseline") if _has(name)]

needs_kernels = pytest.mark.skipif(library() is None, reason=cpu_backend().reason)


#: A GPU, where there is one; the same kernels compiled for the host stand beside it.
on_cuda = [
    pytest.param("cuda on host", marks=needs_compiler),
    pytest.param(
        "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
    ),
]

#: All ways in which kernels compute.
KERNEL_PATHS = [*INSTRUCTION_SETS, *on_cuda]


@contextmanager
def computed_by(path: str) -> Iterator[torch.device]:
    """Compute along one of ``KERNEL_PATHS``, or by "torch", and return where tensors have to be."""
    if path == "cuda":
        yield torch.device("cuda")
        return
    how = {"torch": anipot.reference_path, "cuda on host": cuda_on_host}.get(path, lambda: instruction_set(path))
    with how():
        yield torch.device("cpu")


@contextmanager
def moved(place: torch.device) -> Iterator[None]:
    """Let ``anipot.single_point`` compute somewhere else what it is given, and return, on the CPU."""
    original, there = anipot.single_point, {}

    def single_point(model: nn.Module, *args: Any, **options: Any) -> anipot.SinglePoint:
        if id(model) not in there:
            there[id(model)] = model, copy.deepcopy(model).to(place)
        args = tuple(a.to(place) if isinstance(a, Tensor) else a for a in args)
        return on_cpu(original(there[id(model)][1], *args, **options))

    with mock.patch("anipot.single_point", single_point):
        yield


def on_cpu(value: Any) -> Any:
    """Return a result with all of its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if not dataclasses.is_dataclass(value):
        return value
    result = copy.copy(value)
    for field in dataclasses.fields(value):
        object.__setattr__(result, field.name, on_cpu(getattr(value, field.name)))
    return result


def natively(model: nn.Module, *args: Any, **options: Any) -> anipot.SinglePoint:
    """Return ``single_point`` from the kernels; an error where torch would have computed it."""
    with mock.patch("anipot.derivatives.find_pairs", side_effect=AssertionError("left to torch")):
        return anipot.single_point(model, *args, **options)


def by_torch(model: nn.Module, *args: Any, **options: Any) -> anipot.SinglePoint:
    """Return ``single_point`` from plain torch operations."""
    with anipot.reference_path():
        return anipot.single_point(model, *args, **options)


def fresh(model: Any) -> Any:
    """Return the same potential without its engine, which remembers the instruction set that it was made for."""
    model.__dict__.pop("_engine", None)
    return model


#: Rounding of the small networks above, in units of the last place of 1: of energies in Hartree per molecule or atom,
#: of forces, and of stress, which is forces of a few Å spread over cells of 60 Å³ and more.
ROUNDING = {"energies": 16, "atomic_energies": 16, "forces": 16, "stress": 1 / 8}


def assert_same(
    actual: anipot.SinglePoint, expected: anipot.SinglePoint, dtype: torch.dtype = torch.float64, unit: float = 0.0
) -> None:
    """Compare all values that there are, within the rounding of ``dtype``, in which they were computed.

    ``unit`` is that of fixed-point forces, whose terms are cut to whole numbers of it, up to 16 for each atom.
    """
    for a, e in ((actual, expected), (actual.members, expected.members)):
        assert (a is None) == (e is None)
        for name, units in ROUNDING.items() if e is not None else ():
            x, y = getattr(a, name), getattr(e, name)
            assert (x is None) == (y is None), name
            if y is None:
                continue
            # Self energies, up to 1000 Hartree, are float64 and are added in any order.
            rtol, atol = 1e-15 if "energies" in name else 0.0, units * torch.finfo(dtype).eps
            atol += 16 * unit if name == "forces" else 0.0
            torch.testing.assert_close(x.double(), y.double(), rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
