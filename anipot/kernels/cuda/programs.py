"""All programs, as the published models need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from anipot.kernels.cuda import aev, networks, results, search
from anipot.kernels.cuda.program import Program, program


def variants() -> list[tuple[str, dict[str, Any]]]:
    """Return the name of a source and its macros, for all programs of the published models in both dtypes."""
    probe: list[tuple[str, dict[str, Any]]] = [("probe", {}), ("probe", {"ANIPOT_DOUBLE": 1})]
    return [*probe, *(variant for module in (search, aev, networks, results) for variant in module.variants())]


def compile_all(wanted: Iterable[tuple[str, Mapping[str, Any]]], device: torch.device) -> list[Program]:
    """Return programs that are compiled at the same time, on all cores: for a first call that needs several."""
    pairs = list(wanted)
    with ThreadPoolExecutor(max(1, len(pairs))) as pool:
        return list(pool.map(lambda pair: program(pair[0], pair[1], device), pairs))
