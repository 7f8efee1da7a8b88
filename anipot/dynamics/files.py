"""What runs and spectra leave in a folder, beside the files that grow as a run goes on."""

from __future__ import annotations

from typing import Any

import numpy as np

from anipot import workfolder
from anipot.dynamics.run import MolecularDynamics
from anipot.dynamics.spectrum import DynamicsSpectrum
from anipot.dynamics.summary import plot_log, read_log, summarize
from anipot.workfolder import WorkFolder


def write_run(
    folder: WorkFolder | None, dynamics: MolecularDynamics, ended: str, seconds: float, steps: int
) -> dict[str, Any]:
    """Write ``results.json`` and a picture of the log, and return the numbers, with their units in the keys.

    Parameters
    ----------
    folder
        Of the run; None to write nothing.
    dynamics
        The run.
    ended
        How: ``"done"``, or what happened.
    seconds, steps
        How long it took, and for how many steps.

    Returns
    -------
    dict
        Empty for a run that broke before its first frame.
    """
    log = read_log(dynamics.log)
    if not len(log["step"]):
        return {}
    facts = {"ended": ended, "steps": dynamics.step, "settings": dynamics.settings.used(), "model": dynamics.model.name}
    facts |= summarize(log, len(dynamics.atoms)) | {"uncertain_frames": dynamics.uncertain}
    rate = steps * dynamics.settings.timestep * 1e-6 / seconds * 86400
    facts |= {"wall_seconds": seconds, "ns_per_day": rate}
    if folder is None:
        return facts
    folder.write_results(facts)
    if workfolder.can_draw():
        folder.save_picture("md", plot_log(log)[0])
    return facts


def write_spectrum(folder: WorkFolder, spectrum: DynamicsSpectrum) -> dict[str, Any]:
    """Write a table and a picture of a spectrum, ``power.csv`` or ``infrared.csv``, and return its numbers.

    Parameters
    ----------
    folder
        Gets the files.
    spectrum
        What ``power_spectrum`` or ``infrared_spectrum`` returned.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> grid = np.arange(5.0)
    >>> spectrum = DynamicsSpectrum(grid, np.exp(-((grid - 2) ** 2)), "power", 300.0, 1.0)
    >>> with TemporaryDirectory() as place:
    ...     write_spectrum(WorkFolder(f"{place}/out", ["spectrum", "run.xyz"]), spectrum)["peaks_per_cm"].tolist()
    [2.0]
    """
    kind = spectrum.kind
    names = {"power": "modes_per_inverse_cm", "infrared": "molar_absorption_l_per_mol_cm"}
    table = np.column_stack([spectrum.wavenumbers, spectrum.values])
    header = f"wavenumber_per_cm,{names[kind]}"
    np.savetxt(folder / f"{kind}.csv", table, "%.6g", ",", header=header, comments="")
    if workfolder.can_draw():
        folder.save_picture(kind, spectrum.plot())
    return {
        "peaks_per_cm": spectrum.peaks(),
        {"power": "area_modes", "infrared": "area_km_per_mol"}[kind]: spectrum.area(),
        "temperature_k": spectrum.temperature,
        "resolution_per_cm": spectrum.resolution,
    }
