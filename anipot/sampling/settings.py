"""What a search for new structures is told, and the steps that it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from anipot.sampling.committee import THRESHOLD

#: Dimers that are made in one step.
DIMERS = 256
#: Ways to get structures.
METHODS = ("modes", "dynamics", "dimers", "frames")


@dataclass(frozen=True)
class SampleSettings:
    """How structures are made, and which are chosen.

    Attributes
    ----------
    methods
        Some of ``"modes"`` (normal mode sampling of relaxed molecules), ``"dynamics"`` (Langevin trajectories up to the
        first uncertain geometry), ``"dimers"`` (two molecules put beside each other) and ``"frames"`` (what is given,
        as it is).
    threshold
        ρ = σ/√N, kcal/mol; structures above it are chosen. 0 chooses all and asks no committee, which is how a first
        data set is made; trajectories then give a structure every ``interval`` steps, to their end.
    temperature
        From where to where temperatures are drawn, K.
    conformers
        Of each molecule, by normal modes.
    trajectories, steps, interval, timestep, friction
        Of each molecule; steps of each, at most; steps between questions to the committee; fs; 1/fs.
    start
        Where a trajectory starts: ``"trusted"``, at the last geometry of the one before that the members agreed on, or
        ``"relaxed"``, at the minimum.
    dimers, contact
        How many dimers of the molecules, rigid as they are given; from where to where the distance of their closest
        atoms is drawn, Å.
    limit
        Of the structures that one molecule gives by normal modes, or one block of frames, at most so many are chosen,
        the most uncertain ones; None for all.
    relax
        Whether molecules are relaxed first, to ``fmax`` eV/Å.
    fmax, relax_steps
        When a molecule counts as relaxed, and after how many steps it is given up.
    seed
        All random numbers follow from it.
    """

    methods: Sequence[str] = ("modes", "dynamics")
    threshold: float = THRESHOLD
    temperature: tuple[float, float] = (50.0, 800.0)
    conformers: int = 100
    trajectories: int = 4
    steps: int = 2000
    interval: int = 5
    timestep: float = 0.5
    friction: float = 0.01
    start: Literal["trusted", "relaxed"] = "trusted"
    dimers: int = 0
    contact: tuple[float, float] = (1.5, 4.5)
    limit: int | None = None
    relax: bool = True
    fmax: float = 0.01
    relax_steps: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"method {name!r} is not known; known are {', '.join(METHODS)}")
        if not self.methods:
            raise ValueError(f"no method; choose some of {', '.join(METHODS)}")
        for name in ("conformers", "trajectories", "steps", "interval", "timestep", "friction", "fmax"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.threshold < 0 or self.dimers < 0 or (self.limit is not None and self.limit < 1):
            raise ValueError("threshold and dimers must not be negative, and limit at least 1")
        for name in ("temperature", "contact"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first, got {(low, high)}")
        if self.start not in ("trusted", "relaxed"):
            raise ValueError(f"start must be 'trusted' or 'relaxed', got {self.start!r}")

    def as_json(self) -> dict[str, Any]:
        """Return what a resumed run must repeat."""
        return {key: list(v) if isinstance(v, tuple | list) else v for key, v in asdict(self).items()}


class Step(NamedTuple):
    """One piece of work, done whole or not at all.

    Steps of a chain come one after the other, each with what the one before carried over; chains are independent.
    """

    #: ``"relax"`` or one of ``METHODS``.
    kind: str
    #: Of which chain.
    chain: int
    #: Its place there.
    number: int
    #: Of which molecule, lot of dimers or block of frames.
    item: int

    def rng(self, seed: int) -> np.random.Generator:
        """Return the random numbers of this step, which depend on nothing but its name and the seed."""
        kinds = ("relax", *METHODS)
        return np.random.default_rng([seed, kinds.index(self.kind), self.chain, self.number])


def chains(settings: SampleSettings, num_molecules: int, num_blocks: int) -> list[list[Step]]:
    """Return all steps: a chain for each molecule, then each dimer, then each block of given frames.

    >>> [[step.kind for step in chain] for chain in chains(SampleSettings(trajectories=2), 1, 0)]
    [['relax', 'modes', 'dynamics', 'dynamics']]
    """
    found: list[tuple[int, list[str]]] = []
    of_molecule = ["modes"] * ("modes" in settings.methods)
    of_molecule += ["dynamics"] * (settings.trajectories * ("dynamics" in settings.methods))
    if of_molecule:
        found += [(item, ["relax", *of_molecule]) for item in range(num_molecules)]
    if "dimers" in settings.methods:
        found += [(item, ["dimers"]) for item in range(-(-settings.dimers // DIMERS))]
    if "frames" in settings.methods:
        found += [(item, ["frames"]) for item in range(num_blocks)]
    return [[Step(kind, chain, i, item) for i, kind in enumerate(kinds)] for chain, (item, kinds) in enumerate(found)]
