"""Where the time of a step goes on a GPU: each kernel, and that of the networks with blocks of every size.

    python tools/gpu_kernels.py [--model ani1x:8] [--systems NAME ...] [--repeat 20]

Microseconds of a call of ``single_point``, from torch's profiler. The best rows and groups of each system tell what
``_ROWS_OF_WEIGHTS``, ``_LONELY`` and ``_FULL`` of anipot/kernels/cuda/network_plan.py have to be.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from benchmark_device import Device
from benchmark_device_cases import BUILT, REPEATED
from benchmark_device_tasks import AnipotOnDevice, tensors
from benchmark_systems import SYSTEMS, structure

import anipot
from anipot.kernels.cuda import network_plan, networks

NAMES = ("benzene", "tripeptide58", "water300", "water1200", *REPEATED[:2])
Times = dict[str, float]


def measured(call: Callable[[], Any], repeat: int) -> Times:
    """Return microseconds of each kernel in one call."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):  # compiles, makes a graph, replays it
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for _ in range(repeat):
            call()
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in seen.key_averages():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.key] += event.self_device_time_total / repeat
    return dict(times)


@contextmanager
def blocks_of(rows: int, groups: int) -> Iterator[None]:
    """Let the networks' kernel take so many rows in a block, and leave so many groups of gradients."""
    shapes = {rows: network_plan.SHAPES[rows]}
    with (
        mock.patch.object(network_plan, "SHAPES", shapes),
        mock.patch.object(network_plan, "_groups", return_value=groups),
    ):
        yield


def planned(call: Callable[[], Any]) -> network_plan.Plan:
    """Return what the plan chooses by itself in the first call."""
    made: list[network_plan.Plan] = []

    def remembered(*given: Any) -> network_plan.Plan:
        made.append(network_plan.plan(*given))
        return made[-1]

    with mock.patch.object(networks, "plan", remembered):
        call()
    return made[0]


def compare(
    model: anipot.Potential, given: tuple[Any, ...], members: int, measure: Callable[[Callable[[], Any]], Times]
) -> dict[str, Any]:
    """Return the times of a system as it is planned, and with every other choice there is room for."""

    def call() -> None:
        anipot.single_point(model, *given)

    model.__dict__.pop("_engine", None)  # which remembers its steps
    plan = planned(call)
    found: dict[str, Any] = {"planned": [plan.shape.rows, plan.groups], "kernels": measure(call), "choices": []}
    for rows in network_plan.SHAPES:
        for groups in (g for g in range(1, members + 1) if members % g == 0):
            model.__dict__.pop("_engine")
            with blocks_of(rows, groups):
                times = measure(call)
            if "networks" in times:  # else there is no room
                one = {"rows": rows, "groups": groups, "networks": times["networks"], "total": sum(times.values())}
                found["choices"].append(one)
    model.__dict__.pop("_engine")
    return found


def lines(system: str, found: dict[str, Any]) -> Iterator[str]:
    """Yield what there is to read of a system."""
    yield f"{system}: {sum(found['kernels'].values()):.1f} µs"
    for name, time in sorted(found["kernels"].items(), key=lambda item: -item[1]):
        yield f"    {time:9.1f}  {name[:90]}"
    best = min(found["choices"], key=lambda choice: choice["total"])
    for choice in found["choices"]:
        mark = " planned" if [choice["rows"], choice["groups"]] == found["planned"] else ""
        mark += " best" if choice is best else ""
        yield (
            f"    rows {choice['rows']:2}, groups {choice['groups']}: networks {choice['networks']:8.1f} µs, "
            f"all {choice['total']:9.1f} µs{mark}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ani1x:8", help="name and number of networks")
    parser.add_argument("--systems", nargs="*", default=None)
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    name, _, count = options.model.partition(":")
    members = int(count or 1)
    model = AnipotOnDevice(Device("cuda")).model(name, members, "float32")
    for system in options.systems or [name if SYSTEMS.is_dir() else BUILT.get(name, name) for name in NAMES]:
        given = tensors(structure(system), torch.float32, "cuda")
        found = compare(model, given, members, lambda call: measured(call, options.repeat))
        print("\n".join(lines(system, found)), flush=True)


if __name__ == "__main__":
    main()
