"""Kernels are compared with torch before they compute on a kind of device for the first time.

A driver, a compiler or a device that nobody has tried may do something else than those that were. What was found right
is remembered on disk, beside the programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from anipot.engine.parts import Parts, Request
from anipot.engine.step import Step
from anipot.head.dense import NotCovered
from anipot.kernels import reference_path
from anipot.kernels.cuda import cache
from anipot.kernels.cuda.errors import CaptureError, KernelError
from anipot.kernels.cuda.program import identity
from anipot.kernels.cuda.search import NEIGHBORS
from anipot.lattice import volume
from anipot.potential import Potential

#: Largest differences, of numbers up to 1 and in proportion for larger ones: far above rounding, far below mistakes.
BOUNDS = {torch.float32: 1e-3, torch.float64: 1e-8}


class _Differs(Exception):
    """The kernels are wrong."""


class _Unclear(Exception):
    """There is nothing to compare with."""


def fault(parts: Parts) -> str:
    """Return what is wrong with a step of these parts, beside torch operations; "" if nothing is.

    Nothing is computed if kernels for such networks have been compared on such a device before.
    """
    place = identity(parts.potential.device)
    if place is None:
        return ""
    networks = [[[*x.weight.shape, x.activation, x.bias is None] for x in network] for network in parts.layers]
    key = place | {"aev": parts.of_aev[1], "dtype": str(parts.dtype), "networks": networks}
    try:
        cache.cached("compared", key, lambda: _confirmed(parts), suffix=".proof")
    except (_Unclear, NotCovered, CaptureError):  # there may be room for the networks of some elements, or time later
        return ""
    except (_Differs, KernelError) as error:
        return str(error)
    return ""


def _confirmed(parts: Parts) -> bytes:
    for name, difference in differences(parts):
        if not difference <= BOUNDS[parts.dtype]:  # which NaN is not
            raise _Differs(
                f"on this device they give other {name} than torch operations do, with a difference of "
                f"{difference:.1e}; please report it, with what `anipot doctor` prints"
            )
    return b"as torch operations"


def differences(parts: Parts) -> Iterator[tuple[str, float]]:
    """Yield energies, forces and stress, and how much they differ at most, on the device of the parts."""
    species, coordinates, cell, pbc = given = _structures(parts)
    try:
        expected = _by_torch(parts, *given)
    except RuntimeError as error:  # of weights that autograd must not see, for want of memory
        raise _Unclear from error
    if not all(bool(value.isfinite().all()) for value in expected.values()):
        raise _Unclear
    room = 8 * species.shape[1]  # neighbors of an atom: a sphere holds up to four cells
    step = Step(parts, species, True, Request(True, True, False, False), parts.dtype, room)
    step.load(coordinates, cell, pbc)
    step.launch()
    found = step.outputs.tensors
    status = found["status"].tolist()
    if any(status[NEIGHBORS + 1 :]) or status[NEIGHBORS] > room:  # forces beyond what is added up in fixed point
        raise _Unclear
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        yield name, float((found[name][0].double() - value).abs().max()) / scale


def _structures(parts: Parts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return two molecules of all elements, whose images are within the cutoff: indices, coordinates, cells and pbc."""
    number, size = parts.num_species, max(parts.num_species, 6)
    first = [k % number for k in range(size)]
    species = torch.tensor([first, [*first[:1:-1], -1, -1]])
    side, random = torch.arange(math.ceil(size ** (1 / 3))), torch.Generator().manual_seed(1)
    places = 1.3 * torch.cartesian_prod(side, side, side)[:size]
    coordinates = places + 0.4 * torch.rand(2, size, 3, generator=random, dtype=torch.float64)
    coordinates[species < 0] = 0.0
    edge = parts.aev.Rcr + 1.0
    cell = torch.tensor([[edge, 0, 0], [1, edge, 0], [0.5, -1, edge]], dtype=torch.float64).repeat(2, 1, 1)
    pbc = torch.tensor([[True, True, False], [True, True, True]])
    species, coordinates, cell, pbc = (t.to(parts.potential.device) for t in (species, coordinates, cell, pbc))
    return species, coordinates.to(parts.dtype), cell.to(parts.dtype), pbc


@torch.inference_mode(False)
@torch.enable_grad()
def _by_torch(parts: Parts, species: Tensor, coordinates: Tensor, cell: Tensor, pbc: Tensor) -> dict[str, Tensor]:
    """Return energies (2,), forces (2, A, 3) and stress (2, 3, 3), float64."""
    whole = parts.potential
    plain = Potential(whole.elements, whole.representation, whole.head, whole.shifter, periodic_table_index=False)
    plain.converter.to(whole.device)
    x, strain = coordinates.clone().requires_grad_(), cell.new_zeros(2, 3, 3).requires_grad_()
    with reference_path():
        energies = plain((species, x + x @ strain), cell + cell @ strain, pbc).energies
        by_x, by_strain = torch.autograd.grad(energies.sum(), (x, strain))
    stress = (by_strain + by_strain.transpose(1, 2)).double() / 2 / volume(cell.double())[:, None, None]
    return {"energies": energies.detach().double(), "forces": -by_x.double(), "stress": stress}
