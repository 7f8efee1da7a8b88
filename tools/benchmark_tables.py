"""What tools/benchmark.py prints: a table of everything, and tables to be pasted into docs/performance.md."""

from __future__ import annotations

from statistics import median
from typing import Any

PEERS = ("best", "default")
UNITS = dict.fromkeys(("training", "training_epoch", "message_passing_training"), "conformers")


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def ratio(result: dict[str, Any], who: str) -> str:
    found = result.get("ratio", {}).get(who)
    return f"{number(found['ratio'])} ({number(found['min'])}–{number(found['max'])})" if found else "–"


def memory(result: dict[str, Any], who: str) -> str:
    """Return the peak of a process that did nothing else."""
    alone = "us_per_atom" in result or "loader_share" in result or "device" in result
    return number(result["peak_mib"].get(who)) if alone else "–"


def driver(result: dict[str, Any], who: str) -> str:
    """Return what the driver of a device gave for a case."""
    return number(result.get("driver_mib", {}).get(who))


def parts(result: dict[str, Any], who: str) -> dict[str, float]:
    """Return the medians of the parts of a start, ms."""
    told = result.get("parts_ms", {}).get(who, [])
    return {name: median(one[name] for one in told) for name in told[0]} if told else {}


def on_device(result: dict[str, Any]) -> list[str]:
    """Return what a line says about a device: who is the best, memory, what a start consists of."""
    told = [f"best is {result['best_is']}"] if "best_is" in result else []
    for who, value in result["peak_mib"].items():
        given = result["driver_mib"].get(who)
        told.append(f"{who} {number(value)} MiB" + (f" ({number(given)} of the driver)" if given is not None else ""))
    for who in result.get("parts_ms", {}):
        told.append(f"{who}: " + ", ".join(f"{name} {number(value)}" for name, value in parts(result, who).items()))
    return told


def percent(result: dict[str, Any]) -> str:
    share = result.get("loader_share")
    return "–" if share is None else f"{100 * share:.2g}"


def remarks(result: dict[str, Any]) -> str:
    """Return rates, memory and errors of a line."""
    told = []
    if "per_second" in result:
        unit = UNITS.get(result["case"], "molecules")
        told.append(f"{number(result['per_second'].get('anipot'))} {unit}/s")
    if "us_per_atom" in result:
        told += [f"{number(result['us_per_atom'])} µs/atom", f"{number(result['peak_mib']['anipot'])} MiB"]
        if "default" in result["peak_mib"]:
            told.append(f"default {number(result['peak_mib']['default'])} MiB")
    told += on_device(result) if "device" in result else []
    if "loader_share" in result:
        told.append(f"loader {percent(result)} %")
        told.append("MiB: " + ", ".join(f"{who} {number(value)}" for who, value in result["peak_mib"].items()))
    if "p99_ms" in result:
        told.append("99 %: " + " → ".join(number(value) for value in result["p99_ms"].values()))
    told += [f"{who}: {number(one['steps'])} steps" for who, one in result.get("told", {}).items()]
    told += [minima(who, one) for who, one in result.get("minima", {}).items() if who in ("anipot", "best")]
    told += [f"{who} failed: {error.splitlines()[-1][:80]}" for who, error in result["errors"].items()]
    return ", ".join(told)


def minima(who: str, found: dict[str, Any]) -> str:
    """Return how many conformers reach the minimum that they reach one by one."""
    return (
        f"{who}: {found['same']} of {found['conformers']} in the same minimum, {found['lower']} in a lower and "
        f"{found['higher']} in a higher one"
    )


def table(results: list[dict[str, Any]], peers: bool) -> str:
    """Return one table of all results."""
    shown = ["case", "what", "threads", "anipot ms", "/ floor"]
    if peers:
        shown += ["best ms", "best / anipot", "default ms", "default / anipot"]
    busy = any(result["case"] == "busy" for result in results)
    pyg = any("pyg" in result.get("median_ms", {}) for result in results)
    alone = any("one_by_one" in result.get("median_ms", {}) for result in results)
    shown += ["PyG ms", "PyG / anipot"] * pyg
    shown += ["ASE's steps ms", "ASE's steps / anipot", "one by one ms", "one by one / anipot"] * alone
    shown += ["busy ms", "busy / alone"] * busy + ["remarks"]
    lines = [shown, ["---"] * len(shown)]
    for result in results:
        medians = result.get("median_ms", {})
        line = [result["case"], result["label"], str(result["threads"]), number(medians.get("anipot"))]
        line.append(number(result.get("over_floor")))
        for who in (
            *(PEERS if peers else ()),
            *(("pyg",) if pyg else ()),
            *(("ase_steps", "one_by_one") if alone else ()),
            *(("busy",) if busy else ()),
        ):
            line += [number(medians.get(who)), ratio(result, who)]
        lines.append([*line, remarks(result)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(shown))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


#: Columns of the tables for docs/performance.md: what they show, and how a cell is made.
COLUMNS = {
    "anipot, ms": lambda result: number(result.get("median_ms", {}).get("anipot")),
    "÷ floor": lambda result: number(result.get("over_floor")),
    "best ÷ anipot": lambda result: ratio(result, "best"),
    "default ÷ anipot": lambda result: ratio(result, "default"),
    "PyG ÷ anipot": lambda result: ratio(result, "pyg"),
    "ASE's steps ÷ anipot": lambda result: ratio(result, "ase_steps"),
    "one by one ÷ anipot": lambda result: ratio(result, "one_by_one"),
    "busy ÷ alone": lambda result: ratio(result, "busy"),
    "per second": lambda result: number(result.get("per_second", {}).get("anipot")),
    "best, per second": lambda result: number(result.get("per_second", {}).get("best")),
    "µs per atom": lambda result: number(result.get("us_per_atom")),
    "loader, %": percent,
    "MiB": lambda result: memory(result, "anipot"),
    "best, MiB": lambda result: memory(result, "best"),
    "default, MiB": lambda result: memory(result, "default"),
    "of the driver, MiB": lambda result: driver(result, "anipot"),
    "best, of the driver, MiB": lambda result: driver(result, "best"),
    "best is": lambda result: result.get("best_is", "–"),
    "floor of": lambda result: result.get("floor_of", "–"),
}


def markdown(results: list[dict[str, Any]]) -> str:
    """Return one table for each case, whose cells have the figures of one and of more threads beside a slash.

    Columns without a figure are left out.
    """
    told = []
    for case in dict.fromkeys(result["case"] for result in results):
        these = [result for result in results if result["case"] == case]
        threads = sorted({result["threads"] for result in these})
        found = {(result["label"], result["threads"]): result for result in these}
        lines = []
        for label in dict.fromkeys(result["label"] for result in these):
            here = [found[label, n] for n in threads if (label, n) in found]
            lines.append([label, *(" / ".join(map(cell, here)) for cell in COLUMNS.values())])
        columns = ["", *COLUMNS]
        kept = [i for i in range(len(columns)) if any(set(line[i]) - set("–/ ") for line in lines)]
        lines = [[line[i] for i in kept] for line in [columns, ["---"] * len(columns), *lines]]
        of = " / ".join(map(str, threads))
        title = f"{case} ({of} thread{'s' if threads != [1] else ''})"
        if "device" in these[0]:
            title = f"{case} ({these[0]['device']})"
        told.append(title + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        told += [
            f"{result['label']}, {result['threads']}: {who} failed: {error}"
            for result in these
            for who, error in result["errors"].items()
        ]
    return "\n\n".join(told)
