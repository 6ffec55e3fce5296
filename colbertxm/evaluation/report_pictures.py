"""The report's pictures: those whose data is there, and for the others a line that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from colbertxm.evaluation.plots import plot_languages, plot_matrix
from colbertxm.evaluation.plots_report import Point, plot_energy, plot_scaling
from colbertxm.evaluation.report_collect import one_language, pooled, slug
from colbertxm.evaluation.tables import TRAINED_ON, Row, describe, interval_of, order_models, value_of

Drawn = tuple[list[Path], list[str]]
"""The pictures, and what is missing."""


@dataclass(frozen=True)
class Cost:
    """What a model's training took, as its notes or the user say; None where nobody does."""

    examples: int | None = None
    kwh: float | None = None
    method: str = ""
    """What the energy was measured with, or `TDP` where it is the paper's arithmetic."""


def draw_pictures(
    folder: Path, collection: str, rows: list[dict[str, Any]], measure: str, costs: Mapping[str, Cost]
) -> Drawn:
    """Every picture of one collection into `folder`."""
    pictures: list[Path] = []
    missing: list[str] = []
    where = f"{collection}: " if collection else ""
    rows = [row for row in rows if measure in row]
    monolingual = one_language(rows)

    def draw(name: str, why_not: str, plot: Callable[[Path], None]) -> None:
        if why_not:
            missing.append(f"{where}no {name}: {why_not}")
            return
        plot(folder / f"{name}.png")
        pictures.append(folder / f"{name}.png")

    draw("languages", "" if monolingual else "no queries and passages in one language",
         lambda path: plot_languages(monolingual, path, measure))  # fmt: skip
    crossed = [] if pooled(rows) else [row["model"] for row in rows if row["query_lang"] != row["passage_lang"]]
    if not crossed:
        missing.append(f"{where}no cross-lingual heat map: no queries in one language over passages in another")
    for model in order_models(crossed):
        draw(f"cross_lingual_{slug(model)}", "", partial(_matrix, rows, model, measure))
    models = order_models(row["model"] for row in monolingual)
    about = describe(monolingual) if monolingual else ""
    examples = {model: cost.examples for model, cost in costs.items() if cost.examples is not None}
    curves = {name: points for name, points in {
        TRAINED_ON: _points(monolingual, models, measure, examples, others=False),
        "mean of other languages": _points(monolingual, models, measure, examples, others=True),
    }.items() if points}  # fmt: skip
    sizes = {point.x for points in curves.values() for point in points}
    draw("scaling", "" if len(sizes) > 1 else "fewer than two models say on how many examples they were trained "
         "(examples={MODEL: N} says it)", lambda path: plot_scaling(curves, measure, about, path))  # fmt: skip
    _draw_energy(draw, monolingual, models, measure, costs, about)
    return pictures, missing


def _matrix(rows: Sequence[Row], model: str, measure: str, path: Path) -> None:
    plot_matrix(rows, model, path, measure)


def _draw_energy(
    draw: Callable[[str, str, Callable[[Path], None]], None],
    rows: Sequence[Row],
    models: Sequence[str],
    measure: str,
    costs: Mapping[str, Cost],
    about: str,
) -> None:
    """Measured energy, or, where nobody measured, the TDP's: never both on one axis."""
    for tdp in (False, True):
        kwh = {m: c.kwh for m, c in costs.items() if c.kwh is not None and (c.method == "TDP") == tdp}
        points = _points(rows, models, measure, kwh, others=None)
        if points:
            break
    methods = ", ".join(sorted({costs[point.model].method for point in points}))
    unit = f"kWh of training ({methods})"
    draw("energy", "" if points else "no model's notes say what its training used (model.provenance.energy)",
         lambda path: plot_energy(points, f"{measure}, mean of all languages", unit, about, path))  # fmt: skip


def _points(
    rows: Sequence[Row], models: Sequence[str], measure: str, x: Mapping[str, float], others: bool | None
) -> list[Point]:
    """A point for each model with an x: in the training language, in the mean of the others, or (None) of all. The mean
    is of languages that all these models have."""
    chosen = [model for model in models if model in x]
    cells = {(row["model"], row["query_lang"]): row for row in rows}
    langs = [lang for lang in dict.fromkeys(row["query_lang"] for row in rows)
             if all((model, lang) in cells for model in chosen)]  # fmt: skip
    langs = [lang for lang in langs if others is None or (lang != TRAINED_ON) == others]
    if not langs:
        return []
    found = []
    for model in chosen:
        own = [cells[model, lang] for lang in langs]
        mean = sum(value_of(row, measure) for row in own) / len(own)
        bounds = interval_of(own[0], measure) if len(own) == 1 else (None, None)
        found.append(Point(model, float(x[model]), mean, *bounds))
    return found
