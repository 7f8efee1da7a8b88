"""Features that are computed once for all epochs, where nothing but energies is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anipot import known
from anipot.data.pools import num_atoms
from anipot.ensembles import EnsemblePotential
from anipot.kernels.memory import empty
from anipot.neighbors import neighborhoods
from anipot.potential import Potential
from anipot.structures import System

if TYPE_CHECKING:
    from anipot.data import AtomsDataset

#: Bytes that features may take.
MEMORY = 2 << 30


class FeatureCache:
    """Energies of batches from features that are kept, to be given to ``AtomisticTask`` as ``energies``.

    Where the representation has nothing to train, as with AEVs and symmetry functions, and no forces are trained, the
    features of a structure never change. They are kept in the dtype of the networks until ``memory`` is full; those of
    further structures are computed anew each time.

    Parameters
    ----------
    potential
        What is trained.
    dataset
        What it is trained on.
    memory
        Bytes.

    Raises
    ------
    ValueError
        If features may change in training, or energy terms beside the network need the geometry.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Potential
    >>> from anipot.data import AtomsDataset
    >>> aev = AEVComputer.like_1x(2)
    >>> networks = [AtomicNetwork((aev.num_features, 16, 1), CELU(0.1)) for _ in range(2)]
    >>> model = Potential(["H", "O"], aev, ANIModel(networks), EnergyShifter([-0.6, -75.2]))
    >>> positions = np.random.default_rng(0).random((10, 3, 3))
    >>> dataset = AtomsDataset.from_arrays([8, 1, 1], positions, energies=np.full(10, -76.4))
    >>> cache = FeatureCache(model, dataset)
    >>> for batch in dataset.batches(4):
    ...     assert torch.allclose(cache(model, batch), model((batch.species, batch.coordinates)).energies)
    >>> cache.num_atoms
    30
    """

    def __init__(self, potential: Potential, dataset: AtomsDataset, memory: int = MEMORY) -> None:
        if reason := cannot_cache(potential):
            raise ValueError(f"features cannot be kept: {reason}")
        width = int(potential.representation.num_features)  # type: ignore[arg-type]
        weight = next(potential.head.parameters())
        atoms = num_atoms(dataset)
        #: How many atoms fit, what they take, and how many are kept.
        self.capacity = min(atoms, int(memory) // (width * weight.element_size()))
        self.num_atoms = 0
        self.bytes = self.capacity * width * weight.element_size()
        self._shape, self._features = (self.capacity, width), torch.empty(0, width)
        #: (n,) where the atoms of a structure start, -1 for what is not kept.
        self._start = torch.full((dataset.num_rows,), -1, dtype=torch.int32)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureCache:
        """Return itself: copies of a task, which averages of weights make, share it."""
        return self

    def __call__(self, potential: Potential, batch: Any) -> Tensor:
        """Return the energies (B,) of a batch whose ``index`` says which structures it holds."""
        system = potential.system(batch.species, batch.coordinates, batch.cell, batch.pbc)
        species = known.species_on_host(system.species)
        if self._features.shape != self._shape:  # here, since the potential may have been moved to a GPU
            # On a CPU this takes memory page by page, when it is written to.
            self._features = torch.empty(self._shape, dtype=potential.dtype, device=potential.device)
        with torch.no_grad():
            features = self._of(potential, system, species >= 0, _on_host(batch.index))
        molecule, slot = (species >= 0).nonzero()
        places = known.send(np.stack([molecule, molecule * species.shape[1] + slot]), system.species.device)
        kinds = system.species.flatten().index_select(0, places[1])
        known.tell(kinds, species[molecule, slot])
        atomic = potential.atomic_energies_of(kinds, features).mean(0)
        energies = atomic.new_zeros(len(species)).index_add(0, places[0], atomic)
        return energies + potential.shifter.sae(system.species)

    def _of(self, potential: Potential, system: System, is_real: NDArray[np.bool_], index: Tensor) -> Tensor:
        """Return the features (n, F) of the real atoms of a batch."""
        starts, sizes = self._start[index].long(), torch.from_numpy(is_real.sum(-1))
        kept = starts >= 0
        if bool(kept.all()):
            return self._rows(_ranges(starts, sizes))
        real, unknown = system.species >= 0, ~kept.to(system.species.device)
        found = _features(potential, _rows(system, unknown))[real[unknown]]
        self._keep(index[~kept], sizes[~kept], found)
        if not bool(kept.any()):
            return found
        ends = sizes.cumsum(0)
        features = found.new_empty(int(ends[-1]), found.shape[1])
        for some, values in ((kept, None), (~kept, found)):
            rows = _ranges((ends - sizes)[some], sizes[some]).to(found.device)
            if values is None:
                values = self._rows(_ranges(starts[some], sizes[some]))
            features[rows] = values
        return features

    def _rows(self, rows: Tensor) -> Tensor:
        """Return some of the features kept, in memory that served the batch before: new memory costs more than they."""
        found = empty((len(rows), self._features.shape[1]), self._features)
        return torch.index_select(self._features, 0, known.send(rows, self._features.device), out=found)

    def _keep(self, index: Tensor, sizes: Tensor, features: Tensor) -> None:
        """Keep the features of structures, as many as fit."""
        ends = sizes.cumsum(0)
        fit = int((ends <= self.capacity - self.num_atoms).sum())
        if not fit:
            return
        atoms = int(ends[fit - 1])
        self._features[self.num_atoms : self.num_atoms + atoms] = features[:atoms]
        self._start[index[:fit]] = (self.num_atoms + ends - sizes)[:fit].int()
        self.num_atoms += atoms


def cannot_cache(potential: Potential) -> str:
    """Return why the features of a potential cannot be kept, or "" if they can."""
    if isinstance(potential, EnsemblePotential) or potential.overridden():
        return "the potential computes energies in a way of its own"
    if any(parameter.requires_grad for parameter in potential.representation.parameters()):
        return "the representation is trained"
    if len(potential.terms):
        return "energy terms see the geometry"
    return ""


def _on_host(index: Tensor) -> Tensor:
    """Return the numbers of structures on the CPU, where they have come from."""
    values = known.told(index)
    return index.cpu() if values is None else torch.from_numpy(values)


def _ranges(starts: Tensor, sizes: Tensor) -> Tensor:
    """Return start, start + 1, … for each start, one after the other.

    >>> _ranges(torch.tensor([5, 0]), torch.tensor([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = sizes.cumsum(0) - sizes
    return torch.arange(int(sizes.sum())) + torch.repeat_interleave(starts - before, sizes)


def _rows(system: System, rows: Tensor) -> System:
    cell, pbc = (None if t is None else t[rows] for t in (system.cell, system.pbc))
    return System(system.species[rows], system.coordinates[rows], cell, pbc)


def _features(potential: Potential, system: System) -> Tensor:
    """Return the features (B, A, F) of a checked batch."""
    pairs, vectors = neighborhoods(system, potential.cutoff)
    environments = potential.environments(system.species.reshape(-1), pairs, vectors, system)
    return environments.features.view(*system.species.shape, -1)
