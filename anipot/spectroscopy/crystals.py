"""Phonons of crystals: exact force constants, and phonopy for the rest. Needs phonopy, ``anipot[phonons]``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import ArrayLike, NDArray

from anipot.derivatives import single_point
from anipot.lattice import heights
from anipot.models import potential_of
from anipot.plots import axes_or_new
from anipot.potential import Potential
from anipot.spectroscopy.analysis import LARGE_FORCE
from anipot.units import HARTREE_TO_EV, SPEED_OF_LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: phonopy's frequencies are in THz.
THZ_TO_INVERSE_CM = 1e12 / (SPEED_OF_LIGHT * 100)


@dataclass(frozen=True, eq=False)
class Phonons:
    """Lattice vibrations of a crystal; ``anipot.phonons`` makes it. Whatever phonopy can do, ``phonopy`` does."""

    #: The ``phonopy.Phonopy``, with force constants in eV/Å².
    phonopy: Any
    #: The unit cell.
    atoms: Atoms
    #: Largest force on an atom, eV/Å.
    fmax: float

    def frequencies(self, q_points: ArrayLike = ((0.0, 0.0, 0.0),)) -> NDArray[np.float64]:
        """Return cm⁻¹ (Q, 3n), imaginary ones negative, at wave vectors (Q, 3) in units of the reciprocal cell."""
        self.phonopy.run_qpoints(np.asarray(q_points, dtype=float))
        return np.asarray(self.phonopy.qpoints.frequencies) * THZ_TO_INVERSE_CM

    def density(self, mesh: float | Sequence[int] = 60.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return wavenumbers (P,), cm⁻¹, and the density of states (P,), 1/cm⁻¹ and per unit cell.

        ``mesh`` are numbers of wave vectors along the axes of the reciprocal cell, or a length in Å from which they
        follow.
        """
        self.phonopy.run_mesh(mesh, is_gamma_center=True)
        self.phonopy.run_total_dos()
        found = self.phonopy.total_dos
        return (
            np.asarray(found.frequency_points) * THZ_TO_INVERSE_CM,
            np.asarray(found.dos) / THZ_TO_INVERSE_CM,
        )

    def thermal(self, temperatures: ArrayLike, mesh: float | Sequence[int] = 60.0) -> dict[str, NDArray[np.float64]]:
        """Return harmonic ``free_energy`` (eV), ``entropy`` and ``heat_capacity`` (eV/K), each (T,), of a unit cell.

        The free energy is without the potential energy. Raises ``ValueError`` where there are imaginary modes.
        """
        self.phonopy.run_mesh(mesh, is_gamma_center=True)
        lowest = float(self.phonopy.mesh.frequencies.min()) * THZ_TO_INVERSE_CM
        if lowest < -1.0:
            raise ValueError(f"there are imaginary modes, down to {-lowest:.1f}i cm^-1: this crystal is no minimum")
        self.phonopy.run_thermal_properties(temperatures=np.asarray(temperatures, dtype=float), cutoff_frequency=1e-3)
        found = self.phonopy.thermal_properties
        joule = units.J / units.mol  # eV
        return {
            "free_energy": np.asarray(found.free_energy) * 1000 * joule,
            "entropy": np.asarray(found.entropy) * joule,
            "heat_capacity": np.asarray(found.heat_capacity) * joule,
        }

    def plot(self, path: str | None = None, points: int = 200, ax: Axes | None = None) -> Axes:
        """Draw the bands along a ``path`` such as "GXWKGL", by default that of ASE for this lattice."""
        ax = axes_or_new(ax)
        band = self.atoms.cell.bandpath(path, npoints=points)
        x, places, names = band.get_linear_kpoint_axis()
        ax.plot(x, self.frequencies(band.kpts), color="C0", linewidth=1)
        ax.set_xticks(places, [name.replace("G", "Γ") for name in names])
        for place in places:
            ax.axvline(place, color="0.8", linewidth=0.6, zorder=0)
        ax.axhline(0, color="0.6", linewidth=0.6)
        ax.set(ylabel="wavenumber, cm$^{-1}$", xlim=(x[0], x[-1]))
        return ax


def phonons(atoms: Atoms, model: torch.nn.Module | str, supercell: ArrayLike | None = None) -> Phonons:
    """Return the phonons of a crystal.

    Force constants are the exact Hessian of a supercell, in one call and without displacements. They give the right
    frequencies at wave vectors that fit into it, and interpolate between these. Atoms of a local model such as ANI move
    each other up to twice its cutoff; supercells are to be made larger until bands stand still.

    Parameters
    ----------
    atoms
        A unit cell, periodic along all three axes, at its minimum.
    model
        A ``Potential``, or a name or path for ``anipot.load``; float64 networks are worth it.
    supercell
        (3,) multiples of the axes, or a (3, 3) matrix of integers. By default the least multiples with which the
        supercell is twice the cutoff wide.

    Raises
    ------
    ImportError
        Without phonopy.
    ValueError
        If ``atoms`` are not periodic along all axes.

    Warns
    -----
    UserWarning
        For a geometry that is no stationary point.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import bulk
    >>> diamond = phonons(bulk("C"), anipot.load(), (2, 2, 2))
    >>> diamond.frequencies([[0, 0, 0], [0.5, 0, 0.5]]).shape
    (2, 6)
    """
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError as error:
        raise ImportError("phonons need phonopy: pip install anipot[phonons]") from error
    potential = potential_of(model)
    if not atoms.pbc.all():
        raise ValueError(f"phonons need a crystal, periodic along all axes; these atoms have pbc {atoms.pbc.tolist()}")
    cell = PhonopyAtoms(
        symbols=list(atoms.symbols), cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )  # fmt: skip
    multiples = _least(atoms, potential.cutoff) if supercell is None else supercell
    found = Phonopy(cell, supercell_matrix=_matrix(multiples), primitive_matrix=np.eye(3))
    whole = found.supercell
    constants, fmax = _force_constants(potential, whole.numbers, whole.positions, whole.cell)
    if fmax > LARGE_FORCE:
        warnings.warn(
            f"{atoms.get_chemical_formula()} is no stationary point: forces reach {fmax:.3f} eV/Å; relax it first",
            stacklevel=2,
        )
    found.force_constants = constants
    return Phonons(found, atoms.copy(), fmax)


def _matrix(multiples: ArrayLike) -> NDArray[np.int64]:
    """Return the integers (3, 3) that three multiples stand for, or the matrix itself."""
    given = np.asarray(multiples)
    matrix = np.diag(given) if given.shape == (3,) else given
    if matrix.shape != (3, 3) or not (matrix == np.round(matrix)).all() or np.linalg.det(matrix) < 0.5:
        raise ValueError(
            f"a supercell is three multiples, or a 3 × 3 matrix of integers with a volume above 0, got {given.tolist()}"
        )
    return matrix.astype(np.int64)


def _least(atoms: Atoms, cutoff: float) -> NDArray[np.int64]:
    wide = heights(torch.as_tensor(atoms.cell.array)[None])[0].numpy()
    return np.array([math.ceil(2 * cutoff / height - 1e-9) for height in wide])


def _force_constants(model: Potential, numbers: Any, positions: Any, cell: Any) -> tuple[NDArray[np.float64], float]:
    """Return (N, N, 3, 3) eV/Å² and the largest force, eV/Å."""
    species = torch.as_tensor(np.asarray(numbers), dtype=torch.long, device=model.device)[None]
    if not model.periodic_table_index:
        species = model.converter.convert(species)
    coordinates = torch.as_tensor(np.asarray(positions, dtype=float), device=model.device)[None]
    lattice = torch.as_tensor(np.asarray(cell, dtype=float), device=model.device)
    pbc = torch.ones(3, dtype=torch.bool, device=model.device)
    result = single_point(model, species, coordinates, lattice, pbc, hessian=True)
    assert result.hessian is not None
    assert result.forces is not None
    n = len(numbers)
    hessian = result.hessian[0].double().cpu().numpy().reshape(n, 3, n, 3) * HARTREE_TO_EV
    fmax = float(result.forces[0].norm(dim=-1).max()) * HARTREE_TO_EV
    return np.ascontiguousarray(hessian.transpose(0, 2, 1, 3)), fmax
