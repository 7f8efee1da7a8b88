"""What labels structures, and the labeller that is one of our potentials."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.quantities import QUANTITIES
from anipot.derivatives import single_point
from anipot.potential import Potential
from anipot.sampling.committee import BATCH_ATOMS, digest, tensors

#: Quantities that are asked for if nobody says which.
PROPERTIES = ("energies", "forces")


class Labels(NamedTuple):
    """The labels of a block of n structures, arrays (n, ...) in our units, and what went wrong, by row of the block."""

    values: dict[str, NDArray[np.float64]]
    failures: dict[int, str]


class Labeller(Protocol):
    """Labels blocks, in their order."""

    #: What it is, for the facts of a file.
    name: str
    #: Tells it from others, in an interrupted run.
    signature: str
    #: Names of ``QUANTITIES``.
    properties: Sequence[str]
    #: Structures that are handed over together.
    rows: int

    def label(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, Labels]]:
        """Yield each block with its labels; blocks may be taken ahead."""
        ...


def nothing(block: Block, properties: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return labels that are all missing."""
    n, a = block.species.shape
    shapes = {name: ((n, a) if QUANTITIES[name].per_atom else (n,)) + QUANTITIES[name].shape for name in properties}
    return {name: np.full(shape, np.nan) for name, shape in shapes.items()}


def check_properties(properties: Sequence[str], known: set[str], name: str) -> None:
    """Refuse properties that a labeller does not have."""
    unknown = [wanted for wanted in properties if wanted not in known]
    if unknown or "energies" not in properties:
        raise ValueError(
            f"{name} gives {', '.join(sorted(known))}; expected energies and others of these, "
            f"got {', '.join(properties)}"
        )


@dataclass
class PotentialLabeller:
    """Labels by a potential of this library, many structures in one call.

    Attributes
    ----------
    model
        The teacher; of an ensemble the mean.
    properties
        ``energies``, ``forces``, ``stress``, and what the property heads of the model are called.
    batch_atoms
        Atoms that are computed in one call, about.
    """

    model: Potential
    properties: Sequence[str] = PROPERTIES
    batch_atoms: int = BATCH_ATOMS
    rows: int = 4096
    name: str = field(init=False)
    signature: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.model.name or "unnamed potential"
        self.signature = digest(self.model)
        known = {"energies", "forces", "stress", *(set(self.model.property_heads) & set(QUANTITIES))}
        check_properties(self.properties, known, self.name)

    def label(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, Labels]]:
        """Yield each block with its labels."""
        for block in blocks:
            parts = list(self._parts(block))
            values = {name: np.concatenate([part.values[name] for part in parts]) for name in self.properties}
            failures: dict[int, str] = {}
            row = 0
            for part in parts:
                failures |= {row + i: text for i, text in part.failures.items()}
                row += len(part.values["energies"])
            yield block, Labels(values, failures)

    def _parts(self, block: Block) -> Iterator[Labels]:
        step = max(1, self.batch_atoms // max(block.num_atoms, 1))
        for start in range(0, len(block), step):
            part = block.take(np.arange(start, min(start + step, len(block))))
            try:
                yield self._computed(part)
            except torch.OutOfMemoryError:  # no fault of a structure
                raise
            except (ValueError, RuntimeError):  # one of them cannot be computed: find out which
                yield from self._one_by_one(part)

    def _one_by_one(self, block: Block) -> Iterator[Labels]:
        for i in range(len(block)):
            one = block.take(np.array([i]))
            try:
                yield self._computed(one)
            except (ValueError, RuntimeError) as error:
                yield Labels(nothing(one, self.properties), {0: str(error)})

    def _computed(self, block: Block) -> Labels:
        species, coordinates, cell, pbc = tensors(self.model, block)
        heads = [name for name in self.properties if name in self.model.property_heads]
        result = single_point(
            self.model,
            species,
            coordinates,
            cell,
            pbc,
            forces="forces" in self.properties,
            stress="stress" in self.properties,
            properties=heads,
        )
        found = {"energies": result.energies, "forces": result.forces, "stress": result.stress}
        found |= result.properties or {}
        return Labels({name: found[name].double().cpu().numpy() for name in self.properties}, {})  # type: ignore[union-attr]
