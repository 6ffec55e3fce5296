"""The user's own collections: a trio of corpus, queries and qrels; and smart_home, which every installation has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from colbertxm.data import lazy
from colbertxm.data.collection import Collection
from colbertxm.data.corpus import read_corpus
from colbertxm.data.formats.detect import detect
from colbertxm.data.formats.fields import value
from colbertxm.data.formats.jsonl import read_texts_jsonl
from colbertxm.data.formats.lines import read_lines
from colbertxm.data.formats.qrels import read_qrels
from colbertxm.data.formats.tsv import read_queries
from colbertxm.data.lazy import StoredTexts, lacks, read_passages
from colbertxm.errors import UserError
from colbertxm.evaluation.collections.entry import Entry, Loaded, Request, judged, own_id, sampled
from colbertxm.languages import language
from colbertxm.records import Text


def load_local(entry: Entry, request: Request) -> Loaded:
    """`corpus=FILE queries=FILE qrels=FILE langs=[de]`; with two languages the first is the queries', the second the
    passages'. Lines of a .jsonl that name their `lang` need none. Without a corpus, topics and qrels alone."""
    entry.crossing(request)
    langs = [language(spelling).code for spelling in request.langs or ()]
    if len(langs) > 2:
        raise UserError(f"langs has {len(langs)} languages: give one, or the queries' and then the passages'")
    if request.queries is None or request.qrels is None:
        raise UserError("collection=local needs queries=FILE and qrels=FILE, and corpus=FILE to be searched")
    queries = _texts(request.queries, langs[0] if langs else None, "queries")
    passages = _corpus(request.corpus, langs[-1] if langs else None) if request.corpus else ()
    kept, marks = judged(queries, tuple(read_qrels(_there(request.qrels))), str(request.queries))
    kept, marks = sampled(kept, marks, request, own_id)
    name = f"local/{request.qrels.name.split('.')[0]}"
    langs_found = _lang(kept), (_lang(passages) if passages else (langs[-1] if langs else _lang(kept)))
    found = Collection(name, *langs_found, kept, passages, marks, entry.measures)
    if not len(passages):
        return Loaded([found], own_id, ["local: no corpus=FILE was given"])
    lost = lacks(passages, dict.fromkeys(j.passage_id for j in marks if j.relevance > 0))
    notes = (
        [f"{request.qrels}: {len(lost):,} relevant passages are not in the corpus (first: {lost[0]!r})"] if lost else []
    )
    return Loaded([found], own_id, notes)


def _corpus(path: Path, lang: str | None) -> Sequence[Text]:
    """A large corpus in one language is not held in memory."""
    if lang is not None and _there(path).stat().st_size > lazy.SMALL and not _own_language(path):
        return read_passages([path], lang)
    return _texts(path, lang, "corpus")


def _texts(path: Path, lang: str | None, what: str) -> tuple[Text, ...]:
    """Texts of a .tsv, of a .jsonl whose lines name their language, or of one in a known shape."""
    kind = detect(_there(path))
    if kind == "texts_jsonl" and _own_language(path):
        return tuple(read_corpus(path, [] if lang is None else [lang]))
    if lang is None:
        raise UserError(f"{what}={str(path)!r} does not say its language: give langs=[en]")
    if kind == "texts":
        return tuple(read_queries(path, lang)) if what == "queries" else tuple(read_passages([path], lang))
    if kind == "texts_jsonl":
        return tuple(read_texts_jsonl(path, lang, titles=what != "queries", empty=what != "queries"))
    raise UserError(f"{what}={str(path)!r} is in the format {kind!r}: give id<TAB>text lines or one JSON object a line")


def _own_language(path: Path) -> bool:
    if ".json" not in path.name:
        return False
    line = next(iter(read_lines(path)), None)
    found = value(line[1]) if line else None
    return isinstance(found, dict) and "lang" in found and "id" in found


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    return path


def _lang(texts: Sequence[Text]) -> str:
    if isinstance(texts, StoredTexts):
        return texts.lang
    found = {text.lang for text in texts}
    return found.pop() if len(found) == 1 else Collection.MIXED
