"""Models that come with the package itself: nothing is fetched for them, and nothing is cached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anipot.zoo.index import packaged

if TYPE_CHECKING:
    from anipot.potential import Potential

#: What ``load`` returns without a name.
DEFAULT = "mini"


def shipped() -> dict[str, Path]:
    """Return the weights of the models in the package by name.

    >>> list(shipped())
    ['mini']
    """
    folder = Path(str(packaged()))
    cards = sorted(folder.glob("*/card.json"))
    return {card.parent.name: card.parent / f"{card.parent.name}.safetensors" for card in cards}


def card(key: str) -> dict[str, Any]:
    """Return what is known of a model in the package."""
    found: dict[str, Any] = json.loads((shipped()[key].parent / "card.json").read_text(encoding="utf-8"))
    return found


def open_shipped(key: str) -> Potential:
    """Return a model of the package."""
    from anipot.storage import load_model

    path = shipped()[key]
    potential = load_model(path)
    potential.details.update(source="shipped with anipot", file=str(path))
    return potential


def problem_of(key: str) -> str:
    """Return what is wrong with the files of a model in the package; nothing if they are as they were made."""
    folder = shipped()[key].parent
    for line in (folder / f"{key}.sha256").read_text(encoding="utf-8").splitlines():
        checksum, _, name = line.partition("  ")
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != checksum:
            return f"{folder / name} is damaged: its sha256 is not {checksum}"
    return ""
