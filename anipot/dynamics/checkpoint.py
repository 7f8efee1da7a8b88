"""Checkpoints of a dynamics run: one npz file, put in place in one step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from anipot.workfolder import write_atomically


def write(path: Path, atoms: Any, dynamics: Any, rng: np.random.Generator, facts: dict[str, Any]) -> None:
    """Write atoms, the state of integrator and random numbers, and ``facts``: step, settings, model, outputs."""
    values = {f"state:{k}": v for k, v in _state(dynamics).items()}
    facts = facts | {"rng": rng.bit_generator.state}
    values |= {"numbers": atoms.numbers, "positions": atoms.positions, "momenta": atoms.get_momenta()}
    values |= {"masses": atoms.get_masses()}
    values |= {"cell": atoms.cell.array, "pbc": atoms.pbc, "facts": np.array(json.dumps(facts))}

    def save(temporary: str) -> None:
        with open(temporary, "wb") as file:  # a name would get .npz appended
            np.savez(file, **values)

    write_atomically(str(path), save)


def _state(dynamics: Any) -> dict[str, Any]:
    """Return the numbers that the integrator, its thermostat and its barostat carry from step to step."""
    found = {}
    for part in ("", "_thermostat", "_barostat"):
        owner = getattr(dynamics, part, None) if part else dynamics
        for name, value in vars(owner).items() if owner is not None else ():
            if name.startswith("_") and isinstance(value, float | np.ndarray):
                found[f"{part}/{name}"] = value
    return found


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    ValueError
        If there is none, or the file is damaged or of another kind.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint {path} to resume from")
    try:
        with np.load(path, allow_pickle=False) as file:
            state = dict(file)
        state["facts"] = json.loads(str(state["facts"]))
        missing = {"numbers", "positions", "momenta", "masses", "cell", "pbc"} - set(state)
    except Exception as error:  # a damaged zip raises one of several errors
        raise ValueError(f"{path} is not a checkpoint: {type(error).__name__}: {error}") from error
    missing |= {"step", "rng", "outputs", "settings", "model"} - set(state["facts"])
    if missing:
        raise ValueError(f"{path} is not a checkpoint of this release: it lacks {', '.join(sorted(missing))}")
    return state


def check(path: Path, state: dict[str, Any], atoms: Any, settings: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse to go on with another model, other settings or other atoms.

    Raises
    ------
    ValueError
        Naming what was found and what the checkpoint holds.
    """
    from ase import Atoms

    then = state["facts"]["model"]
    if then["sha256"] != model["sha256"]:
        raise ValueError(
            f"{path} was written with the model {_called(then)}, this is {_called(model)}; "
            "dynamics goes on with the model it began with"
        )
    then = state["facts"]["settings"]
    for name in dict.fromkeys([*then, *settings]):
        if then.get(name) != settings.get(name):
            raise ValueError(f"{name} is {settings.get(name)} but {path} was written with {then.get(name)}")
    numbers = state["numbers"].tolist()
    if numbers != atoms.numbers.tolist():
        before = Atoms(numbers=numbers)
        message = f"the input holds {len(atoms)} atoms, {atoms.get_chemical_formula()}, but {path} holds {len(numbers)}"
        message += f", {before.get_chemical_formula()}"
        pairs = zip(atoms.symbols, before.symbols, strict=False)
        first = next((f"; atom {i} is {a} here and {b} there" for i, (a, b) in enumerate(pairs) if a != b), "")
        raise ValueError(message + first)
    if len(other := np.flatnonzero(~np.isclose(state["masses"], atoms.get_masses(), rtol=1e-6))):
        i = other[0]
        here, there = atoms.get_masses()[i], state["masses"][i]
        raise ValueError(f"atom {i} ({atoms.symbols[i]}) has {here:g} u but {path} was written with {there:g} u")
    if state["pbc"].tolist() != atoms.pbc.tolist():
        raise ValueError(f"the input has pbc {atoms.pbc.tolist()} but {path} has {state['pbc'].tolist()}")


def _called(model: dict[str, Any]) -> str:
    return f"{model['name'] or 'without a name'} in {model['dtype']} ({model['sha256'][:12]})"


def restore_atoms(state: dict[str, Any], atoms: Any) -> None:
    """Put positions, momenta and cell back."""
    atoms.set_cell(state["cell"])
    atoms.positions[:] = state["positions"]
    atoms.set_momenta(state["momenta"])


def restore_dynamics(state: dict[str, Any], dynamics: Any, rng: np.random.Generator) -> None:
    """Put back what the integrator carries, and the random numbers."""
    rng.bit_generator.state = state["facts"]["rng"]
    for key, value in state.items():
        if key.startswith("state:"):
            part, name = key.removeprefix("state:").split("/")
            setattr(getattr(dynamics, part) if part else dynamics, name, value if value.ndim else float(value))
