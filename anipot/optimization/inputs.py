"""Checks of systems before anything is relaxed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from anipot.elements import symbol
from anipot.frames import free_atoms
from anipot.interfaces.ase import total_charge
from anipot.potential import Potential
from anipot.structures import check_charge


def check_frames(frames: Sequence[Atoms], model: Potential, cell: bool) -> None:
    """Refuse systems that cannot be relaxed.

    Raises
    ------
    ValueError
        Naming the system: for elements that the model does not know, coordinates that are not finite, charges,
        constraints other than ``FixAtoms``, and cells without a volume where cells relax.
    """
    for i, atoms in enumerate(frames):
        name = f"system {i} ({atoms.get_chemical_formula()})"
        for j, number in enumerate(atoms.numbers):
            if symbol(int(number)) not in model.elements:
                known = ", ".join(model.elements)
                raise ValueError(f"{name}: atom {j} is {symbol(int(number))}; this model knows {known}")
        bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        if len(bad):
            where = atoms.positions[bad[0]].tolist()
            raise ValueError(f"{name}: atom {bad[0]} stands at {where}; expected finite coordinates in Å")
        if cell and not (atoms.pbc.any() and atoms.cell.rank == 3):
            raise ValueError(
                f"{name}: pbc is {atoms.pbc.tolist()} and the cell {atoms.cell.array.tolist()}; cells that relax must "
                "repeat, and have a volume"
            )
        try:
            check_charge(total_charge(atoms))
            free_atoms(atoms)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
