"""Records that cannot be used: where each stands and what is wrong, kept through a restart."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Literal

from anipot.data.blocks import DataError

OnBad = Literal["skip", "refuse"]


class Bad:
    """What was left out of a conversion.

    Called with where a record stands and what is wrong. The list grows in a file as the conversion goes on, so that one
    that was interrupted and continued knows all of them.

    Parameters
    ----------
    path
        Where they are listed, one JSON object a line.
    on_bad
        ``"refuse"`` raises ``DataError`` for the first one instead.

    Examples
    --------
    >>> bad = Bad(getfixture("tmp_path") / "bad.jsonl", "skip")
    >>> bad("file.h5, group 'a', index 3", "energy is not finite")
    >>> bad.found()
    {"file.h5, group 'a', index 3": 'energy is not finite'}
    """

    def __init__(self, path: Path, on_bad: OnBad):
        if on_bad not in ("skip", "refuse"):
            raise ValueError(f"on_bad is {on_bad!r}; expected 'skip' or 'refuse'")
        self.path = path
        self.on_bad = on_bad

    def __call__(self, where: str, reason: str) -> None:
        if self.on_bad == "refuse":
            raise DataError(reason if reason.startswith(where) else f"{where}: {reason}")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([where, reason]) + "\n")

    def found(self) -> dict[str, str]:
        """Return what is wrong by where it stands."""
        if not self.path.exists():
            return {}
        found: dict[str, str] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a process that was killed
                where, reason = json.loads(line)
                found.setdefault(where, reason)
        return found
