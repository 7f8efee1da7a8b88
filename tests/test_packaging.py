"""What is installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

from anipot.kernels.cuda.build import SOURCES

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "anipot").rglob("__init__.py")}
    assert found | {"anipot.model_zoo"} == set(listed)


def test_sources_of_cuda_programs_are_installed() -> None:
    """They are compiled on the machine of the user, and Python imports none of them."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "anipot" / "kernels" / "cuda"
    installed = {file for pattern in patterns["anipot.kernels.cuda"] for file in folder.glob(pattern)}
    sources = {file for ending in ("cu", "h") for file in folder.rglob(f"*.{ending}")}
    assert SOURCES / "common.h" in sources <= installed
