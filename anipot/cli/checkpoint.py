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


def write(path: str, atoms: Any, dynamics: Any, rng: Any, files: list[str], step: int) -> None:
    """Write the state after ``step``, and how long the output files are."""
    import numpy as np

    values = {f"state:{k}": v for k, v in _state(dynamics).items()}
    facts = {"step": step, "rng": rng.bit_generator.state, "sizes": [os.path.getsize(f) for f in files]}
    values |= {"numbers": atoms.numbers, "positions": atoms.positions, "momenta": atoms.get_momenta()}
    values |= {"cell": atoms.cell.array, "facts": np.array(json.dumps(facts))}
    write_atomically(path, lambda temporary: np.savez(temporary, **values))


def read(path: str) -> dict[str, Any]:
    """Read a checkpoint."""
    import numpy as np

    if not Path(path).is_file():
        raise UsageError(f"no checkpoint {path} to resume from")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # a damaged zip raises one of several errors
        raise UsageError(f"{path} is not a checkpoint: {error}") from error


def restore_atoms(state: dict[str, Any], atoms: Any) -> None:
    """Put positions, momenta and cell back."""
    if list(state["numbers"]) != list(atoms.numbers):
        raise UsageError(f"the checkpoint holds other atoms ({len(state['numbers'])}) than the input ({len(atoms)})")
    atoms.set_cell(state["cell"])
    atoms.positions[:] = state["positions"]
    atoms.set_momenta(state["momenta"])


def restore(state: dict[str, Any], dynamics: Any, rng: Any, files: list[str]) -> int:
    """Put back the integrator and the random numbers, cut what was written after the checkpoint, return the step."""
    facts = json.loads(str(state["facts"]))
    if len(facts["sizes"]) != len(files):
        raise UsageError("resume with the same --trajectory and --log as before")
    rng.bit_generator.state = facts["rng"]
    for key, value in state.items():
        if key.startswith("state:"):
            part, name = key.removeprefix("state:").split("/")
            setattr(getattr(dynamics, part) if part else dynamics, name, value if value.ndim else float(value))
    for file, size in zip(files, facts["sizes"], strict=True):
        if not Path(file).is_file() or os.path.getsize(file) < size:
            raise UsageError(f"{file} is missing or shorter than at the checkpoint ({size} bytes)")
        os.truncate(file, size)
    return int(facts["step"])
