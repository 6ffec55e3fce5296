"""One picture a question, drawn from its results.csv: dots, languages, a curve, quality against size, or matrices.

Of both sizes the full one is drawn where it was run. Bars are the mean over seeds of the 95% intervals over queries,
small dots are single seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbertxm.evaluation.experiment_languages import BY_LANGUAGE, points
from colbertxm.evaluation.experiment_page import (
    SCOPES,
    SPECIAL,
    by_condition,
    grouped,
    main_metric,
    share_of,
    values,
)
from colbertxm.evaluation.experiment_rows import ALL, OTHERS, Row, read_csv, split_pair, split_settings
from colbertxm.evaluation.plots import caption, figure_of, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {"en-en": ("#D55E00", "o"), OTHERS: ("#0072B2", "s"), "across": ("#009E73", "D")}


def draw(question: str, folder: Path) -> None:
    """Write `folder`/picture.png."""
    groups = grouped(read_csv(folder / "results.csv"))
    group = max(groups, key=lambda name: "size=full" in name)
    if question in BY_LANGUAGE:
        rows = groups[group]
        points(by_condition(rows), main_metric(rows), f"{question}, {group}", folder / "picture.png")
        return
    painter = {
        "data_scaling": curve, "compression": against_size, "cross_lingual": matrices, "energy": costs,
    }.get(question, dots)  # fmt: skip
    painter(groups[group], f"{question}, {group}", folder / "picture.png")


def dots(rows: Sequence[Row], about: str, path: Path) -> None:
    """A line for each condition, a marker for each scope."""
    conditions = by_condition(rows)
    figure, axes = figure_of(6.4, 1.5 + 0.5 * len(conditions))
    for scope, (colour, marker) in LOOKS.items():
        for place, runs in enumerate(conditions.values()):
            height = place + (list(LOOKS).index(scope) - 1) * 0.22
            _point(axes, runs, main_metric(rows), scope, height, colour, marker, upright=False)
    axes.set_yticks(range(len(conditions)), list(conditions))
    axes.invert_yaxis()
    _finish(axes, main_metric(rows), "")
    _legend(axes, rows)
    caption(figure, about)
    save(figure, path)


def curve(rows: Sequence[Row], about: str, path: Path) -> None:
    """The measure against the share of the training pairs, on a logarithmic axis."""
    figure, axes = figure_of(6.4, 4.0)
    main = main_metric(rows)
    conditions = {share_of(name): runs for name, runs in by_condition(rows).items()}
    for scope, (colour, marker) in LOOKS.items():
        points = [(x, values(runs, main, scope)) for x, runs in sorted(conditions.items())]
        known = [(x, statistics.fmean(found)) for x, found in points if found]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, linewidth=1)
        for x, runs in conditions.items():
            _point(axes, runs, main, scope, x, colour, marker)
    axes.set_xscale("log")
    axes.set_xticks(sorted(conditions), [f"{x:g}%" for x in sorted(conditions)])
    axes.minorticks_off()
    _finish(axes, "of the training pairs, the same number of steps", main)
    _legend(axes, rows)
    caption(figure, about)
    save(figure, path)


def against_size(rows: Sequence[Row], about: str, path: Path) -> None:
    """The measure in the other languages against bytes a vector, a line for each budget."""
    figure, axes = figure_of(6.4, 4.0)
    main, lines = main_metric(rows), dict[str, list[tuple[float, float]]]()
    for name, runs in by_condition(rows).items():
        x, y = values(runs, "bytes_per_vector", ALL), values(runs, main, OTHERS)
        if x and y:
            budget = split_settings(name).get("budget", "")
            lines.setdefault(budget, []).append((statistics.fmean(x), statistics.fmean(y)))
    for budget, known in lines.items():
        axes.plot(*zip(*sorted(known), strict=True), marker="o", markersize=4, linewidth=1, label=f"budget {budget}")
    axes.set_xscale("log")
    sizes = sorted({round(x) for points in lines.values() for x, _ in points})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    _finish(axes, "bytes a vector", f"{main}, other languages")
    _key(axes)
    caption(figure, about)
    save(figure, path)


def costs(rows: Sequence[Row], about: str, path: Path) -> None:
    """kWh of each stage where they were measured, else seconds."""
    measured = any(row["metric"].endswith("_kwh") and row["value"] is not None for row in rows)
    unit = "kwh" if measured else "seconds"
    metrics = [
        c.metric for c in SPECIAL["energy"] if str(c.metric).endswith(f"_{unit}") and "paper" not in str(c.metric)
    ]
    figure, axes = figure_of(6.4, 3.2)
    conditions = by_condition(rows)
    for n, (name, runs) in enumerate(conditions.items()):
        heights = [statistics.fmean(found) if (found := values(runs, str(m), ALL)) else 0.0 for m in metrics]
        axes.bar(
            [m + 0.8 * n / len(conditions) for m in range(len(metrics))], heights, 0.8 / len(conditions), label=name
        )
    axes.set_xticks(
        [m + 0.4 * (1 - 1 / len(conditions)) for m in range(len(metrics))],
        [str(m).removesuffix(f"_{unit}").replace("_", " ") for m in metrics],
    )
    axes.set_yscale("log")
    _finish(axes, "", {"kwh": "kWh", "seconds": "seconds (kWh were not measured)"}[unit])
    _key(axes)
    caption(figure, about)
    save(figure, path)


def matrices(rows: Sequence[Row], about: str, path: Path) -> None:
    """Query by passage language: the first condition, then the differences of the others to it."""
    import numpy as np

    main = main_metric(rows)
    pairs = {r["language_pair"]: split for r in rows if (split := split_pair(r["language_pair"]))}
    langs = list(dict.fromkeys(q for q, _ in pairs.values()))
    made: dict[str, Any] = {}
    for name, runs in by_condition(rows).items():
        matrix = np.full((len(langs), len(langs)), np.nan)
        for pair, (q, p) in pairs.items():
            if p in langs and (found := values(runs, main, pair)):
                matrix[langs.index(q), langs.index(p)] = statistics.fmean(found)
        made[name] = matrix
    figure, first = figure_of(1.2 + 3.4 * len(made), 3.6)
    first.remove()
    base = next(iter(made.values()))
    for n, (name, matrix) in enumerate(made.items(), start=1):
        axes = figure.add_subplot(1, len(made), n)
        shown, look = (matrix, {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0}) if n == 1 else (
            matrix - base, {"cmap": "RdBu", "vmin": -0.1, "vmax": 0.1})  # fmt: skip
        image = axes.imshow(shown, **look)  # type: ignore[arg-type]
        if len(langs) <= 8:
            for (line, column), value in np.ndenumerate(shown):
                text = f"{value:.2f}" if n == 1 else f"{value:+.3f}"
                axes.text(column, line, text, ha="center", va="center", fontsize=6)
        axes.set_xticks(range(len(langs)), langs, rotation=90)
        axes.set_yticks(range(len(langs)), langs)
        axes.set_xlabel("passages in")
        axes.set_ylabel("queries in")
        axes.set_title(f"{main}, {name}" if n == 1 else f"{name}: difference", fontsize=9)
        figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    caption(figure, about)
    save(figure, path)


def _point(
    axes: Axes, runs: Any, metric: str, scope: str, place: float, colour: str, marker: str, upright: bool = True
) -> None:
    """The mean over seeds with its bar, and the single seeds."""
    found = values(runs, metric, scope)
    if not found:
        return
    bounds = [
        [r[side] for rows in runs.values() for r in rows if (r["metric"], r["language_pair"]) == (metric, scope)]
        for side in ("low", "high")
    ]
    low, high = ([v for v in side if v is not None] for side in bounds)
    mean = statistics.fmean(found)
    places = [place] * len(found)
    if low and high:
        line = axes.vlines if upright else axes.hlines
        line(place, statistics.fmean(low), statistics.fmean(high), colour, linewidth=1)
    one, each = ((place, mean), (places, found)) if upright else ((mean, place), (found, places))
    axes.plot(*one, linestyle="none", marker=marker, color=colour, markersize=5)
    axes.plot(*each, linestyle="none", marker=".", color="black", markersize=3, alpha=0.6)


def _key(axes: Axes) -> None:
    """Above the picture, where nothing is drawn."""
    entries = len(axes.get_legend_handles_labels()[0])
    axes.legend(
        frameon=False, fontsize=8, ncols=min(entries, 3), loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.2
    )


def _legend(axes: Axes, rows: Sequence[Row]) -> None:
    there = {row["language_pair"] for row in rows}
    for scope, (colour, marker) in LOOKS.items():
        if scope in there:
            axes.plot([], [], linestyle="none", marker=marker, color=colour, label=SCOPES[scope])
    _key(axes)


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
