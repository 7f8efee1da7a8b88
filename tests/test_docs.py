"""What the documents say is true: their Python runs, page by page, and their links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from weights_at_hand import ROOT, reason_missing, use_weights

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A block that starts with "```python no-run" is compiled only: it needs a network, a GPU or much time.
BLOCK = re.compile(r"^```python(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


class Block(NamedTuple):
    code: str
    line: int
    run: bool


def blocks(page: Path) -> list[Block]:
    """Return the Python blocks of a page with the number of the line where each starts."""
    text = page.read_text("utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(match["code"], line, "no-run" not in match["info"]))
    return found


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_python_compiles(page):
    for block in blocks(page):
        compile("\n" * block.line + block.code, str(page), "exec")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda path: path.stem)
def test_python_runs(page, tmp_path, cache_folder, monkeypatch):
    """Blocks of a page run in order in one namespace, in a folder that holds examples/."""
    use_weights(monkeypatch, cache_folder)
    text = "".join(block.code for block in blocks(page) if block.run)
    names = {name.lower() for name in re.findall(r"\bani(?:1x|1ccx|2x)\b", text, re.IGNORECASE)}
    for name in sorted(names):
        if why := reason_missing(name):
            pytest.skip(why)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.run:
            exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_to_files(page):
    for match in LINK.finditer(page.read_text("utf-8")):
        assert (page.parent / match["target"]).exists(), f"{page.name} links to {match['target']}, which does not exist"


def test_readme_has_the_marked_commands():
    """.ci/run takes its commands from these blocks."""
    text = (ROOT / "README.md").read_text("utf-8")
    for name in ("run", "test"):
        match = re.search(rf"<!-- ci:{name} -->\n+```sh\n(?P<command>[^\n]+)\n```", text)
        assert match, f"README.md needs a one-line sh block after <!-- ci:{name} -->"


def test_precision_page_names_its_script():
    page = (ROOT / "docs" / "units_and_precision.md").read_text("utf-8")
    assert "tools/measure_precision.py" in page
    assert (ROOT / "tools" / "measure_precision.py").exists()


def imports_of(path: Path) -> set[str]:
    """Return the modules of anipot, by their first name below it, that a file imports at its top level."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "anipot":
            names = [node.module] if "." in node.module else [f"anipot.{alias.name}" for alias in node.names]
            found |= {name.split(".")[1] for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("anipot.")}
    return found


def test_imports_run_downhill():
    """The layers that docs/architecture.md prints are those of the code."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    block = re.search(r"<!-- layers[^\n]*\n```text\n(.*?)```", text, re.DOTALL)
    assert block, "docs/architecture.md has no block of layers"
    lines = block[1].splitlines()
    layer = {name: i for i, line in enumerate(lines) for name in re.split(r" {3,}", line)[0].split()}
    package = ROOT / "anipot"
    for path in sorted(package.rglob("*.py")):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in layer, f"{path.name}: {own} is in no layer of docs/architecture.md"
        for other in imports_of(path) - {own}:
            assert layer[other] <= layer[own], f"{path.relative_to(ROOT)} imports {other}, which is in a later layer"
