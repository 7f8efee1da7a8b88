"""One process of tools/benchmark.py: prepares a task with anipot or a peer, times it, and answers in JSON lines.

    python tools/benchmark_worker.py anipot|best|default|eager|scripted|pyg THREADS

``best`` is the fastest way that TorchANI offers on a CPU (scripted, networks merged for inference, its adaptive or
cell list), ``default`` what a user gets without options (eager, all pairs); ``eager`` and ``scripted`` are SchNetPack
and ``pyg`` PyTorch Geometric, both in benchmark_messages.py. Each line read is {"task", "args", "sampling"}; each line
written has "samples" in ms and "peak_mib", or "error".
"""

import time

_START = time.perf_counter()
import numpy  # noqa: E402, F401

#: Both libraries import numpy; its time belongs to theirs although it is imported here.
NUMPY_SECONDS = time.perf_counter() - _START

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import benchmark_messages as messages  # noqa: E402
from benchmark_anipot import Anipot  # noqa: E402
from benchmark_memory import limit_memory, peak_mib  # noqa: E402
from benchmark_operations import count, product_rate  # noqa: E402
from benchmark_systems import structure  # noqa: E402
from benchmark_torchani import TorchANI  # noqa: E402


def sample(
    call: Callable[[], Any],
    budget: float,
    warm: int,
    warm_least: int = 3,
    at_least: int = 3,
    at_most: int = 200,
    enough: float = 4.0,
    finish: Callable[[], Any] = lambda: None,
) -> list[float]:
    """Return times in ms: at least three unless they would take several budgets, at most 200.

    A call is over when ``finish`` returns.
    """
    start = time.perf_counter()
    for done in range(warm):
        if done >= warm_least and time.perf_counter() - start > max(2 * budget, 1.0):
            break  # scripted models are compiled in the first two or three calls, which are never samples
        call()
        finish()
    samples: list[float] = []
    start = before = time.perf_counter()
    while len(samples) < at_most:
        call()
        finish()
        now = time.perf_counter()
        samples.append((now - before) * 1e3)
        before = now
        if now - start > (budget if len(samples) >= at_least else enough * budget):
            break
    return samples


def startup(library: Anipot | TorchANI, until: str, system: str, **which: Any) -> list[float]:
    """Return the time in ms until the library is imported, or until a fresh process has its first energy and forces."""
    start = time.perf_counter()
    import torch  # noqa: F401

    if isinstance(library, Anipot):
        import anipot  # noqa: F401
    else:
        import torchani  # noqa: F401
    taken = NUMPY_SECONDS + time.perf_counter() - start
    if until == "energy":
        structure(system)  # imports ASE, which is no part of either library's way to an energy
        start = time.perf_counter()
        library.energy_forces(system, **which)()
        taken += time.perf_counter() - start
    return [taken * 1e3]


LIBRARIES: dict[str, Callable[[], Any]] = {
    "anipot": Anipot,
    "best": lambda: TorchANI(True),
    "default": lambda: TorchANI(False),
    "eager": lambda: messages.SchNetPack(False),
    "scripted": lambda: messages.SchNetPack(True),
    "pyg": messages.PyG,
}


class Worker:
    def __init__(self, configuration: str, threads: int) -> None:
        self.library = LIBRARIES[configuration]()
        self.threads = threads
        self.prepared: tuple[str, Callable[[], Any]] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        task, args = request["task"], request["args"]
        if task == "startup":
            return {"samples": startup(self.library, **args), "peak_mib": peak_mib()}
        import torch

        torch.set_num_threads(self.threads)
        if task == "versions":
            return self.library.versions()
        if task == "rate":
            return {"gflops": product_rate(**args)}
        if task == "training_epoch":
            found = self.library.training_epoch(self.threads, **args, **request["sampling"])
            return {"peak_mib": peak_mib(), "weights": self.library.weights} | found
        if task == "count":
            return count(args["task"], args["args"])
        if task == "minima":
            return self.library.minima(**args)
        return self._timed(task, args, request["sampling"])

    def failed(self, error: Exception) -> dict[str, Any]:
        self.prepared = None
        return {"error": f"{type(error).__name__}: {error}"[:300]}

    def _timed(self, task: str, args: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
        if gib := sampling.pop("limit_gib", None):
            limit_memory(gib)
        key = json.dumps([task, args])
        warm = 1
        if self.prepared is None or self.prepared[0] != key:
            self.prepared = None  # its memory goes before that of the next task comes
            self.prepared = key, getattr(self.library, task)(**args)
            warm = 6  # scripted models are compiled during the first calls
        warm = sampling.pop("warm", warm)
        if getattr(self.library, "scripted", False):
            sampling.pop("warm_least", None)
        call = self.prepared[1]
        samples = [value / getattr(call, "items", 1) for value in sample(call, warm=warm, **sampling)]
        told = {"samples": samples, "peak_mib": peak_mib(), "weights": self.library.weights}
        return told | {"told": getattr(call, "told", {})}


def serve(worker: Any) -> None:
    """Answer line by line."""
    warnings.filterwarnings("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # told to the parent, which goes on with the next measurement
            answer = worker.failed(error)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(Worker(sys.argv[1], int(sys.argv[2])))
