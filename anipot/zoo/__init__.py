"""Published potentials: find, fetch, check, cache and load them.

>>> from anipot import zoo
>>> zoo.names()[:3]
['ani1x', 'ani1ccx', 'ani2x']
>>> model = zoo.load("ani2x")                                       # doctest: +SKIP
"""

from anipot.zoo.cache import cache_dir
from anipot.zoo.errors import Attempt, ZooError
from anipot.zoo.loading import load, load_path, names, pull
from anipot.zoo.manage import Status, export, import_path, status, table, verify

__all__ = [
    "Attempt",
    "Status",
    "ZooError",
    "cache_dir",
    "export",
    "import_path",
    "load",
    "load_path",
    "names",
    "pull",
    "status",
    "table",
    "verify",
]
