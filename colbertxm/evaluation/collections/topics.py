"""Collections of topics, qrels and one corpus a language: mMARCO, Mr. TyDi, MIRACL, NeuCLIR.

Files at hand are read where `folder` has them, in the layouts that an entry lists; otherwise they are fetched. Topics
and qrels without a corpus are a collection too: it can be counted, and a run from elsewhere measured on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from colbertxm.data.collection import Collection
from colbertxm.data.formats.folders import COMPRESSED
from colbertxm.data.formats.qrels import read_qrels
from colbertxm.data.formats.tsv import read_queries
from colbertxm.data.lazy import lacks, read_passages
from colbertxm.errors import UserError
from colbertxm.evaluation.collections.entry import (
    Entry,
    Loaded,
    Request,
    judged,
    language_pairs,
    own_id,
    same_id,
    sampled,
)
from colbertxm.evaluation.collections.remote import bring, files_of
from colbertxm.languages import language
from colbertxm.records import Judgement, Text


def load_parallel(entry: Entry, request: Request) -> Loaded:
    """Queries and passages are translations under the same ids: languages may be crossed (mMARCO)."""
    langs = entry.codes(request.langs) if request.langs or request.folder is None else _at_hand(entry, request)
    pairs = language_pairs(langs, entry.crossing(request))
    return _load(entry, request, pairs, Loaded([], same_id))


def load_separate(entry: Entry, request: Request) -> Loaded:
    """Each language has its own questions and its own corpus (Mr. TyDi, MIRACL)."""
    entry.crossing(request)
    langs = entry.codes(request.langs) if request.langs or request.folder is None else _at_hand(entry, request)
    return _load(entry, request, [(lang, lang) for lang in langs], Loaded([], own_id))


def load_neuclir(entry: Entry, request: Request) -> Loaded:
    """One set of topics in English and, translated by people, in the language of each corpus: `cross=english` puts
    the English topics (the track's CLIR task) beside the translated ones (its monolingual task)."""
    english = entry.crossing(request) == "english"
    asked = None if request.langs is None else [s for s in request.langs if language(s).code != "en"] or None
    langs = entry.codes(asked) if asked or request.folder is None else _at_hand(entry, request)
    pairs = [(lang, lang) for lang in langs] + [("en", lang) for lang in langs if english]
    return _load(entry, request, pairs, Loaded([], same_id))


def _load(entry: Entry, request: Request, pairs: Sequence[tuple[str, str]], loaded: Loaded) -> Loaded:
    split = entry.split(request)
    folder = request.folder
    if folder is None:
        keys = list(dict.fromkeys(code for pair in pairs for code in pair))
        folder = bring(files_of(entry.name, keys, split))
    elif not folder.is_dir():
        raise UserError(f"folder={str(folder)!r}: there is no such folder")
    corpora = request.corpus or folder
    passages = {lang: _passages(entry, corpora, lang, split) for lang in dict.fromkeys(lang for _, lang in pairs)}
    for lang, found in passages.items():
        if not len(found):
            where = f"{corpora} has none of {', '.join(_names(entry, entry.corpus, lang, split))}"
            loaded.notes.append(f"{entry.name} {lang}: no corpus at hand ({where})")
    for query_lang, lang in pairs:
        queries = _queries(needed(entry, entry.queries, folder, query_lang, split, "queries"), query_lang)
        qrels = _qrels(needed(entry, entry.qrels, folder, lang, split, "qrels"))
        kept, marks = judged(queries, qrels, f"{entry.name} {query_lang}, {split}")
        kept, marks = sampled(kept, marks, request, loaded.pair_of)
        name = f"{entry.name}/{split}"
        loaded.collections.append(
            Collection(name, query_lang, lang, kept, passages[lang], marks, measures=entry.measures)
        )
        if len(passages[lang]):
            loaded.notes += absent(loaded.collections[-1])
    return loaded


def absent(collection: Collection) -> list[str]:
    """A note where relevant passages are not in the corpus, as in a slice of it: no system can find them."""
    wanted = list(dict.fromkeys(j.passage_id for j in collection.judgements if j.relevance > 0))
    lost = lacks(collection.passages, wanted)
    if not lost:
        return []
    what = f"{len(lost):,} of {len(wanted):,} relevant passages are not in the corpus (first: {lost[0]!r})"
    return [f"{collection.name} {collection.passage_lang}: {what}: its figures are not those of the whole collection"]


def needed(entry: Entry, patterns: Sequence[str], folder: Path, lang: str, split: str, what: str) -> Path:
    """The one file of `what`. Raises UserError, with the paths that were tried, where there is none."""
    found = located(entry, patterns, folder, lang, split)
    if not found:
        tried = ", ".join(_names(entry, patterns, lang, split))
        raise UserError(
            f"{folder} has no {what} of {entry.name} in {lang!r} for {split}: none of {tried} (or .gz, .zst)"
        )
    return found[0]


def located(entry: Entry, patterns: Sequence[str], folder: Path, lang: str, split: str) -> list[Path]:
    """The files of the first pattern that has any, plain or compressed; several only for a `*`, in their numbers'
    order."""
    for name in _names(entry, patterns, lang, split):
        found = [path for suffix in COMPRESSED for path in folder.glob(name + suffix) if path.is_file()]
        if len(found) > 1 and "*" not in name:
            raise UserError(f"{folder} has both {found[0].name} and {found[1].name}: move one of them away")
        if found:
            return sorted(found, key=lambda path: (len(path.name), path.name))
    return []


def _names(entry: Entry, patterns: Sequence[str], lang: str, split: str) -> list[str]:
    """The patterns filled in; one that begins with `en:` is for English only."""
    spelling = entry.languages.get(lang, lang)
    own = [p.removeprefix(f"{lang}:") for p in patterns if ":" not in p or p.startswith(f"{lang}:")]
    return [pattern.format(code=lang, name=spelling, split=split) for pattern in own]


def _at_hand(entry: Entry, request: Request) -> list[str]:
    """The languages whose qrels and queries `folder` has. Raises UserError where it has none."""
    assert request.folder is not None
    split = entry.split(request)
    found = [
        lang
        for lang in entry.languages
        if located(entry, entry.queries, request.folder, lang, split)
        and located(entry, entry.qrels, request.folder, lang, split)
    ]
    if not found:
        tried = ", ".join(_names(entry, entry.queries, next(iter(entry.languages)), split))
        raise UserError(f"{request.folder} has no topics and qrels of {entry.name}, {split}: none of {tried}, ...")
    return found


def _passages(entry: Entry, folder: Path, lang: str, split: str) -> Sequence[Text]:
    files = located(entry, entry.corpus, folder, lang, split)
    return read_passages(files, lang) if files else ()


@lru_cache(maxsize=32)
def _queries(path: Path, lang: str) -> tuple[Text, ...]:
    return tuple(read_queries(path, lang))


@lru_cache(maxsize=32)
def _qrels(path: Path) -> tuple[Judgement, ...]:
    """Once a file: crossed languages share it, and mMARCO's pairs number 14 x 14."""
    return tuple(read_qrels(path))
