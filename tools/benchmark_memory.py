"""Memory of a process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_mib() -> float:
    """Return the largest memory that this process has had, MiB."""
    try:  # ru_maxrss starts with what the parent had
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def limit_memory(gib: float) -> None:
    """Let this process fail, rather than the machine, where it asks for more."""
    wanted = int(gib * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard in (resource.RLIM_INFINITY, -1) or hard > wanted:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
