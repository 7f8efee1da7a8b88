"""The steps of a search for new structures: each a function of the model, the settings and its own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from anipot.data.blocks import Block, DataError, Source
from anipot.elements import atomic_numbers, symbol
from anipot.potential import Potential
from anipot.sampling.committee import disagreement
from anipot.sampling.dynamics import frame, snapshots, until_uncertain
from anipot.sampling.geometry import beside, collides
from anipot.sampling.normal_modes import conformers, normal_modes
from anipot.sampling.settings import DIMERS, SampleSettings, Step

#: Frames of a file that are judged in one step.
FRAMES = 4096
#: Up to so many atoms, relaxations and trajectories run on one thread: forces are then summed in one order, and what
#: grows out of a rounding error does not depend on the number of threads. Small molecules gain nothing from more.
SMALL = 64

_NAMES = ("species", "coordinates")

Carry = Mapping[str, NDArray[np.float64]]


class Picks(NamedTuple):
    """Structures that were chosen, n of one size.

    ``rho`` (n,) is in kcal/mol, NaN where nobody was asked; ``origins`` (n) say where they are from.
    """

    structures: Block
    rho: NDArray[np.float64]
    origins: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """What a step found.

    Attributes
    ----------
    picks
        In an order that does not depend on chance.
    tested
        How many structures the committee was asked about, or had no need to be.
    carry
        What the next step of the chain starts from; None ends the chain.
    note
        What somebody should know: why a chain ends early, or gave less than it should.
    """

    picks: Sequence[Picks] = ()
    tested: int = 0
    carry: Carry | None = None
    note: str = ""

    @property
    def chosen(self) -> int:
        """How many structures."""
        return sum(len(picks.structures) for picks in self.picks)


@dataclass
class Explorer:
    """Does steps.

    Attributes
    ----------
    model, settings
        As for ``sample``.
    molecules, names
        ``ase.Atoms`` to start from, and what they are called in origins and messages.
    frames
        Given structures to choose from.
    """

    model: Potential
    settings: SampleSettings
    molecules: Sequence[Any] = ()
    names: Sequence[str] = ()
    frames: Source | None = None
    _parts: list[tuple[int, slice]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._parts = parts(self.frames)

    def run(self, step: Step, carry: Carry | None) -> Outcome:
        """Do a step; ``carry`` is that of the step before, None for the first of a chain."""
        rng = step.rng(self.settings.seed)
        if step.kind == "dimers":
            return self._dimers(step.item, rng)
        if step.kind == "frames":
            return self._frames(step.item)
        try:
            if step.kind == "relax":
                return self._relax(step.item)
            assert carry is not None
            return (self._modes if step.kind == "modes" else self._dynamics)(step.item, carry, rng)
        except (ValueError, torch.linalg.LinAlgError) as error:  # a molecule fell apart; others need not
            return Outcome(note=f"{self.names[step.item]}: {error}")

    def _relax(self, number: int) -> Outcome:
        atoms = self.molecules[number].copy()
        if self.settings.relax:
            from ase.optimize import LBFGS

            atoms.calc = self.model.ase()
            fmax, steps = self.settings.fmax, self.settings.relax_steps
            with _one_thread(len(atoms)):
                relaxed = LBFGS(atoms, logfile=None).run(fmax=fmax, steps=steps)  # type: ignore[arg-type]
            if not relaxed:
                return Outcome(note=f"{self.names[number]} did not relax to {fmax:g} eV/Å in {steps} steps")
        return Outcome(carry={"relaxed": atoms.positions.copy(), "trusted": atoms.positions.copy()})

    def _modes(self, number: int, carry: Carry, rng: np.random.Generator) -> Outcome:
        atoms, wanted = self.molecules[number], self.settings.conformers
        found = normal_modes(self.model, atoms.numbers, carry["relaxed"])
        coordinates, temperatures = conformers(found, wanted, self.settings.temperature, rng)
        block = _block(atoms.numbers, coordinates)
        origins = [f"{self.names[number]}, normal modes at {t:.0f} K" for t in temperatures]
        picks = [self._chosen(block, origins)]
        note = ""
        if len(block) < wanted:
            note = f"{self.names[number]}: {len(block)} of {wanted} conformers; the others had atoms inside each other"
        return Outcome(picks, len(block), carry, note)

    def _dynamics(self, number: int, carry: Carry, rng: np.random.Generator) -> Outcome:
        settings, atoms = self.settings, self.molecules[number].copy()
        atoms.positions[:] = carry[settings.start]
        temperature = float(rng.uniform(*settings.temperature))
        calculator = self.model.ase()  # a new one, whose neighbor list remembers nothing of the steps before
        how: dict[str, Any] = {name: getattr(settings, name) for name in ("steps", "interval", "timestep", "friction")}
        if settings.threshold == 0:
            with _one_thread(len(atoms)):
                found = snapshots(calculator, atoms, temperature, rng, **how)
            times = settings.timestep * np.minimum(settings.interval * np.arange(1, len(found) + 1), settings.steps)
            origins = [f"{self.names[number]}, {time:g} fs at {temperature:.0f} K" for time in times]
            picks = [self._chosen(_like(atoms, found), origins)]
            return Outcome(picks, len(found), {**carry, "trusted": found[-1]} if len(found) else None)
        with _one_thread(len(atoms)):
            run = until_uncertain(calculator, atoms, settings.threshold, temperature, rng, **how)
        tested = run.steps // settings.interval + 1
        picks = []
        if run.uncertain is not None:
            atoms.positions[:] = run.uncertain
            time = run.steps * settings.timestep
            origin = f"{self.names[number]}, {time:g} fs at {temperature:.0f} K"
            picks.append(Picks(frame(atoms), np.array([run.rho]), [origin]))
        if run.steps == 0:  # every further trajectory would stop here as well
            return Outcome(picks, tested, None, f"{self.names[number]}: uncertain where trajectories start")
        return Outcome(picks, tested, {**carry, "trusted": run.trusted})

    def _dimers(self, number: int, rng: np.random.Generator) -> Outcome:
        made: dict[int, list[tuple[Block, str]]] = {}
        count = min(DIMERS, self.settings.dimers - number * DIMERS)
        for _ in range(count):
            block, origin = self._dimer(rng)
            made.setdefault(block.num_atoms, []).append((block, origin))
        picks = []
        for size in sorted(made):  # those of one size are judged together
            species, coordinates = (np.concatenate([getattr(b, x) for b, _ in made[size]]) for x in _NAMES)
            together = Block(species, coordinates)
            origins = [origin for _, origin in made[size]]
            apart = np.flatnonzero(~_collide(together))
            picks.append(self._chosen(together.take(apart), [origins[i] for i in apart]))
        return Outcome(picks, count)

    def _dimer(self, rng: np.random.Generator) -> tuple[Block, str]:
        pair = rng.integers(len(self.molecules), size=2)
        one, other = (self.molecules[i] for i in pair)
        contact = float(rng.uniform(*self.settings.contact))
        coordinates = np.concatenate([one.positions, beside(one.positions, other.positions, contact, rng)])
        numbers = np.concatenate([one.numbers, other.numbers])
        origin = f"{self.names[pair[0]]} and {self.names[pair[1]]}, {contact:.2f} Å apart"
        return _block(numbers, coordinates[None]), origin

    def _frames(self, number: int) -> Outcome:
        assert self.frames is not None
        group, rows = self._parts[number]
        block = self.frames.read(group, rows)
        unknown = ~np.isin(block.species, atomic_numbers(self.model.elements))
        if unknown.any():
            i, atom = (int(n[0]) for n in np.nonzero(unknown))
            element, known = symbol(int(block.species[i, atom])), ", ".join(self.model.elements)
            raise DataError(f"{block.where(i)}, atom {atom} is {element}; the model knows {known}")
        return Outcome([self._chosen(block, [block.where(i) for i in range(len(block))])], len(block))

    def _chosen(self, block: Block, origins: Sequence[str]) -> Picks:
        """Return those above the threshold, in their order."""
        rows, rho = np.arange(len(block)), np.full(len(block), np.nan)
        if self.settings.threshold > 0:
            rho = disagreement(self.model, block)
            rows = np.flatnonzero(rho > self.settings.threshold)
        limit = self.settings.limit
        if limit is not None and len(rows) > limit:
            rows = np.sort(rows[np.argsort(-rho[rows], kind="stable")[:limit]])
        structures = Block(block.species[rows], block.coordinates[rows])
        if block.cell is not None and block.pbc is not None:
            structures = replace(structures, cell=block.cell[rows], pbc=block.pbc[rows])
        return Picks(structures, rho[rows], [origins[row] for row in rows.tolist()])


def parts(frames: Source | None) -> list[tuple[int, slice]]:
    """Return the group and the rows of each block of given frames."""
    if frames is None:
        return []
    groups = enumerate(frames.groups)
    return [(i, slice(a, min(a + FRAMES, g.size))) for i, g in groups for a in range(0, g.size, FRAMES)]


@contextmanager
def _one_thread(num_atoms: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if num_atoms <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _like(atoms: Any, coordinates: NDArray[np.float64]) -> Block:
    """Return geometries of the same atoms in the same cell."""
    block = _block(atoms.numbers, coordinates)
    if not atoms.pbc.any():
        return block
    repeated = len(coordinates), 1, 1
    return replace(block, cell=np.tile(atoms.cell.array, repeated), pbc=np.tile(atoms.pbc, repeated[:2]))


def _block(numbers: NDArray[np.int64], coordinates: NDArray[np.float64]) -> Block:
    species = np.repeat(np.asarray(numbers, dtype=np.int64)[None], len(coordinates), axis=0)
    return Block(species, coordinates)


def _collide(block: Block) -> NDArray[np.bool_]:
    """Return for each structure whether two of its atoms stand inside each other."""
    found = np.zeros(len(block), dtype=bool)
    kinds, which = np.unique(block.species, axis=0, return_inverse=True)
    for kind, numbers in enumerate(kinds):
        rows = np.flatnonzero(which.reshape(-1) == kind)
        found[rows] = collides(numbers, block.coordinates[rows])
    return found
