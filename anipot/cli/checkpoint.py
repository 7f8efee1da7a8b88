"""Checkpoints of a dynamics run: one npz file, put in place in one step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from anipot.cli.common import write_atomically
from anipot.cli.errors import UsageError


def _state(dynamics: Any) -> dict[str, Any]:
    """Return the numbers that the integrator, its thermostat and its barostat carry from step to step."""
    import numpy as np

    found = {}
    for part in ("", "_thermostat", "_barostat"):
        owner = getattr(dynamics, part, None) if part else dynamics
        for name, value in vars(owner).items() if owner is not None else ():
            if name.startswith("_") and isinstance(value, float | np.ndarray):
                found[f"{part}/{name}"] = value
    return found


def write(
    path: str, atoms: Any, dynamics: Any, rng: Any, files: list[str], step: int, settings: dict[str, Any]
) -> None:
    """Write the state after ``step``, how long the output files are, and the settings that a resume must repeat."""
    import numpy as np

    values = {f"state:{k}": v for k, v in _state(dynamics).items()}
    sizes = [_sync(file) for file in files]
    facts = {"step": step, "rng": rng.bit_generator.state, "sizes": sizes, "settings": settings}
    values |= {"numbers": atoms.numbers, "positions": atoms.positions, "momenta": atoms.get_momenta()}
    values |= {"cell": atoms.cell.array, "pbc": atoms.pbc, "facts": np.array(json.dumps(facts))}

    def save(temporary: str) -> None:
        with open(temporary, "wb") as file:  # a name would get .npz appended
            np.savez(file, **values)

    write_atomically(path, save)


def _sync(path: str) -> int:
    """Bring a file to the disk, so that no checkpoint outlives the frames it counts, and return its size."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def read(path: str) -> dict[str, Any]:
    """Read a checkpoint."""
    import numpy as np

    if not Path(path).is_file():
        raise UsageError(f"no checkpoint {path} to resume from")
    try:
        with np.load(path, allow_pickle=False) as file:
            state = dict(file)
        state["facts"] = json.loads(str(state["facts"]))
        missing = {"numbers", "positions", "momenta", "cell", "pbc"} - set(state)
    except Exception as error:  # a damaged zip raises one of several errors
        raise UsageError(f"{path} is not a checkpoint: {type(error).__name__}: {error}") from error
    missing |= {"step", "rng", "sizes", "settings"} - set(state["facts"])
    if missing:
        raise UsageError(f"{path} is not a checkpoint of this release: it lacks {', '.join(sorted(missing))}")
    return state


def check(path: str, state: dict[str, Any], atoms: Any, settings: dict[str, Any], steps: int) -> None:
    """Refuse to go on with other settings, other atoms or fewer steps than the checkpoint holds."""
    from ase import Atoms

    then = state["facts"]["settings"]
    for name in dict.fromkeys([*then, *settings]):
        if then.get(name) != settings.get(name):
            raise UsageError(f"--{name} is {settings.get(name)} but {path} was written with {then.get(name)}")
    numbers = state["numbers"].tolist()
    if numbers != atoms.numbers.tolist():
        before = Atoms(numbers=numbers)
        message = f"the input holds {len(atoms)} atoms, {atoms.get_chemical_formula()}, but {path} holds {len(numbers)}"
        message += f", {before.get_chemical_formula()}"
        pairs = zip(atoms.symbols, before.symbols, strict=False)
        first = next((f"; atom {i} is {a} here and {b} there" for i, (a, b) in enumerate(pairs) if a != b), "")
        raise UsageError(message + first)
    if state["pbc"].tolist() != atoms.pbc.tolist():
        raise UsageError(f"the input has pbc {atoms.pbc.tolist()} but {path} has {state['pbc'].tolist()}")
    if steps < state["facts"]["step"]:
        raise UsageError(f"--steps is {steps} in total, but {path} is already at step {state['facts']['step']}")


def restore_atoms(state: dict[str, Any], atoms: Any) -> None:
    """Put positions, momenta and cell back."""
    atoms.set_cell(state["cell"])
    atoms.positions[:] = state["positions"]
    atoms.set_momenta(state["momenta"])


def restore(state: dict[str, Any], dynamics: Any, rng: Any, files: list[str]) -> int:
    """Put back the integrator and the random numbers, cut what was written after the checkpoint, return the step."""
    facts = state["facts"]
    if len(facts["sizes"]) != len(files):
        raise UsageError(f"the run had {len(facts['sizes'])} of --trajectory and --log, this resume has {len(files)}")
    for file, size in zip(files, facts["sizes"], strict=True):  # all are looked at before one is cut
        if not Path(file).is_file() or os.path.getsize(file) < size:
            raise UsageError(f"{file} is missing or shorter than at the checkpoint ({size} bytes)")
    rng.bit_generator.state = facts["rng"]
    for key, value in state.items():
        if key.startswith("state:"):
            part, name = key.removeprefix("state:").split("/")
            setattr(getattr(dynamics, part) if part else dynamics, name, value if value.ndim else float(value))
    for file, size in zip(files, facts["sizes"], strict=True):
        os.truncate(file, size)
    return int(facts["step"])
