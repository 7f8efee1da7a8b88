"""Results of single points as records, files and tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from anipot.cli.common import Place

Results = Iterable[tuple[Any, dict[str, Any]]]


def record(place: Place, result: Any, b: int, n: int, per_atom: Collection[str] = ()) -> dict[str, Any]:
    """Return molecule ``b`` with ``n`` atoms of a ``SinglePoint`` as lists; keys carry the units.

    ``per_atom`` names the properties that have one value for each atom.
    """
    values: dict[str, Any] = {"file": place.file, "frame": place.frame, "energy_hartree": float(result.energies[b])}
    if result.forces is not None:
        values["forces_hartree_per_angstrom"] = result.forces[b, :n].tolist()
    if result.stress is not None:
        values["stress_hartree_per_angstrom3"] = result.stress[b].tolist()
    if result.hessian is not None:
        values["hessian_hartree_per_angstrom2"] = result.hessian[b, : 3 * n, : 3 * n].tolist()
    if result.atomic_energies is not None:
        values["atomic_energies_hartree"] = result.atomic_energies[b, :n].tolist()
    if (members := result.members) is not None:
        single = len(members.energies) == 1  # no spread, and NaN is no JSON
        values["members_energies_hartree"] = members.energies[:, b].tolist()
        values["members_std_hartree"] = None if single else float(members.energies_std[b])
        values["qbc_hartree"] = None if single else float(members.qbc[b])
    for name, value in (result.properties or {}).items():
        kind, found = ("atomic_properties", value[b, :n]) if name in per_atom else ("properties", value[b])
        values.setdefault(kind, {})[name] = _without_nan(found.tolist())
    return values


def _without_nan(value: Any) -> Any:
    """Return None in place of NaN, which is no JSON: atoms that have no such property."""
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if value != value else value


def write_results(path: str, results: Results) -> None:
    """Write extxyz, JSON or CSV, as the ending of ``path`` says."""
    writers = {".json": _write_json, ".csv": _write_csv}
    writers.get(Path(path).suffix.lower(), _write_extxyz)(path, results)


def _head(values: dict[str, Any]) -> dict[str, Any]:
    return {"file": values["file"], "frame": values["frame"]}


def _write_json(path: str, results: Results) -> None:
    with open(path, "w") as file:
        file.write("[")
        for i, (atoms, values) in enumerate(results):
            middle = {"formula": atoms.get_chemical_formula(), "symbols": atoms.get_chemical_symbols()}
            file.write((",\n" if i else "\n") + json.dumps(_head(values) | middle | values))
        file.write("\n]\n")


def _write_csv(path: str, results: Results) -> None:
    with open(path, "w", newline="") as file:
        writer = None
        for atoms, values in results:
            row = _head(values) | {"formula": atoms.get_chemical_formula()} | values
            row = {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)


def _write_extxyz(path: str, results: Results) -> None:
    import ase.io

    with open(path, "w") as file:
        for atoms, values in results:
            ase.io.write(file, with_results(atoms, values), format="extxyz")


def with_results(atoms: Any, values: dict[str, Any]) -> Any:
    """Return a copy of the frame that holds the results in eV and Å, as ASE reads them."""
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    from anipot.units import HARTREE_TO_EV

    names = {"forces": "forces_hartree_per_angstrom", "energies": "atomic_energies_hartree"}
    found: dict[str, Any] = {"energy": values["energy_hartree"] * HARTREE_TO_EV}
    found |= {k: np.array(values[v]) * HARTREE_TO_EV for k, v in names.items() if v in values}
    if "stress_hartree_per_angstrom3" in values:
        full = np.array(values["stress_hartree_per_angstrom3"]) * HARTREE_TO_EV
        found["stress"] = full_3x3_to_voigt_6_stress(full)
    copy = atoms.copy()
    for kind, store, known in (("properties", copy.info, "dipole"), ("atomic_properties", copy.arrays, "charges")):
        for name, value in values.get(kind, {}).items():
            where = found if name == known else store
            where[name] = np.array(value, dtype=float)  # None becomes NaN
    for key in ("members_energies", "members_std", "qbc"):
        value = values.get(f"{key}_hartree")
        if value is not None:
            copy.info[f"{key}_ev"] = np.array(value) * HARTREE_TO_EV
    copy.calc = SinglePointCalculator(copy, **found)
    return copy


def print_table(results: Results) -> None:
    """Print one line a frame, and forces in full where they were asked for."""
    for atoms, values in results:
        place = Place(values["file"], values["frame"])
        print(f"{place}  {atoms.get_chemical_formula():<16} energy {values['energy_hartree']:.10f} Hartree")
        for key, value in values.items():
            if key not in ("file", "frame", "energy_hartree"):
                print(f"  {key}: {json.dumps(value)}")
