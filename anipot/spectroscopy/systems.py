"""What may be analysed: atoms, files and padded batches, as a list of ``Atoms``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import ArrayLike, NDArray

#: One ``Atoms``, several, a file that ASE reads, or species (B, A) and coordinates (B, A, 3), Å.
Systems = Atoms | Sequence[Atoms] | str | Path | tuple[torch.Tensor, torch.Tensor]
#: u: None for standard weights, "most_common", those of all atoms, or of some by their index.
Masses = ArrayLike | Mapping[int, float] | str | None


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
    elif isinstance(systems, tuple) and len(systems) == 2 and all(isinstance(part, torch.Tensor) for part in systems):
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


def _unpadded(species: torch.Tensor, coordinates: torch.Tensor) -> Iterator[Atoms]:
    if species.dim() != 2 or coordinates.shape != (*species.shape, 3):
        raise ValueError(
            "species must have shape (molecules, atoms) and coordinates (molecules, atoms, 3), got "
            f"{tuple(species.shape)} and {tuple(coordinates.shape)}"
        )
    for numbers, positions in zip(species.cpu(), coordinates.detach().double().cpu(), strict=True):
        real = numbers >= 0
        yield Atoms(numbers[real].numpy(), positions[real].numpy())


def set_masses(atoms: Atoms, masses: Masses) -> None:
    """Give the atoms their masses, u.

    Parameters
    ----------
    atoms
        Those that have masses of their own keep them where ``masses`` is None.
    masses
        ``"most_common"`` are those of the most common isotopes, which a spectrum is mostly seen of; a mapping sets
        those of some atoms, such as ``{1: 2.0141}`` for a deuterium.

    Raises
    ------
    ValueError
        For masses that are not positive and finite, of another number than there are atoms, or of no atom.

    Examples
    --------
    >>> from ase.build import molecule
    >>> water = molecule("H2O")
    >>> set_masses(water, {1: 2.0141})
    >>> water.get_masses().tolist()
    [15.999, 2.0141, 1.008]
    """
    if isinstance(masses, str):
        if masses != "most_common":
            raise ValueError(f"masses must be numbers or 'most_common', got {masses!r}")
        atoms.set_masses("most_common")
    elif isinstance(masses, Mapping):
        values = atoms.get_masses()
        for index, mass in masses.items():
            if not 0 <= index < len(atoms):
                raise ValueError(f"masses name atom {index}, but there are {len(atoms)}, 0 to {len(atoms) - 1}")
            values[index] = mass
        atoms.set_masses(values)
    elif masses is not None:
        values = np.asarray(masses, dtype=float)
        if values.shape != (len(atoms),):
            raise ValueError(f"masses have the shape {values.shape}, but there are {len(atoms)} atoms")
        atoms.set_masses(values)
    bad = np.flatnonzero(~(np.isfinite(atoms.get_masses()) & (atoms.get_masses() > 0)))
    if len(bad):
        raise ValueError(f"atom {bad[0]} has the mass {atoms.get_masses()[bad[0]]} u; it must be positive and finite")


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
    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(f"the constraint {type(constraint).__name__} is not supported here; FixAtoms is")
        free[constraint.get_indices()] = False
    if not free.any():
        raise ValueError("all atoms are fixed: nothing is left to vibrate")
    return np.flatnonzero(free)
