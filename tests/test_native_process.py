"""The kernels as guests of a process: its threads, forks and floating-point mode, and how the library is found."""

from __future__ import annotations

import copy
import ctypes
import importlib
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from contracts import INSTRUCTION_SETS, assert_same, by_torch, molecule, natively, needs_kernels, potential
from torch import Tensor

import anipot
from anipot import Potential
from anipot.kernels import aev as kernels
from anipot.kernels import instruction_set, library

pytestmark = needs_kernels

ROOT = Path(__file__).resolve().parents[1]
#: Where the package under test was imported from.
PACKAGE = Path(anipot.__file__).resolve().parents[1]
CELL = torch.tensor([[9.0, 0.3, 0.0], [-1.5, 8.4, 0.2], [0.5, -2.0, 9.0]], dtype=torch.float64)
ALL = {"stress": True, "atomic_energies": True}


@pytest.fixture
def threads() -> Iterator[None]:
    """Let a test choose the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def systems() -> list[tuple[Any, ...]]:
    pbc = torch.tensor([True, True, True])
    (n1, x1), (n2, x2) = molecule(50, 1), molecule(1, 2)
    many = molecule(60, 3)
    species, x = anipot.pad([molecule(n, n) for n in (3, 9, 1, 17)])
    return [
        (n1[None], x1[None], CELL, pbc),
        (n2[None], x2[None], CELL, pbc),
        (many[0].expand(40, -1), many[1].expand(40, -1, -1) + torch.arange(40)[:, None, None], CELL, pbc),  # 2400 atoms
        (species, x, CELL, pbc),
    ]


def test_any_number_of_threads(threads: None) -> None:
    for dtype in (torch.float64, torch.float32):
        model = potential("aev_1x", "ensemble").to(dtype)
        for members in (False, True):
            results = []
            for count in (1, 2, 3, 7, 1, 3):
                torch.set_num_threads(count)
                results.append([natively(model, *args, **ALL, members=members) for args in systems()])
                for found, first in zip(results[-1], results[0], strict=True):
                    assert_same(found, first, dtype)
            for found, first in zip(results[4], results[0], strict=True):  # one thread has one order of operations
                assert torch.equal(found.forces, first.forces)
                assert torch.equal(found.energies, first.energies)


def test_the_operation_with_any_number_of_threads(threads: None) -> None:
    aev = anipot.AEVComputer.like_1x()
    numbers, x = molecule(60, 4)
    species = anipot.SpeciesConverter(["H", "C", "N", "O"]).convert(numbers)[None]
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaf = x[None].clone().requires_grad_()
        features = aev((species, leaf)).features
        (gradient,) = torch.autograd.grad(features.square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), leaf)
        found.append((features.detach(), gradient.detach(), second))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])  # each atom is one thread's
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-12)


TINY = 1e-310  # denormal


def denormal_products() -> list[float]:
    """A denormal in this thread by Python, by numpy and by torch, and in all threads of torch."""
    by_torch_threads = torch.full((400_000,), 1e-300, dtype=torch.float64) * 1e-10
    return [1e-300 * 1e-10, float((np.full(7, 1e-300) * 1e-10).min()), float(by_torch_threads.min())]


def rounding_mode() -> int:
    return int(ctypes.CDLL(None).fegetround())


def test_the_floating_point_mode_is_left_alone(threads: None) -> None:
    torch.set_num_threads(2)
    model = potential("aev_1x", "ensemble")
    before = rounding_mode()
    assert denormal_products() == pytest.approx([TINY] * 3, rel=1e-9)
    species, x, cell, pbc = systems()[0]
    bad = x.clone()
    bad[0, 1] = bad[0, 0]
    calls = [
        lambda: natively(model, species, x, cell, pbc),
        lambda: natively(model.float(), *systems()[2]),
        lambda: anipot.single_point(model, species, bad, cell, pbc),
        lambda: anipot.single_point(model.double(), species[:, :5], x[:, :5], hessian=True),
        lambda: torch.autograd.grad(model((species, x.requires_grad_())).energies.sum(), x),
    ]
    for call in calls:
        if call is calls[2]:
            with pytest.raises(ValueError, match="one spot"):
                call()
        else:
            call()
        assert denormal_products() == pytest.approx([TINY] * 3, rel=1e-9)
        assert rounding_mode() == before
    assert torch.set_flush_denormal(True)
    try:
        natively(model, species, x.detach(), cell, pbc)
        assert denormal_products()[2] == 0  # what the user has chosen is left alone too
    finally:
        torch.set_flush_denormal(False)
    assert denormal_products() == pytest.approx([TINY] * 3, rel=1e-9)


def test_another_rounding_mode_of_the_caller() -> None:
    """Results with directed rounding are right, and the mode is still there."""
    libm = ctypes.CDLL("libm.so.6") if sys.platform == "linux" else pytest.skip("needs libm.so.6")
    upward = {"x86_64": 0x800, "aarch64": 0x400000}.get(os.uname().machine) or pytest.skip("an unknown machine")
    model, args = potential("aev_1x", "ensemble"), systems()[0]
    expected, before = natively(model, *args), rounding_mode()
    assert libm.fesetround(upward) == 0
    try:
        found = natively(model, *args)
        after = rounding_mode()
    finally:
        libm.fesetround(before)
    assert after == upward
    torch.testing.assert_close(found.energies, expected.energies, rtol=1e-11, atol=0)
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
def test_several_threads_of_python_at_once(shared: bool, threads: None) -> None:
    """Each gets its own right answer, from whatever path is free."""
    torch.set_num_threads(2)
    model = potential("aev_1x", "ensemble")
    models = [model if shared else copy.deepcopy(model) for _ in range(4)]
    args = systems()
    expected = [natively(model, *a, **ALL) for a in args]
    barrier = threading.Barrier(4)

    def work(k: int) -> None:
        torch.set_num_threads(2)
        barrier.wait()
        for i in range(12):
            which = (i + k) % len(args)
            if which == 2 and i > 3:  # the large one is slow on the torch path
                continue
            assert_same(anipot.single_point(models[k], *args[which], **ALL), expected[which])

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, k) for k in range(4)]:
            future.result()


def test_searches_and_operations_in_several_threads(threads: None) -> None:
    torch.set_num_threads(2)
    model, args = potential("aev_user", "ani_celu"), systems()

    def energies() -> list[Tensor]:
        return [model((s, x), cell, pbc).energies.detach() for s, x, cell, pbc in (args[0], args[3])]

    expected = energies()
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(energies) for _ in range(16)]:
            torch.testing.assert_close(future.result(), expected, rtol=1e-14, atol=0)


def test_a_thread_that_ends_and_a_model_that_goes_away() -> None:
    """Engines are made, used and dropped in threads other than the one that made the model."""
    model, args = potential("aev_1x", "ani_celu"), systems()[0]
    expected = natively(model, *args)
    for _ in range(5):
        other, found = copy.deepcopy(model), []
        thread = threading.Thread(target=lambda m=other, out=found: out.append(natively(m, *args)))
        thread.start()
        thread.join()
        assert torch.equal(found[0].forces, expected.forces)
        assert torch.equal(natively(other, *args).forces, expected.forces)


def in_a_child(model: Potential, queue: Any) -> None:
    try:
        torch.set_num_threads(2)
        results = [natively(model, *args, **ALL) for args in systems()]
        queue.put([(r.energies.numpy(), r.forces.numpy(), r.stress.numpy()) for r in results])
    except BaseException as error:
        queue.put(repr(error))


def test_after_a_fork(threads: None) -> None:
    """The pool's threads do not exist in the child; those of the parent go on."""
    torch.set_num_threads(2)
    model = potential("aev_1x", "ensemble")
    expected = [natively(model, *args, **ALL) for args in systems()]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=in_a_child, args=(model, queue), daemon=True) for _ in range(3)]
    for child in children:
        child.start()
    natively(model, *systems()[2])
    for _ in children:
        found = queue.get(timeout=60)
        assert not isinstance(found, str), found
        for (energies, forces, stress), truth in zip(found, expected, strict=True):
            np.testing.assert_allclose(energies, truth.energies, rtol=1e-14)
            np.testing.assert_allclose(forces, truth.forces, atol=1e-13)
            np.testing.assert_allclose(stress, truth.stress, atol=1e-14)
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    for args, truth in zip(systems(), expected, strict=True):
        assert_same(natively(model, *args, **ALL), truth)


def test_a_fork_while_other_threads_compute(threads: None) -> None:
    """Locks that are held at the moment of the fork do not hang the child."""
    torch.set_num_threads(2)
    model, stop = potential("aev_1x", "ensemble"), threading.Event()
    args = systems()[2]
    expected = natively(model, *args)

    def busy() -> None:
        own = copy.deepcopy(model)
        while not stop.is_set():
            natively(own, *args)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(4):
            queue = context.Queue()
            child = context.Process(target=in_a_child, args=(model, queue), daemon=True)
            child.start()
            found = queue.get(timeout=60)
            assert not isinstance(found, str), found
            np.testing.assert_allclose(found[2][1], expected.forces, atol=1e-13)
            child.join(timeout=60)
            assert child.exitcode == 0
    finally:
        stop.set()
        thread.join()


def test_pickles_and_copies_after_use() -> None:
    args = systems()[0]
    for dtype in (torch.float64, torch.float32):
        model = potential("aev_user", "ensemble").to(dtype)
        before = natively(model, *args, **ALL)
        chain = torch.nn.Sequential(model.converter, model.representation, model.head, model.shifter)
        natively(chain, *args)
        calc = model.ase()
        atoms = Atoms(args[0][0].numpy(), args[1][0].numpy(), cell=CELL.numpy(), pbc=True)
        forces = calc.get_property("forces", atoms)
        for duplicate in (copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))):
            other = duplicate(model)
            for _ in range(2):
                found = natively(other, *args, **ALL)
                assert torch.equal(found.forces, before.forces)
                assert torch.equal(found.stress, before.stress)
            assert torch.equal(natively(duplicate(chain), *args).forces, before.forces)
            moved = atoms.copy()
            np.testing.assert_array_equal(duplicate(calc).get_property("forces", moved), forces)
        assert torch.equal(natively(model, *args, **ALL).forces, before.forces)
        assert "engine" not in " ".join(model.state_dict())


# ---- finding the library ---------------------------------------------------------------------------------------------

SAY = """
import anipot, torch
from anipot import *
torch.manual_seed(0)
networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
x = torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
result = anipot.single_point(model, torch.tensor([[8, 1, 1]]), x, hessian=False)
print(float(result.energies))
print([b.name for b in anipot.backends() if b.active])
print(anipot.backends()[0])
"""


def run(code: str, root: Path = PACKAGE, **environment: str) -> list[str]:
    """Return what a fresh Python prints that imports anipot from ``root``."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("ANIPOT_")}
    env |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


@cache
def usual() -> list[str]:
    return run(SAY)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_the_environment_chooses_the_instruction_set(isa: str) -> None:
    energy, active, backend = run(SAY, ANIPOT_ISA=isa)
    assert active == "['cpu-native']"
    assert f"native kernels for the CPU, {isa}'" in backend
    assert f"native kernels for the CPU, {INSTRUCTION_SETS[0]}'" in usual()[2]
    assert float(energy) == pytest.approx(float(usual()[0]), abs=1e-6)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"ANIPOT_ISA": "mmx"}, "ANIPOT_ISA=mmx is not an instruction set of this machine"),
        ({"ANIPOT_KERNELS": "/nowhere/_native.so"}, "/nowhere/_native.so"),
        ({"ANIPOT_KERNELS": __file__}, "test_native_process.py cannot be loaded"),
    ],
    ids=["unknown set", "missing file", "no library"],
)
def test_a_library_that_is_not_there_is_said_clearly(environment: dict[str, str], reason: str) -> None:
    energy, active, backend = run(SAY, **environment)
    assert active == "['torch']"
    assert "available=False" in backend
    assert reason in backend
    assert float(energy) == pytest.approx(float(usual()[0]), abs=1e-6)


def test_another_library(tmp_path: Path) -> None:
    """A copy elsewhere, and one of another version."""
    path = tmp_path / "kernels.so"
    shutil.copy(library()._name, path)
    assert run(SAY, ANIPOT_KERNELS=str(path))[1] == "['cpu-native']"
    source = tmp_path / "old.c"
    source.write_text("int anipot_interface(void) { return 0; }\n")
    if shutil.which("cc") is None:
        pytest.skip("no compiler")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "old.so", source], check=True)
    _, active, backend = run(SAY, ANIPOT_KERNELS=str(tmp_path / "old.so"))
    assert active == "['torch']"
    assert "old.so is of another version (interface 0, not " in backend


def build(folder: Path, *command: str, **environment: str) -> str:
    """Run setup.py in a copy of the source, with the library of now in it, and return what it complains about."""
    try:
        importlib.import_module("setuptools.command.bdist_wheel")
    except ImportError:
        pytest.skip("needs setuptools 70.1 or later")
    for name in ("anipot", "model_zoo"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(library()._name, folder / "anipot" / "kernels")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    env = os.environ | {"ANIPOT_NO_KERNELS": "", **environment}
    command = (sys.executable, "setup.py", "-q", *command)
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"ANIPOT_NO_KERNELS": "1"}, "ANIPOT_NO_KERNELS was set at installation"),
        ({"CXX": "/nowhere/g++", "CC": "/nowhere/gcc"}, "/nowhere/g"),
        ({"ANIPOT_KERNEL_FLAGS": "-fno-such-flag"}, "g++"),
    ],
    ids=["not wanted", "no compiler", "cannot compile"],
)
def test_a_wheel_without_kernels(environment: dict[str, str], reason: str, tmp_path: Path) -> None:
    """It is built all the same, holds no library of before, and says why; everything works."""
    said = build(tmp_path / "source", "bdist_wheel", "--dist-dir", str(tmp_path), **environment)
    assert "anipot is installed without native kernels" in said
    (wheel,) = tmp_path.glob("anipot-*-py3-none-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "_native" in name]
        assert names == ["anipot/kernels/_native.txt"]
        archive.extractall(tmp_path / "site")
    energy, active, backend = run(SAY, tmp_path / "site")
    assert active == "['torch']"
    assert "available=False" in backend
    assert reason in backend
    assert float(energy) == pytest.approx(float(usual()[0]), abs=1e-6)


@pytest.mark.parametrize("command", [("build_ext",), ("build_ext", "--inplace")], ids=" ".join)
def test_a_build_without_kernels(command: tuple[str, ...], tmp_path: Path) -> None:
    """``pip install -e`` builds in place."""
    said = build(tmp_path, *command, ANIPOT_NO_KERNELS="1")
    assert "anipot is installed without native kernels" in said
    (note,) = tmp_path.glob("anipot/kernels/_native.txt" if "--inplace" in command else "build/*/anipot/kernels/*")
    assert "ANIPOT_NO_KERNELS was set" in note.read_text()
    if "--inplace" in command:
        assert [path.name for path in note.parent.glob("_native.*")] == ["_native.txt"]
        assert run(SAY, tmp_path)[1] == "['torch']"


def test_contexts_nest_and_end() -> None:
    """Also when what happens inside fails."""

    def active() -> list[str]:
        return [b.name for b in anipot.backends() if b.active]

    def fail() -> None:
        with anipot.reference_path():
            with anipot.reference_path(), instruction_set("baseline"):
                assert active() == ["torch"]
            assert active() == ["torch"]
            raise KeyError

    best = anipot.backends()[0].reason
    with pytest.raises(KeyError):
        fail()
    assert active() == ["cpu-native"]
    for isa in INSTRUCTION_SETS:
        with instruction_set(isa):
            assert anipot.backends()[0].reason.endswith(f", {isa}")
            with pytest.raises(KeyError):
                fail()
            assert anipot.backends()[0].reason.endswith(f", {isa}")
    assert anipot.backends()[0].reason == best
    with pytest.raises(ValueError, match="this machine has no sse9"), instruction_set("sse9"):
        pass
    assert not kernels.covers(torch.zeros(1, dtype=torch.float16))
    with anipot.reference_path():
        assert not kernels.covers(torch.zeros(1))
        model, args = potential("aev_1x", "ani_celu"), systems()[0]
        with pytest.raises(AssertionError, match="left to torch"):
            natively(model, *args)


def test_an_engine_follows_the_instruction_set() -> None:
    """One model, another set of instructions: the result is that of the set that is on."""
    model, args = potential("aev_user", "ensemble").float(), systems()[0]
    alone = {}
    for isa in INSTRUCTION_SETS:
        with instruction_set(isa):
            alone[isa] = natively(copy.deepcopy(model), *args).forces
    assert len({tuple(forces.flatten().tolist()) for forces in alone.values()}) > 1 or len(alone) == 1
    for isa in [*INSTRUCTION_SETS, *INSTRUCTION_SETS]:
        with instruction_set(isa):
            assert torch.equal(natively(model, *args).forces, alone[isa]), isa
    assert_same(natively(model, *args), by_torch(model, *args), torch.float32)
