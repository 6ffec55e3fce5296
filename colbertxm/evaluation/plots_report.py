"""Pictures of several models at once: the measure against the number of training examples, and against energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from colbertxm.evaluation.plots import caption, figure_of, look, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINED_ON_LOOK, OTHERS_LOOK = ("#D55E00", "o", "-"), ("#0072B2", "s", "--")
APART = 0.045  # of the picture's height: labels closer than that would lie over one another


@dataclass(frozen=True)
class Point:
    """A model in a picture: where it stands, what it reached, and its 95% interval where there is one."""

    model: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def plot_scaling(curves: Mapping[str, Sequence[Point]], measure: str, about: str, path: Path) -> None:
    """A PNG: `measure` against training examples on a logarithmic axis, one curve for each of `curves` (the training
    language, the mean of the others), points in the order of x, labelled with their models."""
    figure, axes = figure_of(6.4, 4.4)
    for (name, points), (colour, marker, line) in zip(curves.items(), (TRAINED_ON_LOOK, OTHERS_LOOK), strict=False):
        points = sorted(points, key=lambda point: point.x)
        axes.plot([p.x for p in points], [p.y for p in points], line, marker=marker, color=colour, label=name)
        for p in points:
            if p.low is not None and p.high is not None:
                axes.vlines(p.x, p.low, p.high, colour, linewidth=1)
    _finish(axes, "training examples", measure, log=True)
    _label(axes, [point for points in list(curves.values())[:1] for point in points])
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    caption(figure, about)
    save(figure, path)


def plot_energy(points: Sequence[Point], measure: str, unit: str, about: str, path: Path) -> None:
    """A PNG: `measure` against what training used, one labelled point a model."""
    figure, axes = figure_of(6.4, 4.4)
    looks = look([point.model for point in points])
    for p in points:
        colour, marker = looks[p.model]
        axes.plot(p.x, p.y, linestyle="none", marker=marker, color=colour, markersize=7)
        if p.low is not None and p.high is not None:
            axes.vlines(p.x, p.low, p.high, colour, linewidth=1)
    xs = [p.x for p in points]
    _finish(axes, unit, measure, log=min(xs) > 0 and max(xs) / min(xs) > 20)
    _label(axes, points)
    caption(figure, about)
    save(figure, path)


def _finish(axes: Axes, x: str, y: str, log: bool) -> None:
    if log:
        axes.set_xscale("log")
    axes.margins(0.16, 0.14)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Each model's name beside its point; those that would touch are moved up, with a line to their point."""
    bottom, top = axes.get_ylim()
    step = APART * (top - bottom)
    last = -float("inf")
    for p in sorted(points, key=lambda point: (point.y, point.x)):
        height = max(p.y + step / 2, last + step)
        moved = height > p.y + step
        axes.annotate(
            p.model, (p.x, p.y), (7, (height - p.y) / (top - bottom) * axes.bbox.height * 72 / axes.figure.dpi),
            textcoords="offset points", fontsize=8, va="center",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6} if moved else None,
        )  # fmt: skip
        last = height
