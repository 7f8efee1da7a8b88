"""``anipot doctor``: what computes on this machine and why, and a proof that it computes rightly."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from anipot.cli import doctor_cuda
from anipot.cli.common import check_ending, load_named, write_atomically

#: Instruction sets that a build may have, the fastest first, as in csrc/interface.cpp.
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")

#: Largest difference between the kernels and torch in Hartree and Hartree/Å, for numbers up to 1 and in proportion for
#: larger ones, as rounding grows with what is rounded. Ten times what float32 costs the published models; what float64
#: costs is below 1e-11, so 1e-8 leaves room for large totals and still shows every real mistake.
BOUNDS = {"float32": 2e-5, "float64": 1e-8}

#: Keys of a check.
_ENERGY, _FORCES = "energy_difference_hartree", "force_difference_hartree_per_angstrom"

#: Environment variables that the library, its installation, its tests and its tools read.
VARIABLES = {
    "ANIPOT_KERNELS": "file of the native library, instead of the one that is installed",
    "ANIPOT_ISA": "instruction set of the native kernels, instead of the best",
    "ANIPOT_CUDA": "none: torch computes on GPUs; launches: kernels do, without CUDA graphs",
    "ANIPOT_NO_KERNELS": "read at installation only: unless 0, no native kernels are compiled",
    "ANIPOT_KERNEL_FLAGS": "read at installation only: further flags for the compiler",
    "ANIPOT_CACHE": "folder of the cache: models, data sets, compiled CUDA kernels",
    "ANIPOT_ZOO": "file or folder with published weights, looked at after the cache and before any download",
    "ANIPOT_ZOO_INDEX": "index of published models, instead of the one of the package",
    "ANIPOT_OFFLINE": "unless 0, no, false or off, weights are never downloaded",
    "ANIPOT_SHARED": "weights and references for the tests and tools of the repository",
    "ANIPOT_TEST_NETWORK": "for the tests of the repository: 1 allows downloads",
    "ANIPOT_EXAMPLE_FAST": "shortens the examples of the repository",
}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("doctor", help="what computes here and why, and a self-check", description=__doc__)
    models = "name or path to look at and check; by default a small model of random weights"
    parser.add_argument("models", nargs="*", metavar="MODEL", help=models)
    parser.add_argument("-o", "--output", help=".json with all that is printed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the sections, then check the models; exit code 1 if the native kernels are wrong for one of them."""
    check_ending(args.output, (".json",))
    sections = {
        "versions": _versions,
        "machine": _machine,
        "backends": _backends,
        "native kernels": _kernels,
        "CUDA": doctor_cuda.section,
        "environment": _environment,
        "model zoo": _zoo,
    }
    report: dict[str, Any] = {}
    for title, section in sections.items():
        report[title] = section()
        _print_section(title, report[title])
    models = [_checked(name, load_named(name)) for name in args.models] or [_checked("random weights", small_model())]
    report["self-check"] = models
    if args.output is not None:
        write_atomically(args.output, lambda path: _write(path, report))
    return _verdict([check for model in models for check in model["checks"]])


def _verdict(checks: list[dict[str, Any]]) -> int:
    if all(check["ok"] for check in checks):
        print("\nall is well" if checks else "\nnothing to compare: torch computes everything")
        return 0
    bad = sorted({check["instruction_set"] for check in checks if not check["ok"]})
    on_cuda = [name for name in bad if name.startswith("cuda")]
    on_cpu = [name for name in bad if name not in on_cuda]
    if on_cuda:
        graphs = all(name.endswith(doctor_cuda.GRAPH) for name in on_cuda)
        instead = "launches, so that no CUDA graphs are made" if graphs else "none, so that torch computes there"
        _complain("CUDA", on_cuda, f"ANIPOT_CUDA={instead}")
    if on_cpu:
        good = [name for name in _usable() if name not in bad]
        _complain("native", on_cpu, f"ANIPOT_ISA={good[0]}" if good else "ANIPOT_ISA=none, so that torch computes")
    return 1


def _complain(kernels: str, bad: list[str], instead: str) -> None:
    where = ", ".join(bad)
    print(f"anipot: the {kernels} kernels are wrong here ({where}): set {instead}; please report it", file=sys.stderr)


def _print_section(title: str, facts: dict[str, str]) -> None:
    width = max(map(len, facts), default=0)
    lines = [f"  {name:<{width}}  {fact}" for name, fact in facts.items()]
    print(title, *lines, "", sep="\n", flush=True)  # a crash in the kernels later on must not swallow it


def _write(path: str, report: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(report, indent=1) + "\n")


def _versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    import anipot

    found = {"anipot": f"{anipot.__version__} in {Path(anipot.__file__).parent}", "Python": platform.python_version()}
    for name in ("torch", "numpy", "ase", "h5py"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _machine() -> dict[str, str]:
    import platform

    import torch

    threads, cores = torch.get_num_threads(), _cores()
    advice = f"; WARNING: more than cores, so that they wait for each other: set OMP_NUM_THREADS={cores}"
    return {
        "platform": platform.platform(),
        "cores": f"{cores} for this process",
        "threads": f"{threads} (torch.get_num_threads)" + (advice if threads > cores else ""),
        "CUDA": _cuda(),
    }


def _cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux; a job of a queue has fewer than the machine
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cuda() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    if torch.version.cuda is None:
        return "no: this build of torch is without it"
    return f"no: torch is built for CUDA {torch.version.cuda} and finds no device"


def _backends() -> dict[str, str]:
    from anipot import backends

    def state(backend: Any) -> str:
        return "used" if backend.active else "available" if backend.available else "not available"

    return {backend.name: f"{state(backend)}: {backend.reason}" for backend in backends()}


def _kernels() -> dict[str, str]:
    from anipot.kernels import library

    native = library()
    if native is None:
        return {"library": "none", "what to do": _advice()}
    used = native.anipot_isa().decode()
    others = [name for name in _usable() if name != used]
    return {"library": native._name, "instruction set": f"{used}; also here: {', '.join(others) or 'no other'}"}


def _usable() -> list[str]:
    """Return the instruction sets that both the native library and the machine have."""
    from anipot.kernels import instruction_set

    found = []
    for name in INSTRUCTION_SETS:
        try:
            with instruction_set(name):
                found.append(name)
        except ValueError:
            pass
    return found


def _advice() -> str:
    """Return what gives native kernels to one who has none."""
    from anipot import backends

    reason = next(backend.reason for backend in backends() if backend.name == "cpu-native")
    if "ANIPOT_ISA" in reason:
        return f"unset ANIPOT_ISA, or set it to one of {', '.join(INSTRUCTION_SETS)} that this machine has"
    if os.environ.get("ANIPOT_KERNELS"):
        return "unset ANIPOT_KERNELS, or set it to the file of a library of this version"
    unset = "unset ANIPOT_NO_KERNELS, " if "ANIPOT_NO_KERNELS" in reason else ""
    again = "`pip install --force-reinstall --no-deps .` in the folder of its sources"
    return f"{unset}have a C++17 compiler (g++, clang, or what CXX names) and install anipot again: {again}"


def _environment() -> dict[str, str]:
    names = sorted(name for name in os.environ if name.startswith("ANIPOT_"))
    facts = {f"{name}={os.environ[name]}": VARIABLES.get(name, "unknown, without effect") for name in names}
    return facts or {"ANIPOT_*": "none is set"}


def _zoo() -> dict[str, str]:
    from anipot import zoo

    facts = {"cache": str(zoo.cache_dir())}
    for status in zoo.table(check=False):
        missing = f"not cached; `anipot zoo pull {status.name}` fetches it"
        facts[status.name] = f"damaged: {status.problem}" if status.problem else "cached" if status.cached else missing
    return facts


def _checked(name: str, model: Any) -> dict[str, Any]:
    """Print and return whether the native kernels cover a model, and what they compute for it."""
    from anipot.engine import engine_of

    reason = engine_of(model).covers()
    print(f"self-check of {name}: largest differences between native kernels and torch, Hartree and Hartree/Å")
    print(f"  computed by torch: {reason}" if reason else "  computed by the native kernels", flush=True)
    uncovered = doctor_cuda.uncovered(model)
    for device, why in uncovered.items():
        print(f"  computed by torch on {device}: {why}", flush=True)
    found = []
    for check in chain(() if reason else self_check(model), cuda_check(model)):
        energy, forces = (_number(check[key]) for key in (_ENERGY, _FORCES))
        ok = "ok" if check["ok"] else "WRONG"
        print(f"  {check['instruction_set']:<9} {check['dtype']}  energy {energy}  forces {forces}  {ok}", flush=True)
        found.append(check)
    return {"model": name, "covered": not reason, "reason": reason, "uncovered": uncovered, "checks": found}


def _number(value: float | None) -> str:
    return "   none" if value is None else f"{value:.1e}"


def self_check(model: Any) -> Iterator[dict[str, Any]]:
    """Compare the native kernels with plain torch operations, for every instruction set and both dtypes.

    Parameters
    ----------
    model
        A ``Potential`` that the kernels cover. It is not changed.

    Yields
    ------
    dict
        Instruction set, dtype, the largest differences, and whether they are below ``BOUNDS``. A difference is None
        where it is not a finite number, or where the kernels computed nothing.
    """
    from anipot.engine import Engine
    from anipot.kernels import instruction_set

    species, coordinates = molecule(model)
    for dtype, one, reference in _references(model, species, coordinates):
        for name in _usable():
            with instruction_set(name):
                # An engine of its own, since an engine stays with the instruction set that it began with; and called
                # directly, since single_point hides that the kernels gave up.
                options = {"forces": True, "stress": False, "atomic_energies": False, "members": False}
                values = Engine(one).evaluate(species, coordinates, None, None, **options)
            yield {"instruction_set": name, "dtype": dtype} | _differences(one, reference, values, BOUNDS[dtype])


def cuda_check(model: Any) -> Iterator[dict[str, Any]]:
    """Compare the CUDA kernels with plain torch operations on the CPU, on every device, as ``self_check`` does."""
    devices = doctor_cuda.devices()
    if not devices:
        return
    species, coordinates = molecule(model)
    for dtype, one, reference in _references(model, species, coordinates):
        for device in devices:
            for name, values in doctor_cuda.results(one, device, species, coordinates):
                yield {"instruction_set": name, "dtype": dtype} | _differences(one, reference, values, BOUNDS[dtype])


def _references(model: Any, species: Any, coordinates: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield each dtype, a copy of the model in it, and what plain torch operations compute."""
    from copy import deepcopy

    import torch

    from anipot import reference_path, single_point

    for dtype in BOUNDS:
        one = deepcopy(model).to(getattr(torch, dtype))
        with reference_path():
            reference = single_point(one, species, coordinates)
        yield dtype, one, reference


def _differences(model: Any, reference: Any, values: Any, bound: float) -> dict[str, Any]:
    """Return the largest differences and whether each is within its bound."""
    # Self energies are added in float64 and say nothing about rounding.
    interaction = reference.energies - model.shifter.sae(model.converter.convert(reference.species))
    scales = (max(1.0, float(x.abs().max())) for x in (interaction, reference.forces))
    energy = forces = math.nan
    if values is not None:
        energy = float((values.energies - reference.energies).abs().max())
        forces = float((values.forces - reference.forces).abs().max())
    ok = all(x <= bound * scale for x, scale in zip((energy, forces), scales, strict=True))  # false for NaN
    found = {_ENERGY: energy, _FORCES: forces}
    return {key: x if math.isfinite(x) else None for key, x in found.items()} | {"ok": ok}


def molecule(model: Any) -> tuple[Any, Any]:
    """Return species (1, A) and coordinates (1, A, 3) of a lump of atoms with every element of a model twice or more.

    It is no molecule of chemistry: atoms 1.3 Å apart in a shaken lattice, so that all elements are near each other.
    """
    import torch

    size = max(8, 2 * len(model.elements))
    symbols = (list(model.elements) * 8)[:size]
    i = torch.arange(size)
    lattice = torch.stack([i % 3, i // 3 % 3, i // 9], -1)
    shake = torch.rand(size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    return model.species_to_tensor(symbols)[None], (1.3 * lattice + 0.3 * shake)[None]


def small_model() -> Any:
    """Return an ANI model of two members with random weights, the same at every call."""
    import torch

    from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Ensemble, Potential

    widths = (384, 30, 17, 1)  # no multiples of a vector, so that the rest of the last one is checked too
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        members = [ANIModel([AtomicNetwork(widths, CELU(0.1)) for _ in range(4)]) for _ in range(2)]
    shifter = EnergyShifter([-0.6, -38.1, -54.7, -75.2])
    return Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), Ensemble(members), shifter, "random weights")
