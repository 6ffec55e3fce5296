"""Pictures from result rows: a dot plot of languages, a heat map of query by passage language.

Drawn with matplotlib's Agg canvas and Figure object, never pyplot: no display is needed, and a caller's own
figures and settings are left alone. The same rows give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing
from colbertxm.evaluation.tables import (
    MODEL_ORDER,
    Row,
    describe,
    digits,
    interval_of,
    order_languages,
    order_models,
    rows_of,
    value_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers too; the markers tell it again in grey.
_COLOURS = ("#999999", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#0072B2", "#000000")
_MARKERS = ("x", "s", "D", "^", "o", "v", "P", "*")
_MAIN_MODEL = "trained"
_DARK_BELOW = 0.45  # where black and white text stand out from viridis alike


def plot_languages(rows: Iterable[Row], path: str | Path, measure: str = "RR@10") -> None:
    """A PNG: one line per language, one marker per model, bars for the 95% intervals where rows have them.

    Languages are sorted by the trained model, best on top (by the last model where "trained" is absent).
    Raises UserError: no rows in one language, a measure that is absent, two rows for one language and model.
    """
    rows = [row for row in rows if row["query_lang"] == row["passage_lang"]]
    if not rows:
        raise UserError("no results to draw: evaluate queries and passages of one language first")
    cells = _by_place(rows, "query_lang", "model")
    models = order_models(row["model"] for row in rows)
    main = _MAIN_MODEL if _MAIN_MODEL in models else models[-1]

    def height(lang: str) -> tuple[float, str]:
        row = cells.get((lang, main))
        return (-value_of(row, measure) if row else math.inf, lang)

    languages = sorted({lang for lang, _ in cells}, key=height)
    figure, axes = figure_of(7.2, 1.6 + len(languages) * (0.1 + 0.062 * len(models)))
    for number, model in enumerate(models):
        offset = (number - (len(models) - 1) / 2) * 0.74 / len(models)
        places = [
            (place + offset, cells[lang, model]) for place, lang in enumerate(languages) if (lang, model) in cells
        ]
        _dots(axes, places, measure, model, look(models)[model])
    dress(axes, languages, measure)
    figure.legend(loc="outside upper center", ncols=min(len(models), 5), frameon=False, fontsize=9)
    note = f"queries and passages in the same language{_bars_note(rows, measure)}"
    caption(figure, f"{describe(rows)}\n{note}")
    save(figure, path)


def plot_matrix(rows: Iterable[Row], model: str, path: str | Path, measure: str = "RR@10") -> None:
    """A PNG: query language (down) x passage language (across) of one model; empty where not measured.

    Raises UserError for a model without rows, a measure that is absent, two rows for one cell.
    """
    import numpy as np

    rows = rows_of(rows, model)
    cells = _by_place(rows, "query_lang", "passage_lang")
    asked = order_languages(row["query_lang"] for row in rows)
    searched = order_languages(row["passage_lang"] for row in rows)
    values = np.full((len(asked), len(searched)), np.nan)
    for (query_lang, passage_lang), row in cells.items():
        values[asked.index(query_lang), searched.index(passage_lang)] = value_of(row, measure)
    figure, axes = figure_of(2.0 + 0.44 * len(searched), 1.9 + 0.34 * len(asked))
    image = axes.imshow(values, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    for (line, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < _DARK_BELOW else "black"
            axes.text(column, line, digits(value), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(searched)), searched, rotation=90 if len(searched) > 8 else 0)
    axes.set_yticks(range(len(asked)), asked)
    axes.set_xlabel("passages in")
    axes.set_ylabel("queries in")
    axes.set_title(f"{measure}, {model}", loc="left", fontsize=11)
    axes.set_facecolor("#eeeeee")
    figure.colorbar(image, ax=axes, label=measure, fraction=0.05, pad=0.02)
    caption(figure, f"{describe(rows)}; grey: not measured" if np.isnan(values).any() else describe(rows))
    save(figure, path)


def _by_place(rows: list[Row], first: str, second: str) -> dict[tuple[str, str], Row]:
    cells: dict[tuple[str, str], Row] = {}
    for row in rows:
        place = (row[first], row[second])
        if place in cells:
            raise UserError(f"two results for {' and '.join(place)}: give the rows of one collection and one run")
        cells[place] = row
    return cells


def figure_of(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot()


def look(models: list[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each model; the known ones keep theirs whichever others are in the picture."""
    others = [model for model in models if model not in MODEL_ORDER]
    numbers = {model: number for number, model in enumerate((*MODEL_ORDER, *others))}
    looks = {}
    for model in models:
        turn, colour = divmod(numbers[model], len(_COLOURS))
        looks[model] = (_COLOURS[colour], _MARKERS[(colour + turn) % len(_MARKERS)])  # a new pair, 64 times over
    return looks


def _dots(axes: Axes, places: list[tuple[float, Row]], measure: str, model: str, look: tuple[str, str]) -> None:
    values = [value_of(row, measure) for _, row in places]
    colour, marker = look
    heights = [height for height, _ in places]
    bars = [(height, *interval_of(row, measure)) for height, row in places]
    known = [(height, low, high) for height, low, high in bars if low is not None and high is not None]
    if known:
        places_of, lows, highs = zip(*known, strict=True)
        axes.hlines(places_of, lows, highs, colour, linewidth=1)
    axes.plot(values, heights, linestyle="none", marker=marker, color=colour, markersize=4.2, label=model)


def dress(axes: Axes, languages: list[str], measure: str) -> None:
    for place in range(0, len(languages), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    axes.set_yticks(range(len(languages)), languages)
    axes.set_ylim(len(languages) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#d8d8d8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(measure)


def _bars_note(rows: list[Row], measure: str) -> str:
    known = interval_of(rows[0], measure)[0] is not None
    return "; bars: 95% bootstrap intervals over queries" if known else ""


def caption(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=8, color="#555555")


def save(figure: Figure, path: str | Path) -> None:
    """Without the Software entry, which would name matplotlib's version in the file's bytes."""
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
