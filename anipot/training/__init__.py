"""Training: losses, tasks and runs.

``predict`` and ``ModelOutput`` serve plain loops; ``AtomisticTask`` and what is built on it needs Lightning, ``pip
install anipot[train]``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from anipot.training.outputs import ModelOutput
from anipot.training.predict import predict

#: Where the names are that need more packages.
_LATER = {
    "AtomisticTask": "task",
    "Checkpoints": "checkpoints",
    "EMA": "averaging",
    "FeatureCache": "cache",
    "OptimizerSettings": "optimizers",
    "ScheduleSettings": "schedules",
    "TrainingSettings": "config",
    "evaluate": "evaluation",
    "quietly": "quiet",
    "read_settings": "reading",
    "train": "members",
}

__all__ = [
    "EMA",
    "AtomisticTask",
    "Checkpoints",
    "FeatureCache",
    "ModelOutput",
    "OptimizerSettings",
    "ScheduleSettings",
    "TrainingSettings",
    "evaluate",
    "predict",
    "quietly",
    "read_settings",
    "train",
]


def needs(*packages: str) -> None:
    """Refuse to go on without packages, saying how to get them."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f"training needs {', '.join(missing)}: pip install anipot[train]")


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    needs("lightning", "torchmetrics", "jsonargparse")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), "train_all" if name == "train" else name)
