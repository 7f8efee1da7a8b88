"""The native Hessian of a potential of AEVs and dense networks."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.kernels import aev as aevs
from anipot.kernels import networks as heads
from anipot.kernels.library import library
from anipot.kernels.specs import address


def hessian(
    center: Tensor,
    neighbor: Tensor,
    vectors: Tensor,
    species: Tensor,
    constants: Tensor,
    sizes: list[int],
    networks: heads.Networks,
) -> Tensor:
    """Return d²E/dx² (B, 3A, 3A), float64, of the mean over members; it is symmetric but for rounding.

    Parameters
    ----------
    center, neighbor, vectors
        (P,), (P,) and (P, 3): all pairs of a padded batch, ordered by center, in the dtype of the networks.
    species
        (B, A) element indices.
    constants, sizes
        Of the AEV, as ``anipot.kernels.aev.constants_and_sizes`` returns them.
    networks
        Of the elements that occur, without graph.
    """
    flat, (num_molecules, num_slots) = species.reshape(-1).contiguous(), species.shape
    ops, num_atoms = torch.ops.anipot, species.numel()
    pairs = (center, flat[neighbor], vectors, constants, sizes, num_atoms)
    features = ops.aev(*pairs)
    energies, order, state = ops.networks(features, flat, *networks)
    seeds = torch.full_like(energies, 1 / len(energies))
    gradient = ops.networks_backward(seeds, None, features, flat, order, state, *networks)
    out = vectors.new_empty(num_molecules, 3 * num_slots, 3 * num_slots, dtype=torch.float64)
    call = heads.Call((features, flat, *networks), order, state)
    aev = aevs.spec_of(constants, sizes)
    of_pairs, alive = aevs.pairs_of(*pairs)
    code = library().anipot_hessian(
        address(aev),
        address(of_pairs),
        address(call.head),
        address(call.rows),
        gradient.data_ptr(),
        neighbor.data_ptr(),
        out.data_ptr(),
        num_slots,
    )
    del alive
    if code != 0:
        raise MemoryError(f"no memory for a Hessian of shape {tuple(out.shape)}")
    return out
