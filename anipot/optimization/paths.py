"""Reaction paths: nudged elastic bands through ASE, all images in one call of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.build.rotate import minimize_rotation_and_translation
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.optimize import FIRE
from numpy.typing import NDArray

from anipot import plots
from anipot.derivatives import single_point
from anipot.models import potential_of
from anipot.optimization.inputs import check_frames
from anipot.optimization.run import optimize
from anipot.potential import Potential
from anipot.units import HARTREE_TO_EV

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: eV/Å to which a band relaxes before its highest image climbs.
BEFORE_CLIMBING = 0.3
#: Of the tangents of a band, in the words of ASE.
METHOD = "improvedtangent"


@dataclass(frozen=True)
class ReactionPath:
    """Images along a path, from the reactant to the product.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> start = molecule("NH3")
    >>> end = start.copy()
    >>> end.positions[:, 2] *= -1
    >>> path = anipot.reaction_path(start, end, anipot.load(), images=5)  # an umbrella turns over
    >>> path.converged, path.highest, 0.1 < path.barrier < 0.5
    (True, 2, True)
    """

    #: (I,) with energies and forces in the units of ASE.
    images: list[Atoms]
    #: (I,) eV, relative to the reactant.
    energies: NDArray[np.float64]
    #: Whether the forces at right angles to the band (and all of the climbing image) fell below ``fmax``.
    converged: bool
    #: eV/Å, the largest of them.
    fmax: float
    #: Steps of the band.
    steps: int

    @property
    def highest(self) -> int:
        """Number of the highest image."""
        return int(self.energies.argmax())

    @property
    def barrier(self) -> float:
        """eV, from the reactant to the highest image."""
        return float(self.energies.max())

    @property
    def reverse_barrier(self) -> float:
        """eV, from the product to the highest image."""
        return float(self.energies.max() - self.energies[-1])

    @property
    def lengths(self) -> NDArray[np.float64]:
        """(I,) Å, lengths of the path up to each image."""
        positions = np.stack([image.positions for image in self.images])
        return np.concatenate([[0.0], np.linalg.norm(np.diff(positions, axis=0), axis=(1, 2)).cumsum()])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot energies along the path, with slopes that follow from the forces."""
        from ase.utils.forcecurve import fit_images

        ax = plots.axes_or_new(ax)
        fit = fit_images(self.images)
        ax.plot(fit.fit_path, fit.fit_energies, color="0.6", linewidth=1)
        ax.plot(fit.path, fit.energies, "o", markersize=4)
        ax.set(xlabel="length of the path (Å)", ylabel="energy (eV)")
        ax.set_title(f"barrier {self.barrier:.3f} eV, reverse {self.reverse_barrier:.3f} eV")
        return ax


class BatchedNEB(NEB):
    """``ase.mep.NEB`` whose images are computed in one call of the model.

    Parameters
    ----------
    images
        All, ends included.
    model
        The potential.
    options
        As for ``ase.mep.NEB``.
    """

    def __init__(self, images: Sequence[Atoms], model: Potential, **options: Any) -> None:
        super().__init__(list(images), **options)
        self.model = model
        compute(self.images, model)

    def get_forces(self) -> NDArray[np.float64]:
        """Return the forces of the band ((I − 2) A, 3), eV/Å."""
        turn = self.remove_rotation_and_translation
        if turn:
            for before, image in zip(self.images[:-1], self.images[1:], strict=True):
                minimize_rotation_and_translation(before, image)
        compute(self.images, self.model)
        self.remove_rotation_and_translation = False  # done
        try:
            return super().get_forces()
        finally:
            self.remove_rotation_and_translation = turn


def compute(images: Sequence[Atoms], model: Potential) -> None:
    """Give images of the same atoms calculators that hold energies and forces, from one call of the model."""
    device, first = model.device, images[0]
    species = torch.as_tensor(first.numbers, dtype=torch.long, device=device)[None]
    species = species if model.periodic_table_index else model.converter.convert(species)
    coordinates = torch.tensor(np.stack([image.positions for image in images]), device=device)
    cell = pbc = None
    if first.pbc.any():
        cell = torch.tensor(np.stack([image.cell.array for image in images]), device=device)
        pbc = torch.tensor(first.pbc, device=device)
    result = single_point(model, species.repeat(len(images), 1), coordinates, cell, pbc)
    assert result.forces is not None
    energies = result.energies.cpu().numpy() * HARTREE_TO_EV
    forces = result.forces.double().cpu().numpy() * HARTREE_TO_EV
    for image, energy, force in zip(images, energies, forces, strict=True):
        image.calc = SinglePointCalculator(image, energy=float(energy), forces=force)


def reaction_path(
    start: Atoms,
    end: Atoms,
    model: torch.nn.Module | str,
    *,
    images: int = 9,
    fmax: float = 0.05,
    steps: int = 1000,
    climb: bool = True,
    relax_ends: bool = True,
    between: Atoms | None = None,
) -> ReactionPath:
    """Return the minimum energy path between two structures by a climbing nudged elastic band.

    The band is laid by the image dependent pair potential (doi:10.1063/1.4878664), relaxed by ASE with improved
    tangents (doi:10.1063/1.1323224), and then its highest image climbs to the saddle point (doi:10.1063/1.1329672).

    Parameters
    ----------
    start, end
        The same atoms in the same order.
    model
        A ``Potential``, or a name or path for ``anipot.load``.
    images
        Number of images, ends included.
    fmax
        eV/Å for the forces on the band.
    steps
        Most steps of the band.
    climb
        Whether the highest image climbs.
    relax_ends
        Whether start and end are relaxed first.
    between
        A guess of the saddle point, through which the first band is laid.

    Returns
    -------
    ReactionPath

    Raises
    ------
    ValueError
        For structures of other atoms or cells, fewer than three images, ends that do not relax or relax into one and
        the same minimum, and what the model cannot compute.

    Examples
    --------
    See ``ReactionPath``.
    """
    potential = potential_of(model)
    ends = [start.copy(), end.copy()]
    _check_ends(ends, between, images)
    check_frames([*ends, *([] if between is None else [between])], potential, cell=False)
    if relax_ends:
        ends = _relaxed(ends, potential)
    molecule = not any(atoms.pbc.any() or atoms.constraints for atoms in ends)
    if molecule:
        minimize_rotation_and_translation(*ends)
    if np.abs(ends[0].positions - ends[1].positions).max() < 0.05:
        raise ValueError("start and end are the same structure; a path needs two minima")
    band = _band(ends, between, images, molecule)
    options = {"method": METHOD, "remove_rotation_and_translation": molecule}
    neb = BatchedNEB(band, potential, climb=False, **options)
    optimizer = FIRE(neb, logfile=None)
    if climb:
        optimizer.run(fmax=max(fmax, BEFORE_CLIMBING), steps=steps)
        neb.climb = True
    left = steps - optimizer.nsteps
    converged = bool(optimizer.run(fmax=fmax, steps=left)) if left > 0 else False
    largest = float(np.linalg.norm(neb.get_forces(), axis=1).max())
    energies = np.array([image.get_potential_energy() for image in neb.images])
    return ReactionPath(list(neb.images), energies - energies[0], converged, largest, optimizer.nsteps)


def _check_ends(ends: Sequence[Atoms], between: Atoms | None, images: int) -> None:
    if images < 3:
        raise ValueError(f"a path takes at least 3 images, got {images}")
    for name, atoms in (("end", ends[1]), ("between", between)):
        if atoms is None:
            continue
        if not np.array_equal(ends[0].numbers, atoms.numbers):
            raise ValueError(
                f"start has the atoms {ends[0].symbols}, {name} {atoms.symbols}; they must be the same in one order"
            )
        if not np.allclose(ends[0].cell.array, atoms.cell.array) or (ends[0].pbc != atoms.pbc).any():
            raise ValueError(f"start and {name} have other cells or periodic axes")


def _relaxed(ends: Sequence[Atoms], model: Potential) -> list[Atoms]:
    found = optimize(list(ends), model)
    for name, one in zip(("start", "end"), found, strict=True):
        if not one.converged:
            raise ValueError(f"{name} did not relax: {one.why}")
    return [one.atoms for one in found]


def _band(ends: Sequence[Atoms], between: Atoms | None, images: int, molecule: bool) -> list[Atoms]:
    """Return the first band."""
    stops = [ends[0], ends[1]] if between is None else [ends[0], between.copy(), ends[1]]
    if between is not None and molecule:
        minimize_rotation_and_translation(stops[0], stops[1])
        minimize_rotation_and_translation(stops[1], stops[2])
    half = (images - 1) // (len(stops) - 1)
    counts = [images - 1] if between is None else [half, images - 1 - half]
    band = [stops[0]]
    for first, last, count in zip(stops[:-1], stops[1:], counts, strict=True):
        part = [first.copy() for _ in range(count)] + [last.copy()]
        if count > 1:  # or there is nothing between them
            NEB(part, method=METHOD).interpolate("idpp", mic=bool(first.pbc.any()))
        band += part[1:]
    return band
