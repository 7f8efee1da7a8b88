"""What can be wrong with a record, found for whole blocks at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.permutation import mix
from anipot.data.quantities import Quantity
from anipot.elements import MAX_ATOMIC_NUMBER, symbol

#: Kinds of faults, and what they mean.
KINDS: Mapping[str, str] = {
    "unreadable": "the reader refuses it",
    "length": "arrays do not fit each other",
    "ghosts": "no atoms, or a ghost before an atom",
    "elements": "a number that is no element, or not one of those expected",
    "coordinates": "coordinates that are not finite",
    "cell": "a periodic cell that is not finite or has no volume",
    "labels": "infinite labels, and such that are missing in part",
    "forces": "an absurd force",
    "distances": "atoms on top of each other",
    "energies": "an energy far from all others",
    "duplicates": "the same structure once more",
}


class Fault(NamedTuple):
    """A kind of fault, the structures (n,) of a block that have it, and what is wrong with one of them in words."""

    kind: str
    bad: NDArray[np.bool_]
    describe: Callable[[int], str]


def expected_shape(block: Block, quantity: Quantity) -> tuple[int, ...]:
    """Return the shape that the labels of a block must have."""
    return (len(block), *((block.num_atoms,) if quantity.per_atom else ()), *quantity.shape)


def length_faults(block: Block, quantities: Mapping[str, Quantity]) -> Iterator[Fault]:
    """Find arrays of another shape than species and quantities ask for."""
    n, a = block.species.shape
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {"coordinates": (block.coordinates, (n, a, 3))}
    if block.cell is not None or block.pbc is not None:
        wanted |= {"cell": (block.cell, (n, 3, 3)), "pbc": (block.pbc, (n, 3))}
    wanted |= {name: (values, expected_shape(block, quantities[name])) for name, values in block.properties.items()}
    for name, (values, shape) in wanted.items():
        if np.shape(values) != shape:
            text = f"{name} have shape {np.shape(values)}; expected {shape}"
            yield Fault("length", np.ones(n, dtype=bool), _say(text))


def structure_faults(block: Block, elements: NDArray[np.int64] | None) -> Iterator[Fault]:
    """Find what makes a structure impossible: ghosts, numbers of elements, coordinates and cells."""
    species, x = block.species, block.coordinates
    real = species > 0
    followed = np.maximum.accumulate(real[:, ::-1], axis=1)[:, ::-1]
    ghost = followed & ~real & (species >= -1)
    yield Fault(
        "ghosts",
        _any(ghost) | ~_any(real),
        lambda i: f"atom {int(ghost[i].argmax())} is a ghost before an atom" if ghost[i].any() else "it has no atoms",
    )
    unknown = (species < -1) | (species > MAX_ATOMIC_NUMBER)
    if elements is not None:
        unknown = unknown | (real & ~np.isin(species, elements))
    yield Fault("elements", _any(unknown), lambda i: _which(unknown[i], lambda j: f"is {_name(species[i, j])}"))
    infinite = np.logical_not(np.isfinite(x).all(axis=2)) & real
    yield Fault("coordinates", _any(infinite), lambda i: _which(infinite[i], lambda j: f"stands at {x[i, j].tolist()}"))
    if block.cell is not None and block.pbc is not None:
        cell, pbc = block.cell, block.pbc
        with np.errstate(invalid="ignore"):
            # rows along free axes mean nothing
            rows = np.where(pbc[:, :, None], cell, np.eye(3))
            flat = (rows == 0).all(axis=2).any(axis=1) | (pbc.all(axis=1) & ~(np.abs(np.linalg.det(cell)) > 1e-6))
        bad = np.logical_not(np.isfinite(rows).all(axis=(1, 2))) | flat
        yield Fault("cell", bad, lambda i: f"its cell is {cell[i].tolist()} Å with pbc {pbc[i].tolist()}")


def label_faults(block: Block, quantities: Mapping[str, Quantity], max_force: float | None) -> Iterator[Fault]:
    """Find labels that are infinite or missing in part, and absurd forces; labels that are missing are no fault."""
    real = block.species > 0
    for name, values in block.properties.items():
        quantity = quantities[name]
        missing = np.isnan(values)
        if quantity.per_atom:  # what ghosts have does not count
            extra = (1,) * len(quantity.shape)
            missing &= real.reshape(*real.shape, *extra)
            infinite = np.isinf(values) & real.reshape(*real.shape, *extra)
        else:
            infinite = np.isinf(values)
        yield Fault("labels", _any(infinite), _say(f"{name} are infinite"))
        values_missing = missing.reshape(len(block), -1, int(np.prod(quantity.shape))).sum(axis=2)
        partly = _any((values_missing > 0) & (values_missing < int(np.prod(quantity.shape))))
        if name == "forces":  # of some atoms they make no sense; shifts are measured of some elements alone
            partly |= _any(missing) & _any((values_missing == 0) & real)
        yield Fault("labels", partly, _say(f"{name} are missing in part"))
    if max_force is not None and "forces" in block.properties:
        forces = block.properties["forces"]
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = np.sqrt(np.where(real, np.square(forces).sum(axis=2), 0.0))
            large = (lengths > max_force) & ~np.isinf(forces).any(axis=2)
        yield Fault(
            "forces",
            _any(large),
            lambda i: _which(large[i], lambda j: f"has a force of {lengths[i, j]:.4g} Hartree/Å"),
        )


def distance_fault(block: Block, limit: float) -> Fault:
    """Find atoms closer than ``limit`` Å, images in a periodic cell included."""
    closest = smallest_distances(block)
    return Fault("distances", np.asarray(closest < limit), lambda i: f"two atoms are {closest[i]:.4g} Å apart")


def smallest_distances(block: Block) -> NDArray[np.float64]:
    """Return the smallest distance (n,) in Å between two atoms of each structure; infinite for one atom alone.

    In a periodic cell the difference of two atoms is brought as near to 0 as rounding fractional coordinates does: that
    is the shortest vector wherever it is shorter than half the heights of the cell.
    """
    x = np.where((block.species > 0)[:, :, None], block.coordinates, np.nan)
    smallest = np.full(len(block), np.inf)
    repeats = np.zeros(0, dtype=np.int64)
    if block.pbc is not None and block.cell is not None:
        repeats = np.flatnonzero(_any(block.pbc))
        cell = np.where(block.pbc[repeats][:, :, None] & np.isfinite(block.cell[repeats]), block.cell[repeats], 0.0)
        inverse = np.linalg.pinv(cell)
    for step in range(1, block.num_atoms):  # pairs of atoms that are ``step`` apart, for all structures at once
        difference = x[:, step:] - x[:, :-step]
        if len(repeats):
            part = difference[repeats]
            difference[repeats] = part - np.rint(part @ inverse) @ cell
        squares = np.einsum("nac,nac->na", difference, difference)
        np.fmin(smallest, np.fmin.reduce(squares, axis=1), out=smallest)
    return np.sqrt(smallest)


def structure_keys(block: Block) -> NDArray[np.uint64]:
    """Return 64 bits (n,) for each structure: equal where species, coordinates (to 1e-6 Å) and cells are.

    >>> from anipot.data.memory import block_of_arrays
    >>> keys = structure_keys(block_of_arrays([1, 1], np.array([[[0, 0, 0], [0, 0, z]] for z in (0.7, 0.8, 0.7)])))
    >>> (keys[1:] == keys[0]).tolist()
    [False, True]
    """
    real = block.species > 0
    with np.errstate(invalid="ignore"):
        whole = np.rint(np.where(real[:, :, None], block.coordinates, 0.0) * 1e6).astype(np.int64)
        parts = [np.where(real, block.species, -1)[:, :, None], whole]
        numbers = np.concatenate(parts, axis=2).reshape(len(block), -1)
        if block.pbc is not None and block.cell is not None and block.pbc.any():
            cell = np.where(_any(block.pbc)[:, None, None], block.cell, 0.0)
            lattice = np.rint(cell * 1e6).astype(np.int64).reshape(len(block), 9)
            numbers = np.concatenate([numbers, lattice, block.pbc.astype(np.int64)], axis=1)
    with np.errstate(over="ignore"):
        seats = mix(np.arange(numbers.shape[1], dtype=np.uint64))
        return mix((mix(numbers.view(np.uint64) ^ seats)).sum(axis=1, dtype=np.uint64))


def _any(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(values.reshape(len(values), -1).any(axis=1), dtype=np.bool_)


def _say(text: str) -> Callable[[int], str]:
    return lambda i: text


def _which(bad: NDArray[np.bool_], say: Callable[[int], str]) -> str:
    j = int(bad.argmax())
    return f"atom {j} {say(j)}"


def _name(number: Any) -> str:
    return symbol(int(number))
