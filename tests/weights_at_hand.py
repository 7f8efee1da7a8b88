"""Which published weights the tests of examples and documents can have without a download, and where from."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ANIPOT_SHARED", ROOT.parent / "shared"))


def zoo() -> Path | None:
    """Return a copy of the public archive: $ANIPOT_ZOO, else the one in the shared folder, else None."""
    given = os.environ.get("ANIPOT_ZOO")
    folder = Path(given) if given else SHARED / "weights" / "ani-model-zoo"
    return folder if folder.is_dir() else None


def use_weights(monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    """Let anipot find weights at hand and never download; with a copy of the archive, cache in ``cache_folder``."""
    monkeypatch.setenv("ANIPOT_OFFLINE", "1")
    if archive := zoo():
        monkeypatch.setenv("ANIPOT_ZOO", str(archive.resolve()))
        monkeypatch.setenv("ANIPOT_CACHE", str(cache_folder))


@cache
def reason_missing(name: str) -> str:
    """Return why a published model cannot be loaded, or "" if it can; call after ``use_weights``."""
    import anipot
    from anipot.zoo import ZooError

    try:
        anipot.load(name)
    except ZooError:
        return f"{name} is neither in the cache nor in $ANIPOT_ZOO nor in {SHARED}"
    return ""
