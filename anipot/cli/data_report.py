"""What ``anipot data info`` and ``stats`` print."""

from __future__ import annotations

import json
from typing import Any


def show(dataset: Any, found: Any, as_json: bool, spreads: bool) -> int:
    """Print what is known of a data set.

    Parameters
    ----------
    dataset
        An ``AtomsDataset``.
    found
        Its ``Statistics``, or None where it was not read.
    as_json
        Whether to print JSON; it holds all that was found.
    spreads
        Whether to print spreads of labels and self energies.
    """
    facts = _facts(dataset)
    if as_json:
        print(json.dumps(facts | ({} if found is None else found.to_dict()), indent=1, default=str))
        return 0
    _print_facts(facts)
    if found is None:
        for name, quantity in facts["quantities"].items():
            print(f"  {name} [{quantity['unit']}]{' of each atom' if quantity['per_atom'] else ''}")
        return 0
    _print_contents(found)
    for name, spread in found.quantities.items():
        print(f"  {name} [{spread.unit}]: {spread.structures} structures, missing in {spread.missing}")
        if spreads and spread.structures:
            print(
                f"    mean {spread.mean:.6g}, standard deviation {spread.std:.6g}, RMS {spread.rms:.6g}, "
                f"{spread.min:.6g} to {spread.max:.6g}, largest {spread.largest:.6g}"
            )
    if spreads and found.self_energies:
        _print_self_energies(found)
    return 0


def _facts(dataset: Any) -> dict[str, Any]:
    source = dataset.source
    sizes = [group.num_atoms for group in source.groups]
    return {
        "layout": source.layout,
        "files": list(source.paths),
        "structures": len(dataset),
        "groups": len(source.groups),
        "smallest": min(sizes, default=0),
        "largest": max(sizes, default=0),
        "periodic": source.periodic,
        "quantities": {
            name: {"unit": q.unit, "per_atom": q.per_atom, "shape": list(q.shape)}
            for name, q in dataset.quantities.items()
        },
        "metadata": {name: value for name, value in source.metadata.items() if name != "molecules"},
        "fingerprint": dataset.fingerprint,
    }


def _print_facts(facts: dict[str, Any]) -> None:
    print(f"{', '.join(facts['files'])}: {facts['layout']}")
    sizes = f"{facts['smallest']} to {facts['largest']} atoms"
    print(f"{facts['structures']} structures of {sizes} in {facts['groups']} groups")
    for name, value in facts["metadata"].items():
        text = str(value)
        print(f"  {name}: {text if len(text) <= 200 else text[:200] + '…'}")


def _print_contents(found: Any) -> None:
    print(f"{found.atoms} atoms, {found.periodic} periodic structures")
    for element, count in found.elements.items():
        print(f"  {element}: {count} atoms in {found.structures_with[element]} structures")
    print("structures by number of atoms:")
    line = ""
    for size, count in found.sizes.items():
        part = f"  {size}: {count}"
        if len(line) + len(part) > 100:
            print(line)
            line = ""
        line += part
    print(line)
    print("labels:")


def _print_self_energies(found: Any) -> None:
    print(f"self energies from {found.compositions} compositions, Hartree (least squares; robust):")
    for element, energy in found.self_energies.items():
        print(f"  {element}: {energy:.8f}  {found.robust_self_energies[element]:.8f}")
    if not found.self_energies_determined:
        print("  the compositions do not tell the elements apart: these are the smallest of many that fit as well")
    print(
        f"energies less self energies: mean {found.energy_mean:.6g}, standard deviation {found.energy_std:.6g} Hartree"
    )
    print(f"  per atom, robust standard deviation: {found.energy_std_per_atom:.6g} Hartree")
