"""Every measure by hand and against ir_measures and pytrec_eval, on runs in hits and in columns, ties included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation import columns
from colbertxm.evaluation.columns import Run
from colbertxm.evaluation.measures import is_measure, parse_measures
from colbertxm.evaluation.metrics import evaluate
from colbertxm.evaluation.runs import load_run, rank_hits
from colbertxm.records import Hit, Judgement

NAMES = (
    "RR RR@10 R@5 R@100 nDCG nDCG@10 AP AP@7 P@1 P@5 P@100 Rprec Success@3 Judged@10 Judged "
    "RR(rel=2) RR(rel=2)@10 AP(rel=2) AP(rel=2)@7 P(rel=2)@5 R(rel=2)@100 Rprec(rel=2) Success(rel=2)@3"
).split()
GRADES = [(1,), (0, 1), (0, 1, 2, 3), (-2, -1, 0, 2)]


def case(seed: int, grades: tuple[int, ...], levels: int = 0) -> tuple[list[Hit], list[Judgement]]:
    """A random run whose scores take so many values (0: all differ) and judgements; some queries on one side only."""
    rng = np.random.default_rng(seed)
    run: list[Hit] = []
    qrels: list[Judgement] = []
    for query in range(10):
        ids = [f"p{number}" for number in rng.permutation(60)[: rng.integers(0, 50)]]
        if levels:
            scores = np.sort(rng.integers(0, levels, len(ids)))[::-1] / 3
            run += [Hit(f"q{query}", p, r, s) for r, (p, s) in enumerate(zip(ids, scores.tolist(), strict=True), 1)]
        else:
            run += rank_hits(f"q{query}", ids, np.sort(rng.normal(size=len(ids)))[::-1])
        judged = rng.permutation(60)[: rng.integers(1, 20)]
        qrels += [Judgement(f"q{query + 2}", f"p{number}", int(rng.choice(grades))) for number in judged]
    return run, qrels


def test_by_hand() -> None:
    run = [Hit("a", passage, rank, 10.0 - rank) for rank, passage in enumerate("xpqyr", start=1)]
    qrels = [Judgement("a", "p", 1), Judgement("a", "r", 3), Judgement("a", "s", 2), Judgement("a", "x", 0)]
    expected = {
        "AP": (1 / 2 + 2 / 5) / 3,
        "AP@4": (1 / 2) / 3,
        "AP(rel=3)": 1 / 5,
        "P@2": 1 / 2,
        "P@10": 2 / 10,
        "P(rel=2)@5": 1 / 5,
        "Rprec": 1 / 3,
        "RR(rel=2)": 1 / 5,
        "RR(rel=2)@4": 0.0,
        "R(rel=2)@5": 1 / 2,
        "Success(rel=4)@5": 0.0,
        "Judged@2": 1.0,
        "Judged@10": 3 / 5,
    }
    scores = evaluate(run, qrels, tuple(expected))
    assert {name: scores.mean(name) for name in expected} == pytest.approx(expected)


def theirs(names: list[str], run: list[Hit], qrels: list[Judgement]) -> dict[str, dict[str, float]]:
    ir_measures = pytest.importorskip("ir_measures")
    measures = {ir_measures.parse_measure(name): name for name in names}
    values: dict[str, dict[str, float]] = {name: {} for name in names}
    for line in ir_measures.iter_calc(
        list(measures),
        [ir_measures.Qrel(j.query_id, j.passage_id, j.relevance) for j in qrels],
        [ir_measures.ScoredDoc(hit.query_id, hit.passage_id, hit.score) for hit in run],
    ):
        values[measures[line.measure]][line.query_id] = line.value
    return values


@pytest.mark.parametrize("grades", GRADES)
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_ir_measures_in_hits_and_in_columns(seed: int, grades: tuple[int, ...]) -> None:
    run, qrels = case(seed, grades)
    expected = theirs(NAMES, run, qrels)
    in_hits, in_columns = evaluate(iter(run), qrels, NAMES), evaluate(Run.of(run), qrels, NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(in_hits.values[name], in_columns.values[name], name)
        ours = dict(zip(in_hits.query_ids, in_hits.values[name].tolist(), strict=True))
        # Judged leaves queries without results out; ours are 0, as everywhere.
        assert ours == pytest.approx(dict.fromkeys(ours, 0.0) | expected[name], abs=1e-9), name


@pytest.mark.parametrize("levels", [1, 3, 10])
@pytest.mark.parametrize("grades", GRADES)
def test_tied_runs_have_trec_evals_figures(tmp_path: Path, grades: tuple[int, ...], levels: int) -> None:
    """From a file full of ties, in pytrec_eval's own words, and per query."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    run, qrels = case(7, grades, levels)
    lines = [f"{hit.query_id} Q0 {hit.passage_id} {hit.rank} {hit.score!r} t\n" for hit in run]
    (tmp_path / "run").write_text("".join(lines))
    tied = load_run(tmp_path / "run", ties="trec")
    assert tied.tied().sum() == sum(a[0] == b[0] and a[3] == b[3] for a, b in zip(run, run[1:], strict=False)) > 50
    ours = {"recip_rank": "RR", "map": "AP", "ndcg_cut_10": "nDCG@10", "recall_5": "R@5", "Rprec": "Rprec"}
    ours |= {"P_5": "P@5", "success_5": "Success@5", "map_cut_10": "AP@10", "ndcg": "nDCG"}
    by_query: dict[str, dict[str, dict[str, float]]] = {"run": {}, "qrels": {}}
    for hit in run:
        by_query["run"].setdefault(hit.query_id, {})[hit.passage_id] = hit.score
    for j in qrels:
        by_query["qrels"].setdefault(j.query_id, {})[j.passage_id] = j.relevance
    expected = pytrec_eval.RelevanceEvaluator(by_query["qrels"], set(ours)).evaluate(by_query["run"])
    scores = evaluate(tied, qrels, tuple(ours.values()))
    for their, our in ours.items():
        got = dict(zip(scores.query_ids, scores.values[our].tolist(), strict=True))
        assert got == pytest.approx({query: expected.get(query, {}).get(their, 0.0) for query in got}, abs=1e-9), our
    if len(grades) > 1:
        assert evaluate(run, qrels, ("nDCG@10",)).mean("nDCG@10") != pytest.approx(scores.mean("nDCG@10"), abs=1e-9)


def test_tied_runs_and_ir_measures_own_rules() -> None:
    """It breaks ties by id, descending for what pytrec_eval computes, ascending for RR@k and Judged@k: both orders
    are given as ranks here."""
    run, qrels = case(3, (0, 1), 3)
    names = ["nDCG@10", "AP", "P@5", "R@5", "RR", "Rprec", "Success@5"]
    ascending = sorted(run, key=lambda hit: (hit.query_id, -hit.score, hit.passage_id))
    ranked: list[Hit] = []
    for hit in ascending:
        ranked.append(
            hit._replace(rank=1 if not ranked or ranked[-1].query_id != hit.query_id else ranked[-1].rank + 1)
        )
    for wanted, order in ((names, Run.of(run).as_trec_eval()), (["RR@10", "Judged@10"], ranked)):
        expected, scores = theirs(wanted, run, qrels), evaluate(order, qrels, wanted)
        for name in wanted:
            ours = dict(zip(scores.query_ids, scores.values[name].tolist(), strict=True))
            assert ours == pytest.approx(dict.fromkeys(ours, 0.0) | expected[name], abs=1e-9), name


def test_trec_evals_order_is_that_of_bytes_in_float32() -> None:
    """Scores that differ beyond float32 are equal to it; long ids that differ in the last byte alone; UTF-8."""
    long = "x" * 17
    ids = [f"{long}a", f"{long}b", long, "水", "é", "zz", "z"]
    hits = [Hit("q", name, rank, 1.0 + 1e-12 * rank) for rank, name in enumerate(ids, 1)] + [Hit("q", "top", 8, 2.0)]
    order = [hit.passage_id for hit in Run.of([*hits, Hit("r", "only", 1, 5.0)]).as_trec_eval()]
    assert order == ["top", *sorted(ids, key=str.encode, reverse=True), "only"]


def test_a_run_in_columns_is_the_same_hits() -> None:
    run, _ = case(1, (1,))
    assert list(Run.of(run)) == run
    assert len(Run.of([])) == 0 and list(Run.of([])) == []
    mingled = [Hit("a", "y", 2, 1.0), Hit("b", "水" * 5, 1, 4.0), Hit("a", "x", 1, 3.0)]
    assert list(Run.of(mingled)) == [mingled[2], mingled[0], mingled[1]]


def test_hashes_that_collide_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run, qrels = case(2, (0, 1, 2))
    expected = evaluate(Run.of(run), qrels, NAMES)
    monkeypatch.setattr(columns, "keys", lambda ids, query: np.full(len(ids), 5, np.uint64))
    scores = evaluate(Run.of(run), qrels, NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(scores.values[name], expected.values[name])


def test_a_passage_twice_in_columns_is_refused() -> None:
    twice = Run.of([Hit("q", "p", 1, 2.0), Hit("q", "p", 2, 1.0)])
    with pytest.raises(UserError, match="passage p comes twice"):
        evaluate(twice, [Judgement("q", "p", 1)])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MRR", "'RR'"),
        ("MAP", "'AP'"),
        ("map@100", "'AP@100'"),
        ("precision@5", "'P@5'"),
        ("P", "'P@10'"),
        ("Rprec@5", "'Rprec'"),
        ("nDCG(rel=2)@10", "takes every grade as it is: did you mean 'nDCG@10'"),
        ("Judge@10", "'Judged@10'"),
        ("RR@10(rel=2)", ""),
        ("AP(rel=0)", ""),
        ("recip_rank", "'RR'"),
    ],
)
def test_what_is_no_measure_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match="measure") as raised:
        parse_measures(name)
    assert name in str(raised.value) and hint in str(raised.value)


def test_measures_in_one_text() -> None:
    assert parse_measures("RR@10 nDCG@10, AP(rel=2)@100 RR@10") == ("RR@10", "nDCG@10", "AP(rel=2)@100")
    with pytest.raises(UserError, match="no measure named"):
        parse_measures(" ")
    assert all(map(is_measure, NAMES)) and not any(map(is_measure, ("queries", "low", "model", "RR@10 low")))
