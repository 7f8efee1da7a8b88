"""Every numbered example runs, with settings that make it short."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from weights_at_hand import ROOT, SHARED, reason_missing, use_weights

SCRIPTS = sorted((ROOT / "examples").glob("[0-9]*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {
        "ANIPOT_EXAMPLE_FAST": "1",
        "MPLBACKEND": "agg",
        "ANIPOT_SHARED": str(SHARED),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def skip_without_weights(example: Path) -> None:
    """Skip unless all published models that an example names are at hand."""
    named = sorted(set(re.findall(r"\bani(?:1x|1ccx|2x)\b", example.read_text("utf-8"))))
    for name in named:
        if why := reason_missing(name):
            pytest.skip(why)


def skip_without_data(example: Path) -> None:
    """Skip where an example reads data that come from elsewhere and are not at hand."""
    if "ANIPOT_SHARED" in example.read_text("utf-8") and not (SHARED / "data").is_dir():
        pytest.skip(f"its data are not in {SHARED}")


def test_examples_are_found():
    assert len(SCRIPTS) >= 5
    assert len(NOTEBOOKS) >= 6


@pytest.mark.parametrize("example", SCRIPTS, ids=lambda path: path.stem)
def test_script(example, tmp_path, cache_folder, monkeypatch):
    use_weights(monkeypatch, cache_folder)
    skip_without_weights(example)
    skip_without_data(example)
    output = run([sys.executable, "-W", "error", str(example)], tmp_path)
    assert output.strip(), "an example prints what it found"
    assert "nan" not in re.findall(r"[a-z]+", output.lower())


@pytest.mark.skipif(find_spec("nbmake") is None, reason="nbmake is not installed")
@pytest.mark.parametrize("example", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(example, tmp_path, cache_folder, monkeypatch):
    use_weights(monkeypatch, cache_folder)
    skip_without_weights(example)
    if "radial_distribution" in example.read_text("utf-8"):
        pytest.importorskip("MDAnalysis")
    # A pytest of its own, without the settings of this one: nbmake is a plugin that collects notebooks.
    options = ["-c", os.devnull, "--rootdir", str(example.parent), "-p", "no:cacheprovider", "-q"]
    run([sys.executable, "-m", "pytest", *options, "--nbmake", "--nbmake-timeout=200", str(example)], tmp_path)


@pytest.mark.parametrize("example", NOTEBOOKS, ids=lambda path: path.stem)
def test_page_of_a_notebook(example):
    """The page in docs/notebooks holds every cell of the notebook as it is, and its pictures are there."""
    page = ROOT / "docs" / "notebooks" / f"{example.stem}.md"
    text = page.read_text("utf-8")
    place = 0
    for cell in json.loads(example.read_text("utf-8"))["cells"]:
        assert not cell.get("outputs"), "notebooks are kept without their outputs; the pages have them"
        source = "".join(cell["source"]).replace("](../docs/", "](../")
        found = text.find(source, place)
        assert found >= 0, f"{page.name} is older than the notebook: python tools/render_notebooks.py {example.stem}"
        place = found + len(source)
    pictures = re.findall(r"!\[png\]\(([^)]+)\)", text)
    assert pictures
    assert all((page.parent / picture).is_file() for picture in pictures)
