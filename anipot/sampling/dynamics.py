"""Langevin dynamics that stops where the committee no longer agrees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.memory import blocks_of_atoms
from anipot.frames import fixed_atoms
from anipot.interfaces.ase import Calculator
from anipot.sampling.committee import disagreement
from anipot.sampling.geometry import collides


@dataclass(frozen=True)
class Run:
    """How a trajectory ended.

    Attributes
    ----------
    steps
        That were made.
    uncertain
        (a, 3) Å, the first geometry with ρ above the threshold; None if there was none.
    rho
        Its ρ, kcal/mol.
    trusted
        (a, 3) Å, the last geometry with ρ below the threshold.
    broken
        Whether atoms ended up inside each other; there is then no uncertain geometry.
    """

    steps: int
    uncertain: NDArray[np.float64] | None
    rho: float
    trusted: NDArray[np.float64]
    broken: bool = False


def until_uncertain(
    calculator: Calculator,
    atoms: Any,
    threshold: float,
    temperature: float,
    rng: np.random.Generator,
    *,
    steps: int = 2000,
    interval: int = 5,
    timestep: float = 0.5,
    friction: float = 0.01,
) -> Run:
    """Run Langevin dynamics from fresh velocities to the first geometry on which the members disagree.

    Parameters
    ----------
    calculator
        Of an ensemble (``potential.ase()``); forces are those of the mean.
    atoms
        ``ase.Atoms`` where to start; not changed.
    threshold
        ρ = σ/√N, kcal/mol.
    temperature
        K.
    rng
        Where velocities and noise come from.
    steps
        At most.
    interval
        Steps between two questions to the committee.
    timestep, friction
        fs and 1/fs.

    Returns
    -------
    Run
    """
    atoms = atoms.copy()
    trusted = atoms.positions.copy()
    done, rho = 0, float("inf")
    for done in _langevin(calculator, atoms, temperature, rng, steps, interval, timestep, friction):
        if _is_broken(atoms):
            return Run(done, None, float("inf"), trusted, broken=True)
        rho = float(disagreement(calculator.model, frame(atoms))[0])
        if not rho <= threshold:
            return Run(done, atoms.positions.copy(), rho, trusted)
        trusted = atoms.positions.copy()
    return Run(done, None, rho, trusted)


def snapshots(
    calculator: Calculator,
    atoms: Any,
    temperature: float,
    rng: np.random.Generator,
    *,
    steps: int = 2000,
    interval: int = 5,
    timestep: float = 0.5,
    friction: float = 0.01,
) -> NDArray[np.float64]:
    """Return the geometries (n, a, 3), Å, of a trajectory every ``interval`` steps, without that where it starts.

    It ends early where atoms end up inside each other. Arguments are those of ``until_uncertain``.
    """
    atoms = atoms.copy()
    found = []
    for done in _langevin(calculator, atoms, temperature, rng, steps, interval, timestep, friction):
        if _is_broken(atoms):
            break
        if done:
            found.append(atoms.positions.copy())
    return np.array(found).reshape(-1, len(atoms), 3)


def _langevin(
    calculator: Calculator,
    atoms: Any,
    temperature: float,
    rng: np.random.Generator,
    steps: int,
    interval: int,
    timestep: float,
    friction: float,
) -> Iterator[int]:
    """Move atoms, and yield how many steps were made: at the start, after every ``interval`` and at the end."""
    from ase import units
    from ase.md.langevin import Langevin

    atoms.calc = calculator
    draw_momenta(atoms, temperature, rng)
    dynamics = Langevin(
        atoms, timestep * units.fs, temperature_K=temperature, friction=friction / units.fs, rng=rng, fixcm=False
    )
    done = 0
    yield done
    while done < steps:
        dynamics.run(min(interval, steps - done))
        done += min(interval, steps - done)
        yield done


def frame(atoms: Any) -> Block:
    """Return ``ase.Atoms`` as a block of one structure without labels."""
    bare = atoms.copy()  # leaves the calculator behind
    return blocks_of_atoms([bare], {})[0][0]


def _is_broken(atoms: Any) -> bool:
    """Whether positions are no numbers, or atoms of a free molecule stand inside each other."""
    if not np.isfinite(atoms.positions).all():
        return True
    return not atoms.pbc.any() and bool(collides(atoms.numbers, atoms.positions[None])[0])


def draw_momenta(atoms: Any, temperature: float, rng: np.random.Generator) -> None:
    """Draw momenta, then take out the drift and, of a free molecule, the rotation, without scaling up the rest.

    Where atoms are fixed nothing is taken out: they hold the others, whose drift and rotation are vibrations.
    """
    from ase.md import velocitydistribution as ase_velocities

    draw = getattr(ase_velocities, "thermalize_momenta", None) or ase_velocities.MaxwellBoltzmannDistribution
    draw(atoms, temperature_K=temperature, rng=rng)
    if len(fixed_atoms(atoms)):
        return
    ase_velocities.Stationary(atoms, preserve_temperature=False)
    if not atoms.pbc.any() and len(atoms) > 1:
        with np.errstate(divide="ignore", invalid="ignore"):  # a linear molecule has a moment of inertia of zero
            ase_velocities.ZeroRotation(atoms, preserve_temperature=False)
