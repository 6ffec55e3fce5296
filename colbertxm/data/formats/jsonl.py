"""One JSON object a line: corpora and queries of BEIR, Mr. TyDi, MIRACL, NeuCLIR, MS MARCO v2; annotated queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colbertxm.data.formats.fields import Ids, id_of, record, short, text_of, worded
from colbertxm.data.formats.lines import Parse, Refused, Rows
from colbertxm.errors import UserError, nearest
from colbertxm.languages import language
from colbertxm.records import Text, Triple


@dataclass(frozen=True, slots=True)
class Shape:
    """The keys that a corpus of one kind has in each line."""

    id: str
    text: str
    title: str | None = None


SHAPES = {
    "beir": Shape("_id", "text", "title"),
    "mr-tydi": Shape("docid", "text", "title"),  # and MIRACL, whose corpora have the same keys
    "neuclir": Shape("id", "text", "title"),
    "anserini": Shape("id", "contents"),  # and Mr. TyDi as its authors published it
    "msmarco-v2": Shape("pid", "passage"),
    "msmarco-v2.1": Shape("docid", "segment", "title"),
    "msmarco-v2-documents": Shape("docid", "body", "title"),
    "openmatch": Shape("doc_id", "doc"),
    "openmatch-queries": Shape("query_id", "query"),
}


def shape_of(keys: frozenset[str]) -> str | None:
    """The first shape whose keys are all there; a title may be missing. A query beside a passage is no one's text."""
    if {"query", "doc"} <= keys:
        return None
    return next((name for name, shape in SHAPES.items() if {shape.id, shape.text} <= keys), None)


def read_texts_jsonl(
    paths: Path | Sequence[Path],
    lang: str,
    shape: str | Shape | None = None,
    titles: bool = True,
    on_error: str = "raise",
    empty: bool = True,
) -> Rows[Text]:
    """A corpus or queries, in one file or several. `shape` names the keys; without it the first readable line of each
    file does, and every other line must have the same. A title is put before its text with a blank between, as BEIR
    does, or dropped with `titles=False`. `empty=False` refuses empty texts, as queries should. Ids must be unique."""
    if isinstance(shape, str) and shape not in SHAPES:
        raise UserError(f"unknown shape {shape!r}{nearest(shape, SHAPES)}: it can be {', '.join(SHAPES)}")
    fixed = SHAPES[shape] if isinstance(shape, str) else shape
    code = language(lang).code
    ids = Ids()

    def parser(path: Path) -> Parse[Text]:
        seen, keys = ids.of(path), fixed

        def parse(number: int, line: str) -> Text:
            nonlocal keys
            found = record(line)
            keys = keys or _shape(found)
            text = titled(found, keys, titles)
            if not empty:
                worded(text, "text")
            text_id = id_of(found.get(keys.id), keys.id)
            seen.add(text_id, number)
            return Text(text_id, text, code)

        return parse

    return Rows(paths, parser, on_error)


def _shape(found: dict[str, Any]) -> Shape:
    name = shape_of(frozenset(found))
    if name is None:
        raise Refused("has no id and text", f"no id and text among the keys {short(sorted(found))}")
    return SHAPES[name]


def titled(found: dict[str, Any], keys: Shape, titles: bool) -> str:
    """A text with its title before it."""
    text = text_of(found, keys.text)
    title = found.get(keys.title) if keys.title and titles else None
    if title is None or title == "":
        return text
    if not isinstance(title, str):
        raise Refused("has a title that is no text", f"expected a text in {keys.title!r}, found {short(title)}")
    return f"{title} {text}" if text else title


@dataclass(frozen=True, slots=True)
class Annotated:
    """A query with the passages that people marked, texts and all; in a test set both can be empty."""

    query: Text
    positives: tuple[Text, ...]
    negatives: tuple[Text, ...]


def read_annotated(path: Path, lang: str, titles: bool = True, on_error: str = "raise") -> Rows[Annotated]:
    """train.jsonl of Mr. TyDi, MIRACL and Tevatron: {"query_id", "query", "positive_passages": [{"docid", "title",
    "text"}], "negative_passages": [...]}. A passage stands in as many lines as it likes; a query in one."""
    code = language(lang).code
    keys = SHAPES["mr-tydi"]

    def passages(found: dict[str, Any], key: str) -> tuple[Text, ...]:
        listed = found.get(key)
        if not isinstance(listed, list) or not all(isinstance(passage, dict) for passage in listed):
            raise Refused(f"has no list {key!r}", f"expected a list of passages in {key!r}, found {short(listed)}")
        return tuple(
            Text(id_of(passage.get("docid"), "docid"), titled(passage, keys, titles), code) for passage in listed
        )

    def parser(path: Path) -> Parse[Annotated]:
        seen = Ids().of(path)

        def parse(number: int, line: str) -> Annotated:
            found = record(line)
            query = Text(id_of(found.get("query_id"), "query_id"), worded(text_of(found, "query"), "query"), code)
            row = Annotated(query, passages(found, "positive_passages"), passages(found, "negative_passages"))
            seen.add(query.id, number)
            return row

        return parse

    return Rows(path, parser, on_error)


TRIPLE_KEYS = (
    ("query", "positive", "negative"),
    ("anchor", "positive", "negative"),
    ("query", "pos", "neg"),
    ("query", "doc_pos", "doc_neg"),
)
"""The hub's, sentence-transformers', FlagEmbedding's with single texts, OpenMatch's."""


def read_triples_jsonl(path: Path, lang: str, passage_lang: str | None = None, on_error: str = "raise") -> Rows[Triple]:
    """Text triples, under one of TRIPLE_KEYS. A text's id is its line and what it is: `17:q`, `17:p`, `17:n`."""
    query_lang = language(lang).code
    passages = query_lang if passage_lang is None else language(passage_lang).code

    def parse(number: int, line: str) -> Triple:
        found = record(line)
        keys = next((keys for keys in TRIPLE_KEYS if found.keys() >= set(keys)), None)
        if keys is None:
            raise Refused("is no triple", f"no query, positive and negative among the keys {short(sorted(found))}")
        query, positive, negative = (worded(text_of(found, key), key) for key in keys)
        return Triple(
            Text(f"{number}:q", query, query_lang),
            Text(f"{number}:p", positive, passages),
            (Text(f"{number}:n", negative, passages),),
        )

    return Rows(path, lambda _: parse, on_error)
