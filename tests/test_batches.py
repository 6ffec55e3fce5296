"""Batches: the same with workers, on ranks and after a resume; nested subsets; false negatives."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import numbered_triple as triple

from colbertxm.data.examples import InMemory
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder, joined
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text, Triple
from colbertxm.training.batches import Batch, Collate, RetrievalData
from colbertxm.training.marks import false_negatives, text_keys


@pytest.fixture
def encoder(world: Path) -> Encoder:
    return build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), "multi", 8, 0)


def test_too_few_triples_or_negatives_are_errors(encoder: Encoder) -> None:
    with pytest.raises(UserError, match="1 training triples are fewer than batch_size=2"):
        RetrievalData(InMemory([triple(0)], 0), encoder, 2, 1, 1, 0)
    with pytest.raises(UserError, match="1 hard negatives, but trainer.negatives=2"):
        RetrievalData(InMemory([triple(0, 1), triple(1)], 0), encoder, 2, 1, 2, 0)


def test_a_subset_may_be_smaller_than_a_batch(encoder: Encoder) -> None:
    examples = InMemory([triple(i) for i in range(11)], 3)
    for batch in RetrievalData(examples, encoder, 5, 4, 1, 3, subset=2).train_dataloader():
        assert len(batch.queries) == 5 and len(set(batch.query_keys.tolist())) == 2
        ignored = false_negatives(batch.query_keys, batch.passage_keys, 0, 5)
        for b, key in enumerate(batch.query_keys.tolist()):
            for other, other_key in enumerate(batch.query_keys.tolist()):
                assert bool(ignored[b, other]) == (key == other_key and b != other)  # its answer


def same(one: Batch, other: Batch) -> bool:
    for a, b in ((one.queries, other.queries), (one.passages, other.passages)):
        if len(a.parts) != len(b.parts):
            return False
        if not all(torch.equal(p.ids_T, q.ids_T) and p.runs == q.runs for p, q in zip(a.parts, b.parts, strict=True)):
            return False
    return torch.equal(one.query_keys, other.query_keys) and torch.equal(one.passage_keys, other.passage_keys)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 8])
def test_batches_are_the_same_with_workers_and_after_a_resume(encoder: Encoder, workers: int, done: int) -> None:
    examples = InMemory([triple(i) for i in range(11)], 3)
    whole = list(RetrievalData(examples, encoder, 4, 6, 2, 3).train_dataloader())
    data = RetrievalData(examples, encoder, 4, 6, 2, 3, workers=workers)
    data.load_state_dict({"samples_done": done})
    rest = list(data.train_dataloader())
    assert len(whole) == 6 and len(rest) == 6 - done // 4
    assert all(same(a, b) for a, b in zip(whole[done // 4 :], rest, strict=True))
    assert not same(whole[0], whole[1])
    assert len(whole[0].queries) == 4 and len(whole[0].passages) == 12


def test_ranks_share_a_step_without_overlap(encoder: Encoder) -> None:
    examples = InMemory([triple(i) for i in range(8)], 3)
    whole = list(RetrievalData(examples, encoder, 4, 2, 1, 3, keep_ids=True).train_dataloader())
    parts = []
    for rank in range(2):
        data = RetrievalData(examples, encoder, 4, 2, 1, 3, keep_ids=True)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append(list(data.train_dataloader()))
    for step in range(2):
        assert whole[step].queries.ids == parts[0][step].queries.ids + parts[1][step].queries.ids


def test_a_smaller_subset_lies_within_a_larger_one(encoder: Encoder) -> None:
    examples = InMemory([triple(i) for i in range(40)], 3)

    def seen(subset: int) -> set[tuple[int, ...]]:
        data = RetrievalData(examples, encoder, 4, subset // 4, 1, 3, subset=subset, keep_ids=True)
        return {ids for batch in data.train_dataloader() for ids in batch.queries.ids}

    assert len(seen(8)) == 8 and len(seen(20)) == 20 and seen(8) < seen(20)


def test_collate_travels_without_the_model(encoder: Encoder) -> None:
    assert len(pickle.dumps(Collate(encoder, False))) < 200_000
    foreign = Triple(Text("q", "lamp", "fr"), Text("p", "lamp", "en"), ())
    with pytest.raises(UserError, match="'q' is in 'fr', of which the model has no adapter"):
        Collate(encoder, False)([foreign])


def plain_false_negatives(queries: list[Text], passages: list[Text]) -> torch.Tensor:
    B = len(queries)
    answers: dict[str, set[str]] = {}
    for query, positive in zip(queries, passages[:B], strict=True):
        answers.setdefault(query.text.casefold(), set()).add(positive.text.casefold())
    rows = [[c != b and p.text.casefold() in answers[queries[b].text.casefold()] for c, p in enumerate(passages)]
            for b in range(B)]  # fmt: skip
    return torch.tensor(rows)


@pytest.mark.parametrize("seed", range(5))
def test_false_negatives_equal_the_plain_loops(seed: int) -> None:
    rng = random.Random(seed)
    queries = [Text(str(i), rng.choice("aAbBc"), "en") for i in range(6)]
    passages = [Text(str(i), rng.choice("xXyYz"), "en") for i in range(18)]
    expected = plain_false_negatives(queries, passages)
    keys = text_keys(queries), text_keys(passages)
    assert torch.equal(false_negatives(*keys), expected)
    assert torch.equal(false_negatives(*keys, first=2, rows=3), expected[2:5])


def test_false_negatives_are_other_answers_to_the_same_query() -> None:
    queries = [Text("1", "Name", "en"), Text("2", "name", "en"), Text("3", "Host", "en")]
    passages = [Text(str(i), words, "en") for i, words in enumerate(["A", "B", "C", "a", "x", "b"])]
    expected = [
        [False, True, False, True, False, True],
        [True, False, False, True, False, True],
        [False, False, False, False, False, False],
    ]
    assert torch.equal(false_negatives(text_keys(queries), text_keys(passages)), torch.tensor(expected))


def test_parts_hold_the_texts_in_order(encoder: Encoder) -> None:
    triples = [triple(i) for i in range(5)]
    whole, parts = Collate(encoder, True)(triples), Collate(encoder, True, chunk=3)(triples)
    assert [len(part.lengths) for part in parts.queries.parts] == [3, 2]
    assert len(parts.passages) == len(whole.passages) == 25 and parts.passages.tokens == whole.passages.tokens
    pieces = parts.passages.pieces()
    assert len(pieces) == 9 and sum((piece.ids for piece in pieces), ()) == whole.passages.ids
    assert sum((piece.adapters for piece in pieces), ()) == whole.passages.adapters
    with torch.no_grad():
        apart = joined([encoder(piece.parts[0]) for piece in pieces])
        together = encoder(whole.passages.parts[0])
    assert torch.equal(apart.offsets, together.offsets)
    torch.testing.assert_close(apart.values, together.values)


def test_teachers_scores_travel_with_their_passages(encoder: Encoder) -> None:
    scored = [replace(triple(i), scores=(9.0, *(i + n / 10 for n in range(4)))) for i in range(6)]
    data = RetrievalData(InMemory(scored, 3), encoder, 3, 4, 2, 3)
    for keys in data.order():
        for one, (_, index) in zip(data.examples.read(keys, 2), keys, strict=True):
            shown = dict(zip([p.id for p in scored[index].negatives], scored[index].scores[1:], strict=True))
            assert one.scores == (9.0, *(shown[p.id] for p in one.negatives))
    assert InMemory(scored, 3).scored and not InMemory([triple(0)], 3).scored
    teacher = next(iter(data.train_dataloader())).teacher_BK
    assert teacher is not None and teacher.shape == (3, 3) and (teacher[:, 0] == 9).all()
    assert Collate(encoder, False)([triple(0)]).teacher_BK is None
