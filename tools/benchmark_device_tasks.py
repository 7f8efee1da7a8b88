"""What tools/benchmark.py --device times on one device, by anipot and by TorchANI; see benchmark_device_cases.py.

Nothing of one task is kept for the next, so that memory is that of the task. Input is on the device already. Every
configuration of TorchANI but "default", which is what its documentation shows, has members merged
(``to_infer_model``) and the list of neighbors that suits the system.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import benchmark_epochs as epochs
import numpy as np
from benchmark_anipot import Anipot
from benchmark_common import ase_atoms
from benchmark_device import Device
from benchmark_operations import INFO_FILES, MEMBERS, SELF_ENERGIES, WEIGHTS
from benchmark_systems import Structure, batch, flat, structure

#: Of TorchANI: the strategy of its AEVs, and whether the model is scripted.
CONFIGURATIONS = {
    "default": ("pyaev", False),
    "merged": ("pyaev", False),
    "jit": ("pyaev", True),
    "cuaev": ("cuaev", False),
    "cuaev_jit": ("cuaev", True),
}
#: Steps of dynamics in one sample.
STEPS = 20
#: Neighbors are sorted into cells from so many atoms on, in periodic boxes and outside.
CELL_LIST = {True: 51, False: 1770}


def tensors(system: Structure, dtype: Any, device: str) -> tuple[Any, ...]:
    """Return species, coordinates, cell and pbc on a device."""
    import torch

    species = torch.tensor(system.numbers, device=device)[None]
    coordinates = torch.tensor(system.positions, dtype=dtype, device=device)[None]
    if system.cell is None:
        return species, coordinates, None, None
    cell = torch.tensor(system.cell, dtype=dtype, device=device)
    return species, coordinates, cell, torch.ones(3, dtype=torch.bool, device=device)


def steps_of_ase(atoms: Any) -> Callable[[], Any]:
    """Return a function that takes ``STEPS`` steps of ASE's velocity Verlet."""
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    MaxwellBoltzmannDistribution(atoms, temperature_K=100, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)

    def call() -> None:
        dynamics.run(STEPS)

    call.items = STEPS  # type: ignore[attr-defined]
    return call


def steps_without_ase(atoms: Any) -> Callable[[], Any]:
    """Return a function that moves the atoms by hand and asks the calculator, ``STEPS`` times."""
    start = atoms.positions.copy()
    moves = np.random.default_rng(0).normal(scale=1e-3, size=(STEPS, *start.shape))

    def call() -> None:
        for move in moves:
            atoms.positions[:] = start + move
            atoms.calc.calculate(atoms, ["energy", "forces"])

    call.items = STEPS  # type: ignore[attr-defined]
    return call


class AnipotOnDevice:
    """Prepares tasks with anipot."""

    def __init__(self, device: Device) -> None:
        self.device, self._reader, self.weights = device, Anipot(), ""

    def model(self, model: str, members: int, dtype: str) -> Any:
        import torch

        loaded, self.weights = self._reader._ensemble(model)
        loaded = loaded if members == MEMBERS else loaded[0]
        return loaded.to(device=self.device.name, dtype=getattr(torch, dtype)).requires_grad_(False)

    def energy_forces(self, system: str, **which: Any) -> Callable[[], Any]:
        import anipot

        model = self.model(**which)
        given = tensors(structure(system), model.dtype, self.device.name)
        return lambda: anipot.single_point(model, *given)

    def batch(self, data: str, molecules: int, **which: Any) -> Callable[[], Any]:
        import torch

        import anipot

        model = self.model(**which)
        numbers, positions = batch(data, molecules)
        species = torch.tensor(numbers, device=self.device.name)
        coordinates = torch.tensor(positions, dtype=model.dtype, device=self.device.name)
        return lambda: anipot.single_point(model, species, coordinates)

    def hessian(self, system: str, **which: Any) -> Callable[[], Any]:
        import anipot

        model = self.model(**which)
        given = tensors(structure(system), model.dtype, self.device.name)
        return lambda: anipot.single_point(model, *given, hessian=True)

    def ase_md(self, system: str, **which: Any) -> Callable[[], Any]:
        return steps_of_ase(ase_atoms(structure(system), self.model(**which).ase()))

    def bare_md(self, system: str, **which: Any) -> Callable[[], Any]:
        return steps_without_ase(ase_atoms(structure(system), self.model(**which).ase()))

    def training_epoch(self, threads: int, **which: Any) -> dict[str, Any]:
        found = self._reader.training_epoch(threads, device=self.device.name, **which)
        self.weights = self._reader.weights
        return found

    def versions(self) -> dict[str, Any]:
        return self._reader.versions()


class TorchANIOnDevice:
    """Prepares tasks with TorchANI 2.9, in one of its configurations."""

    weights = "published, from the shared folder"

    def __init__(self, name: str, device: Device) -> None:
        self.device, self.plain = device, name == "default"
        self.strategy, self.scripted = CONFIGURATIONS[name]

    def model(self, neighbors: str, model: str, members: int, dtype: str, script: bool) -> Any:
        import torch
        from torchani import neurochem
        from torchani.arch import ANI

        # The lines of an info file: AEV constants, self energies, prefix of the members' folders, how many.
        constants, self_energies, prefix, members_there = (WEIGHTS / INFO_FILES[model]).read_text().split()[:4]
        aev, symbols = neurochem.load_aev_computer_and_symbols(WEIGHTS / constants, self.strategy, neighbors)
        if members == MEMBERS:
            networks = neurochem.load_ensemble(symbols, WEIGHTS / prefix, int(members_there))
        else:
            networks = neurochem.load_member(symbols, neurochem.model_dir_from_prefix(WEIGHTS / prefix, 0))
        whole = ANI(symbols, aev, networks, neurochem.load_sae(WEIGHTS / self_energies), periodic_table_index=True)
        whole = whole.requires_grad_(False).to(device=self.device.name, dtype=getattr(torch, dtype))
        if members > 1 and not self.plain:
            whole = whole.to_infer_model()
        return torch.jit.script(whole) if script and self.scripted else whole

    def _suited(self, system: Structure, which: dict[str, Any], script: bool = True) -> Any:
        """Return the model with the list of neighbors that suits a system, or that of the documentation."""
        many = len(system.numbers) >= CELL_LIST[system.cell is not None]
        return self.model("cell_list" if many and not self.plain else "all_pairs", **which, script=script)

    def energy_forces(self, system: str, **which: Any) -> Callable[[], Any]:
        import torch

        found = structure(system)
        model = self._suited(found, which)
        return forces_call(model, *tensors(found, getattr(torch, which["dtype"]), self.device.name))

    def batch(self, data: str, molecules: int, **which: Any) -> Callable[[], Any]:
        import torch

        numbers, positions = batch(data, molecules)
        if not self.plain:  # merged networks take one molecule: all of them as one, far apart
            numbers, positions = flat(numbers, positions)
        model = self.model("all_pairs" if self.plain else "cell_list", **which, script=True)
        species = torch.tensor(numbers, device=self.device.name)
        x = torch.tensor(positions, dtype=getattr(torch, which["dtype"]), device=self.device.name)
        return forces_call(model, species, x, None, None)

    def hessian(self, system: str, **which: Any) -> Callable[[], Any]:
        """As ``torchani.grad`` does, which takes no scripted model."""
        import torch

        model = self.model("all_pairs", **which, script=True)
        species, coordinates, *_ = tensors(structure(system), getattr(torch, which["dtype"]), self.device.name)
        x = coordinates.requires_grad_()

        def call() -> Any:
            gradient = torch.autograd.grad(model((species, x)).energies.sum(), x, create_graph=True)[0].flatten()
            return torch.stack([torch.autograd.grad(g, x, retain_graph=True)[0].flatten() for g in gradient])

        return call

    def ase_md(self, system: str, **which: Any) -> Callable[[], Any]:
        return steps_of_ase(self._atoms(system, which))

    def bare_md(self, system: str, **which: Any) -> Callable[[], Any]:
        return steps_without_ase(self._atoms(system, which))

    def _atoms(self, system: str, which: dict[str, Any]) -> Any:
        found = structure(system)
        model = self._suited(found, which, script=False)  # its calculator scripts the model itself
        return ase_atoms(found, model.ase(jit=self.scripted))

    def training_epoch(self, threads: int, **which: Any) -> dict[str, Any]:
        import torch
        from torchani.arch import Assembler

        torch.manual_seed(0)
        assembler = Assembler(periodic_table_index=True)
        assembler.set_symbols(("H", "C", "N", "O"))
        assembler.set_atomic_networks(ctor="ani1x")
        assembler.set_global_cutoff_fn("cosine")
        assembler.set_aev_computer(angular="ani1x", radial="ani1x", strategy=self.strategy)
        assembler.set_neighborlist("all_pairs")
        assembler.set_self_energies(SELF_ENERGIES)
        self.weights = "random numbers, as they should be"
        return epochs.torchani_epochs(assembler.assemble(1), self.scripted, device=self.device.name, **which)

    def versions(self) -> dict[str, Any]:
        import platform

        import torch
        import torchani
        import torchani.arch
        import torchani.csrc
        import torchani.neurochem  # a version without it, or without what it needs, cannot be compared

        cuaev = bool(torchani.csrc.CUAEV_IS_INSTALLED)
        found = {"python": platform.python_version(), "torch": torch.__version__, "torchani": torchani.__version__}
        return found | {"cuaev": cuaev}


def forces_call(model: Any, species: Any, coordinates: Any, cell: Any, pbc: Any) -> Callable[[], Any]:
    import torch

    x = coordinates.requires_grad_()

    def call() -> Any:
        energies = model((species, x), cell, pbc).energies
        return energies, -torch.autograd.grad(energies.sum(), x)[0]

    return call
