"""The engine of a GPU: same atoms again and others, lists that overflow, models that change, input that is wrong."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule as ase_molecule
from ase.md.verlet import VelocityVerlet
from contracts import assert_same as assert_equal
from contracts import by_torch, computed_by, molecule, natively, on_cuda, potential
from cuda_on_host import cuda_on_host, needs_compiler
from torch import Tensor

import anipot
from anipot import CELU, AtomicNetwork
from anipot.engine import cuda, engine_of, rows
from anipot.engine.step import Step
from anipot.kernels.cuda.errors import KernelError


def assert_same(actual: anipot.SinglePoint, expected: anipot.SinglePoint, dtype: torch.dtype = torch.float64) -> None:
    assert_equal(actual, expected, dtype, unit=2.0**-47)  # common.h


@pytest.fixture(params=on_cuda)
def place(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    with computed_by(request.param) as device:
        yield device


def batch(place: torch.device, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Three molecules with ghosts that hold NaN, in a cell each, with some of its axes periodic."""
    species, x = anipot.pad([molecule(n, seed) for n, seed in ((6, 1), (11, 2), (1, 3))])
    x[species < 0] = float("nan")
    cell = torch.tensor([[6.0, 0, 0], [1, 6, 0], [0.5, -1, 7]], dtype=torch.float64).repeat(3, 1, 1)
    pbc = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    return species.to(place), x.to(place, dtype), cell.to(place, dtype), pbc.to(place)


def model_at(place: torch.device, dtype: torch.dtype = torch.float64) -> anipot.Potential:
    return potential("aev_user", "ensemble").to(place, dtype)


@pytest.mark.parametrize("members", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_same_atoms_again(dtype: torch.dtype, members: bool, place: torch.device) -> None:
    """The first call, the one that makes a graph, and those that replay it."""
    model, (species, x, cell, pbc) = model_at(place, dtype), batch(place)
    ask = {"stress": True, "atomic_energies": True, "members": members}
    for step in range(4):
        moved = x + 0.05 * step * torch.randn(x.shape, generator=torch.Generator().manual_seed(step)).to(x)
        system = species, moved, cell * (1 + 0.01 * step), pbc
        assert_same(natively(model, *system, **ask), by_torch(model, *system, **ask), dtype)
    assert engine_of(model).searches == 4


def test_other_questions_in_turn(place: torch.device) -> None:
    model, (species, x, cell, pbc) = model_at(place), batch(place)
    for forces, stress in ((False, False), (True, False), (False, False), (True, True)):
        ask = {"forces": forces, "stress": stress}
        found, expected = (way(model, species, x, cell, pbc, **ask) for way in (natively, by_torch))
        assert_same(found, expected)
        assert (found.forces is None) == (not forces)


def test_results_are_the_callers_own(place: torch.device) -> None:
    model, (species, x, _, _) = model_at(place), batch(place)
    first = natively(model, species, x)
    kept = first.forces.clone()
    for _ in range(3):
        natively(model, species, 1.01 * x)
    assert torch.equal(first.forces, kept)


def test_other_atoms_in_turn(place: torch.device) -> None:
    model = model_at(place)
    systems = [tuple(t[None].to(place) for t in molecule(n, n)) for n in (3, 5, 4, 7, 6, 2)]
    for species, x in systems * 2:
        assert_same(natively(model, species, x), by_torch(model, species, x))
    species, x = systems[0]
    before = natively(model, species, x)
    species[0, 0] = 6 if species[0, 0] != 6 else 7  # the same tensor with another atom in it
    after = natively(model, species, x)
    assert_same(after, by_torch(model, species, x))
    assert not torch.equal(after.energies, before.energies)


def test_lists_grow(place: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_CAPACITY", 3)
    model, system = model_at(place), batch(place)
    for _ in range(3):
        assert_same(natively(model, *system, stress=True), by_torch(model, *system, stress=True))


def test_lists_grow_for_the_atoms_that_there_were(place: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has become of the tensor that told of them."""
    monkeypatch.setattr(cuda, "_CAPACITY", 3)
    parts = model_at(place)
    model = anipot.Potential(
        parts.elements, parts.representation, parts.head, parts.shifter, periodic_table_index=False
    ).to(place)
    species, x = torch.tensor([[0, 1, 2, 3, 0, 1]], device=place), molecule(6, 1)[1][None].to(place)
    natively(model, species, 10 * x)
    again = species.clone()
    species[:] = 1
    assert_same(natively(model, again, x), by_torch(model, again, x))


@pytest.mark.parametrize("members", [False, True])
def test_rows_in_blocks(members: bool, place: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into memory at once."""
    monkeypatch.setattr(rows, "_BYTES", 5 * 8 * model_at(place).representation.num_features)
    model, system = model_at(place), batch(place)
    ask = {"stress": True, "atomic_energies": True, "members": members}
    for _ in range(2):
        assert_same(natively(model, *system, **ask), by_torch(model, *system, **ask))


def test_the_model_changes(place: torch.device) -> None:
    model, system = model_at(place), batch(place)
    for _ in range(3):
        natively(model, *system)
    member = model.head[0][0]
    with torch.no_grad():
        member.linears[0].weight.mul_(1.1)  # where it is
    assert_same(natively(model, *system), by_torch(model, *system))
    member.linears[0].weight = torch.nn.Parameter(1.2 * member.linears[0].weight.detach())  # somewhere else
    assert_same(natively(model, *system), by_torch(model, *system))
    model.representation.EtaA.mul_(1.05)
    assert_same(natively(model, *system), by_torch(model, *system))
    model.shifter.self_energies.add_(1.0)
    assert_same(natively(model, *system), by_torch(model, *system))
    member.activation.alpha = 0.3
    assert_same(natively(model, *system), by_torch(model, *system))
    other = copy.deepcopy(model).float()
    assert_same(natively(other, *system), by_torch(other, *system), torch.float32)


def test_wrong_input_is_told(place: torch.device) -> None:
    model, (species, x, cell, pbc) = model_at(place), batch(place)
    nan, spot, far = x.clone(), x.clone(), cell.clone()
    nan[1, 2, 0] = float("nan")
    spot[1, 2] = spot[1, 0]
    far[1] = 0
    unknown = species.clone()
    unknown[0, 1] = 26
    for system, message in (
        ((species, nan, cell, pbc), r"molecule 1, atom 2 has coordinates \[nan"),
        ((species, spot, cell, pbc), r"molecule 1: atoms 0 and 2 .* stand on one spot"),
        ((species, x, far, pbc), r"molecule 1 has a singular cell"),
        ((unknown, x, cell, pbc), r"molecule 0, atom 1 is Fe"),
    ):
        with pytest.raises(ValueError, match=message):
            anipot.single_point(model, *system, stress=True)
    with pytest.raises(ValueError, match="no molecule of the batch is periodic"):
        anipot.single_point(model, species, x, stress=True)


def test_nobody_is_there(place: torch.device) -> None:
    model, x = model_at(place), torch.full((2, 3, 3), float("nan"), dtype=torch.float64, device=place)
    result = natively(model, torch.full((2, 3), -1, device=place), x)
    assert not result.energies.any()
    assert not result.forces.any()


def test_inference_mode(place: torch.device) -> None:
    model = model_at(place)
    with torch.inference_mode():
        species, x = (t[None].to(place) for t in molecule(5, 5))
        found = [natively(model, species, x) for _ in range(3)]
    for result in found:
        assert_same(result, by_torch(model, species.clone(), x.clone()))


def test_dynamics_in_ase(place: torch.device) -> None:
    """Structures are on the CPU, whatever the model is on: one transfer each way."""
    found = []
    for model in (model_at(place), model_at(torch.device("cpu"))):
        atoms = ase_molecule("CH3CH2OH", cell=[[7.0, 0, 0], [1, 7, 0], [0, 0.5, 8]], pbc=[True, False, True])
        atoms.calc = model.ase()
        with computed_by("torch") if model.device != place or found else computed_by(_path(place)):
            VelocityVerlet(atoms, 0.5 * units.fs).run(5)
            found.append((atoms.positions, atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-11)


def _path(place: torch.device) -> str:
    return "cuda" if place.type == "cuda" else "cuda on host"


def test_tensors_elsewhere_are_refused(place: torch.device) -> None:
    if place.type == "cpu":
        pytest.skip("needs a GPU: there is but one place")
    species, x = (t[None] for t in molecule(5, 5))
    with pytest.raises((RuntimeError, ValueError), match=r"device|cpu"):
        anipot.single_point(model_at(place), species, x)


@needs_compiler
def test_the_order_of_threads_does_not_matter() -> None:
    """To the last bit, whichever warp comes first: a barrier that is not there would show."""
    model, system = model_at(torch.device("cpu"), torch.float32), batch(torch.device("cpu"))
    found = []
    for seed in (0, 1, 2, 3):
        with cuda_on_host(seed):
            result = natively(copy.deepcopy(model), *system, stress=True, atomic_energies=True)
            found.append([result.energies, result.forces, result.stress, result.atomic_energies])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_what_is_not_covered(place: torch.device) -> None:
    """Torch computes it, and the engine says why it does not."""
    one_layer = [AtomicNetwork((anipot.AEVComputer.like_1x().num_features, 1), CELU(0.1)) for _ in range(4)]
    wide = anipot.AEVComputer(
        4.0, 3.5, 16.0, [1.0], 8.0, 32.0, torch.linspace(0.8, 3.0, 150), torch.linspace(0.1, 3.0, 150), 4
    )
    many = [AtomicNetwork((wide.num_features, 4, 1), CELU(0.1)) for _ in range(4)]
    for aev, networks, why in (
        (anipot.AEVComputer.like_1x(), one_layer, "one layer"),
        (wide, many, "more constants than it has memory for"),
    ):
        shifter = anipot.EnergyShifter([0.0] * 4)
        model = anipot.Potential("HCNO", aev, anipot.ANIModel(networks), shifter).double().to(place)
        species, x = (t[None].to(place) for t in molecule(4, 4))
        assert why in engine_of(model).covers()
        result = anipot.single_point(model, species, x)
        assert_same(result, by_torch(model, species, x))


@needs_compiler
def test_networks_without_room_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch computes what there is too little shared memory for, and buffers are not made again at every call."""
    model, made, init = model_at(torch.device("cpu")), [], Step.__init__
    monkeypatch.setattr(Step, "__init__", lambda *args: made.append(1) or init(*args))
    species, x = (t[None] for t in molecule(5, 5))
    expected = by_torch(model, species, x)
    with cuda_on_host():
        monkeypatch.setattr("cuda_on_host.HostProgram.shared_limit", 24_000)
        for k in range(3):
            assert_same(anipot.single_point(model, species.clone(), x), expected)
            assert len(made) == 1, k
        member = model.head[0][0].linears[0]
        member.weight = torch.nn.Parameter(member.weight.detach().clone())
        anipot.single_point(model, species, x)
        assert len(made) == 2  # again for another model
        assert_same(anipot.single_point(model, species[:, :3], x[:, :3]), by_torch(model, species[:, :3], x[:, :3]))
        assert len(made) == 3


@needs_compiler
def test_steps_of_others_give_up_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, init, room = model_at(torch.device("cpu")), Step.__init__, [3]
    systems = [tuple(t[None] for t in molecule(n, n)) for n in (3, 5, 4)]
    expected = [by_torch(model, *system) for system in systems]

    def steps() -> list[object]:
        return engine_of(model)._plan._runs

    def limited(*args: object) -> None:
        if len(steps()) >= room[0]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        init(*args)

    with cuda_on_host():
        assert_same(natively(model, *systems[0]), expected[0])
        monkeypatch.setattr(Step, "__init__", limited)
        assert_same(natively(model, *systems[1]), expected[1])
        assert len(steps()) == 2
        room[0] = 2
        assert_same(natively(model, *systems[2]), expected[2])
        assert len(steps()) == 1
        room[0] = 0
        with pytest.raises(torch.cuda.OutOfMemoryError):
            anipot.single_point(model, *systems[0])


@needs_compiler
def test_torch_computes_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise KernelError("no such compiler")

    model, system = model_at(torch.device("cpu")), batch(torch.device("cpu"))
    expected = by_torch(model, *system)
    with cuda_on_host():
        monkeypatch.setattr("anipot.engine.step.compile_all", broken)
        assert_same(anipot.single_point(model, *system), expected)


class Graph:
    """Stands in for ``torch.cuda.CUDAGraph``: what is launched while it is captured is launched at each replay."""

    made: ClassVar[list[Graph]] = []
    now: ClassVar[Graph | None] = None

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.replays = 0
        Graph.made.append(self)

    def capture_begin(self, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        Graph.now = self

    def capture_end(self) -> None:
        Graph.now = None

    def replay(self) -> None:
        self.replays += 1
        for step in self.steps:
            LAUNCH(step)


LAUNCH = Step.launch


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Let steps on the host be captured, by stand-ins for what torch does."""

    def launch(step: Step) -> None:
        LAUNCH(step) if Graph.now is None else Graph.now.steps.append(step)

    stream = mock.MagicMock()
    for name in ("current_stream", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: stream)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(cuda, "_can_capture", lambda device: True)
    monkeypatch.setattr(Step, "launch", launch)
    Graph.made = []
    return Graph.made


@needs_compiler
def test_the_second_call_makes_a_graph(graphs: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_CAPACITY", 24)
    model, (species, x, cell, pbc) = model_at(torch.device("cpu")), batch(torch.device("cpu"))
    with cuda_on_host():
        for step, made in enumerate((0, 1, 1, 1)):
            system = species, (1 + 0.02 * step) * x, cell, pbc
            assert_same(natively(model, *system), by_torch(model, *system))
            assert len(graphs) == made
        assert graphs[0].replays == 3
        near = species, 0.8 * x, 0.8 * cell, pbc  # lists overflow in a replay, and the step is made again
        assert_same(natively(model, *near), by_torch(model, *near))
        assert_same(natively(model, *near), by_torch(model, *near))
        assert [graph.replays for graph in graphs] == [4, 1]


@needs_compiler
def test_without_graphs(graphs: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Graph, capture_error_mode: str) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    model, (species, x, _, _) = model_at(torch.device("cpu")), batch(torch.device("cpu"))
    expected = by_torch(model, species, x)
    monkeypatch.setattr(Graph, "capture_begin", refuse)
    with cuda_on_host():
        assert_same(natively(model, species, x), expected)
        with pytest.warns(UserWarning, match="no CUDA graph could be made.*operation not permitted"):
            assert_same(natively(model, species, x), expected)
        assert_same(natively(model, species, x), expected)  # once is enough
    assert len(graphs) == 1
