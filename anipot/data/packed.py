"""Structures of many sizes in flat tensors without padding, and the padded batches that are cut from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anipot import known


@dataclass(frozen=True)
class Batch:
    """B structures, padded to the A atoms of the largest.

    Attributes
    ----------
    species
        (B, A) atomic numbers, int64; ghosts -1.
    coordinates
        (B, A, 3) Å; 0 for ghosts.
    properties
        By name: (B, ...) float64, or (B, A, ...) in the dtype of the coordinates for what atoms have each; NaN where a
        label is missing, and for ghosts.
    index
        (B,) rows of the source.
    cell, pbc
        (B, 3, 3) Å and (B, 3) bool, or None for both where no structure of the batch is periodic.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot.data import AtomsDataset
    >>> dataset = AtomsDataset.from_arrays([8, 1, 1], np.zeros((4, 3, 3)), energies=np.arange(4))
    >>> batch = next(iter(dataset.batches(2)))
    >>> batch.coordinates.shape, batch.properties["energies"], batch.index
    (torch.Size([2, 3, 3]), tensor([0., 1.], dtype=torch.float64), tensor([0, 1]))
    """

    species: Tensor
    coordinates: Tensor
    properties: dict[str, Tensor]
    index: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None
    #: Of a batch on a device, tensors with their versions, and what the host has sent.
    _sent: tuple[tuple[Tensor, int, NDArray[Any]], ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.species)

    @property
    def num_atoms(self) -> Tensor:
        """(B,) atoms of each structure."""
        return (self.species >= 0).sum(-1)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """Return the batch on a device.

        On its way from the host to a GPU nobody waits for it. Nobody may write to a batch in pinned memory until then.
        """
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if device.type != "cuda" or not self.species.is_cpu:
            return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        moved = self._each(lambda tensor: known.send(tensor, device))
        species, finite = known.narrow(self.species.numpy()), np.isfinite(self.coordinates.detach().numpy()).all(-1)
        sent = ((moved.species, species), (moved.coordinates, finite), (moved.index, self.index.numpy().copy()))
        return replace(moved, _sent=tuple((tensor, tensor._version, values) for tensor, values in sent))

    def recall(self) -> None:
        """Let the host know what it has sent to a device, as far as nobody has written to it since (``known.py``)."""
        for tensor, version, values in self._sent:
            if tensor._version == version:
                known.tell(tensor, values)

    def pin_memory(self) -> Batch:
        """Return the batch in memory from which a GPU copies fast."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> Batch:
        return Batch(
            change(self.species),
            change(self.coordinates),
            {name: change(values) for name, values in self.properties.items()},
            change(self.index),
            None if self.cell is None else change(self.cell),
            None if self.pbc is None else change(self.pbc),
        )


@dataclass(frozen=True)
class Packed:
    """n structures, N atoms in all, without padding.

    Attributes
    ----------
    start
        (n + 1,) the first atom of each structure, and N.
    species
        (N + 1,) atomic numbers, int8; one ghost at the end.
    coordinates
        (N + 1, 3) Å.
    per_atom, per_structure
        Properties (N + 1, ...) and (n, ...).
    index
        (n,) rows of the source.
    cell, pbc
        (n, 3, 3) Å and (n, 3), or None.
    """

    start: Tensor
    species: Tensor
    coordinates: Tensor
    per_atom: dict[str, Tensor]
    per_structure: dict[str, Tensor]
    index: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_atoms(self) -> Tensor:
        """(n,) atoms of each structure."""
        return self.start.diff()

    def batch(self, positions: Tensor) -> Batch:
        """Return the structures at some positions, padded."""
        # By numpy, on one thread: threads of torch that have to wait for a core take longer than the work itself.
        start, at = self.start.numpy(), positions.numpy()
        first, count = start[at], start[at + 1] - start[at]
        slot = np.arange(max(int(count.max(initial=0)), 1))
        flat = np.where(slot < count[:, None], first[:, None] + slot, len(self.species) - 1)
        properties = {name: _rows(values, at) for name, values in self.per_structure.items()}
        properties |= {name: _rows(values, flat) for name, values in self.per_atom.items()}
        cell, pbc = None, None
        if self.pbc is not None and self.cell is not None:
            pbc = _rows(self.pbc, at)
            cell, pbc = (_rows(self.cell, at), pbc) if bool(pbc.any()) else (None, None)
        species = torch.from_numpy(np.take(self.species.numpy(), flat).astype(np.int64))
        return Batch(species, _rows(self.coordinates, flat), properties, _rows(self.index, at), cell, pbc)


def _rows(values: Tensor, numbers: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.take(values.numpy(), numbers, axis=0))
