"""Swap the representation and the head of a potential in a loop, train each pair for a minute and look at the errors.

Data: an extxyz file with energies (eV) and forces (eV/Å), such as the rMD17 ethanol of the BOTNet-datasets repository
(doi:10.6084/m9.figshare.12672038). The last fifth of the frames is held out.

Run: python 08_swap_representation_and_head.py train.xyz --seconds 60
(writes swap.png with a parity plot for each pair, and contributions.png into the current folder)
"""

import argparse
import os
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from matplotlib.figure import Figure

import anipot
from anipot.contributions import ContributionLog
from anipot.plots import plot_parity
from anipot.units import HARTREE_TO_EV

FAST = bool(os.environ.get("ANIPOT_EXAMPLE_FAST"))
SHARED = Path(os.environ.get("ANIPOT_SHARED", "shared")) / "data" / "rmd17_ethanol_botnet" / "train.xyz"
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("file", nargs="?", default=SHARED, type=Path, help="extxyz with energies and forces in eV and Å")
parser.add_argument("--seconds", type=float, default=1.0 if FAST else 60.0, help="of training for each pair")
args = parser.parse_args()
if not args.file.is_file():
    sys.exit(f"no file {args.file}; give an extxyz file with energies and forces")

frames = ase.io.read(args.file, ":")
rng = np.random.default_rng(0)
frames = [frames[i] for i in rng.permutation(len(frames))]
species, coordinates = anipot.pad([(torch.tensor(a.numbers), torch.tensor(a.positions).float()) for a in frames])
energies = torch.tensor([a.get_potential_energy() for a in frames]) / HARTREE_TO_EV
forces = torch.zeros_like(coordinates)
for i, atoms in enumerate(frames):
    forces[i, : len(atoms)] = torch.tensor(atoms.get_forces() / HARTREE_TO_EV)
real = species >= 0
train, test = torch.arange(len(frames)).split([len(frames) - len(frames) // 5, len(frames) // 5])

elements = sorted({s for atoms in frames for s in atoms.get_chemical_symbols()})
# Self energies by least squares over the compositions of the training data.
counts = torch.stack([(species == z).sum(-1) for z in anipot.elements.atomic_numbers(elements)], dim=-1).double()
self_energies = torch.linalg.lstsq(counts[train], energies[train, None], driver="gelsd").solution.squeeze(1)
E = len(elements)

representations = {
    "AEV": lambda: anipot.AEVComputer.like_1x(E),
    "ACSF": lambda: anipot.ACSF.shifted(E, 5.0, zetas=(1, 4, 16)),
    "wACSF": lambda: anipot.wACSF.shifted(elements, 5.0, zetas=(1, 4, 16)),
    "SchNet": lambda: anipot.SchNet(E, 64),
    "sc-SchNet": lambda: anipot.ScSchNet(E, 64),
    "PaiNN": lambda: anipot.PaiNN(E, 48),
}


def network(num_features: int) -> anipot.AtomicNetwork:
    return anipot.AtomicNetwork((num_features, 96, 64, 1), torch.nn.SiLU())


heads = {
    "network per element": lambda n: anipot.ANIModel([network(n) for _ in elements]),
    "one network": lambda n: anipot.Atomwise(network(n)),
}
PAIRS = [
    ("AEV", 0),
    ("ACSF", 0),
    ("wACSF", 0),
    ("wACSF", 1),
    ("SchNet", 0),
    ("SchNet", 1),
    ("sc-SchNet", 1),
    ("PaiNN", 1),
]


def standardize(model: anipot.Potential) -> None:
    """Let the first layer of each network see features of mean 0 and a spread of at most 1, by what it starts from."""
    index = model.converter.convert(species[train[:50]])
    x = model.representation((index, coordinates[train[:50]])).features.detach()
    nets = list(model.head) if isinstance(model.head, anipot.ANIModel) else list(model.head.networks)
    for i, net in enumerate(nets):
        mine = x[index == i] if len(nets) > 1 else x[index >= 0]
        spread = mine.std(0)
        scale = 1 / (spread + 0.1 * spread.max())  # columns that hardly vary are mostly noise
        first = net.linears[0]
        with torch.no_grad():
            first.weight *= scale
            first.bias -= first.weight @ mine.mean(0)


def errors(model: anipot.Potential, rows: torch.Tensor, create_graph: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the errors of the energies per atom (B,) and of the forces (B, A, 3), Hartree and Hartree/Å."""
    x = coordinates[rows].clone().requires_grad_()
    predicted = model((species[rows], x)).energies
    (gradient,) = torch.autograd.grad(predicted.sum(), x, create_graph=create_graph)
    return (predicted - energies[rows]) / real[rows].sum(-1), -gradient - forces[rows]


figure = Figure(figsize=(4 * len(PAIRS) / 2, 7.5), layout="constrained")
axes = figure.subplots(2, (len(PAIRS) + 1) // 2).ravel()
for ax, (name, kind) in zip(axes, PAIRS, strict=False):
    torch.manual_seed(0)
    head_name = list(heads)[kind]
    representation = representations[name]()
    head = heads[head_name](representation.num_features)
    model = anipot.Potential(elements, representation, head, anipot.EnergyShifter(self_energies), name=name)
    standardize(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    log = ContributionLog(representation, every=5) if name == "sc-SchNet" else None
    steps, start = 0, time.monotonic()
    while (spent := time.monotonic() - start) < args.seconds:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * 0.02 ** (spent / args.seconds)
        rows = train[torch.randperm(len(train))[:16]]
        energy_error, force_error = errors(model, rows, create_graph=True)
        loss = 10 * (energy_error**2).mean() + (force_error[real[rows]] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if log:
            log(steps, (model.converter.convert(species[rows]), coordinates[rows]))
    result = anipot.single_point(model, species[test], coordinates[test])
    scale = 1000 * HARTREE_TO_EV
    per_atom = scale * (result.energies - energies[test]).abs() / real[test].sum(-1)
    plot_parity(scale * forces[test][real[test]], scale * result.forces[real[test]], "force", "meV/Å", ax)
    ax.set_title(f"{name}, {head_name}\n{ax.get_title()}", fontsize=9)
    mae = scale * (result.forces - forces[test])[real[test]].abs().mean()
    weights = sum(p.numel() for p in model.parameters())
    print(f"{name:10s} {head_name:20s} {steps:5d} steps, {weights:7d} weights,", end=" ")
    print(f"mean errors held out {per_atom.mean():6.2f} meV/atom, {mae:6.1f} meV/Å", flush=True)
    if log:
        log.plot().figure.savefig("contributions.png", dpi=120)
figure.savefig("swap.png", dpi=120)
