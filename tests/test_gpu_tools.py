"""The tools for a machine with a GPU, on the CPU: what they carry, what they compare, and that they end in time."""

from __future__ import annotations

import importlib
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from contracts import molecule, potential
from cuda_on_host import HostKernel, cuda_on_host, needs_compiler

import anipot

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[Callable[[str], ModuleType]]:
    """Return what imports a tool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield lambda name: importlib.import_module(f"gpu_{name}")


@pytest.fixture
def shared_folder(tmp_path: Path) -> Path:
    """Return a folder laid out like the shared one."""
    folder = tmp_path / "given"
    for name in ("weights/ani-model-zoo/resources", "reference", "bench/systems"):
        (folder / name).mkdir(parents=True)
    for name in ("ani-1x_8x", "ani-1ccx_8x", "ani-2x_8x"):
        member = folder / "weights" / "ani-model-zoo" / "resources" / name / "train0"
        member.mkdir(parents=True)
        (member / "weights.bin").write_bytes(name.encode() * 10)
        member.parent.with_name(f"{name}.info").write_text("what it is")
    systems = folder / "bench" / "systems"
    (systems / "benzene.xyz").write_text("12\n")
    np.savez(systems / "batch20.npz", Z=np.arange(3))
    rows = np.arange(6000)
    np.savez(systems / "train10k.npz", Z=rows[:, None] % 9, E=rows.astype(float), unit=np.array("Hartree"))
    np.savez(folder / "reference" / "small.npz", x=np.zeros(3))
    np.savez(folder / "reference" / "large.npz", x=np.random.default_rng(0).random(10_000))
    return folder


def test_what_is_carried_comes_out_again(
    tool: Callable[[str], ModuleType], shared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload, carried, target = tool("payload"), tmp_path / "carried", tmp_path / "there"

    def download(names: tuple[str, ...], wheels: Path, python: str) -> None:
        wheels.mkdir()
        for name in names:
            (wheels / f"{name.split('==')[0].replace('-', '_')}-1-py3-none-any.whl").write_bytes(b"wheel")

    installed: list[list[str]] = []
    monkeypatch.setattr(payload, "download", download)
    payload.prepare(carried, shared_folder)
    monkeypatch.setattr(payload.subprocess, "run", lambda command, check: installed.append(command))
    (target / "site").mkdir(parents=True)
    (carried / "ani2x.tar.gz").rename(tmp_path / "ani2x.tar.gz")
    assert payload.unpack(carried, target) == ["base"]
    there = target / "shared"
    resources = there / "weights" / "ani-model-zoo" / "resources"
    assert sorted(path.name for path in resources.iterdir()) == [
        *("ani-1ccx_8x", "ani-1ccx_8x.info", "ani-1x_8x", "ani-1x_8x.info")
    ]
    with np.load(there / "bench" / "systems" / "train10k.npz") as some:
        assert some["E"].shape == (payload.CONFORMERS,)
        assert (some["Z"][:, 0] == some["E"] % 9).all()
        assert str(some["unit"]) == "Hartree"
    assert {path.stem for path in (there / "reference").iterdir()} == {"small", "large"}
    (command,) = installed
    assert sum(part.endswith(".whl") for part in command) == len(payload.WHEELS) + len(payload.MORE_WHEELS)
    # The other archive comes with the next call, to a machine that may still have the first.
    (tmp_path / "ani2x.tar.gz").rename(carried / "ani2x.tar.gz")
    assert payload.unpack(carried, target) == ["ani2x", "base"]
    assert (resources / "ani-2x_8x" / "train0" / "weights.bin").read_bytes() == b"ani-2x_8x" * 10
    assert len(installed) == 1
    alone = tmp_path / "alone"
    (carried / "base.tar.gz").unlink()
    (alone / "site").mkdir(parents=True)
    assert payload.unpack(carried, alone) == ["ani2x"]
    assert [path.stem for path in (alone / "shared" / "reference").iterdir()] == ["small"]
    assert sum(part.endswith(".whl") for part in installed[1]) == len(payload.WHEELS)


def test_small_models_are_right_and_mistakes_are_seen(
    tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tool("small")

    def code(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu_small.py", *arguments])
        with pytest.raises(SystemExit) as end:
            small.main()
        return int(end.value.code)

    assert code("cpu", "--least") == 0
    assert "float32 gradients of the weights" in capsys.readouterr().out
    original = anipot.single_point

    def wrong(model: Any, *given: Any, **ask: Any) -> anipot.SinglePoint:
        found = original(model, *given, **ask)
        if not anipot.backends()[-1].active:  # not by torch
            found.forces[0, 0, 0] *= 1.001
        return found

    if not anipot.backends()[-1].active:
        monkeypatch.setattr(anipot, "single_point", wrong)
        assert code("cpu", "--least") == 1
        assert "WRONG" in capsys.readouterr().out


def test_references_are_compared(
    tool: Callable[[str], ModuleType], ani1x: anipot.Potential, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = tool("references")
    few = {name: ref for name, ref in one.references().items() if name in ("ethanol", "batch_padded8", "water24_pbc")}
    if len(few) < 3:
        pytest.skip("needs the references of the shared folder")
    monkeypatch.setattr(one, "models", lambda: iter([("ani1x", ani1x)]))
    monkeypatch.setattr(one, "references", lambda: few)
    assert one.run("cpu", tmp_path / "report.json", 100.0)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ani1x float64"]["structures"] == report["ani1x float32"]["structures"] == 3
    assert {"energy", "forces", "stress"} <= report["ani1x float64"]["worst"].keys()
    assert report["ani1x float32"]["worst"].keys() == {"energy", "forces"}
    few["ethanol"]["ani1x_energy"] = few["ethanol"]["ani1x_energy"] + 2e-8
    assert not one.run("cpu", None, 100.0)
    few["ethanol"]["ani1x_energy"] = few["ethanol"]["ani1x_energy"] - 2e-8
    assert not one.run("cpu", None, -1.0)  # no time for any is no success
    ani1x.double()


class Stages:
    """Stages of a session, some of which take too long or fail."""

    @staticmethod
    def of(session: ModuleType, options: Namespace, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(session, "unpack", lambda folder, target: ["base"])
        found = session.Session(options)
        found.run_tests = lambda seconds: found.command(
            "tests", seconds, sys.executable, "-c", "print('two failed'); exit(1)"
        )
        sleep = "import time\ntry:\n    print('begun', flush=True); time.sleep(60)\nfinally:\n    print('last words')"
        found.run_references = lambda seconds: found.command(
            "references", session.GRACE + 0.5, sys.executable, "-c", sleep
        )
        found.run_small = lambda seconds: found.command("environment", seconds, sys.executable, "-c", "print('fine')")
        return found


def test_a_session_goes_on_and_ends_in_time(
    tool: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = tool("session")
    given = {"data": tmp_path, "output": tmp_path / "out", "work": str(tmp_path / "work"), "device": "cpu", "rest": []}
    names = ["tests", "references", "small", "sanitizer"]
    monkeypatch.setattr(session.Session, "program", lambda self, name: None)
    start = time.monotonic()
    assert not Stages.of(session, Namespace(seconds=60.0, stages=names, **given), monkeypatch).run()
    assert time.monotonic() - start < 30
    report = json.loads((tmp_path / "out" / "session.json").read_text())
    assert {name: stage["code"] for name, stage in report["stages"].items()} == {
        **{"tests": 1, "references": 124, "small": 0, "sanitizer": None}
    }
    assert "two failed" in (tmp_path / "out" / "tests.txt").read_text()
    said = (tmp_path / "out" / "references.txt").read_text()
    assert "begun" in said
    assert "last words" in said
    assert "two failed" in capsys.readouterr().out
    assert Stages.of(session, Namespace(seconds=60.0, stages=["small", "sanitizer"], **given), monkeypatch).run()
    late = Stages.of(session, Namespace(seconds=12.0, stages=["small"], **given), monkeypatch)
    late.run()
    assert late.report["stages"]["small"] == {"code": None, "why": "time was over"}
    with pytest.raises(Exception, match="expected stages of environment"):
        session.stages("tests,nonsense")


def test_small_models_are_compared_in_both_precisions(tool: Callable[[str], ModuleType]) -> None:
    small = tool("small")
    found = list(small.differences("cpu", least=False))
    assert {dtype for _, dtype, _ in found} == {torch.float32, torch.float64}
    assert all(difference <= small.BOUNDS[dtype] for _, dtype, difference in found)
    assert {"hessian of a slab", "stress of a slab", "gradients of the weights"} <= {what for what, *_ in found}


@needs_compiler
def test_every_choice_is_timed(tool: Callable[[str], ModuleType]) -> None:
    kernels, model = tool("kernels"), potential("aev_1x", "ensemble").float()
    species, x = (part[None] for part in molecule(9, 1))
    threads: list[int] = []
    launch = HostKernel.launch

    def noted(self: Any, grid: Any, blocks: int, *given: Any) -> None:
        threads.append(blocks) if self.name == "networks" else None
        launch(self, grid, blocks, *given)

    def measure(call: Callable[[], Any]) -> dict[str, float]:
        threads.clear()
        call()
        (here,) = threads
        return {"networks": float(here), "aev_forward": 3.0}

    with cuda_on_host(), patch.object(HostKernel, "launch", noted):
        found = kernels.compare(model, (species, x), 3, measure)
    expected = {(rows, groups) for rows in (8, 16, 32) for groups in (1, 3)}
    assert {(choice["rows"], choice["groups"]) for choice in found["choices"]} == expected
    assert {choice["rows"]: choice["networks"] for choice in found["choices"]} == {8: 256.0, 16: 256.0, 32: 128.0}
    assert tuple(found["planned"]) in expected
    text = list(kernels.lines("water", found))
    assert text[0] == f"water: {found['kernels']['networks'] + 3:.1f} µs"
    assert "aev_forward" in "".join(text)
    (best,) = (line for line in text if line.endswith("best"))
    assert best.startswith("    rows 32, groups 1: networks    128.0 µs, all     131.0 µs")
    assert sum("planned" in line for line in text) == 1
