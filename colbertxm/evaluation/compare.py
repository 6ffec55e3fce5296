"""Evaluate systems on collections: runs and qrels on disk, rows, and paired differences between two systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colbertxm.data.collection import Collection
from colbertxm.evaluation.baselines import System, how
from colbertxm.evaluation.bias import language_bias, language_bias_matrix
from colbertxm.evaluation.gap import cross_lingual_gap
from colbertxm.evaluation.metrics import Scores, evaluate
from colbertxm.evaluation.results import row
from colbertxm.evaluation.runs import write_qrels, write_run
from colbertxm.evaluation.significance import holm, macro_difference, paired_difference
from colbertxm.records import Hit

MEASURES = ("RR@10", "R@100", "nDCG@10")
"""In every row."""
WHOLE_RANKING = 1000
Measured = dict[tuple[str, str], Scores]
"""Scores per (query language, passage language) of one collection."""


def measure(
    name: str,
    system: System,
    collections: Sequence[Collection],
    output: Path,
    k: int = 100,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Measured]]:
    """Rows and, by collection's name, per-query scores of one system on every collection. The run goes to
    `output`/runs/NAME, the qrels to `output`/qrels: from these files anyone's tool gets the same figures. Runs have at
    least `k` hits a query, more where a collection's official measures look deeper."""
    rows: list[dict[str, Any]] = []
    measured: dict[str, Measured] = {}
    several = len({collection.name for collection in collections}) > 1
    for collection in collections:
        pair = f"{collection.query_lang}-{collection.passage_lang}"
        file = f"{collection.name.replace('/', '-')}.{pair}" if several else pair
        asked = tuple(dict.fromkeys((*MEASURES, *collection.measures)))
        hits = find(system, collection, max(k, depth(asked)))
        write_run(output / "runs" / name / f"{file}.trec.gz", hits, name)
        write_qrels(output / "qrels" / f"{file}.qrels", collection.judgements)
        scores = evaluate(hits, collection.judgements, asked)
        about = {"collection": collection.name, "how": how(system, collection)}
        if collection.measures:
            about["official"] = " ".join(collection.measures)
        biases = biases_of(collection, hits) if collection.passage_lang == Collection.MIXED else {}
        places = measured.setdefault(collection.name, {})
        for query_lang, part in by_language(collection, scores).items():
            places[query_lang, collection.passage_lang] = part
            own = {"bias": biases[query_lang]} if biases else {}
            rows.append(row(name, query_lang, collection.passage_lang, part, **about, **own))
        if progress is not None:
            progress(1)
    return rows, measured


def biases_of(collection: Collection, hits: Sequence[Hit]) -> dict[str, dict[str, Any]]:
    """The language bias of the first ten hits in a mixed pool, of all queries and of each language's."""
    passages = {passage.id: passage.lang for passage in collection.passages}
    queries = {query.id: query.lang for query in collection.queries}
    every = language_bias(hits, collection.judgements, passages, queries)
    each = language_bias_matrix(hits, collection.judgements, passages, queries)
    return {collection.query_lang: every.row(), **{lang: bias.row() for lang, bias in each.items()}}


def gaps(measured: Measured, pair_of: Callable[[str, str], str], measure_name: str = "RR@10") -> list[dict[str, Any]]:
    """The cross-lingual gap of each pair of languages whose passages were searched monolingually too, and of their
    mean; none where there is no such pair. `pair_of` as in `differences`."""
    measured = {(q, p): scores for (q, p), scores in measured.items() if p != Collection.MIXED}
    if not any(q != p and (p, p) in measured for q, p in measured):
        return []
    keys = {i: pair_of(q, i) for (q, _), scores in measured.items() for i in scores.query_ids}
    return cross_lingual_gap(measured, keys, measure_name)


def find(system: System, collection: Collection, k: int) -> list[Hit]:
    """A system's `k` hits a query, as the collection counts them."""
    if not collection.without_itself:
        return system.run(collection, k)
    ranked: dict[str, list[Hit]] = {}
    for hit in system.run(collection, k + 1):
        if hit.passage_id != hit.query_id:
            ranked.setdefault(hit.query_id, []).append(hit)
    return [hit._replace(rank=n) for hits in ranked.values() for n, hit in enumerate(hits[:k], start=1)]


def depth(measures: Sequence[str]) -> int:
    """How many hits a query the measures look at. AP and its kind, which look at all, get trec_eval's usual 1,000."""
    cuts = [int(cut) for _, at, cut in (name.rpartition("@") for name in measures) if at]
    return max([*cuts, *(WHOLE_RANKING for name in measures if "@" not in name)])


def by_language(collection: Collection, scores: Scores) -> dict[str, Scores]:
    """The scores by the language of the query: of a mixed pool all queries' first, then each language's."""
    found = {collection.query_lang: scores}
    if collection.query_lang == Collection.MIXED:
        spoken = {query.id: query.lang for query in collection.queries}
        for lang in dict.fromkeys(spoken.values()):
            own = np.array([i for i, query_id in enumerate(scores.query_ids) if spoken[query_id] == lang])
            ids = tuple(scores.query_ids[i] for i in own)
            found[lang] = Scores(ids, {name: values[own] for name, values in scores.values.items()})
    return found


def differences(
    first: Measured, second: Measured, pair_of: Callable[[str, str], str], measure_name: str = "RR@10"
) -> list[dict[str, Any]]:
    """Second minus first, monolingual (or each language's queries over a mixed pool): each language with its paired
    randomisation test (Holm-corrected over the languages), and the macro-average over the languages other than English,
    where `pair_of` (language and query id -> pair) says which queries are translations of one another and so are drawn
    together."""
    places = {q: (q, p) for q, p in first if q != Collection.MIXED and p in (q, Collection.MIXED)}
    languages = list(places)
    values = {
        lang: (first[place].values[measure_name], second[place].values[measure_name]) for lang, place in places.items()
    }
    found = {lang: paired_difference(b, a) for lang, (a, b) in values.items()}
    corrected = holm({lang: difference.p for lang, difference in found.items()})
    lines = [
        {
            "scope": lang,
            "difference": d.mean,
            "low": d.low,
            "high": d.high,
            "p": d.p,
            "p_holm": corrected[lang],
        }
        for lang, d in found.items()
    ]
    others = [lang for lang in languages if lang != "en"]
    if others:
        d = macro_difference(
            {lang: np.asarray(values[lang][1]) for lang in others},
            {lang: np.asarray(values[lang][0]) for lang in others},
            {lang: [pair_of(lang, i) for i in first[places[lang]].query_ids] for lang in others},
        )
        lines.append({"scope": "mean of others", "difference": d.mean, "low": d.low, "high": d.high, "p": d.p})
    return lines
