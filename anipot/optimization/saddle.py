"""Transition states through Sella, with analytic Hessians, and the minima on both sides."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from anipot.frames import free_atoms
from anipot.models import potential_of
from anipot.optimization.inputs import check_frames
from anipot.optimization.paths import compute
from anipot.optimization.result import Optimized
from anipot.optimization.run import optimize
from anipot.potential import Potential
from anipot.units import HARTREE_TO_EV
from anipot.vibrations import vibrational_analysis

#: cm⁻¹; imaginary frequencies smaller than this are rounding, or a rotation of a part about its bond.
IMAGINARY = 30.0
#: Å that the atom which moves most is displaced along the mode before going down on both sides.
DISPLACEMENT = 0.1


@dataclass(frozen=True)
class TransitionState:
    """A saddle point, what moves there, and where it leads."""

    #: With energy and forces in the units of ASE.
    atoms: Atoms
    #: Whether forces fell below ``fmax`` and exactly one mode is imaginary.
    converged: bool
    #: "" if so, else what is wrong.
    why: str
    #: cm⁻¹, imaginary ones as negative numbers, from the lowest up; translations and rotations are left out.
    frequencies: NDArray[np.float64]
    #: (A, 3) displacements along the lowest mode, normalised.
    mode: NDArray[np.float64]
    #: The minima on both sides of the mode, where they were asked for.
    sides: tuple[Optimized, Optimized] | None = None

    @property
    def imaginary(self) -> int:
        """Number of imaginary frequencies."""
        return int((self.frequencies < -IMAGINARY).sum())

    @property
    def barriers(self) -> tuple[float, float] | None:
        """eV, from the minima on both sides."""
        if self.sides is None:
            return None
        top = self.atoms.get_potential_energy()
        first, second = (top - side.atoms.get_potential_energy() for side in self.sides)
        return first, second


def transition_state(
    guess: Atoms,
    model: torch.nn.Module | str,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    sides: bool = True,
) -> TransitionState:
    """Return the saddle point next to a guess, such as the highest image of a ``reaction_path``.

    Sella (doi:10.1021/acs.jctc.2c00395) follows the lowest mode of the Hessian, which comes from the model.

    Parameters
    ----------
    guess
        One molecule, near the transition state. Atoms held by ``FixAtoms`` do not move.
    model
        A ``Potential``, or a name or path for ``anipot.load``.
    fmax
        eV/Å; done when no atom feels a larger force.
    steps
        Most steps.
    sides
        Whether to go down on both sides along the imaginary mode, which says what the state connects.

    Returns
    -------
    TransitionState
        Also where the search did not converge, or ended in a minimum or in a point with several imaginary modes:
        ``converged`` is then False, and ``why`` says so.

    Raises
    ------
    ImportError
        Without Sella, ``pip install anipot[ts]``.
    ValueError
        For systems that cannot be computed, periodic ones, and single atoms.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> flat = molecule("NH3")
    >>> flat.positions[:, 2] = [0.05, 0, 0, 0]  # ammonia turns over through a flat state
    >>> state = anipot.transition_state(flat, anipot.load())        # doctest: +SKIP
    >>> state.converged, state.imaginary                            # doctest: +SKIP
    (True, 1)
    """
    potential = potential_of(model)
    atoms = guess.copy()
    check_frames([atoms], potential, cell=False)
    if atoms.pbc.any():
        raise ValueError("transition_state is for molecules; this system is periodic")
    if len(atoms) < 2:
        raise ValueError("transition_state is for molecules; this is a single atom")
    converged = _follow(atoms, potential, fmax, steps)
    compute([atoms], potential)
    frequencies, mode = _modes(atoms, potential)
    imaginary = int((frequencies < -IMAGINARY).sum())
    largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    why = ""
    if not converged:
        why = f"the largest force is {largest:.3g} eV/Å after {steps} steps"
    elif imaginary != 1:
        lowest = ", ".join(f"{value:.0f}" for value in frequencies[: max(1, imaginary)])
        why = f"{imaginary} modes are imaginary, a transition state has one (lowest: {lowest} cm⁻¹)"
    both = _sides(atoms, mode, potential) if sides and imaginary else None
    return TransitionState(atoms, not why, why, frequencies, mode, both)


def _follow(atoms: Atoms, model: Potential, fmax: float, steps: int) -> bool:
    """Let Sella move the atoms in place, and return whether it converged."""
    try:
        from sella import Sella
    except ImportError as error:
        raise ImportError("transition states need Sella: pip install anipot[ts]") from error
    atoms.calc = model.ase()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what jax and Sella say is not about the molecule
        options: dict[str, Any] = {"logfile": None, "internal": False, "diag_every_n": 5}
        search = Sella(atoms, order=1, hessian_function=_hessian, **options)
        return bool(search.run(fmax=fmax, steps=steps))


def _hessian(atoms: Atoms) -> NDArray[np.float64]:
    """Return the Hessian of the free atoms (3F, 3F), eV/Å²."""
    rows = (3 * free_atoms(atoms)[:, None] + np.arange(3)).ravel()
    return atoms.calc.get_hessian(atoms)[np.ix_(rows, rows)]


def _modes(atoms: Atoms, model: Potential) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the frequencies, cm⁻¹, and the lowest mode (A, 3)."""
    free = free_atoms(atoms)
    rows = (3 * free[:, None] + np.arange(3)).ravel()
    hessian = model.ase().get_hessian(atoms)[np.ix_(rows, rows)]
    whole = len(free) == len(atoms)
    found = vibrational_analysis(
        torch.tensor(atoms.get_masses()[free]),
        torch.tensor(hessian / HARTREE_TO_EV),
        "MDN",
        project=torch.tensor(atoms.positions) if whole else None,
    )
    frequencies = found.freqs.numpy()
    order = np.argsort(frequencies)
    kept = order[frequencies[order] != 0.0] if whole else order  # translations and rotations are exact zeros
    mode = np.zeros((len(atoms), 3))
    mode[free] = found.modes[kept[0]].numpy()
    return frequencies[kept], mode


def _sides(atoms: Atoms, mode: NDArray[np.float64], model: Potential) -> tuple[Optimized, Optimized]:
    """Go down on both sides of the mode."""
    step = DISPLACEMENT * mode / np.linalg.norm(mode, axis=1).max()
    starts = [atoms.copy(), atoms.copy()]
    for start, sign in zip(starts, (1, -1), strict=True):
        start.positions += sign * step
    first, second = optimize(starts, model)
    return first, second
