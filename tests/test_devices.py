"""Several devices give what one gives; CPUs stand in for GPUs, each with copies of its own."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from ase.build import molecule as built
from contracts import ELEMENTS, HEADS, REPRESENTATIONS, SELF_ENERGIES, molecule, potential
from torch import Tensor

import anipot
from anipot import ZBL, AtomicNetwork, Atomwise, DipoleMoment, EnergyShifter, EnsemblePotential, Potential, SchNet
from anipot.devices import Devices
from anipot.shards import by_members, groups, shards

CELL = torch.tensor([[5.3, 0.4, 0.0], [-0.9, 5.8, 0.2], [0.6, -0.7, 6.1]], dtype=torch.float64)
EVERYTHING = {"stress": True, "hessian": True, "atomic_energies": True, "members": True}


def with_more() -> Potential:
    """Return an ensemble with a dipole and a term beside it."""
    torch.manual_seed(3)
    rep = REPRESENTATIONS["aev_1x"]()
    dipole = DipoleMoment(AtomicNetwork((rep.num_features, 4, 1), torch.nn.SiLU()), ELEMENTS)
    more: dict[str, Any] = {"properties": {"dipole": dipole, "charges": dipole.charges}, "terms": [ZBL(ELEMENTS, 2.0)]}
    head = HEADS["ensemble"](rep.num_features)
    return Potential(ELEMENTS, rep, head, EnergyShifter(SELF_ENERGIES), **more).double()


def of_different_members() -> EnsemblePotential:
    torch.manual_seed(4)
    members = [potential("aev_user", "ani_celu"), potential("aev_1x", "ensemble")]
    schnet = Potential(ELEMENTS, SchNet(4, 8, 2, 4.0), Atomwise.pyramid(8), EnergyShifter([-1.0] * 4)).double()
    return EnsemblePotential([*members, schnet])


MODELS: dict[str, Callable[[], Potential]] = {
    "one network": lambda: potential("aev_1x", "ani_celu"),
    "ensemble": lambda: potential("aev_2x", "ensemble"),
    "SchNet": lambda: potential("schnet", "atomwise_ensemble"),
    "with more": with_more,
    "of different members": of_different_members,
}


def batch(*sizes: int) -> tuple[Tensor, Tensor]:
    numbers, x = anipot.pad([molecule(n, 10 + n) for n in sizes])
    return numbers, torch.where((numbers < 0)[..., None], torch.nan, x)


def assert_same(one: anipot.SinglePoint, other: anipot.SinglePoint) -> None:
    def compare(a: Any, b: Any, names: list[str]) -> None:
        for name in names:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None), name
            if x is not None:
                assert x.dtype == y.dtype, name
                torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12, equal_nan=True, msg=name)

    names = ["species", "energies", "forces", "stress", "hessian", "atomic_energies"]
    compare(one, other, names)
    if one.members is not None:
        compare(one.members, other.members, [*names[1:4], "atomic_energies", "energies_std", "forces_std", "qbc"])
    assert (one.properties or {}).keys() == (other.properties or {}).keys()
    for name, value in (one.properties or {}).items():
        torch.testing.assert_close(value, other.properties[name], rtol=1e-12, atol=1e-12)


def threads_used(model: Potential, *args: Any, **ask: Any) -> set[str]:
    """Return the names of the threads that compute."""
    import anipot.devices

    seen: set[str] = set()

    def watched(*given: Any, **more: Any) -> anipot.SinglePoint:
        seen.add(threading.current_thread().name)
        return anipot.single_point(*given, **more)

    with mock.patch.object(anipot.devices, "single_point", watched):
        anipot.single_point(model, *args, **ask)
    return seen


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("sizes", [(5,), (7, 3, 1, 6, 2)])
def test_several_devices_give_what_one_gives(name: str, count: int, sizes: tuple[int, ...]) -> None:
    model = MODELS[name]()
    several = anipot.on_devices(model, ["cpu"] * count)
    given = *batch(*sizes), CELL, torch.tensor([True, True, False])
    heads = ["charges"] if "charges" in model.property_heads else []  # a periodic system has no dipole
    ask = EVERYTHING | {"properties": heads}
    assert_same(anipot.single_point(model, *given, **ask), anipot.single_point(several, *given, **ask))
    free = {"forces": True, "atomic_energies": True, "properties": True}
    assert_same(anipot.single_point(model, *given[:2], **free), anipot.single_point(several, *given[:2], **free))
    if len(model) > 1 or len(sizes) > 1:
        assert len(threads_used(several, *given[:2])) == min(count, max(len(model), len(sizes)))


def test_each_molecule_keeps_its_own_cell() -> None:
    model = MODELS["ensemble"]()
    cells = torch.stack([CELL, 1.1 * CELL, 1.3 * CELL, CELL.flip(0)])
    pbc = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0]]).bool()
    given = *batch(4, 6, 3, 5), cells, pbc
    several = anipot.on_devices(model, ["cpu", "cpu"])
    assert_same(anipot.single_point(model, *given, stress=True), anipot.single_point(several, *given, stress=True))
    assert len(threads_used(several, *given)) == 2


def test_batches_are_divided_by_atoms() -> None:
    for costs, count in (([1] * 10, 3), ([50, 1, 1, 1, 1], 4), ([0, 0, 5], 2), ([2, 7, 1, 8, 2, 8], 2), ([3], 2)):
        rows = shards(costs, count)
        assert [i for run in rows for i in range(run.start, run.stop)] == list(range(len(costs)))
        assert 1 <= len(rows) <= count
        most = max(sum(costs[run]) for run in rows)
        assert most <= sum(costs) / count + max(costs)
    assert shards([10, 10, 10, 10], 2) == [slice(0, 2), slice(2, 4)]
    assert [len(one) for one in groups(8, 3)] == [3, 3, 2]
    assert [len(one) for one in groups(2, 4)] == [1, 1]


def test_members_are_divided_where_molecules_cannot_be() -> None:
    def members_are(costs: list[int], members: int, count: int) -> bool:
        return by_members(costs, shards(costs, count), members, count)

    assert members_are([60], 8, 2)
    assert members_are([500, 10, 10], 8, 4)
    assert not members_are([60], 1, 2)
    assert not members_are([60, 60], 8, 2)
    assert not members_are([20] * 100, 8, 4)
    assert not members_are([0], 8, 2)


def test_what_changes_is_followed() -> None:
    model = MODELS["ensemble"]()
    several = anipot.on_devices(model, ["cpu", "cpu", "cpu"])
    given = batch(5, 4, 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True)

    def step() -> None:
        model(given).energies.sum().backward()
        optimizer.step()

    def set_constant() -> None:
        model.representation.Rcr = 4.4

    def replace_head() -> None:
        model.head = MODELS["ensemble"]().head[1]

    def load() -> None:
        model.load_state_dict({name: 0.9 * value for name, value in model.state_dict().items()})

    def narrow() -> None:
        model.to(torch.float32)

    def hook() -> None:
        model.head.register_forward_hook(lambda *_: None)

    before = anipot.single_point(several, *given).energies
    for change in (step, load, set_constant, replace_head, narrow):
        change()
        expected, found = (anipot.single_point(m, *given) for m in (model, several))
        torch.testing.assert_close(found.energies, expected.energies, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-12 if change != narrow else 1e-6)
        assert not torch.equal(found.energies, before), change.__name__
        before = found.energies
    seen = vars(several)["_devices"]._seen
    assert not seen.differs(several)
    hook()
    assert seen.differs(several)


def test_copies_are_kept_between_calls() -> None:
    several = anipot.on_devices(MODELS["ensemble"](), ["cpu", "cpu"])
    with mock.patch("anipot.devices.deepcopy", side_effect=copy.deepcopy) as copied:
        for _ in range(3):
            anipot.single_point(several, *batch(5, 5))
        assert copied.call_count == 1
        for _ in range(3):
            anipot.single_point(several, *batch(5))
        assert copied.call_count == 2  # some of the members


def test_parts_are_shared_and_all_else_is_as_before() -> None:
    model = MODELS["ensemble"]()
    several = anipot.on_devices(model, ["cpu", "cpu"])
    assert several.head is model.head
    assert "_devices" not in vars(model)
    given = batch(3, 4)
    torch.testing.assert_close(several(given).energies, model(given).energies)
    for other in (copy.deepcopy(several), pickle.loads(pickle.dumps(several)), anipot.on_devices(several, ["cpu"] * 2)):
        assert len(threads_used(other, *given)) == 2
        assert_same(anipot.single_point(model, *given), anipot.single_point(other, *given))


def test_a_model_as_torch_has_them() -> None:
    model = MODELS["one network"]()
    parts = torch.nn.Sequential(model.converter, model.representation, model.head, model.shifter)
    several = anipot.on_devices(parts, ["cpu", "cpu"])
    given = batch(3, 4)
    assert_same(anipot.single_point(parts, *given), anipot.single_point(several, *given))


def test_relaxations_use_the_devices() -> None:
    model = potential("aev_1x", "ensemble")
    frames = [built(name) for name in ("H2O", "CH4", "NH3", "H2O")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.02, seed=seed)
    with mock.patch.object(Devices, "_run", autospec=True, side_effect=Devices._run) as run:
        found = anipot.optimize(frames, anipot.on_devices(model, ["cpu", "cpu"]), steps=3)
    assert run.call_count > 0
    expected = anipot.optimize(frames, model, steps=3)
    for one, other in zip(found, expected, strict=True):
        assert abs(one.atoms.positions - other.atoms.positions).max() < 1e-9


def test_errors_have_the_numbers_of_the_whole_batch() -> None:
    several = anipot.on_devices(MODELS["ensemble"](), ["cpu", "cpu"])
    species, x = batch(4, 4, 4, 4)
    species[3, 2] = 99
    with pytest.raises(ValueError, match="molecule 3, atom 2"):
        anipot.single_point(several, species, x)
    species[3, 2], x[2, 1] = 6, x[2, 0]
    with pytest.raises(ValueError, match="molecule 2"):
        anipot.single_point(several, species, x)
    with pytest.raises(ValueError, match="coordinates"):
        anipot.single_point(several, species, x[:3])
    assert len(threads_used(several, *batch(4, 4))) == 2  # it goes on


def test_nothing_to_divide() -> None:
    several = anipot.on_devices(MODELS["one network"](), ["cpu", "cpu"])
    assert threads_used(several, *batch(5)) == {threading.current_thread().name}
    empty = anipot.single_point(several, torch.empty(0, 4, dtype=torch.long), torch.empty(0, 4, 3))
    assert empty.forces.shape == (0, 4, 3)
    ghosts = anipot.single_point(several, torch.full((2, 3), -1), torch.full((2, 3, 3), torch.nan))
    assert not ghosts.forces.any()


def test_default_devices_and_refusals() -> None:
    model = MODELS["one network"]()
    with mock.patch("torch.cuda.device_count", return_value=0):
        assert vars(anipot.on_devices(model))["_devices"].devices == [torch.device("cpu")]
        with pytest.raises(ValueError, match="there are 0 CUDA devices"):
            anipot.on_devices(model, ["cuda:0"])
    with mock.patch("torch.cuda.device_count", return_value=3):
        assert [d.index for d in vars(anipot.on_devices(model))["_devices"].devices] == [0, 1, 2]
        with pytest.raises(ValueError, match=r"'cuda:3', but there are 3"):
            anipot.on_devices(model, ["cuda:1", "cuda:3"])
    with pytest.raises(ValueError, match="empty"):
        anipot.on_devices(model, [])
    with pytest.raises(ValueError, match="'gpu'"):
        anipot.on_devices(model, ["gpu"])
    with pytest.raises(TypeError, match="must be a list"):
        anipot.on_devices(model, "cuda")


FORKED = """
import os, signal
import torch
import anipot
from contracts import potential

several = anipot.on_devices(potential("aev_1x", "ensemble"), ["cpu", "cpu"])
given = torch.tensor([[8, 1, 1]] * 2), torch.rand(2, 3, 3)
before = anipot.single_point(several, *given).forces
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a process that waits for threads that are not there
    os._exit(0 if torch.equal(anipot.single_point(several, *given).forces, before) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_has_threads_of_its_own() -> None:
    """Workers of a data loader, for one."""
    paths = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], env=os.environ | more, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_devices_of_this_machine() -> None:
    """Every CUDA device there is, one of them twice, and the CPU, for a model on either."""
    model = MODELS["ensemble"]()
    devices = [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cuda:0", "cpu"]
    for sizes in ((6,), (5, 9, 3, 7, 2, 8)):
        given, ask = batch(*sizes), {"hessian": True, "members": True}
        expected = anipot.single_point(model, *given, **ask)
        assert_same(expected, anipot.single_point(anipot.on_devices(model, devices), *given, **ask))
        there = copy.deepcopy(model).to("cuda")
        found = anipot.single_point(anipot.on_devices(there, devices), *(part.cuda() for part in given), **ask)
        assert found.forces.device == there.device
        torch.testing.assert_close(found.forces.cpu(), expected.forces, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.hessian.cpu(), expected.hessian, rtol=0, atol=1e-8)
