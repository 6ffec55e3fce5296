"""Retrieval validation while training: exact search in small pools of the development split, several languages.

Figures, each per pool (`val/mrr@10/de-en`: German queries, English passages) and as the mean over pools (`val/mrr@10`):

    mrr@10          exact search over the whole pool, our own measure: what to steer by
    rerank_mrr@10   torchmetrics on a candidate list: the hits of that search with the missing positives appended
    rerank_ndcg@10  the same, with the judgements' grades as gains

The pools are small, so all three are guides and no results: `colbertxm evaluate` measures whole collections.

Every rank searches every pool. Weights are the same on all ranks and so are the figures then, without a collective
that a slow or failed rank could leave the others waiting in; and a sharded model, whose layers are gathered in every
forward pass, needs all ranks to encode the same batches anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG

from colbertxm.data.collection import Collection
from colbertxm.engine.exact import ExactEngine
from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.metrics import evaluate, relevant_by_query
from colbertxm.evaluation.runs import rank_hits
from colbertxm.records import Hit
from colbertxm.retriever import Retriever

DEPTH = 10
WRONG_A_POOL = 4
"""Queries in the table of wrong rankings."""
FIGURES = ("mrr@10", "rerank_mrr@10", "rerank_ndcg@10")

Relevance = dict[str, dict[str, int]]
"""{query id: {relevant passage id: relevance}}, judged queries only."""


@dataclass(frozen=True)
class Validated:
    """What one pool's search found: `figures` by name, and a row for each sampled query whose first hit is wrong."""

    figures: dict[str, float]
    wrong: list[dict[str, Any]]


def pool_name(pool: Collection) -> str:
    """The pool's end of a figure's name."""
    return f"{pool.query_lang}-{pool.passage_lang}"


def figure_names(pools: Sequence[Collection]) -> list[str]:
    """All that a validation on `pools` logs: means first."""
    ends = dict.fromkeys(pool_name(pool) for pool in pools)
    return [f"val/{name}" for name in FIGURES] + [f"val/{name}/{end}" for name in FIGURES for end in ends]


def validate(retriever: Retriever, pool: Collection, wrong: int = 0) -> Validated:
    """Search `pool` exhaustively and measure; look at up to `wrong` queries whose first hit does not answer them."""
    retriever.add(pool.passages)
    vectors = retriever.encode(pool.queries, "query")
    queries = [vectors[i] for i in range(len(pool.queries))]
    assert retriever.engine is not None  # `add` has made it
    found = retriever.engine.search(queries, DEPTH)
    hits = [hit for q, (ids, scores) in zip(pool.queries, found, strict=True) for hit in rank_hits(q.id, ids, scores)]
    relevance = relevant_by_query(pool.judgements)
    exact = evaluate(hits, pool.judgements, ("RR@10",)).mean("RR@10")
    figures = dict(zip(FIGURES, (exact, *rerank_figures(hits, relevance)), strict=True))
    assert isinstance(retriever.engine, ExactEngine)  # of what was added, not of an opened index
    return Validated(figures, wrong_rankings(retriever.engine, queries, pool, hits, relevance, wrong) if wrong else [])


def rerank_figures(hits: Sequence[Hit], relevance: Relevance) -> tuple[float, float]:
    """torchmetrics' MRR@10 and nDCG@10 over the judged queries' hits, the positives that are not among them appended.

    A candidate's score is 1 / its place in the list: torchmetrics takes scores of 0 or less as not retrieved and
    breaks ties at random, and what it measures depends on the order alone.
    """
    lists: dict[str, list[str]] = {query_id: [] for query_id in relevance}
    for hit in sorted(hits, key=lambda hit: hit.rank):
        if hit.query_id in lists:
            lists[hit.query_id].append(hit.passage_id)
    scores, grades, owners = [], [], []
    for number, (query_id, found) in enumerate(lists.items()):
        judged, there = relevance[query_id], set(found)
        candidates = found + [p for p, grade in judged.items() if grade > 0 and p not in there]
        candidates = candidates or [""]  # without one torchmetrics would leave the query out of the mean
        scores += [1 / place for place in range(1, len(candidates) + 1)]
        grades += [judged.get(passage_id, 0) for passage_id in candidates]
        owners += [number] * len(candidates)
    gains, places, rows = torch.tensor(grades), torch.tensor(scores), torch.tensor(owners)
    # Each rank holds all lists: synchronised, the same candidates would stand in them once for every rank.
    mrr = RetrievalMRR(top_k=DEPTH, sync_on_compute=False)
    ndcg = RetrievalNormalizedDCG(top_k=DEPTH, sync_on_compute=False)
    mrr.update(places, gains > 0, rows)
    ndcg.update(places, gains, rows)
    return float(mrr.compute()), float(ndcg.compute())


def wrong_rankings(
    engine: ExactEngine,
    queries: Sequence[Tensor],
    pool: Collection,
    hits: Sequence[Hit],
    relevance: Relevance,
    count: int,
) -> list[dict[str, Any]]:
    """Up to `count` queries, evenly spread over those whose first hit is wrong: the passage that answers (the best
    ranked one), its rank in the whole pool, the passage that came first, and both scores. `engine` has the pool, and
    `queries` their vectors: nothing is encoded here, since one rank alone does this, the one with a logger."""
    first = {hit.query_id: hit for hit in hits if hit.rank == 1}
    missed = [i for i, q in enumerate(pool.queries) if _missed(relevance.get(q.id, {}), first.get(q.id))]
    sample = [missed[i * len(missed) // count] for i in range(count)] if len(missed) > count else missed
    if not sample:
        return []
    scores_BN = engine.score_all([queries[i] for i in sample])
    place = {passage.id: n for n, passage in enumerate(pool.passages)}
    rows = []
    for query, scores_N in zip((pool.queries[i] for i in sample), scores_BN, strict=True):
        answers = [place[p] for p, grade in relevance[query.id].items() if grade > 0 and p in place]
        if not answers:
            continue
        expected = max(answers, key=lambda n: (float(scores_N[n]), -n))
        got = place[first[query.id].passage_id]
        rows.append(
            {
                "pool": pool_name(pool),
                "query": query.text,
                "expected": pool.passages[expected].text,
                "rank": _rank(scores_N, expected),
                "score": round(float(scores_N[expected]), 4),
                "got": pool.passages[got].text,
                "got_score": round(float(scores_N[got]), 4),
            }
        )
    return rows


def check_monitor(monitor: str | None, patience: int | None, pools: Sequence[Collection], validates: bool) -> None:
    """Refuse, before anything is computed, a figure that no validation of this run will log."""
    if monitor is None:
        if patience is not None:
            raise UserError(f"trainer.patience={patience} needs a figure: set trainer.monitor, such as val/mrr@10")
        return
    if patience is not None and patience < 1:
        raise UserError(f"trainer.patience={patience} must be 1 or more validations, or null for never")
    if not pools or not validates:
        raise UserError(
            f"trainer.monitor={monitor} needs validations: give development pools (data.val_...) and a "
            f"trainer.val_every between 1 and trainer.steps, or set trainer.monitor=null"
        )
    names = figure_names(pools)
    if monitor not in names:
        raise UserError(f"trainer.monitor={monitor!r} is never logged{nearest(monitor, names)}: {', '.join(names)}")


def _missed(judged: dict[str, int], hit: Hit | None) -> bool:
    return any(judged.values()) and hit is not None and not judged.get(hit.passage_id)


def _rank(scores_N: Tensor, n: int) -> int:
    """From 1; equal scores rank in the passages' order, as in the engine."""
    return 1 + int((scores_N > scores_N[n]).sum()) + int((scores_N[:n] == scores_N[n]).sum())
