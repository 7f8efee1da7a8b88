"""Run the notebooks in examples/ with their full settings and write them, with what they show, to docs/notebooks/.

Run from the root of the repository: python tools/render_notebooks.py, or with names such as 13_torsion_scan. Needs
nbconvert, ipykernel and what the notebooks need; models that are not at hand are downloaded. Takes some ten minutes.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, PAGES = ROOT / "examples", ROOT / "docs" / "notebooks"


def render(notebook: Path) -> None:
    """Run a notebook, and write a page and its pictures."""
    nodes = nbformat.read(notebook, as_version=4)
    os.environ.pop("MPLBACKEND", None)  # pictures go into the notebook
    NotebookClient(nodes, timeout=3600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    for cell in nodes.cells:  # bars, and warnings of the machine at hand
        cell["outputs"] = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]
    resources = {"unique_key": notebook.stem, "output_files_dir": notebook.stem}
    text, resources = MarkdownExporter().from_notebook_node(nodes, resources=resources)
    head = f"[The notebook](../../examples/{notebook.name}), run by tools/render_notebooks.py.\n\n"
    page = (head + text.replace("](../docs/", "](../")).strip() + "\n"
    PAGES.mkdir(exist_ok=True)
    (PAGES / f"{notebook.stem}.md").write_text("\n".join(line.rstrip() for line in page.splitlines()) + "\n", "utf-8")
    (PAGES / notebook.stem).mkdir(exist_ok=True)
    for old in (PAGES / notebook.stem).iterdir():
        old.unlink()
    for name, content in resources["outputs"].items():
        (PAGES / name).write_bytes(content)


def main(names: list[str]) -> None:
    for notebook in sorted(EXAMPLES.glob("[0-9]*.ipynb")):
        if not names or notebook.stem in names:
            print(notebook.name, flush=True)
            render(notebook)


if __name__ == "__main__":
    main(sys.argv[1:])
