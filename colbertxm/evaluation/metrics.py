"""Retrieval measures, per query: those of `measures`, of a run in hits or in columns.

The order of ranks decides and scores are never looked at, so ties stand as MS MARCO's evaluation script takes
them: in the order of the run. trec_eval sorts by score and breaks ties by passage id, descending (ir_measures does too,
but ascending for RR@k and Judged@k); on a run with strictly decreasing scores, which `runs.write_run` insists on, all
agree, and on any other `columns.Run.as_trec_eval` gives trec_eval's figures.

Shapes: Q queries, N judged passages that were found. Relevance of 0 or less is not relevant; any above 0 is, and is
nDCG's gain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.columns import Run, lookup, padded
from colbertxm.evaluation.measures import Floats, Found, Ints, measure_of
from colbertxm.records import Hit, Judgement

DEFAULT_MEASURES = ("RR@10", "R@100", "nDCG@10")


@dataclass(frozen=True, eq=False)
class Scores:
    """Per query values of some measures: `values[measure]` is [Q], in the order of `query_ids`."""

    query_ids: tuple[str, ...]
    values: dict[str, Floats]

    def mean(self, measure: str) -> float:
        """The mean over all judged queries. UserError for a measure that was not computed."""
        if measure not in self.values:
            raise UserError(f"{measure} was not measured{nearest(measure, self.values)}; have {list(self.values)}")
        return float(self.values[measure].mean())


def evaluate(run: Iterable[Hit], qrels: Iterable[Judgement], measures: Sequence[str] = DEFAULT_MEASURES) -> Scores:
    """The measures of a run, per judged query, in the order in which the qrels first name the queries.

    A judged query without results, or without a relevant passage, counts as zero (as in trec_eval -c);
    queries of the run without judgements are ignored. `hit.rank` is taken as it stands, from 1. A `Run` in columns
    is measured without making its hits.

    Raises UserError: unknown measure, no judgements, a pair judged twice, a rank below 1, or a judged passage or its
    rank that comes twice for a query (which would lift a measure above 1).
    """
    asked = {name: measure_of(name) for name in measures}
    judged = judged_by_query(qrels)
    if isinstance(run, Run):
        found = _find_in_columns(run, judged)
    else:
        needs_lengths = any(name.startswith("Judged") for name in measures)
        hits = list(run) if needs_lengths else run
        found = _find(hits, judged, _lengths(hits, judged) if needs_lengths else np.zeros(len(judged), np.int64))
    return Scores(tuple(judged), {name: measure(found) for name, measure in asked.items()})


def relevant_by_query(qrels: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """{query: {relevant passage: relevance}}; a query with none is there, with an empty dict."""
    return {
        query_id: {passage_id: relevance for passage_id, relevance in passages.items() if relevance > 0}
        for query_id, passages in judged_by_query(qrels).items()
    }


def judged_by_query(qrels: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """{query: {judged passage: relevance}}. UserError for no judgements and for a pair judged twice."""
    judged: dict[str, dict[str, int]] = {}
    for judgement in qrels:
        passages = judged.setdefault(judgement.query_id, {})
        if judgement.passage_id in passages:
            raise UserError(f"qrels: {judgement.query_id} {judgement.passage_id} is judged twice; keep one judgement")
        passages[judgement.passage_id] = judgement.relevance
    if not judged:
        raise UserError("there are no judgements to measure against; give qrels with at least one line")
    return judged


def _find(run: Iterable[Hit], judged: dict[str, dict[str, int]], lengths: Ints) -> Found:
    # Only judged hits move a measure, a thousandth of a run: one lean pass drops the others.
    none: dict[str, int] = {}
    of_query = judged.get
    hits = [hit for hit in run if hit.passage_id in of_query(hit.query_id, none)]
    _refuse_repeats(hits)
    position = {query_id: number for number, query_id in enumerate(judged)}
    query = np.array([position[hit.query_id] for hit in hits], dtype=np.int64)
    rank = np.array([hit.rank for hit in hits], dtype=np.int64)
    gain = np.array([judged[hit.query_id][hit.passage_id] for hit in hits], dtype=np.float64)
    return _found(judged, query, rank, gain, lengths)


def _lengths(hits: Iterable[Hit], judged: dict[str, dict[str, int]]) -> Ints:
    counted = Counter(map(itemgetter(0), hits))
    return np.array([counted[query_id] for query_id in judged], np.int64)


def _find_in_columns(run: Run, judged: dict[str, dict[str, int]]) -> Found:
    place = {query_id: number for number, query_id in enumerate(run.query_ids)}
    in_run = np.array([place.get(query_id, -1) for query_id in judged], np.int64)
    sizes = np.array([len(passages) for passages in judged.values()])
    ids = padded(passage_id for passages in judged.values() for passage_id in passages)
    rows, pairs = lookup(run, np.repeat(in_run, sizes), ids)
    query = np.repeat(np.arange(len(judged)), sizes)[pairs]
    rank = run.rank[rows]
    if len(np.unique(pairs)) < len(pairs):
        values, counts = np.unique(pairs, return_counts=True)
        twice = ids[values[counts.argmax()]].decode()
        raise UserError(f"run: passage {twice} comes twice for a query; keep the first")
    gain = np.fromiter((relevance for passages in judged.values() for relevance in passages.values()), np.float64)
    lengths = np.where(in_run >= 0, np.append(np.diff(run.bounds), 0)[in_run], 0)
    return _found(judged, query, rank, gain[pairs], lengths)


def _found(judged: dict[str, dict[str, int]], query: Ints, rank: Ints, gain: Floats, lengths: Ints) -> Found:
    ideal = [
        (number, place, relevance)
        for number, passages in enumerate(judged.values())
        for place, relevance in enumerate(sorted((r for r in passages.values() if r > 0), reverse=True), start=1)
    ]
    ideal_query, ideal_rank, ideal_gain = zip(*ideal, strict=True) if ideal else ((), (), ())
    order = np.lexsort((rank, query))
    return Found(
        queries=len(judged),
        query=query[order],
        rank=rank[order],
        gain=gain[order],
        ideal_query=np.array(ideal_query, dtype=np.int64),
        ideal_rank=np.array(ideal_rank, dtype=np.int64),
        ideal_gain=np.array(ideal_gain, dtype=np.float64),
        lengths=lengths,
    )


def _refuse_repeats(hits: list[Hit]) -> None:
    passages: set[tuple[str, str]] = set()
    ranks: set[tuple[str, int]] = set()
    for hit in hits:
        passage, rank = (hit.query_id, hit.passage_id), (hit.query_id, hit.rank)
        if hit.rank < 1:
            raise UserError(f"run: query {hit.query_id} has rank {hit.rank}; ranks start at 1")
        if passage in passages:
            raise UserError(f"run: query {hit.query_id}: passage {hit.passage_id} comes twice; keep the first")
        if rank in ranks:
            raise UserError(f"run: query {hit.query_id}: rank {hit.rank} comes twice; make hits with `rank_hits`")
        passages.add(passage)
        ranks.add(rank)
