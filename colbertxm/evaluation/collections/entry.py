"""What a collection is to the registry, what a user may ask of it, and what comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError, nearest
from colbertxm.languages import language
from colbertxm.records import Judgement, Text

T = TypeVar("T")
CROSS = ("none", "english", "all", "pool")
"""Pairs of query and passage language: the same only; English with each other one, too; all; or queries of every
language over one pool of every language's passages."""


@dataclass(frozen=True)
class Request:
    """What the user asks for. None: the collection's own default."""

    langs: Sequence[str] | None = None
    split: str | None = None
    cross: str | None = None
    subsets: Sequence[str] | None = None
    """Of BEIR and NanoBEIR: which of their data sets."""
    folder: Path | None = None
    """Files at hand, in a layout that the collection's authors, the hub or Anserini use; then nothing is fetched."""
    corpus: Path | None = None
    """The local collection's passages; for another one, where its corpus lies if not in `folder`."""
    queries: Path | None = None
    qrels: Path | None = None
    sample: int | None = None
    """So many queries a language (of smart_home: pairs), the same ones in parallel languages; passages stay all."""
    seed: int = 0
    context: bool = False
    """XQuAD-R: whether a candidate sentence is followed by its paragraph."""


@dataclass
class Loaded:
    """Collections that are ready to run. Those without passages (topics and qrels alone) can be counted, and runs made
    elsewhere measured against them."""

    collections: list[Collection]
    pair_of: Callable[[str, str], str]
    """(query language, query id) -> a name that translations of one query share."""
    notes: list[str] = field(default_factory=list)
    """What is absent or was left out, a line each."""

    @property
    def langs(self) -> list[str]:
        """Every language of a query or a passage, once."""
        found: dict[str, None] = {}
        for c in self.collections:
            found |= dict.fromkeys(query.lang for query in c.queries)
            pooled = c.passage_lang == Collection.MIXED
            found |= dict.fromkeys((passage.lang for passage in c.passages) if pooled else [c.passage_lang])
        return list(found)

    def counts(self) -> list[str]:
        """One line a collection: what was loaded."""
        return [counted(c) for c in self.collections]


@dataclass(frozen=True)
class Entry:
    """One collection of the registry."""

    name: str
    title: str
    languages: Mapping[str, str]
    """Code -> the data set's own spelling."""
    measures: tuple[str, ...]
    """The official ones, the first of which a table shows."""
    splits: tuple[str, ...]
    """The first is the one that papers report."""
    licence: str
    homepage: str
    load: Callable[[Entry, Request], Loaded]
    cross: tuple[str, ...] = ("none",)
    """What `cross` may be; the first is the default."""
    subsets: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    """Paths below a folder at which queries may lie, with {code}, {name} and {split}; the first that is there is read.
    A `*` makes one corpus of several files."""
    qrels: tuple[str, ...] = ()
    corpus: tuple[str, ...] = ()

    def codes(self, spellings: Sequence[str] | None) -> list[str]:
        """Our codes of the languages asked for, which the data set may spell its own way; all for None."""
        own = {spelling: code for code, spelling in self.languages.items()}
        found = [own.get(str(s).lower()) or language(s).code for s in spellings or self.languages]
        for code in found:
            if code not in self.languages:
                raise UserError(
                    f"{self.name} has no {code!r}{nearest(code, self.languages)}: it has {', '.join(self.languages)}"
                )
        return list(dict.fromkeys(found))

    def split(self, request: Request) -> str:
        return choose("split", request.split, self.splits, self.name)

    def crossing(self, request: Request) -> str:
        return choose("cross", request.cross, self.cross, self.name)


def choose(what: str, asked: str | None, known: Sequence[str], name: str) -> str:
    """`asked`, or the first of `known`. Raises UserError for what is not known."""
    if asked is None:
        return known[0]
    if asked not in known:
        raise UserError(f"{what}={asked!r}{nearest(str(asked), known)}: {name} has {', '.join(known)}")
    return asked


def language_pairs(langs: Sequence[str], cross: str) -> list[tuple[str, str]]:
    """(query language, passage language), those of one language first; then with `english` English and each other
    language both ways, with `all` every two languages."""
    both = [(a, b) for a in langs for b in langs if a != b]
    if cross == "english":
        both = [pair for pair in both if "en" in pair]
    return [(lang, lang) for lang in langs] + (both if cross in ("english", "all") else [])


def same_id(lang: str, query_id: str) -> str:
    """Of collections whose translations share their ids."""
    return query_id


def own_id(lang: str, query_id: str) -> str:
    """Of collections whose languages have questions of their own, though their ids may be the same numbers."""
    return f"{lang}:{query_id}"


def after_prefix(lang: str, query_id: str) -> str:
    """Of ids that read `lang:q:KEY`."""
    return query_id.split(":", 2)[2]


def judged(
    queries: Iterable[Text], judgements: Sequence[Judgement], where: str
) -> tuple[tuple[Text, ...], tuple[Judgement, ...]]:
    """The queries that have judgements: measures are means over these. Raises UserError where a judged query has no
    text, which would count as a query that found nothing."""
    found = {query.id: query for query in queries}
    asked = dict.fromkeys(judgement.query_id for judgement in judgements)
    if lost := [query_id for query_id in asked if query_id not in found]:
        raise UserError(
            f"{where}: {len(lost):,} of {len(asked):,} judged queries have no text (first: {lost[0]!r}): do topics and "
            "qrels belong together?"
        )
    return tuple(query for query in found.values() if query.id in asked), tuple(judgements)


def sampled(
    queries: tuple[Text, ...],
    judgements: tuple[Judgement, ...],
    request: Request,
    key: Callable[[str, str], str],
) -> tuple[tuple[Text, ...], tuple[Judgement, ...]]:
    """The first `sample` queries in the order of a hash of their pair, so that parallel languages share theirs."""
    if request.sample is None:
        return queries, judgements
    if request.sample < 1:
        raise UserError(f"sample={request.sample} must be at least 1, or null for all queries")

    def place(query: Text) -> bytes:
        return hashlib.sha256(f"{request.seed}:{key(query.lang, query.id)}".encode()).digest()

    kept = {query.id for query in sorted(queries, key=place)[: request.sample]}
    return tuple(q for q in queries if q.id in kept), tuple(j for j in judgements if j.query_id in kept)


def counted(c: Collection) -> str:
    """`mrtydi/test fi: 1,254 queries, 1,451 judgements, 1,908,757 passages`."""
    pair = c.query_lang if c.query_lang == c.passage_lang else f"{c.query_lang} -> {c.passage_lang}"
    passages = f"{len(c.passages):,} passages" if len(c.passages) else "no corpus"
    return f"{c.name} {pair}: {len(c.queries):,} queries, {len(c.judgements):,} judgements, {passages}"
