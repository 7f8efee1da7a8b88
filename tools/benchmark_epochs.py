"""Epochs of training for tools/benchmark.py: those of ``anipot train``, and those of TorchANI's training loop.

anipot runs the ANI recipe of examples/configs by its own way: a file of its store, batches drawn and shuffled anew in
every epoch, Lightning, logs and callbacks. Left out are the validation at the end of an epoch, which TorchANI's
examples do in another way, and pictures after the last. TorchANI has its batches in memory, padded, and takes them in
random order: nothing but steps is timed. Epochs in which features are computed and kept, memory is new, or scripted
models are compiled do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmark_systems import data_set

RECIPE = Path(__file__).resolve().parents[1] / "examples" / "configs" / "ani.yaml"
#: Conformers for validation, which a training must have.
VALIDATION = 16
#: Weight of the forces in the loss.
ALPHA = 0.1
#: Steps in which a scripted model is compiled, again and again.
WARM_STEPS = 4
#: Epochs of anipot that do not count: in the first, features are computed; in the second, memory is touched first.
WARM_EPOCHS = 2
#: Passes over the batches alone, of which the median counts.
PASSES = 5


def conformers(data: str, number: int) -> list[dict[str, np.ndarray]]:
    """Return Z, X, E and F of some conformers chosen at random, those of each number of atoms together."""
    arrays = data_set(data)
    rows = np.random.default_rng(0).permutation(len(arrays["Z"]))[:number]
    sizes, found = (arrays["Z"][rows] > 0).sum(1), []
    for size in np.unique(sizes):
        these = rows[sizes == size]
        found.append({"Z": arrays["Z"][these, :size], "E": arrays["E"][these]})
        found[-1] |= {key: arrays[key][these, :size] for key in "XF"}
    return found


def finish(device: str) -> None:
    """Wait until a device has done what it was told."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def enough(taken: Sequence[float], budget: float, at_least: int, at_most: int) -> bool:
    """Whether epochs, in seconds, are as many as were asked for."""
    return len(taken) >= at_most or (len(taken) >= at_least and sum(taken) >= budget)


def answer(taken: Sequence[float], **more: float) -> dict[str, Any]:
    """Return epochs, in seconds, as the worker tells them."""
    return {"samples": [1e3 * seconds for seconds in taken], **more}


# ---------------------------------------------------------------------------------------------------------------------
# anipot


def anipot_epochs(
    data: str,
    number: int,
    batch: int,
    forces: bool,
    kept: bool,
    threads: int,
    peak: Callable[[], float],
    device: str = "cpu",
    **until: Any,
) -> dict[str, Any]:
    """Time epochs of ``anipot train``, and of its batches alone.

    Parameters
    ----------
    data, number, batch
        Data set, conformers of an epoch and of a batch.
    forces
        Whether forces are trained beside energies.
    kept
        Whether AEVs are kept from the first epoch on.
    peak
        Returns the memory that the process had at most, MiB.
    device
        Where to train.
    until
        Of ``enough``.
    """
    import torch
    from lightning.pytorch import Callback

    from anipot.training.folder import RunFolder
    from anipot.training.quiet import quietly
    from anipot.training.reading import read_settings
    from anipot.training.run import Run

    class Clock(Callback):
        """Times each epoch, and stops when there are enough."""

        def __init__(self) -> None:
            self.taken: list[float] = []
            self._start = 0.0

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            finish(device)
            self._start = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            finish(device)
            self.taken.append(time.perf_counter() - self._start)
            trainer.should_stop = enough(self.taken[WARM_EPOCHS:], **until)

    with TemporaryDirectory() as folder, quietly():
        file = Path(folder) / "conformers.h5"
        write(data, number, file)
        outputs = f"[{{property: energies, scaling: sqrt_atoms}}{f', {{property: forces, weight: {ALPHA}}}' * forces}]"
        changes = {
            "folder": f"{folder}/run",
            "data.path": file,
            "data.split": f"{{train: {number}, validation: {VALIDATION}, test: 0}}",
            "data.batch_size": batch,
            "outputs": outputs,
            "cache": 2.0 if kept else 0.0,
            "trainer": f"{{max_epochs: 1000, limit_val_batches: 0, accelerator: {torch.device(device).type}}}",
        }
        settings = read_settings(RECIPE, [f"{key}={value}" for key, value in changes.items()])
        run, clock = Run(settings, RunFolder(settings.folder, settings)), Clock()
        torch.set_num_threads(threads)
        run.trainer.callbacks.append(clock)
        run.trainer.fit(run.task, run.data)
        memory, loader = peak(), run.data.train_dataloader()
        alone = []
        for _ in range(PASSES + 1):
            start = time.perf_counter()
            for _ in loader:
                pass
            alone.append(time.perf_counter() - start)
    return answer(clock.taken[WARM_EPOCHS:], peak_mib=memory, loader_ms=1e3 * float(np.median(alone[1:])))


def write(data: str, number: int, file: Path) -> None:
    """Write conformers for training and a few for validation to a file of anipot's layout."""
    from anipot.data.memory import MemorySource, block_of_arrays
    from anipot.data.store import copy

    groups = conformers(data, number + VALIDATION)
    blocks = [block_of_arrays(one["Z"], one["X"], energies=one["E"], forces=one["F"]) for one in groups]
    copy(MemorySource(blocks), file, progress=False)


# ---------------------------------------------------------------------------------------------------------------------
# TorchANI


def torchani_epochs(
    model: Any,
    best: bool,
    data: str,
    number: int,
    batch: int,
    forces: bool,
    kept: bool,
    device: str = "cpu",
    **until: Any,
) -> dict[str, Any]:
    """Time epochs of TorchANI.

    Parameters
    ----------
    model
        An untrained model, which takes atomic numbers.
    best
        Whether to do what makes it fastest: to script the model, to put molecules of similar size into a batch, to use
        torch's fused optimizer and, if ``kept``, to give its networks AEVs that were computed before. Otherwise what
        its examples do, with batches of molecules of any size.
    device
        Where to train; all batches are there already.
    """
    import torch

    model = model.to(device)
    batches = [
        tuple(part.to(device) for part in tensors(one)) for one in padded_batches(data, number, batch, sort=best)
    ]
    if kept and best:
        step_of = energies_from_kept(model, batches)
    else:
        scripted = torch.jit.script(model) if best else model
        step_of = {id(one): lambda x, z=one[0]: scripted((z, x)).energies for one in batches}
    options = {"fused": True} if best else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-6, **options)
    rng, taken, warm = np.random.default_rng(0), [], -(-WARM_STEPS // len(batches))
    while not enough(taken[warm:], **until):
        start = time.perf_counter()
        for i in rng.permutation(len(batches)):
            torchani_step(optimizer, batches[i], step_of[id(batches[i])], forces)
        finish(device)
        taken.append(time.perf_counter() - start)
    return answer(taken[warm:])


def padded_batches(data: str, number: int, batch: int, sort: bool) -> list[dict[str, np.ndarray]]:
    """Return batches as wide as the largest molecule in each: of any molecules, or of such as are of similar size."""
    groups = conformers(data, number)
    places = [(g, i) for g, group in enumerate(groups) for i in range(len(group["Z"]))]  # by size
    order = np.arange(len(places)) if sort else np.random.default_rng(1).permutation(len(places))
    found = []
    for start in range(0, len(places), batch):
        chosen = [places[k] for k in order[start : start + batch]]
        width = max(groups[g]["Z"].shape[1] for g, _ in chosen)
        one = {"Z": np.full((len(chosen), width), -1), "E": np.array([groups[g]["E"][i] for g, i in chosen])}
        one |= {key: np.zeros((len(chosen), width, 3)) for key in "XF"}
        for row, (g, i) in enumerate(chosen):
            for key in "ZXF":
                one[key][row, : groups[g]["Z"].shape[1]] = groups[g][key][i]
        found.append(one)
    return found


def tensors(batch: dict[str, np.ndarray]) -> tuple[Any, ...]:
    """Return species, coordinates, energies, forces and square roots of the numbers of atoms, as its examples do."""
    import torch

    species = torch.from_numpy(batch["Z"])
    coordinates, energies, forces = (torch.from_numpy(batch[key]).float() for key in "XEF")
    return species, coordinates, energies, forces, (species >= 0).sum(1).float()


def energies_from_kept(model: Any, batches: Sequence[tuple[Any, ...]]) -> dict[int, Callable[[Any], Any]]:
    """Compute all AEVs, and return what gives the energies of each batch from them."""
    import torch

    potential = model.potentials["nnp"]
    networks, found = torch.jit.script(potential.neural_networks), {}
    for batch in batches:
        index = model.species_converter(batch[0])
        with torch.no_grad():
            aevs, own = potential.aev_computer(index, batch[1]), model.energy_shifter(index)
        found[id(batch)] = lambda x, index=index, aevs=aevs, own=own: networks(index, aevs) + own
    return found


def torchani_step(optimizer: Any, batch: tuple[Any, ...], energies_of: Callable[[Any], Any], forces: bool) -> None:
    """Take a step as TorchANI's examples do."""
    import torch

    _, coordinates, energies, labels, num_atoms = batch
    x = coordinates.detach().requires_grad_(forces)
    predicted = energies_of(x)
    loss = ((predicted - energies) ** 2 / num_atoms.sqrt()).mean()
    if forces:
        found = -torch.autograd.grad(predicted.sum(), x, create_graph=True)[0]
        loss = loss + ALPHA * (((found - labels) ** 2).sum((1, 2)) / num_atoms).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
