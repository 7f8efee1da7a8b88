"""What a log says: numbers for ``results.json``, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.dynamics.outputs import LogOutput

#: Columns of the log that are drawn: name, label of the axis.
DRAWN = (
    ("E_tot_eV", "total energy\n(eV, from the start)"),
    ("drift_meV_per_atom", "drift\n(meV/atom)"),
    ("T_K", "temperature (K)"),
    ("density_g_per_cm3", "density (g/cm³)"),
    ("pressure_bar", "pressure (bar)"),
    ("rho_kcal_per_mol", "ρ (kcal/mol)"),
)


def read_log(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Return the columns of an ``md.log`` by name, (n,) each.

    Raises
    ------
    ValueError
        If it is no such log. A last line that was cut off is left out.
    """
    lines = Path(path).read_text().splitlines()
    columns = list(LogOutput.COLUMNS)
    if not lines or lines[0].split() != ["#", *columns]:
        raise ValueError(f"{path} is no log of anipot md: its first line is {lines[0] if lines else ''!r}")
    rows = [line.split() for line in lines[1:]]
    if rows and len(rows[-1]) < len(columns):
        rows.pop()
    values = np.array(rows, dtype=float).reshape(-1, len(columns))
    return dict(zip(columns, values.T, strict=True))


def summarize(log: dict[str, NDArray[np.float64]], num_atoms: int) -> dict[str, Any]:
    """Return means and standard deviations over a log, and how fast the energy drifts.

    The first frame, where nothing has moved yet, is left out of means if there are others.

    Parameters
    ----------
    log
        As ``read_log`` returns it.
    num_atoms
        Of the system.

    Examples
    --------
    >>> import numpy as np
    >>> log = {name: np.zeros(3) for name in LogOutput.COLUMNS} | {"time_fs": np.array([0.0, 500.0, 1000.0])}
    >>> log |= {"T_K": np.array([0.0, 290, 310]), "drift_meV_per_atom": np.array([0.0, 0.1, 0.2])}
    >>> facts = summarize(log, 3)
    >>> facts["temperature_k"], round(facts["drift_mev_per_atom_per_ps"], 6)
    (300.0, 0.2)
    """
    rest = {name: values[1:] if len(values) > 1 else values for name, values in log.items()}
    time, drift = log["time_fs"] * 1e-3, log["drift_meV_per_atom"]
    slope = float(np.polyfit(time, drift, 1)[0]) if len(time) > 1 and np.isfinite(drift).all() else np.nan
    names = {
        "temperature_k": "T_K",
        "potential_energy_ev": "E_pot_eV",
        "total_energy_ev": "E_tot_eV",
        "density_g_per_cm3": "density_g_per_cm3",
        "pressure_bar": "pressure_bar",
    }
    facts: dict[str, Any] = {"num_atoms": num_atoms, "frames": len(time), "time_ps": float(time[-1])}
    for key, name in names.items():
        facts |= {key: float(rest[name].mean()), f"{key}_std": float(rest[name].std())}
    facts |= {"drift_mev_per_atom": float(drift[-1]), "drift_mev_per_atom_per_ps": slope}
    return facts | {
        "largest_rho_kcal_per_mol": float(log["rho_kcal_per_mol"].max()),
        "largest_force_spread_ev_per_angstrom": float(log["force_spread_eV_per_A"].max()),
    }


def plot_log(log: dict[str, NDArray[np.float64]]) -> Any:
    """Plot energy, drift, temperature and, where there are any, density, pressure and spread over time.

    Returns
    -------
    list
        Of matplotlib axes of one figure, ``axes[0].figure.savefig(...)`` writes it.

    Raises
    ------
    ImportError
        Without matplotlib (extra ``plot``).

    Examples
    --------
    >>> import numpy as np
    >>> log = {name: np.arange(3.0) for name in LogOutput.COLUMNS} | {"density_g_per_cm3": np.full(3, np.nan)}
    >>> len(plot_log(log))
    5
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install anipot[plot]") from error
    drawn = [(name, label) for name, label in DRAWN if np.isfinite(log[name]).any()]
    figure = Figure(figsize=(6, 1.7 * len(drawn)), layout="constrained")
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, label) in zip(axes, drawn, strict=True):
        values = log[name] - (log[name][0] if name == "E_tot_eV" else 0)
        ax.plot(log["time_fs"] * 1e-3, values, linewidth=1)
        ax.set(ylabel=label)
        ax.margins(x=0)
    axes[-1].set(xlabel="time (ps)")
    return list(axes)
