"""The processes of tools/benchmark.py, one for each library, that time one thing after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

from benchmark_cases import ASE_STEPS, ONE_BY_ONE, ROOT, SCHNETPACK, SHARED, Case

WORKER = Path(__file__).resolve().with_name("benchmark_worker.py")
DEVICE_WORKER = WORKER.with_name("benchmark_device_worker.py")
#: Keeps glibc from giving large blocks back to the system after each call.
PEER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "TORCHANI_NO_WARN_EXTENSIONS": "1",
}


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
        device: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "ANIPOT_SHARED": str(SHARED.resolve())}
        environment |= more or {}
        first = None
        if configuration == "anipot":  # this checkout, not whatever is installed
            first = str(ROOT)
        else:
            environment |= PEER_ENVIRONMENT if tuned else {}
            if configuration in SCHNETPACK and schnetpack is not None:
                first = str(schnetpack.resolve())
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [first, os.environ.get("PYTHONPATH")]))
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by end)
        command = [python, str(WORKER if device is None else DEVICE_WORKER), configuration, str(threads)]
        command += [] if device is None else [device]
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

    def ask(
        self, task: str, args: dict[str, Any], sampling: dict[str, Any] | None = None, seconds: float | None = None
    ) -> dict[str, Any]:
        """Return the answer to a request; the process is ended if it has none after so many seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"task": task, "args": args, "sampling": sampling or {}}) + "\n")
            self.process.stdin.flush()
            if seconds is not None and not select([self.process.stdout], [], [], max(0.0, seconds))[0]:
                self.process.kill()
                return {"error": f"no answer within {seconds:.0f} s", "fatal": True, "slow": True}
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.messages.seek(0)
            said = self.messages.read()[-300:].strip()
            return {"error": f"the process ended ({self.process.wait()}): {said}", "fatal": True}
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
