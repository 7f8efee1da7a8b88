"""tools/benchmark.py --device: measures on one device, writes after every case, and ends in time."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark_cases import SHARED, Case
from benchmark_device_cases import LIMIT, LONG_LIMIT, PEERS, TOO_OFTEN, DevicePlan
from benchmark_measure import empty_result, summarise
from benchmark_processes import WorkerProcess
from tqdm import tqdm

#: Rounds of what takes long.
MOST_ROUNDS = {"large": 1, "training_epoch": 1}
#: Seconds that writing and printing may take at the end.
RESERVE = 5.0


class DevicePool:
    """One process for each configuration, of which one computes at a time, until a time is over."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.workers: dict[str, WorkerProcess] = {}
        #: How often a configuration was too slow, by the name of the case.
        self.slow: Counter[tuple[str, str]] = Counter()
        self.end_at = time.monotonic() + options.seconds - RESERVE

    def left(self) -> float:
        return self.end_at - time.monotonic()

    def ask(self, who: str, task: str, args: dict[str, Any], sampling: Any = None, limit: float = LIMIT) -> Any:
        if who not in self.workers:
            self.workers[who] = self._start(who)
        answer = self.workers[who].ask(task, args, sampling, min(limit, self.left()))
        if answer.get("fatal"):
            self.workers.pop(who).end()
        return answer

    def measure(self, case: Case, who: str, turn: int, budget: float) -> Any:
        """Return the answer of a process that has the device for itself, as far as memory goes."""
        sampling = {"budget": budget, **case.sampling}
        limit = LONG_LIMIT if case.fresh else LIMIT
        if not case.fresh:
            return self.ask(who, case.task, case.args, sampling, limit)
        self.end()  # what others hold of the device is needed here
        values = {name: text.format(folder=self.folder, turn=turn) for name, text in case.environment.items()}
        worker = self._start(who, values)
        try:
            return worker.ask(case.task, case.args, sampling, min(limit, self.left()))
        finally:
            worker.end()

    def release(self) -> None:
        """Let all processes give back the memory of a case."""
        for who in list(self.workers):
            self.ask(who, "release", {})

    def end(self) -> None:
        for worker in self.workers.values():
            worker.end()
        self.workers.clear()

    def _start(self, who: str, more: dict[str, str] | None = None) -> WorkerProcess:
        python = sys.executable if who == "anipot" else self.options.peer_python
        return WorkerProcess(python, who, self.options.threads[0], device=self.options.device, more=more)


def run_on_device(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Measure everything that time allows; the report is written after every case."""
    with tempfile.TemporaryDirectory() as folder:
        pool = DevicePool(options, Path(folder))
        try:
            cases = _prepared(options, pool, report)
            total = options.repeat * sum(len(case.configurations) for case in cases)
            with tqdm(total=total, file=sys.stderr, unit="measurement", dynamic_ncols=True) as bar:
                for case in cases:
                    if pool.left() < 1.0:
                        report["left_out"].append(f"{case.name} {case.label}")
                        continue
                    result = _measured(case, options, pool, bar)
                    add_floor(case, result, pool, report["ceilings"])
                    report["results"].append(result)
                    write(options.output, report)
        finally:
            pool.end()


def _prepared(options: argparse.Namespace, pool: DevicePool, report: dict[str, Any]) -> list[Case]:
    """Fill in versions, device and ceilings, and return the cases with those who can take part."""
    report["versions"] = pool.ask("anipot", "versions", {}, limit=LONG_LIMIT)
    if "error" in report["versions"]:
        raise SystemExit(f"anipot cannot be measured: {report['versions']['error']}")
    report["backends"] = report["versions"].pop("backends")
    report["device"] = report["versions"].pop("device")
    report["ceilings"] = pool.ask("anipot", "ceilings", {"budget": min(1.0, 2 * options.budget)})
    report["peer_versions"], report["left_out"] = None, []
    there: tuple[str, ...] = ()
    if not options.no_peers:
        there = _peers(options, pool, report)
    cases = list(DevicePlan(options).cases())
    return [
        replace(case, configurations=tuple(who for who in case.configurations if who in ("anipot", *there)))
        for case in cases
    ]


def _peers(options: argparse.Namespace, pool: DevicePool, report: dict[str, Any]) -> tuple[str, ...]:
    """Return the configurations of TorchANI that can be measured here, and say why the others cannot."""
    if not (SHARED / "weights" / "ani-model-zoo" / "resources").is_dir():
        print("TorchANI is left out: it reads the weights from the shared folder (set ANIPOT_SHARED).")
        return ()
    found = pool.ask("default", "versions", {}, limit=LONG_LIMIT)
    if "error" in found:
        print(f"TorchANI is left out: {options.peer_python} cannot import it ({found['error']}).")
        return ()
    found.pop("device", None)
    report["peer_versions"] = {"TorchANI": found}
    if not found["cuaev"]:
        print("cuAEV is left out: TorchANI's extension is not built here (`ani build-extensions` does that).")
    left_out = () if found["cuaev"] else ("cuaev", "cuaev_jit")
    if not options.device.startswith("cuda"):
        left_out += ("merged",)  # torch ranges of NVTX stand in its way elsewhere, unless it is scripted
    return tuple(who for who in PEERS if who not in left_out)


def _measured(case: Case, options: argparse.Namespace, pool: DevicePool, bar: tqdm) -> dict[str, Any]:
    """Return the samples of all configurations, taken in turn, and what follows from them."""
    result = empty_result(case) | {"device": options.device, "driver_mib": {}, "oom": []}
    rounds = min(options.repeat, MOST_ROUNDS.get(case.name, options.repeat))
    for turn in range(options.repeat):
        for who in case.configurations:
            bar.update()
            if who in result["errors"] or turn >= rounds or pool.left() < 1.0:
                continue
            bar.set_postfix_str(f"{case.name} {case.label} {who}")
            if pool.slow[case.name, who] >= TOO_OFTEN:
                result["errors"][who] = "left out: too slow in cases before this"
                continue
            answer = pool.measure(case, who, turn, options.budget)
            pool.slow[case.name, who] += bool(answer.get("slow"))
            add(result, who, answer)
    pool.release()
    summarise(case, result)
    add_best(result)
    return result


def add(result: dict[str, Any], who: str, answer: dict[str, Any]) -> None:
    """Add an answer: samples and memory, or an error."""
    if "error" in answer:
        result["errors"][who] = answer["error"]
        if answer.get("oom"):
            result["oom"].append(who)
        return
    samples = [float(f"{value:.5g}") for value in answer["samples"]]
    result["samples_ms"].setdefault(who, []).append(samples)
    result["weights"][who] = answer.get("weights")
    for key in ("peak_mib", "driver_mib"):
        if key in answer:
            result[key][who] = round(max(answer[key], result[key].get(who, 0.0)), 1)
    if answer.get("told"):
        result.setdefault("parts_ms", {}).setdefault(who, []).append(answer["told"])


def add_best(result: dict[str, Any]) -> None:
    """Add who of TorchANI's configurations is the fastest, and its figures as "best"."""
    medians = result.get("median_ms", {})
    here = [who for who in PEERS if who in medians]
    if not here:
        return
    best = min(here, key=medians.__getitem__)
    result["best_is"], medians["best"] = best, medians[best]
    for key in ("peak_mib", "driver_mib", "ratio", "per_second"):
        if best in result.get(key, {}):
            result[key]["best"] = result[key][best]


def add_floor(case: Case, result: dict[str, Any], pool: DevicePool, ceilings: dict[str, Any]) -> None:
    """Add the longer of two times in ms: that of the operations, and that of the bytes, at the measured ceilings.

    Operations of the features count twice: sums and products do not come in pairs there.
    """
    if not case.has_floor or "error" in ceilings or pool.left() < 1.0:
        return
    counted = pool.ask("anipot", "count", {"task": case.task, "args": case.args}, limit=LONG_LIMIT)
    if "error" in counted:
        result["errors"]["floor"] = counted["error"]
        return
    flop = counted["network_flop"] + 2 * counted["aev_flop"]
    by = {
        "operations": flop / (ceilings[case.args["dtype"]] * 1e6),
        "bytes": counted["bytes"] / (ceilings["gb_per_s"] * 1e6),
    }
    result["operations"], result["floors_ms"] = counted, by
    result["floor_of"] = max(by, key=by.__getitem__)
    result["floor_ms"] = by[result["floor_of"]]
    if ours := result.get("median_ms", {}).get("anipot"):
        result["over_floor"] = ours / result["floor_ms"]


def write(path: Path, report: dict[str, Any]) -> None:
    """Write what there is, in one step, so that no half of a file is ever there."""
    half = path.with_name(path.name + ".part")
    half.write_text(json.dumps(report, indent=1) + "\n")
    half.replace(path)
