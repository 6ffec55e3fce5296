"""Several results files as one: rows by collection, each model with a name of its own, tests and costs beside them."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.evaluation.results import INTERVAL_MEASURE, read_rows
from colbertxm.evaluation.tables import Cell, Row, Table, measures_of

LEVEL = 0.05
MARK = "†"
MEANS = {"mean of others": "mean of other languages"}
Place = tuple[str, str, str, str]
"""Collection, model, query language, passage language."""


@dataclass
class Collected:
    """`rows` by collection, in the order of the files. `tests[collection][scope, model]`: the line of `differences`
    that says how a model differs. `notes`: what a reader must know, a line each."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tests: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sources: dict[str, tuple[Path, str]] = field(default_factory=dict)
    """By a model's name: the file that has it, and its name there."""


def expand(results: str | Sequence[str]) -> list[Path]:
    """The files that names and patterns (`outputs/*/results.json`) mean. Raises UserError where nothing matches."""
    found: dict[Path, None] = {}
    for name in [results] if isinstance(results, str) else results:
        paths = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
        if not paths:
            raise UserError(f"no file matches {name}: run `colbertxm evaluate` first, or give the right pattern")
        found.update((Path(path), None) for path in paths)
    if not found:
        raise UserError("results=[] names no file: give results.json files that `evaluate` wrote")
    return list(found)


def collect(files: Sequence[Path]) -> Collected:
    """All files' rows. What stands in two files alike counts once; a model that two files measured differently is named
    with its file's folder. Raises UserError for a file that is absent or damaged, as `read_rows` does."""
    read = {path: read_rows(path) for path in files}
    clashing = _clashing(read)
    folders = _folders(files)
    found = Collected()
    seen: dict[Place, None] = {}
    for path, rows in read.items():
        names: dict[str, str] = {}
        for row in rows:
            collection, model = str(row.get("collection", "")), row["model"]
            named = f"{model} ({folders[path]})" if model in clashing else model
            names[model] = named
            found.sources.setdefault(named, (path, model))
            place = (collection, named, row["query_lang"], row["passage_lang"])
            if place in seen:
                if len(files) == 1:
                    raise UserError(f"{path}: two results for {' '.join(place)}; evaluate again")
                continue
            seen[place] = None
            found.rows.setdefault(collection, []).append({**row, "model": named})
        _add_tests(found, path, names, {str(row.get("collection", "")) for row in rows})
    for model in sorted(clashing):
        found.notes.append(f"{model!r} was measured differently in several files: its rows are named with their folder")
    return found


def _clashing(read: Mapping[Path, Iterable[Row]]) -> set[str]:
    """Models that two files measured differently."""
    first: dict[Place, Row] = {}
    clashing = set()
    for rows in read.values():
        for row in rows:
            place = (str(row.get("collection", "")), row["model"], row["query_lang"], row["passage_lang"])
            if first.setdefault(place, row) != row:
                clashing.add(row["model"])
    return clashing


def _folders(files: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the folders' paths that tell the files apart."""
    parts = {path: path.absolute().parts[:-1] for path in files}
    longest = max(map(len, parts.values()))
    for length in range(1, longest + 1):
        names = {path: "/".join(own[-length:]) for path, own in parts.items()}
        if len(set(names.values())) == len(files):
            return names
    return {path: str(path) for path in files}


def _add_tests(found: Collected, path: Path, names: Mapping[str, str], collections: set[str]) -> None:
    content = json.loads(path.read_bytes().decode("utf-8-sig"))
    lines = content.get("differences", []) if isinstance(content, dict) else []
    for line in lines:
        if not isinstance(line, dict) or not {"model", "scope", "p", "against"} <= line.keys():
            raise UserError(f"{path}: a line of 'differences' is damaged: {str(line)[:80]}; evaluate again")
        collection = line.get("collection") or next(iter(collections), "")
        if line["model"] not in names or (len(collections) > 1 and "collection" not in line):
            continue  # nobody can tell which collection it belongs to
        scope = str(MEANS.get(line["scope"], line["scope"]))
        against = names.get(line["against"], line["against"])
        own = found.tests.setdefault(collection, {})
        own.setdefault((scope, names[line["model"]]), {**line, "against": against})


def one_language(rows: Iterable[Row]) -> list[Row]:
    """Rows with queries and passages in one language, and those of a language's queries over a mixed pool."""
    rows = [row for row in rows if row["query_lang"] != Collection.MIXED]
    return [
        {**row, "passage_lang": row["query_lang"]} if row["passage_lang"] == Collection.MIXED else row
        for row in rows
        if row["passage_lang"] in (row["query_lang"], Collection.MIXED)
    ]


def marked(
    table: Table, tests: Mapping[tuple[str, str], Mapping[str, Any]], measure: str, rows: Iterable[Row]
) -> Table:
    """`table` of a measure with the p of each tested cell, and a mark where it is below LEVEL: after Holm's correction
    where the test has that. Tests are of the collection's main measure unless they name another."""
    main = next(iter(measures_of(rows)), INTERVAL_MEASURE)
    chosen = {place: line for place, line in tests.items() if line.get("measure", main) == measure}

    def cell(place: tuple[str, str], old: Cell) -> Cell:
        line = chosen.get(place)
        if line is None or old.value is None:
            return old
        p = float(line.get("p_holm", line["p"]))
        return replace(old, p=p, mark=MARK if p < LEVEL else "")

    models = table.columns[1:]
    lines = tuple(
        (name, tuple(cell((name, model), old) for model, old in zip(models, cells, strict=True)))
        for name, cells in table.lines
    )
    if not any(one.mark for _, cells in lines for one in cells):
        return replace(table, lines=lines)
    against = sorted({str(chosen[place]["against"]) for place in chosen if place[1] in models})
    note = f"{MARK} differs from {', '.join(against)}: p < {LEVEL:g} (paired randomisation; languages after Holm)"
    return replace(table, lines=lines, note=note)


def pooled(rows: Iterable[Row]) -> bool:
    """Whether rows are of queries over one pool of passages in all languages."""
    return any(row["passage_lang"] == Collection.MIXED for row in rows)


def slug(name: str) -> str:
    """A measure, model or collection as a part of a file name: RR@10 as rr10, smart_home/test as smart_home-test."""
    return re.sub(r"[^\w.+-]+", "-", name.replace("@", "").replace("/", "-")).strip("-").lower()
