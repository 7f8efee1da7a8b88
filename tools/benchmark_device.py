"""One device: its memory, its clock, and how fast it can be at all."""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Callable
from typing import Any

import benchmark_epochs as epochs
from benchmark_memory import peak_mib

#: Rows of the largest matrix product, and bytes of the largest copy.
PRODUCT = {"cuda": 8192, "cpu": 768}
COPY = {"cuda": 2**31, "cpu": 2**26}


class Device:
    """A device, its memory and its clock."""

    def __init__(self, name: str) -> None:
        self.name, self.is_cuda = name, name.startswith("cuda")
        self._free = 0

    def finish(self) -> None:
        epochs.finish(self.name)

    def begin(self) -> None:
        """Give everything back, and watch memory from here on."""
        gc.collect()
        if self.is_cuda:
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.name)
            self._free = torch.cuda.mem_get_info(self.name)[0]

    def memory(self) -> dict[str, float]:
        """Return the peak of torch's tensors, and what the driver has given since ``begin``, MiB."""
        if not self.is_cuda:
            return {"peak_mib": peak_mib()}
        import torch

        found = {"peak_mib": torch.cuda.max_memory_allocated(self.name) / 2**20}
        if self._free:  # otherwise nobody has looked before
            found["driver_mib"] = (self._free - torch.cuda.mem_get_info(self.name)[0]) / 2**20
        return found

    def facts(self) -> dict[str, Any]:
        """Return what the device is, with which driver and which CUDA."""
        import torch

        if not self.is_cuda:
            return {"name": "CPU", "torch": torch.__version__}
        of = torch.cuda.get_device_properties(self.name)
        found = {"name": of.name, "memory_gib": round(of.total_memory / 2**30, 1), "torch": torch.__version__}
        found |= {"multiprocessors": of.multi_processor_count, "capability": f"{of.major}.{of.minor}"}
        return found | {"cuda": torch.version.cuda, "driver": driver_version()}

    def ceilings(self, budget: float) -> dict[str, Any]:
        """Return the rates of large products, GFLOP/s, and of a large copy, GB/s counting reads and writes."""
        import torch

        kind = "cuda" if self.is_cuda else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = False
        found: dict[str, Any] = {}
        for dtype in ("float32", "float64"):
            found[dtype] = self._product_rate(PRODUCT[kind], getattr(torch, dtype), budget)
        found["gb_per_s"] = self._copy_rate(COPY[kind], budget)
        self.begin()
        return found

    def _copy_rate(self, size: int, budget: float) -> float:
        import torch

        source = torch.randn(size // 4, device=self.name)
        target = torch.empty_like(source)
        return 2 * size / self.best(lambda: target.copy_(source), budget) / 1e9

    def _product_rate(self, rows: int, dtype: Any, budget: float) -> float:
        import torch

        a, b = (torch.randn(rows, rows, dtype=dtype, device=self.name) for _ in range(2))
        out = torch.empty_like(a)
        return 2 * rows**3 / self.best(lambda: torch.mm(a, b, out=out), budget) / 1e9

    def best(self, call: Callable[[], Any], budget: float) -> float:
        """Return the shortest time in s."""
        call()
        self.finish()
        best, start = float("inf"), time.perf_counter()
        while time.perf_counter() - start < budget:
            before = time.perf_counter()
            call()
            self.finish()
            best = min(best, time.perf_counter() - before)
        return best


def driver_version() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
