"""Compare every array of the float64 references with what a device computes, in both precisions.

    python tools/gpu_references.py [--device cuda] [--output FILE.json] [--seconds N]

Reads $ANIPOT_SHARED, by default ../shared; models whose weights are not there are left out. Energies of float64 must be
right to 1e-8 Hartree, other values to a part of the largest of their kind. Float32 is compared with the same float64
references: 2e-6 Hartree per atom, and for forces 2e-5 of the largest, or 2e-5 Hartree/Å. Exit code 1 if anything is
beyond its bound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anipot
from anipot.interfaces.neurochem import read_ensemble

SHARED = Path(os.environ.get("ANIPOT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MODELS = {"ani1x": "ani-1x_8x", "ani1ccx": "ani-1ccx_8x", "ani2x": "ani-2x_8x"}
#: Largest errors in float64: absolute, and as a part of the largest value; in units of Hartree and Å.
BOUNDS = {
    "energy": (1e-8, 0.0),
    "forces": (1e-7, 1e-9),
    "stress": (0.0, 1e-8),
    "hessian": (0.0, 1e-8),
    "aev": (0.0, 1e-10),
}
BOUNDS |= {"energies": BOUNDS["energy"], "forces_members": BOUNDS["forces"]}
#: The same in float32, of energies for each atom; other values follow the networks' rounding and have no bound.
BOUNDS_32 = {"energy": (2e-6, 0.0), "forces": (2e-5, 2e-5)}


def models() -> Iterator[tuple[str, anipot.Potential]]:
    for name, file in MODELS.items():
        path = SHARED / "weights" / "ani-model-zoo" / "resources" / f"{file}.info"
        if path.is_file() and path.with_suffix("").is_dir():
            yield name, read_ensemble(path)


def references() -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for path in sorted((SHARED / "reference").glob("*.npz")):
        with np.load(path) as file:
            found[path.stem] = {key: file[key] for key in file.files}
    return found


def batch(ref: dict[str, np.ndarray], dtype: torch.dtype, device: str) -> tuple[Any, ...]:
    """Return species, coordinates, cell and pbc with a batch axis; ghosts hold NaN."""
    species = torch.tensor(np.atleast_2d(ref["numbers"]), dtype=torch.long)
    x = torch.tensor(ref["positions"].reshape(*species.shape, 3), dtype=dtype)
    x[species < 0] = float("nan")
    if "cell" not in ref:
        return species.to(device), x.to(device), None, None
    return (
        species.to(device),
        x.to(device),
        torch.tensor(ref["cell"], dtype=dtype, device=device),
        torch.tensor(ref["pbc"], device=device),
    )


def computed(model: anipot.Potential, given: tuple[Any, ...], names: set[str]) -> dict[str, torch.Tensor | None]:
    """Return what a reference holds, by the names that it has there."""
    ask = {"stress": "stress" in names, "hessian": "hessian" in names, "members": "forces_members" in names}
    result = anipot.single_point(model, *given, **ask)
    found: dict[str, Any] = {"energy": result.energies, "forces": result.forces, "stress": result.stress}
    found["hessian"] = result.hessian
    if result.members is not None:
        found |= {"energies": result.members.energies, "forces_members": result.members.forces}
    if "aev" in names:
        species, x, cell, pbc = given
        found["aev"] = model.representation(model.converter((species, x)), cell, pbc).features[0]
    return {name: value for name, value in found.items() if name in names}


def compare(name: str, model: anipot.Potential, dtype: torch.dtype, device: str, end: float) -> dict[str, Any]:
    """Return the largest error of each kind as a part of its bound, and in which structure it is."""
    bounds, worst = BOUNDS if dtype is torch.float64 else BOUNDS_32, {}
    done, errors = 0, {}
    for system, ref in references().items():
        if f"{name}_energy" not in ref:
            continue
        if time.monotonic() > end:
            errors["time"] = f"was over before {system}"
            break
        names = {key.removeprefix(f"{name}_") for key in ref if key.startswith(f"{name}_")} & bounds.keys()
        given = batch(ref, dtype, device)
        try:
            found = computed(model, given, names)
        except (RuntimeError, ValueError) as error:
            errors[system] = f"{type(error).__name__}: {error}"[:300]
            continue
        done += 1
        for key, value in found.items():
            expected = torch.tensor(ref[f"{name}_{key}"]).double()
            off = (value.detach().double().cpu().reshape(expected.shape) - expected).abs()
            if key == "energy" and dtype is torch.float32:
                off = off.reshape(-1) / (given[0] >= 0).sum(-1).clamp(min=1).cpu()
            absolute, part = bounds[key]
            bound = max(absolute, part * float(expected.abs().max())) or np.finfo(float).tiny
            error = float(off.max()) if off.numel() else 0.0
            share = error / bound if np.isfinite(error) else float("inf")
            if share >= worst.get(key, {"share": -1.0})["share"]:
                worst[key] = {"share": share, "error": error, "bound": bound, "where": system}
    return {"structures": done, "worst": worst, "errors": errors}


def run(device: str, output: Path | None, seconds: float) -> bool:
    """Print and write all comparisons; whether all of them are within their bounds."""
    end, report, well = time.monotonic() + seconds, {}, True
    for name, model in models():
        for dtype in (torch.float64, torch.float32):
            short = str(dtype).removeprefix("torch.")
            found = report[f"{name} {short}"] = compare(name, model.to(device=device, dtype=dtype), dtype, device, end)
            well &= not found["errors"] and bool(found["structures"])
            print(f"{name} {short} on {device}: {found['structures']} structures")
            for key, one in found["worst"].items():
                ok = one["share"] <= 1
                well &= ok
                print(f"  {key:15} {one['error']:.1e} of {one['bound']:.1e}  {'ok' if ok else 'WRONG'}  {one['where']}")
            for system, error in found["errors"].items():
                print(f"  FAILED {system}: {error}")
            sys.stdout.flush()
            if output is not None:
                output.write_text(json.dumps(report, indent=1) + "\n")
    if not report:
        print(f"no weights in {SHARED} (set ANIPOT_SHARED)")
    return well and bool(report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    sys.exit(0 if run(options.device, options.output, options.seconds) else 1)


if __name__ == "__main__":
    main()
