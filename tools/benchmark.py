"""Time anipot and, where they are installed, its peers, in turn; print tables and write a dated JSON file.

    python tools/benchmark.py [--quick] [--only NAME,...] [--threads 1,2] [--repeat N] [--output FILE.json]
                              [--no-peers] [--peer-python PATH] [--schnetpack PATH] [--systems NAME,...]
                              [--budget SECONDS] [--markdown]
    python tools/benchmark.py --show FILE.json [--markdown]

Names, with TorchANI 2.9 as the peer: energy_forces, ase_md, stress, batch, hessian, hessian_batch, training,
training_epoch, startup, scaling, busy, and optimize, which needs RDKit and is explained in benchmark_conformers.py.
With SchNetPack 2.2 and the SchNet of PyTorch Geometric: message_passing, message_passing_training,
message_passing_memory. Without a peer: symmetry_functions. ``--quick`` takes a few of them, below two minutes. Systems
and weights come from $ANIPOT_SHARED, by default ../shared; without it systems are made from a seed and have names of
their own. ``--markdown`` prints tables for docs/performance.md, ``--show`` those of an earlier run.

Machines are shared and noisy, so libraries are timed in turn, anipot, TorchANI, anipot, TorchANI, …, several rounds of
them. Shown are medians of the rounds' medians in ms, the ratio of them with the smallest and largest ratio of a round,
and how far anipot is from the floor: operations of the networks at the best rate of matrix products measured meanwhile,
plus those of the features at half that rate (sums and products do not come in pairs there). No program reaches that
floor with few atoms, since the rate is one of products with many rows. The floor of message passing counts products
only; ``product_flop`` in benchmark_messages.py has the formula.

Peers run with memory allocation tuned by environment variables, which makes them up to 1.8 times faster, except in
message_passing_memory, since they keep more memory then; anipot runs as it is. "best" and "default" of TorchANI are
explained in benchmark_worker.py; of SchNetPack "default" is eager, and "best" the faster of eager and scripted. In
message passing anipot searches for neighbors in every call, while peers have their lists for nothing. Ctrl-C writes
what there is.
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
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from benchmark_tables import markdown, table
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
#: Who is run for each peer; "best" and "default" of SchNetPack are found from its two afterwards.
PEER_GROUPS = {"TorchANI": ("best", "default"), "SchNetPack": ("eager", "scripted"), "PyG": ("pyg",)}
PEERS = PEER_GROUPS["TorchANI"]
SCHNETPACK = PEER_GROUPS["SchNetPack"]
#: anipot's own calculator in ASE, and how many conformers there are for each that peers are given.
ONE_BY_ONE = "one_by_one"
#: In a batch, with the steps that ASE takes.
ASE_STEPS = "ase_steps"
PEER_PART = 40
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
NAMES = (
    *(
        "energy_forces",
        "ase_md",
        "stress",
        "batch",
        "hessian",
        "hessian_batch",
        "training",
        "training_epoch",
        "startup",
        "scaling",
        "busy",
    ),
    *("message_passing", "message_passing_training", "message_passing_memory", "symmetry_functions", "optimize"),
)
QUICK_NAMES = ("energy_forces", "ase_md", "batch", "training", "scaling", "message_passing")
#: TorchANI is not asked for more atoms than this, nor is SchNetPack for more than that.
PEER_ATOMS = 1200
SCHNETPACK_ATOMS = 3000
#: Kind, interactions and functions of the distance.
SCHNET_3, SCHNET_6, PAINN = ("schnet", 3, 25), ("schnet", 6, 50), ("painn", 3, 20)
MESSAGE_PASSING = (SCHNET_3, ("schnet", 3, 50), ("schnet", 6, 25), SCHNET_6, PAINN)
#: What a process may take in message_passing_memory.
MEMORY_GIB = 16
#: Rounds of what takes long.
MOST_ROUNDS = {"scaling": 3, "message_passing_memory": 2, "training_epoch": 3, "hessian_batch": 3}
#: Conformers of an epoch: two of the batches of the ANI recipe. Drawn from 10 000, which would take twice as long.
EPOCH_CONFORMERS = 5120
#: What is trained, whether forces are, and whether AEVs are kept.
TRAINED = (("energies, AEVs kept", False, True), ("energies", False, False), ("energies + forces", True, False))
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
    #: Whether peers have memory allocation tuned, which takes less time and more memory.
    tuned: bool = True
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

    def hessian_batch(self, threads: int) -> Iterator[Case]:
        """Displaced copies of a molecule in one call; TorchANI computes one Hessian at a time."""
        sampling = {"warm_least": 1, "at_least": 1, "at_most": 20, "enough": 1.0}
        for system, copies in zip(self.systems("benzene", "tripeptide58"), (16, 2), strict=False):
            args = {"system": system, "copies": copies, **ENSEMBLE}
            label = f"{system} × {copies}"
            yield Case("hessian_batch", label, "hessian_batch", args, threads, sampling=sampling, items=copies)

    def training(self, threads: int) -> Iterator[Case]:
        data = "train10k" if self.shared else "built_train"
        for forces in (False,) if self.quick else (False, True):
            label = f"{data} {'energies + forces' if forces else 'energies'}"
            steps = 4 if self.quick else 8
            sampling = {"at_least": steps, "at_most": steps, "enough": 100.0}
            args = {"data": data, "forces": forces}
            yield Case("training", label, "training", args, threads, sampling=sampling, items=256)

    def training_epoch(self, threads: int) -> Iterator[Case]:
        data, number = "train10k" if self.shared else "built_epoch", 512 if self.quick else EPOCH_CONFORMERS
        for batch in (256,) if self.quick else (256, 2560):
            for what, forces, kept in TRAINED:
                label = f"{what}, batch {batch}"
                args = {"data": data, "number": number, "batch": batch, "forces": forces, "kept": kept}
                sampling = {"at_least": 1, "at_most": 5}
                yield Case(
                    "training_epoch",
                    label,
                    "training_epoch",
                    args,
                    threads,
                    sampling=sampling,
                    fresh=True,
                    items=number,
                )

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

    def message_passing(self, threads: int) -> Iterator[Case]:
        data = "pool" if self.shared else "built_pool"
        for which in MESSAGE_PASSING[:1] if self.quick else MESSAGE_PASSING:
            for molecules in (32,) if self.quick else (32, 256):
                args = {"data": data, "molecules": molecules, **network(which)}
                label = f"{network_label(which)} × {molecules}"
                who = graph_configurations(which)
                yield Case(
                    "message_passing", label, "message_passing", args, threads, who, has_floor=True, items=molecules
                )

    def message_passing_training(self, threads: int) -> Iterator[Case]:
        data = "pool" if self.shared else "built_pool"
        for which in (SCHNET_3,) if self.quick else (SCHNET_3, SCHNET_6, PAINN):
            for forces in (False, True):
                label = f"{network_label(which)} {'energies + forces' if forces else 'energies'}"
                args = {"data": data, "forces": forces, **network(which)}
                sampling = {"at_least": 4, "at_most": 8, "enough": 100.0}
                who, name = graph_configurations(which), "message_passing_training"
                yield Case(name, label, name, args, threads, who, sampling, items=32)

    def message_passing_memory(self, threads: int) -> Iterator[Case]:
        if threads != self.options.threads[-1]:
            return
        sampling = {"warm_least": 1, "limit_gib": MEMORY_GIB}
        for which in (SCHNET_3, PAINN):
            for atoms in (99,) if self.quick else (99, 300, 999, 3000, 9999, 30000):
                args = {"system": f"built_water{atoms}", **network(which)}
                who = ("anipot", "eager") if atoms <= SCHNETPACK_ATOMS else ("anipot",)
                yield Case(
                    "message_passing_memory",
                    f"{network_label(which)} {atoms} atoms",
                    "message_passing",
                    args,
                    threads,
                    who,
                    sampling,
                    has_floor=True,
                    fresh=True,
                    tuned=False,
                    atoms=atoms,
                )

    def symmetry_functions(self, threads: int) -> Iterator[Case]:
        for system in self.systems(*(("benzene",) if self.quick else ("benzene", "tripeptide58", "water150"))):
            for kind, label in (("acsf", "ACSF"), ("wacsf", "wACSF"), ("aev", "AEV")):
                args = {"system": system, "kind": kind, "dtype": "float32"}
                yield Case("symmetry_functions", f"{label} {system}", "symmetry_functions", args, threads, ("anipot",))

    def optimize(self, threads: int) -> Iterator[Case]:
        import benchmark_conformers

        file = Path(tempfile.gettempdir()) / f"conformers-{os.getpid()}.npz"
        if not file.exists():
            benchmark_conformers.write(file)
        count, part = self.options.conformers, max(1, self.options.conformers // PEER_PART)
        for model, members in (("ani2x", 8), ("ani2x", 1)):
            args = {"file": str(file), "count": count, "part": part, "model": model, "members": members}
            args |= {"dtype": "float32"}
            label = f"{model}{' ensemble' if members > 1 else '[0]'}, {count} conformers"
            sampling = {"warm": 0, "at_least": 1, "at_most": 1}
            who = ("anipot", ASE_STEPS, ONE_BY_ONE, *PEERS)
            yield Case("optimize", label, "optimize", args, threads, who, sampling, items=1)

    def busy(self, threads: int) -> Iterator[Case]:
        if threads != self.options.threads[-1]:
            return  # two threads whatever was asked for, so once is enough
        for system in self.systems("water150", "benzene"):
            args = {"system": system, **ENSEMBLE}
            # The 99th percentile takes many samples.
            yield Case("busy", system, "energy_forces", args, 2, ("anipot", "busy"), {"at_most": 2000})


def network(which: tuple[str, int, int]) -> dict[str, Any]:
    return {"kind": which[0], "interactions": which[1], "functions": which[2], "dtype": "float32"}


def network_label(which: tuple[str, int, int]) -> str:
    kind, interactions, functions = which
    return f"{'SchNet' if kind == 'schnet' else 'PaiNN'} {interactions}×{functions}"


def graph_configurations(which: tuple[str, int, int]) -> tuple[str, ...]:
    """Return who can compute it; PyTorch Geometric has no PaiNN."""
    return ("anipot", *SCHNETPACK, *(PEER_GROUPS["PyG"] if which[0] == "schnet" else ()))


# ---------------------------------------------------------------------------------------------------------------------
# Processes


class WorkerProcess:
    """A worker that answers one request at a time."""

    def __init__(
        self,
        python: str,
        configuration: str,
        threads: int,
        cores: set[int] | None = None,
        schnetpack: Path | None = None,
        tuned: bool = True,
    ) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "ANIPOT_SHARED": str(SHARED.resolve())}
        first = None
        if configuration == "anipot":  # this checkout, not whatever is installed
            first = str(ROOT)
        else:
            environment |= PEER_ENVIRONMENT if tuned else {}
            if configuration in SCHNETPACK and schnetpack is not None:
                first = str(schnetpack.resolve())
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [first, os.environ.get("PYTHONPATH")]))
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

    def __init__(self, peer_python: str, schnetpack: Path | None = None) -> None:
        self.peer_python, self.schnetpack = peer_python, schnetpack
        self.workers: dict[tuple[Any, ...], WorkerProcess] = {}

    def ask(self, case: Case, configuration: str, sampling: dict[str, Any]) -> dict[str, Any]:
        other = configuration in (ASE_STEPS, ONE_BY_ONE)
        library = "anipot" if other or configuration == "busy" else configuration
        task = f"{case.task}_{configuration}" if other else case.task
        if case.fresh:
            worker = self.start(library, case.threads, tuned=case.tuned)
            try:
                return worker.ask(task, case.args, sampling)
            finally:
                worker.end()
        cores = two_cores() if case.name == "busy" else None
        worker = self.worker(library, case.threads, cores)
        if configuration != "busy":
            return worker.ask(task, case.args, sampling)
        with spinning(cores):
            return worker.ask(task, case.args, sampling)

    def worker(self, library: str, threads: int, cores: set[int] | None = None) -> WorkerProcess:
        key = library, threads, cores is not None
        if key in self.workers and self.workers[key].process.poll() is not None:
            self.workers.pop(key).end()
        if key not in self.workers:
            self.workers[key] = self.start(library, threads, cores)
        return self.workers[key]

    def start(self, library: str, threads: int, cores: set[int] | None = None, tuned: bool = True) -> WorkerProcess:
        python = sys.executable if library == "anipot" else self.peer_python
        return WorkerProcess(python, library, threads, cores, self.schnetpack, tuned)

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


# ---------------------------------------------------------------------------------------------------------------------
# Where and what


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
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has TorchANI 2.9 and others")
    parser.add_argument("--schnetpack", type=Path, help="folder that holds the package schnetpack, if not installed")
    parser.add_argument("--systems", type=words, help="instead of the usual ones; built_water30 and the like also")
    parser.add_argument("--conformers", type=int, help="of optimize (1000; 50 with --quick); peers take one of 40")
    parser.add_argument("--budget", type=float, help="seconds of one measurement (0.5; 0.2 with --quick)")
    parser.add_argument("--markdown", action="store_true", help="print tables for docs/performance.md")
    parser.add_argument("--show", type=Path, help="print the tables of an earlier run and measure nothing")
    options = parser.parse_args()
    cores = machine()["cores"] or 1
    options.only = options.only or (QUICK_NAMES if options.quick else NAMES)
    options.threads = options.threads or sorted({min(2, cores)} if options.quick else {1, min(2, cores)})
    options.repeat = options.repeat or (2 if options.quick else 5)
    options.conformers = options.conformers or (50 if options.quick else 1000)
    options.budget = options.budget or (0.2 if options.quick else 0.5)
    options.output = options.output or Path(f"benchmark-{datetime.now():%Y-%m-%d}.json")
    if unknown := set(options.only) - set(NAMES):
        parser.error(f"--only knows {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    return options


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def peer_versions(options: argparse.Namespace, pool: Pool, cases: list[Case]) -> dict[str, Any]:
    """Return the versions of the peers that the cases ask for, with a line that says why one cannot take part."""
    found: dict[str, Any] = {}
    for peer, group in PEER_GROUPS.items():
        if options.no_peers or not any(who in group for case in cases for who in case.configurations):
            continue
        if peer == "TorchANI" and not (SHARED / "weights" / "ani-model-zoo" / "resources").is_dir():
            print("TorchANI is left out: it reads the weights from the shared folder (set ANIPOT_SHARED).")
            continue
        try:
            answer = pool.worker(group[0], options.threads[0]).ask("versions", {})
        except OSError as error:
            answer = {"error": str(error)}
        if "error" in answer:
            print(f"{peer} is left out: {options.peer_python} cannot import it ({answer['error']}).")
            if peer == "SchNetPack":
                print("  --schnetpack takes the folder of its source (src), --peer-python an interpreter that has it.")
            continue
        found[peer] = answer
    return found


def run(options: argparse.Namespace, pool: Pool, report: dict[str, Any]) -> None:
    """Measure everything; ``report`` grows as it goes, so that an interruption loses one measurement at most."""
    report["versions"] = pool.worker("anipot", options.threads[0]).ask("versions", {})
    if "error" in report["versions"]:
        raise SystemExit(f"anipot cannot be measured: {report['versions']['error']}")
    report["backends"] = report["versions"].pop("backends")
    cases = list(Plan(options).cases())
    found = peer_versions(options, pool, cases)
    report["peer_versions"] = found or None
    dtypes = sorted({case.args["dtype"] for case in cases if case.has_floor})
    report["gflops"] = measure_rates(pool, options.threads, dtypes, min(1.5, 2 * options.budget))
    missing = {who for peer, group in PEER_GROUPS.items() if peer not in found for who in group}
    here = [tuple(who for who in case.configurations if who not in missing) for case in cases]
    cases = [replace(case, configurations=who) for case, who in zip(cases, here, strict=True)]
    total = options.repeat * sum(len(case.configurations) for case in cases)
    try:
        with tqdm(total=total, file=sys.stderr, unit="measurement", dynamic_ncols=True) as bar:
            for case in cases:
                result = empty_result(case)
                report["results"].append(result)
                try:
                    measure(case, result, pool, options.repeat, options.budget, bar)
                    if case.has_floor:
                        add_operations(case, result, pool, report["gflops"])
                    if case.name == "optimize":
                        add_minima(case, result, pool)
                finally:
                    summarise(case, result)
    finally:
        for case, result in zip(cases, report["results"], strict=False):
            if case.has_floor:
                add_floor(case, result, report["gflops"])


def tell(report: dict[str, Any], as_markdown: bool) -> None:
    print(f"\n{report['machine']['cpu']}, {report['machine']['cores']} cores; {report['versions']}")
    for peer, versions in (report.get("peer_versions") or {}).items():
        print(f"peer: {peer} {versions}")
    if rates := report.get("gflops"):
        print("products: " + ", ".join(f"{key} {value:.0f} GFLOP/s" for key, value in rates.items()))
    weights = {text for result in report["results"] for text in result["weights"].values() if text}
    print(f"weights: {'; '.join(sorted(weights))}\n")
    print(markdown(report["results"]) if as_markdown else table(report["results"], bool(report.get("peer_versions"))))


def main() -> None:
    options = parse()
    if options.show:
        tell(json.loads(options.show.read_text()), options.markdown)
        return
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
    pool = Pool(options.peer_python, options.schnetpack)
    try:
        run(options, pool, report)
    except KeyboardInterrupt:
        report["interrupted"] = True
        print("interrupted; what follows is what there is", file=sys.stderr)
    finally:
        pool.end()
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    if "versions" in report:
        tell(report, options.markdown)
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
