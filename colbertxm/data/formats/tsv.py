"""Tab-separated texts and triples: MS MARCO, mMARCO, topics of Mr. TyDi, MIRACL and NeuCLIR, GPL's margins.

None of these formats can escape a tab or a line end, so a text that holds one is an error, never a shifted column. A
text that ends in CR cannot be carried either: with its LF it is a CRLF.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from colbertxm.data.formats.fields import Ids, known, split, worded
from colbertxm.data.formats.lines import Parse, Refused, Rows
from colbertxm.languages import language
from colbertxm.records import Text, Triple


@dataclass(frozen=True, slots=True)
class IdTriple:
    """One line of `qidpidtriples`: the ids of a query, of a passage that answers it, and of one that does not."""

    query_id: str
    positive_id: str
    negative_id: str


@dataclass(frozen=True, slots=True)
class Margin:
    """One line of GPL's training data: `margin` is the cross-encoder's score of the positive less the negative's."""

    query_id: str
    positive_id: str
    negative_id: str
    margin: float


def read_texts(
    paths: Path | Sequence[Path], lang: str, on_error: str = "raise", empty: bool = True, unique: bool = True
) -> Rows[Text]:
    """A collection or queries: `id<TAB>text`. `empty` allows texts that are empty, as some passages are; `read_queries`
    doesn't. `unique=False` spares the ids' memory where another stage checks them."""
    code = language(lang).code
    ids = Ids()

    def parser(path: Path) -> Parse[Text]:
        seen = ids.of(path)

        def parse(number: int, line: str) -> Text:
            text_id, text = split(line, ("id", "text"))
            known(text_id)
            if not empty:
                worded(text, "text")
            if unique:
                seen.add(text_id, number)
            return Text(text_id, text, code)

        return parse

    return Rows(paths, parser, on_error)


def read_queries(paths: Path | Sequence[Path], lang: str, on_error: str = "raise") -> Rows[Text]:
    """Queries or topics, `id<TAB>text`, none of them empty."""
    return read_texts(paths, lang, on_error, empty=False)


def read_text_triples(path: Path, lang: str, passage_lang: str | None = None, on_error: str = "raise") -> Rows[Triple]:
    """triples.train.small.tsv: `query<TAB>positive<TAB>negative`. The format has no ids, so a text's id is its line
    and its column: `17:q`, `17:p`, `17:n`."""
    query_lang = language(lang).code
    passages = query_lang if passage_lang is None else language(passage_lang).code
    names = ("query", "positive", "negative")

    def parse(number: int, line: str) -> Triple:
        query, positive, negative = (worded(text, name) for text, name in zip(split(line, names), names, strict=True))
        return Triple(
            Text(f"{number}:q", query, query_lang),
            Text(f"{number}:p", positive, passages),
            (Text(f"{number}:n", negative, passages),),
        )

    return Rows(path, lambda _: parse, on_error)


def read_id_triples(path: Path, on_error: str = "raise") -> Rows[IdTriple]:
    """qidpidtriples.train: `query id<TAB>positive id<TAB>negative id`."""

    def parse(_: int, line: str) -> IdTriple:
        query, positive, negative = map(known, split(line, ("query id", "positive id", "negative id")))
        return IdTriple(query, positive, negative)

    return Rows(path, lambda _: parse, on_error)


def read_margins(path: Path, on_error: str = "raise") -> Rows[Margin]:
    """gpl-training-data.tsv: `query id<TAB>positive id<TAB>negative id<TAB>margin`."""

    def parse(_: int, line: str) -> Margin:
        *ids, margin = split(line, ("query id", "positive id", "negative id", "margin"))
        query, positive, negative = map(known, ids)
        return Margin(query, positive, negative, number_of(margin, "margin"))

    return Rows(path, lambda _: parse, on_error)


def number_of(written: str, what: str) -> float:
    """A finite number in ASCII digits; `float` would take underscores, other scripts' digits and `nan` as well."""
    try:
        found = float(written) if written.isascii() and "_" not in written else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise Refused(f"has a {what} that is no number", f"the {what} {written!r} is no finite number")
    return found
