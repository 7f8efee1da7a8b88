"""How tools/benchmark.py takes samples in turn, and what it makes of them; where and with what they were taken."""

from __future__ import annotations

import os
import platform
import subprocess
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from benchmark_cases import MOST_ROUNDS, ONE_BY_ONE, ROOT, SCHNETPACK, Case
from benchmark_processes import Pool
from tqdm import tqdm


def empty_result(case: Case) -> dict[str, Any]:
    told = {"case": case.name, "label": case.label, "task": case.task, "args": case.args, "threads": case.threads}
    return told | {"samples_ms": {}, "peak_mib": {}, "errors": {}, "weights": {}}


def measure(case: Case, result: dict[str, Any], pool: Pool, rounds: int, budget: float, bar: tqdm) -> None:
    """Add the samples of all configurations, taken in turn, to ``result``."""
    sampling = {"budget": budget, **case.sampling}
    for turn in range(rounds):
        for configuration in case.configurations:
            bar.update()
            if configuration in result["errors"] or turn >= MOST_ROUNDS.get(case.name, rounds):
                continue
            bar.set_postfix_str(f"{case.name} {case.label} {configuration}")
            answer = pool.ask(case, configuration, {} if case.task == "startup" else sampling)
            if "error" in answer:
                result["errors"][configuration] = answer["error"]
                continue
            samples = [float(f"{value:.5g}") for value in answer["samples"]]
            result["samples_ms"].setdefault(configuration, []).append(samples)
            result["peak_mib"][configuration] = round(answer["peak_mib"], 1)
            result["weights"][configuration] = answer.get("weights")
            if "loader_ms" in answer:
                result.setdefault("loader_ms", []).append(round(answer["loader_ms"], 3))
            if answer.get("told"):
                result.setdefault("told", {})[configuration] = answer["told"]


def add_minima(case: Case, result: dict[str, Any], pool: Pool) -> None:
    """Add how many conformers end in the minimum that they reach one by one."""
    ends = {who: told["ends"] for who, told in result.get("told", {}).items()}
    if ONE_BY_ONE in ends:
        args = {key: case.args[key] for key in ("file", "model", "members", "dtype")}
        result["minima"] = pool.worker("anipot", case.threads).ask("minima", {"ends": ends, **args})


def add_operations(case: Case, result: dict[str, Any], pool: Pool, rates: dict[str, float]) -> None:
    """Add operations, and look once more for a better rate of products: what else runs can hide it for a while."""
    worker, key = pool.worker("anipot", case.threads), f"{case.args['dtype']}_{case.threads}t"
    answer = worker.ask("count", {"task": case.task, "args": case.args})
    if "error" not in answer:
        result["operations"] = answer
    answer = worker.ask("rate", {"dtype": case.args["dtype"], "budget": 0.05})
    rates[key] = max(rates.get(key, 0.0), answer.get("gflops", 0.0))


def add_floor(case: Case, result: dict[str, Any], rates: dict[str, float]) -> None:
    """Add the time in ms that the operations take at the best rate, and how far anipot is from it."""
    rate = rates.get(f"{case.args['dtype']}_{case.threads}t")
    if rate and "operations" in result:
        operations = result["operations"]
        result["floor_ms"] = (operations["network_flop"] + 2 * operations["aev_flop"]) / (rate * 1e6)
        if "anipot" in result["median_ms"]:
            result["over_floor"] = result["median_ms"]["anipot"] / result["floor_ms"]


def summarise(case: Case, result: dict[str, Any]) -> None:
    """Add medians of rounds, and ratios to anipot with their spread."""
    rounds = {who: [median(samples) for samples in all_] for who, all_ in result["samples_ms"].items()}
    result["median_ms"] = {who: median(values) for who, values in rounds.items()}
    if here := [who for who in SCHNETPACK if who in rounds]:
        best = min(here, key=result["median_ms"].__getitem__)
        for name, who in (("best", best), ("default", "eager")):
            if who in rounds and (name == "default" or "scripted" in case.configurations):
                rounds[name], result["median_ms"][name] = rounds[who], result["median_ms"][who]
                result["peak_mib"][name] = result["peak_mib"][who]
    ours = result["median_ms"].get("anipot")
    if ours is None:
        return
    result["ratio"] = {}
    for who in rounds.keys() - {"anipot"}:
        each = [theirs / mine for theirs, mine in zip(rounds[who], rounds["anipot"], strict=False)]
        result["ratio"][who] = {"ratio": result["median_ms"][who] / ours, "min": min(each), "max": max(each)}
    if case.items:
        result["per_second"] = {who: 1e3 * case.items / value for who, value in result["median_ms"].items()}
    if "loader_ms" in result:
        result["loader_share"] = median(result["loader_ms"]) / ours
    if case.atoms:
        result["us_per_atom"] = 1e3 * ours / case.atoms
    if case.name == "busy":
        result["p99_ms"] = {
            who: percentile(list(chain.from_iterable(all_)), 0.99) for who, all_ in result["samples_ms"].items()
        }


def percentile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(fraction * len(values)))]


def measure_rates(pool: Pool, threads: list[int], dtypes: list[str], budget: float) -> dict[str, float]:
    """Return GFLOP/s of matrix products by dtype and number of threads."""
    rates = {}
    for n in threads:
        for dtype in dtypes:
            answer = pool.worker("anipot", n).ask("rate", {"dtype": dtype, "budget": budget})
            if "error" in answer:
                raise SystemExit(f"anipot cannot be measured: {answer['error']}")
            rates[f"{dtype}_{n}t"] = answer["gflops"]
    return rates


def machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {"cpu": cpu, "cores": cores, "os": platform.platform(), "load_at_start": load}


def revision() -> dict[str, Any]:
    """Return the git revision of this checkout, and whether files differ from it; None outside a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(changed.strip())}
