"""The report's files: tables (markdown, csv, LaTeX) of each collection or of all together, and pictures.

`evaluate` and `report` both write theirs here, so that a figure has one form wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.latex import latex
from colbertxm.evaluation.report_collect import Collected, marked, one_language, pooled, slug
from colbertxm.evaluation.report_pictures import Cost, draw_pictures
from colbertxm.evaluation.results import write_text
from colbertxm.evaluation.tables import Row, Table, cross_lingual_matrix, measures_of, monolingual_table, order_models
from colbertxm.evaluation.tables_lines import collections_table, pool_table

WIDE = 5  # columns with intervals that a page takes
Rows = list[dict[str, Any]]
Tests = Mapping[tuple[str, str], Mapping[str, Any]]


@dataclass
class Report:
    """What was written: tables by file name, pictures, and a line for each picture that has no data."""

    output: Path
    tables: dict[str, Table] = field(default_factory=dict)
    main: list[Table] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, name: str, table: Table, main: bool = False) -> None:
        """Write a table's csv; `main` ones go to the terminal too."""
        write_text(self.output / f"{name}.csv", table.csv())
        self.tables[name] = table
        if main:
            self.main.append(table)

    def finish(self, notes: Iterable[str]) -> None:
        """Write the page and its LaTeX."""
        lines = [f"- {line}" for line in [*notes, *self.missing]]
        text = [*(table.markdown() for table in self.tables.values()), *lines]
        write_text(self.output / "report.md", "\n\n".join(text) + "\n")
        tex = (
            latex(table, f"tab:{name.rsplit('/', 1)[-1]}", intervals=len(table.columns) <= WIDE)
            for name, table in self.tables.items()
        )
        write_text(self.output / "report.tex", "\n".join(tex))


def write_collected(found: Collected, output: Path, costs: Mapping[str, Cost], measure: str | None = None) -> Report:
    """All tables and pictures into `output`; each collection's main table is of `measure`, or of its first measure.
    Several collections of one pair of languages each (BEIR's) make one table of a line each; other several have
    folders of their own. Raises UserError for a measure that no row has."""
    report = Report(output)
    known = list(dict.fromkeys(name for rows in found.rows.values() for name in measures_of(rows)))
    if measure is not None and measure not in known:
        raise UserError(f"no row holds {measure!r}{nearest(measure, known)}; there are {', '.join(known)}")
    if _a_line_each(found):
        _together(report, [row for rows in found.rows.values() for row in rows], measure)
    else:
        for collection, rows in found.rows.items():
            names = _first(measures_of(rows), measure)
            if not names:
                report.missing.append(f"{collection}: no table, its rows hold no {measure}")
                continue
            prefix = "" if len(found.rows) == 1 else slug(collection or "results") + "/"
            _tables(report, prefix, rows, names, found.tests.get(collection, {}))
            pictures, missing = draw_pictures(output / prefix, collection, rows, names[0], costs)
            report.pictures += pictures
            report.missing += missing
    report.finish(found.notes)
    return report


def _first(names: list[str], measure: str | None) -> list[str]:
    """`measure` before the others; nothing where it is not among them."""
    if measure is None:
        return names
    return [measure, *(name for name in names if name != measure)] if measure in names else []


def _a_line_each(found: Collected) -> bool:
    pairs = [{(row["query_lang"], row["passage_lang"]) for row in rows} for rows in found.rows.values()]
    return len(pairs) > 1 and all(len(own) == 1 for own in pairs)


def _together(report: Report, rows: Rows, measure: str | None) -> None:
    """One table of all collections for every measure that all of them have."""
    names = [name for name in measures_of(rows) if all(name in row for row in rows)]
    chosen = _first(names, measure)
    if not chosen:
        raise UserError(f"no measure stands in all collections{f', not even {measure}' if measure else ''}: "
                        "report them one by one")  # fmt: skip
    for name in chosen:
        report.add(f"collections_{slug(name)}", collections_table(rows, name), main=name == chosen[0])


def _tables(report: Report, prefix: str, rows: Rows, names: Sequence[str], tests: Tests) -> None:
    """Languages by models for every measure, then query by passage language for each model. A mixed pool has a line for
    each language of the queries; queries that only cross languages have one for each pair."""
    monolingual, crossing = one_language(rows), any(row["query_lang"] != row["passage_lang"] for row in rows)
    for name in names:
        main = name == names[0]
        own = [row for row in rows if name in row]
        if pooled(rows):
            report.add(f"{prefix}pool_{slug(name)}", marked(pool_table(own, name), tests, name, rows), main)
        elif monolingual:
            table = monolingual_table([row for row in monolingual if name in row], name)
            report.add(f"{prefix}languages_{slug(name)}", marked(table, tests, name, rows), main)
        else:
            report.add(f"{prefix}collections_{slug(name)}", collections_table(own, name), main)
    if crossing and not pooled(rows):
        _matrices(report, prefix, rows, names[0])


def _matrices(report: Report, prefix: str, rows: Sequence[Row], name: str) -> None:
    """Each model's query languages by passage languages; the last model's on the terminal."""
    models = order_models(row["model"] for row in rows if row["query_lang"] != row["passage_lang"] and name in row)
    for model in models:
        table = cross_lingual_matrix([row for row in rows if name in row], model, name)
        report.add(f"{prefix}cross_lingual_{slug(model)}", table, main=model == models[-1])
