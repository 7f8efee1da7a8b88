"""Second derivatives of the energy with respect to coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anipot.engine import engine_of
from anipot.head import Ensemble
from anipot.head.dense import native_networks
from anipot.kernels import hessian as kernels
from anipot.neighbors import Pairs, check_distances, displacements
from anipot.potential import Potential
from anipot.representation import AEVComputer
from anipot.structures import System

#: Bytes that the directions which autograd computes together may take.
HESSIAN_BYTES = 512 * 2**20


def hessian_of(potential: Potential, system: System, pairs: Pairs) -> Tensor:
    """Return d²E/dx² (B, 3A, 3A) of the mean over members, given all pairs within the cutoff."""
    hessian = None if len(potential.terms) else native_hessian(potential, system, pairs)
    return _by_autograd(potential, system, pairs) if hessian is None else hessian


def native_hessian(potential: Potential, system: System, pairs: Pairs) -> Tensor | None:
    """Return the same, without energy terms, where the kernels cover the potential; else None."""
    if engine_of(potential).covers() or not isinstance(potential.representation, AEVComputer):
        return None
    aev, head = potential.representation, potential.head
    with torch.no_grad():
        vectors = displacements(pairs, system.coordinates, system.cell, system.pbc).to(potential.dtype)
        native = aev.native_constants(vectors)
        if native is None or not system.species.numel():
            return None
        check_distances(pairs, vectors, system.species.shape[1])
        members: list[Any] = list(head) if isinstance(head, Ensemble) else [head]
        flat = system.species.reshape(-1)
        # Not sparse: at the cutoff itself a column of zeros may have second derivatives.
        networks = native_networks(members, flat, vectors.new_empty(len(flat), aev.num_features), sparse=False)
        if networks is None:
            return None
        hessian = kernels.hessian(pairs.center, pairs.neighbor, vectors, system.species, *native, networks)
    return ((hessian + hessian.mT) / 2).to(system.coordinates.dtype)


def gradient_graph(potential: Potential, system: System, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Return coordinates (B, A, 3) and dE/dx of the same shape, both part of a graph."""
    with torch.enable_grad():
        x = system.coordinates.detach().requires_grad_()
        vectors = displacements(pairs, x, None if system.cell is None else system.cell.detach(), system.pbc)
        check_distances(pairs, vectors, system.species.shape[1])
        system = system._replace(coordinates=torch.where((system.species < 0)[..., None], 0.0, x))
        total = potential.members_from_vectors(system.species.reshape(-1), pairs, vectors, system).mean(0).sum()
        if not total.requires_grad:
            total = total + 0 * x.sum()
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    return x, gradient


def _by_autograd(potential: Potential, system: System, pairs: Pairs) -> Tensor:
    """Return (B, 3A, 3A): rows for one coordinate of all molecules at once, several coordinates at a time."""
    num_molecules, num_atoms = system.species.shape
    x, gradient = gradient_graph(potential, system, pairs)
    hessian = x.new_zeros(num_molecules, 3 * num_atoms, 3 * num_atoms)
    if hessian.numel() == 0 or not gradient.requires_grad:
        return hessian
    bytes_each = _direction_bytes(potential, system, pairs)
    at_once = max(1, min(3 * num_atoms, HESSIAN_BYTES // max(1, bytes_each)))
    for start in range(0, 3 * num_atoms, at_once):
        stop = min(start + at_once, 3 * num_atoms)
        seeds = x.new_zeros(stop - start, num_molecules, 3 * num_atoms)
        seeds[torch.arange(stop - start), :, torch.arange(start, stop)] = 1
        rows = _products(gradient, x, seeds.view(-1, *x.shape))
        hessian[:, start:stop] = rows.reshape(stop - start, num_molecules, -1).transpose(0, 1)
    return (hessian + hessian.transpose(-1, -2)) / 2


def _products(gradient: Tensor, x: Tensor, seeds: Tensor) -> Tensor:
    """Return seeds · d(gradient)/dx for all seeds at once."""
    if not hasattr(torch.library, "register_vmap"):  # before torch 2.5
        return torch.autograd.grad(gradient, x, seeds, retain_graph=True, is_grads_batched=True)[0]
    # Not by is_grads_batched, which knows no rules for batches of our operations and calls them seed after seed.
    return torch.vmap(lambda seed: torch.autograd.grad(gradient, x, seed, retain_graph=True)[0])(seeds)


def _direction_bytes(potential: Potential, system: System, pairs: Pairs) -> int:
    """Return roughly the bytes that one direction of a Hessian takes in the double backward."""
    vectors = displacements(pairs, system.coordinates.detach(), system.cell, system.pbc).detach()
    num_atoms = system.species.numel()
    estimate = potential.memory_estimate(pairs.center, vectors, num_atoms)
    return (4096 + potential.network_bytes) * num_atoms if estimate is None else int(estimate.sum())
