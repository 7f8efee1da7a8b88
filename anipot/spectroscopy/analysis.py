"""Normal modes of molecules and of what stands on surfaces, many at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from tqdm import tqdm

from anipot.frames import Systems, frames_of, free_atoms
from anipot.models import potential_of
from anipot.optimization import optimize as optimize_all
from anipot.optimization.inputs import check_frames
from anipot.potential import Potential
from anipot.spectroscopy.hessians import Batch, Derivatives, batches, curvatures, derivatives_of
from anipot.spectroscopy.infrared import dipole_name, intensities
from anipot.spectroscopy.modes import NormalModes
from anipot.spectroscopy.rigid import parts_of, rigid_motions
from anipot.spectroscopy.systems import Masses, set_masses
from anipot.units import HARTREE_TO_EV, MHESSIAN_TO_FCONST, SQRT_MHESSIAN_TO_INVERSE_CM
from anipot.vibrations import modes_outside

#: Forces (eV/Å) above which a geometry is no stationary point, and its frequencies mean little.
LARGE_FORCE = 0.05
#: eV/Å to which geometries are relaxed.
FMAX = 1e-3


def normal_modes(
    systems: Systems,
    model: torch.nn.Module | str,
    *,
    optimize: bool = False,
    fmax: float = FMAX,
    masses: Masses | Sequence[Masses] = None,
    members: bool = False,
    infrared: bool | str = "auto",
    progress: bool = False,
) -> list[NormalModes]:
    """Return frequencies, modes, reduced masses and force constants of systems at their stationary points.

    The mass-weighted Hessian M^(−1/2) H M^(−1/2) is diagonalised outside the motions that cost no energy, which are
    exact zeros and left out: translations and rotations of a molecule, and of each part that is farther than the
    cutoff from all others. Frequencies are √λ/(2π), harmonic, and stand above observed ones by some 4 % (stretches of
    hydrogen) for that reason alone.

    Parameters
    ----------
    systems
        ``Atoms``, a list of them, the name of a file, or species (B, A) and coordinates (B, A, 3) of a padded batch.
        Atoms held by ``FixAtoms`` do not move: frequencies are those of the rest (partial Hessian,
        doi:10.1007/s00214-001-0345-0). Modes of periodic systems are those at Γ.
    model
        A ``Potential``, or a name or path for ``anipot.load``. At one geometry float32 networks cost thousandths of
        cm⁻¹, but relaxations end a little beside the minimum, which soft modes feel.
    optimize
        Whether to relax the systems first.
    fmax
        eV/Å; up to which force.
    masses
        u: None for those of the ``Atoms`` (standard weights unless they have others), ``"most_common"`` for the most
        common isotopes, a number for each atom, or a mapping of some, ``{1: 2.0141}``. A list of such gives each
        system its own.
    members
        Whether to compute the Hessians of all members of an ensemble too, as an error bar on each frequency: the spread
        of √(v·H_m v/μ) with the modes v of the mean. Along fixed modes members need no matching, where crossings would
        decide which frequency is compared with which, and their mean curvature is exactly that of the ensemble. The
        members' own minima, and how they mix modes, are left out.
    infrared
        Whether to compute infrared intensities; ``"auto"`` where the model has a property head named "dipole", another
        string is the name of that head.
    progress
        Whether to show a bar.

    Returns
    -------
    list of NormalModes
        In the order of the systems.

    Raises
    ------
    TypeError, ValueError
        For systems that cannot be computed, naming them; for ``members`` of a single model; for ``infrared`` without a
        dipole, or of a periodic system.
    RuntimeError
        If a system does not relax.

    Warns
    -----
    UserWarning
        For a geometry that is no stationary point, and for a system that falls into parts.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> water, nitrogen = anipot.normal_modes([molecule("H2O"), molecule("N2")], anipot.load(), optimize=True)
    >>> len(water.frequencies), len(nitrogen.frequencies)
    (3, 1)
    """
    potential = potential_of(model)
    frames = frames_of(systems)
    check_frames(frames, potential, cell=False)
    if members and len(potential) < 2:
        raise ValueError("members=True needs an ensemble, but this model has one member")
    each = _one_each(masses, len(frames))
    for i, atoms in enumerate(frames):
        try:
            set_masses(atoms, each[i])
        except ValueError as error:
            raise ValueError(f"system {i}: {error}") from error
    dipole = dipole_name(potential, infrared, frames)
    if optimize:
        frames = _relaxed(frames, potential, fmax, progress)
    found: dict[int, NormalModes] = {}
    with tqdm(total=len(frames), desc="normal modes", disable=not progress) as bar:
        for batch in batches(frames, potential):
            here = [frames[i] for i in batch.indices]
            found |= zip(batch.indices, _of_batch(potential, batch, here, dipole, members), strict=True)
            bar.update(len(here))
    return [_looked_at(i, found[i]) for i in range(len(frames))]


def _one_each(masses: Any, count: int) -> list[Any]:
    """Return the masses of each system; a list of numbers, or anything but a list, is for all."""
    if not isinstance(masses, list | tuple) or all(isinstance(mass, int | float) for mass in masses):
        return [masses] * count
    if len(masses) != count:
        raise ValueError(f"there are masses for {len(masses)} systems, but {count} systems")
    return list(masses)


def _relaxed(frames: list[Atoms], model: Potential, fmax: float, progress: bool) -> list[Atoms]:
    found = optimize_all(frames, model, fmax=fmax, progress=progress)
    for i, one in enumerate(found):
        if not one.converged:
            formula = one.atoms.get_chemical_formula()
            raise RuntimeError(f"system {i} ({formula}) did not relax to {fmax:g} eV/Å: {one.why}")
        one.atoms.calc = None
    return [one.atoms for one in found]


def _of_batch(
    model: Potential, batch: Batch, frames: list[Atoms], dipole: str | None, members: bool
) -> list[NormalModes]:
    sizes = [len(atoms) for atoms in frames]
    found = [
        _analyse(model, atoms, derivatives)
        for atoms, derivatives in zip(frames, derivatives_of(model, batch, sizes, dipole), strict=True)
    ]
    if not members:
        return found
    lines: list[list[NDArray[np.float64]]] = [[] for _ in found]
    for member in curvatures(model, batch, [one.modes for one in found]):
        for line, one, curvature in zip(lines, found, member, strict=True):
            line.append(_frequencies(curvature / one.reduced_masses))
    return [_with_members(one, line) for one, line in zip(found, lines, strict=True)]


def _analyse(model: Potential, atoms: Atoms, values: Derivatives) -> NormalModes:
    """Diagonalise one Hessian."""
    free = free_atoms(atoms)
    parts = parts_of(model, atoms)
    rows = (3 * free[:, None] + np.arange(3)).ravel()
    root = np.sqrt(atoms.get_masses()[free]).repeat(3)
    weighted = values.hessian[np.ix_(rows, rows)] / root[:, None] / root[None, :]
    rigid = rigid_motions(atoms.get_masses(), free, parts)
    eigenvalues, vectors = modes_outside(torch.from_numpy(weighted), torch.from_numpy(rigid))
    displacements = vectors.numpy().T / root  # (m, 3f)
    reduced_masses = 1 / (displacements**2).sum(-1)
    modes = np.zeros((len(displacements), len(atoms), 3))
    modes[:, free] = (displacements * np.sqrt(reduced_masses)[:, None]).reshape(len(modes), len(free), 3)
    return NormalModes(
        atoms=atoms,
        energy=values.energy * HARTREE_TO_EV,
        fmax=float(np.linalg.norm(values.forces[free], axis=-1).max()) * HARTREE_TO_EV,
        hessian=values.hessian,
        frequencies=_frequencies(eigenvalues.numpy()),
        reduced_masses=reduced_masses,
        force_constants=eigenvalues.numpy() * reduced_masses * MHESSIAN_TO_FCONST,
        modes=modes,
        free=free,
        parts=[part.atoms for part in parts],
        intensities=None if values.polar is None else intensities(values.polar, modes, reduced_masses),
        model=model.name,
    )


def _with_members(modes: NormalModes, frequencies: list[NDArray[np.float64]]) -> NormalModes:
    return replace(modes, members=np.stack(frequencies))


def _frequencies(eigenvalues: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return cm⁻¹, negative for imaginary ones, of eigenvalues in Hartree/(Å² u)."""
    return np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * SQRT_MHESSIAN_TO_INVERSE_CM


def _looked_at(index: int, modes: NormalModes) -> NormalModes:
    """Warn of what makes frequencies mean little."""
    name = f"system {index} ({modes.atoms.get_chemical_formula()})"
    if modes.fmax > LARGE_FORCE:
        warnings.warn(
            f"{name} is no stationary point: forces reach {modes.fmax:.3f} eV/Å; relax it first (optimize=True)",
            stacklevel=3,
        )
    if len(modes.parts) > 1 and len(modes.free) == len(modes.atoms):
        sizes = ", ".join(str(len(part)) for part in modes.parts)
        warnings.warn(
            f"{name} falls into {len(modes.parts)} parts of {sizes} atoms that do not feel each other; their motions "
            "against each other are no vibrations and are left out",
            stacklevel=3,
        )
    return modes
