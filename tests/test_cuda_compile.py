"""CUDA kernels compile for every architecture, once on a machine, and what is kept on disk is right."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from anipot.kernels.cuda import build, cache, nvrtc
from anipot.kernels.cuda.errors import CompilationError, KernelError
from anipot.kernels.cuda.programs import variants

ROOT = Path(__file__).parents[1]
ARCHITECTURES = (70, 80, 86, 90, 100, 120)
COMPILERS = list(nvrtc.installed((*nvrtc.MAJORS,)))

needs_compiler = pytest.mark.skipif(not COMPILERS, reason="needs NVRTC; the package nvidia-cuda-nvrtc-cu12 has it")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of compiled programs, which is new."""
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_warned", False)
    return cache.folder()


@pytest.fixture
def made():
    """Return a list of calls and the function that makes a program, for ``cached``."""
    calls = []
    return calls, lambda: calls.append(1) or b"\x7fELF" + bytes(1000)


def compiler_for(architecture):
    """Return a compiler that has machine code for an architecture, or skip: NVRTC 13 begins with sm_75."""
    for found in COMPILERS:
        if architecture in found.architectures:
            return found
    pytest.skip(f"no NVRTC here knows sm_{architecture}: {[found.name for found in COMPILERS]}")


def one_of_each_kind():
    """Return a variant for each source and each set of macros: both dtypes, and every way to compile a source."""
    return list({(name, tuple(sorted(macros))): (name, macros) for name, macros in reversed(variants())}.values())


def kernels_of(name):
    return re.findall(r"^KERNEL\((\w+),", (build.SOURCES / f"{name}.cu").read_text("utf-8"), re.MULTILINE)


def check(code, name):
    """Machine code for a GPU, with every kernel of the source."""
    assert code[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", code, 18) == (190,)  # EM_CUDA
    assert kernels_of(name)
    for kernel in kernels_of(name):
        assert f".text.{kernel}\0".encode() in code


def compile_for(architecture, wanted):
    """Compile variants, two at a time."""
    compiler = compiler_for(architecture)
    with ThreadPoolExecutor(2) as pool:
        codes = pool.map(lambda pair: build.machine_code(*pair, architecture, compiler), wanted)
    for (name, _), code in zip(wanted, codes, strict=True):
        check(code, name)
    assert cache.contents()[0] == len(wanted)


def test_every_source_has_variants():
    """What is not listed is not compiled here."""
    assert {name for name, _ in variants()} == {path.stem for path in build.SOURCES.glob("*.cu")}


def test_the_package_of_the_tests_is_found():
    try:
        metadata.version("nvidia-cuda-nvrtc-cu12")
    except metadata.PackageNotFoundError:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed")
    (found,) = nvrtc.installed((12,))
    assert found.version[0] == 12
    assert Path(found.path).is_file()


@needs_compiler
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != 90])
def test_compiles(architecture, folder):
    compile_for(architecture, one_of_each_kind())


@needs_compiler
@pytest.mark.parametrize("name", sorted({name for name, _ in variants()}))
def test_every_variant_compiles(name, folder):
    """All sizes, for sm_90."""
    compile_for(90, [variant for variant in variants() if variant[0] == name])


@needs_compiler
def test_each_compiler(folder):
    for compiler in COMPILERS:
        check(build.machine_code("probe", {}, 90, compiler), "probe")
    assert cache.contents()[0] == len(COMPILERS)  # each has its own


@needs_compiler
def test_architectures_that_the_compiler_does_not_know(folder):
    """PTX for a newer one, which the driver compiles; nothing for an older one."""
    for compiler in COMPILERS:
        assert compiler.target(999) == f"compute_{compiler.architectures[-1]}"
        code = build.machine_code("probe", {}, 999, compiler)
        assert b".target sm_" in code
        assert b".entry probe(" in code
        assert code.endswith(b"\0")  # as the driver takes it
        with pytest.raises(KernelError, match=r"compiles for sm_\d\d and later, and the device is sm_30"):
            compiler.target(30)


@needs_compiler
def test_errors_say_what_was_compiled():
    text = '#include "broken.h"\nint f() { return ANSWER; }\n'
    with pytest.raises(CompilationError) as caught:
        COMPILERS[0].compile("wrong", text, {"broken.h": "#error no such thing\n"}, {"SIZE": 3, "ON": True}, "sm_90")
    for part in (COMPILERS[0].name, "wrong.cu", "sm_90", "-DON=1 -DSIZE=3", "broken.h(1)", "no such thing"):
        assert part in str(caught.value)


@pytest.mark.parametrize("changed", [{"macros": {"ANIPOT_DOUBLE": 1}}, {"architecture": 80}, {"name": "aev"}])
@needs_compiler
def test_kept_by_all_that_matters(folder, changed, monkeypatch):
    compiled = []
    monkeypatch.setattr(nvrtc.Compiler, "compile", lambda self, *what: compiled.append(what) or b"code")
    first = {"name": "probe", "macros": {}, "architecture": 90, "compiler": COMPILERS[0]}
    for which in (first, first, first | changed, first | changed, first):
        assert build.machine_code(**which) == b"code"
    assert len(compiled) == 2


@needs_compiler
@pytest.mark.parametrize(("what", "programs"), [("aev.cu", 2), ("near.h", 2), ("common.h", 2), ("layers.h", 1)])
def test_a_changed_source_is_another_program(folder, what, programs, monkeypatch, tmp_path):
    """So is one that includes what has changed, by whatever way, and no other."""
    compiled = []
    monkeypatch.setattr(nvrtc.Compiler, "compile", lambda self, *what: compiled.append(what) or b"code")
    build.machine_code("aev", {}, 90, COMPILERS[0])
    sources = tmp_path / "sources"
    sources.mkdir()
    for path in build.SOURCES.iterdir():
        (sources / path.name).write_text(path.read_text() + ("// changed\n" if path.name == what else ""))
    monkeypatch.setattr(build, "SOURCES", sources)
    build._text.cache_clear()
    build._headers.cache_clear()
    try:
        build.machine_code("aev", {}, 90, COMPILERS[0])
    finally:
        build._text.cache_clear()
        build._headers.cache_clear()
    assert len(compiled) == programs


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other"])
def test_damaged_files_are_made_anew(folder, made, damage):
    calls, make = made
    code = cache.cached("x", {"a": 1}, make)
    (path,) = folder.glob("*.program")
    data = path.read_bytes()
    bad = {"truncated": data[:-1], "empty": b"", "flipped": data[:-9] + b"\1" + data[-8:], "other": bytes(len(data))}
    path.write_bytes(bad[damage])
    assert cache.cached("x", {"a": 1}, make) == code
    assert len(calls) == 2
    assert path.read_bytes() == data
    assert cache.cached("x", {"a": 1}, make) == code
    assert len(calls) == 2


def test_errors_of_the_compiler_leave_nothing(folder, made):
    def fail():
        raise CompilationError("no")

    with pytest.raises(CompilationError):
        cache.cached("x", {}, fail)
    assert cache.contents() == (0, 0)
    cache.cached("x", {}, made[1])
    assert cache.contents()[0] == 1


def test_where_nothing_can_be_written(folder, made):
    """Compiled every time, and said once: also when the lock cannot be had. (Root may write anywhere, a file not.)"""
    calls, make = made
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder would be")
    with pytest.warns(UserWarning, match="cannot be kept in .*kernels.*Set ANIPOT_CACHE") as warned:
        codes = [cache.cached("x", {}, make) for _ in range(3)]
    assert len(warned) == 1
    assert codes == [make()] * 3
    assert len(calls) == 4


def test_a_full_disk(folder, made, monkeypatch):
    def write_bytes(self, data):
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    calls, make = made
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.warns(UserWarning, match="No space left"):
        cache.cached("x", {}, make)
    assert len(calls) == 1
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_what_was_used_longest_ago_goes(folder, made, monkeypatch):
    calls, make = made
    monkeypatch.setattr(cache, "LIMIT", 3500)  # three of them
    for number in range(3):
        cache.cached(f"n{number}", {}, make)
    for number, age in ((0, 300), (1, 200), (2, 100)):
        (path,) = folder.glob(f"n{number}-*.program")
        os.utime(path, (time.time() - age,) * 2)
    cache.cached("n0", {}, make)  # used now
    left_behind = folder / "tmp-of-a-killed-process"
    left_behind.write_bytes(bytes(10))
    os.utime(left_behind, (0, 0))
    cache.cached("n3", {}, make)
    assert {path.name.split("-")[0] for path in folder.glob("*.program")} == {"n0", "n2", "n3"}
    assert not left_behind.exists()
    assert len(calls) == 4


SEVERAL = """
import os, sys, time
from pathlib import Path
from anipot.kernels.cuda import cache

def make():
    with open("log", "a") as file:
        print("made", file=file)
    time.sleep(0.5)
    return b"code"

Path(f"ready-{os.getpid()}").touch()
while not Path("go").exists():
    time.sleep(0.001)
assert cache.cached("x", {}, make) == b"code"
"""


def test_of_several_processes_one_compiles(folder, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SEVERAL]
    processes = [subprocess.Popen(command, env=environment, cwd=tmp_path) for _ in range(3)]
    deadline = time.time() + 60
    while len(list(tmp_path.glob("ready-*"))) < 3 and time.time() < deadline:
        time.sleep(0.05)
    (tmp_path / "go").touch()
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_lock_that_is_never_let_go(folder, made, monkeypatch):
    """As of a process that was stopped: compiled all the same, after some time."""
    from filelock import FileLock

    calls, make = made
    cache.cached("x", {}, make)
    (path,) = folder.glob("*.program")
    path.unlink()
    monkeypatch.setattr(cache, "PATIENCE", 0.2)
    with FileLock(path.with_suffix(".lock")):
        cache.cached("x", {}, make)
    assert len(calls) == 2
    assert path.exists()


def test_not_found(monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda major: iter(["/nowhere/libnvrtc.so"]))
    nvrtc.compiler.cache_clear()
    try:
        with pytest.raises(KernelError, match=r"NVRTC.* is not found .*`pip install nvidia-cuda-nvrtc"):
            nvrtc.compiler()
    finally:
        nvrtc.compiler.cache_clear()


@pytest.mark.parametrize("torch_cuda", ["12.6", "13.0"])
def test_the_version_of_torch(monkeypatch, torch_cuda):
    """Never another major version than that of torch, which is what the driver is sure to know."""
    asked = []
    monkeypatch.setattr(nvrtc.torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(nvrtc, "_candidates", lambda major: asked.append(major) or iter(()))
    assert list(nvrtc.installed()) == []
    assert asked == [int(torch_cuda[:2])]


def test_values_of_macros():
    given = {"B": True, "A": 3, "C": 0.5, "D": 1e-05, "E": "float"}
    assert nvrtc.definitions(given) == ["-DA=3", "-DB=1", "-DC=0.5", "-DD=1e-05", "-DE=float"]
