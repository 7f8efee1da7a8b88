"""What a run hears from outside, and what it shows."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def progress_bar(total: int, initial: int, disable: bool) -> Any:
    """Return a bar that counts steps; it shows itself in a terminal only."""
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, unit="step", disable=True if disable else None)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM: they wait for the end of the step, so that no checkpoint holds half of one."""
    stop: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, lambda number, frame: stop.append(number)) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
