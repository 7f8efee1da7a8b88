"""One process of tools/benchmark.py: prepares a task with anipot or a peer, times it, and answers in JSON lines.

    python tools/benchmark_worker.py anipot|best|default|eager|scripted|pyg THREADS

``best`` is the fastest way that TorchANI offers on a CPU (scripted, networks merged for inference, its adaptive or
cell list), ``default`` what a user gets without options (eager, all pairs); ``eager`` and ``scripted`` are SchNetPack
and ``pyg`` PyTorch Geometric, both in benchmark_messages.py. Each line read is {"task", "args", "sampling"}; each line
written has "samples" in ms and "peak_mib", or "error". Also holds the count of operations.
"""

import time

_START = time.perf_counter()
import numpy as np  # noqa: E402

#: Both libraries import numpy; its time belongs to theirs although it is imported here.
NUMPY_SECONDS = time.perf_counter() - _START

import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import lru_cache  # noqa: E402
from itertools import pairwise  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import benchmark_conformers as conformers  # noqa: E402
import benchmark_epochs as epochs  # noqa: E402
import benchmark_messages as messages  # noqa: E402
from benchmark_systems import SHARED, Structure, batch, data_set, displaced, flat, padded, structure  # noqa: E402

WEIGHTS = SHARED / "weights" / "ani-model-zoo" / "resources"
INFO_FILES = {"ani1x": "ani-1x_8x.info", "ani2x": "ani-2x_8x.info"}
MEMBERS = 8
#: Hidden layers of the published networks.
HIDDEN = {
    "ani1x": {"H": (160, 128, 96), "C": (144, 112, 96), "N": (128, 112, 96), "O": (128, 112, 96)},
    "ani2x": {
        "H": (256, 192, 160),
        "C": (224, 192, 160),
        "N": (192, 160, 128),
        "O": (192, 160, 128),
        "S": (160, 128, 96),
        "F": (160, 128, 96),
        "Cl": (160, 128, 96),
    },
}
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16, "Cl": 17}
CUTOFFS = {"ani1x": (5.2, 3.5), "ani2x": (5.1, 3.5)}
#: Terms of one element, and of one pair of elements; the same for both models.
RADIAL, ANGULAR = 16, 32
#: Operations of one pair and of one triple, value and gradient; ANI-2x has twice as many radial shells in a triple.
PAIR_FLOP = 450
TRIPLE_FLOP = {"ani1x": 400, "ani2x": 500}
SELF_ENERGIES = {"H": -0.600953, "C": -38.083163, "N": -54.707757, "O": -75.194466}
TRAINING_BATCH, TRAINING_STEPS = 256, 8
#: Symmetry functions with as many radial and angular terms as the AEV of ANI-1x, and its cutoffs.
SYMMETRY = {"num_radial": RADIAL, "num_widths": 4, "zetas": (1.0, 2.0, 4.0, 8.0), "angular_cutoff": 3.5}
SYMMETRY_CUTOFF = 5.2
ELEMENTS = ("H", "C", "N", "O")


# ---------------------------------------------------------------------------------------------------------------------
# Operations


def network_flop(model: str, numbers: np.ndarray, members: int) -> int:
    """Return the operations of the networks, energy and gradient with respect to the features.

    Four for each weight: a product and a sum, forward and backward. Features of elements that do not occur are 0, and
    the weights behind them do not count.
    """
    numbers = numbers[numbers > 0]
    present = len(np.unique(numbers))
    columns = RADIAL * present + ANGULAR * present * (present + 1) // 2
    total = 0
    for symbol, hidden in HIDDEN[model].items():
        sizes = (columns, *hidden, 1)
        weights = sum(a * b for a, b in pairwise(sizes))
        total += int((numbers == NUMBERS[symbol]).sum()) * weights
    return 4 * members * total


def operations(
    model: str, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray | None, members: int
) -> dict[str, int]:
    """Return pairs, triples and operations of a batch, (B, A) and (B, A, 3), that all stand in the same cell."""
    import torch

    from anipot.neighbors import displacements, find_pairs

    radial_cutoff, angular_cutoff = CUTOFFS[model]
    species, coordinates = torch.tensor(numbers), torch.tensor(positions)
    lattice = None if cell is None else torch.tensor(cell)[None]
    pbc = None if cell is None else torch.ones(1, 3, dtype=torch.bool)
    found = find_pairs(species, coordinates, lattice, pbc, radial_cutoff)
    near = displacements(found, coordinates, lattice, pbc).norm(dim=-1) < angular_cutoff
    counts = torch.bincount(found.center[near])
    pairs, triples = len(found.center) // 2, int((counts * (counts - 1) // 2).sum())
    return {
        "pairs": pairs,
        "triples": triples,
        "network_flop": network_flop(model, numbers, members),
        "aev_flop": PAIR_FLOP * pairs + TRIPLE_FLOP[model] * triples,
    }


def count(task: str, args: dict[str, Any]) -> dict[str, int]:
    """Return the operations of energies and forces of a task."""
    if task == "message_passing":
        return messages.operations(**args)
    if task == "batch":
        numbers, positions = batch(args["data"], args["molecules"])
        return operations(args["model"], numbers, positions, None, args["members"])
    numbers, positions, cell = structure(args["system"])
    return operations(args["model"], numbers[None], positions[None], cell, args["members"])


def product_rate(dtype: str, budget: float) -> float:
    """Return the best rate of a matrix product of the shape that the networks have, GFLOP/s."""
    import torch

    a, b = (torch.rand(rows, 256, dtype=getattr(torch, dtype)) for rows in (768, 256))
    out = a @ b
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < budget:
        before = time.perf_counter()
        for _ in range(5):
            torch.mm(a, b, out=out)
        best = min(best, (time.perf_counter() - before) / 5)
    return 2 * 768 * 256 * 256 / best / 1e9


# ---------------------------------------------------------------------------------------------------------------------
# What both libraries do alike


def ase_atoms(system: Structure, calculator: Any) -> Any:
    from ase import Atoms

    atoms = Atoms(system.numbers, system.positions, cell=system.cell, pbc=system.cell is not None)
    atoms.calc = calculator
    return atoms


def md_step(atoms: Any) -> Callable[[], Any]:
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    MaxwellBoltzmannDistribution(atoms, temperature_K=100, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    return lambda: dynamics.run(1)


def stress_call(atoms: Any) -> Callable[[], Any]:
    def call() -> None:
        atoms.calc.reset()
        atoms.calc.calculate(atoms, ["energy", "forces", "stress"])

    return call


def training_step(model: Any, data: str, with_forces: bool) -> Callable[[], Any]:
    """Return a function that takes one AdamW step, on eight batches in turn."""
    import torch

    arrays = data_set(data)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(arrays["Z"]))[: TRAINING_BATCH * TRAINING_STEPS])
    species, *rest = (torch.from_numpy(arrays[key])[order] for key in "ZXEF")
    coordinates, energies, forces = (tensor.float() for tensor in rest)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-6)
    taken = 0

    def step() -> None:
        nonlocal taken
        rows = slice(taken % TRAINING_STEPS * TRAINING_BATCH, (taken % TRAINING_STEPS + 1) * TRAINING_BATCH)
        taken += 1
        num_atoms = (species[rows] > 0).sum(1)
        width = int(num_atoms.max())
        z, x = species[rows, :width].contiguous(), coordinates[rows, :width].contiguous()
        optimizer.zero_grad()
        if with_forces:
            x.requires_grad_()
        predicted = model((z, x)).energies
        loss = ((predicted - energies[rows]) ** 2 / num_atoms.sqrt()).mean()
        if with_forces:
            (gradient,) = torch.autograd.grad(predicted.sum(), x, create_graph=True)
            errors = (-gradient - forces[rows, :width]) ** 2
            loss = loss + 0.1 * (errors.sum((1, 2)) / num_atoms).mean()
        loss.backward()
        optimizer.step()

    return step


# ---------------------------------------------------------------------------------------------------------------------
# anipot


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


# ---------------------------------------------------------------------------------------------------------------------
# TorchANI


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


# ---------------------------------------------------------------------------------------------------------------------
# The process


def sample(
    call: Callable[[], Any],
    budget: float,
    warm: int,
    warm_least: int = 3,
    at_least: int = 3,
    at_most: int = 200,
    enough: float = 4.0,
) -> list[float]:
    """Return times in ms: at least three unless they would take several budgets, at most 200."""
    start = time.perf_counter()
    for done in range(warm):
        if done >= warm_least and time.perf_counter() - start > max(2 * budget, 1.0):
            break  # scripted models are compiled in the first two or three calls, which are never samples
        call()
    samples: list[float] = []
    start = before = time.perf_counter()
    while len(samples) < at_most:
        call()
        now = time.perf_counter()
        samples.append((now - before) * 1e3)
        before = now
        if now - start > (budget if len(samples) >= at_least else enough * budget):
            break
    return samples


def startup(library: Anipot | TorchANI, until: str, system: str, **which: Any) -> list[float]:
    """Return the time in ms until the library is imported, or until a fresh process has its first energy and forces."""
    start = time.perf_counter()
    import torch  # noqa: F401

    if isinstance(library, Anipot):
        import anipot  # noqa: F401
    else:
        import torchani  # noqa: F401
    taken = NUMPY_SECONDS + time.perf_counter() - start
    if until == "energy":
        structure(system)  # imports ASE, which is no part of either library's way to an energy
        start = time.perf_counter()
        library.energy_forces(system, **which)()
        taken += time.perf_counter() - start
    return [taken * 1e3]


def peak_mib() -> float:
    """Return the largest memory that this process has had, MiB."""
    try:  # ru_maxrss starts with what the parent had
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def limit_memory(gib: float) -> None:
    """Let this process fail, rather than the machine, where it asks for more."""
    wanted = int(gib * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard in (resource.RLIM_INFINITY, -1) or hard > wanted:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


LIBRARIES: dict[str, Callable[[], Any]] = {
    "anipot": Anipot,
    "best": lambda: TorchANI(True),
    "default": lambda: TorchANI(False),
    "eager": lambda: messages.SchNetPack(False),
    "scripted": lambda: messages.SchNetPack(True),
    "pyg": messages.PyG,
}


class Worker:
    def __init__(self, configuration: str, threads: int) -> None:
        self.library = LIBRARIES[configuration]()
        self.threads = threads
        self.prepared: tuple[str, Callable[[], Any]] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        task, args = request["task"], request["args"]
        if task == "startup":
            return {"samples": startup(self.library, **args), "peak_mib": peak_mib()}
        import torch

        torch.set_num_threads(self.threads)
        if task == "versions":
            return self.library.versions()
        if task == "rate":
            return {"gflops": product_rate(**args)}
        if task == "training_epoch":
            found = self.library.training_epoch(self.threads, **args, **request["sampling"])
            return {"peak_mib": peak_mib(), "weights": self.library.weights} | found
        if task == "count":
            return count(args["task"], args["args"])
        if task == "minima":
            return self.library.minima(**args)
        return self._timed(task, args, request["sampling"])

    def _timed(self, task: str, args: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
        if gib := sampling.pop("limit_gib", None):
            limit_memory(gib)
        key = json.dumps([task, args])
        warm = 1
        if self.prepared is None or self.prepared[0] != key:
            self.prepared = None  # its memory goes before that of the next task comes
            self.prepared = key, getattr(self.library, task)(**args)
            warm = 6  # scripted models are compiled during the first calls
        warm = sampling.pop("warm", warm)
        if getattr(self.library, "scripted", False):
            sampling.pop("warm_least", None)
        call = self.prepared[1]
        samples = [value / getattr(call, "items", 1) for value in sample(call, warm=warm, **sampling)]
        told = {"samples": samples, "peak_mib": peak_mib(), "weights": self.library.weights}
        return told | {"told": getattr(call, "told", {})}


def main() -> None:
    configuration, threads = sys.argv[1], int(sys.argv[2])
    warnings.filterwarnings("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers
    worker = Worker(configuration, threads)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # told to the parent, which goes on with the next measurement
            worker.prepared = None
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
