"""Fixtures: the shared weights and references, and the published models in float64."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import anipot
from anipot.interfaces.neurochem import read_ensemble

SHARED = Path(os.environ.get("ANIPOT_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with weights and references, or skip."""
    if not (SHARED / "weights" / "ani-model-zoo").is_dir():
        pytest.skip(f"needs the published weights and references; none in {SHARED} (set ANIPOT_SHARED)")
    return SHARED


def _published(shared: Path, name: str) -> anipot.Potential:
    return read_ensemble(shared / "weights" / "ani-model-zoo" / "resources" / f"{name}.info").double()


@pytest.fixture(scope="session")
def ani1x(shared: Path) -> anipot.Potential:
    return _published(shared, "ani-1x_8x")


@pytest.fixture(scope="session")
def ani1ccx(shared: Path) -> anipot.Potential:
    return _published(shared, "ani-1ccx_8x")


@pytest.fixture(scope="session")
def ani2x(shared: Path) -> anipot.Potential:
    return _published(shared, "ani-2x_8x")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests out of the user's cache."""
    monkeypatch.setenv("ANIPOT_CACHE", str(tmp_path_factory.getbasetemp() / "anipot-cache"))


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    """Leave cores to the other workers of the test run."""
    torch.set_num_threads(1)
