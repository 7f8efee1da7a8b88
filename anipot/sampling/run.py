"""Search for structures that an ensemble has something to learn from; a killed search goes on where it was."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from anipot.data.blocks import DataError, Source
from anipot.potential import Potential
from anipot.sampling.checks import check_files, check_inputs, inputs_digest
from anipot.sampling.committee import digest
from anipot.sampling.explore import Carry, Explorer, Outcome, parts
from anipot.sampling.picked import write_picked
from anipot.sampling.settings import SampleSettings, Step, chains
from anipot.sampling.state import State


@dataclass(frozen=True)
class SampleReport:
    """What a search found.

    Attributes
    ----------
    chosen
        Structures that were written.
    totals
        Structures tested and chosen, by the kind of step.
    duplicates
        Of those chosen, how many were left out because the same geometry was there already.
    notes
        Molecules that were given up or gave less than they should, and why.
    """

    chosen: int
    totals: dict[str, tuple[int, int]]
    duplicates: int
    notes: list[str]


def sample(
    model: Potential,
    output: str | os.PathLike[str],
    molecules: Sequence[Any] = (),
    settings: SampleSettings | None = None,
    *,
    names: Sequence[str] | None = None,
    frames: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    text: bool = True,
    progress: bool | None = None,
) -> SampleReport:
    """Choose structures by query by committee and write them as a data set without labels.

    Every step (a relaxation, the conformers of one molecule, one trajectory) is kept when it is done, in
    ``<output>.state``. With ``resume`` a run that was killed at any time goes on with the first step that is missing,
    and its result is that of an undisturbed run; that depends on the seed and neither on ``workers`` nor on the order
    in which they finish. (Molecules of more than 64 atoms are computed by several threads, and rounding depends on how
    many there are.)

    Parameters
    ----------
    model
        An ensemble.
    output
        ``.h5``, the store layout with the quantities ``id`` and ``qbc`` (ρ, Hartree).
    molecules
        ``ase.Atoms`` for normal modes, dynamics and dimers.
    settings
        Methods, threshold, temperatures, seed and so on.
    names
        Of the molecules, for origins and messages.
    frames
        Structures for the method ``"frames"``, such as ``open_source`` gives.
    resume, overwrite
        Go on with an earlier run of the same settings, or replace what it left.
    workers
        Processes. Each computes with one thread where there are several.
    text
        Whether the same structures are written beside it as ``.extxyz``, with ``id``, ``qbc_kcalmol`` and ``origin``.
    progress
        Whether to show a bar; None asks whether there is a terminal.

    Returns
    -------
    SampleReport

    Raises
    ------
    FileExistsError
        If there is an earlier output or state and neither ``resume`` nor ``overwrite`` is set.
    ValueError
        If model, molecules and settings do not go together, or a resumed run was begun with others.
    """
    settings = settings or SampleSettings()
    names = [f"molecule {i}" for i in range(len(molecules))] if names is None else names
    explorer = Explorer(model, settings, list(molecules), list(names), frames)
    check_inputs(explorer, workers)
    output = Path(output)
    place = Path(f"{output}.state")
    lock = FileLock(f"{output}.lock", timeout=0)
    try:
        with lock:
            check_files(output, place, resume, overwrite)
            facts = {"settings": settings.as_json(), "model": digest(model), "structures": inputs_digest(explorer)}
            state = State(place, facts)
            try:
                _explore(explorer, state, workers, progress)
                report = _write(state, output, settings, model, text)
            finally:
                state.close()
            place.unlink()
            with suppress(OSError):  # where open files cannot be removed
                Path(lock.lock_file).unlink()
    except Timeout:
        raise DataError(f"another run is at work on {output}") from None
    return report


def _write(state: State, output: Path, settings: SampleSettings, model: Potential, text: bool) -> SampleReport:
    facts = {"sampling": settings.as_json(), "sampled_with": model.name or "unnamed"}
    written, duplicates = write_picked(state.picks(), output, facts, text)
    return SampleReport(written, state.totals(), duplicates, state.notes())


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def _explore(explorer: Explorer, state: State, workers: int, progress: bool | None) -> None:
    from tqdm import tqdm

    plan = chains(explorer.settings, len(explorer.molecules), len(parts(explorer.frames)))
    total = sum(map(len, plan))
    chosen = 0
    with tqdm(total=total, unit="step", disable=None if progress is None else not progress) as bar:
        for step, outcome in _outcomes(explorer, state, plan, workers, bar):
            state.commit(step, outcome)
            chosen += outcome.chosen
            ended = outcome.carry is None
            bar.update(len(plan[step.chain]) - step.number if ended else 1)
            bar.set_postfix_str(f"{chosen} chosen", refresh=False)


def _outcomes(
    explorer: Explorer, state: State, plan: list[list[Step]], workers: int, bar: Any
) -> Iterator[tuple[Step, Outcome]]:
    """Yield what each step that is not done yet finds; the caller keeps it before asking for the next."""
    waiting = _unfinished(state, plan, bar)
    if workers <= 1:
        for step, carry in waiting:
            while True:
                outcome = explorer.run(step, carry)
                yield step, outcome
                following = _next(plan, step, outcome)
                if following is None:
                    break
                step, carry = following
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(explorer,))
    running: dict[Future[Outcome], Step] = {}

    def submit(step: Step, carry: Carry | None) -> None:
        running[pool.submit(_run, step, carry)] = step

    try:
        for step, carry in waiting:
            submit(step, carry)
            if len(running) >= 2 * workers:
                yield from _finish(running, plan, submit)
        while running:
            yield from _finish(running, plan, submit)
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(
    running: dict[Future[Outcome], Step], plan: list[list[Step]], submit: Any
) -> Iterator[tuple[Step, Outcome]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        step = running.pop(future)
        outcome = future.result()
        yield step, outcome
        if (following := _next(plan, step, outcome)) is not None:
            submit(*following)


def _unfinished(state: State, plan: list[list[Step]], bar: Any) -> Iterator[tuple[Step, Carry | None]]:
    """Yield the first step of each chain that is not done, with what it starts from."""
    for steps in plan:
        done, carry = state.last(steps[0].chain)
        if done == len(steps) or (done and carry is None):
            bar.update(len(steps))
        else:
            bar.update(done)
            yield steps[done], carry


def _next(plan: list[list[Step]], step: Step, outcome: Outcome) -> tuple[Step, Carry] | None:
    steps = plan[step.chain]
    if outcome.carry is None or step.number + 1 == len(steps):
        return None
    return steps[step.number + 1], outcome.carry


_explorer: Explorer | None = None  # of a worker process


def _begin(explorer: Explorer) -> None:
    global _explorer
    torch.set_num_threads(1)
    _explorer = explorer


def _run(step: Step, carry: Carry | None) -> Outcome:
    assert _explorer is not None
    return _explorer.run(step, carry)
