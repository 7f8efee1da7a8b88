"""Training: losses, tasks and runs.

``predict`` and ``ModelOutput`` serve plain loops; ``AtomisticTask`` and what is built on it needs Lightning, ``pip
install anipot[train]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from anipot.training.outputs import ModelOutput
from anipot.training.predict import predict

#: Where the names are that need Lightning.
_LATER = {
    "AtomisticTask": "task",
    "OptimizerSettings": "optimizers",
    "ScheduleSettings": "schedules",
}

__all__ = ["AtomisticTask", "ModelOutput", "OptimizerSettings", "ScheduleSettings", "predict"]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("lightning", "torchmetrics", "jsonargparse"):
            raise ImportError(f"{name} needs {error.name}: pip install anipot[train]") from error
        raise
