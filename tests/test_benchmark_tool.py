"""The benchmark tool runs anywhere, and counts operations as the reference does."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase.build import molecule

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield importlib.import_module("benchmark_worker")


@pytest.fixture(scope="module")
def measuring(worker: ModuleType) -> ModuleType:
    return importlib.import_module("benchmark_measure")


@pytest.fixture(scope="module")
def systems(worker: ModuleType) -> ModuleType:
    return importlib.import_module("benchmark_systems")


def run_tool(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Run the tool without the shared folder and return its report and what it prints."""
    environment = os.environ | {"ANIPOT_SHARED": str(folder), "ANIPOT_OFFLINE": "1", "ANIPOT_ZOO": ""}
    environment["ANIPOT_CACHE"] = str(folder / "cache")
    output = folder / "benchmark.json"
    command = [sys.executable, str(TOOLS / "benchmark.py"), *options, "--budget", "0.01", "--repeat", "2"]
    command += ["--threads", "1", "--output", str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text()), done.stdout


def test_runs_without_the_shared_folder(tmp_path: Path) -> None:
    options = ["--only", "energy_forces", "--no-peers", "--systems", "built_water9"]
    report, printed = run_tool(tmp_path, *options)
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
    assert "built_water9" in printed


def test_batches_of_hessians_run_without_peers(tmp_path: Path) -> None:
    options = ["--only", "hessian_batch", "--no-peers", "--systems", "water"]
    report, _ = run_tool(tmp_path, *options)
    (result,) = report["results"]
    assert not result["errors"]
    assert result["label"] == "water × 16"
    assert result["per_second"]["anipot"] == pytest.approx(16e3 / result["median_ms"]["anipot"])


def test_message_passing_runs_without_peers(tmp_path: Path) -> None:
    names = ["message_passing", "message_passing_memory", "symmetry_functions"]
    report, printed = run_tool(tmp_path, "--quick", "--only", ",".join(names), "--no-peers", "--markdown")
    assert [result["label"] for result in report["results"]] == [
        *("SchNet 3×25 × 32", "SchNet 3×25 99 atoms", "PaiNN 3×20 99 atoms"),
        *("ACSF built_benzene", "wACSF built_benzene", "AEV built_benzene"),
    ]
    for result in report["results"]:
        assert not result["errors"]
        assert result["weights"]["anipot"] == "random numbers"
        assert result["median_ms"]["anipot"] > 0
        assert ("over_floor" in result) == (result["case"] != "symmetry_functions")
    batch, *boxes = report["results"][:3]
    assert batch["per_second"]["anipot"] == pytest.approx(32e3 / batch["median_ms"]["anipot"])
    assert all(box["us_per_atom"] > 0 and box["peak_mib"]["anipot"] > 0 for box in boxes)
    lines = printed.splitlines()
    assert "message_passing_memory (1 thread)" in lines
    assert "|  | anipot, ms | ÷ floor | µs per atom | MiB |" in lines


def test_training_steps_of_message_passing(tmp_path: Path) -> None:
    report, _ = run_tool(tmp_path, "--quick", "--only", "message_passing_training", "--no-peers")
    assert [result["label"] for result in report["results"]] == [
        "SchNet 3×25 energies",
        "SchNet 3×25 energies + forces",
    ]
    assert all(result["per_second"]["anipot"] > 0 and not result["errors"] for result in report["results"])


def test_missing_peers_are_told(tmp_path: Path) -> None:
    options = ["--quick", "--only", "message_passing", "--peer-python", str(tmp_path / "nowhere")]
    report, printed = run_tool(tmp_path, *options)
    assert report["peer_versions"] is None
    assert "SchNetPack is left out" in printed
    assert "--schnetpack" in printed
    assert report["results"][0]["samples_ms"].keys() == {"anipot"}


def test_best_of_schnetpack_is_the_faster_of_its_two(measuring: ModuleType) -> None:
    case = measuring.Case("message_passing", "", "message_passing", {}, 1, ("anipot", "eager", "scripted"))
    result = measuring.empty_result(case)
    result["samples_ms"] = {"anipot": [[1.0], [2.0]], "eager": [[4.0], [8.0]], "scripted": [[2.0], [6.0]]}
    result["peak_mib"] = {"eager": 1.0, "scripted": 2.0}
    measuring.summarise(case, result)
    assert result["median_ms"]["best"] == 4
    assert result["median_ms"]["default"] == 6
    assert result["ratio"]["best"] == {"ratio": pytest.approx(4 / 1.5), "min": 2, "max": 3}


def test_floor_of_message_passing_counts_each_layer(worker: ModuleType) -> None:
    """Four operations for each weight of the dense layers, times the rows it meets, less what cannot matter."""
    pairs, atoms, F = 70, 10, 128
    for kind, functions in (("schnet", 25), ("painn", 20)):
        model = worker.Anipot().network(kind, 3, functions, "float32")
        weights = {name: w.numel() for name, w in model.named_parameters() if w.dim() == 2 and "embedding" not in name}
        filters = sum(n for name, n in weights.items() if ".filters." in name)
        turning = sum(n for name, n in weights.items() if name.endswith("mix.weight"))  # each with three directions
        rest = sum(weights.values()) - filters - turning
        free = (F * F, 0) if kind == "schnet" else (5 * F * F, functions * F)
        expected = 4 * (atoms * (rest + 3 * turning - free[0]) + pairs * (filters - free[1]))
        assert worker.messages.product_flop(kind, 3, functions, pairs, atoms) == expected


def test_pools_have_molecules_of_the_size_asked_for(worker: ModuleType, systems: ModuleType) -> None:
    molecules = worker.messages.pool("built_pool", 5)
    assert [len(one.numbers) for one in molecules] == [17, 20, 17, 20, 17]
    found = worker.messages.graph(molecules, 5.0)
    assert len(found.numbers) == 91
    assert (found.molecule[found.center] == found.molecule[found.neighbor]).all()
    box = systems.structure("built_water30")
    found = worker.messages.graph([box], 5.0)
    vectors = found.positions[found.neighbor] + found.offsets - found.positions[found.center]
    assert (vectors**2).sum(1).max() <= 25
    assert len(found.center) % 2 == 0


def test_operations_are_those_of_the_reference(shared: Path, worker: ModuleType, systems: ModuleType) -> None:
    path = shared / "bench" / "limits.json"
    if not path.is_file():
        pytest.skip(f"needs {path.name} of the shared folder")
    limits = json.loads(path.read_text())["systems"]
    operations = importlib.import_module("benchmark_operations")
    for name in ("benzene", "tripeptide58", "frame98", "water150"):
        for model, title in (("ani1x", "ANI-1x"), ("ani2x", "ANI-2x")):
            if title not in limits[name]:
                continue
            expected, (numbers, positions, cell) = limits[name][title], systems.structure(name)
            found = operations.operations(model, numbers[None], positions[None], cell, 8)
            assert found["network_flop"] == round(expected["nn_gflop_sparse"] * 1e9)
            assert found["pairs"] == expected["pairs"]
            assert found["triples"] == expected["triples"]
            assert found["aev_flop"] == pytest.approx(expected["aev_gflop"] * 1e9, rel=1e-6)


def test_built_systems_have_the_density_and_formula_of_their_names(systems: ModuleType) -> None:
    water = systems.structure("built_water150")
    assert len(water.numbers) == 150
    grams = 50 * 18.01528 / 0.602214
    assert grams / water.cell[0, 0] ** 3 == pytest.approx(0.997)
    alkane = systems.structure("built_alkane56")
    assert (sorted(alkane.numbers).count(6), sorted(alkane.numbers).count(1)) == (18, 38)
    assert systems.data_set("built_batch")["Z"].min() == -1


def test_conformers_are_relaxed_and_their_minima_compared(worker: ModuleType, tmp_path: Path) -> None:
    """Two molecules, by one batch and one by one; an end that lies in another minimum is counted as such."""
    import anipot

    frames = [molecule(name) for name in ("HCOOH", "H2O")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    Z, X = np.full((2, 5), -1), np.zeros((2, 5, 3))
    for row, atoms in enumerate(frames):
        Z[row, : len(atoms)], X[row, : len(atoms)] = atoms.numbers, atoms.positions
    file, model = str(tmp_path / "two.npz"), anipot.load().double()
    np.savez(file, Z=Z, X=X)
    conformers, told = importlib.import_module("benchmark_conformers"), {}
    for who, relax in (("anipot", conformers.by_anipot(model)), ("one_by_one", conformers.by_ase(model.ase()))):
        call = conformers.Relaxation(relax, file, 2, who)
        call()
        told[who] = call.told
        assert call.told["gave_up"] == 0
        assert 0 < call.told["steps"] < 60
    ends = {who: one["ends"] for who, one in told.items()}
    found = conformers.minima(model, file, ends)
    assert found["anipot"]["same"] == found["anipot"]["conformers"] == 2
    moved = np.load(ends["anipot"])["X"]
    turned = frames[0].copy()
    turned.set_dihedral(3, 0, 1, 2, 180 + turned.get_dihedral(3, 0, 1, 2), indices=[3])  # the other acid
    moved[0] = turned.positions
    np.savez(ends["anipot"], X=moved)
    found = conformers.minima(model, file, ends)["anipot"]
    assert (found["same"], found["lower"] + found["higher"]) == (1, 1)
