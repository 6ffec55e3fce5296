"""Data sets of the Hugging Face hub, or in a local folder of parquet, csv or JSON lines, by the library `datasets`.

Only data is read: the library runs no loading scripts any more (from 4.0 on; the extra asks for that). A data set on
the hub has no language of its own and no agreed columns, so both are named by the caller. Rows are counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from colbertxm.data.formats.fields import Ids, id_of, text_of, worded
from colbertxm.data.formats.jsonl import Shape, titled
from colbertxm.data.formats.lines import Refused
from colbertxm.errors import MissingExtra, UserError, nearest
from colbertxm.languages import language
from colbertxm.records import Text, Triple


def read_hub_texts(
    name: str, lang: str, split: str, columns: Mapping[str, str], titles: bool = True, **where: Any
) -> Iterator[Text]:
    """Texts with unique ids; `columns` maps `id`, `text` and, where there is one, `title` to the data set's columns.
    `where` goes on to `read_hub`."""
    shape = Shape(**_mapped(columns, {"id", "text"}, {"title"}))
    code, ids = language(lang).code, Ids()
    for number, row in read_hub(name, split, tuple(columns.values()), **where):
        try:
            text = Text(id_of(row[shape.id], shape.id), titled(row, shape, titles), code)
            ids.add(text.id, number)
        except Refused as refused:
            raise UserError(f"{name}, {split}, row {number}: {refused}") from None
        yield text


def read_hub_triples(
    name: str, lang: str, split: str, columns: Mapping[str, str], passage_lang: str | None = None, **where: Any
) -> Iterator[Triple]:
    """Text triples; `columns` maps `query`, `positive` and `negative`. A text's id is its row and what it is: `17:q`,
    `17:p`, `17:n`."""
    keys = _mapped(columns, {"query", "positive", "negative"}, set())
    query_lang = language(lang).code
    passages = query_lang if passage_lang is None else language(passage_lang).code
    for number, row in read_hub(name, split, tuple(columns.values()), **where):
        try:
            query, positive, negative = (
                worded(text_of(row, keys[key]), key) for key in ("query", "positive", "negative")
            )
        except Refused as refused:
            raise UserError(f"{name}, {split}, row {number}: {refused}") from None
        made = Text(f"{number}:p", positive, passages), (Text(f"{number}:n", negative, passages),)
        yield Triple(Text(f"{number}:q", query, query_lang), *made)


def read_hub(
    name: str,
    split: str,
    columns: tuple[str, ...],
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = True,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) of one split; `name` is `owner/name` or a folder. Streaming reads as it goes and keeps nothing;
    otherwise the data set is downloaded whole and mapped into memory. Give `revision` a commit for results that others
    can repeat. Raises UserError where it cannot be had, or lacks one of `columns`."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    known: set[str] = set()
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=streaming)
        for number, row in enumerate(rows, 1):
            if not known and (known := set(row)):
                _check(name, columns, known)
            yield number, row
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"cannot read split {split!r} of the data set {name}: {_cut(said)}") from None


def _check(name: str, columns: tuple[str, ...], known: set[str]) -> None:
    for column in columns:
        if column not in known:
            there = ", ".join(sorted(known))
            raise UserError(f"the data set {name} has no column {column!r}{nearest(column, known)}; it has {there}")


def _mapped(columns: Mapping[str, str], needed: set[str], may: set[str]) -> dict[str, str]:
    for key in columns:
        if key not in needed | may:
            raise UserError(f"columns: unknown key {key!r}{nearest(key, needed | may)}")
    if missing := sorted(needed - columns.keys()):
        raise UserError(f"columns: name the data set's column for {', '.join(missing)}")
    return dict(columns)


def _cut(said: str) -> str:
    return said if len(said) <= 300 else f"{said[:300]}..."
