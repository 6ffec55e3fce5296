"""The report's files: each collection's tables (markdown, csv, LaTeX) and pictures, and what could not be drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.latex import latex
from colbertxm.evaluation.plots import plot_languages, plot_matrix
from colbertxm.evaluation.plots_report import Point, plot_energy, plot_scaling
from colbertxm.evaluation.report_collect import Collected, marked, one_language
from colbertxm.evaluation.results import write_text
from colbertxm.evaluation.tables import (
    TRAINED_ON,
    Row,
    Table,
    cross_lingual_matrix,
    describe,
    interval_of,
    measures_of,
    monolingual_table,
    order_models,
    value_of,
)

WIDE = 5  # columns with intervals that a page takes


@dataclass(frozen=True)
class Cost:
    """What a model's training took, as its notes or the user say; None where nobody does."""

    examples: int | None = None
    kwh: float | None = None
    method: str = ""
    """What the energy was measured with, or `TDP` where it is the paper's arithmetic."""


@dataclass
class Report:
    """What was written: tables by file name, pictures, and a line for each picture that has no data."""

    tables: dict[str, Table] = field(default_factory=dict)
    main: list[Table] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def write_collected(found: Collected, output: Path, costs: Mapping[str, Cost], measure: str | None = None) -> Report:
    """All tables and pictures into `output`; each collection's main table is of `measure`, or of its first measure.
    With several collections their files are named after them. Raises UserError for a measure that no row has."""
    report = Report()
    known = list(dict.fromkeys(name for rows in found.rows.values() for name in measures_of(rows)))
    if measure is not None and measure not in known:
        raise UserError(f"no row holds {measure!r}{nearest(measure, known)}; there are {', '.join(known)}")
    markdown: list[str] = []
    tex: list[str] = []
    for collection, rows in found.rows.items():
        names = measures_of(rows)
        if measure is not None:
            if measure not in names:
                report.missing.append(f"{collection}: no table, its rows hold no {measure}")
                continue
            names = [measure, *(name for name in names if name != measure)]
        prefix = "" if len(found.rows) == 1 else slug(collection or "results") + "/"
        folder = output / prefix
        _tables(report, output, prefix, rows, names, found.tests.get(collection, {}), markdown, tex)
        _pictures(report, folder, collection, rows, names[0], costs)
    write_text(
        output / "report.md",
        "\n\n".join([*markdown, *(f"- {line}" for line in [*found.notes, *report.missing])]) + "\n",
    )
    write_text(output / "report.tex", "\n".join(tex))
    return report


def _tables(
    report: Report,
    output: Path,
    prefix: str,
    rows: list[dict[str, Any]],
    names: Sequence[str],
    tests: Mapping[tuple[str, str], Mapping[str, Any]],
    markdown: list[str],
    tex: list[str],
) -> None:
    """Languages by models for every measure that all rows have, then query by passage language for each model."""
    made: list[tuple[str, Table]] = []
    monolingual = one_language(rows)
    for name in names if monolingual else ():
        own = [row for row in monolingual if name in row]
        table = marked(monolingual_table(own, name), tests, name, rows)
        made.append((f"languages_{slug(name)}", table))
        if name == names[0]:
            report.main.append(table)
    if any(row["query_lang"] != row["passage_lang"] for row in rows) and not _pooled(rows):
        for model in order_models(row["model"] for row in rows):
            own = [row for row in rows if row["model"] == model and names[0] in row]
            if any(row["query_lang"] != row["passage_lang"] for row in own):
                made.append((f"cross_lingual_{slug(model)}", cross_lingual_matrix(own, model, names[0])))
                if not monolingual:
                    report.main.append(made[-1][1])
    for stem, table in made:
        write_text(output / f"{prefix}{stem}.csv", table.csv())
        report.tables[f"{prefix}{stem}"] = table
        markdown.append(table.markdown())
        tex.append(latex(table, f"tab:{stem}", intervals=len(table.columns) <= WIDE))


def _pictures(
    report: Report, folder: Path, collection: str, rows: list[dict[str, Any]], measure: str, costs: Mapping[str, Cost]
) -> None:
    """Every picture whose data is there; for the others a line that says why."""
    where = f"{collection}: " if collection else ""
    rows = [row for row in rows if measure in row]
    monolingual = one_language(rows)

    def draw(name: str, why_not: str, plot: Callable[[Path], None]) -> None:
        if why_not:
            report.missing.append(f"{where}no {name}: {why_not}")
            return
        plot(folder / f"{name}.png")
        report.pictures.append(folder / f"{name}.png")

    draw("languages", "" if monolingual else "no queries and passages in one language",
         lambda path: plot_languages(monolingual, path, measure))  # fmt: skip
    crossed = [] if _pooled(rows) else [row["model"] for row in rows if row["query_lang"] != row["passage_lang"]]
    if not crossed:
        report.missing.append(f"{where}no cross-lingual heat map: no queries in one language over passages in another")
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


def _pooled(rows: Sequence[Row]) -> bool:
    return any(row["passage_lang"] == Collection.MIXED for row in rows)


def slug(name: str) -> str:
    """A measure, model or collection as a part of a file name: RR@10 as rr10, smart_home/test as smart_home-test."""
    return re.sub(r"[^\w.+-]+", "-", name.replace("@", "").replace("/", "-")).strip("-").lower()
