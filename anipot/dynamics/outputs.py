"""Files that grow as a run goes on, and are cut back to a checkpoint when it is resumed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from ase import units

#: Formats of the trajectory, and the names of the files.
FORMATS = {"extxyz": "trajectory.xyz", "h5md": "trajectory.h5"}


class TextOutput:
    """A text file; a mark is its size in bytes.

    Parameters
    ----------
    path
        Where; an old file is replaced, unless
    mark
        says how much of it to keep.

    Raises
    ------
    ValueError
        If the file holds less than that.
    """

    def __init__(self, path: Path, mark: int | None = None) -> None:
        self.path = path
        if mark is not None:
            if not path.is_file() or path.stat().st_size < mark:
                raise ValueError(f"{path} is missing or shorter than at the checkpoint ({mark} bytes)")
            os.truncate(path, mark)
        self._file = open(path, "w" if mark is None else "a")  # noqa: SIM115

    def mark(self) -> int:
        """Bring everything to the disk and return the size."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FramesOutput(TextOutput):
    """Frames in extended XYZ, with energy, forces, momenta, and stress and dipole where there are any."""

    def write(self, atoms: Any, step: int, time: float) -> None:
        """Write a frame; ``time`` in fs."""
        import ase.io

        atoms.info |= {"step": step, "time_fs": time}
        ase.io.write(self._file, atoms, format="extxyz")
        self._file.flush()


class LogOutput(TextOutput):
    """One line a frame.

    ``drift`` is how far what the integrator conserves has moved since the start, NaN where it conserves nothing
    (Langevin). Density and pressure are NaN unless all three axes are periodic, the spreads unless they are watched.
    """

    COLUMNS = (
        "step",
        "time_fs",
        "E_tot_eV",
        "E_pot_eV",
        "E_kin_eV",
        "T_K",
        "drift_meV_per_atom",
        "density_g_per_cm3",
        "pressure_bar",
        "rho_kcal_per_mol",
        "force_spread_eV_per_A",
    )

    def __init__(self, path: Path, mark: int | None = None) -> None:
        super().__init__(path, mark)
        if mark is None:
            self._file.write(f"# {' '.join(self.COLUMNS)}\n")

    def write(
        self, atoms: Any, step: int, time: float, drift: float, spread: tuple[float, float], degrees: int
    ) -> None:
        """Write a line; drift in eV, spread as ``Guard.spread`` returns it, degrees of freedom that share the heat."""
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        line = f"{step} {time:.4f} {potential + kinetic:.8f} {potential:.8f} {kinetic:.8f}"
        line += f" {2 * kinetic / (degrees * units.kB):.3f} {1e3 * drift / len(atoms):.6f}"
        density = pressure = math.nan
        if atoms.pbc.all():
            density = float(atoms.get_masses().sum() / atoms.get_volume() * 1e24 * units._amu * 1e3)
            pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.bar
        self._file.write(f"{line} {density:.6f} {pressure:.3f} {spread[0]:.6f} {spread[1]:.6f}\n")
        self._file.flush()
