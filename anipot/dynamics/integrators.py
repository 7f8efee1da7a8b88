"""The integrators of ASE for the settings of a run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import units

from anipot.dynamics.settings import Settings
from anipot.dynamics.temperature import unheld_degrees
from anipot.dynamics.trajectory import Trajectory
from anipot.frames import fixed_atoms


def integrator(atoms: Any, settings: Settings, rng: np.random.Generator, degrees: int | None = None) -> Any:
    """Return the integrator of ASE that moves ``atoms``.

    Parameters
    ----------
    atoms
        ``ase.Atoms`` with calculator and momenta.
    settings
        What is to be held.
    rng
        Noise of the Langevin thermostat.

    Raises
    ------
    ValueError
        For a Nosé–Hoover chain or a barostat where something is fixed, and for a barostat without three periodic axes
        and a cell with a volume.

    Examples
    --------
    >>> import numpy as np
    >>> from ase import Atoms
    >>> integrator(Atoms("H2"), Settings("nvt", thermostat="nose-hoover"), np.random.default_rng(0)).todict()["md-type"]
    'NoseHooverChainNVT'
    """
    step, kelvin, kind = settings.timestep * units.fs, settings.temperature, settings.kind
    tdamp, pdamp = (float(damp or 0) * units.fs for damp in (settings.tdamp, settings.pdamp))
    if settings.ensemble == "npt":
        check_cell_moves(atoms)
    if kind == ("nve", ""):
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, step)
    if kind == ("nvt", "langevin"):
        from ase.md.langevin import Langevin

        friction = settings.friction / units.fs
        return Langevin(atoms, step, temperature_K=kelvin, friction=friction, rng=rng, fixcm=False)
    from ase.md import nose_hoover_chain as chains

    degrees = moving_degrees(atoms, settings) if degrees is None else degrees
    if kind == ("nvt", "nose-hoover"):
        check_nothing_held(atoms)
        return counted(chains.NoseHooverChainNVT(atoms, step, kelvin, tdamp), degrees)
    barostat = chains.MTKNPT if kind[1] == "full" else chains.IsotropicMTKNPT
    return counted(barostat(atoms, step, kelvin, settings.pressure * units.bar, tdamp, pdamp), degrees)


def moving_degrees(atoms: Any, settings: Settings) -> int:
    """Return the number of degrees of freedom that have their share of the heat.

    Three for each atom that is not fixed; other dynamics than those of Langevin leave a drift and a rotation of zero as
    they are, which count less then.
    """
    fixed = len(fixed_atoms(atoms))
    if fixed or settings.kind == ("nvt", "langevin"):
        return 3 * (len(atoms) - fixed)
    one = Trajectory(
        atoms.numbers, atoms.get_masses(), atoms.positions[None], 1.0, atoms.get_velocities()[None], pbc=atoms.pbc
    )
    return unheld_degrees(one)


def counted(dynamics: Any, degrees: int) -> Any:
    """Let the Nosé–Hoover chain of some dynamics count what moves.

    ASE counts three degrees of freedom for each atom. Chains scale momenta, so that a drift and rotation of zero stay
    zero: their share of the heat would go to the vibrations, which in CH4 at 300 K were at 500 K.
    """
    chain = dynamics._thermostat
    chain._num_atoms_global = degrees / 3  # only ever used times three
    chain._Q[0] = degrees * chain._kT * chain._tdamp**2
    return dynamics


def check_nothing_held(atoms: Any) -> None:
    """Refuse constraints, of which chains of ASE know nothing: fixed atoms gather momentum, the rest freezes.

    Raises
    ------
    ValueError
        Naming the constraints.
    """
    if atoms.constraints:
        kinds = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
        raise ValueError(
            f"a Nosé–Hoover chain does not go with constraints, a Langevin thermostat does; the structure has {kinds}"
        )


def check_cell_moves(atoms: Any) -> None:
    """Refuse constant pressure for what has no volume, or holds atoms in their places."""
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise ValueError(
            f"constant pressure needs three periodic axes and a cell with a volume; "
            f"pbc is {atoms.pbc.tolist()} and the cell {atoms.cell.array.tolist()}"
        )
    if atoms.constraints:
        kinds = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
        raise ValueError(f"constant pressure does not go with constraints; the structure has {kinds}")


def conserved(dynamics: Any) -> float:
    """Return what the integrator conserves (eV): the energy, with that of the chains; NaN for Langevin dynamics."""
    if hasattr(dynamics, "get_conserved_energy"):
        return float(dynamics.get_conserved_energy())
    if type(dynamics).__name__ == "VelocityVerlet":
        return float(dynamics.atoms.get_total_energy())
    return math.nan
