"""A trajectory as arrays, from any file that ASE reads or from H5MD."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.io.formats import string2index
from numpy.typing import NDArray

Array = NDArray[np.float64]


class TruncatedError(ValueError):
    """A file that ends in the middle of a frame."""


@dataclass(frozen=True)
class Trajectory:
    """T equally spaced frames of the same N atoms.

    Attributes
    ----------
    numbers, masses
        (N,) atomic numbers, and masses in u.
    positions
        (T, N, 3) Å.
    interval
        fs between frames.
    velocities
        (T, N, 3) Å/fs, or None where the file has none.
    dipoles
        (T, 3) e·Å, or None.
    cells, pbc
        (T, 3, 3) Å, and (3,) which axes repeat.
    timestep
        fs, of the integrator, where the file tells.
    name
        Where it came from, for messages.
    """

    numbers: NDArray[np.int64]
    masses: Array
    positions: Array
    interval: float
    velocities: Array | None = None
    dipoles: Array | None = None
    cells: Array | None = None
    pbc: NDArray[np.bool_] | None = None
    timestep: float | None = None
    name: str = "the trajectory"

    def __post_init__(self) -> None:
        for what, values in (("positions", self.positions), ("velocities", self.velocities)):
            if values is not None and len(bad := np.flatnonzero(~np.isfinite(values).all((1, 2)))):
                raise ValueError(f"{self.name} has {what} in frame {bad[0]} that are no finite numbers")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def duration(self) -> float:
        """From the first to the last frame, fs."""
        return (len(self) - 1) * self.interval

    @property
    def periodic(self) -> bool:
        """Whether any axis repeats."""
        return self.pbc is not None and bool(self.pbc.any())

    def unwrapped(self) -> Array:
        """Return positions (T, N, 3), Å, without jumps: an atom that leaves the cell goes on outside.

        Between two frames no atom may move by half a cell; in a cell that changes, displacements are counted in the
        later of the two (the scheme of von Bülow, Bullerjahn and Hummer, doi:10.1063/5.0008316).
        """
        if not self.periodic or self.cells is None or self.pbc is None:
            return self.positions
        found = np.empty_like(self.positions)
        found[0] = self.positions[0]
        for t in range(1, len(self)):
            move = self.positions[t] - self.positions[t - 1]
            inverse = np.linalg.inv(_complete(self.cells[t], self.pbc))
            turns = np.where(self.pbc, np.round(move @ inverse), 0.0)
            found[t] = found[t - 1] + move - turns @ self.cells[t]
        return found

    def after(self, time: float) -> Trajectory:
        """Return the frames from ``time`` (fs after the first) on, such as those after an equilibration."""
        first = int(np.ceil(time / self.interval - 1e-9))
        if not 0 <= first < len(self) - 1:
            raise ValueError(f"{self.name} has {self.duration:g} fs, nothing is left after {time:g} fs")
        names = ("positions", "velocities", "dipoles", "cells")
        parts = {name: getattr(self, name) for name in names}
        return replace(self, **{name: part[first:] for name, part in parts.items() if part is not None})


def _complete(cell: Array, pbc: NDArray[np.bool_]) -> Array:
    """Return a cell that can be inverted; rows along free axes mean nothing."""
    from ase.geometry import complete_cell

    return np.asarray(complete_cell(np.where(pbc[:, None], cell, 0.0)))


def read_trajectory(
    source: str | Path | Iterable[Any], interval: float | None = None, index: str = ":", drop_incomplete: bool = False
) -> Trajectory:
    """Return a trajectory from a file that ASE reads, an H5MD file of anipot, or frames.

    Parameters
    ----------
    source
        Path, or ``ase.Atoms`` in order.
    interval
        fs between frames of the file; needed where the frames do not tell their time as those of anipot do (``time_fs``
        in ``atoms.info``).
    index
        Which frames, as in ASE.
    drop_incomplete
        Whether a last frame that is cut off is left out rather than refused.

    Raises
    ------
    TruncatedError
        If the file ends in the middle of a frame, naming how many are whole.
    ValueError
        If frames hold different atoms, are not equally spaced, tell no time, or are fewer than two.

    Examples
    --------
    >>> from ase import Atoms
    >>> frames = [Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * i]]) for i in range(3)]
    >>> trajectory = read_trajectory(frames, interval=0.5)
    >>> trajectory.positions.shape, trajectory.duration
    ((3, 2, 3), 1.0)
    """
    if not isinstance(source, str | Path):
        return _of_frames(list(source), interval, "the trajectory")
    if not Path(source).is_file():
        raise ValueError(f"no file {source}")
    picked = string2index(index)
    if not isinstance(picked, slice):
        raise ValueError(f"the index must be a range such as '100:', got {index!r}")
    stride = None if interval is None else interval * abs(picked.step or 1)
    if _is_h5md(source):
        return _of_h5md(source, stride, picked)
    return _of_frames(_whole(source, drop_incomplete)[picked], stride, str(source))


def _of_frames(frames: list[Any], interval: float | None, name: str) -> Trajectory:
    _check_same(frames, name)
    missing = next((i for i, atoms in enumerate(frames) if "time_fs" not in atoms.info), None)
    if missing is not None and interval is None:
        raise ValueError(f"{name}, frame {missing} does not tell its time; give the time between frames, in fs")
    times = [float(atoms.info.get("time_fs", 0)) for atoms in frames]
    kept, spacing = _spacing(np.array(times), interval, name)
    del frames[kept:]
    first, last = frames[0], frames[-1]
    dipoles = [None if atoms.calc is None else atoms.calc.results.get("dipole") for atoms in frames]
    velocities = None
    if all(atoms.has("momenta") for atoms in frames):
        velocities = np.array([atoms.get_velocities() for atoms in frames]) * units.fs
    return Trajectory(
        numbers=first.numbers.astype(np.int64),
        masses=first.get_masses(),
        positions=np.array([atoms.positions for atoms in frames]),
        interval=spacing,
        velocities=velocities,
        dipoles=None if any(dipole is None for dipole in dipoles) else np.array(dipoles),
        cells=np.array([atoms.cell.array for atoms in frames]),
        pbc=first.pbc.copy(),
        timestep=_timestep(times[kept - 1], last.info.get("step")),
        name=name,
    )


def _of_h5md(path: str | Path, interval: float | None, index: slice) -> Trajectory:
    from anipot.dynamics.h5md import read_columns

    columns = read_columns(path, index)
    kept, spacing = _spacing(columns["time"], interval, str(path))
    cells = columns.get("cell")
    return Trajectory(
        numbers=columns["numbers"],
        masses=columns["masses"],
        positions=columns["positions"][:kept],
        interval=spacing,
        velocities=columns["velocities"][:kept] * units.fs,
        dipoles=columns["dipole"][:kept] if "dipole" in columns else None,
        cells=None if cells is None else cells[:kept],
        pbc=columns["pbc"],
        timestep=_timestep(columns["time"][kept - 1], columns["step"][kept - 1]),
        name=str(path),
    )


def _timestep(time: float, step: Any) -> float | None:
    """Return the time step of the integrator, fs, where a frame tells both."""
    return float(time) / int(step) if step and time else None


def _whole(path: str | Path, drop_incomplete: bool) -> list[Any]:
    """Return the whole frames of a file that ASE reads; one that was cut off is an error, or left out."""
    import ase.io

    frames: list[Any] = []
    why = ""
    try:
        for atoms in ase.io.iread(path, index=":"):
            frames.append(atoms)
    except Exception as error:  # the readers of ASE raise whatever their parsers stumble over
        why = f"{type(error).__name__}: {error}"
        if not frames:
            raise ValueError(f"{path} cannot be read: {why}") from error
    if not why and Path(path).suffix.lower() in (".xyz", ".extxyz"):
        with open(path, "rb") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # the last number may lack digits
                frames.pop()
                why = "its last line does not end"
    if why and not drop_incomplete:
        raise TruncatedError(
            f"{path} ends in the middle of a frame, after {len(frames)} whole ones ({why}); "
            "these can be had by leaving it out (drop_incomplete, --drop-incomplete)"
        )
    return frames


def _is_h5md(path: str | Path) -> bool:
    from anipot.dynamics.h5md import SIGNATURE

    with open(path, "rb") as file:
        return file.read(8) == SIGNATURE and Path(path).suffix.lower() in (".h5", ".h5md", ".hdf5")


def _check_same(frames: list[Any], name: str) -> None:
    for i, atoms in enumerate(frames):
        first = frames[0]
        if not np.array_equal(atoms.numbers, first.numbers):
            raise ValueError(
                f"{name} holds {first.get_chemical_formula()} in its first frame and {atoms.get_chemical_formula()} in "
                f"frame {i}, or in another order; a trajectory is one of the same atoms"
            )


def _spacing(times: Array, interval: float | None, name: str) -> tuple[int, float]:
    """Return how many frames are equally spaced, all or all but the last, and the time between them."""
    if len(times) < 2:
        raise ValueError(f"{name} holds {len(times)} frames of those asked for, a trajectory needs two")
    if interval is not None:
        if not interval > 0:
            raise ValueError(f"the time between frames must be above 0 fs, got {interval}")
        return len(times), float(interval)
    gaps = np.diff(times)
    odd = np.flatnonzero(np.abs(gaps - gaps[0]) > 1e-6 * abs(gaps[0]))
    if (len(odd) and odd[0] < len(gaps) - 1) or not gaps[0] > 0:
        i = int(odd[0]) if len(odd) else 0
        raise ValueError(f"frames of {name} are not equally spaced: {gaps[0]:g} fs, but {gaps[i]:g} fs at frame {i}")
    return len(times) - len(odd), float(gaps[0])  # the last frame of a run may stand off its interval
