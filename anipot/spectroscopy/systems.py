"""Masses of the atoms: standard weights, isotopes, or given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

#: u: None for standard weights, "most_common", those of all atoms, or of some by their index.
Masses = ArrayLike | Mapping[int, float] | str | None


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
