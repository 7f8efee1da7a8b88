"""Structures that are in memory already, as a source: arrays, or ASE's atoms."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Group
from anipot.data.quantities import QUANTITIES, Field, Quantity
from anipot.data.units import conversion

if TYPE_CHECKING:
    from ase import Atoms

#: What calculators of ASE call a quantity, and its unit there.
ASE_RESULTS: Mapping[str, tuple[str, str]] = {
    "energies": ("energy", "eV"),
    "forces": ("forces", "eV/Å"),
    "stress": ("stress", "eV/Å^3"),
    "charges": ("charges", "e"),
    "dipole": ("dipole", "e*Å"),
}


class MemorySource:
    """Blocks of structures, each of them a group.

    Parameters
    ----------
    blocks
        In the order in which rows are counted.
    quantities
        What the properties of the blocks are; those of ``QUANTITIES`` need not be given.
    metadata
        Facts that travel along.

    Raises
    ------
    DataError
        For a property that is not known.
    """

    layout = "memory"
    paths: Sequence[str] = ()

    def __init__(
        self,
        blocks: Iterable[Block],
        quantities: Mapping[str, Quantity] | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        self._blocks = list(blocks)
        names = dict.fromkeys(name for block in self._blocks for name in block.properties)
        known = {**QUANTITIES, **(quantities or {})}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(f"{unknown[0]!r} is no known quantity; give quantities={{{unknown[0]!r}: Quantity(...)}}")
        self.quantities: Mapping[str, Quantity] = {name: known[name] for name in names}
        self.groups: Sequence[Group] = [
            Group(b.group or f"block {i}", len(b), b.num_atoms) for i, b in enumerate(self._blocks)
        ]
        self.periodic = any(b.pbc is not None and bool(b.pbc.any()) for b in self._blocks)
        self.metadata: Mapping[str, object] = dict(metadata or {})

    @property
    def digest(self) -> int:
        """What tells these structures from others."""
        found = 0
        for block in self._blocks:
            for array in (block.species, block.coordinates, block.cell, block.pbc, *block.properties.values()):
                if array is not None:
                    found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
        return found

    def read(self, group: int, rows: slice | NDArray[np.int64]) -> Block:
        """Return structures of a group, by a slice or by ascending numbers."""
        block = self._blocks[group]
        for name, values in {"coordinates": block.coordinates, **block.properties}.items():
            if len(values) != len(block):
                place = self.groups[group].name
                raise DataError(f"group {place!r}: {len(values)} {name} for {len(block)} structures")
        numbers = np.arange(len(block))[rows]
        taken = block.take(numbers)
        return taken if len(block.rows) else replace(taken, group=self.groups[group].name, rows=numbers)


def block_of_arrays(species: Any, coordinates: Any, cell: Any = None, pbc: Any = None, **properties: Any) -> Block:
    """Return a block of n structures of a atoms from arrays in Å, Hartree and e.

    Parameters
    ----------
    species
        (n, a) or, where all are alike, (a,) atomic numbers.
    coordinates
        (n, a, 3).
    cell, pbc
        (n, 3, 3) or (3, 3), and (n, 3) or (3,).
    properties
        Arrays (n, ...).
    """
    x = np.asarray(coordinates, dtype=np.float64)
    if x.ndim != 3 or x.shape[2] != 3:
        raise DataError(f"coordinates must have shape (structures, atoms, 3), got {x.shape}")
    if (cell is None) != (pbc is None):
        raise DataError("cell and pbc come together; one of them is missing")
    n, a = x.shape[:2]
    return Block(
        np.broadcast_to(np.asarray(species, dtype=np.int64), (n, a)),
        x,
        {name: np.asarray(values, dtype=np.float64) for name, values in properties.items()},
        None if cell is None else np.broadcast_to(np.asarray(cell, dtype=np.float64), (n, 3, 3)),
        None if pbc is None else np.broadcast_to(np.asarray(pbc, dtype=bool), (n, 3)),
        rows=np.arange(n),
    )


def blocks_of_atoms(frames: Iterable[Atoms], fields: Mapping[str, Any]) -> tuple[list[Block], dict[str, Quantity]]:
    """Return ASE's atoms as blocks, each a run of frames of one size, and what their properties are.

    Parameters
    ----------
    frames
        With the results of a calculator, in the units of ASE.
    fields
        Further quantities, as for ``Field.parse``: keys of ``info`` or ``arrays``.
    """
    parsed = {name: Field.parse(name, value) for name, value in fields.items()}
    quantities = {name: QUANTITIES[name] for name in ASE_RESULTS}
    quantities |= {name: field.quantity for name, field in parsed.items() if field.quantity is not None}
    factors = {name: field.factor() for name, field in parsed.items()}
    runs: list[list[tuple[int, Atoms, dict[str, Any]]]] = []
    found: set[str] = set(parsed)
    for number, atoms in enumerate(frames):
        values = _results(atoms)
        for name, field in parsed.items():
            values[name] = _value(atoms, number, name, field, factors[name])
        found |= set(values)
        if not runs or len(runs[-1][0][1]) != len(atoms):
            runs.append([])
        runs[-1].append((number, atoms, values))
    kept = {name: quantity for name, quantity in quantities.items() if name in found}
    return [_run(run, kept) for run in runs], kept


def _results(atoms: Atoms) -> dict[str, Any]:
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    values = {}
    for name, (key, unit) in ASE_RESULTS.items():
        if results.get(key) is not None:
            value = np.asarray(results[key], dtype=np.float64) * conversion(unit, QUANTITIES[name].unit)
            values[name] = _full(value) if name == "stress" and value.shape == (6,) else value
    return values


def _full(voigt: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the stress (3, 3) of xx, yy, zz, yz, xz, xy."""
    return voigt[np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])]


def _value(atoms: Atoms, number: int, name: str, field: Field, factor: float) -> NDArray[np.float64]:
    assert field.quantity is not None
    place = atoms.arrays if field.quantity.per_atom else atoms.info
    shape = ((len(atoms),) if field.quantity.per_atom else ()) + field.quantity.shape
    if field.key not in place:
        return np.full(shape, np.nan)
    value = np.asarray(place[field.key], dtype=np.float64) * factor
    if value.size != int(np.prod(shape)):
        raise DataError(f"frame {number}: {name} ({field.key!r}) has shape {value.shape}; expected {shape}")
    return value.reshape(shape)


def _run(run: list[tuple[int, Atoms, dict[str, Any]]], quantities: Mapping[str, Quantity]) -> Block:
    numbers, frames, results = zip(*run, strict=True)
    num_atoms = len(frames[0])
    properties = {}
    for name, quantity in quantities.items():
        shape = ((num_atoms,) if quantity.per_atom else ()) + quantity.shape
        missing = np.full(shape, np.nan)
        properties[name] = np.stack([np.broadcast_to(values.get(name, missing), shape) for values in results])
    periodic = any(atoms.pbc.any() for atoms in frames)
    return Block(
        np.stack([atoms.numbers.astype(np.int64) for atoms in frames]),
        np.stack([np.asarray(atoms.positions, dtype=np.float64) for atoms in frames]),
        properties,
        np.stack([atoms.cell.array for atoms in frames]) if periodic else None,
        np.stack([atoms.pbc for atoms in frames]) if periodic else None,
        rows=np.array(numbers, dtype=np.int64),
    )


def atoms_of_block(block: Block, i: int, quantities: Mapping[str, Quantity] = QUANTITIES) -> Atoms:
    """Return structure ``i`` as ASE's atoms in eV and Å, labels as the results of a calculator.

    Quantities that calculators of ASE do not have go to ``info`` and ``arrays``, in the units of this library. Missing
    labels are left out.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    real = block.species[i] > 0
    atoms = Atoms(block.species[i][real], block.coordinates[i][real])
    if block.pbc is not None and block.cell is not None and block.pbc[i].any():
        atoms.set_cell(block.cell[i])
        atoms.set_pbc(block.pbc[i])
    results = {}
    for name, values in block.properties.items():
        value = values[i]
        if np.isnan(value).all():
            continue
        per_atom = quantities[name].per_atom
        value = value[real] if per_atom else value
        if name in ASE_RESULTS:
            key, unit = ASE_RESULTS[name]
            value = value / conversion(unit, QUANTITIES[name].unit)
            results[key] = value[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] if name == "stress" else value
        elif per_atom:
            atoms.arrays[name] = value
        else:
            atoms.info[name] = value if value.ndim else float(value)
    if results:
        results = {key: float(value) if np.ndim(value) == 0 else value for key, value in results.items()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
