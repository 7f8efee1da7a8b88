"""What may be computed: atoms, files and padded batches, as a list of ``Atoms``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anipot.potential import Potential

#: One ``Atoms``, several, a file that ASE reads, or a padded batch: species (B, A) and coordinates (B, A, 3), Å, with
#: cell (3, 3) or (B, 3, 3) and pbc (3,) or (B, 3) if it repeats.
Systems = Atoms | Sequence[Atoms] | str | Path | tuple[torch.Tensor, ...]


def frames_of(systems: Systems) -> list[Atoms]:
    """Return copies of the systems as a list of ``Atoms``; ghosts of a padded batch are left out.

    Raises
    ------
    TypeError
        For anything else than ``Systems``.
    ValueError
        For a system without atoms.

    Examples
    --------
    >>> import torch
    >>> frames_of((torch.tensor([[8, 1, -1]]), torch.rand(1, 3, 3)))[0].get_chemical_formula()
    'HO'
    """
    if isinstance(systems, Atoms):
        frames = [systems.copy()]
    elif isinstance(systems, str | Path):
        import ase.io

        frames = list(ase.io.iread(systems, index=":"))
    elif isinstance(systems, tuple) and len(systems) in (2, 4) and isinstance(systems[0], torch.Tensor):
        frames = list(_unpadded(*systems))
    else:
        frames = [_copied(i, atoms) for i, atoms in enumerate(systems)]
    for i, atoms in enumerate(frames):
        if len(atoms) == 0:
            raise ValueError(f"system {i} has no atoms")
    return frames


def _copied(index: int, atoms: Any) -> Atoms:
    if not isinstance(atoms, Atoms):
        raise TypeError(
            f"system {index} is a {type(atoms).__name__}; expected Atoms, a list of them, the name of a file, or a "
            "tuple of species (B, A) and coordinates (B, A, 3)"
        )
    return atoms.copy()


def _unpadded(
    species: torch.Tensor,
    coordinates: torch.Tensor,
    cell: torch.Tensor | None = None,
    pbc: torch.Tensor | None = None,
) -> Iterator[Atoms]:
    if species.dim() != 2 or coordinates.shape != (*species.shape, 3):
        raise ValueError(
            "species must have shape (molecules, atoms) and coordinates (molecules, atoms, 3), got "
            f"{tuple(species.shape)} and {tuple(coordinates.shape)}"
        )
    cells, periodic = np.zeros((len(species), 3, 3)), np.zeros((len(species), 3), dtype=bool)
    if cell is not None and pbc is not None:
        cells[:], periodic[:] = cell.detach().double().cpu(), pbc.cpu()
    for b, (numbers, positions) in enumerate(zip(species.cpu(), coordinates.detach().double().cpu(), strict=True)):
        real = numbers >= 0
        yield Atoms(numbers[real].numpy(), positions[real].numpy(), cell=cells[b], pbc=periodic[b])


def fixed_atoms(atoms: Atoms) -> NDArray[np.int64]:
    """Return the indices of the atoms that ``FixAtoms`` holds; other constraints are passed over.

    Examples
    --------
    >>> from ase.build import molecule
    >>> water = molecule("H2O")
    >>> water.set_constraint(FixAtoms([0]))
    >>> fixed_atoms(water).tolist()
    [0]
    """
    held = [one.get_indices() for one in atoms.constraints if isinstance(one, FixAtoms)]
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *held]))


def free_atoms(atoms: Atoms) -> NDArray[np.int64]:
    """Return the indices of the atoms that no ``FixAtoms`` holds.

    Raises
    ------
    ValueError
        For other constraints, which take part of the motion of an atom away, and where no atom is free.

    Examples
    --------
    >>> from ase.build import molecule
    >>> water = molecule("H2O")
    >>> water.set_constraint(FixAtoms([0]))
    >>> free_atoms(water).tolist()
    [1, 2]
    """
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(f"the constraint {type(constraint).__name__} is not supported here; FixAtoms is")
    free = np.setdiff1d(np.arange(len(atoms)), fixed_atoms(atoms))
    if not len(free):
        raise ValueError("all atoms are fixed: nothing is left to move")
    return free


def defined_properties(model: Potential, atoms: Atoms) -> list[str]:
    """Return the names of a model's property heads that say something of a system: a crystal has no dipole moment.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import bulk
    >>> defined_properties(anipot.load(), bulk("C"))
    []
    """
    heads = model.property_heads.items()
    return [name for name, head in heads if not (atoms.pbc.any() and getattr(head, "molecules_only", False))]
