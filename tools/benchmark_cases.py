"""What tools/benchmark.py measures: cases, their systems, and who takes part."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ANIPOT_SHARED", ROOT.parent / "shared"))
#: Who is run for each peer; "best" and "default" of SchNetPack are found from its two afterwards.
PEER_GROUPS = {"TorchANI": ("best", "default"), "SchNetPack": ("eager", "scripted"), "PyG": ("pyg",)}
PEERS = PEER_GROUPS["TorchANI"]
SCHNETPACK = PEER_GROUPS["SchNetPack"]
#: anipot's own calculator in ASE, and how many conformers there are for each that peers are given.
ONE_BY_ONE = "one_by_one"
#: In a batch, with the steps that ASE takes.
ASE_STEPS = "ase_steps"
PEER_PART = 40
#: Systems where the shared folder is, and the like of them made from a seed where it is not.
SYSTEMS = {
    "benzene": "built_benzene",
    "tripeptide58": "built_alkane56",
    "frame98": "built_alkane98",
    "small264": "built_alkane263",
    "1hz5_S2O": "built_alkane974",
    "water150": "built_water150",
    "water300": "built_water300",
    "water801": "built_water801",
    "water1200": "built_water1200",
}
NAMES = (
    *(
        "energy_forces",
        "ase_md",
        "stress",
        "batch",
        "hessian",
        "hessian_batch",
        "training",
        "training_epoch",
        "startup",
        "scaling",
        "busy",
    ),
    *("message_passing", "message_passing_training", "message_passing_memory", "symmetry_functions", "optimize"),
)
QUICK_NAMES = ("energy_forces", "ase_md", "batch", "training", "scaling", "message_passing")
#: TorchANI is not asked for more atoms than this, nor is SchNetPack for more than that.
PEER_ATOMS = 1200
SCHNETPACK_ATOMS = 3000
#: Kind, interactions and functions of the distance.
SCHNET_3, SCHNET_6, PAINN = ("schnet", 3, 25), ("schnet", 6, 50), ("painn", 3, 20)
MESSAGE_PASSING = (SCHNET_3, ("schnet", 3, 50), ("schnet", 6, 25), SCHNET_6, PAINN)
#: What a process may take in message_passing_memory.
MEMORY_GIB = 16
#: Rounds of what takes long.
MOST_ROUNDS = {"scaling": 3, "message_passing_memory": 2, "training_epoch": 3, "hessian_batch": 3}
#: Conformers of an epoch: two of the batches of the ANI recipe. Drawn from 10 000, which would take twice as long.
EPOCH_CONFORMERS = 5120
#: What is trained, whether forces are, and whether AEVs are kept.
TRAINED = (("energies, AEVs kept", False, True), ("energies", False, False), ("energies + forces", True, False))
ENSEMBLE = {"model": "ani1x", "members": 8, "dtype": "float32"}


@dataclass(frozen=True)
class Case:
    """One line of a table: a task, its arguments, and who takes part."""

    name: str
    label: str
    task: str
    args: dict[str, Any]
    threads: int
    #: "anipot" first; "busy" is anipot beside a process that keeps one core busy.
    configurations: tuple[str, ...] = ("anipot", *PEERS)
    sampling: dict[str, Any] = field(default_factory=dict)
    has_floor: bool = False
    #: Whether each measurement has a process of its own.
    fresh: bool = False
    #: Whether peers have memory allocation tuned, which takes less time and more memory.
    tuned: bool = True
    #: Molecules or conformers of one call, and atoms, for rates.
    items: int = 0
    atoms: int = 0
    #: Environment variables of its process; {folder} and {turn} stand for a folder of the run and the round.
    environment: dict[str, str] = field(default_factory=dict)


class Plan:
    """The cases that the command line asks for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.quick: bool = options.quick
        self.shared = (SHARED / "bench" / "systems").is_dir()

    def cases(self) -> Iterator[Case]:
        for threads in self.options.threads:
            for name in self.options.only:
                yield from getattr(self, name)(threads)

    def systems(self, *names: str) -> list[str]:
        if self.options.systems:
            return list(self.options.systems)
        return [name if self.shared or name not in SYSTEMS else SYSTEMS[name] for name in names]

    def energy_forces(self, threads: int) -> Iterator[Case]:
        which = [("ani1x", 8), ("ani1x", 1), ("ani2x", 8)]
        dtypes = ["float32", "float64"]
        names = tuple(SYSTEMS)
        if self.quick:
            which, dtypes, names = which[:1], dtypes[:1], ("benzene", "tripeptide58", "water150")
        for model, members in which:
            for dtype in dtypes:
                for system in self.systems(*names):
                    label = f"{model}{' ensemble' if members > 1 else '[0]'} {dtype} {system}"
                    args = {"system": system, "model": model, "members": members, "dtype": dtype}
                    yield Case("energy_forces", label, "energy_forces", args, threads, has_floor=True)

    def ase_md(self, threads: int) -> Iterator[Case]:
        names = ("benzene",) if self.quick else ("benzene", "tripeptide58", "water150", "water801")
        for system in self.systems(*names):
            yield Case("ase_md", system, "ase_md", {"system": system, **ENSEMBLE}, threads, has_floor=True)

    def stress(self, threads: int) -> Iterator[Case]:
        for system in self.systems("water150", "water801"):
            yield Case("stress", system, "stress", {"system": system, **ENSEMBLE}, threads, has_floor=True)

    def batch(self, threads: int) -> Iterator[Case]:
        data = "batch20" if self.shared else "built_batch"
        for molecules in (256,) if self.quick else (1, 32, 256, 2048):
            args = {"data": data, "molecules": molecules, **ENSEMBLE}
            yield Case("batch", f"{data} × {molecules}", "batch", args, threads, has_floor=True, items=molecules)

    def hessian(self, threads: int) -> Iterator[Case]:
        for system in self.systems("water", "benzene", "tripeptide58"):
            yield Case("hessian", system, "hessian", {"system": system, **ENSEMBLE}, threads)

    def hessian_batch(self, threads: int) -> Iterator[Case]:
        """Displaced copies of a molecule in one call; TorchANI computes one Hessian at a time."""
        sampling = {"warm_least": 1, "at_least": 1, "at_most": 20, "enough": 1.0}
        for system, copies in zip(self.systems("benzene", "tripeptide58"), (16, 2), strict=False):
            args = {"system": system, "copies": copies, **ENSEMBLE}
            label = f"{system} × {copies}"
            yield Case("hessian_batch", label, "hessian_batch", args, threads, sampling=sampling, items=copies)

    def training(self, threads: int) -> Iterator[Case]:
        data = "train10k" if self.shared else "built_train"
        for forces in (False,) if self.quick else (False, True):
            label = f"{data} {'energies + forces' if forces else 'energies'}"
            steps = 4 if self.quick else 8
            sampling = {"at_least": steps, "at_most": steps, "enough": 100.0}
            args = {"data": data, "forces": forces}
            yield Case("training", label, "training", args, threads, sampling=sampling, items=256)

    def training_epoch(self, threads: int) -> Iterator[Case]:
        data, number = "train10k" if self.shared else "built_epoch", 512 if self.quick else EPOCH_CONFORMERS
        for batch in (256,) if self.quick else (256, 2560):
            for what, forces, kept in TRAINED:
                label = f"{what}, batch {batch}"
                args = {"data": data, "number": number, "batch": batch, "forces": forces, "kept": kept}
                sampling = {"at_least": 1, "at_most": 5}
                yield Case(
                    "training_epoch",
                    label,
                    "training_epoch",
                    args,
                    threads,
                    sampling=sampling,
                    fresh=True,
                    items=number,
                )

    def startup(self, threads: int) -> Iterator[Case]:
        for until, label in (("import", "import"), ("energy", "first energy and forces")):
            args = {"until": until, "system": self.systems("benzene")[0], **ENSEMBLE}
            yield Case("startup", label, "startup", args, threads, fresh=True)

    def scaling(self, threads: int) -> Iterator[Case]:
        for atoms in (99, 999) if self.quick else (99, 999, 9999, 99999):
            args = {"system": f"built_water{atoms}", **ENSEMBLE}
            who = ("anipot", "best") if atoms <= PEER_ATOMS and not self.quick else ("anipot",)
            yield Case(
                "scaling",
                f"{atoms} atoms",
                "energy_forces",
                args,
                threads,
                who,
                has_floor=True,
                fresh=True,
                atoms=atoms,
            )

    def message_passing(self, threads: int) -> Iterator[Case]:
        data = "pool" if self.shared else "built_pool"
        for which in MESSAGE_PASSING[:1] if self.quick else MESSAGE_PASSING:
            for molecules in (32,) if self.quick else (32, 256):
                args = {"data": data, "molecules": molecules, **network(which)}
                label = f"{network_label(which)} × {molecules}"
                who = graph_configurations(which)
                yield Case(
                    "message_passing", label, "message_passing", args, threads, who, has_floor=True, items=molecules
                )

    def message_passing_training(self, threads: int) -> Iterator[Case]:
        data = "pool" if self.shared else "built_pool"
        for which in (SCHNET_3,) if self.quick else (SCHNET_3, SCHNET_6, PAINN):
            for forces in (False, True):
                label = f"{network_label(which)} {'energies + forces' if forces else 'energies'}"
                args = {"data": data, "forces": forces, **network(which)}
                sampling = {"at_least": 4, "at_most": 8, "enough": 100.0}
                who, name = graph_configurations(which), "message_passing_training"
                yield Case(name, label, name, args, threads, who, sampling, items=32)

    def message_passing_memory(self, threads: int) -> Iterator[Case]:
        if threads != self.options.threads[-1]:
            return
        sampling = {"warm_least": 1, "limit_gib": MEMORY_GIB}
        for which in (SCHNET_3, PAINN):
            for atoms in (99,) if self.quick else (99, 300, 999, 3000, 9999, 30000):
                args = {"system": f"built_water{atoms}", **network(which)}
                who = ("anipot", "eager") if atoms <= SCHNETPACK_ATOMS else ("anipot",)
                yield Case(
                    "message_passing_memory",
                    f"{network_label(which)} {atoms} atoms",
                    "message_passing",
                    args,
                    threads,
                    who,
                    sampling,
                    has_floor=True,
                    fresh=True,
                    tuned=False,
                    atoms=atoms,
                )

    def symmetry_functions(self, threads: int) -> Iterator[Case]:
        for system in self.systems(*(("benzene",) if self.quick else ("benzene", "tripeptide58", "water150"))):
            for kind, label in (("acsf", "ACSF"), ("wacsf", "wACSF"), ("aev", "AEV")):
                args = {"system": system, "kind": kind, "dtype": "float32"}
                yield Case("symmetry_functions", f"{label} {system}", "symmetry_functions", args, threads, ("anipot",))

    def optimize(self, threads: int) -> Iterator[Case]:
        import benchmark_conformers

        file = Path(tempfile.gettempdir()) / f"conformers-{os.getpid()}.npz"
        if not file.exists():
            benchmark_conformers.write(file)
        count, part = self.options.conformers, max(1, self.options.conformers // PEER_PART)
        for model, members in (("ani2x", 8), ("ani2x", 1)):
            args = {"file": str(file), "count": count, "part": part, "model": model, "members": members}
            args |= {"dtype": "float32"}
            label = f"{model}{' ensemble' if members > 1 else '[0]'}, {count} conformers"
            sampling = {"warm": 0, "at_least": 1, "at_most": 1}
            who = ("anipot", ASE_STEPS, ONE_BY_ONE, *PEERS)
            yield Case("optimize", label, "optimize", args, threads, who, sampling, items=1)

    def busy(self, threads: int) -> Iterator[Case]:
        if threads != self.options.threads[-1]:
            return  # two threads whatever was asked for, so once is enough
        for system in self.systems("water150", "benzene"):
            args = {"system": system, **ENSEMBLE}
            # The 99th percentile takes many samples.
            yield Case("busy", system, "energy_forces", args, 2, ("anipot", "busy"), {"at_most": 2000})


def network(which: tuple[str, int, int]) -> dict[str, Any]:
    return {"kind": which[0], "interactions": which[1], "functions": which[2], "dtype": "float32"}


def network_label(which: tuple[str, int, int]) -> str:
    kind, interactions, functions = which
    return f"{'SchNet' if kind == 'schnet' else 'PaiNN'} {interactions}×{functions}"


def graph_configurations(which: tuple[str, int, int]) -> tuple[str, ...]:
    """Return who can compute it; PyTorch Geometric has no PaiNN."""
    return ("anipot", *SCHNETPACK, *(PEER_GROUPS["PyG"] if which[0] == "schnet" else ()))
