"""The benchmark tool runs anywhere, and counts operations as the reference does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_worker", TOOLS / "benchmark_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_without_the_shared_folder(tmp_path: Path) -> None:
    environment = os.environ | {"ANIPOT_SHARED": str(tmp_path), "ANIPOT_OFFLINE": "1", "ANIPOT_ZOO": ""}
    environment["ANIPOT_CACHE"] = str(tmp_path / "cache")
    output = tmp_path / "benchmark.json"
    command = [sys.executable, str(TOOLS / "benchmark.py"), "--only", "energy_forces", "--no-peers"]
    command += ["--systems", "built_water9", "--budget", "0.01", "--repeat", "2", "--threads", "1"]
    command += ["--output", str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(output.read_text())
    assert {"python", "torch", "anipot"} <= report["versions"].keys()
    assert {"commit", "dirty"} <= report["revision"].keys()
    assert report["peer_versions"] is None
    assert all(rate > 0 for rate in report["gflops"].values())
    assert len(report["results"]) == 6  # three models, two precisions
    for result in report["results"]:
        assert not result["errors"]
        assert result["median_ms"]["anipot"] > 0
        assert result["over_floor"] > 0
        assert [len(samples) > 0 for samples in result["samples_ms"]["anipot"]] == [True, True]
        assert "random" in result["weights"]["anipot"]
    assert "built_water9" in done.stdout


def test_operations_are_those_of_the_reference(shared: Path, worker: ModuleType) -> None:
    path = shared / "bench" / "limits.json"
    if not path.is_file():
        pytest.skip(f"needs {path.name} of the shared folder")
    limits = json.loads(path.read_text())["systems"]
    for name in ("benzene", "tripeptide58", "frame98", "water150"):
        for model, title in (("ani1x", "ANI-1x"), ("ani2x", "ANI-2x")):
            if title not in limits[name]:
                continue
            expected, (numbers, positions, cell) = limits[name][title], worker.structure(name)
            found = worker.operations(model, numbers[None], positions[None], cell, 8)
            assert found["network_flop"] == round(expected["nn_gflop_sparse"] * 1e9)
            assert found["pairs"] == expected["pairs"]
            assert found["triples"] == expected["triples"]
            assert found["aev_flop"] == pytest.approx(expected["aev_gflop"] * 1e9, rel=1e-6)


def test_built_systems_have_the_density_and_formula_of_their_names(worker: ModuleType) -> None:
    water = worker.structure("built_water150")
    assert len(water.numbers) == 150
    grams = 50 * 18.01528 / 0.602214
    assert grams / water.cell[0, 0] ** 3 == pytest.approx(0.997)
    alkane = worker.structure("built_alkane56")
    assert (sorted(alkane.numbers).count(6), sorted(alkane.numbers).count(1)) == (18, 38)
    assert worker.data_set("built_batch")["Z"].min() == -1
