"""What tools/benchmark.py --device measures, in the order of importance, and who takes part."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from benchmark_cases import ENSEMBLE, EPOCH_CONFORMERS, SHARED, SYSTEMS, Case
from benchmark_operations import INFO_FILES, WEIGHTS

NAMES = ("startup", "energy_forces", "ase_md", "large", "hessian", "training_epoch", "bare_md", "batch")
QUICK_NAMES = ("energy_forces", "ase_md")
#: Configurations of TorchANI, in benchmark_device_tasks.py.
PEERS = ("default", "merged", "jit", "cuaev", "cuaev_jit")
#: Boxes of about 5 000, 20 000 and 100 000 atoms.
REPEATED = ("water501_1x2x5", "water501_2x4x5", "water501_5x5x8")
#: TorchANI's default, which looks at all pairs of all images, is not asked for these.
TOO_LARGE = REPEATED[1:]
#: Frames of TorchANI's examples, of 5 to 304 atoms, one with its number of atoms in the name, and a box.
DYNAMICS = ("frameCH4-5", "frame13", "frame28", "frame50", "tripeptide58", "frame98", "frame304", "water300")
MODELS = (("ani2x", 8), ("ani1x", 8), ("ani1x", 1))
#: What is made from a seed where there is no shared folder.
BUILT = SYSTEMS | {
    "frameCH4-5": "built_alkane5",
    "frame13": "built_alkane14",
    "frame28": "built_alkane29",
    "frame50": "built_alkane50",
    "frame304": "built_alkane305",
    **{name: f"built_{name}" for name in REPEATED},
}
#: Seconds after which a measurement is given up, and for the largest; and after how many such in the cases of one name
#: a configuration is left out of the rest.
LIMIT, LONG_LIMIT, TOO_OFTEN = 45.0, 150.0, 2
#: A folder for kernels, of its own in each round, which the first start fills and the second finds full.
CACHE = "{folder}/kernels-{turn}"


class DevicePlan:
    """The cases that the command line asks for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.shared = (SHARED / "bench" / "systems").is_dir()

    def cases(self) -> Iterator[Case]:
        for name in self.options.only:
            yield from getattr(self, name)()

    def systems(self, *names: str) -> list[str]:
        if self.options.systems:
            return list(self.options.systems)
        return [name if self.shared else BUILT.get(name, name) for name in names]

    def models(self) -> list[tuple[str, int]]:
        """Return models and members: those asked for, or where any weights are at hand, those that have them."""
        if self.options.models:
            return list(self.options.models)
        here = [one for one in MODELS if (WEIGHTS / INFO_FILES[one[0]]).is_file()] or list(MODELS)
        return here[:1] if self.options.quick else here

    def case(self, name: str, label: str, args: dict[str, Any], task: str = "", **more: Any) -> Case:
        who = more.pop("who", ("anipot", *PEERS))
        return Case(name, label, task or name, args, self.options.threads[0], who, **more)

    def energy_forces(self) -> Iterator[Case]:
        names = ("benzene", "levofloxacin", "tripeptide58", "water300", "water1200", *REPEATED[:2])
        if self.options.quick:
            names = ("benzene", "tripeptide58", "water300")
        for model, members in self.models():
            for system in self.systems(*names):
                if system == "levofloxacin" and model == "ani1x":  # it has fluorine
                    continue
                args = {"system": system, "model": model, "members": members, "dtype": "float32"}
                who = ("anipot", *(PEERS[1:] if system.removeprefix("built_") in TOO_LARGE else PEERS))
                label = f"{model}{' ensemble' if members > 1 else '[0]'} {system}"
                yield self.case("energy_forces", label, args, who=who, has_floor=True)

    def large(self) -> Iterator[Case]:
        """A box of 100 000 atoms, each library alone on the device."""
        for system in self.systems(REPEATED[2]):
            args = {"system": system, **ENSEMBLE, "model": "ani2x"}
            sampling = {"warm": 1, "warm_least": 1, "at_least": 2, "at_most": 5}
            who = ("anipot", "merged", "cuaev")
            yield self.case(
                "large", system, args, "energy_forces", who=who, has_floor=True, fresh=True, sampling=sampling
            )

    def ase_md(self, name: str = "ase_md") -> Iterator[Case]:
        for system in self.systems(*(DYNAMICS[2:3] if self.options.quick else DYNAMICS)):
            for members in (8,) if self.options.quick else (8, 1):
                label = f"{system}{'' if members > 1 else ', one network'}"
                yield self.case(name, label, {"system": system, **ENSEMBLE, "members": members}, has_floor=True)

    def bare_md(self) -> Iterator[Case]:
        """The calculator alone, without an integrator."""
        yield from (case for case in self.ase_md("bare_md") if case.args["members"] > 1)

    def hessian(self) -> Iterator[Case]:
        """cuAEV is left out: its second derivatives are incomplete."""
        for system in self.systems("benzene", "tripeptide58"):
            sampling = {"warm": 1, "warm_least": 1, "at_least": 2, "at_most": 20}
            who = ("anipot", *PEERS[:3])
            yield self.case("hessian", system, {"system": system, **ENSEMBLE}, who=who, sampling=sampling)

    def batch(self) -> Iterator[Case]:
        data = "batch20" if self.shared else "built_batch"
        for molecules in (32,) if self.options.quick else (32, 256, 2048):
            args = {"data": data, "molecules": molecules, **ENSEMBLE}
            yield self.case("batch", f"{data} × {molecules}", args, has_floor=True, items=molecules)

    def training_epoch(self) -> Iterator[Case]:
        data, number = "train10k" if self.shared else "built_epoch", 512 if self.options.quick else EPOCH_CONFORMERS
        for batch in (256,) if self.options.quick else (2560, 256):
            for what, forces in (("energies", False), ("energies + forces", True))[self.options.quick :]:
                args = {"data": data, "number": number, "batch": batch, "forces": forces, "kept": False}
                sampling = {"at_least": 2, "at_most": 5}
                who = ("anipot", "default", "jit", "cuaev", "cuaev_jit")
                label = f"{what}, batch {batch}"
                yield self.case("training_epoch", label, args, who=who, sampling=sampling, fresh=True, items=number)

    def startup(self) -> Iterator[Case]:
        """The first start finds no kernels and compiles them; both count from after ``import torch``."""
        for what in ("cold", "warm"):
            args = {"system": self.systems("benzene")[0], **ENSEMBLE}
            who = ("anipot",) if what == "cold" else ("anipot", "default", "jit")
            environment = {"ANIPOT_CACHE": CACHE}
            yield self.case("startup", f"{what} start", args, who=who, fresh=True, environment=environment)
