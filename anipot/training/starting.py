"""Where a training starts: self energies, and networks whose inputs and outputs are of size 1 for the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from anipot.data.blocks import Block
from anipot.elements import symbol
from anipot.head import Atomwise
from anipot.potential import Potential
from anipot.training.layers import Scales, layers_of, networks_of
from anipot.training.outputs import ModelOutput
from anipot.training.predict import predict

if TYPE_CHECKING:
    from anipot.data import AtomsDataset
    from anipot.data.statistics import Spread, Statistics

#: Structures that are looked at for what features are like, and for how a model is wrong on new data.
SAMPLE = 1000


def set_self_energies(
    potential: Potential, choice: str | Mapping[str, float] | None, dataset: AtomsDataset, statistics: Statistics
) -> str:
    """Set the self energies of a potential, and return in words where they are from.

    Parameters
    ----------
    potential
        Whose ``shifter`` is changed.
    choice
        ``"fit"`` (default), ``"robust"``, ``"data"``, ``"keep"``, ``"shift"``, or Hartree by symbol.
    dataset, statistics
        The training data, and what is known of them.

    Raises
    ------
    ValueError
        If there are none, or an element has none.
    """
    choice = "fit" if choice is None else choice
    if choice == "keep":
        return "those of the model it started from"
    if choice == "shift":
        _add(potential, shift_of(potential, dataset)[0])
        return "those of the model it started from, moved by least squares of its errors"
    if isinstance(choice, Mapping):
        values, origin = dict(choice), "given"
    elif choice == "data":
        found = dataset.source.metadata.get("self_energies")
        if not isinstance(found, Mapping):
            raise ValueError(
                "model.self_energies is data, but the file tells none; take fit, or give numbers by symbol"
            )
        values, origin = {str(key): float(value) for key, value in found.items()}, "those that the data set tells"
    elif choice in ("fit", "robust"):
        values = statistics.self_energies if choice == "fit" else statistics.robust_self_energies
        origin = "least squares over the training data" + (", by the loss of Huber" if choice == "robust" else "")
        if not values:
            return "none: the training data have no energies"
        values = dict.fromkeys(potential.elements, 0.0) | values  # of elements that do not occur
    else:
        raise ValueError(f"model.self_energies must be fit, robust, data, keep, shift or numbers, got {choice!r}")
    missing = [element for element in potential.elements if element not in values]
    if missing:
        raise ValueError(f"there is no self energy of {', '.join(missing)}; there are {', '.join(values)}")
    new = torch.tensor([values[element] for element in potential.elements], dtype=torch.float64)
    potential.shifter.self_energies.copy_(new)
    return origin


def sample(dataset: AtomsDataset, count: int = SAMPLE) -> list[Block]:
    """Return some structures of a data set, always the same ones, in blocks of equally many atoms."""
    picked = np.random.default_rng(0).choice(len(dataset), min(count, len(dataset)), replace=False)
    return list(dataset.subset(np.sort(picked)).blocks())


def shift_of(potential: Potential, dataset: AtomsDataset) -> tuple[Tensor, Tensor]:
    """Return by what self energies (E,) a potential fits energies best, by least squares over some structures.

    Also the number of atoms (E,) of each element in these.
    """
    counts, wrong = [], []
    for block in sample(dataset):
        found = predict(potential, _Batch(block, potential), ("energies",), graph=False)["energies"]
        label = torch.from_numpy(block.properties["energies"])
        index = potential.converter.convert(torch.from_numpy(block.species))
        good = torch.isfinite(label)
        counts.append(nn.functional.one_hot(index, len(potential.elements)).sum(1)[good])
        wrong.append((label - found.cpu())[good])
    each = torch.cat(counts).double()
    solution = torch.linalg.lstsq(each, torch.cat(wrong)[:, None], driver="gelsd").solution
    return solution[:, 0], each.sum(0)


def _add(potential: Potential, energies: Tensor) -> None:
    potential.shifter.self_energies[: len(energies)] += energies.to(potential.device)


class _Batch:
    """Some structures of one size as ``predict`` takes them."""

    def __init__(self, block: Block, potential: Potential) -> None:
        self.species = torch.from_numpy(block.species).to(potential.device)
        self.coordinates = torch.from_numpy(block.coordinates).to(potential.device, potential.dtype)
        periodic = block.cell is not None and block.pbc is not None and bool(block.pbc.any())
        self.cell = torch.from_numpy(block.cell).to(self.coordinates) if periodic else None
        self.pbc = torch.from_numpy(block.pbc).to(potential.device) if periodic else None
        self.properties: dict[str, Tensor] = {}


def standardise_inputs(potential: Potential, dataset: AtomsDataset, new: tuple[str, ...] = ("",)) -> Scales:
    """Let networks start as if their inputs had mean 0 and a spread of about 1, and return how their steps must follow.

    Nothing is put before the networks: what is done to the inputs is done to the weights of the first layers.

    Parameters
    ----------
    potential, dataset
        What is trained, and from which data.
    new
        How the names of the networks begin that have random weights; others stay as they are.
    """
    watched = {name: layers_of(network)[0] for name, network in networks_of(potential) if name.startswith(new)}
    moments = {layer: _Moments() for layer in watched.values()}
    hooks = [layer.register_forward_pre_hook(_collecting(moments[layer])) for layer in watched.values()]
    names = ("energies", *potential.property_heads)
    try:
        for block in sample(dataset):
            for start in range(0, len(block), 100):
                some = block.take(np.arange(start, min(start + 100, len(block))))
                predict(potential, _Batch(some, potential), names, graph=False)
    finally:
        for hook in hooks:
            hook.remove()
    scales = Scales()
    weights = {id(parameter): name for name, parameter in potential.named_parameters()}
    for layer, seen in moments.items():
        if seen.count > 1:
            factor, center = seen.factor_and_center()
            with torch.no_grad():
                layer.weight.mul_(factor.to(layer.weight))
                if layer.bias is not None:
                    layer.bias.sub_(layer.weight @ center.to(layer.weight))
            scales.inputs[weights[id(layer.weight)]] = torch.stack([factor, center])
    return scales


class _Moments:
    """Number, sums and squares of features."""

    def __init__(self) -> None:
        self.count: int = 0
        self.sums: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def add(self, features: Tensor) -> None:
        values = features.detach().double().cpu()
        self.count += len(values)
        self.sums = self.sums + values.sum(0)
        self.squares = self.squares + (values * values).sum(0)

    def factor_and_center(self) -> tuple[Tensor, Tensor]:
        mean: Tensor = self.sums / self.count
        variance: Tensor = self.squares / self.count - mean * mean
        spread = variance.clamp(min=0).sqrt()
        most = float(spread.max())
        if most == 0.0:
            return torch.ones_like(mean), torch.zeros_like(mean)
        # What hardly varies is mostly noise; what never did may do so later, as others do.
        factor = torch.where(spread > 1e-6 * most, 1 / (spread + 0.1 * most), 1 / most)
        return factor, mean


def _collecting(moments: _Moments) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.add(inputs[0])

    return hook


def scale_outputs(
    potential: Potential,
    outputs: Sequence[ModelOutput],
    statistics: Statistics,
    energy: float | None,
    new: tuple[str, ...],
    scales: Scales,
) -> None:
    """Let the networks return values of the size of the labels, and their last layers take steps of that size.

    Parameters
    ----------
    energy
        Size of the energies of atoms, Hartree; from the labels by default.
    new
        How the names of the networks begin that have random weights; of others steps alone are changed.
    scales
        Where the sizes are added.
    """
    size = energy_scale(outputs, statistics) if energy is None else energy
    if not 0 < size < math.inf:
        raise ValueError(f"model.output_scale must be positive, got {size}")
    _scale(potential, "head", 0.0, size, new, scales)
    for output in outputs:
        spread = statistics.quantities.get(output.predicted)
        if output.predicted in potential.property_heads and spread is not None and spread.structures:
            head = potential.property_heads[output.predicted]
            mean, std = _label(head, output, spread, statistics)
            _scale(potential, f"property_heads.{output.predicted}", mean, std, new, scales)


def energy_scale(outputs: Sequence[ModelOutput], statistics: Statistics) -> float:
    """Return the size of the energies of atoms: that of forces times 1 Å, or what self energies leave unexplained."""
    forces = statistics.quantities.get("forces")
    if any(o.predicted == "forces" and o.weight > 0 for o in outputs) and forces and 0 < forces.rms < math.inf:
        return float(forces.rms)
    if statistics.energy_std and statistics.structures:
        return float(statistics.energy_std) / math.sqrt(max(1.0, statistics.atoms / statistics.structures))
    return 1.0


def _label(head: nn.Module, output: ModelOutput, spread: Spread, statistics: Statistics) -> tuple[float, float]:
    """Return mean and size of what the networks of a property head return."""
    if spread.std <= 0:
        return 0.0, 1.0
    if output.of.per_atom:
        return spread.mean, spread.std
    if isinstance(head, Atomwise):
        if not head.extensive:
            return spread.mean, spread.std
        atoms = statistics.atoms / max(1, statistics.structures)
        return spread.mean / atoms, spread.std / math.sqrt(atoms)
    return 0.0, 1.0  # of dipoles and the like networks return something else


def _scale(potential: Potential, where: str, mean: float, size: float, new: tuple[str, ...], scales: Scales) -> None:
    for name, network in networks_of(potential):
        if not name.startswith(f"{where}."):
            continue
        last = layers_of(network)[-1]
        if name.startswith(new):
            with torch.no_grad():
                last.weight.mul_(size)
                if last.bias is not None:
                    last.bias.mul_(size).add_(mean)
        if size != 1.0:
            names = {id(parameter): key for key, parameter in potential.named_parameters()}
            scales.outputs |= {names[id(p)]: size for p in (last.weight, last.bias) if p is not None}


def silence_energies(potential: Potential) -> None:
    """Let a potential that learns other properties alone return energies of zero, not those of random networks."""
    for name, network in networks_of(potential):
        if name.startswith("head."):
            last = layers_of(network)[-1]
            for parameter in (last.weight, last.bias):
                if parameter is not None:
                    nn.init.zeros_(parameter)
    potential.shifter.self_energies.zero_()


def elements_in(statistics: Statistics) -> list[str]:
    """Return the symbols of the elements that occur, by atomic number."""
    from anipot.elements import atomic_number

    return [symbol(z) for z in sorted(atomic_number(element) for element in statistics.elements)]
