"""Labels by any calculator of ASE, in several processes."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anipot.data.blocks import Block
from anipot.data.memory import ASE_RESULTS, atoms_of_block, blocks_of_atoms
from anipot.sampling.labellers import PROPERTIES, Labels, check_properties, nothing


@dataclass(frozen=True)
class CalculatorFactory:
    """Makes a calculator of ASE, in whatever process it is called.

    Attributes
    ----------
    name
        ``"tblite"``, ``"package.module:Class"``, or a name that ASE knows (``"orca"``, ``"mopac"``).
    options
        Arguments of the class.

    Examples
    --------
    >>> CalculatorFactory("ase.calculators.lj:LennardJones", {"sigma": 2.0})().parameters.sigma
    2.0
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        """Return a new calculator.

        Raises
        ------
        ValueError
            If there is no such calculator, or its package is not installed.
        """
        from ase.calculators.calculator import get_calculator_class

        options = dict(self.options)
        name = self.name
        if name == "tblite":
            name, options = "tblite.ase:TBLite", {"method": "GFN2-xTB", "verbosity": 0, **options}
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute) if attribute else get_calculator_class(name)
        except (ImportError, AttributeError, KeyError) as error:
            wanted = "'tblite', a name that ASE knows, or 'package.module:Class'"
            raise ValueError(f"no calculator {self.name!r} ({error!r}); expected {wanted}") from error
        return found(**options)

    def __str__(self) -> str:
        said = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}({said})" if said else self.name


@dataclass
class CalculatorLabeller:
    """Labels by a calculator of ASE, one structure at a time in each of several processes.

    Attributes
    ----------
    factory
        Called without arguments in every process; it must be importable from there, as ``CalculatorFactory`` is.
    properties
        Names of ``QUANTITIES`` that calculators of ASE have.
    workers
        Processes. Each is told to use one thread (``OMP_NUM_THREADS``), unless the environment says otherwise.
    rows
        Structures that are handed over together.
    """

    factory: Callable[[], Any]
    properties: Sequence[str] = PROPERTIES
    workers: int = 1
    rows: int = 64
    name: str = field(init=False)
    signature: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = str(self.factory) if isinstance(self.factory, CalculatorFactory) else repr(self.factory)
        self.signature = self.name
        check_properties(self.properties, set(ASE_RESULTS), self.name)
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def label(self, blocks: Iterable[Block]) -> Iterator[tuple[Block, Labels]]:
        """Yield each block with its labels; the next blocks are being computed meanwhile."""
        running: deque[tuple[Block, list[Future[_Answer]]]] = deque()
        self.factory()  # a mistake in its name or options is one error, not one for each structure
        with (
            _single_threads(),
            tempfile.TemporaryDirectory(prefix="anipot-label-") as folder,
            _Pool(self.workers, (self.factory, tuple(self.properties), folder)) as pool,
        ):
            for block in blocks:
                running.append((block, [pool.submit(_bare(block, i)) for i in range(len(block))]))
                if sum(len(futures) for _, futures in running) > 4 * self.workers + self.rows:
                    yield self._finished(pool, *running.popleft())
            while running:
                yield self._finished(pool, *running.popleft())

    def _finished(self, pool: _Pool, block: Block, futures: list[Future[_Answer]]) -> tuple[Block, Labels]:
        values, failures = nothing(block, self.properties), {}
        for i, future in enumerate(futures):
            found, error = pool.answer(future, _bare(block, i))
            if error:
                failures[i] = error
            else:
                for name, value in found.items():
                    values[name][i] = value
        return block, Labels(values, failures)


def _bare(block: Block, i: int) -> Block:
    return replace(block, properties={}).take(np.array([i]))


_Answer = tuple[dict[str, NDArray[np.float64]], str]


class _Pool:
    """Processes that are started anew when a calculation takes one down with it."""

    def __init__(self, workers: int, arguments: tuple[Any, ...]) -> None:
        self._arguments = arguments
        self._workers = workers
        self._pool = self._started(workers)
        self._alone: ProcessPoolExecutor | None = None

    def _started(self, workers: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=self._arguments)

    def submit(self, structure: Block) -> Future[_Answer]:
        try:
            return self._pool.submit(_label, structure)
        except BrokenProcessPool:
            self._pool = self._started(self._workers)
            return self._pool.submit(_label, structure)

    def answer(self, future: Future[_Answer], structure: Block) -> _Answer:
        """Return the answer; where the process died, which may be another structure's fault, ask again, alone."""
        try:
            return future.result()
        except BrokenProcessPool:
            self._alone = self._alone or self._started(1)
        try:
            return self._alone.submit(_label, structure).result()
        except BrokenProcessPool:
            self._alone = None
            return {}, "the process that computed it died"

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._pool, self._alone):
            if pool is not None:
                pool.shutdown(cancel_futures=True)


# What the processes know.
_factory: Callable[[], Any] | None = None
_properties: tuple[str, ...] = ()
_calculator: Any = None
_folder = ""


def _begin(factory: Callable[[], Any], properties: tuple[str, ...], folder: str) -> None:
    global _factory, _properties, _folder
    _factory, _properties = factory, properties
    _folder = tempfile.mkdtemp(dir=folder)


def _label(structure: Block) -> _Answer:
    """Compute one structure; a calculator that failed is not used again."""
    global _calculator
    assert _factory is not None
    try:
        if _calculator is None:
            _calculator = _factory()
            if hasattr(_calculator, "directory"):
                _calculator.directory = _folder  # programs write files here, not over those of each other
        atoms = atoms_of_block(structure, 0)
        atoms.calc = _calculator
        for name in _properties:
            _calculator.get_property(ASE_RESULTS[name][0], atoms)
        found = blocks_of_atoms([atoms], {})[0][0].properties
        values = {name: found[name][0] for name in _properties}
    except Exception as error:  # whatever a program of others stumbles over
        _calculator = None
        return {}, f"{type(error).__name__}: {error}"
    bad = [name for name, value in values.items() if not np.isfinite(value).all()]
    return (values, "") if not bad else ({}, f"{bad[0]} hold NaN or infinite numbers")


@contextmanager
def _single_threads() -> Iterator[None]:
    """Let processes that are started meanwhile use one thread each."""
    names = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name not in os.environ]
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
