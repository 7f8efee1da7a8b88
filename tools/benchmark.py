"""Time anipot and, where they are installed, its peers, in turn; print tables and write a dated JSON file.

    python tools/benchmark.py [--quick] [--only NAME,...] [--threads 1,2] [--repeat N] [--output FILE.json]
                              [--no-peers] [--peer-python PATH] [--schnetpack PATH] [--systems NAME,...]
                              [--budget SECONDS] [--markdown]
    python tools/benchmark.py --device cuda [--only NAME,...] [--models ani2x:8,...] [--seconds N] [other options]
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

With ``--device``, cuda or cpu, other cases are measured, all on that device: startup, energy_forces, ase_md, large,
hessian, training_epoch, bare_md, batch, in this order; the file is written after each, and no case begins after
``--seconds``. "best" is the fastest of TorchANI's configurations: eager, with members merged, scripted, with pyaev and,
where its extension is built, with cuAEV. Times are those until the device has finished; dynamics are ms per step, or s
per 1 000 steps. The floor is the longer of two times: of the operations at the rate of a large matrix product without
TF32, and of the fewest bytes (weights, coordinates, forces) at that of a large copy, both measured in the same run.
Memory is the peak of torch's tensors and what the driver gave, of each library for the same case.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import benchmark_device_cases as device_cases
from benchmark_cases import NAMES, PEER_GROUPS, QUICK_NAMES, SHARED, Case, Plan
from benchmark_device_run import run_on_device, write
from benchmark_measure import (
    add_floor,
    add_minima,
    add_operations,
    empty_result,
    machine,
    measure,
    measure_rates,
    revision,
    summarise,
)
from benchmark_operations import INFO_FILES, MEMBERS
from benchmark_processes import Pool
from benchmark_tables import markdown, table
from tqdm import tqdm


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
    parser.add_argument("--device", help="cuda, cuda:1 or cpu: the cases of a device, on it")
    parser.add_argument("--models", type=models, help="of energy_forces on a device, with members: ani2x:8,ani1x:1")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="on a device, for everything")
    options = parser.parse_args()
    cores = machine()["cores"] or 1
    names, quick_names = (device_cases.NAMES, device_cases.QUICK_NAMES) if options.device else (NAMES, QUICK_NAMES)
    options.only = options.only or (quick_names if options.quick else names)
    options.threads = options.threads or sorted({min(2, cores)} if options.quick else {1, min(2, cores)})
    options.repeat = options.repeat or (2 if options.quick or options.device else 5)
    options.conformers = options.conformers or (50 if options.quick else 1000)
    options.budget = options.budget or (0.2 if options.quick else 0.5)
    options.output = options.output or Path(f"benchmark-{datetime.now():%Y-%m-%d}.json")
    if unknown := set(options.only) - set(names):
        parser.error(f"--only knows {', '.join(names)}; got {', '.join(sorted(unknown))}")
    return options


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def models(text: str) -> list[tuple[str, int]]:
    """Return models and members of such as ``ani2x:8,ani1x:1``."""
    found = []
    for word in words(text):
        name, _, members = word.partition(":")
        if name not in INFO_FILES or members not in ("1", str(MEMBERS)):
            known = f"{', '.join(INFO_FILES)} with 1 or {MEMBERS} members"
            raise argparse.ArgumentTypeError(f"expected such as ani2x:8 or ani1x:1, of {known}; got {word!r}")
        found.append((name, int(members)))
    return found


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
    if device := report.get("device"):
        print(f"device: {device}")
        print(f"ceilings, GFLOP/s and GB/s: {report['ceilings']}")
    for what in report.get("left_out", ()):
        print(f"time was over before {what}")
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
        if options.device:
            run_on_device(options, report)
        else:
            run(options, pool, report)
    except KeyboardInterrupt:
        report["interrupted"] = True
        print("interrupted; what follows is what there is", file=sys.stderr)
    finally:
        pool.end()
    write(options.output, report)
    if "versions" in report:
        tell(report, options.markdown)
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
