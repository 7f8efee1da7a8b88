"""``torchani.nn``: the modules after the AEVs."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping, Sequence, ValuesView
from typing import Any

from torch import nn

from anipot.energy import Sequential
from anipot.head import ANIModel as _ANIModel
from anipot.head import Ensemble as _Ensemble
from anipot.head import Gaussian
from anipot.structures import SpeciesConverter, SpeciesCoordinates, SpeciesEnergies

__all__ = [
    "ANIModel",
    "Ensemble",
    "Gaussian",
    "Sequential",
    "SpeciesConverter",
    "SpeciesCoordinates",
    "SpeciesEnergies",
]


class ANIModel(_ANIModel):
    """``anipot.ANIModel`` whose networks can also be had by name, as from the ``ModuleDict`` of TorchANI 2.2.

    Parameters
    ----------
    modules
        Networks in the order of the element indices, or a mapping from names to them, in this order.

    Examples
    --------
    >>> from torch.nn import Linear
    >>> list(ANIModel({"H": Linear(8, 1), "C": Linear(8, 1)}).keys())
    ['H', 'C']
    """

    stored_as = _ANIModel

    def __init__(self, modules: Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        super().__init__(modules)
        self._names = list(modules) if isinstance(modules, Mapping) else [str(i) for i in range(len(self))]

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, str):
            return super().__getitem__(index)
        if index not in self._names:
            raise KeyError(f"no network is named {index!r}; there are {', '.join(self._names)}")
        return super().__getitem__(self._names.index(index))

    def _named(self) -> dict[str, nn.Module]:
        return dict(zip(self._names, self, strict=True))

    def keys(self) -> KeysView[str]:
        """Return the names of the networks."""
        return self._named().keys()

    def values(self) -> ValuesView[nn.Module]:
        """Return the networks."""
        return self._named().values()

    def items(self) -> ItemsView[str, nn.Module]:
        """Return names and networks."""
        return self._named().items()


class Ensemble(_Ensemble):
    """``anipot.Ensemble`` that says its size as TorchANI 2.2 does."""

    stored_as = _Ensemble

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self)
