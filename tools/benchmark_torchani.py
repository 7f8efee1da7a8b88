"""What tools/benchmark.py times with TorchANI 2.9."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import benchmark_conformers as conformers
import benchmark_epochs as epochs
import numpy as np
from benchmark_anipot import Anipot
from benchmark_common import ase_atoms, md_step, stress_call, training_step
from benchmark_operations import INFO_FILES, MEMBERS, SELF_ENERGIES, WEIGHTS
from benchmark_systems import Structure, batch, displaced, flat, structure


class TorchANI:
    """Prepares tasks with TorchANI 2.9, in its best or its default configuration."""

    weights = "published, from the shared folder"

    def __init__(self, best: bool) -> None:
        self.best = best

    @lru_cache(maxsize=4)  # noqa: B019  (one object lives as long as the process)
    def model(self, model: str, members: int, dtype: str, neighbors: str, infer: bool, script: bool) -> Any:
        import torch
        from torchani import neurochem
        from torchani.arch import ANI

        # The lines of an info file: AEV constants, self energies, prefix of the members' folders, how many.
        constants, self_energies, prefix, members_there = (WEIGHTS / INFO_FILES[model]).read_text().split()[:4]
        aev, symbols = neurochem.load_aev_computer_and_symbols(WEIGHTS / constants, neighborlist=neighbors)
        if members == MEMBERS:
            networks = neurochem.load_ensemble(symbols, WEIGHTS / prefix, int(members_there))
        else:
            networks = neurochem.load_member(symbols, neurochem.model_dir_from_prefix(WEIGHTS / prefix, 0))
        whole = ANI(symbols, aev, networks, neurochem.load_sae(WEIGHTS / self_energies), periodic_table_index=True)
        whole.requires_grad_(False)
        whole = whole.to(getattr(torch, dtype))
        if infer:
            whole = whole.to_infer_model()
        return torch.jit.script(whole) if script else whole

    def _tuned(self, system: Structure, which: dict[str, Any], script: bool = True) -> Any:
        """Return the model whose options suit a system best, or the default one."""
        if not self.best:
            return self.model(**which, neighbors="all_pairs", infer=False, script=False)
        large = system.cell is not None and len(system.numbers) >= 51
        neighbors = "cell_list" if large else "adaptive"
        return self.model(**which, neighbors=neighbors, infer=which["members"] > 1, script=script)

    def energy_forces(self, system: str, **which: Any) -> Callable[[], Any]:
        import torch

        found = structure(system)
        model, dtype = self._tuned(found, which), getattr(torch, which["dtype"])
        cell = None if found.cell is None else torch.tensor(found.cell, dtype=dtype)
        pbc = None if found.cell is None else torch.ones(3, dtype=torch.bool)
        return _torchani_forces(model, found.numbers[None], found.positions[None], dtype, cell, pbc)

    def ase_md(self, system: str, **which: Any) -> Callable[[], Any]:
        return md_step(self._atoms(system, which))

    def stress(self, system: str, **which: Any) -> Callable[[], Any]:
        return stress_call(self._atoms(system, which))

    def _atoms(self, system: str, which: dict[str, Any]) -> Any:
        found = structure(system)
        model = self._tuned(found, which, script=False)  # its calculator scripts the model itself
        return ase_atoms(found, model.ase(jit=self.best, stress_kind="fdotr" if self.best else "scaling"))

    def batch(self, data: str, molecules: int, **which: Any) -> Callable[[], Any]:
        """Best: all molecules as one, far apart, since merged networks need it; default: the batched call, scripted."""
        import torch

        numbers, positions = batch(data, molecules)
        neighbors = "cell_list" if self.best else "all_pairs"
        model = self.model(**which, neighbors=neighbors, infer=self.best or molecules == 1, script=True)
        if self.best:
            numbers, positions = flat(numbers, positions)
        return _torchani_forces(model, numbers, positions, getattr(torch, which["dtype"]))

    def hessian(self, system: str, **which: Any) -> Callable[[], Any]:
        found = structure(system)
        return self._hessian(found.numbers[None], found.positions[None], which)

    def hessian_batch(self, system: str, copies: int, **which: Any) -> Callable[[], Any]:
        """One molecule after the other: ``torchani.grad`` takes no batch."""
        numbers, positions = displaced(structure(system), copies)
        calls = [self._hessian(z[None], x[None], which) for z, x in zip(numbers, positions, strict=True)]
        return lambda: [call() for call in calls]

    def _hessian(self, numbers: np.ndarray, positions: np.ndarray, which: dict[str, Any]) -> Callable[[], Any]:
        import torch
        from torchani.grad import energies_forces_and_hessians

        model = self.model(**which, neighbors="all_pairs", infer=self.best, script=self.best)
        species, coordinates = torch.tensor(numbers), torch.tensor(positions, dtype=getattr(torch, which["dtype"]))
        if not self.best:
            return lambda: energies_forces_and_hessians(model, species, coordinates.detach())
        x = coordinates.requires_grad_()

        def call() -> Any:  # the function of torchani.grad does not take a scripted model
            energies = model((species, x)).energies
            gradient = torch.autograd.grad(energies.sum(), x, create_graph=True)[0].flatten()
            return torch.stack([torch.autograd.grad(g, x, retain_graph=True)[0].flatten() for g in gradient])

        return call

    def optimize(self, file: str, count: int, part: int, **which: Any) -> Callable[[], Any]:
        neighbors = "adaptive" if self.best else "all_pairs"
        infer = self.best and which["members"] > 1
        model = self.model(**which, neighbors=neighbors, infer=infer, script=False)
        calculator = model.ase(jit=self.best)  # which scripts the model itself
        who = "best" if self.best else "default"
        return conformers.Relaxation(conformers.by_ase(calculator), file, part, who)

    def training(self, data: str, forces: bool) -> Callable[[], Any]:
        import torch

        model = self._untrained()
        return training_step(torch.jit.script(model) if self.best else model, data, forces)

    def training_epoch(self, threads: int, **which: Any) -> dict[str, Any]:
        self.weights = Anipot.weights
        return epochs.torchani_epochs(self._untrained(), self.best, **which)

    def _untrained(self) -> Any:
        import torch
        from torchani.arch import Assembler

        torch.manual_seed(0)
        assembler = Assembler(periodic_table_index=True)
        assembler.set_symbols(("H", "C", "N", "O"))
        assembler.set_atomic_networks(ctor="ani1x")
        assembler.set_global_cutoff_fn("cosine")
        assembler.set_aev_computer(angular="ani1x", radial="ani1x")
        assembler.set_neighborlist("all_pairs")
        assembler.set_self_energies(SELF_ENERGIES)
        return assembler.assemble(1)

    def versions(self) -> dict[str, Any]:
        import torch
        import torchani
        import torchani.neurochem  # a version without it cannot be compared

        return {"python": platform.python_version(), "torch": torch.__version__, "torchani": torchani.__version__}


def _torchani_forces(
    model: Any, numbers: np.ndarray, positions: np.ndarray, dtype: Any, cell: Any = None, pbc: Any = None
) -> Callable[[], Any]:
    import torch

    species, x = torch.tensor(numbers), torch.tensor(positions, dtype=dtype).requires_grad_()

    def call() -> Any:
        energies = model((species, x), cell, pbc).energies
        return energies, -torch.autograd.grad(energies.sum(), x)[0]

    return call
