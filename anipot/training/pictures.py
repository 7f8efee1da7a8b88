"""Pictures of a training: curves, parity, errors by element and by size. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anipot.plots import plot_parity
from anipot.training.evaluation import OutputErrors, Sums
from anipot.training.outputs import ModelOutput

#: Values of each column with their steps, as ``MetricsFile.read`` returns them.
Curves = Mapping[str, Sequence[tuple[int, float]]]


def plot_curves(path: Path, curves: Curves, outputs: Sequence[ModelOutput], error_unit: str) -> None:
    """Draw losses and errors over steps into a file."""
    shown = [o for o in outputs if any(f"val_{o.property}_{metric}" in curves for metric in o.metrics)]
    figure, axes = _panels(1 + len(shown))
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        if name in curves:
            axes[0].plot(*zip(*curves[name], strict=True), label=label)
    axes[0].set(title="loss")
    for output, ax in zip(shown, axes[1:], strict=False):
        for metric in output.metrics:
            if points := curves.get(f"val_{output.property}_{metric}"):
                ax.plot(*zip(*points, strict=True), label=metric.upper())
        ax.set(title=f"{output.property}, validation ({output.unit(error_unit)})")
    for ax in axes:
        ax.set(xlabel="step", yscale="log")
        if ax.lines:
            ax.legend()
    figure.savefig(path, dpi=150)


def draw(folder: Path, found: Mapping[str, OutputErrors], error_unit: str) -> None:
    """Write pictures of errors into a folder: parity, by element and by size."""
    plot_predictions(folder / "parity.png", found, error_unit)
    plot_by(folder / "errors_by_element.png", found, "element", error_unit)
    plot_by(folder / "errors_by_size.png", found, "size", error_unit)


def plot_predictions(path: Path, found: Mapping[str, OutputErrors], error_unit: str) -> None:
    """Draw predictions against labels into a file."""
    shown = [one for one in found.values() if len(one.points)]
    if not shown:
        return
    figure, axes = _panels(len(shown))
    for one, ax in zip(shown, axes, strict=False):
        label, prediction = (one.points * one.output.factor(error_unit)).T
        name = one.output.property
        name = f"{name} less self energies" if one.output.predicted == "energies" else name
        plot_parity(label, prediction, name, one.output.unit(error_unit), ax)
        total, factor = one.total, one.output.factor(error_unit)
        unit = one.output.unit(error_unit)
        ax.set_title(
            f"MAE {total.mae * factor:.3g}, RMSE {total.rmse * factor:.3g} {unit}"
        )  # of all, not of these points
    figure.savefig(path, dpi=150)


def plot_by(path: Path, found: Mapping[str, OutputErrors], what: str, error_unit: str) -> None:
    """Draw mean absolute errors by ``"element"`` or ``"size"`` into a file."""
    shown = [(one, sums) for one in found.values() if len(sums := getattr(one, f"by_{what}"))]
    if not shown:
        return
    figure, axes = _panels(len(shown))
    for (one, sums), ax in zip(shown, axes, strict=False):
        factor, unit = one.output.factor(error_unit), one.output.unit(error_unit)
        names = sorted(sums)
        values: list[Sums] = [sums[name] for name in names]
        ax.bar(names, [value.mae * factor for value in values])
        if what == "size":
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel={"size": "atoms"}.get(what, what), ylabel=f"MAE of {one.output.property} ({unit})")
    figure.savefig(path, dpi=150)


def _panels(count: int) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install anipot[plot]") from error
    figure = Figure(figsize=(4.5 * count, 4), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])
