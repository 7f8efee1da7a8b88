"""Lightning without its remarks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Warnings of other packages about what is as it should be here.
_KNOWN_WARNINGS = (
    ".*treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*lr_scheduler.step.* before .optimizer.step.*",
    ".*find_unused_parameters=True was specified.*",
    ".*but the value needs to be floating point.*",
    ".*No device id is provided via .init_process_group.*",
    ".*using the device under current context.*",
    ".*epoch parameter in .scheduler.step.*",
)


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out what Lightning tells everybody, and warnings about what is as it should be.

    Examples
    --------
    >>> with quietly():
    ...     logging.getLogger("lightning.pytorch").info("GPU available: False")
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
