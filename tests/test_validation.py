"""Validation in small pools: figures against plain loops, torchmetrics' traps, and the same figures on every rank."""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from colbertxm.data.collection import Collection
from colbertxm.engine.exact import ExactEngine
from colbertxm.evaluation.metrics import evaluate
from colbertxm.evaluation.runs import rank_hits
from colbertxm.model.encoder import Vectors
from colbertxm.records import Hit, Judgement, Text
from colbertxm.training.validation import (
    Relevance,
    Validated,
    figure_names,
    rerank_figures,
    validate,
    wrong_rankings,
)

LN2 = 0.6931471805599453


def pool(queries: int = 12, passages: int = 40, seed: int = 0, grades: int = 2) -> Collection:
    rng = random.Random(seed)
    texts = tuple(Text(f"p{i}", f"passage {i}", "de") for i in range(passages))
    asked = tuple(Text(f"q{i}", f"query {i}", "en") for i in range(queries))
    judged = tuple(
        Judgement(q.id, texts[n].id, rng.randint(0, grades)) for q in asked for n in rng.sample(range(passages), 3)
    )
    return Collection("pool", "en", "de", asked, texts, judged)


class Searcher:
    """A retriever whose vectors are a pure function of the text, two a text; all scores are below zero."""

    def __init__(self, same: bool = False) -> None:
        self.same = same
        self.engine: ExactEngine | None = None

    def vector(self, text: str) -> torch.Tensor:
        seed = 0 if self.same else sum(map(ord, text)) * 7919 % 100_003
        found = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed)) + 0.1
        return -found if text.startswith("query") else found

    def encode(self, texts: Any, kind: str) -> Vectors:
        return Vectors.of([self.vector(text.text) for text in texts], 4)

    def add(self, passages: Any) -> None:
        found = self.encode(passages, "passage")
        self.engine = ExactEngine(found.values, found.offsets, [p.id for p in passages], [p.lang for p in passages])

    def run(self, collection: Collection) -> list[Hit]:
        self.add(collection.passages)
        assert self.engine is not None
        hits = self.engine.search(self.vectors(collection), 10)
        asked = zip(collection.queries, hits, strict=True)
        return [hit for query, (ids, scores) in asked for hit in rank_hits(query.id, ids, scores)]

    def vectors(self, collection: Collection) -> list[torch.Tensor]:
        return [self.vector(query.text) for query in collection.queries]


def judged(collection: Collection) -> Relevance:
    found: Relevance = {}
    for j in collection.judgements:
        found.setdefault(j.query_id, {})[j.passage_id] = j.relevance
    return found


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_our_own_measures_with_scores_below_zero(seed: int) -> None:
    """The traps: with raw scores torchmetrics takes every one of these candidates for not retrieved."""
    collection = pool(seed=seed)
    retriever: Any = Searcher()
    found = validate(retriever, collection)
    hits = retriever.run(collection)
    assert max(hit.score for hit in hits) < 0 and not found.wrong
    expected = evaluate(hits, collection.judgements, ("RR@10", "nDCG@10"))
    assert found.figures["mrr@10"] == expected.mean("RR@10")
    assert found.figures["rerank_mrr@10"] == pytest.approx(expected.mean("RR@10"), abs=1e-6)
    assert found.figures["rerank_ndcg@10"] == pytest.approx(expected.mean("nDCG@10"), abs=1e-6)
    assert 0 < found.figures["mrr@10"] < 1


def test_ties_stand_in_the_order_of_the_passages_every_time() -> None:
    collection = pool()
    retriever: Any = Searcher(same=True)
    first = validate(retriever, collection, wrong=4)
    assert all(validate(retriever, collection, wrong=4) == first for _ in range(5))
    places = {q.id: [int(j.passage_id[1:]) for j in collection.judgements if j.query_id == q.id and j.relevance] for q
              in collection.queries}  # fmt: skip
    by_hand = sum(max((1 / (n + 1) for n in found if n < 10), default=0) for found in places.values()) / len(places)
    assert first.figures["rerank_mrr@10"] == pytest.approx(by_hand, abs=1e-6)
    assert all(row["rank"] == int(row["expected"].split()[1]) + 1 for row in first.wrong) and first.wrong


def test_missing_positives_count_in_the_ideal_order() -> None:
    """One hit of two positives: without the other one appended, nDCG would be 1."""
    hits = [Hit("q", "a", 1, 5.0), Hit("q", "x", 2, 4.0)]
    mrr, ndcg = rerank_figures(hits, {"q": {"a": 1, "b": 1}})
    at_3 = LN2 / torch.tensor(4.0).log().item()  # appended behind x, in third place
    at_2 = LN2 / torch.tensor(3.0).log().item()
    assert mrr == 1.0 and ndcg == pytest.approx((1 + at_3) / (1 + at_2), abs=1e-6)
    assert rerank_figures(hits, {"q": {"a": 0}}) == (0.0, 0.0)


def test_a_query_without_answers_or_hits_counts_as_zero() -> None:
    hits = [Hit("q", "a", 1, 5.0), Hit("unjudged", "a", 1, 5.0)]
    both: Relevance = {"q": {"a": 1}, "none": {"b": 0}}
    assert rerank_figures(hits, both)[0] == pytest.approx(0.5)


def test_wrong_rankings_name_the_best_answer_and_its_rank_in_the_whole_pool() -> None:
    collection = pool(queries=9, passages=60)
    retriever: Any = Searcher()
    hits = retriever.run(collection)
    rows = wrong_rankings(retriever.engine, retriever.vectors(collection), collection, hits, judged(collection), 100)
    right = 0
    for query in collection.queries:
        order = sorted(
            ((float((retriever.vector(query.text) @ retriever.vector(p.text).T).amax(1).sum()), p)
             for p in collection.passages), key=lambda pair: -pair[0],
        )  # fmt: skip
        answers = {j.passage_id for j in collection.judgements if j.query_id == query.id and j.relevance}
        if not answers or order[0][1].id in answers:
            right += 1
            assert all(row["query"] != query.text for row in rows)
            continue
        (row,) = (row for row in rows if row["query"] == query.text)
        rank = next(n for n, (_, p) in enumerate(order, 1) if p.id in answers)
        assert (row["rank"], row["expected"], row["got"]) == (rank, order[rank - 1][1].text, order[0][1].text)
        assert row["score"] == pytest.approx(order[rank - 1][0], abs=1e-3)
        assert row["got_score"] == pytest.approx(order[0][0], abs=1e-3) and row["pool"] == "en-de"
    assert len(rows) == 9 - right and any(row["rank"] > 10 for row in rows)
    few = wrong_rankings(retriever.engine, retriever.vectors(collection), collection, hits, judged(collection), 3)
    assert len(few) == 3 and all(row in rows for row in few)


def test_names_are_known_before_the_first_validation() -> None:
    pools = [pool(), dataclasses.replace(pool(), query_lang="fr"), pool(seed=1)]
    names = figure_names(pools)
    assert names[:3] == ["val/mrr@10", "val/rerank_mrr@10", "val/rerank_ndcg@10"] and len(names) == len(set(names)) == 9
    logged = {f"val/{name}/en-de" for name in validate(Searcher(), pools[0]).figures}  # type: ignore[arg-type]
    assert logged <= set(names)


def work(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found: Validated = validate(Searcher(), pool(), wrong=4)  # type: ignore[arg-type]
    torch.save({"figures": found.figures, "wrong": len(found.wrong)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_every_rank_has_the_figures_of_one_process(tmp_path: Path) -> None:
    """torchmetrics would gather all ranks' candidates into lists that hold each of them twice."""
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    alone = validate(Searcher(), pool(), wrong=4)  # type: ignore[arg-type]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found == {"figures": alone.figures, "wrong": len(alone.wrong)}
