"""Every array of the float64 references, for every published model that knows the elements."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED

import anipot
from anipot.elements import atomic_masses

SYSTEMS = sorted(path.stem for path in (SHARED / "reference").glob("*.npz")) or ["no references"]
MODELS = ("ani1x", "ani1ccx", "ani2x")


def load(shared: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(shared / "reference" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def batch(ref: dict[str, np.ndarray], dtype: torch.dtype = torch.float64) -> tuple:
    """Return species, coordinates, cell and pbc with a batch axis; ghosts hold NaN."""
    species = torch.tensor(np.atleast_2d(ref["numbers"]), dtype=torch.long)
    x = torch.tensor(ref["positions"].reshape(*species.shape, 3), dtype=dtype)
    x[species < 0] = float("nan")
    if "cell" not in ref:
        return species, x, None, None
    return species, x, torch.tensor(ref["cell"], dtype=dtype), torch.tensor(ref["pbc"])


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_float64(system: str, model_name: str, shared: Path, request: pytest.FixtureRequest) -> None:
    ref = load(shared, system)
    if f"{model_name}_energy" not in ref:
        assert model_name != "ani2x", "ANI-2x knows every element of the references"
        pytest.skip(f"{model_name} does not know all elements of {system}")
    model = request.getfixturevalue(model_name)
    species, x, cell, pbc = batch(ref)
    has = {key.removeprefix(f"{model_name}_") for key in ref if key.startswith(model_name)}
    result = anipot.single_point(
        model, species, x, cell, pbc, stress="stress" in has, hessian="hessian" in has, members="forces_members" in has
    )

    def expected(name: str) -> torch.Tensor:
        return torch.tensor(ref[f"{model_name}_{name}"])

    torch.testing.assert_close(result.energies, expected("energy").reshape(-1), rtol=0, atol=1e-8)
    close(result.forces, expected("forces"), 1e-7, 1e-9)
    if "forces_members" in has:
        torch.testing.assert_close(result.members.energies, expected("energies").reshape(8, -1), rtol=0, atol=1e-8)
        close(result.members.forces, expected("forces_members"), 1e-7, 1e-9)
    if "stress" in has:
        close(result.stress, expected("stress"), 0, 1e-8)
    if "hessian" in has:
        close(result.hessian, expected("hessian"), 0, 1e-8)
        masses = torch.tensor([atomic_masses()[z] for z in species[0].tolist()])[None].double()
        modes = anipot.vibrational_analysis(masses, result.hessian)
        # A vanishing frequency is the square root of a vanishing eigenvalue: compare the squares.
        close(modes.freqs.sign() * modes.freqs**2, signed_square(expected("frequencies_cm1")), 0, 1e-7)
    if "aev" in has:
        indices = model.converter((species, x))
        close(model.representation(indices, cell, pbc).features[0], expected("aev"), 0, 1e-10)


def signed_square(x: torch.Tensor) -> torch.Tensor:
    return x.sign() * x**2


def close(actual: torch.Tensor, expected: torch.Tensor, absolute: float, of_scale: float) -> None:
    """Compare within ``absolute``, or within a part of the largest value where that is more."""
    tolerance = max(absolute, of_scale * float(expected.abs().max()))
    torch.testing.assert_close(actual.reshape(expected.shape), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_name", MODELS)
def test_float32_within_2e6_hartree_per_atom(model_name: str, shared: Path, request: pytest.FixtureRequest) -> None:
    model = copy.deepcopy(request.getfixturevalue(model_name)).float()
    for system in SYSTEMS:
        ref = load(shared, system)
        if f"{model_name}_energy" not in ref:
            continue
        species, x, cell, pbc = batch(ref, torch.float32)
        energies = anipot.single_point(model, species, x, cell, pbc, forces=False).energies
        error = (energies - torch.tensor(ref[f"{model_name}_energy"]).reshape(-1)).abs() / (species >= 0).sum(-1)
        assert float(error.max()) < 2e-6, f"{system}: {float(error.max()):.1e} Hartree per atom"


@pytest.mark.parametrize("model_name", MODELS)
def test_one_batch_of_everything(model_name: str, shared: Path, request: pytest.FixtureRequest) -> None:
    """Free molecules, boxes, slabs, wires and tiny cells together give each its own value."""
    model = request.getfixturevalue(model_name)
    refs = [load(shared, s) for s in SYSTEMS]
    refs = [r for r in refs if r["numbers"].ndim == 1 and len(r["numbers"]) <= 60 and f"{model_name}_energy" in r]
    free = {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, dtype=bool)}
    refs = [free | ref for ref in refs]
    assert sum(bool(ref["pbc"].any()) for ref in refs) >= 8
    species, x = anipot.pad([(torch.tensor(r["numbers"]).long(), torch.tensor(r["positions"])) for r in refs])
    x[species < 0] = float("nan")
    cell, pbc = (torch.tensor(np.stack([r[key] for r in refs])) for key in ("cell", "pbc"))
    result = anipot.single_point(model, species, x, cell, pbc)
    for b, ref in enumerate(refs):
        n = len(ref["numbers"])
        assert abs(float(result.energies[b]) - float(ref[f"{model_name}_energy"])) < 1e-8
        close(result.forces[b, :n], torch.tensor(ref[f"{model_name}_forces"]), 1e-7, 1e-9)
        assert not result.forces[b, n:].any()
