"""Trajectories in HDF5, laid out as H5MD 1.1 says (doi:10.1016/j.cpc.2014.01.018), which MDAnalysis and others read.

The layout stands before the first frame, and the file is in the single-writer mode of HDF5: it can be read while it
grows, and whatever was flushed is there after a kill.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

#: The first bytes of HDF5, and the length of the superblock that begins with them and says how long a file is.
SIGNATURE, SUPERBLOCK = b"\x89HDF\r\n\x1a\n", 48
#: Frames that are kept in memory before they are written.
BUFFERED = 100
#: Of what has a value in each frame: where it stands, its unit there, and what a value of ASE is multiplied with.
ELEMENTS = {
    "positions": ("particles/all/position", "Angstrom", 1.0),
    "velocities": ("particles/all/velocity", "Angstrom fs-1", units.fs),
    "forces": ("particles/all/force", "kJ mol-1 Angstrom-1", units.mol / units.kJ),
    "cell": ("particles/all/box/edges", "Angstrom", 1.0),
    "energy": ("observables/potential_energy", "eV", 1.0),
    "kinetic_energy": ("observables/kinetic_energy", "eV", 1.0),
    "stress": ("observables/stress", "eV Angstrom-3", 1.0),
    "dipole": ("observables/dipole", "e Angstrom", 1.0),
}


class H5mdOutput:
    """An H5MD file that grows; a mark is its number of frames.

    Parameters
    ----------
    path
        Where; an old file is replaced, unless
    mark
        says how many of its frames to keep.

    Raises
    ------
    ValueError
        If the file cannot be read or holds fewer frames than that.
    """

    def __init__(self, path: Path, mark: int | None = None) -> None:
        self.path = path
        self._file: Any = None
        self._waiting: list[tuple[int, float, dict[str, Any]]] = []
        if mark is None:
            path.unlink(missing_ok=True)
        elif mark:
            self._go_on(mark)

    def write(self, atoms: Any, step: int, time: float) -> None:
        """Write a frame; ``time`` in fs."""
        values = _values(atoms)
        if self._file is None:
            self._file = _create(self.path, atoms, {name: np.shape(value) for name, value in values.items()})
        self._waiting.append((step, time, values))
        if len(self._waiting) >= BUFFERED:
            self._flush()

    def mark(self) -> int:
        """Bring everything to the disk and return the number of frames."""
        if self._file is None:
            return 0
        self._flush()
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
        return len(self._file["particles/all/position/step"])

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._flush()
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        if not self._waiting:
            return
        steps, times, frames = zip(*self._waiting, strict=True)
        columns = {name: np.array([frame[name] for frame in frames]) * ELEMENTS[name][2] for name in frames[0]}
        _append(self._file, np.array(steps), np.array(times), columns)
        self._waiting = []

    def _go_on(self, mark: int) -> None:
        """Copy what is kept to a new file: that of a killed writer is marked as in use for ever."""
        temporary = self.path.with_name(f".{self.path.name}")
        with open_h5md(self.path) as old:
            found = num_frames(old)
            if found < mark:
                raise ValueError(f"{self.path} holds {found} frames, but {mark} at the checkpoint")
            names = [name for name, (where, _, _) in ELEMENTS.items() if where in old]
            shapes = {name: old[f"{ELEMENTS[name][0]}/value"].shape[1:] for name in names}
            self._file = _create(temporary, next(read_h5md(self.path)), shapes)
            for start in range(0, mark, BUFFERED):
                part = slice(start, min(start + BUFFERED, mark))
                step, time = (old[f"particles/all/position/{name}"][part] for name in ("step", "time"))
                _append(self._file, step, time, {name: old[f"{ELEMENTS[name][0]}/value"][part] for name in names})
        os.replace(temporary, self.path)


def _values(atoms: Any) -> dict[str, Any]:
    """Return what a frame holds, in units of ASE."""
    results = atoms.calc.results
    values = {"positions": atoms.get_positions(), "velocities": atoms.get_velocities()}
    if atoms.pbc.any():
        values["cell"] = atoms.cell.array.copy()
    values |= {"forces": results["forces"], "energy": results["energy"], "kinetic_energy": atoms.get_kinetic_energy()}
    return values | {name: results[name] for name in ("stress", "dipole") if name in results}


def _create(path: Path, atoms: Any, shapes: dict[str, Any]) -> Any:
    """Make a file without frames and put it into the single-writer mode."""
    import h5py

    from anipot import __version__

    file = h5py.File(path, "w", libver="latest")
    head = file.create_group("h5md")
    head.attrs["version"] = np.array([1, 1], dtype=np.int32)
    head.create_group("author").attrs["name"] = "unknown"
    head.create_group("creator").attrs.update({"name": "anipot", "version": __version__})
    particles = file.create_group("particles/all")
    particles["species"], particles["mass"] = atoms.numbers, atoms.get_masses()
    particles["mass"].attrs["unit"] = "u"
    boundary = ["periodic" if periodic else "none" for periodic in atoms.pbc]
    particles.create_group("box").attrs.update({"dimension": 3, "boundary": np.array(boundary, dtype="S8")})
    first = None
    for name, shape in shapes.items():
        where, unit, _ = ELEMENTS[name]
        element = file.create_group(where)
        single = name in ("velocities", "forces")
        chunk = (max(1, min(BUFFERED, 2**17 // max(1, int(np.prod(shape))))), *shape)
        element.create_dataset(
            "value", (0, *shape), maxshape=(None, *shape), chunks=chunk, dtype="f4" if single else "f8"
        ).attrs["unit"] = unit
        if first is None:
            first = element
            element.create_dataset("step", (0,), maxshape=(None,), chunks=(1024,), dtype="i8")
            element.create_dataset("time", (0,), maxshape=(None,), chunks=(1024,), dtype="f8").attrs["unit"] = "fs"
        else:  # one list of steps for all, as H5MD allows
            element["step"], element["time"] = first["step"], first["time"]
    file.swmr_mode = True
    return file


def _append(file: Any, steps: Any, times: Any, columns: dict[str, Any]) -> None:
    """Write frames in units of the file; the list of steps comes last, so that a frame that it names is whole."""
    position = file["particles/all/position"]
    start, stop = len(position["step"]), len(position["step"]) + len(steps)
    parts = [(file[f"{ELEMENTS[name][0]}/value"], values) for name, values in columns.items()]
    for dataset, values in [*parts, (position["time"], times), (position["step"], steps)]:
        dataset.resize(stop, 0)
        dataset[start:] = values
        dataset.flush()


def open_h5md(path: str | Path) -> Any:
    """Open an H5MD file, also one that is being written, or whose writer was killed.

    Raises
    ------
    ValueError
        If it is damaged, or HDF5 of another layout.
    """
    import h5py

    _check_size(path)
    failure: Exception = ValueError()
    for mode in ({}, {"swmr": True}):
        try:
            file = h5py.File(path, "r", **mode)
        except (OSError, RuntimeError) as error:
            failure = error
            continue
        if "h5md" not in file or "particles" not in file:
            file.close()
            raise ValueError(f"{path} is HDF5 but not H5MD: it has no groups h5md and particles")
        return file
    raise ValueError(f"{path} cannot be read: {failure}") from failure


def _check_size(path: str | Path) -> None:
    """Refuse a file that is shorter than it says: HDF5, which may take it for one that grows, would wait for the rest.

    The layout of the superblock, of versions 2 and 3, is that of the HDF5 File Format Specification, II.A.
    """
    with open(path, "rb") as file:
        head = file.read(SUPERBLOCK)
    size = os.path.getsize(path)
    if head[:8] != SIGNATURE or (len(head) == SUPERBLOCK and (head[8] not in (2, 3) or head[9] != 8)):
        return  # of another kind; HDF5 says what is wrong with it, if anything
    end = int.from_bytes(head[28:36], "little") if len(head) == SUPERBLOCK else SUPERBLOCK
    if size < end:
        raise ValueError(f"{path} is cut off: {size} bytes are left of {end} or more")


def num_frames(file: Any) -> int:
    """Return how many whole frames an open file of ours holds."""
    return len(file["particles/all/position/step"])


def read_h5md(path: str | Path, index: slice = slice(None)) -> Iterator[Any]:
    """Yield the frames of an H5MD file that anipot wrote as ``ase.Atoms`` with their energies and forces.

    Parameters
    ----------
    path
        The file.
    index
        Which frames.

    Raises
    ------
    ValueError
        If it cannot be read, or has no atoms with their elements.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    columns = read_columns(path, slice(0, 0))
    total = range(*index.indices(int(columns["frames"])))
    for start in range(0, len(total), BUFFERED):
        part = total[start : start + BUFFERED]
        rows = slice(part.start, part.stop if part.stop >= 0 else None, part.step)
        columns = read_columns(path, rows)
        for i in range(len(part)):
            frame = {name: columns[name][i] for name in (*ELEMENTS, "step", "time") if name in columns}
            atoms = Atoms(columns["numbers"], frame["positions"], masses=columns["masses"], cell=frame.get("cell"))
            atoms.pbc = columns["pbc"]
            atoms.set_velocities(frame["velocities"])
            atoms.info |= {"step": int(frame["step"]), "time_fs": float(frame["time"])}
            results = {k: frame[k] for k in ("energy", "forces", "stress", "dipole") if k in frame}
            atoms.calc = SinglePointCalculator(atoms, **results)
            yield atoms


def read_columns(path: str | Path, index: slice = slice(None)) -> dict[str, Any]:
    """Return numbers, masses, pbc, the number of frames, and by name what a frame holds, in units of ASE (time: fs).

    Raises
    ------
    ValueError
        As ``read_h5md``.
    """
    with open_h5md(path) as file:
        if "particles/all/species" not in file or "particles/all/position" not in file:
            raise ValueError(f"{path} has no particles/all with species and position, as anipot writes them")
        particles, frames = file["particles/all"], num_frames(file)
        start, stop, step = index.indices(frames)
        picked = range(start, stop, step)
        # HDF5 reads upwards only, and may hold rows of a frame that is not whole.
        rows = slice(min(picked[0], picked[-1]), max(picked[0], picked[-1]) + 1, abs(step)) if picked else slice(0, 0)
        turn = slice(None, None, -1 if step < 0 else 1)
        found: dict[str, Any] = {"numbers": particles["species"][:], "masses": particles["mass"][:], "frames": frames}
        found["pbc"] = np.array([b == b"periodic" for b in particles["box"].attrs["boundary"]])
        for name in ("step", "time"):
            found[name] = particles[f"position/{name}"][rows][turn]
        for name, (where, _, factor) in ELEMENTS.items():
            if where in file:
                found[name] = file[where]["value"][rows][turn] / factor
    return found
