"""``torchani.utils``: Hessians, normal modes, padding, and conversions of species."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anipot.elements import MAX_ATOMIC_NUMBER, atomic_masses, symbol
from anipot.energy import EnergyShifter
from anipot.vibrations import VibrationalAnalysis as VibAnalysis
from anipot.vibrations import vibrational_analysis as _vibrational_analysis

__all__ = [
    "PERIODIC_TABLE",
    "ChemicalSymbolsToInts",
    "EnergyShifter",
    "VibAnalysis",
    "get_atomic_masses",
    "hessian",
    "map2central",
    "pad_atomic_properties",
    "present_species",
    "stack_with_padding",
    "strip_redundant_padding",
    "vibrational_analysis",
]

#: Symbols by atomic number; there is no element 0.
PERIODIC_TABLE = ["Dummy", *(symbol(number) for number in range(1, MAX_ATOMIC_NUMBER + 1))]


def hessian(coordinates: Tensor, energies: Tensor | None = None, forces: Tensor | None = None) -> Tensor:
    """Return d²E/dx² (B, 3A, 3A) from the graph of energies or forces; the graph is kept.

    Without a graph of one's own, ``anipot.single_point(..., hessian=True)`` does it under a memory bound.

    Parameters
    ----------
    coordinates
        (B, A, 3), with ``requires_grad``.
    energies, forces
        (B,) or (B, A, 3), computed from ``coordinates``: one of the two.

    Raises
    ------
    ValueError
        If not exactly one of energies and forces is given, or if it was not computed from ``coordinates``.
    """
    if (energies is None) == (forces is None):
        raise ValueError("give either energies or forces, computed from coordinates")
    given = energies if forces is None else forces
    if given is None or not (coordinates.requires_grad and given.requires_grad):
        raise ValueError("coordinates need requires_grad_(), and energies or forces a graph (create_graph=True)")
    if energies is not None:
        (gradient,) = torch.autograd.grad(energies.sum(), coordinates, create_graph=True)
    else:
        gradient = -given
    num_molecules, size = len(coordinates), coordinates[0].numel() if len(coordinates) else 0
    if gradient.shape != coordinates.shape:
        raise ValueError(
            f"forces must have the shape of coordinates, {tuple(coordinates.shape)}, got {tuple(gradient.shape)}"
        )
    rows = []
    for i in range(size):  # one coordinate of every molecule at a time: molecules do not see each other
        (row,) = torch.autograd.grad(gradient.flatten(1)[:, i].sum(), coordinates, retain_graph=True)
        rows.append(row.flatten(1))
    return torch.stack(rows, dim=1) if rows else coordinates.new_zeros(num_molecules, size, size)


def vibrational_analysis(masses: Tensor, hessian: Tensor, mode_type: str = "MDU", unit: str = "cm^-1") -> VibAnalysis:
    """Return frequencies, modes, force constants and reduced masses of one molecule.

    Parameters
    ----------
    masses
        (1, A), u.
    hessian
        (1, 3A, 3A), Hartree/Å².
    mode_type, unit
        As for ``anipot.vibrational_analysis``.

    Returns
    -------
    VibAnalysis
        freqs (3A,), imaginary ones as negative numbers; modes (3A, A, 3); fconstants and rmasses (3A,).

    Raises
    ------
    ValueError
        For more than one molecule, and as ``anipot.vibrational_analysis``.
    """
    if masses.dim() != 2 or len(masses) != 1:
        raise ValueError(
            f"masses must have shape (1, A), got {tuple(masses.shape)}; anipot.vibrational_analysis takes batches"
        )
    result = _vibrational_analysis(masses, hessian, mode_type, unit)
    return VibAnalysis(*(values[0] for values in result))


def get_atomic_masses(species: Tensor) -> Tensor:
    """Return the masses (u, float64) of atomic numbers of any shape; 0 for ghosts (-1).

    >>> get_atomic_masses(torch.tensor([[8, 1, -1]]))
    tensor([[15.9990,  1.0080,  0.0000]], dtype=torch.float64)
    """
    wrong = (species < -1) | (species == 0) | (species > MAX_ATOMIC_NUMBER)
    if wrong.any():
        raise ValueError(
            f"{int(species[wrong][0])} is no atomic number; expected 1 to {MAX_ATOMIC_NUMBER}, or -1 for ghosts"
        )
    table = torch.tensor(atomic_masses(), dtype=torch.float64, device=species.device)
    return table[species.clamp(min=0)]


class ChemicalSymbolsToInts(nn.Module):
    """Turn symbols into element indices.

    Parameters
    ----------
    all_species
        Symbols in the order of the indices.

    Examples
    --------
    >>> ChemicalSymbolsToInts(["H", "C", "Cl"])(["C", "H", "Cl"])
    tensor([1, 0, 2])
    """

    _device: Tensor

    def __init__(self, all_species: Sequence[str]) -> None:
        super().__init__()
        self.rev_species = {element: index for index, element in enumerate(all_species)}
        self.register_buffer("_device", torch.empty(0), persistent=False)

    def forward(self, species: Iterable[str]) -> Tensor:
        """Return the indices (a,) of a list of symbols, or of the characters of a string."""
        symbols = list(species)
        unknown = [(i, name) for i, name in enumerate(symbols) if name not in self.rev_species]
        if unknown:
            i, name = unknown[0]
            raise ValueError(
                f"atom {i} is {name!r}; known are {', '.join(self.rev_species)}. "
                "Symbols of two letters must come in a list: ['C', 'Cl'], not 'CCl'"
            )
        indices = [self.rev_species[name] for name in symbols]
        return torch.tensor(indices, dtype=torch.long, device=self._device.device)

    def __len__(self) -> int:
        return len(self.rev_species)


def stack_with_padding(properties: Iterable[Mapping[str, Any]], padding: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the properties of several molecules, those of atoms padded to one length.

    >>> stack_with_padding([{"species": [8, 1]}, {"species": [1]}], {"species": -1})["species"]
    tensor([[ 8,  1],
            [ 1, -1]])
    """
    columns: defaultdict[str, list[Tensor]] = defaultdict(list)
    for molecule in properties:
        for name, value in molecule.items():
            columns[name].append(torch.as_tensor(value))
    pad = nn.utils.rnn.pad_sequence
    return {
        name: torch.stack(values)
        if values[0].dim() == 0
        else pad(values, batch_first=True, padding_value=padding[name])
        for name, values in columns.items()
    }


def pad_atomic_properties(
    properties: Sequence[Mapping[str, Tensor]], padding_values: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Return batches (b, a, ...) of several sizes as one batch (B, A, ...); values (b,) are joined.

    Parameters
    ----------
    properties
        Such as ``[{"species": (b, a), "coordinates": (b, a, 3)}, ...]``.
    padding_values
        By name; by default -1 for species and 0 for all else.
    """
    fill = defaultdict(float, species=-1.0) if padding_values is None else padding_values
    output = {}
    for name, first in properties[0].items():
        values = [batch[name] for batch in properties]
        if first.dim() > 1:
            longest = max(value.shape[1] for value in values)
            values = [_lengthened(value, longest, fill[name]) for value in values]
        output[name] = torch.cat(values)
    return output


def _lengthened(value: Tensor, length: int, padding: float) -> Tensor:
    """Return (b, a, ...) as (b, length, ...)."""
    more = value.new_full((value.shape[0], length - value.shape[1], *value.shape[2:]), padding)
    return torch.cat([value, more], dim=1)


def strip_redundant_padding(atomic_properties: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return properties (B, A, ...) of atoms without the places that are ghosts in every molecule."""
    kept = (atomic_properties["species"] >= 0).any(dim=0).nonzero().flatten()
    return {name: values.index_select(1, kept) for name, values in atomic_properties.items()}


def present_species(species: Tensor) -> Tensor:
    """Return the species that occur, ascending, without ghosts."""
    found = species.unique(sorted=True)
    return found[found >= 0]


def map2central(cell: Tensor, coordinates: Tensor, pbc: Tensor) -> Tensor:
    """Return coordinates (B, A, 3) with the atoms moved into the cell (3, 3) along its periodic axes.

    Potentials of this library do not need it: atoms may lie anywhere.
    """
    fractional = torch.linalg.solve(cell.T, coordinates.flatten(0, -2).T).T
    shift = fractional.detach().floor() * pbc
    return coordinates - (shift @ cell).view_as(coordinates)
