"""What a relaxation leaves in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anipot import workfolder
from anipot.optimization.pictures import plot_convergence
from anipot.optimization.result import Optimized
from anipot.workfolder import WorkFolder


def write_optimized(folder: WorkFolder, found: Sequence[Optimized], fmax: float) -> None:
    """Write the relaxed systems, each marked whether it converged, and a picture where matplotlib is there.

    Parameters
    ----------
    folder
        Gets ``optimized.xyz``, ``convergence.png`` and ``convergence.svg``.
    found
        What ``anipot.optimize`` returned.
    fmax
        eV/Å; a line in the picture.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import anipot
    >>> from ase.build import molecule
    >>> with TemporaryDirectory() as place:
    ...     folder = WorkFolder(f"{place}/n2", ["opt", "n2.xyz"])
    ...     write_optimized(folder, anipot.optimize(molecule("N2"), anipot.load()), fmax=0.01)
    ...     (folder / "optimized.xyz").is_file()
    True
    """
    import ase.io

    for one in found:
        one.atoms.info["converged"] = one.converged
    ase.io.write(folder / "optimized.xyz", [one.atoms for one in found], format="extxyz")
    if workfolder.can_draw():
        folder.save_picture("convergence", plot_convergence(found, fmax))


def record(one: Optimized) -> dict[str, Any]:
    """Return the numbers of a system, with their units in the keys."""
    return {
        "formula": one.atoms.get_chemical_formula(),
        "converged": one.converged,
        "why": one.why,
        "steps": one.steps,
        "energy_hartree": one.energies[-1],
        "fmax_ev_per_angstrom": one.fmax,
        "energies_hartree": one.energies,
        "fmax_by_step_ev_per_angstrom": one.forces_max,
    }
