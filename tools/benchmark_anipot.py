"""What tools/benchmark.py times with anipot."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import benchmark_conformers as conformers
import benchmark_epochs as epochs
import benchmark_messages as messages
from benchmark_common import ase_atoms, md_step, stress_call, training_step
from benchmark_memory import peak_mib
from benchmark_operations import HIDDEN, INFO_FILES, MEMBERS, RADIAL, SELF_ENERGIES, WEIGHTS
from benchmark_systems import batch, displaced, padded, structure

#: Symmetry functions with as many radial and angular terms as the AEV of ANI-1x, and its cutoffs.
SYMMETRY = {"num_radial": RADIAL, "num_widths": 4, "zetas": (1.0, 2.0, 4.0, 8.0), "angular_cutoff": 3.5}
SYMMETRY_CUTOFF = 5.2
ELEMENTS = ("H", "C", "N", "O")


class Anipot:
    """Prepares tasks with anipot; ``weights`` says where those of the last model came from."""

    weights = ""

    @lru_cache(maxsize=4)  # noqa: B019  (one object lives as long as the process)
    def model(self, model: str, members: int, dtype: str) -> Any:
        import torch

        loaded, self.weights = self._ensemble(model)
        return (loaded if members == MEMBERS else loaded[0]).to(getattr(torch, dtype))

    def _ensemble(self, model: str) -> tuple[Any, str]:
        import anipot

        if (WEIGHTS / INFO_FILES[model]).is_file():
            from anipot.interfaces.neurochem import read_ensemble

            return read_ensemble(WEIGHTS / INFO_FILES[model]), "published, from the shared folder"
        try:
            return anipot.load(model), "published, from the zoo"
        except anipot.zoo.ZooError:
            return self._random(model, MEMBERS), "random numbers: the published weights are not to be had"

    def _random(self, model: str, members: int) -> Any:
        import torch

        import anipot

        torch.manual_seed(0)
        elements = HIDDEN[model]
        like = anipot.AEVComputer.like_1x if model == "ani1x" else anipot.AEVComputer.like_2x
        aev = like(len(elements))
        heads = [
            anipot.ANIModel(
                [anipot.AtomicNetwork((aev.num_features, *h, 1), anipot.CELU(0.1)) for h in elements.values()]
            )
            for _ in range(members)
        ]
        shifter = anipot.EnergyShifter([SELF_ENERGIES.get(symbol, 0.0) for symbol in elements])
        return anipot.Potential(list(elements), aev, anipot.Ensemble(heads) if members > 1 else heads[0], shifter)

    def energy_forces(self, system: str, **which: Any) -> Callable[[], Any]:
        import torch

        import anipot

        model = self.model(**which)
        numbers, positions, cell = structure(system)
        species, coordinates = torch.tensor(numbers)[None], torch.tensor(positions, dtype=model.dtype)[None]
        lattice = None if cell is None else torch.tensor(cell, dtype=model.dtype)
        pbc = None if cell is None else torch.ones(3, dtype=torch.bool)
        return lambda: anipot.single_point(model, species, coordinates, lattice, pbc)

    def ase_md(self, system: str, **which: Any) -> Callable[[], Any]:
        return md_step(ase_atoms(structure(system), self.model(**which).ase()))

    def stress(self, system: str, **which: Any) -> Callable[[], Any]:
        return stress_call(ase_atoms(structure(system), self.model(**which).ase()))

    def batch(self, data: str, molecules: int, **which: Any) -> Callable[[], Any]:
        import torch

        import anipot

        model = self.model(**which)
        numbers, positions = batch(data, molecules)
        species, coordinates = torch.tensor(numbers), torch.tensor(positions, dtype=model.dtype)
        return lambda: anipot.single_point(model, species, coordinates)

    def hessian(self, system: str, **which: Any) -> Callable[[], Any]:
        import torch

        import anipot

        model = self.model(**which)
        numbers, positions, _ = structure(system)
        species, coordinates = torch.tensor(numbers)[None], torch.tensor(positions, dtype=model.dtype)[None]
        return lambda: anipot.single_point(model, species, coordinates, hessian=True)

    def optimize(self, file: str, count: int, part: int, **which: Any) -> Callable[[], Any]:
        return conformers.Relaxation(conformers.by_anipot(self.model(**which)), file, count, "anipot")

    def optimize_ase_steps(self, file: str, count: int, part: int, **which: Any) -> Callable[[], Any]:
        relax = conformers.by_anipot(self.model(**which), precondition=False)
        return conformers.Relaxation(relax, file, count, "ase_steps")

    def optimize_one_by_one(self, file: str, count: int, part: int, **which: Any) -> Callable[[], Any]:
        return conformers.Relaxation(conformers.by_ase(self.model(**which).ase()), file, count, "one_by_one")

    def minima(self, file: str, ends: dict[str, str], **which: Any) -> dict[str, Any]:
        return conformers.minima(self.model(**which | {"dtype": "float64"}), file, ends)

    def hessian_batch(self, system: str, copies: int, **which: Any) -> Callable[[], Any]:
        import torch

        import anipot

        model = self.model(**which)
        numbers, positions = displaced(structure(system), copies)
        species, coordinates = torch.tensor(numbers), torch.tensor(positions, dtype=model.dtype)
        return lambda: anipot.single_point(model, species, coordinates, hessian=True)

    def training(self, data: str, forces: bool) -> Callable[[], Any]:
        self.weights = "random numbers, as they should be"
        return training_step(self._random("ani1x", 1), data, forces)

    def training_epoch(self, threads: int, **which: Any) -> dict[str, Any]:
        self.weights = "random numbers, as they should be"
        return epochs.anipot_epochs(threads=threads, peak=peak_mib, **which)

    def network(self, kind: str, interactions: int, functions: int, dtype: str) -> Any:
        """Return a potential of SchNet or PaiNN with random weights."""
        import torch

        import anipot

        torch.manual_seed(0)
        self.weights = messages.SchNetPack.weights
        basis = anipot.GaussianBasis.equidistant(functions, messages.CUTOFF)
        body, activation = (anipot.PaiNN, torch.nn.SiLU()) if kind == "painn" else (anipot.SchNet, None)
        features = body(len(ELEMENTS), messages.FEATURES, interactions, messages.CUTOFF, basis)
        head = anipot.Atomwise.pyramid(messages.FEATURES, activation)
        shifter = anipot.EnergyShifter([SELF_ENERGIES[symbol] for symbol in ELEMENTS])
        return anipot.Potential(ELEMENTS, features, head, shifter).to(getattr(torch, dtype))

    def message_passing(
        self, kind: str, interactions: int, functions: int, dtype: str, **which: Any
    ) -> Callable[[], Any]:
        import torch

        import anipot

        model = self.network(kind, interactions, functions, dtype).eval().requires_grad_(False)
        molecules = messages.molecules_of(**which)
        numbers, positions = padded(molecules)
        species, coordinates = torch.tensor(numbers), torch.tensor(positions, dtype=model.dtype)
        cell = molecules[0].cell
        if cell is None:
            return lambda: anipot.single_point(model, species, coordinates)
        lattice, pbc = torch.tensor(cell, dtype=model.dtype), torch.ones(3, dtype=torch.bool)
        return lambda: anipot.single_point(model, species, coordinates, lattice, pbc)

    def message_passing_training(self, data: str, forces: bool, **which: Any) -> Callable[[], Any]:
        import torch

        model = self.network(**which).train()

        def predict(batch: tuple[Any, Any]) -> tuple[Any, Any]:
            species, coordinates = batch[0], batch[1].clone().requires_grad_(forces)
            energies = model((species, coordinates)).energies
            if not forces:
                return energies, None
            return energies, -torch.autograd.grad(energies.sum(), coordinates, create_graph=True)[0]

        batches = []
        for molecules in messages.training_batches(data):
            numbers, positions = padded(molecules)
            inputs = torch.tensor(numbers), torch.tensor(positions, dtype=model.dtype)
            real = numbers > 0
            batches.append((inputs, real / real.sum(1, keepdims=True)))
        return messages.training_step(model.parameters(), predict, batches, model.dtype, forces)

    def symmetry_functions(self, system: str, kind: str, dtype: str) -> Callable[[], Any]:
        """Symmetry functions, or the AEV of as many, before one network for each element."""
        import torch

        import anipot

        torch.manual_seed(0)
        self.weights = messages.SchNetPack.weights
        if kind == "aev":
            features = anipot.AEVComputer.like_1x(len(ELEMENTS))
        elif kind == "acsf":
            features = anipot.ACSF.shifted(len(ELEMENTS), SYMMETRY_CUTOFF, **SYMMETRY)
        else:
            features = anipot.wACSF.shifted(ELEMENTS, SYMMETRY_CUTOFF, **SYMMETRY)
        hidden = HIDDEN["ani1x"].values()
        networks = [anipot.AtomicNetwork((features.num_features, *h, 1), anipot.CELU(0.1)) for h in hidden]
        shifter = anipot.EnergyShifter([SELF_ENERGIES[symbol] for symbol in ELEMENTS])
        model = anipot.Potential(ELEMENTS, features, anipot.ANIModel(networks), shifter).to(getattr(torch, dtype))
        numbers, positions, cell = structure(system)
        species, coordinates = torch.tensor(numbers)[None], torch.tensor(positions, dtype=model.dtype)[None]
        lattice = None if cell is None else torch.tensor(cell, dtype=model.dtype)
        pbc = None if cell is None else torch.ones(3, dtype=torch.bool)
        return lambda: anipot.single_point(model, species, coordinates, lattice, pbc)

    def versions(self) -> dict[str, Any]:
        import torch

        import anipot

        backends = getattr(anipot, "backends", None)
        found = {"python": platform.python_version(), "torch": torch.__version__, "anipot": anipot.__version__}
        return found | {"backends": backends() if callable(backends) else backends}
