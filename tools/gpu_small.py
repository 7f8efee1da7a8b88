"""Small models of random weights on a device beside plain torch operations on the CPU: right, or exit code 1.

    python tools/gpu_small.py [cuda] [--least]

Small enough for compute-sanitizer; ``--least`` leaves out what takes many launches there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch

import anipot
from anipot.cli.doctor import molecule, small_model

#: Of differences: of energies in Hartree, of all else as parts of the largest value.
BOUNDS = {torch.float64: 1e-9, torch.float32: 5e-5}


def differences(device: str, least: bool) -> Iterator[tuple[str, torch.dtype, float]]:
    """Yield the largest difference of each quantity; see ``BOUNDS``."""
    species, x = molecule(small_model())
    batch = torch.cat([species, species]), torch.cat([x, 1.05 * x])
    cell, pbc = 9.0 * torch.eye(3, dtype=torch.float64), torch.tensor([True, True, False])
    for dtype in (torch.float32,) if least else BOUNDS:
        model = small_model().to(dtype)
        there = deepcopy(model).to(device)
        for what, given in (("molecules", (*batch, None, None)), ("a slab", (*batch, cell, pbc))):
            ask = {"stress": given[2] is not None, "hessian": not least, "members": True, "atomic_energies": True}
            with anipot.reference_path():
                expected = anipot.single_point(model, *given, **ask)
            moved = (part if part is None else part.to(device) for part in given)
            found = anipot.single_point(there, *moved, **ask)
            for name in ("energies", "atomic_energies", "forces", "stress", "hessian"):
                if getattr(expected, name) is not None:
                    yield (
                        f"{name} of {what}",
                        dtype,
                        _difference(getattr(found, name), getattr(expected, name), "energies" in name),
                    )
            yield f"members of {what}", dtype, _difference(found.members.forces, expected.members.forces)
        yield from _training(model, there, batch, dtype, device)


def _training(
    model: Any, there: Any, batch: Any, dtype: torch.dtype, device: str
) -> Iterator[tuple[str, torch.dtype, float]]:
    """Yield the difference of the gradients of all weights of a loss on energies and forces."""
    gradients = []
    for one, where in ((model, "cpu"), (there, device)):
        species, x = (part.to(where) for part in batch)
        x = x.to(dtype).requires_grad_()
        energies = one((species, x)).energies
        (slope,) = torch.autograd.grad(energies.sum(), x, create_graph=True)
        (energies.sum() / 100 + (slope**2).sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    yield "gradients of the weights", dtype, _difference(gradients[1], gradients[0])


def _difference(found: Any, expected: Any, absolute: bool = False) -> float:
    scale = 1.0 if absolute else float(expected.abs().max())
    return float((found.double().cpu() - expected.double()).abs().max()) / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", nargs="?", default="cuda")
    parser.add_argument("--least", action="store_true", help="float32, no Hessians")
    options = parser.parse_args()
    well = True
    for what, dtype, difference in differences(options.device, options.least):
        ok = difference <= BOUNDS[dtype]  # false for NaN
        well &= ok
        print(f"{str(dtype)[6:]} {what:32} {difference:.1e} {'ok' if ok else 'WRONG'}", flush=True)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
