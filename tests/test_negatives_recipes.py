"""Pools, the paper's rounds, n-way rows and mining by search, each against a slow plain form or by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from colbertxm.data.negatives import Ranked, mine, mine_bm25, mine_with
from colbertxm.data.negatives_nway import n_way, top, uniform
from colbertxm.data.negatives_paper import paper_rounds, paper_samples
from colbertxm.data.negatives_pools import (
    Entry,
    Pools,
    by_score,
    denoise,
    numbered,
    pool_systems,
    same_text,
    without_answers,
)
from colbertxm.data.negatives_rows import Sample, save_samples
from colbertxm.errors import UserError
from colbertxm.records import Text

SYSTEMS = ("bm25", "tas-b", "mpnet")


def made_up(seed: int, count: int = 60) -> tuple[list[Entry], dict[tuple[int, int], float]]:
    """Entries as in msmarco-hard-negatives.jsonl: some without positives, some with several, lists that overlap."""
    rng = random.Random(seed)
    entries: list[Entry] = []
    scores = {}
    for query in range(1000, 1000 + count):
        positives = rng.sample(range(50, 90), rng.choice([0, 1, 1, 1, 2, 3]))
        lists = {name: rng.sample(range(100_000, 100_060), rng.randrange(12)) for name in SYSTEMS}
        entries.append((query, positives, lists))
        for passage in [*positives, *(p for ids in lists.values() for p in ids)]:
            # a low step between scores, so that some lie on the margin itself
            scores[query, passage] = rng.randrange(-8, 9) / 2 + (4.0 if passage in positives else 0)
    return entries, scores


def lookup(scores: dict[tuple[int, int], float]):  # type: ignore[no-untyped-def]
    return lambda qs, ps: np.array([scores.get((int(q), int(p)), np.nan) for q, p in zip(qs, ps, strict=True)])


def paper_plainly(
    entries: Sequence[Entry], scores: dict[tuple[int, int], float], rounds: int, k: int
) -> list[list[tuple[int, float]]]:
    """The recipe in words: seed, one choice, one sample, in the file's order."""
    rows = []
    for number in range(rounds):
        random.seed(42 + number)
        for query, positives, lists in entries:
            if not positives:
                continue
            limit = min(scores[query, p] for p in positives) - 3.0
            positive = random.choice(positives)
            pooled = [p for ids in lists.values() for p in ids]
            fit = [p for p in list(set(pooled)) if scores[query, p] <= limit]
            drawn = random.sample(fit, min(k, len(fit)))
            if len(drawn) == k:
                rows.append([(query, 0.0), *((p, scores[query, p]) for p in [positive, *drawn])])
    return rows


def joined(samples: Sequence[Sample]) -> Sample:
    rows, scores = (np.concatenate([getattr(s, name) for s in samples]) for name in ("rows", "scores"))
    return Sample(rows, scores, sum(s.left_out for s in samples))


def test_records_with_written_ids_become_entries() -> None:
    record = SimpleNamespace(query_id="7", positives=("1",), negatives={"bm25": ("30", "2")})
    assert list(numbered([record])) == [(7, [1], {"bm25": [30, 2]})]
    with pytest.raises(UserError, match="query 7: an id is no number .*'D2'"):
        list(numbered([SimpleNamespace(query_id="7", positives=("D2",), negatives={})]))


@pytest.mark.parametrize(("seed", "k"), [(1, 1), (2, 1), (3, 2), (4, 5)])
def test_the_papers_rounds_draw_what_pythons_random_draws(seed: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbertxm.data.negatives_paper.BLOCK", 7)
    monkeypatch.setattr("colbertxm.data.negatives_pools.BLOCK", 11)
    entries, scores = made_up(seed)
    pools = pool_systems(entries, lookup(scores), margin=3.0)
    found = joined(list(paper_samples(pools, rounds=4, negatives=k)))
    expected = paper_plainly(entries, scores, 4, k)
    assert found.rows.tolist() == [[id_ for id_, _ in row] for row in expected]
    assert found.scores.tolist() == [[score for _, score in row[1:]] for row in expected]
    assert found.rows.dtype == np.int32 and len(expected) + found.left_out == 4 * len(pools)
    assert len(expected) > 0 and (found.left_out or k == 1)


def test_the_paper_needs_51_rounds() -> None:
    assert paper_rounds(200_000, 128) == 51
    assert paper_rounds(3, 10, queries=10) == 3
    with pytest.raises(UserError, match="rounds=0"):
        next(paper_samples(pool_systems(*_small()), rounds=0))


def _small() -> tuple[list[Entry], object]:  # type: ignore[type-arg]
    scores = {(7, 1): 5.0, (7, 2): 2.0, (7, 3): 2.5, (7, 4): 1.0}
    return [(7, [1], {"a": [2, 3, 2], "b": [3, 4]})], lookup(scores)


def test_a_score_on_the_margin_is_kept_and_one_above_is_not() -> None:
    entries, scores = _small()
    assert sorted(pool_systems(entries, scores, margin=3.0).candidates) == [2, 4]
    assert sorted(pool_systems(entries, scores, margin=2.5).candidates) == [2, 3, 4]
    assert pool_systems(entries, scores, ranked=True).candidates.tolist() == [2, 3, 4]
    assert pool_systems(entries, scores, systems=["b"], ranked=True).candidates.tolist() == [3, 4]


def test_pools_name_what_is_wrong_with_an_entry() -> None:
    entries, scores = _small()
    with pytest.raises(UserError, match=r"query 7 has no list of system 'bb' \(did you mean 'b'\?\)"):
        pool_systems(entries, scores, systems=["a", "bb"])
    with pytest.raises(UserError, match="query 7 and passage 9 have no teacher score"):
        pool_systems([(7, [1], {"a": [2, 9]})], scores)
    with pytest.raises(UserError, match="id 2147483648 "):
        pool_systems([(7, [1], {"a": [2**31]})], scores)
    with pytest.raises(UserError, match="no query has a positive"):
        pool_systems([(7, [], {"a": [2]})], scores)


def pools_of(*queries: tuple[dict[int, float], dict[int, float]]) -> Pools:
    entries = [(q, list(pos), {"x": list(neg)}) for q, (pos, neg) in enumerate(queries)]
    scores = {(q, p): s for q, (pos, neg) in enumerate(queries) for p, s in [*neg.items(), *pos.items()]}
    return pool_systems(entries, lookup(scores), ranked=True)


def lists_of(pools: Pools) -> list[list[int]]:
    return [list(part) for part in np.split(pools.candidates, pools.candidate_offsets[1:-1])]


def test_denoising_by_margin_and_by_share_of_the_worst_positive() -> None:
    pools = pools_of(({1: 0.9, 2: 0.8}, {3: 0.79, 4: 0.76, 5: 0.4}), ({6: 0.5}, {7: 0.6, 8: 0.47}))
    assert lists_of(denoise(pools, share=0.95)) == [[4, 5], [8]]
    assert lists_of(denoise(pools, margin=0.3)) == [[5], []]
    assert lists_of(pools) == [[3, 4, 5], [7, 8]]
    with pytest.raises(UserError, match="either"):
        denoise(pools)
    with pytest.raises(UserError, match="use a margin for logits"):
        denoise(pools_of(({1: -1.0}, {2: -2.0})), share=0.9)


def test_an_answer_is_never_a_negative() -> None:
    pools = pools_of(({1: 9.0}, {2: 1.0, 1: 9.0, 3: 1.0, 4: 1.0, 5: 1.0}), ({2: 9.0}, {3: 1.0, 1: 2.0}))
    assert lists_of(without_answers(pools)) == [[2, 3, 4, 5], [3, 1]]
    same = same_text(["-", "Lock", "fan", "LOCK", "door", "Door"])
    assert same.tolist() == [0, 1, 2, 1, 4, 4]
    assert lists_of(without_answers(pools, same)) == [[2, 4], [3]]  # 3 is 1's text, 5 is 4's; of 3 and 1 one is left
    assert lists_of(without_answers(pools, same, same_query=np.array([0, 0]))) == [[4], []]


def test_candidates_by_score() -> None:
    pools = by_score(pools_of(({1: 9.0}, {2: 1.0, 3: 3.0, 4: 1.0, 5: 2.0}), ({1: 9.0}, {6: 0.0, 7: 4.0})))
    assert lists_of(pools) == [[3, 5, 2, 4], [7, 6]]
    assert pools.candidate_scores.tolist() == [3, 2, 1, 1, 4, 0]


def random_pools(seed: int, count: int) -> Pools:
    rng = random.Random(seed)
    return pools_of(
        *(
            (
                {p: 9.0 for p in rng.sample(range(5), rng.randrange(1, 4))},
                {10 + i: -i for i in range(rng.randrange(30))},
            )
            for _ in range(count)
        )
    )


def test_n_way_rows_come_from_their_bands_without_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbertxm.data.negatives_nway.BLOCK", 16)
    pools = random_pools(3, 80)
    found = joined(list(n_way(pools, [(4, 2), (20, 3)], seed=1)))
    counts = np.diff(pools.candidate_offsets)
    assert found.rows[:, 0].tolist() == np.flatnonzero(counts >= 7).tolist()
    assert found.left_out == int((counts < 7).sum())
    ranks = found.rows[:, 2:] - 10
    assert ((ranks[:, :2] < 4) & (ranks[:, :2] >= 0)).all() and ((ranks[:, 2:] < 20) & (ranks[:, 2:] >= 4)).all()
    assert all(len(set(row)) == 5 for row in ranks.tolist())
    assert (found.scores[:, 0] == 9).all() and (found.scores[:, 1:] == -ranks).all()
    for row in found.rows:
        a, b = pools.positive_offsets[row[0] : row[0] + 2]
        assert row[1] in pools.positives[a:b]


def test_n_way_is_uniform_reproducible_and_takes_the_top() -> None:
    pools = pools_of(({1: 9.0, 2: 9.0}, {10 + i: -i for i in range(6)}))
    rows = np.concatenate([next(n_way(pools, uniform(2), seed=5, number=n)).rows for n in range(3000)])
    shares = np.bincount(rows[:, 2:].ravel() - 10) / 3000
    assert np.abs(shares - 2 / 6).max() < 0.04 and abs((rows[:, 1] == 1).mean() - 0.5) < 0.04
    again = next(n_way(pools, uniform(2), seed=5, number=7)).rows
    assert (again == rows[7]).all() and len(np.unique(rows, axis=0)) > 20
    assert next(n_way(pools, top(3), seed=5)).rows[0, 2:].tolist() == [10, 11, 12]
    for bands in ([], [(3, 4)], [(3, 1), (3, 1)], [(2, 0)]):
        with pytest.raises(UserError, match="must rise"):
            next(n_way(pools, bands, seed=1))


def test_rows_come_to_disk_whole_or_not_at_all(tmp_path: Path) -> None:
    pools = random_pools(4, 50)
    samples = list(n_way(pools, uniform(3), seed=1)) + list(n_way(pools, uniform(3), seed=1, number=1))
    whole = joined(samples)
    rows, scores = tmp_path / "rows.npy", tmp_path / "scores.npy"
    assert save_samples(samples, rows, scores) == (len(whole.rows), whole.left_out)
    assert (np.load(rows, mmap_mode="r") == whole.rows).all() and (np.load(scores) == whole.scores).all()
    assert np.load(rows).dtype == np.int32 and np.load(scores).dtype == np.float32

    def cut_off():  # type: ignore[no-untyped-def]
        yield samples[0]
        raise KeyboardInterrupt

    before = rows.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        save_samples(cut_off(), rows)
    with pytest.raises(UserError, match="no query has enough candidates"):
        save_samples(n_way(pools, uniform(99), seed=1), tmp_path / "none.npy")
    assert rows.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.npy", "scores.npy"]


PAIRS = [
    (Text("q1", "lock door", "en"), Text("p1", "The lock of the door.", "en")),
    (Text("q2", "lock door", "en"), Text("p2", "Lock the other door.", "en")),
    (Text("q3", "light", "en"), Text("p3", "A light on the door.", "en")),
    (Text("q4", "fan", "en"), Text("p4", "the lock of the door.", "en")),
]
PASSAGES = {passage.id: passage for _, passage in PAIRS}


def test_mining_by_search_goes_deeper_until_it_has_enough() -> None:
    asked = []

    def search(queries: Sequence[Text], k: int) -> list[Ranked]:
        asked.append((len(queries), k))
        return [[(f"p{i}", -float(i)) for i in range(1, 5)][:k] for _ in queries]

    found = mine_with(search, PAIRS, PASSAGES, depth=1)
    assert found == mine(PAIRS, search(["all"] * 4, 4), PASSAGES, depth=1) == [("p3",), ("p3",), ("p1",), ("p2",)]  # type: ignore[list-item]
    assert asked[:2] == [(4, 2), (2, 4)]


def test_an_answer_of_a_query_that_is_done_stays_an_answer() -> None:
    def search(queries: Sequence[Text], k: int) -> list[Ranked]:
        order = {"q1": ["p3", "p4"], "q2": ["p2", "p4", "p1", "p3"]}
        return [[(p, 0.0) for p in order[query.id]][:k] for query in queries]

    assert mine_with(search, PAIRS[:2], PASSAGES, depth=1) == [("p3",), ("p3",)]


def test_bm25_mining_leaves_answers_out() -> None:
    assert mine_bm25(PAIRS, PASSAGES, depth=5) == [("p3",), ("p3",), (), ()]
