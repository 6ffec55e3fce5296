"""Language by language: the further columns and tables of the questions about adapters, and their picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from colbertxm.evaluation.experiment_rows import Row, split_pair
from colbertxm.evaluation.plots import caption, figure_of, save
from colbertxm.evaluation.reproduction_page import table

BY_LANGUAGE = ("adapters", "added_language", "freezing")
MLM = ("loss_before", "loss_after", "accuracy_before", "accuracy_after")
"""Of held-out text; in results.csv the metrics are `mlm_...`."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999", "#000000")
MARKERS = "osD^vPX*"
SURE = 0.05
Conditions = Mapping[str, Mapping[str, Sequence[Row]]]
"""Condition -> seed -> rows."""


def pairs_within(rows: Sequence[Row]) -> list[str]:
    """The pairs of queries and passages in one language, in the order of the rows; what pretraining alone has seen is
    none."""
    searched = [row["language_pair"] for row in rows if not row["metric"].startswith("mlm_")]
    split = {pair: found for pair in dict.fromkeys(searched) if (found := split_pair(pair))}
    return [pair for pair, (query, passage) in split.items() if query == passage]


def lang_of(pair: str) -> str:
    """The language of such a pair."""
    found = split_pair(pair)
    return pair if found is None else found[0]


def differences_by_language(lines: Sequence[Row]) -> str:
    """A line a condition, a column a language: the difference to the condition that it is compared with, starred where
    p after Holm's correction over the column's lines is below 0.05."""
    own = [line for line in lines if split_pair(line["scope"])]
    if not own:
        return ""
    scopes = list(dict.fromkeys(line["scope"] for line in own))
    cells = {(line["settings"], line["scope"]): line for line in own}
    against = own[0]["against"]
    made = []
    for settings in dict.fromkeys(line["settings"] for line in own):
        there = [cells.get((settings, scope)) for scope in scopes]
        shown = [f"{f['difference']:+.3f}{'*' if f['p_holm'] < SURE else ''}" if f else "" for f in there]
        made.append([settings.partition(" size=")[0], *shown])
    head = [f"difference to {against}", *(lang_of(scope) for scope in scopes)]
    return f"{table(head, made, 'l' + 'r' * len(scopes))}\n\n\\* p < {SURE} after Holm's correction over the column."


def pretraining(rows: Sequence[Row]) -> str:
    """What masked-language modelling changed on held-out text, a line for each language and the conditions that share
    its adapter; seeds share it."""
    own = [row for row in rows if row["metric"].startswith("mlm_")]
    cells = {(row["settings"], row["language_pair"], row["metric"]): row for row in own}
    lines: dict[tuple[str, ...], list[str]] = {}
    for settings, pair in dict.fromkeys((settings, pair) for settings, pair, _ in cells):
        found = [cells[settings, pair, f"mlm_{name}"] for name in MLM]
        loss, accuracy = ([f"{row['value']:.3f}" for row in part] for part in (found[:2], found[2:]))
        line = (lang_of(pair), *loss, *accuracy, f"{found[0]['seconds']:.0f}")
        lines.setdefault(line, []).append(settings.partition(" size=")[0])
    head = ["pretrained for", "adapter", "loss before", "after", "guessed right before", "after", "s"]
    return table(head, [[", ".join(names), *line] for line, names in lines.items()], "llrrrrr") if lines else ""


def points(conditions: Conditions, metric: str, about: str, path: Path) -> None:
    """A group of markers for each language; lines are the mean over seeds of the 95% intervals, dots single seeds."""
    everything = [row for runs in conditions.values() for rows in runs.values() for row in rows]
    pairs = pairs_within(everything)
    width = 0.8 / len(conditions)
    figure, axes = figure_of(max(6.4, 1.5 + 0.28 * len(pairs) * max(3, len(conditions))), 3.8)
    for n, (name, runs) in enumerate(conditions.items()):
        colour, marker = COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]
        axes.plot([], [], linestyle="none", marker=marker, markersize=5, color=colour, label=name)
        for place, pair in enumerate(pairs):
            x = place + (n - (len(conditions) - 1) / 2) * width
            found = [r for rows in runs.values() for r in rows if (r["metric"], r["language_pair"]) == (metric, pair)]
            heights = [row["value"] for row in found if row["value"] is not None]
            if not heights:
                continue
            low, high = ([row[side] for row in found if row[side] is not None] for side in ("low", "high"))
            if low and high:
                axes.vlines(x, statistics.fmean(low), statistics.fmean(high), colour, linewidth=1)
            axes.plot(x, statistics.fmean(heights), marker=marker, markersize=5, color=colour)
            axes.plot([x] * len(heights), heights, linestyle="none", marker=".", color="black", markersize=2.5)
    axes.set_xticks(range(len(pairs)), [lang_of(pair) for pair in pairs])
    axes.set_ylabel(metric)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.2)
    caption(figure, about)
    save(figure, path)
