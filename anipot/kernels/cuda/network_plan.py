"""How many rows of atoms a block of the networks' kernel takes, and where it keeps their hidden values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

#: Bytes of a unit, in which memory is read; numbers to whose multiples layers are padded in shared memory.
UNIT, PAD = 16, 16
#: Columns of a tile of a product.
_COLUMNS = 64
#: Bytes of the description of a layer.
LAYER_BYTES = 80
#: Activations whose derivative the kernel has from their value (activations.h): none, CELU, tanh, shifted softplus.
_FROM_VALUE = (0, 1, 2, 4)
#: What bringing the weights costs a block, in rows that it could compute meanwhile: an estimate.
_ROWS_OF_WEIGHTS = 12
#: Warps of a multiprocessor that hide each other's waiting, and how much longer fewer take: an estimate.
_WARPS, _LONELY = 8, 1.5
#: Blocks for each multiprocessor from which on few of them are idle at the end.
_FULL = 8
#: Registers let so many blocks on a multiprocessor.
_RESIDENT = 2


class DoesNotFit(ValueError):
    """The hidden values of a network have no room in the shared memory of a device."""


class Shape(NamedTuple):
    """A way to compile the kernel, as in source/tiles.h."""

    rows: int
    warps: int
    units: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps


#: For each number of rows of a block, the best first; those that follow need less shared memory.
SHAPES = {
    8: [Shape(8, 8, 4, 3), Shape(8, 8, 4, 2), Shape(8, 8, 4, 1)],
    16: [Shape(16, 8, 2, 2), Shape(16, 8, 2, 1)],
    32: [Shape(32, 4, 4, 2)],
}


class Places(NamedTuple):
    """Where the hidden values of a network and its features stand in shared memory, in rows."""

    value: list[int]
    slope: list[int]
    features: int
    end: int


def places(widths: Sequence[int], activations: Sequence[int], gradients: bool) -> Places:
    """Return the places for the hidden layers of a network.

    Features may stand where only values of later layers do. Where gradients are wanted all values are kept, and
    derivatives of the activations that their values do not tell; otherwise those of two layers in turn.
    """
    padded = [_up(n, PAD) for n in widths]
    if not gradients:
        even = max(padded[::2])
        value = [even * (i % 2) for i in range(len(padded))]
        return Places(value, value, even, even + max(padded[1::2], default=0))
    value, slope, at, features = [], [], 0, 0
    for n, activation in zip(padded, activations, strict=True):
        value.append(at)
        at += n
        slope.append(value[-1] if activation in _FROM_VALUE else at)
        at += 0 if activation in _FROM_VALUE else n
        features = features or at
    return Places(value, slope, features, at)


class Device(NamedTuple):
    """What a plan depends on."""

    multiprocessors: int
    shared_limit: int


class Problem(NamedTuple):
    """What is to be computed."""

    #: Rows of shared memory for hidden values, and where features begin among them: of the networks that need most.
    end: int
    features: int
    #: Rows of each element.
    counts: Sequence[int]
    members: int
    #: Columns of the features.
    width: int
    #: Layers of the deepest network.
    deepest: int
    #: Bytes of a number.
    size: int
    #: Gradients of each member by itself.
    apart: bool


class Plan(NamedTuple):
    """How it is computed."""

    shape: Shape
    #: Rows of shared memory for hidden values and features.
    hidden: int
    #: Whether warps share sums.
    split: bool
    #: Gradients to be added up.
    groups: int
    #: Bytes of shared memory.
    shared: int


def plan(problem: Problem, device: Device) -> Plan:
    """Return the shape of blocks whose launch is expected to end first.

    Raises
    ------
    DoesNotFit
        If no shape has room for the networks.
    """
    fitting = [fit for shapes in SHAPES.values() if (fit := _best(problem, shapes, device.shared_limit))]
    if not fitting:
        raise DoesNotFit(
            f"hidden layers of {problem.end} values together need more than the {device.shared_limit} bytes of shared "
            "memory"
        )

    best = min(fitting, key=lambda fit: _cost(fit, problem, device))
    return best._replace(groups=_groups(problem, _tiles(problem.counts, best.shape.rows), device))


def _cost(fit: Plan, problem: Problem, device: Device) -> float:
    """Return the expected time, in rows that a multiprocessor computes."""
    blocks = problem.members * _tiles(problem.counts, fit.shape.rows)
    each = -(-blocks // device.multiprocessors)
    warps = min(each, _resident(fit.shared, device.shared_limit)) * fit.shape.warps
    return each * (fit.shape.rows + _ROWS_OF_WEIGHTS) * (_LONELY if warps < _WARPS else 1.0)


def _tiles(counts: Sequence[int], rows: int) -> int:
    return sum(-(-n // rows) for n in counts)


def _groups(problem: Problem, tiles: int, device: Device) -> int:
    """Return as few groups of as many members as fill the device: each is a gradient more to write and to read."""
    divisors = (g for g in range(1, problem.members + 1) if problem.members % g == 0)
    enough = (g for g in divisors if g * tiles >= _FULL * device.multiprocessors)
    return problem.members if problem.apart else next(enough, problem.members)


def _best(problem: Problem, shapes: list[Shape], limit: int) -> Plan | None:
    """Return the best shape that fits, with room for as many features at once as costs no block its place."""
    for shape in shapes:
        found: Plan | None = None
        for room in sorted({_up(min(n, problem.width), PAD) for n in (64, 128, 256, problem.width)}):
            hidden = max(problem.end, problem.features + room)
            for split in (False, True):
                shared = _shared(problem, shape, hidden, split)
                fit = Plan(shape, hidden, split, problem.members, shared)
                if shared <= limit and (not found or _resident(shared, limit) >= _resident(found.shared, limit)):
                    found = fit
        if found:
            return found
    return None


def _resident(shared: int, limit: int) -> int:
    return min(_RESIDENT, (limit + 1024) // (shared + 1024))


def _shared(problem: Problem, shape: Shape, hidden: int, split: bool) -> int:
    """Return the bytes that a block needs, in the order of the kernel."""
    stages = shape.warps * shape.stages * _COLUMNS * shape.units * UNIT
    sums = shape.warps // 2 * _COLUMNS * shape.rows * problem.size if split else 0
    rest = shape.threads * problem.size + problem.deepest * LAYER_BYTES + 4 * _up(problem.width, 4)
    return hidden * shape.rows * problem.size + stages + sums + rest


def tasks(counts: Sequence[int], work: Sequence[int], plan: Plan) -> list[tuple[int, int, int, int]]:
    """Return element, first row, number of rows and group for each block.

    Rows of an element are shared out evenly; elements whose rows take the most ``work`` come first.
    """
    first = [sum(counts[:e]) for e in range(len(counts))]
    found = []
    for e in sorted(range(len(counts)), key=lambda e: -work[e]):
        parts = -(-counts[e] // plan.shape.rows)
        ends = [first[e] + p * counts[e] // parts for p in range(parts + 1)] if parts else []
        found += [(e, a, b - a, g) for g in range(plan.groups) for a, b in pairwise(ends)]
    return found


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
