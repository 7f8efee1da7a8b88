"""Frequencies by TorchANI 2.9, for tools/compare_vibrations.py: reads geometries from stdin, writes JSON.

    TORCHANI_PYTHON tools/torchani_frequencies.py WEIGHTS_FOLDER INFO_FILE < geometries.json

Geometries are {name: {"numbers": [...], "positions": [...], "masses": [...]}}, Å and u. The Hessian is that of
``torchani.grad``, one backward pass for each coordinate, in float64, and the frequencies, 3n of them and in cm⁻¹, are
those of its ``vibrational_analysis``, whose square root makes NaN of imaginary ones. Nothing is projected out.
"""

import json
import sys
from pathlib import Path

import torch
from torchani import neurochem
from torchani.arch import ANI
from torchani.grad import energies_forces_and_hessians, vibrational_analysis


def model(folder: Path, info: str) -> torch.nn.Module:
    """Return the published ensemble in float64."""
    constants, self_energies, prefix, members = (folder / info).read_text().split()[:4]
    aev, symbols = neurochem.load_aev_computer_and_symbols(folder / constants, neighborlist="all_pairs")
    networks = neurochem.load_ensemble(symbols, folder / prefix, int(members))
    whole = ANI(symbols, aev, networks, neurochem.load_sae(folder / self_energies), periodic_table_index=True)
    return whole.requires_grad_(False).double()


def main() -> None:
    ensemble = model(Path(sys.argv[1]), sys.argv[2])
    found = {}
    for name, molecule in json.load(sys.stdin).items():
        species = torch.tensor(molecule["numbers"])[None]
        coordinates = torch.tensor(molecule["positions"], dtype=torch.float64)[None]
        hessian = energies_forces_and_hessians(ensemble, species, coordinates).hessians
        masses = torch.tensor(molecule["masses"], dtype=torch.float64)[None]
        found[name] = vibrational_analysis(masses, hessian).freqs.tolist()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
