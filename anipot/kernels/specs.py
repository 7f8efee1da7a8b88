"""C structures filled from tensors."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from anipot.kernels.library import AevSpec, SystemSpec

AEV_CONSTANTS = ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")


def fill_aev(spec: AevSpec, aev: Any, cutoff_kind: int) -> None:
    """Fill in the constants of an ``AEVComputer``; its buffers must outlive the structure."""
    function = aev.cutoff_function
    spec.Rcr, spec.Rca, spec.num_species = aev.Rcr, aev.Rca, aev.num_species
    spec.cutoff_kind = cutoff_kind
    spec.cutoff_order = getattr(function, "order", 2)
    spec.cutoff_eps = getattr(function, "eps", 0.0)
    for name in AEV_CONSTANTS:
        values = getattr(aev, name)
        setattr(spec, f"num_{name}", len(values))
        setattr(spec, name, values.data_ptr())


def fill_system(
    spec: SystemSpec, species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None
) -> tuple[Any, ...]:
    """Fill in a batch, and return what must stay alive until the call is over."""
    species = species.contiguous()
    coordinates = coordinates.detach().contiguous()
    spec.num_molecules, spec.num_atoms = species.shape
    spec.species, spec.coordinates = species.data_ptr(), coordinates.data_ptr()
    spec.wide_coordinates = coordinates.dtype == torch.float64
    if cell is None or pbc is None:
        spec.cell = spec.pbc = None
        return species, coordinates
    cell, pbc = cell.detach().contiguous(), pbc.contiguous()
    spec.cell, spec.pbc = cell.data_ptr(), pbc.data_ptr()
    spec.cell_stride = 9 if cell.dim() == 3 else 0
    spec.pbc_stride = 3 if pbc.dim() == 2 else 0
    return species, coordinates, cell, pbc


def address(structure: ctypes.Structure) -> int:
    """Return where a structure stands."""
    return ctypes.addressof(structure)
