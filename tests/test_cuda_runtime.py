"""CUDA programs are loaded and launched as the driver has to be told, and who has no kernels hears why, once.

Without a GPU the driver is one that writes down what it is asked (fake_driver.c). Tests marked ``cuda`` launch.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import anipot
from anipot.cli import doctor_cuda
from anipot.kernels.cuda import build, driver, nvrtc, program, support
from anipot.kernels.cuda.errors import CaptureError, CompilationError, KernelError
from anipot.kernels.cuda.program import Arguments, f64, i64, pointer
from anipot.kernels.cuda.programs import compile_all

COMPILER = os.environ.get("CC", "cc")
STREAM = 0x7FFC00000003
CUDA = torch.device("cuda", 0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class ProbeArguments(Arguments):
    _fields_ = [("out", pointer), ("n", i64), ("first", f64), ("places", i64)]  # noqa: RUF012


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory):
    """Return the file of a driver that writes down what it is asked."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"needs a C compiler; no {COMPILER}")
    target = tmp_path_factory.mktemp("driver") / "libfake.so"
    source = Path(__file__).parent / "fake_driver.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", str(source), "-o", str(target)], check=True)
    return target


@pytest.fixture
def clean(monkeypatch):
    """Forget what is known of devices, now and afterwards."""
    for module, name, value in (
        (support, "_reasons", {}),
        (support, "_noticed", set()),
        (build, "_programs", {}),
        (build, "_locks", {}),
    ):
        monkeypatch.setattr(module, name, value)
    driver.device.cache_clear()
    yield
    driver.device.cache_clear()


@pytest.fixture
def fake(fake_library, monkeypatch, clean):
    """Return the driver, on a machine with several GPUs, whose programs are compiled to b"code"."""
    made = driver.Driver(str(fake_library))
    made.library.fake_log.restype = ctypes.c_char_p
    made.log = lambda: made.library.fake_log().decode().splitlines()
    made.fail = lambda name, code: made.library.fake_failure(name.encode(), code)
    made.compiled, made.current = [], 0
    made.fail("", 0)
    made.library.fake_context(1)
    made.log()
    monkeypatch.setattr(driver, "driver", lambda: made)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: made.current, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: STREAM + index, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: made.current)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Test GPU")
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(build, "machine_code", lambda *what: made.compiled.append(what[:3]) or b"code")
    found = nvrtc.Compiler(None, "here", (12, 9), (90,))
    for module in (nvrtc, support):
        monkeypatch.setattr(module, "compiler", lambda: found)
    return made


def on(index, cuda=True):
    """Return what ``wanted`` looks at of a tensor."""
    return SimpleNamespace(is_cuda=cuda, is_cpu=not cuda, get_device=lambda: index)


def probe(index=0):
    return program.program("probe", {}, torch.device("cuda", index)).kernel("probe")


def test_all_is_loaded_before_the_first_launch(fake):
    kernel = probe(1)
    context, function = "0x7fff00000065", "0x7ffd00000002"
    assert fake.log() == [
        *(f"push {context}", "load code", "pop"),
        *(f"push {context}", "function probe", "pop"),
        *(f"push {context}", f"ready {function}", f"set {function} 8 {232448 - 1024}", "pop"),
    ]
    assert fake.compiled == [("probe", {}, 90)]
    assert (kernel.registers, kernel.local_bytes, kernel.static_shared, kernel.max_threads) == (40, 16, 1024, 128)
    made = program.program("probe", {}, torch.device("cuda", 1))
    assert made.kernel("probe") is kernel
    assert (made.multiprocessors, made.shared_limit) == (132, 232448)
    assert fake.log() == []
    assert fake.compiled == [("probe", {}, 90)]


def test_what_results_depend_on(fake, monkeypatch):
    found = program.identity(CUDA)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(program.identity(torch.device("cuda", 1))))
    assert found["device"] == ["Test GPU", 90]
    texts = []
    monkeypatch.setattr(build, "_text", lambda name: texts.append(name) or "another")
    assert program.identity(CUDA)["sources"] != found["sources"]
    assert {path.name for path in build.SOURCES.glob("*.*")} <= {*texts}


def test_what_is_launched(fake):
    kernel = probe()
    fake.log()
    arguments = ProbeArguments(out=0x7FFB00000004, n=5_000_000_000, first=2.5, places=-7)
    kernel.launch((3, 65535, 2), 96, arguments, 100_000)
    arguments.n = 8  # the same structure again
    kernel.launch(2**31 - 1, 32, arguments)
    start, more = "launch 0x7ffd00000002 grid", "1 1 shared {} stream 0x7ffc00000003 extra 0: 0x7ffb00000004 {} 2.5 -7"
    assert fake.log() == [
        f"{start} 3 65535 2 threads 96 {more.format(100_000, 5_000_000_000)}",
        f"{start} 2147483647 1 1 threads 32 {more.format(0, 8)}",
    ]


@pytest.mark.parametrize("grid", [0, (0,), (4, 0), (4, 1, 0)])
def test_nothing_is_launched_for_an_empty_grid(fake, grid):
    kernel = probe()
    fake.log()
    kernel.launch(grid, 32, ProbeArguments())
    assert fake.log() == []


def test_another_device_is_current(fake):
    """The default stream is that of the current context, whatever the kernel belongs to."""
    kernel = probe(1)
    fake.log()
    kernel.launch(1, 32, ProbeArguments())
    first, launch, last = fake.log()
    assert (first, last) == ("push 0x7fff00000065", "pop")
    assert "stream 0x7ffc00000004" in launch
    fake.current = 1
    kernel.launch(1, 32, ProbeArguments())
    assert len(fake.log()) == 1


def test_a_thread_without_context(fake):
    """As those of autograd, before their first call of CUDA."""
    kernel = probe()
    fake.library.fake_context(0)
    fake.log()
    kernel.launch(1, 32, ProbeArguments())
    bound, launched = fake.log()
    assert bound == "bind 0x7fff00000064"
    assert launched.startswith("launch")


@pytest.mark.parametrize(
    ("grid", "shared", "why"),
    [
        (7, 512, "CUDA_ERROR_INVALID_VALUE (1): invalid argument"),
        (2**31, 0, "out of range"),
        (1, 231425, "out of range"),
    ],
)
def test_refused_launches(fake, grid, shared, why):
    kernel = probe()
    fake.fail("cuLaunchKernel", 1)
    with pytest.raises(KernelError) as caught:
        kernel.launch(grid, 160, ProbeArguments(), shared)
    for part in ("probe.probe", "cuda:0", str(grid), "160 threads (at most 128)", f"{shared} bytes", "231424", why):
        assert part in str(caught.value)
    assert fake.library.fake_depth() == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("cuModuleLoadData", "probe cannot be loaded on cuda:0: cuModuleLoadData: unknown error (222)"),
        ("cuModuleGetFunction", "probe has no kernel probe: cuModuleGetFunction: unknown error (222)"),
    ],
)
def test_what_cannot_be_loaded(fake, function, message):
    fake.fail(function, 222)
    with pytest.raises(KernelError) as caught:
        probe()
    assert message in str(caught.value)
    assert fake.library.fake_depth() == 0


def test_of_several_threads_one_compiles(fake, monkeypatch):
    def slow(*what):
        fake.compiled.append(what)
        time.sleep(0.2)
        return b"code"

    monkeypatch.setattr(build, "machine_code", slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(probe())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(map(id, found))) == len(fake.compiled) == 1


def test_programs_are_compiled_at_the_same_time(fake, monkeypatch):
    together = threading.Barrier(3, timeout=20)

    def meet(name, macros, *rest):
        together.wait()
        return b"code"

    monkeypatch.setattr(build, "machine_code", meet)
    wanted = [("probe", {"SIZE": size}) for size in range(3)]
    made = compile_all(wanted, CUDA)
    assert made == [program.program(name, macros, CUDA) for name, macros in wanted]


def test_not_within_a_graph(fake, monkeypatch):
    """What is captured has to be run before; then all is well."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    capturing = [True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    with pytest.raises(CaptureError, match=r"probe cannot be loaded .* run what is captured once before"):
        probe()
    assert "captured" in support.reason(CUDA)
    capturing[0] = False
    kernel = probe()
    assert support.reason(CUDA) == ""
    capturing[0] = True
    assert probe() is kernel
    kernel.launch(1, 32, ProbeArguments())
    assert program.wanted(on(0))


def test_wanted(fake):
    with warnings.catch_warnings(record=True) as warned:
        assert program.wanted(on(0))
        assert program.wanted(on(1))
        assert not program.wanted(on(-1, cuda=False))
        with anipot.reference_path():
            assert not program.wanted(on(0))
    assert not warned
    assert [what[0] for what in fake.compiled] == ["probe"] * 2


def test_one_notice(fake):
    fake.fail("cuModuleLoadData", 1)
    with pytest.warns(
        UserWarning, match=r"no CUDA kernels on cuda:0: .*INVALID_VALUE.*torch operations.*doctor"
    ) as warned:
        assert not any(program.wanted(on(0)) for _ in range(3))
    assert len(warned) == 1
    with anipot.reference_path():
        assert not program.wanted(on(0))
    assert not program.wanted(on(0))


def test_a_program_that_fails_ends_it(fake):
    """The device has kernels, but one of them cannot be loaded: torch computes from then on."""
    assert program.wanted(on(0))
    fake.fail("cuModuleLoadData", 1)
    with pytest.raises(KernelError, match="other cannot be loaded"):
        program.program("other", {}, CUDA)
    with pytest.warns(UserWarning, match="other cannot be loaded"):
        assert not program.wanted(on(0))
    assert "other cannot be loaded" in anipot.backends()[0].reason


def test_tensors_of_the_cpu_touch_nothing(monkeypatch):
    monkeypatch.setattr(support, "reason", lambda device: pytest.fail("a GPU was looked for"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("a GPU was looked for"))
    x = torch.zeros(1)
    assert not program.wanted(x)
    with program.on_host(lambda name, macros: (name, macros)):
        assert program.wanted(x)
        assert program.program("probe", {"A": 1}, x.device) == ("probe", {"A": 1})
        with anipot.reference_path():
            assert not program.wanted(x)
    with pytest.raises(KernelError, match="not for cpu"):
        program.program("probe", {}, x.device)


def test_a_compiler_traces_the_answer(clean):
    support._reasons.update({0: "", 1: "none here"})

    def compute(x):
        return x + 1 if support.works(x.get_device() + 1) else x - 1, support.works(x.get_device() + 2)

    with pytest.warns(UserWarning, match="none here"):
        result, other = torch.compile(compute, fullgraph=True, backend="eager")(torch.zeros(1))
    assert result == 1
    assert other is False


@pytest.mark.parametrize(
    ("hip", "cuda", "available", "why"),
    [
        ("6.2", None, True, "AMD"),
        (None, None, False, "this build of torch is without CUDA"),
        (None, "13.0", False, "torch is built for CUDA 13.0 and finds no device"),
    ],
)
def test_builds_and_machines_without(monkeypatch, clean, hip, cuda, available, why):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert why in support.reason(torch.device("cuda"))
    assert why in support.reason(0)
    names = [backend.name for backend in anipot.backends()]
    assert names == (["cuda"] if available else []) + ["cpu-native", "torch"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert why in doctor_cuda.section()["computes"]


def test_backends_and_doctor(fake, monkeypatch):
    found, native, _ = anipot.backends()
    assert found == ("cuda", True, True, "kernels for Test GPU (sm_90), compiled by NVRTC 12.9")
    assert native.name == "cpu-native"
    with anipot.reference_path():
        found, *_ = anipot.backends()
        assert found == ("cuda", True, False, "switched off by reference_path()")
    properties = SimpleNamespace(name="Test GPU", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    facts = doctor_cuda.section()
    assert facts["driver"] == "up to CUDA 12.4"
    assert facts["cuda:0"] == "Test GPU, sm_90, 80.0 GiB: kernels"
    assert facts["NVRTC"] == "NVRTC 12.9, here, for sm_90"
    assert facts["programs"].startswith("0 compiled, 0.0 MiB, in ")
    assert facts["computes"] == "kernels for Test GPU (sm_90), compiled by NVRTC 12.9"


def launched(device, dtype=torch.float32, n=1000, first=3.0, shared=0):
    """Return what the probe computes, from a tensor of NaN."""
    out = torch.full((n,), torch.nan, dtype=dtype, device=device)
    macros = {"ANIPOT_DOUBLE": 1} if dtype == torch.float64 else {}
    places = max(64, shared // dtype.itemsize)
    kernel = program.program("probe", macros, out.device).kernel("probe")
    arguments = ProbeArguments(out=out.data_ptr(), n=n, first=first, places=places)
    kernel.launch(-(-n // 64), 64, arguments, places * dtype.itemsize)
    return out


def expected(dtype=torch.float32, n=1000, first=3.0):
    return first + torch.arange(n, dtype=dtype)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_launched_on_a_gpu(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert program.wanted(torch.empty(0, device=CUDA))
    for n in (1, 64, 65, 100_000):
        torch.testing.assert_close(launched(CUDA, dtype, n).cpu(), expected(dtype, n), rtol=0, atol=0)


@pytest.mark.cuda
@needs_gpu
def test_all_of_the_shared_memory():
    kernel = probe()
    assert kernel.shared_limit > 48 * 1024
    assert torch.equal(launched(CUDA, shared=kernel.shared_limit // 4 * 4).cpu(), expected())


@pytest.mark.cuda
@needs_gpu
def test_first_launch_within_a_graph(clean):
    program.program("probe", {"NEVER_LAUNCHED": 1}, CUDA).kernel("probe")
    out = torch.zeros(1000, device=CUDA)
    kernel = program.program("probe", {"NEVER_LAUNCHED": 1}, CUDA).kernel("probe")
    arguments = ProbeArguments(out=out.data_ptr(), n=1000, first=7.0, places=64)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel.launch(16, 64, arguments, 256)
    assert not out.any()
    arguments.first = 0.0  # it was copied
    graph.replay()
    assert torch.equal(out.cpu(), expected(first=7.0))


@pytest.mark.cuda
@needs_gpu
def test_other_streams_and_threads():
    probe()  # not compiled while the stream sleeps
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        out = launched(CUDA)
    assert not stream.query()  # on that stream, behind what sleeps
    stream.synchronize()
    assert torch.equal(out.cpu(), expected())
    found = []
    thread = threading.Thread(target=lambda: found.append(launched(CUDA)))
    thread.start()
    thread.join()
    assert torch.equal(found[0].cpu(), expected())


@pytest.mark.cuda
@needs_gpu
def test_other_devices():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    assert torch.equal(launched(torch.device("cuda", 1)).cpu(), expected())
    assert torch.cuda.current_device() == 0


@pytest.mark.cuda
@needs_gpu
def test_refused():
    with pytest.raises(KernelError, match=r"probe\.probe cannot be launched .* 2048 threads .*CUDA_ERROR_INVALID"):
        probe().launch(1, 2048, ProbeArguments())
    assert torch.equal(launched(CUDA).cpu(), expected())


@pytest.mark.cuda
@needs_gpu
def test_ptx(clean, monkeypatch):
    """The way of devices that are newer than the compiler."""
    older = [a for a in nvrtc.compiler().architectures if a <= driver.device(0).architecture]
    monkeypatch.setattr(nvrtc.Compiler, "target", lambda self, architecture: f"compute_{older[-1]}")
    assert torch.equal(launched(CUDA).cpu(), expected())


@pytest.mark.cuda
@needs_gpu
def test_what_is_said():
    found, *_ = anipot.backends()
    assert (found.name, found.available, found.active) == ("cuda", True, True)
    assert torch.cuda.get_device_name() in found.reason
    assert doctor_cuda.section()["cuda:0"].endswith("GiB: kernels")


def test_one_program_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others do: the device is not given up, and the compiler not asked again."""
    asked = []

    def loaded(name: str, macros: Mapping[str, Any], index: int) -> None:
        asked.append(name)
        raise CompilationError(f"{name} does not compile")

    monkeypatch.setattr(program, "loaded", loaded)
    monkeypatch.setattr(program, "_refused", {})
    monkeypatch.setattr(support, "_noticed", set())
    monkeypatch.setattr(support, "_reasons", {0: ""})
    device = torch.device("cuda", 0)
    with pytest.warns(UserWarning, match=r"aev does not compile\. torch operations"), pytest.raises(CompilationError):
        program.program("aev", {"N_SHFA": 3}, device)
    with pytest.raises(CompilationError, match="aev does not compile"):
        program.program("aev", {"N_SHFA": 3}, device)
    assert asked == ["aev"]
    assert support.reason(device) == ""
