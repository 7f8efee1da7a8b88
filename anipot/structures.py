"""What goes in and out: padded batches of structures, the checks on them, and the conversion of elements to indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anipot import known
from anipot.elements import MAX_ATOMIC_NUMBER, atomic_number, symbol
from anipot.kernels.operations import define_opaque
from anipot.lattice import check_cell


class SpeciesCoordinates(NamedTuple):
    """Species (B, A), ghosts -1, and coordinates (B, A, 3) in Å."""

    species: Tensor
    coordinates: Tensor


class SpeciesFeatures(NamedTuple):
    """Species (B, A) as element indices, ghosts -1, and one feature vector for each atom (B, A, F)."""

    species: Tensor
    features: Tensor

    @property
    def aevs(self) -> Tensor:
        """The features, under the name that TorchANI gives them."""
        return self.features


class SpeciesEnergies(NamedTuple):
    """Species (B, A) and energies (B,) in Hartree, float64."""

    species: Tensor
    energies: Tensor


class System(NamedTuple):
    """A checked batch as the library computes with it.

    ``species`` (B, A) holds element indices; ``cell`` (B, 3, 3) and ``pbc`` (B, 3) are both None for a batch without
    any periodic axis.
    """

    species: Tensor
    coordinates: Tensor
    cell: Tensor | None
    pbc: Tensor | None


class SpeciesConverter(nn.Module):
    """Turn atomic numbers into element indices, 0 for the first element of ``elements``.

    Parameters
    ----------
    elements
        Symbols, in the order in which the networks and AEV channels stand.

    Raises
    ------
    ValueError
        When called with an element that is not among them: molecule, atom and element are named.

    Examples
    --------
    >>> import torch
    >>> converter = SpeciesConverter(["H", "C", "N", "O"])
    >>> converter((torch.tensor([[8, 1, 1, -1]]), torch.zeros(1, 4, 3))).species
    tensor([[ 3,  0,  0, -1]])
    """

    index_of: Tensor

    def __init__(self, elements: Sequence[str]) -> None:
        super().__init__()
        self.elements = tuple(elements)
        if len(set(self.elements)) != len(self.elements) or not self.elements:
            raise ValueError(f"elements must be at least one symbol and no symbol twice, got {self.elements}")
        table = torch.full((MAX_ATOMIC_NUMBER + 2,), -2, dtype=torch.long)
        for index, element in enumerate(self.elements):
            table[atomic_number(element)] = index
        table[-1] = -1  # species -1, a ghost, looks up the last entry
        self.register_buffer("index_of", table, persistent=False)
        self._on_host: tuple[tuple[int, int], NDArray[np.int8]] | None = None

    def forward(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesCoordinates:
        species, coordinates = input_
        return SpeciesCoordinates(self.convert(species), coordinates)

    def convert(self, atomic_numbers: Tensor) -> Tensor:
        """Return the element indices (B, A) of atomic numbers (B, A); ghosts stay -1."""
        if torch.compiler.is_compiling():  # what is in the tensor cannot be traced
            return torch.ops.anipot.element_indices(atomic_numbers, " ".join(self.elements))
        _check_integers(atomic_numbers)
        atomic_numbers = atomic_numbers.long()
        if not atomic_numbers.is_cpu:
            found = self._host_table()[known.species_on_host(atomic_numbers).astype(int) - known.LOWEST]
            if found.min(initial=0) > -2:
                index = self.index_of[atomic_numbers]
                known.tell(index, found)
                return index
        index = self.lookup(atomic_numbers)
        if (index == -2).any():
            raise ValueError(_unknown_element(atomic_numbers, index == -2, self.elements))
        return index

    def _host_table(self) -> NDArray[np.int8]:
        """Return ``index_of`` for ``known.species_on_host``, whose numbers begin with -2; asked for once."""
        table = self.index_of
        state = (table.data_ptr(), -1 if table.is_inference() else table._version)
        if self._on_host is None or self._on_host[0] != state or state[1] < 0:
            *elements, ghost = known.asked(table).tolist()
            self._on_host = state, np.array([-2, ghost, *elements, -2], dtype=np.int8)
        return self._on_host[1]

    def lookup(self, atomic_numbers: Tensor) -> Tensor:
        """Return the element indices of atomic numbers, int64, -2 for those that are not known; ghosts stay -1."""
        inside = atomic_numbers.clamp(-1, MAX_ATOMIC_NUMBER)
        return self.index_of[torch.where(inside == atomic_numbers, inside, 0)]


def _element_indices(atomic_numbers: Tensor, elements: str) -> Tensor:
    return SpeciesConverter(elements.split()).to(atomic_numbers.device).convert(atomic_numbers)


define_opaque(
    "element_indices(Tensor atomic_numbers, str elements) -> Tensor",
    _element_indices,
    lambda atomic_numbers, elements: torch.empty_like(atomic_numbers, dtype=torch.long),
)


def check_system(species: Tensor, coordinates: Tensor, cell: Tensor | None, pbc: Tensor | None) -> System:
    """Refuse what cannot be computed, with what was seen, what was expected and where.

    Parameters
    ----------
    species
        (B, A) integers; element indices or atomic numbers, ghosts -1.
    coordinates
        (B, A, 3) in Å, float32 or float64; those of ghosts may be anything, NaN too.
    cell
        (3, 3) or (B, 3, 3) in Å, rows are the lattice vectors. Ignored along axes that are not periodic.
    pbc
        (3,) or (B, 3) bool.

    Returns
    -------
    System
        With ``cell`` (B, 3, 3) and ``pbc`` (B, 3), or None for both where no axis of the batch is periodic.

    Raises
    ------
    TypeError
        Coordinates or cell that are not floating point, species that are not integers, pbc that is not bool, a cell
        of another dtype than the coordinates.
    ValueError
        Shapes that do not fit, species below -1, NaN or infinite coordinates of a real atom, pbc without cell or cell
        without pbc, a singular cell.
    """
    _check_integers(species)
    _check_shapes(species, coordinates)
    species = species.long()  # a uint8 would count -1 as 255
    if species.is_cpu or not known.are_sound(species, coordinates):
        _check_values(species, coordinates)
    cell, pbc = check_cell(coordinates, cell, pbc)
    return System(species, coordinates, cell, pbc)


def _check_values(species: Tensor, coordinates: Tensor) -> None:
    if (species < -1).any():
        molecule, atom = (species < -1).nonzero()[0].tolist()
        value = int(species[molecule, atom])
        raise ValueError(
            f"molecule {molecule}, atom {atom} has species {value}; the only negative species is -1, a ghost"
        )
    bad = ~(torch.isfinite(coordinates).all(-1) | (species < 0))
    if bad.any():
        molecule, atom = bad.nonzero()[0].tolist()
        where = coordinates[molecule, atom].tolist()
        raise ValueError(
            f"molecule {molecule}, atom {atom} has coordinates {where}; they must be finite (only ghosts may hold NaN)"
        )


def check_element_indices(species: Tensor, num_species: int) -> None:
    """Refuse element indices (B, A) beyond ``num_species``, which mostly are atomic numbers that nobody converted.

    Raises
    ------
    ValueError
        Naming the molecule and the atom.
    """
    if not species.is_cpu and known.species_on_host(species).max(initial=-1) < num_species:
        return
    if (species >= num_species).any():
        molecule, atom = (species >= num_species).nonzero()[0].tolist()
        raise ValueError(
            f"molecule {molecule}, atom {atom} has element index {int(species[molecule, atom])}, but there are "
            f"{num_species} elements, 0 to {num_species - 1}; atomic numbers need a SpeciesConverter, or a model "
            "loaded with periodic_table_index=True"
        )


def check_charge(charge: float | Tensor) -> None:
    """Refuse a total charge: the published ANI potentials were trained on neutral molecules and know no charge.

    Raises
    ------
    ValueError
        If any total charge is not zero.
    """
    if isinstance(charge, int | float) and charge == 0:
        return
    charges = torch.as_tensor(charge, dtype=torch.float64).flatten()
    if (charges != 0).any():
        molecule = int((charges != 0).nonzero()[0])
        value = float(charges[molecule])
        raise ValueError(
            f"molecule {molecule} has a total charge of {value:g}; this model knows neutral molecules only (charge 0)"
        )


def pad(molecules: Sequence[tuple[Tensor, Tensor]]) -> SpeciesCoordinates:
    """Pad molecules of several sizes into one batch.

    Parameters
    ----------
    molecules
        Pairs of species (a,) and coordinates (a, 3).

    Returns
    -------
    SpeciesCoordinates
        Species (B, A), filled with -1, and coordinates (B, A, 3), filled with 0.

    Examples
    --------
    >>> import torch
    >>> pad([(torch.tensor([1, 1]), torch.rand(2, 3)), (torch.tensor([8]), torch.rand(1, 3))]).species
    tensor([[ 1,  1],
            [ 8, -1]])
    """
    if not molecules:
        return SpeciesCoordinates(torch.empty(0, 0, dtype=torch.long), torch.empty(0, 0, 3))
    species = nn.utils.rnn.pad_sequence([s for s, _ in molecules], batch_first=True, padding_value=-1)
    coordinates = nn.utils.rnn.pad_sequence([x for _, x in molecules], batch_first=True, padding_value=0.0)
    return SpeciesCoordinates(species, coordinates)


def _check_integers(species: Tensor) -> None:
    if not isinstance(species, Tensor):
        raise TypeError(f"species must be a tensor of integers, got {type(species).__name__}")
    if species.is_floating_point() or species.is_complex() or species.dtype == torch.bool:
        raise TypeError(
            f"species must be integers (atomic numbers, or element indices; ghosts -1), got {species.dtype}"
        )


def _check_shapes(species: Tensor, coordinates: Tensor) -> None:
    if not isinstance(coordinates, Tensor):
        raise TypeError(f"coordinates must be a tensor, got {type(coordinates).__name__}")
    if coordinates.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"coordinates must be float32 or float64 (in Å), got {coordinates.dtype}")
    if (
        species.dim() != 2
        or coordinates.dim() != 3
        or coordinates.shape[:2] != species.shape
        or coordinates.shape[2] != 3
    ):
        raise ValueError(
            "species must have shape (molecules, atoms) and coordinates (molecules, atoms, 3), got "
            f"{tuple(species.shape)} and {tuple(coordinates.shape)}"
            + ("; for one molecule pass species[None], coordinates[None]" if species.dim() == 1 else "")
        )
    if species.device != coordinates.device:
        raise ValueError(f"species are on {species.device} but coordinates on {coordinates.device}")


def _unknown_element(species: Tensor, unknown: Tensor, elements: tuple[str, ...]) -> str:
    where = unknown.nonzero()[0].tolist()
    number = int(species[tuple(where)])
    place = ", ".join(f"{name} {i}" for name, i in zip(("molecule", "atom")[-len(where) :], where, strict=True))
    known = ", ".join(elements)
    if number < -1:
        return f"{place} has species {number}; the only negative species is -1, a ghost"
    return f"{place} is {symbol(number)} (atomic number {number}); this model knows {known}"
