"""One process of tools/benchmark.py --device: as benchmark_worker.py, on a device that is waited for.

python tools/benchmark_device_worker.py anipot|default|merged|jit|cuaev|cuaev_jit THREADS DEVICE
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from benchmark_device import Device
from benchmark_device_tasks import CONFIGURATIONS, AnipotOnDevice, TorchANIOnDevice
from benchmark_operations import MEMBERS, count, least_bytes
from benchmark_systems import batch, structure
from benchmark_worker import sample, serve

#: What a process cannot go on after: its context of the device is lost.
FATAL = ("CUDA error", "CUDA driver error", "device-side assert", "illegal memory access", "CUDNN", "CUBLAS_STATUS")
ITEMSIZE = {"float32": 4, "float64": 8}


class DeviceWorker:
    def __init__(self, configuration: str, threads: int, device: str) -> None:
        self.device, self.threads = Device(device), threads
        self.library = (
            TorchANIOnDevice(configuration, self.device)
            if configuration in CONFIGURATIONS
            else AnipotOnDevice(self.device)
        )
        self.prepared: tuple[str, Callable[[], Any]] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        task, args = request["task"], request["args"]
        if task == "startup":
            return self._startup(**args)
        import torch

        torch.set_num_threads(self.threads)
        if task == "versions":
            return self.library.versions() | {"device": self.device.facts()}
        if task == "ceilings":
            return self.device.ceilings(**args)
        if task == "count":
            return counted(args["task"], args["args"])
        if task == "release":
            self.prepared = None
            self.device.begin()
            return {}
        if task == "training_epoch":
            self.device.begin()
            found = self.library.training_epoch(self.threads, **args, **request["sampling"])
            return found | {"weights": self.library.weights} | self.device.memory()
        return self._timed(task, args, request["sampling"])

    def failed(self, error: Exception) -> dict[str, Any]:
        """Return what is told of an error: whether memory was too little, and whether the process can go on."""
        self.prepared = None
        text = f"{type(error).__name__}: {error}"
        memory = "OutOfMemory" in type(error).__name__ or "out of memory" in text
        told = f"out of memory: {text.splitlines()[0]}" if memory else text.strip().splitlines()[-1]
        return {"error": told[:300], "oom": memory, "fatal": not memory and any(word in text for word in FATAL)}

    def _timed(self, task: str, args: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
        key, warm = json.dumps([task, args]), 2
        if self.prepared is None or self.prepared[0] != key:
            self.prepared = None
            self.device.begin()
            self.prepared = key, getattr(self.library, task)(**args)
            warm = 6  # scripted models are compiled during the first calls, and graphs captured
        call = self.prepared[1]
        found = sample(call, warm=sampling.pop("warm", warm), finish=self.device.finish, **sampling)
        told = {"samples": [value / getattr(call, "items", 1) for value in found], "weights": self.library.weights}
        return told | self.device.memory()

    def _startup(self, system: str, **which: Any) -> dict[str, Any]:
        """Return the time in ms from after ``import torch`` to the first energy and forces, and each part of it."""
        marks = [time.perf_counter()]

        def mark() -> None:
            self.device.finish()
            marks.append(time.perf_counter())

        import torch

        marks.append(time.perf_counter())
        structure(system)  # imports ASE, which is no part of either library's way to an energy
        marks.append(time.perf_counter())
        torch.zeros(1, device=self.device.name)
        mark()
        call = self.library.energy_forces(system, **which)
        mark()
        for _ in range(2):
            call()
            mark()
        torch_, _, context, load, first, second = (1e3 * (b - a) for a, b in pairwise(marks))
        told = {"import torch": torch_, "context": context, "load": load, "first": first, "second": second}
        return {
            "samples": [context + load + first],
            "told": told,
            "weights": self.library.weights,
        } | self.device.memory()


def counted(task: str, args: dict[str, Any]) -> dict[str, int]:
    """Return the operations and the fewest bytes of energies and forces of a task."""
    if task == "batch":
        numbers = batch(args["data"], args["molecules"])[0].reshape(-1)
    else:
        task, numbers = "energy_forces", structure(args["system"]).numbers
    members = args.get("members", MEMBERS)
    return count(task, args) | {"bytes": least_bytes(args["model"], numbers, members, ITEMSIZE[args["dtype"]])}


if __name__ == "__main__":
    serve(DeviceWorker(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
