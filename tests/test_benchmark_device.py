"""The cases of a device run on a CPU as well, in time, and tell what went wrong."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_benchmark_tool import TOOLS, run_tool


@pytest.fixture(scope="module")
def tool() -> Iterator[Callable[[str], ModuleType]]:
    """Return what imports a module of the tool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield lambda name: importlib.import_module(f"benchmark_{name}")


def test_cases_of_a_device_run_on_a_cpu(tmp_path: Path) -> None:
    names = "startup,energy_forces,ase_md,large,hessian,bare_md"
    options = ["--device", "cpu", "--quick", "--only", names, "--no-peers", "--systems", "built_water9"]
    report, printed = run_tool(tmp_path, *options, "--models", "ani1x:1,ani2x:8", "--seconds", "100")
    assert report["device"]["name"] == "CPU"
    assert report["ceilings"].keys() == {"float32", "float64", "gb_per_s"}
    assert all(value > 0 for value in report["ceilings"].values())
    assert [(result["case"], result["label"]) for result in report["results"]] == [
        *(("startup", "cold start"), ("startup", "warm start")),
        *(("energy_forces", "ani1x[0] built_water9"), ("energy_forces", "ani2x ensemble built_water9")),
        *(("ase_md", "built_water9"), ("large", "built_water9")),
        *(("hessian", "built_water9"), ("bare_md", "built_water9")),
    ]
    for result in report["results"]:
        assert not result["errors"]
        assert result["median_ms"]["anipot"] > 0
        assert result["peak_mib"]["anipot"] > 10
        if result["case"] not in ("startup", "hessian"):
            floors = result["floors_ms"]
            assert result["floor_ms"] == max(floors.values()) == floors[result["floor_of"]]
            assert result["over_floor"] == pytest.approx(result["median_ms"]["anipot"] / result["floor_ms"])
    start = report["results"][0]["parts_ms"]["anipot"][0]
    assert report["results"][0]["samples_ms"]["anipot"][0][0] == pytest.approx(
        start["context"] + start["load"] + start["first"], rel=1e-3
    )
    assert report["left_out"] == []
    assert "MiB" in printed


def test_epochs_and_batches_of_a_device(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--quick", "--only", "training_epoch,batch", "--no-peers"]
    report, printed = run_tool(tmp_path, *options, "--seconds", "100", "--markdown")
    labels = [result["label"] for result in report["results"]]
    assert labels == ["energies + forces, batch 256", "built_batch × 32"]
    assert all(result["per_second"]["anipot"] > 0 and not result["errors"] for result in report["results"])
    assert "training_epoch (cpu)" in printed.splitlines()


def test_what_was_measured_is_there_when_time_ends(
    tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three cases fit into the time; the second runs out of memory, and the file is there after each."""
    run, output = tool("device_run"), tmp_path / "report.json"
    written: list[int] = []

    class Pool:
        def __init__(self, *given: Any) -> None:
            self.seconds = 20.0
            self.slow: Counter[tuple[str, str]] = Counter()

        def left(self) -> float:
            return self.seconds

        def ask(self, who: str, task: str, args: dict[str, Any], **more: Any) -> dict[str, Any]:
            counted = {"network_flop": 3e9, "aev_flop": 5e8, "bytes": 10**7}
            ceilings = {"float32": 1e3, "float64": 1.0, "gb_per_s": 1.0}
            return {"versions": {"backends": [], "device": {}}, "ceilings": ceilings, "count": counted}[task]

        def measure(self, case: Any, who: str, turn: int, budget: float) -> dict[str, Any]:
            self.seconds -= 5.0
            written.append(len(json.loads(output.read_text())["results"]) if output.exists() else 0)
            if "water2" in case.label:
                return {"error": "out of memory: as much as there is", "oom": True}
            return {"samples": [8.0], "peak_mib": 3.0, "driver_mib": 4.0 - turn}

        def release(self) -> None:
            pass

        def end(self) -> None:
            written.append(-1)

    monkeypatch.setattr(run, "DevicePool", Pool)
    given = {"device": "cuda", "no_peers": True, "threads": [1], "repeat": 2, "budget": 0.1, "quick": False}
    given |= {"only": ["energy_forces"], "systems": ["water1", "water2", "water3", "water4"], "models": [("ani1x", 1)]}
    report: dict[str, Any] = {"results": []}
    run.run_on_device(run.argparse.Namespace(seconds=100.0, output=output, **given), report)
    assert json.loads(output.read_text())["results"] == json.loads(json.dumps(report["results"]))
    one, two, three = report["results"]
    assert one["floors_ms"] == {"operations": 4.0, "bytes": 10.0}
    assert (one["floor_of"], one["over_floor"]) == ("bytes", 0.8)
    assert (one["driver_mib"], len(one["samples_ms"]["anipot"])) == ({"anipot": 4.0}, 2)
    assert two["oom"] == ["anipot"]
    assert len(three["samples_ms"]["anipot"]) == 1  # there was no time for another round
    assert report["left_out"] == ["energy_forces ani1x[0] water4"]
    assert written == [0, 0, 1, 2, -1]


def test_who_is_too_slow_is_not_asked_for_ever(tool: Callable[[str], ModuleType]) -> None:
    run, cases = tool("device_run"), tool("device_cases")
    asked: list[str] = []

    class Pool:
        def __init__(self) -> None:
            self.slow: Counter[tuple[str, str]] = Counter()

        def left(self) -> float:
            return 100.0

        def measure(self, case: Any, who: str, turn: int, budget: float) -> dict[str, Any]:
            asked.append(who)
            slow = {"error": "no answer within 45 s", "fatal": True, "slow": True}
            return slow if who == "jit" else {"samples": [1.0], "peak_mib": 1.0}

        def release(self) -> None:
            pass

    options = run.argparse.Namespace(device="cuda", repeat=1, budget=0.1)
    case = tool("cases").Case("ase_md", "", "ase_md", {}, 1, ("anipot", "jit"))
    pool = Pool()
    with run.tqdm(disable=True) as bar:
        results = [run._measured(case, options, pool, bar) for _ in range(cases.TOO_OFTEN + 2)]
    assert asked.count("jit") == cases.TOO_OFTEN
    assert asked.count("anipot") == len(results)
    assert results[0]["errors"] == {"jit": "no answer within 45 s"}
    assert results[-1]["errors"] == {"jit": "left out: too slow in cases before this"}


def test_errors_of_a_device_are_told_apart(tool: Callable[[str], ModuleType]) -> None:
    one = tool("device_worker").DeviceWorker("anipot", 1, "cpu")
    run = tool("device_run")
    memory = one.failed(RuntimeError("CUDA out of memory. Tried to allocate 80.00 GiB.\nmore"))
    assert (memory["oom"], memory["fatal"]) == (True, False)
    assert memory["error"].startswith("out of memory: RuntimeError: CUDA out of memory")
    lost = one.failed(RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."))
    assert (lost["oom"], lost["fatal"]) == (False, True)
    plain = one.failed(ValueError("no system is named 'x'"))
    assert (plain["oom"], plain["fatal"], plain["error"]) == (False, False, "ValueError: no system is named 'x'")
    result: dict[str, Any] = {"errors": {}, "oom": [], "samples_ms": {}, "weights": {}, "peak_mib": {}}
    run.add(result, "default", memory)
    assert result["oom"] == ["default"]


def test_a_process_that_does_not_answer_is_ended(tool: Callable[[str], ModuleType]) -> None:
    processes = tool("processes")
    process = processes.WorkerProcess(sys.executable, "anipot", 1, device="cpu")
    try:
        args = {"system": "built_water3000", "model": "ani2x", "members": 8, "dtype": "float64"}
        answer = process.ask("energy_forces", args, {"budget": 60.0}, seconds=0.05)
        assert answer["fatal"]
        assert "no answer within" in answer["error"]
        assert process.process.wait(timeout=10) != 0
    finally:
        process.end()


def test_the_best_of_torchani_is_the_fastest_of_its_ways(tool: Callable[[str], ModuleType]) -> None:
    run = tool("device_run")
    measuring = tool("measure")
    case = measuring.Case("energy_forces", "", "energy_forces", {}, 1, ("anipot", "default", "merged", "jit"))
    result = measuring.empty_result(case) | {"driver_mib": {"merged": 7.0}}
    result["samples_ms"] = {"anipot": [[1.0], [2.0]], "default": [[9.0], [9.0]], "merged": [[3.0], [6.0]]}
    result["samples_ms"]["jit"] = [[4.0], [8.0]]
    result["peak_mib"] = {"merged": 5.0, "jit": 4.0}
    measuring.summarise(case, result)
    run.add_best(result)
    assert result["best_is"] == "merged"
    assert result["median_ms"]["best"] == 4.5
    assert result["ratio"]["best"] == {"ratio": pytest.approx(3.0), "min": 3, "max": 3}
    assert (result["peak_mib"]["best"], result["driver_mib"]["best"]) == (5.0, 7.0)


def test_boxes_are_repeated_and_bytes_counted(tool: Callable[[str], ModuleType]) -> None:
    systems = tool("systems")
    box, large = systems.structure("built_water30"), systems.structure("built_water30_1x2x3")
    assert np.allclose(large.cell, box.cell * np.array([[1], [2], [3]]))
    assert len(large.numbers) == 180
    inside = (
        large.positions - box.positions.repeat(6, 0).reshape(30, 6, 3).swapaxes(0, 1).reshape(-1, 3)
    ) @ np.linalg.inv(box.cell)
    assert np.abs(inside - inside.round()).max() < 0.05
    with pytest.raises(ValueError, match="only periodic"):
        systems.structure("built_benzene_2x1x1")
    drug = systems.structure("levofloxacin")
    assert len(drug.numbers) == 46
    operations = tool("operations")
    numbers = np.array([8, 1, 1, -1])
    radial, angular = 2 * 16, 3 * 32
    weights = 0
    for hidden in (operations.HIDDEN["ani1x"]["H"], operations.HIDDEN["ani1x"]["O"]):
        sizes = (radial + angular, *hidden, 1)
        weights += sum((a + 1) * b for a, b in pairwise(sizes))
    assert operations.least_bytes("ani1x", numbers, 8, 4) == 4 * (8 * weights + 6 * 3) + 8 * 3
