"""The order of samples, resuming in the middle, and false negatives."""

from __future__ import annotations

import pytest
import torch

from colbertxm.errors import UserError
from colbertxm.records import Text, Triple
from colbertxm.training.batches import Order, TripleData, Triples, false_negatives


def test_an_epoch_visits_every_triple_once_and_epochs_differ() -> None:
    flat = [sample for batch in Order(10, 5, 4, seed=1) for sample in batch]
    first, second = [i for e, i in flat if e == 0], [i for e, i in flat if e == 1]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


@pytest.mark.parametrize("done", [0, 4, 8, 28])
def test_resuming_gives_exactly_the_rest(done: int) -> None:
    whole = list(Order(11, 4, 9, seed=3))
    assert list(Order(11, 4, 9, seed=3, done=done)) == whole[done // 4 :]


def test_the_order_is_a_function_of_the_seed() -> None:
    assert list(Order(50, 5, 10, seed=1)) == list(Order(50, 5, 10, seed=1))
    assert list(Order(50, 5, 10, seed=1)) != list(Order(50, 5, 10, seed=2))


def triple(i: int, negatives: int = 4) -> Triple:
    texts = tuple(Text(f"n{i}{j}", f"negative {i} {j}", "en") for j in range(negatives))
    return Triple(Text(f"q{i}", f"query {i}", "en"), Text(f"p{i}", f"passage {i}", "en"), texts)


def test_the_hard_negative_of_a_triple_changes_with_the_epoch_and_is_reproducible() -> None:
    items = Triples([triple(0), triple(1)], seed=5)
    drawn = [items[epoch, 0][1] for epoch in range(12)]
    assert set(drawn) == {0, 1, 2, 3}
    assert drawn == [Triples([triple(0), triple(1)], seed=5)[epoch, 0][1] for epoch in range(12)]


def test_too_few_triples_or_negatives_are_errors() -> None:
    with pytest.raises(UserError, match="1 training triples are fewer than batch_size=2"):
        TripleData([triple(0)], None, 2, 1, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="1 hard negatives, but data.negatives=2"):
        TripleData([triple(0, 1), triple(1)], None, 2, 1, 2, 0)  # type: ignore[arg-type]


def test_false_negatives_are_other_answers_to_the_same_query() -> None:
    queries = [Text("1", "Name", "en"), Text("2", "name", "en"), Text("3", "Host", "en")]
    passages = [Text(str(i), words, "en") for i, words in enumerate(["A", "B", "C", "a", "x", "b"])]
    expected = [
        [False, True, False, True, False, True],
        [True, False, False, True, False, True],
        [False, False, False, False, False, False],
    ]
    assert torch.equal(false_negatives(queries, passages), torch.tensor(expected))
