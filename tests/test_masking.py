"""Hidden pieces: BERT's shares, nothing special among them, the same draw for the same key."""

from __future__ import annotations

import numpy as np
import pytest

from colbertxm.model.masking import Pieces, mask

MASK, SPECIAL = 99, frozenset({0, 1, 2, 3, 99})


def texts(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    inside = [rng.choice([3, *range(10, 90)], size=rng.integers(1, 60)) for _ in range(count)]
    return [np.array([0, 7, 8, *ids, 2], np.int64) for ids in inside]


def test_shares_places_and_labels_on_random_texts() -> None:
    found = texts(600)
    pieces = Pieces.of(found, SPECIAL)
    assert not set(pieces.ids) & SPECIAL and {7, 8} <= set(pieces.ids)
    may = chosen = hidden = other = 0
    for number, ids in enumerate(found):
        before = ids.copy()
        masked = mask(ids, range(3, len(ids) - 1), pieces, MASK, (5, 0, number))
        assert np.array_equal(ids, before), "the text itself stays"
        assert np.array_equal(masked.labels, ids[masked.places])
        untouched = np.ones(len(ids), bool)
        untouched[masked.places] = False
        assert np.array_equal(masked.ids[untouched], ids[untouched])
        assert not set(masked.labels) & SPECIAL and masked.places.min(initial=3) >= 3, "no special token, no prompt"
        assert set(masked.ids[masked.places]) - {MASK} <= set(pieces.ids)
        may += int((ids[3:-1] != 3).sum())
        chosen += len(masked.places)
        hidden += int((masked.ids[masked.places] == MASK).sum())
        other += int(((masked.ids != ids) & (masked.ids != MASK)).sum())
    # Four standard errors of a binomial share; a replacement is the piece itself once in 82.
    for count, of, share in ((chosen, may, 0.15), (hidden, chosen, 0.8), (other, chosen, 0.1 * 81 / 82)):
        assert abs(count / of - share) < 4 * (share * (1 - share) / of) ** 0.5
    assert chosen > 2000


def test_a_draw_is_a_function_of_its_key() -> None:
    (ids,) = texts(1, seed=3)
    ids = np.tile(ids[3:-1], 20)
    pieces = Pieces.of([ids], SPECIAL)
    free = range(len(ids))
    first, again = mask(ids, free, pieces, MASK, (1, 0, 4)), mask(ids, free, pieces, MASK, (1, 0, 4))
    assert np.array_equal(first.ids, again.ids) and np.array_equal(first.places, again.places)
    for key in ((2, 0, 4), (1, 1, 4), (1, 0, 5)):
        assert not np.array_equal(mask(ids, free, pieces, MASK, key).places, first.places)


def test_rows_are_places_among_the_pieces() -> None:
    pieces = Pieces.of([np.array([5, 9, 9, 2]), np.array([30, 5])], SPECIAL)
    assert pieces.ids.tolist() == [5, 9, 30] and pieces.counts.tolist() == [2, 2, 1]
    assert pieces.rows(np.array([30, 5, 9, 5])).tolist() == [2, 0, 1, 0]
    assert pieces.rows(np.array([], np.int64)).tolist() == []
    for foreign in (6, 31):
        with pytest.raises(ValueError, match="other texts"):
            pieces.rows(np.array([5, foreign]))
