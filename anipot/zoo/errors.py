"""What goes wrong on the way to a model, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """One place that was tried, and why it did not help."""

    place: str
    reason: str


class ZooError(RuntimeError):
    """A model could not be had, or the cache could not be used.

    Attributes
    ----------
    attempts
        Every place that was tried, in order, and why each failed.
    """

    def __init__(self, message: str, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class CacheError(ZooError):
    """The cache cannot be written; what was to be cached may still be usable."""


def nowhere(title: str, folder: str, attempts: Sequence[Attempt]) -> ZooError:
    """Return the error that ends the search for a model."""
    tried = "\n".join(f"  {i}. {a.place}: {a.reason}" for i, a in enumerate(attempts, start=1))
    return ZooError(
        f"the weights of {title} could not be had. Tried, in this order:\n{tried}\n"
        f"To hand the files over, fetch them on any machine (a folder, zip file or wheel that holds {folder}/, or a "
        f"file written by `anipot zoo export`), then run `anipot zoo import PATH`, or set ANIPOT_ZOO=PATH.",
        attempts,
    )
