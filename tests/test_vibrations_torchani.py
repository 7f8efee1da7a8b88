"""Frequencies of the published models are TorchANI's: those stored by tools/compare_vibrations.py, and fresh ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import anipot

STORED = json.loads((Path(__file__).parent / "data" / "vibrations.json").read_text())


@pytest.mark.parametrize("name", ["ani1x", "ani2x"])
def test_like_the_stored_ones(name, request):
    model = request.getfixturevalue(name)
    frames = [Atoms(one["numbers"], one["positions"], masses=one["masses"]) for one in STORED[name].values()]
    assert len(frames) >= 16
    for molecule, found in zip(STORED[name], anipot.normal_modes(frames, model), strict=True):
        expected = np.sort(STORED[name][molecule]["frequencies_per_cm"])[-len(found.frequencies) :]
        np.testing.assert_allclose(found.frequencies, expected, rtol=0, atol=0.01, err_msg=molecule)
        assert found.fmax < 1e-4


def test_like_torchani_where_it_is_installed(shared, ani1x, monkeypatch):
    pytest.importorskip("torchani.neurochem")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    from torchani.grad import energies_forces_and_hessians, vibrational_analysis
    from torchani_frequencies import model

    peer = model(shared / "weights" / "ani-model-zoo" / "resources", "ani-1x_8x.info")
    one = STORED["ani1x"]["C2H4"]
    species, coordinates = torch.tensor(one["numbers"])[None], torch.tensor(one["positions"]).double()[None]
    hessian = energies_forces_and_hessians(peer, species, coordinates).hessians
    expected = vibrational_analysis(torch.tensor(one["masses"])[None].double(), hessian).freqs.sort().values[-12:]
    found = anipot.normal_modes(Atoms(one["numbers"], one["positions"]), ani1x)[0]
    np.testing.assert_allclose(found.frequencies, expected.numpy(), rtol=0, atol=0.01)
