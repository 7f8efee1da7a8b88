"""Systems under way, side by side in a padded batch whose rows can be given to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from anipot.derivatives import SinglePoint, single_point
from anipot.frames import free_atoms
from anipot.optimization.cells import LEAD, Cells
from anipot.potential import Potential
from anipot.units import HARTREE_TO_EV


class Values(NamedTuple):
    """Of all rows. Å, Hartree."""

    #: (B,) energies, or enthalpies under pressure, and what pushes the coordinates ``x``, (B, R, 3); 0 where held.
    energies: Tensor
    forces: Tensor
    coordinates: Tensor
    cell: Tensor | None
    #: Energies and forces as the model gives them.
    result: SinglePoint
    #: What is wrong with a row, by its number.
    errors: dict[int, str]


class Batch:
    """Systems in rows of equal width.

    Parameters
    ----------
    frames
        All systems there are.
    which
        Those that begin, the largest first.
    model
        The potential.
    pressure
        Hartree/Å³ on cells that relax; None where cells stay.
    """

    def __init__(self, frames: Sequence[Atoms], which: Sequence[int], model: Potential, pressure: float | None) -> None:
        self.frames, self.model = frames, model
        #: The system in each row; None for an idle row.
        self.rows: list[int | None] = list(which)
        self.lead = 0 if pressure is None else LEAD
        shape, device = (len(which), len(frames[which[0]])), model.device
        self.numbers = torch.full(shape, -1, device=device)
        self.species = self.numbers.clone()
        self.free = torch.zeros(shape, dtype=torch.bool, device=device)
        self.x = torch.zeros(shape[0], self.lead + shape[1], 3, dtype=torch.float64, device=device)
        self.before = self.x
        periodic = any(atoms.pbc.any() for atoms in frames)
        self.cell = self.x.new_zeros(shape[0], 3, 3) if periodic else None
        self.pbc = torch.zeros(shape[0], 3, dtype=torch.bool, device=device) if periodic else None
        self.cells = None
        if pressure is not None and self.cell is not None:
            self.cells = Cells(self.cell, self.x.new_ones(shape[0]), pressure)
        for row, index in enumerate(which):
            self.put(row, index)

    @property
    def width(self) -> int:
        """Places for atoms in a row."""
        return self.numbers.shape[1]

    @property
    def needed(self) -> int:
        """Places for atoms that the largest system takes."""
        return max((len(self.frames[index]) for index in self.rows if index is not None), default=0)

    def put(self, row: int, index: int) -> None:
        """Hold a system in a row, from its start."""
        atoms, n = self.frames[index], len(self.frames[index])
        self.clear(row)
        self.rows[row] = index
        device = self.x.device
        self.numbers[row, :n] = torch.as_tensor(atoms.numbers, dtype=torch.long, device=device)
        species = self.numbers[row, :n]
        self.species[row, :n] = species if self.model.periodic_table_index else self.model.converter.convert(species)
        self.free[row, torch.as_tensor(free_atoms(atoms), device=device)] = True
        self.x[row, self.lead : self.lead + n] = torch.as_tensor(atoms.positions, device=device)
        if self.cell is not None and self.pbc is not None:
            self.cell[row] = torch.as_tensor(atoms.cell.array, device=device)
            self.pbc[row] = torch.as_tensor(atoms.pbc, device=device)
        if self.cells is not None:
            self.cells.scale[row] = n

    def clear(self, row: int) -> None:
        """Leave a row idle: nothing but ghosts, which cost next to nothing."""
        self.rows[row] = None
        self.numbers[row] = self.species[row] = -1
        self.free[row] = False
        self.x[row] = 0.0

    def move(self, x: Tensor) -> None:
        """Go to other coordinates, and remember the present ones."""
        self.x, self.before = x, self.x

    def keep(self, rows: Tensor, width: int) -> None:
        """Go on with some rows, and with the first places of each."""
        self.rows = [self.rows[row] for row in rows.tolist()]
        self.numbers, self.species = self.numbers[rows, :width], self.species[rows, :width]
        self.free, self.x = self.free[rows, :width], self.x[rows, : self.lead + width]
        self.before = self.before[rows, : self.lead + width]
        if self.cell is not None and self.pbc is not None:
            self.cell, self.pbc = self.cell[rows], self.pbc[rows]
        if self.cells is not None and self.cell is not None:
            self.cells = Cells(self.cell, self.cells.scale[rows, 0, 0], self.cells.pressure)

    def evaluate(self) -> Values:
        """Return energies and forces at ``x``; a row that cannot be computed gets NaN and does not disturb others."""
        return self._evaluate(self.x, None)

    def evaluate_row(self, row: int, x: Tensor) -> Values:
        """Return the same of one row at other coordinates (B, R, 3), and NaN of all others."""
        return self._evaluate(x, [row])

    def _evaluate(self, x: Tensor, only: Sequence[int] | None) -> Values:
        coordinates, cell = x, self.cell
        if self.cells is not None:
            coordinates, cell = self.cells.geometry(x)
        errors: dict[int, str] = {}
        try:
            if only is not None:
                result, errors = self._one_by_one(coordinates, cell, only)
            else:
                result = self._single_point(coordinates, cell, slice(None))
        except ValueError:
            result, errors = self._one_by_one(coordinates, cell, range(len(coordinates)))
        assert result.forces is not None
        energies, forces = result.energies, torch.where(self.free[..., None], result.forces, 0.0)
        if self.cells is not None and cell is not None and result.stress is not None:
            energies = self.cells.energies(energies, cell)
            forces = self.cells.forces(x, forces, result.stress, cell)
        return Values(energies, forces, coordinates, cell, result, errors)

    def _single_point(self, coordinates: Tensor, cell: Tensor | None, rows: slice) -> SinglePoint:
        cell, pbc = (None if part is None else part[rows] for part in (cell, self.pbc))
        stress = self.cells is not None
        return single_point(self.model, self.species[rows], coordinates[rows], cell, pbc, stress=stress)

    def _one_by_one(
        self, coordinates: Tensor, cell: Tensor | None, rows: Iterable[int]
    ) -> tuple[SinglePoint, dict[int, str]]:
        energies = coordinates.new_full((len(coordinates),), torch.nan)
        forces = torch.full_like(coordinates, torch.nan)
        stress = coordinates.new_full((len(coordinates), 3, 3), torch.nan)
        errors = {}
        for row in rows:
            try:
                found = self._single_point(coordinates, cell, slice(row, row + 1))
            except ValueError as error:
                errors[row] = str(error).removeprefix("molecule 0: ").removeprefix("molecule 0, ")
                continue
            energies[row], forces[row] = found.energies[0], found.forces[0]  # type: ignore[index]
            if found.stress is not None:
                stress[row] = found.stress[0]
        return SinglePoint(self.species, energies, forces, stress if self.cells is not None else None), errors

    def atoms(self, row: int, values: Values, with_results: bool = True) -> Atoms:
        """Return a copy of the system in a row as it is now, with a calculator that holds what was computed."""
        index = self.rows[row]
        assert index is not None
        atoms = self.frames[index].copy()
        if values.cell is not None and atoms.pbc.any():
            atoms.set_cell(values.cell[row].cpu().numpy())
        atoms.positions = values.coordinates[row, : len(atoms)].cpu().numpy()
        if with_results:
            result = values.result
            found: dict[str, np.ndarray | float] = {"energy": float(result.energies[row]) * HARTREE_TO_EV}
            found["free_energy"] = found["energy"]
            found["forces"] = result.forces[row, : len(atoms)].double().cpu().numpy() * HARTREE_TO_EV  # type: ignore[index]
            if result.stress is not None:
                stress = result.stress[row].double().cpu().numpy() * HARTREE_TO_EV
                found["stress"] = full_3x3_to_voigt_6_stress(stress)
            atoms.calc = SinglePointCalculator(atoms, **found)
        return atoms
