"""Lowering ties against one nextafter at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from colbertxm.engine.ties import strictly_falling

LARGEST = float(np.finfo(np.float32).max)


def by_loop(scores: np.ndarray) -> np.ndarray:
    scores = scores.copy()
    for i in range(1, len(scores)):
        with np.errstate(over="ignore"):
            below = np.nextafter(scores[i - 1], np.float32(-np.inf))
        scores[i] = min(scores[i], below)
    return scores


@given(st.lists(st.one_of(st.sampled_from([0.0, 1e-45, -1e-45, 1.0, LARGEST, -LARGEST, -np.inf]), st.floats(-2, 2))))
def test_ties_are_lowered_as_by_the_loop(values: list[float]) -> None:
    scores = np.sort(np.array(values, np.float32))[::-1]
    found = strictly_falling(scores)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, by_loop(scores))
