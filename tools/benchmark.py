"""Time anipot and, where it is installed, TorchANI 2.9, in turn; print tables and write a dated JSON file.

    python tools/benchmark.py [--quick] [--only NAME,...] [--threads 1,2] [--repeat N] [--output FILE.json]
                              [--no-peers] [--peer-python PATH] [--systems NAME,...] [--budget SECONDS]

Names: energy_forces, ase_md, stress, batch, hessian, training, startup, scaling, busy. ``--quick`` takes a few of
them, below two minutes. Systems and weights come from $ANIPOT_SHARED, by default ../shared; without it systems
are made from a seed and have names of their own.

Machines are shared and noisy, so libraries are timed in turn, anipot, TorchANI, anipot, TorchANI, …, several rounds of
them. Shown are medians of the rounds' medians in ms, the ratio of them with the smallest and largest ratio of a round,
and how far anipot is from the floor: operations of the networks at the rate of matrix products measured at the start,
plus those of the features at half that rate (sums and products do not come in pairs there). No program reaches that
floor with few atoms, since the rate is one of products with many rows.

TorchANI runs with memory allocation tuned by environment variables, which makes it up to 1.8 times faster; anipot runs
as it is. "best" and "default" are explained in benchmark_worker.py. Ctrl-C writes what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ANIPOT_SHARED", ROOT.parent / "shared"))
WORKER = Path(__file__).resolve().with_name("benchmark_worker.py")
#: Keeps glibc from giving large blocks back to the system after each call.
PEER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "TORCHANI_NO_WARN_EXTENSIONS": "1",
}
PEERS = ("best", "default")
#: Systems where the shared folder is, and the like of them made from a seed where it is not.
SYSTEMS = {
    "benzene": "built_benzene",
    "tripeptide58": "built_alkane56",
    "frame98": "built_alkane98",
    "small264": "built_alkane263",
    "1hz5_S2O": "built_alkane974",
    "water150": "built_water150",
    "water300": "built_water300",
    "water801": "built_water801",
    "water1200": "built_water1200",
}
NAMES = ("energy_forces", "ase_md", "stress", "batch", "hessian", "training", "startup", "scaling", "busy")
QUICK_NAMES = ("energy_forces", "ase_md", "batch", "training", "scaling")
#: TorchANI is not asked for more atoms than this.
PEER_ATOMS = 1200
ENSEMBLE = {"model": "ani1x", "members": 8, "dtype": "float32"}


@dataclass(frozen=True)
class Case:
    """One line of a table: a task, its arguments, and who takes part."""

    name: str
    label: str
    task: str
    args: dict[str, Any]
    threads: int
    #: "anipot" first; "busy" is anipot beside a process that keeps one core busy.
    configurations: tuple[str, ...] = ("anipot", *PEERS)
    sampling: dict[str, Any] = field(default_factory=dict)
    has_floor: bool = False
    #: Whether each measurement has a process of its own.
    fresh: bool = False
    #: Molecules or conformers of one call, and atoms, for rates.
    items: int = 0
    atoms: int = 0


# ---------------------------------------------------------------------------------------------------------------------
# Cases


class Plan:
    """The cases that the command line asks for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.quick: bool = options.quick
        self.shared = (SHARED / "bench" / "systems").is_dir()

    def cases(self) -> Iterator[Case]:
        for threads in self.options.threads:
            for name in self.options.only:
                yield from getattr(self, name)(threads)

    def systems(self, *names: str) -> list[str]:
        if self.options.systems:
            return list(self.options.systems)
        return [name if self.shared or name not in SYSTEMS else SYSTEMS[name] for name in names]

    def energy_forces(self, threads: int) -> Iterator[Case]:
        which = [("ani1x", 8), ("ani1x", 1), ("ani2x", 8)]
        dtypes = ["float32", "float64"]
        names = tuple(SYSTEMS)
        if self.quick:
            which, dtypes, names = which[:1], dtypes[:1], ("benzene", "tripeptide58", "water150")
        for model, members in which:
            for dtype in dtypes:
                for system in self.systems(*names):
                    label = f"{model}{' ensemble' if members > 1 else '[0]'} {dtype} {system}"
                    args = {"system": system, "model": model, "members": members, "dtype": dtype}
                    yield Case("energy_forces", label, "energy_forces", args, threads, has_floor=True)

    def ase_md(self, threads: int) -> Iterator[Case]:
        names = ("benzene",) if self.quick else ("benzene", "tripeptide58", "water150", "water801")
        for system in self.systems(*names):
            yield Case("ase_md", system, "ase_md", {"system": system, **ENSEMBLE}, threads, has_floor=True)

    def stress(self, threads: int) -> Iterator[Case]:
        for system in self.systems("water150", "water801"):
            yield Case("stress", system, "stress", {"system": system, **ENSEMBLE}, threads, has_floor=True)

    def batch(self, threads: int) -> Iterator[Case]:
        data = "batch20" if self.shared else "built_batch"
        for molecules in (256,) if self.quick else (1, 32, 256, 2048):
            args = {"data": data, "molecules": molecules, **ENSEMBLE}
            yield Case("batch", f"{data} × {molecules}", "batch", args, threads, has_floor=True, items=molecules)

    def hessian(self, threads: int) -> Iterator[Case]:
        for system in self.systems("water", "benzene", "tripeptide58"):
            yield Case("hessian", system, "hessian", {"system": system, **ENSEMBLE}, threads)

    def training(self, threads: int) -> Iterator[Case]:
        data = "train10k" if self.shared else "built_train"
        for forces in (False,) if self.quick else (False, True):
            label = f"{data} {'energies + forces' if forces else 'energies'}"
            steps = 4 if self.quick else 8
            sampling = {"at_least": steps, "at_most": steps, "enough": 100.0}
            args = {"data": data, "forces": forces}
            yield Case("training", label, "training", args, threads, sampling=sampling, items=256)

    def startup(self, threads: int) -> Iterator[Case]:
        for until, label in (("import", "import"), ("energy", "first energy and forces")):
            args = {"until": until, "system": self.systems("benzene")[0], **ENSEMBLE}
            yield Case("startup", label, "startup", args, threads, fresh=True)

    def scaling(self, threads: int) -> Iterator[Case]:
        for atoms in (99, 999) if self.quick else (99, 999, 9999, 99999):
            args = {"system": f"built_water{atoms}", **ENSEMBLE}
            who = ("anipot", "best") if atoms <= PEER_ATOMS and not self.quick else ("anipot",)
            yield Case(
                "scaling",
                f"{atoms} atoms",
                "energy_forces",
                args,
                threads,
                who,
                has_floor=True,
                fresh=True,
                atoms=atoms,
            )

    def busy(self, threads: int) -> Iterator[Case]:
        if threads != self.options.threads[-1]:
            return  # two threads whatever was asked for, so once is enough
        for system in self.systems("water150", "benzene"):
            args = {"system": system, **ENSEMBLE}
            # The 99th percentile takes many samples.
            yield Case("busy", system, "energy_forces", args, 2, ("anipot", "busy"), {"at_most": 2000})


# ---------------------------------------------------------------------------------------------------------------------
# Processes


class WorkerProcess:
    """A worker that answers one request at a time."""

    def __init__(self, python: str, configuration: str, threads: int, cores: set[int] | None = None) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "ANIPOT_SHARED": str(SHARED.resolve())}
        if configuration == "anipot":  # this checkout, not whatever is installed
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            environment["PYTHONPATH"] = path
        else:
            environment |= PEER_ENVIRONMENT
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by end)
        command = [python, str(WORKER), configuration, str(threads)]
        # A session of its own, so that Ctrl-C reaches the parent only.
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            start_new_session=True,
        )
        if cores:
            os.sched_setaffinity(self.process.pid, cores)

    def ask(self, task: str, args: dict[str, Any], sampling: dict[str, Any] | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"task": task, "args": args, "sampling": sampling or {}}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.messages.seek(0)
            return {"error": f"the process ended ({self.process.wait()}): {self.messages.read()[-300:].strip()}"}
        return json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.messages.close()


class Pool:
    """Workers by configuration and threads, started when first asked."""

    def __init__(self, python: dict[str, str]) -> None:
        self.python = python
        self.workers: dict[tuple[Any, ...], WorkerProcess] = {}

    def ask(self, case: Case, configuration: str, sampling: dict[str, Any]) -> dict[str, Any]:
        library = "anipot" if configuration == "busy" else configuration
        if case.fresh:
            worker = WorkerProcess(self.python[library], library, case.threads)
            try:
                return worker.ask(case.task, case.args, sampling)
            finally:
                worker.end()
        cores = two_cores() if case.name == "busy" else None
        worker = self.worker(library, case.threads, cores)
        if configuration != "busy":
            return worker.ask(case.task, case.args, sampling)
        with spinning(cores):
            return worker.ask(case.task, case.args, sampling)

    def worker(self, library: str, threads: int, cores: set[int] | None = None) -> WorkerProcess:
        key = library, threads, cores is not None
        if key in self.workers and self.workers[key].process.poll() is not None:
            self.workers.pop(key).end()
        if key not in self.workers:
            self.workers[key] = WorkerProcess(self.python[library], library, threads, cores)
        return self.workers[key]

    def end(self) -> None:
        for worker in self.workers.values():
            worker.end()
        self.workers.clear()


def two_cores() -> set[int] | None:
    """Return the two cores that are made busy, so that a larger machine does not hide what sharing costs."""
    return set(sorted(os.sched_getaffinity(0))[:2]) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def spinning(cores: set[int] | None) -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        if cores:
            os.sched_setaffinity(process.pid, cores)
        yield
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def empty_result(case: Case) -> dict[str, Any]:
    told = {"case": case.name, "label": case.label, "task": case.task, "args": case.args, "threads": case.threads}
    return told | {"samples_ms": {}, "peak_mib": {}, "errors": {}, "weights": {}}


def measure(case: Case, result: dict[str, Any], pool: Pool, rounds: int, budget: float, bar: tqdm) -> None:
    """Add the samples of all configurations, taken in turn, to ``result``."""
    sampling = {"budget": budget, **case.sampling}
    for turn in range(rounds):
        for configuration in case.configurations:
            bar.update()
            if configuration in result["errors"] or (case.name == "scaling" and turn >= 3):
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


def add_floor(case: Case, result: dict[str, Any], pool: Pool, rates: dict[str, float]) -> None:
    """Add operations and the time in ms that they take at the measured rate."""
    rate = rates.get(f"{case.args['dtype']}_{case.threads}t")
    answer = pool.worker("anipot", case.threads).ask("count", {"task": case.task, "args": case.args})
    if rate is None or "error" in answer:
        return
    floor = (answer["network_flop"] + 2 * answer["aev_flop"]) / (rate * 1e6)
    result |= {"operations": answer, "floor_ms": floor}


def summarise(case: Case, result: dict[str, Any]) -> None:
    """Add medians of rounds, ratios to anipot with their spread, and the distance from the floor."""
    rounds = {who: [median(samples) for samples in all_] for who, all_ in result["samples_ms"].items()}
    result["median_ms"] = {who: median(values) for who, values in rounds.items()}
    ours = result["median_ms"].get("anipot")
    if ours is None:
        return
    result["ratio"] = {}
    for who in rounds.keys() - {"anipot"}:
        each = [theirs / mine for theirs, mine in zip(rounds[who], rounds["anipot"], strict=False)]
        result["ratio"][who] = {"ratio": result["median_ms"][who] / ours, "min": min(each), "max": max(each)}
    if "floor_ms" in result:
        result["over_floor"] = ours / result["floor_ms"]
    if case.items:
        result["per_second"] = {who: 1e3 * case.items / value for who, value in result["median_ms"].items()}
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


# ---------------------------------------------------------------------------------------------------------------------
# Telling


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def ratio(result: dict[str, Any], who: str) -> str:
    found = result.get("ratio", {}).get(who)
    return f"{number(found['ratio'])} ({number(found['min'])}–{number(found['max'])})" if found else "–"


def remarks(result: dict[str, Any]) -> str:
    """Return rates, memory and errors of a line."""
    told = []
    if "per_second" in result:
        unit = "conformers" if result["case"] == "training" else "molecules"
        told.append(f"{number(result['per_second'].get('anipot'))} {unit}/s")
    if "us_per_atom" in result:
        told += [f"{number(result['us_per_atom'])} µs/atom", f"{number(result['peak_mib']['anipot'])} MiB"]
    if "p99_ms" in result:
        told.append("99 %: " + " → ".join(number(value) for value in result["p99_ms"].values()))
    told += [f"{who} failed: {error.splitlines()[-1][:80]}" for who, error in result["errors"].items()]
    return ", ".join(told)


def table(results: list[dict[str, Any]], peers: bool) -> str:
    """Return one table of all results."""
    shown = ["case", "what", "threads", "anipot ms", "/ floor"]
    if peers:
        shown += ["best ms", "best / anipot", "default ms", "default / anipot"]
    busy = any(result["case"] == "busy" for result in results)
    shown += ["busy ms", "busy / alone"] * busy + ["remarks"]
    lines = [shown, ["---"] * len(shown)]
    for result in results:
        medians = result.get("median_ms", {})
        line = [result["case"], result["label"], str(result["threads"]), number(medians.get("anipot"))]
        line.append(number(result.get("over_floor")))
        for who in (*(PEERS if peers else ()), *(("busy",) if busy else ())):
            line += [number(medians.get(who)), ratio(result, who)]
        lines.append([*line, remarks(result)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(shown))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


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


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases and short measurements")
    parser.add_argument("--only", type=words, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in words(text)], help="such as 1,2")
    parser.add_argument("--repeat", type=int, help="rounds (5; 2 with --quick)")
    parser.add_argument("--output", type=Path, help="JSON file (benchmark-YYYY-MM-DD.json)")
    parser.add_argument("--no-peers", action="store_true", help="anipot only")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has TorchANI 2.9")
    parser.add_argument("--systems", type=words, help="instead of the usual ones; built_water30 and the like also")
    parser.add_argument("--budget", type=float, help="seconds of one measurement (0.5; 0.2 with --quick)")
    options = parser.parse_args()
    cores = machine()["cores"] or 1
    options.only = options.only or (QUICK_NAMES if options.quick else NAMES)
    options.threads = options.threads or sorted({min(2, cores)} if options.quick else {1, min(2, cores)})
    options.repeat = options.repeat or (2 if options.quick else 5)
    options.budget = options.budget or (0.2 if options.quick else 0.5)
    options.output = options.output or Path(f"benchmark-{datetime.now():%Y-%m-%d}.json")
    if unknown := set(options.only) - set(NAMES):
        parser.error(f"--only knows {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    return options


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def peer_versions(options: argparse.Namespace, pool: Pool) -> dict[str, Any] | None:
    """Return the versions of the peer, or None, with a line that says why, where it cannot take part."""
    if options.no_peers:
        return None
    if not (SHARED / "weights" / "ani-model-zoo" / "resources").is_dir():
        print("TorchANI is left out: it reads the weights from the shared folder (set ANIPOT_SHARED).")
        return None
    try:
        answer = pool.worker("best", options.threads[0]).ask("versions", {})
    except OSError as error:
        answer = {"error": str(error)}
    if "error" in answer:
        print(f"TorchANI is left out: {options.peer_python} cannot import it ({answer['error']}).")
        return None
    return answer


def run(options: argparse.Namespace, pool: Pool, report: dict[str, Any]) -> None:
    """Measure everything; ``report`` grows as it goes, so that an interruption loses one measurement at most."""
    report["versions"] = pool.worker("anipot", options.threads[0]).ask("versions", {})
    if "error" in report["versions"]:
        raise SystemExit(f"anipot cannot be measured: {report['versions']['error']}")
    report["backends"] = report["versions"].pop("backends")
    report["peer_versions"] = peer_versions(options, pool)
    cases = list(Plan(options).cases())
    dtypes = sorted({case.args["dtype"] for case in cases if case.has_floor})
    report["gflops"] = measure_rates(pool, options.threads, dtypes, min(1.5, 2 * options.budget))
    if report["peer_versions"] is None:
        here = [tuple(who for who in case.configurations if who not in PEERS) for case in cases]
        cases = [Case(**(vars(case) | {"configurations": who})) for case, who in zip(cases, here, strict=True)]
    total = options.repeat * sum(len(case.configurations) for case in cases)
    with tqdm(total=total, file=sys.stderr, unit="measurement", dynamic_ncols=True) as bar:
        for case in cases:
            result = empty_result(case)
            report["results"].append(result)
            try:
                measure(case, result, pool, options.repeat, options.budget, bar)
                if case.has_floor:
                    add_floor(case, result, pool, report["gflops"])
            finally:
                summarise(case, result)


def tell(report: dict[str, Any]) -> None:
    print(f"\n{report['machine']['cpu']}, {report['machine']['cores']} cores; {report['versions']}")
    if report.get("peer_versions"):
        print(f"peer: {report['peer_versions']}")
    print("products: " + ", ".join(f"{key} {value:.0f} GFLOP/s" for key, value in report.get("gflops", {}).items()))
    weights = {text for result in report["results"] for text in result["weights"].values() if text}
    print(f"weights: {'; '.join(sorted(weights))}\n")
    print(table(report["results"], bool(report.get("peer_versions"))))


def main() -> None:
    options = parse()
    report: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "machine": machine(),
        "revision": revision(),
        "systems": "shared folder" if (SHARED / "bench" / "systems").is_dir() else "built from a seed",
        "rounds": options.repeat,
        "interrupted": False,
        "results": [],
    }
    pool = Pool({"anipot": sys.executable, "best": options.peer_python, "default": options.peer_python})
    try:
        run(options, pool, report)
    except KeyboardInterrupt:
        report["interrupted"] = True
        print("interrupted; what follows is what there is", file=sys.stderr)
    finally:
        pool.end()
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    if "versions" in report:
        tell(report)
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
