"""Normal mode sampling, the way ANI-1 got its conformers (doi:10.1039/C6SC05720A, doi:10.1038/sdata.2017.193)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anipot.derivatives import single_point
from anipot.elements import atomic_masses
from anipot.potential import Potential
from anipot.sampling.geometry import collides
from anipot.units import HARTREE_TO_JOULE, MHESSIAN_TO_FCONST
from anipot.vibrations import vibrational_analysis

#: Boltzmann constant, Hartree/K (CODATA 2014).
BOLTZMANN = 1.38064852e-23 / HARTREE_TO_JOULE
#: Modes are taken to be at least this stiff, mDyne/Å; along softer ones a straight line leads far away.
SOFTEST = 0.01
#: Conformers with an atom moved farther than this, Å, are dropped: a normal mode is no path there.
FARTHEST = 2.0


@dataclass(frozen=True)
class NormalModes:
    """A molecule at a minimum and how it swings.

    Attributes
    ----------
    numbers
        (a,) atomic numbers.
    coordinates
        (a, 3) Å.
    modes
        (m, a, 3) displacements of norm 1; m = 3a − 6, or 3a − 5 for a linear molecule.
    force_constants
        (m,) mDyne/Å along them; negative where this is no minimum.
    """

    numbers: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    modes: NDArray[np.float64]
    force_constants: NDArray[np.float64]


def normal_modes(model: Potential, numbers: NDArray[np.int64], coordinates: NDArray[np.float64]) -> NormalModes:
    """Return the normal modes of a free molecule at a stationary point.

    Parameters
    ----------
    model
        Gives the Hessian.
    numbers, coordinates
        (a,) and (a, 3) Å, relaxed with the model.
    """
    species = torch.as_tensor(numbers, dtype=torch.long, device=model.device)[None]
    if not model.periodic_table_index:
        species = model.converter.convert(species)
    positions = torch.as_tensor(coordinates, dtype=torch.float64, device=model.device)
    result = single_point(model, species, positions[None], forces=False, hessian=True)
    assert result.hessian is not None
    masses = torch.tensor([atomic_masses()[z] for z in numbers], dtype=torch.float64)
    hessian = result.hessian[0].double().cpu()
    found = vibrational_analysis(masses, hessian, "MDN", project=positions.cpu())
    inner = found.freqs != 0  # rigid motions come out as exact zeros
    return NormalModes(
        np.asarray(numbers, dtype=np.int64),
        np.asarray(coordinates, dtype=np.float64),
        found.modes[inner].numpy(),
        found.fconstants[inner].numpy(),
    )


def displaced(
    molecule: NormalModes, temperatures: NDArray[np.float64], rng: np.random.Generator, softest: float = SOFTEST
) -> NDArray[np.float64]:
    """Return one geometry for each temperature, displaced along all modes at once.

    Numbers c_i ≥ 0 with a random sum in [0, 1] share 3/2 N kT, for N atoms, among the modes, so that
    R_i = ±√(3 c_i N kT / K_i).

    Parameters
    ----------
    molecule
        From ``normal_modes``.
    temperatures
        (n,) K.
    rng
        Where the numbers come from.
    softest
        Force constants below this, mDyne/Å, and negative ones count as this.

    Returns
    -------
    array
        (n, a, 3) Å. The harmonic energy of a conformer is Σ c_i · 3/2 N kT where no mode was too soft.
    """
    size = len(temperatures), len(molecule.force_constants)
    if size[1] == 0:  # an atom
        return np.repeat(molecule.coordinates[None], size[0], axis=0)
    shares = rng.dirichlet(np.ones(size[1]), size=size[0]) * rng.random((size[0], 1))
    signs = rng.choice([-1.0, 1.0], size=size)
    constants = np.maximum(molecule.force_constants, softest) / MHESSIAN_TO_FCONST  # Hartree/Å²
    energy = 3 * len(molecule.numbers) * BOLTZMANN * np.asarray(temperatures)[:, None]
    lengths = signs * np.sqrt(shares * energy / constants)
    return molecule.coordinates + np.einsum("nm,max->nax", lengths, molecule.modes)


def conformers(
    molecule: NormalModes, count: int, temperature: tuple[float, float], rng: np.random.Generator, tries: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return conformers by normal mode sampling, each at a random temperature.

    Those with atoms inside each other, or moved farther than ``FARTHEST``, are dropped and drawn again.

    Parameters
    ----------
    molecule
        From ``normal_modes``.
    count
        How many.
    temperature
        Between which temperatures to draw, K.
    rng
        Where the numbers come from.
    tries
        Draws for each conformer; when they are used up there are fewer than ``count``.

    Returns
    -------
    coordinates, temperatures
        (n, a, 3) Å and (n,) K, n ≤ ``count``.
    """
    kept, warmth = [], []
    missing = count
    for _ in range(tries):
        if missing <= 0:
            break
        temperatures = rng.uniform(*temperature, size=count)
        found = displaced(molecule, temperatures, rng)
        moved = np.linalg.norm(found - molecule.coordinates, axis=-1).max(-1)
        good = ~collides(molecule.numbers, found) & (moved <= FARTHEST)
        kept.append(found[good][:missing])
        warmth.append(temperatures[good][:missing])
        missing -= len(kept[-1])
    empty = np.empty((0, *molecule.coordinates.shape))
    return np.concatenate([empty, *kept]), np.concatenate([np.empty(0), *warmth])
