"""The rows of a question's results.csv: one run, one pair of languages, one measure.

`language_pair` is `de-en` for German queries over English passages. Besides pairs there are `others` (the mean over the
languages but English, queries and passages in one language), `across` (the mean over pairs of two languages) and `all`
(what has no language: sizes, seconds, kWh). `low` and `high` bound a 95% bootstrap interval over queries, empty where
there is none; `seconds`, `kwh` and `method` are of the run's training, or of the stage that a cost is about.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from colbertxm.errors import UserError
from colbertxm.evaluation.results import write_text
from colbertxm.languages import LANGUAGES

COLUMNS = (
    "question", "settings", "seed", "language_pair", "metric", "value", "low", "high", "seconds", "kwh", "method",
    "config_hash", "git_revision",
)  # fmt: skip
NUMBERS = ("value", "low", "high", "seconds", "kwh")
OTHERS, ACROSS, ALL = "others", "across", "all"
CODES = {found.code for found in LANGUAGES} | {"mixed"}
Row = dict[str, Any]


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = COLUMNS) -> str:
    """Rows as text; a number that is not known is empty."""
    out = io.StringIO()
    columns = list(columns)
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row[name]) for name in columns})
    return out.getvalue()


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = COLUMNS) -> None:
    """Write rows, all or nothing."""
    write_text(path, to_csv(rows, columns))


def read_csv(path: Path, columns: Iterable[str] = COLUMNS, numbers: Iterable[str] = NUMBERS) -> list[Row]:
    """The rows that `write_csv` wrote; an empty number is None. Raises UserError for another file, by line."""
    columns, numbers = list(columns), list(numbers)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != columns:
                raise UserError(f"{path} has the columns {reader.fieldnames}, not {columns}: write it anew")
            found: list[Row] = []
            for number, line in enumerate(reader, start=2):
                found.append({**line, **{name: _number(line[name], path, number) for name in numbers}})
            return found
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def split_pair(pair: str) -> tuple[str, str] | None:
    """(query language, passage language) of `de-en` and `zh-hant-sr-latn`; None of what is no pair."""
    parts = pair.rpartition(":")[2].split("-")
    for cut in range(1, len(parts)):
        found = "-".join(parts[:cut]), "-".join(parts[cut:])
        if CODES.issuperset(found):
            return found
    return None


def pairs_of(scope: str, pairs: Iterable[str]) -> list[str]:
    """Those of `pairs` that a scope is the mean of: `others`, `across`, or one pair alone."""
    if split_pair(scope):
        return [pair for pair in pairs if pair == scope]
    split = {pair: found for pair in pairs if (found := split_pair(pair))}
    if scope == ACROSS:
        return [pair for pair, (q, p) in split.items() if q != p]
    return [pair for pair, (q, p) in split.items() if q == p != "en"]


def split_settings(settings: str) -> dict[str, str]:
    """`name=single_vector size=small` by key; a value is what stands before the next `key=`."""
    found: dict[str, str] = {}
    for word in settings.split(" "):
        key, sign, value = word.partition("=")
        if sign:
            found[key] = value
        elif found:
            found[list(found)[-1]] += f" {word}"
    return found


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _number(text: str | None, path: Path, line: int) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise UserError(f"{path}, line {line}: {text!r} is no number: write it anew") from None
