"""The steps of a search for new structures: each a function of the model, the settings and its own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from anipot.data.blocks import Block, Source
from anipot.potential import Potential
from anipot.sampling.committee import disagreement
from anipot.sampling.dynamics import frame, until_uncertain
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


class Pick(NamedTuple):
    """A structure that was chosen: a block of one, its ρ in kcal/mol (NaN where nobody was asked), where it is from."""

    structure: Block
    rho: float
    origin: str


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
        Why, where a chain ends early.
    """

    picks: Sequence[Pick] = ()
    tested: int = 0
    carry: Carry | None = None
    note: str = ""


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
        if step.kind == "relax":
            return self._relax(step.item)
        if step.kind == "dimers":
            return self._dimers(step.item, rng)
        if step.kind == "frames":
            return self._frames(step.item)
        assert carry is not None
        return (self._modes if step.kind == "modes" else self._dynamics)(step.item, carry, rng)

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
        picks = self._chosen(block, origins)
        note = ""
        if len(block) < wanted:
            note = f"{self.names[number]}: {len(block)} of {wanted} conformers; the others had atoms inside each other"
        return Outcome(picks, len(block), carry, note)

    def _dynamics(self, number: int, carry: Carry, rng: np.random.Generator) -> Outcome:
        settings, atoms = self.settings, self.molecules[number].copy()
        atoms.positions[:] = carry[settings.start]
        temperature = float(rng.uniform(*settings.temperature))
        with _one_thread(len(atoms)):
            run = until_uncertain(
                self.model.ase(),  # a new one, whose neighbor list remembers nothing of the steps before
                atoms,
                settings.threshold,
                temperature,
                rng,
                steps=settings.steps,
                interval=settings.interval,
                timestep=settings.timestep,
                friction=settings.friction,
            )
        tested = run.steps // settings.interval + 1
        picks = []
        if run.uncertain is not None:
            atoms.positions[:] = run.uncertain
            time = run.steps * settings.timestep
            picks.append(Pick(frame(atoms), run.rho, f"{self.names[number]}, {time:g} fs at {temperature:.0f} K"))
        if run.steps == 0:  # every further trajectory would stop here as well
            return Outcome(picks, tested, None, f"{self.names[number]}: uncertain where trajectories start")
        return Outcome(picks, tested, {**carry, "trusted": run.trusted})

    def _dimers(self, number: int, rng: np.random.Generator) -> Outcome:
        made: dict[int, list[tuple[int, Block, str]]] = {}
        count = min(DIMERS, self.settings.dimers - number * DIMERS)
        for k in range(count):
            block, origin = self._dimer(rng)
            made.setdefault(block.num_atoms, []).append((k, block, origin))
        found: list[tuple[int, Pick]] = []
        for entries in made.values():  # those of one size are judged together
            species, coordinates = (np.concatenate([getattr(b, x) for _, b, _ in entries]) for x in _NAMES)
            rows, rho = self._uncertain(Block(species, coordinates), apart=True)
            found += [(entries[i][0], Pick(entries[i][1], r, entries[i][2])) for i, r in zip(rows, rho, strict=True)]
        return Outcome([pick for _, pick in sorted(found, key=lambda entry: entry[0])], count)

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
        return Outcome(self._chosen(block, [block.where(i) for i in range(len(block))]), len(block))

    def _chosen(self, block: Block, origins: Sequence[str]) -> list[Pick]:
        """Return those above the threshold, in their order."""
        rows, rho = self._uncertain(block)
        if self.settings.limit is not None and len(rows) > self.settings.limit:
            keep = np.sort(np.argsort(-rho, kind="stable")[: self.settings.limit])
            rows, rho = rows[keep], rho[keep]
        structures = replace(block.take(rows), properties={})
        return [Pick(structures.take(np.array([i])), float(rho[i]), origins[row]) for i, row in enumerate(rows)]

    def _uncertain(self, block: Block, apart: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the rows above the threshold and their ρ; ``apart`` only where no atoms stand inside each other."""
        rows = np.flatnonzero(~_collide(block)) if apart else np.arange(len(block))
        if self.settings.threshold == 0:
            return rows, np.full(len(rows), np.nan)
        rho = disagreement(self.model, block.take(rows))
        uncertain = rho > self.settings.threshold
        return rows[uncertain], rho[uncertain]


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
