"""Hard negatives: never an answer, in rank order, held against a plain loop."""

from __future__ import annotations

import random

import pytest

from colbertxm.data.negatives import mine, triples
from colbertxm.errors import UserError
from colbertxm.records import Text


def pair(key: str, title: str, description: str) -> tuple[Text, Text]:
    return Text(f"q{key}", title, "en"), Text(f"p{key}", description, "en")


PAIRS = [
    pair("1", "Lock", "Locks the door."),
    pair("2", "Light", "Turns on a light."),
    pair("3", "lock", "Locks the window."),  # the same title as 1: its answer is no negative there
    pair("4", "Bolt", "LOCKS THE DOOR."),  # the same text as p1
    pair("5", "Fan", "Starts the fan."),
    pair("6", "Vent", "Starts the fan."),
]
PASSAGES = {passage.id: passage for _, passage in PAIRS}
EVERY = [(f"p{i}", 7.0 - i) for i in range(1, 7)]


def test_answers_and_their_equals_are_no_negatives() -> None:
    found = mine(PAIRS, [EVERY] * 6, PASSAGES, depth=9)
    assert found == [
        ("p2", "p5"),
        ("p1", "p3", "p5"),
        ("p2", "p5"),
        ("p2", "p3", "p5"),
        ("p1", "p2", "p3"),
        ("p1", "p2", "p3"),
    ]


def test_the_first_of_the_ranking_are_taken() -> None:
    upwards = EVERY[::-1]
    assert mine(PAIRS[:1], [upwards], PASSAGES, depth=2) == [("p6", "p3")]  # p3 answers "lock" only where it is asked
    assert mine(PAIRS[:1], [upwards], PASSAGES, depth=1) == [("p6",)]
    assert mine(PAIRS[:1], [[]], PASSAGES, depth=1) == [()]


def plain(pairs, ranked, passages, depth):  # type: ignore[no-untyped-def]
    result = []
    for (query, _), hits in zip(pairs, ranked, strict=True):
        row = []
        for passage_id, _ in hits:
            text = passages[passage_id].text.lower()
            answers = any(q.text.lower() == query.text.lower() and p.text.lower() == text for q, p in pairs)
            taken = any(passages[other].text.lower() == text for other in row)
            if not answers and not taken:
                row.append(passage_id)
        result.append(tuple(row[:depth]))
    return result


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_plain_loop(seed: int) -> None:
    rng = random.Random(seed)
    pairs = [pair(str(i), rng.choice("abcdeABC"), rng.choice("uvwxyzUVW") * 2) for i in range(15)]
    passages = {p.id: p for _, p in pairs}
    ranked = [[(i, 1.0) for i in rng.sample(sorted(passages), rng.randrange(16))] for _ in pairs]
    depth = rng.randrange(1, 6)
    assert mine(pairs, ranked, passages, depth) == plain(pairs, ranked, passages, depth)


def test_triples_join_pairs_and_negatives() -> None:
    made = triples(PAIRS[:2], [("p2", "p5"), ("p1",)], PASSAGES)
    assert [(t.query.id, t.positive.id, [n.id for n in t.negatives]) for t in made] == [
        ("q1", "p1", ["p2", "p5"]),
        ("q2", "p2", ["p1"]),
    ]


def test_a_query_without_negatives_is_an_error() -> None:
    with pytest.raises(UserError, match="'q2'.*negatives_depth"):
        triples(PAIRS[:2], [("p2",), ()], PASSAGES)
    with pytest.raises(ValueError):
        triples(PAIRS[:2], [("p2",)], PASSAGES)
