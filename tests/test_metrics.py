"""The measures by hand, against a plain loop, and against ir_measures."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation.metrics import Scores, evaluate
from colbertxm.evaluation.runs import rank_hits, write_qrels, write_run
from colbertxm.records import Hit, Judgement

ALL = ("RR@10", "R@100", "nDCG@10", "Success@5", "RR@3", "R@5", "nDCG@3")


def test_by_hand() -> None:
    run = [Hit("a", passage, rank, 10.0 - rank) for rank, passage in enumerate("xpqyr", start=1)]
    qrels = [Judgement("a", "p", 1), Judgement("a", "r", 3), Judgement("a", "s", 2), Judgement("a", "x", 0)]
    scores = evaluate(run, qrels, ("RR@10", "RR@1", "R@2", "R@100", "nDCG@10", "nDCG@2", "Success@1", "Success@2"))
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    expected = {
        "RR@10": 1 / 2,
        "RR@1": 0.0,
        "R@2": 1 / 3,
        "R@100": 2 / 3,
        "nDCG@10": (1 / math.log2(3) + 3 / math.log2(6)) / ideal,
        "nDCG@2": (1 / math.log2(3)) / (3 / math.log2(2) + 2 / math.log2(3)),
        "Success@1": 0.0,
        "Success@2": 1.0,
    }
    assert {name: scores.mean(name) for name in expected} == pytest.approx(expected)


def test_which_queries_count() -> None:
    qrels = [Judgement("none found", "p", 1), Judgement("none relevant", "p", 0), Judgement("found", "p", 1)]
    run = [Hit("found", "p", 1, 1.0), Hit("none relevant", "p", 1, 1.0), Hit("not judged", "p", 1, 1.0)]
    scores = evaluate(run, qrels, ALL)
    assert scores.query_ids == ("none found", "none relevant", "found")
    for name in ALL:
        assert scores.values[name].dtype == np.float64
        assert scores.values[name].tolist() == [0.0, 0.0, 1.0]
        assert scores.mean(name) == pytest.approx(1 / 3)


def test_no_results_at_all() -> None:
    assert evaluate([], [Judgement("q", "p", 1)], ALL).mean("nDCG@10") == 0.0
    assert evaluate([], [Judgement("q", "p", 0)], ALL).mean("R@100") == 0.0


def test_the_order_of_the_lines_does_not_matter_and_ties_stand_in_rank_order() -> None:
    """MS MARCO's script reads ranks; trec_eval would put `z` first and ir_measures `a`."""
    run = [Hit("q", "m", 1, 5.0), Hit("q", "z", 2, 5.0), Hit("q", "a", 3, 5.0)]
    for relevant, rank in (("m", 1), ("z", 2), ("a", 3)):
        for order in itertools.permutations(run):
            assert evaluate(order, [Judgement("q", relevant, 1)]).mean("RR@10") == pytest.approx(1 / rank)


def plain(run: list[Hit], qrels: list[Judgement], family: str, k: int) -> list[float]:
    """The slow reference: a loop over queries and ranks."""
    out = []
    for query in dict.fromkeys(judgement.query_id for judgement in qrels):
        gains = {j.passage_id: max(j.relevance, 0) for j in qrels if j.query_id == query}
        top = sorted((hit for hit in run if hit.query_id == query), key=lambda hit: hit.rank)[:k]
        found = [gains.get(hit.passage_id, 0) for hit in top]
        relevant = sum(gain > 0 for gain in gains.values())
        if family == "RR":
            out.append(next((1 / rank for rank, gain in enumerate(found, 1) if gain), 0.0))
        elif family == "R":
            out.append(sum(gain > 0 for gain in found) / relevant if relevant else 0.0)
        elif family == "Success":
            out.append(float(any(found)))
        else:
            best = sorted(gains.values(), reverse=True)[:k]
            ideal = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(best, 1))
            actual = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(found, 1))
            out.append(actual / ideal if ideal else 0.0)
    return out


def random_case(seed: int, grades: tuple[int, ...]) -> tuple[list[Hit], list[Judgement]]:
    rng = np.random.default_rng(seed)
    run: list[Hit] = []
    qrels: list[Judgement] = []
    for query in range(12):
        found = rng.permutation(60)[: rng.integers(0, 50)]
        run += rank_hits(f"q{query}", [f"p{number}" for number in found], np.sort(rng.normal(size=len(found)))[::-1])
        judged = rng.permutation(60)[: rng.integers(1, 20)]
        qrels += [Judgement(f"q{query + 2}", f"p{number}", int(rng.choice(grades))) for number in judged]
    return run, qrels


GRADES = [(1,), (0, 1), (0, 1, 2, 3), (-1, 0, 2)]


@pytest.mark.parametrize("grades", GRADES)
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_plain_loop(seed: int, grades: tuple[int, ...]) -> None:
    run, qrels = random_case(seed, grades)
    scores = evaluate(run, qrels, ALL)
    for name in ALL:
        family, k = name.split("@")
        np.testing.assert_allclose(scores.values[name], plain(run, qrels, family, int(k)), atol=1e-12)


@pytest.mark.parametrize("grades", GRADES[:3])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_ir_measures(seed: int, grades: tuple[int, ...]) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    run, qrels = random_case(seed, grades)
    names = ("RR@10", "R@100", "nDCG@10", "Success@5", "nDCG@3", "R@5")
    measures = {ir_measures.parse_measure(name): name for name in names}
    theirs: dict[str, dict[str, float]] = {name: {} for name in names}
    for line in ir_measures.iter_calc(
        list(measures),
        [ir_measures.Qrel(j.query_id, j.passage_id, j.relevance) for j in qrels],
        [ir_measures.ScoredDoc(hit.query_id, hit.passage_id, hit.score) for hit in run],
    ):
        theirs[measures[line.measure]][line.query_id] = line.value
    scores = evaluate(run, qrels, names)
    for name in names:
        ours = dict(zip(scores.query_ids, scores.values[name].tolist(), strict=True))
        assert ours == pytest.approx(theirs[name], abs=1e-9), name


def test_a_tied_run_means_the_same_to_every_tool_once_written(tmp_path: Path) -> None:
    """Scores of three values only: the tools would disagree, had `rank_hits` not parted the ties."""
    ir_measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    run: list[Hit] = []
    for query in range(40):
        ids = [f"p{number}" for number in rng.permutation(30)]
        run += rank_hits(f"q{query}", ids, np.sort(rng.integers(0, 3, size=30))[::-1])
    qrels = [Judgement(f"q{query}", f"p{number}", 1) for query in range(40) for number in (3, 7)]
    write_run(tmp_path / "run.trec", run, "tied")
    write_qrels(tmp_path / "qrels.txt", qrels)
    names = ("RR@10", "R@5", "nDCG@10")
    theirs = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in names],
        ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")),
        ir_measures.read_trec_run(str(tmp_path / "run.trec")),
    )
    scores = evaluate(run, qrels, names)
    assert {str(name): value for name, value in theirs.items()} == pytest.approx(
        {name: scores.mean(name) for name in names}
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MRR@10", "'RR@10'"),
        ("ndcg@20", "'nDCG@20'"),
        ("Recall@100", "'R@100'"),
        ("nDCG10", "'nDCG@10'"),
        ("R@0", ""),
    ],
)
def test_an_unknown_measure_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"unknown measure '{name}'.*{hint}"):
        evaluate([], [Judgement("q", "p", 1)], (name,))


def test_what_would_make_measures_wrong_is_refused() -> None:
    judged = [Judgement("q", "p", 1), Judgement("q", "r", 1)]
    with pytest.raises(UserError, match="no judgements"):
        evaluate([Hit("q", "p", 1, 1.0)], [])
    with pytest.raises(UserError, match="judged twice"):
        evaluate([], [*judged, Judgement("q", "p", 0)])
    with pytest.raises(UserError, match="rank 0"):
        evaluate([Hit("q", "p", 0, 1.0)], judged)
    with pytest.raises(UserError, match="passage p comes twice"):
        evaluate([Hit("q", "p", 1, 1.0), Hit("q", "p", 2, 0.5)], judged)
    with pytest.raises(UserError, match="rank 1 comes twice"):
        evaluate([Hit("q", "p", 1, 1.0), Hit("q", "r", 1, 0.5)], judged)


def test_the_mean_of_what_was_not_measured() -> None:
    with pytest.raises(UserError, match=r"did you mean 'RR@10'"):
        Scores(("q",), {"RR@10": np.ones(1)}).mean("RR@100")


def test_fast_enough_for_ms_marco() -> None:
    """A tenth of MS MARCO's 6,980 queries at depth 1,000, in a tenth of six seconds; it takes about 0.13."""
    hits = [Hit(str(query), str(rank * 7), rank, -rank) for query in range(698) for rank in range(1, 1001)]
    qrels = [Judgement(str(query), str(query * 7), 1) for query in range(698)]
    start = time.process_time()
    scores = evaluate(hits, qrels)
    assert time.process_time() - start < 0.6
    assert scores.values["RR@10"][:12].tolist() == [0.0, *(1 / rank for rank in range(1, 11)), 0.0]
