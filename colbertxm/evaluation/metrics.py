"""Retrieval measures, per query: RR@k, R@k, nDCG@k, Success@k.

The order of ranks decides and scores are never looked at, so ties stand as MS MARCO's evaluation script takes
them: in the order of the run. (trec_eval and ir_measures sort by score and break ties by passage id; on a run
with strictly decreasing scores, which `runs.write_run` insists on, all agree.)

Shapes: Q queries, N relevant passages that were found, R relevant passages in all. Relevance of 0 or less is
not relevant; any above 0 is, and is nDCG's gain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from colbertxm.errors import UserError, nearest
from colbertxm.records import Hit, Judgement

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
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


@dataclass(frozen=True, eq=False)
class Found:
    """Where the relevant passages stand in the run, and all that there were to find.

    query, rank, gain: [N], one entry per relevant passage in the run; `query` is a position in Q.
    ideal_query, ideal_rank, ideal_gain: [R], all relevant passages, ranked best first within their query.
    """

    queries: int
    query: Ints
    rank: Ints
    gain: Floats
    ideal_query: Ints
    ideal_rank: Ints
    ideal_gain: Floats


def reciprocal_rank(found: Found, k: int) -> Floats:
    """[Q]: 1 / the rank of the first relevant passage, 0 where none stands among the first k."""
    best = np.full(found.queries, np.inf)
    top = found.rank <= k
    np.minimum.at(best, found.query[top], found.rank[top])
    return 1.0 / best


def recall(found: Found, k: int) -> Floats:
    """[Q]: relevant passages among the first k / all relevant passages."""
    hits = np.bincount(found.query[found.rank <= k], minlength=found.queries)
    relevant = np.bincount(found.ideal_query, minlength=found.queries)
    return hits / np.maximum(relevant, 1)


def ndcg(found: Found, k: int) -> Floats:
    """[Q]: sum of gain / log2(rank + 1) over the first k, divided by that of the best possible order.

    The gain is the relevance itself, as in trec_eval's ndcg_cut and ir_measures' nDCG@k, not 2^relevance - 1.
    """
    ideal = _discounted(found.ideal_query, found.ideal_rank, found.ideal_gain, k, found.queries)
    return _discounted(found.query, found.rank, found.gain, k, found.queries) / np.where(ideal > 0, ideal, 1.0)


def success(found: Found, k: int) -> Floats:
    """[Q]: 1 where a relevant passage stands among the first k, otherwise 0."""
    return (np.bincount(found.query[found.rank <= k], minlength=found.queries) > 0).astype(np.float64)


_MEASURES: dict[str, Callable[[Found, int], Floats]] = {
    "RR": reciprocal_rank,
    "R": recall,
    "nDCG": ndcg,
    "Success": success,
}
_OTHER_NAMES = {
    "mrr": "RR",
    "rr": "RR",
    "recall": "R",
    "r": "R",
    "ndcg": "nDCG",
    "success": "Success",
    "hit": "Success",
}


def evaluate(run: Iterable[Hit], qrels: Iterable[Judgement], measures: Sequence[str] = DEFAULT_MEASURES) -> Scores:
    """The measures of a run, per judged query, in the order in which the qrels first name the queries.

    A judged query without results, or without a relevant passage, counts as zero (as in trec_eval -c);
    queries of the run without judgements are ignored. `hit.rank` is taken as it stands, from 1.

    Raises UserError: unknown measure, no judgements, a pair judged twice, a rank below 1, or a passage or a
    rank that comes twice for a query (which would lift a measure above 1).
    """
    asked = [(name, *_parse(name)) for name in measures]
    relevant = relevant_by_query(qrels)
    found = _find(run, relevant)
    return Scores(tuple(relevant), {name: measure(found, k) for name, measure, k in asked})


def _parse(name: str) -> tuple[Callable[[Found, int], Floats], int]:
    match = re.fullmatch(r"([A-Za-z]+)@([1-9][0-9]{0,8})", name)
    if match and match[1] in _MEASURES:
        return _MEASURES[match[1]], int(match[2])
    known = [f"{family}@{match[2] if match else 10}" for family in _MEASURES]
    other = _OTHER_NAMES.get(match[1].lower()) if match else None
    hint = f" (did you mean '{other}@{match[2]}'?)" if match and other else nearest(name, known)
    raise UserError(f"unknown measure {name!r}{hint}; take {', '.join(_MEASURES)} with @ and a depth, as in RR@10")


def relevant_by_query(qrels: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """{query: {relevant passage: relevance}}; a query with none is there, with an empty dict."""
    relevant: dict[str, dict[str, int]] = {}
    seen: set[tuple[str, str]] = set()
    for judgement in qrels:
        pair = (judgement.query_id, judgement.passage_id)
        if pair in seen:
            raise UserError(f"qrels: {pair[0]} {pair[1]} is judged twice; keep one judgement")
        seen.add(pair)
        passages = relevant.setdefault(judgement.query_id, {})
        if judgement.relevance > 0:
            passages[judgement.passage_id] = judgement.relevance
    if not relevant:
        raise UserError("there are no judgements to measure against; give qrels with at least one line")
    return relevant


def _find(run: Iterable[Hit], relevant: dict[str, dict[str, int]]) -> Found:
    # Only relevant hits move a measure, a thousandth of a run: one lean pass drops the others.
    none: dict[str, int] = {}
    of_query = relevant.get
    hits = [hit for hit in run if hit.passage_id in of_query(hit.query_id, none)]
    _refuse_repeats(hits)
    position = {query_id: number for number, query_id in enumerate(relevant)}
    ideal = [
        (position[query_id], rank, gain)
        for query_id, passages in relevant.items()
        for rank, gain in enumerate(sorted(passages.values(), reverse=True), start=1)
    ]
    ideal_query, ideal_rank, ideal_gain = zip(*ideal, strict=True) if ideal else ((), (), ())
    return Found(
        queries=len(relevant),
        query=np.array([position[hit.query_id] for hit in hits], dtype=np.int64),
        rank=np.array([hit.rank for hit in hits], dtype=np.int64),
        gain=np.array([relevant[hit.query_id][hit.passage_id] for hit in hits], dtype=np.float64),
        ideal_query=np.array(ideal_query, dtype=np.int64),
        ideal_rank=np.array(ideal_rank, dtype=np.int64),
        ideal_gain=np.array(ideal_gain, dtype=np.float64),
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


def _discounted(query: Ints, rank: Ints, gain: Floats, k: int, queries: int) -> Floats:
    top = rank <= k
    sums = np.bincount(query[top], weights=gain[top] / np.log2(rank[top] + 1), minlength=queries)
    return sums.astype(np.float64)
