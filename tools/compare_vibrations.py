"""Compare harmonic frequencies of the published models with TorchANI 2.9 and with observed fundamentals.

    python tools/compare_vibrations.py --peer-python PATH [--shared FOLDER]

Needs the published weights in the shared folder ($ANIPOT_SHARED, by default ../shared) and an interpreter that has
TorchANI. Writes tests/data/vibrations.json, geometries and TorchANI's frequencies for the tests, and prints the tables
of docs/results/vibrations.md.

Observed are gas-phase fundamentals: T. Shimanouchi, Tables of Molecular Vibrational Frequencies, NSRDS-NBS 39, 1972
(doi:10.6028/NBS.NSRDS.39), and for diatomics K. P. Huber and G. Herzberg, Constants of Diatomic Molecules, 1979
(ν = ω_e − 2 ω_e x_e, doi:10.1007/978-1-4757-0961-2); both are in the NIST Chemistry WebBook (doi:10.18434/T4D303).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule

import anipot
from anipot.interfaces.neurochem import read_ensemble

ROOT = Path(__file__).resolve().parents[1]
INFO_FILES = {"ani1x": "ani-1x_8x.info", "ani2x": "ani-2x_8x.info"}
#: Observed fundamentals, cm⁻¹; degenerate ones with how often they count.
OBSERVED: dict[str, list[tuple[float, int]]] = {
    "H2": [(4159, 1)],
    "N2": [(2330, 1)],
    "CO": [(2143, 1)],
    "H2O": [(3657, 1), (1595, 1), (3756, 1)],
    "CO2": [(1333, 1), (667, 2), (2349, 1)],
    "N2O": [(2224, 1), (1285, 1), (589, 2)],
    "HCN": [(3311, 1), (712, 2), (2097, 1)],
    "NH3": [(3337, 1), (950, 1), (3444, 2), (1627, 2)],
    "CH4": [(2917, 1), (1534, 2), (3019, 3), (1306, 3)],
    "C2H2": [(3374, 1), (1974, 1), (3289, 1), (612, 2), (730, 2)],
    "H2CO": [(2783, 1), (1746, 1), (1500, 1), (1167, 1), (2843, 1), (1249, 1)],
    "C2H4": [(f, 1) for f in (3026, 1623, 1342, 1023, 3103, 1236, 949, 943, 3106, 826, 2989, 1444)],
    "C2H6": [
        *((f, 1) for f in (2954, 1388, 995, 289, 2896, 1379)),
        *((f, 2) for f in (2969, 1468, 1190, 2985, 1469, 822)),
    ],
    "CH3OH": [(f, 1) for f in (3681, 3000, 2844, 1477, 1455, 1345, 1060, 1033, 2960, 1477, 1165, 295)],
    "HCOOH": [(f, 1) for f in (3570, 2943, 1770, 1387, 1229, 1105, 625, 1033, 638)],
    "CH3CN": [*((f, 1) for f in (2954, 2267, 1385, 920)), *((f, 2) for f in (3009, 1448, 1041, 362))],
    "C6H6": [
        *((f, 1) for f in (3062, 992, 1326, 673, 3068, 1010, 995, 703, 1310, 1150)),
        *((f, 2) for f in (849, 3063, 1486, 1038, 3047, 1596, 1178, 606, 975, 410)),
    ],
    "SH2": [(2615, 1), (1183, 1), (2626, 1)],
    "HF": [(3959, 1)],
    "HCl": [(2885, 1)],
    "CH3F": [*((f, 1) for f in (2930, 1464, 1049)), *((f, 2) for f in (3006, 1467, 1182))],
    "CH3Cl": [*((f, 1) for f in (2937, 1355, 732)), *((f, 2) for f in (3039, 1452, 1017))],
}
#: Shown mode by mode.
SHOWN = ("H2O", "CO2", "NH3", "CH4", "C2H4", "C6H6")
#: Built by hand, since the collection of ASE has none.
GEOMETRIES = {"CH3F": ("CH3Cl", {17: 9})}


def start(name: str) -> Any:
    """Return a molecule from which to relax."""
    base, changed = GEOMETRIES.get(name, (name, {}))
    atoms = molecule(base)
    atoms.numbers = [changed.get(int(z), int(z)) for z in atoms.numbers]
    return atoms


def compute(model: anipot.Potential) -> dict[str, anipot.NormalModes]:
    """Return modes of all molecules that the model knows, at tightly relaxed geometries."""
    known = [name for name in OBSERVED if set(start(name).symbols) <= set(model.elements)]
    found = anipot.normal_modes([start(name) for name in known], model, optimize=True, fmax=1e-4, members=True)
    return dict(zip(known, found, strict=True))


def torchani(modes: dict[str, anipot.NormalModes], python: str, weights: Path, info: str) -> dict[str, list[float]]:
    """Return TorchANI's 3n frequencies at the same geometries."""
    geometries = {
        name: {
            "numbers": one.atoms.numbers.tolist(),
            "positions": one.atoms.positions.tolist(),
            "masses": one.atoms.get_masses().tolist(),
        }
        for name, one in modes.items()
    }
    command = [python, str(ROOT / "tools" / "torchani_frequencies.py"), str(weights), info]
    done = subprocess.run(command, input=json.dumps(geometries), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"TorchANI failed: {done.stderr[-500:]}")
    peer = json.loads(done.stdout)
    return {name: geometries[name] | {"frequencies_per_cm": peer[name]} for name in modes}


def observed(name: str) -> np.ndarray:
    return np.sort(np.repeat(*np.array(OBSERVED[name], dtype=int).T))


def largest_difference(modes: anipot.NormalModes, peer: list[float]) -> float:
    """Return cm⁻¹, over the vibrations; those of TorchANI are its largest, as it projects nothing out."""
    return float(np.abs(np.sort(peer)[-len(modes.frequencies) :] - modes.frequencies).max())


def table(models: dict[str, Any], peers: dict[str, Any]) -> str:
    """Return one line for each molecule."""
    heads = ["", "modes", *(f"{name} − TorchANI, largest" for name in peers)]
    heads += [text for name in models for text in (f"{name} − observed", f"± {name}")]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name in OBSERVED:
        cells = [name, str(len(observed(name)))]
        for model, peer in peers.items():
            known = name in peer
            cells.append(
                f"{largest_difference(models[model][name], peer[name]['frequencies_per_cm']):.4f}" if known else "–"
            )
        for found in models.values():
            cells += against_observed(found[name], observed(name)) if name in found else ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def against_observed(modes: anipot.NormalModes, values: np.ndarray) -> list[str]:
    """Return the mean absolute and mean difference and the mean error bar, cm⁻¹."""
    away = modes.frequencies - values
    imaginary = f", {len(modes.imaginary)} imaginary" * bool(len(modes.imaginary))
    return [f"{np.abs(away).mean():.0f} ({away.mean():+.0f}){imaginary}", f"{modes.frequencies_std.mean():.0f}"]


def each_mode(name: str, models: dict[str, Any]) -> str:
    """Return all modes of a molecule beside the observed ones, both in order."""
    lines = [f"| {name}, observed | " + " | ".join(models) + " |", "| ---: |" + " ---: |" * len(models)]
    for i, value in enumerate(observed(name)):
        columns = [found[name] for found in models.values()]
        cells = [f"{one.frequencies[i]:.1f} ± {one.frequencies_std[i]:.1f}" for one in columns]
        lines.append(f"| {value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("ANIPOT_SHARED", ROOT.parent / "shared")))
    options = parser.parse_args()
    weights = options.shared / "weights" / "ani-model-zoo" / "resources"
    models = {name: compute(read_ensemble(weights / info).double()) for name, info in INFO_FILES.items()}
    peers = {name: torchani(models[name], options.peer_python, weights, INFO_FILES[name]) for name in models}
    target = ROOT / "tests" / "data" / "vibrations.json"
    target.write_text(json.dumps(peers) + "\n")
    models["mini"] = compute(anipot.load("mini", dtype=torch.float64))
    print(table(models, peers))
    for name in SHOWN:
        print("\n" + each_mode(name, models))


if __name__ == "__main__":
    main()
