"""Tables whose lines are not languages alone: data sets with their mean, and the queries over one mixed pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from colbertxm.data.collection import Collection
from colbertxm.evaluation.tables import Cell, Table, interval_of, mark_best, mean_of, order_models, value_of

ALL = "all queries"


def collections_table(rows: Sequence[dict[str, Any]], measure: str) -> Table:
    """One line per collection (and pair of languages where there are several), then their mean, as BEIR reports it."""
    several = len({(row["query_lang"], row["passage_lang"]) for row in rows}) > 1
    languages = " {query_lang}-{passage_lang}" if several else ""
    named = [(f"{row.get('collection')}{languages.format(**row)}", row) for row in rows]
    return _lines(named, measure, "collection", f"{measure} by collection", mean="mean of all")


def pool_table(rows: Sequence[dict[str, Any]], measure: str) -> Table:
    """One line per language of the queries, all searching one pool; the last line is all queries together."""
    ordered = sorted(rows, key=lambda row: (row["query_lang"] == Collection.MIXED, row["query_lang"]))
    named = [(ALL if row["query_lang"] == Collection.MIXED else row["query_lang"], row) for row in ordered]
    title = f"{measure}, queries of a language over one pool of passages in all languages, {rows[0].get('collection')}"
    return _lines(named, measure, "queries in", title)


def _lines(named: Sequence[tuple[str, dict[str, Any]]], measure: str, head: str, title: str, mean: str = "") -> Table:
    models = order_models(row["model"] for _, row in named)
    cells = {(line, row["model"]): Cell(value_of(row, measure), *interval_of(row, measure)) for line, row in named}
    lines = list(dict.fromkeys(line for line, _ in named))
    made = [(line, tuple(cells.get((line, model), Cell()) for model in models)) for line in lines]
    if mean:
        made.append((mean, tuple(mean_of([cells.get((line, model)) for line in lines]) for model in models)))
    return Table(title, (head, *models), tuple((line, mark_best(found)) for line, found in made))
