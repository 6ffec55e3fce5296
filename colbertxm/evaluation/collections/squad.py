"""XQuAD and XQuAD-R (Artetxe et al. 2020; Roy et al. 2020, LAReQA): SQuAD's questions over its paragraphs, translated.

XQuAD as retrieval: the passage that answers a question is its paragraph, in one language or another. XQuAD-R: the
candidates are the sentences of all paragraphs, and right is the one in which the answer starts (LAReQA, section 3.1);
`cross=pool` is LAReQA's own task, where questions of all languages search one pool of all languages' sentences and
every translation of the answer is right. LAReQA gives its encoder each sentence with the paragraph around it:
`context=true` appends it.

Ids: `de:q:QUESTION`, `de:p:ARTICLE.PARAGRAPH` and `de:p:ARTICLE.PARAGRAPH.SENTENCE`, counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.evaluation.collections.entry import Entry, Loaded, Request, after_prefix, language_pairs, sampled
from colbertxm.evaluation.collections.remote import bring, files_of
from colbertxm.evaluation.collections.topics import located, needed
from colbertxm.records import Judgement, Text

Parallel = dict[str, "Questions"]
"""Language -> its questions."""


@dataclass(frozen=True)
class Questions:
    """One language: its questions, its passages, and the key of the passage that answers each question."""

    queries: tuple[Text, ...]
    passages: tuple[Text, ...]
    answers: dict[str, str]
    """Question id -> passage key, both without their prefix."""


def load_xquad(entry: Entry, request: Request) -> Loaded:
    return _load(entry, request, sentences=False)


def load_xquad_r(entry: Entry, request: Request) -> Loaded:
    return _load(entry, request, sentences=True)


def _load(entry: Entry, request: Request, sentences: bool) -> Loaded:
    split, cross = entry.split(request), entry.crossing(request)
    langs = entry.codes(request.langs)
    folder = request.folder or bring(files_of(entry.name, langs))
    if request.langs is None:
        langs = [lang for lang in langs if located(entry, entry.corpus, folder, lang, split)]
    if not langs:
        needed(entry, entry.corpus, folder, "en", split, "file")
    found = {}
    for lang in langs:
        path = needed(entry, entry.corpus, folder, lang, split, "file")
        found[lang] = read_squad(path, lang, sentences, request.context)
    if cross == "pool":
        return Loaded([_pool(entry, request, found)], after_prefix)
    collections = [_pair(entry, request, found, a, b) for a, b in language_pairs(langs, cross)]
    return Loaded(collections, after_prefix)


def _pair(entry: Entry, request: Request, found: Parallel, query_lang: str, lang: str) -> Collection:
    asked, searched = found[query_lang], found[lang]
    marks = []
    for query in asked.queries:
        answer = searched.answers.get(after_prefix(query_lang, query.id))
        if answer is None:
            raise UserError(f"{entry.name}: the question {query.id} is not in {lang!r}: are the files of one release?")
        marks.append(Judgement(query.id, f"{lang}:p:{answer}", 1))
    queries, judgements = sampled(asked.queries, tuple(marks), request, after_prefix)
    return Collection(entry.name, query_lang, lang, queries, searched.passages, judgements, entry.measures)


def _pool(entry: Entry, request: Request, found: Parallel) -> Collection:
    """Every translation of an answer is right."""
    pairs = [[_pair(entry, request, found, a, b) for b in found] for a in found]
    return Collection(
        f"{entry.name}/pool",
        Collection.MIXED,
        Collection.MIXED,
        tuple(query for row in pairs for query in row[0].queries),
        tuple(passage for questions in found.values() for passage in questions.passages),
        tuple(mark for row in pairs for collection in row for mark in collection.judgements),
        entry.measures,
    )


def read_squad(path: Path, lang: str, sentences: bool = False, context: bool = False) -> Questions:
    """A file in SQuAD's shape; with `sentences`, in XQuAD-R's, whose paragraphs have `sentence_breaks` and `sentences`.
    Raises UserError where it has another shape, by article and paragraph."""
    queries: list[Text] = []
    passages: list[Text] = []
    answers: dict[str, str] = {}
    at = ""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
        for number, article in enumerate(content["data"]):
            for place, paragraph in enumerate(article["paragraphs"]):
                at, key = f", article {number}, paragraph {place}", f"{number}.{place}"
                passages += _passages(paragraph, lang, key, sentences, context)
                for question in paragraph["qas"]:
                    queries.append(Text(f"{lang}:q:{question['id']}", question["question"], lang))
                    start = question["answers"][0]["answer_start"]
                    right = f"{key}.{_sentence(paragraph['sentence_breaks'], start)}" if sentences else key
                    if answers.setdefault(question["id"], right) != right:
                        raise ValueError(f"the question {question['id']} stands twice")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}{at}: not in the shape of {'XQuAD-R' if sentences else 'SQuAD'} ({said})") from None
    if not queries:
        raise UserError(f"{path} holds no question")
    return Questions(tuple(queries), tuple(passages), answers)


def _passages(paragraph: dict[str, Any], lang: str, key: str, sentences: bool, context: bool) -> list[Text]:
    whole = paragraph["context"]
    if not sentences:
        return [Text(f"{lang}:p:{key}", whole, lang)]
    listed = paragraph["sentences"]
    if len(listed) != len(paragraph["sentence_breaks"]):
        raise ValueError(f"{len(listed)} sentences, {len(paragraph['sentence_breaks'])} breaks")
    return [
        Text(f"{lang}:p:{key}.{n}", f"{sentence} {whole}" if context else sentence, lang)
        for n, sentence in enumerate(listed)
    ]


def _sentence(breaks: Sequence[Sequence[int]], start: int) -> int:
    """The sentence [from, to) in which an answer starts."""
    for number, (first, stop) in enumerate(breaks):
        if first <= start < stop:
            return number
    raise ValueError(f"no sentence has the character {start}, where an answer starts")
