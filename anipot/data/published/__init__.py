"""Published data sets: fetched, checked and converted when they are asked for.

>>> from anipot.data import published
>>> published.names()
('qm9', 'md17', 'rmd17', 'iso17', 'ani1', 'ani1x', 'ani1ccx', 'ani2x', 'comp6', 'comp6v2', 'materialsproject')
>>> path = published.QM9().fetch()                                      # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anipot.data.published.ani1 import ANI1
from anipot.data.published.ani1x import ANI1ccx, ANI1x
from anipot.data.published.ani2x import ANI2x
from anipot.data.published.base import Published
from anipot.data.published.comp6 import COMP6, COMP6v2
from anipot.data.published.iso17 import ISO17
from anipot.data.published.labels import Label, table
from anipot.data.published.materials_project import MaterialsProject
from anipot.data.published.md17 import MD17, RMD17
from anipot.data.published.qm9 import QM9

if TYPE_CHECKING:
    from anipot.data.dataset import AtomsDataset

__all__ = [
    "ANI1",
    "COMP6",
    "ISO17",
    "MD17",
    "QM9",
    "RMD17",
    "ANI1ccx",
    "ANI1x",
    "ANI2x",
    "COMP6v2",
    "Label",
    "MaterialsProject",
    "Published",
    "find",
    "load",
    "names",
    "table",
]

#: By name.
DATASETS: Mapping[str, type[Published]] = {
    kind.key: kind for kind in (QM9, MD17, RMD17, ISO17, ANI1, ANI1x, ANI1ccx, ANI2x, COMP6, COMP6v2, MaterialsProject)
}


def names() -> tuple[str, ...]:
    """Return the names of all published data sets."""
    return tuple(DATASETS)


def find(name: str, *args: Any, **options: Any) -> Published:
    """Return a published data set; nothing is fetched.

    Parameters
    ----------
    name
        One of ``names()``, with what is chosen of it behind a colon: ``md17:ethanol``, ``comp6:drugbank``.
    args, options
        For its class.

    Raises
    ------
    ValueError
        For a name that is not known, or a choice that there is not.

    Examples
    --------
    >>> find("rMD17:aspirin")
    RMD17('aspirin')
    """
    key, _, variant = name.partition(":")
    kind = DATASETS.get(key.lower().replace("-", ""))
    if kind is None:
        raise ValueError(f"there is no published data set {key!r}; known are {', '.join(DATASETS)}")
    if variant:
        args = (variant, *args)
    try:
        return kind(*args, **options)
    except TypeError as error:
        choice = f", one of {', '.join(kind.variants)}" if kind.variants else ""
        raise ValueError(f"{key!r} takes {_signature(kind)}{choice} ({error})") from error


def load(name: str, *args: Any, progress: bool = True, **options: Any) -> AtomsDataset:
    """Return a published data set, which is fetched and converted the first time.

    Parameters
    ----------
    name, args, options
        As for ``find``.
    progress
        Whether terminals are shown bars.

    Raises
    ------
    DownloadError
        If it cannot be had.

    Examples
    --------
    >>> dataset = load("md17", "ethanol")                               # doctest: +SKIP
    """
    from anipot.data.dataset import AtomsDataset
    from anipot.data.source import open_source

    return AtomsDataset(open_source(find(name, *args, **options).fetch(progress=progress)))


def _signature(kind: type[Published]) -> str:
    import inspect

    return str(inspect.signature(kind))
