"""Pictures of spreads: a dot at the median, a thick bar over the middle half, a thin one over nine tenths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbertxm.evaluation.plots import caption, dress, figure_of, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {"relevant": ("#0072B2", "o"), "best other": ("#D55E00", "s"), "others": ("#999999", "D"),
         "query": ("#D55E00", "s"), "passage": ("#0072B2", "o")}  # fmt: skip
Line = Mapping[str, Any]


def plot_scores(lines: Sequence[Line], path: Path) -> None:
    """A PNG of `score_lines`: one row a task, and in it one bar for each kind of passage."""
    figure = _rows(lines, "task", "scores of", "score", "spread of scores", path)
    caption(figure, "dot: median; thick: middle half; thin: 5% to 95%. best other: the best passage of a query that is "
                    "not relevant")  # fmt: skip
    save(figure, path)


def plot_lengths(lines: Sequence[Line], path: Path) -> None:
    """A PNG of `length_lines`: one row a language, queries and passages; the share that is cut stands beside it."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = _rows(lines, "lang", "kind", "tokens before the cut", "lengths in tokens", path)
    axes: Axes = figure.axes[0]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    names = list(dict.fromkeys(line["lang"] for line in lines))
    for kind in dict.fromkeys(line["kind"] for line in lines):
        limit = next(line["limit"] for line in lines if line["kind"] == kind)
        axes.axvline(limit, color=LOOKS[kind][0], linewidth=1, linestyle="--" if kind == "query" else ":")
    cut = {name: [f"{line['cut']:.1%}" for line in lines if line["lang"] == name] for name in names}
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(names)), [" / ".join(cut[name]) for name in names], fontsize=8)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    kinds = " / ".join(dict.fromkeys(line["kind"] for line in lines))
    caption(figure, f"dot: median; thick: middle half; thin: 5% to 95%; dashed and dotted: the limits\n"
                    f"on the right the share that is cut, {kinds}")  # fmt: skip
    save(figure, path)


def _rows(lines: Sequence[Line], row: str, kind: str, label: str, title: str, path: Path) -> Any:
    names = list(dict.fromkeys(line[row] for line in lines))
    kinds = list(dict.fromkeys(line[kind] for line in lines))
    figure, axes = figure_of(7.2, 1.5 + len(names) * (0.12 + 0.1 * len(kinds)))
    for number, name in enumerate(kinds):
        colour, marker = LOOKS[name]
        offset = (number - (len(kinds) - 1) / 2) * 0.7 / len(kinds)
        own = [(names.index(line[row]) + offset, line) for line in lines if line[kind] == name and line["count"]]
        heights = [height for height, _ in own]
        for low, high, width in (("p5", "p95", 1.0), ("p25", "p75", 3.2)):
            axes.hlines(
                heights, [line[low] for _, line in own], [line[high] for _, line in own], colour, linewidth=width
            )
        axes.plot([line["p50"] for _, line in own], heights, linestyle="none", marker=marker, color=colour,
                  markersize=4.6, markeredgecolor="white", markeredgewidth=0.5, label=name)  # fmt: skip
    dress(axes, names, label)
    axes.set_title(title, loc="left", fontsize=11)
    figure.legend(loc="outside upper center", ncols=len(kinds), frameon=False, fontsize=9)
    return figure
