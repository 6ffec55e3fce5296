"""The cross-lingual gap on cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation.gap import cross_lingual_gap, gap_lines
from colbertxm.evaluation.metrics import Scores
from colbertxm.evaluation.significance import macro_difference, paired_difference, unpaired_difference


def scores(lang: str, values: list[float], keys: str = "abcdefgh") -> Scores:
    return Scores(tuple(f"{lang}:{key}" for key, _ in zip(keys, values, strict=False)), {"RR@10": np.array(values)})


KEYS = {f"{lang}:{key}": key for lang in ("en", "de", "fr") for key in "abcdefgh"}
MEASURED = {
    ("en", "en"): scores("en", [1.0, 1.0, 0.5, 1.0]),
    ("de", "de"): scores("de", [1.0, 0.5, 0.5, 0.0]),
    ("en", "de"): scores("en", [0.5, 0.5, 0.0, 0.0]),
    ("de", "en"): scores("de", [1.0, 0.0, 0.5, 1.0]),
    ("fr", "fr"): scores("fr", [1.0, 1.0]),
}


def test_by_hand() -> None:
    rows = {row["scope"]: row for row in cross_lingual_gap(MEASURED, KEYS)}
    assert list(rows) == ["en-de", "de-en", "mean of 2 pairs"]
    assert (rows["en-de"]["mono"], rows["en-de"]["cross"], rows["en-de"]["gap"]) == (0.5, 0.25, 0.25)
    assert (rows["de-en"]["mono"], rows["de-en"]["cross"], rows["de-en"]["gap"]) == (0.875, 0.625, 0.25)
    assert rows["en-de"]["kept"] == 0.5 and rows["en-de"]["queries"] == 4
    expected = paired_difference([1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0])
    assert [rows["en-de"][name] for name in ("low", "high", "p")] == [expected.low, expected.high, expected.p]
    assert rows["en-de"]["p_holm"] == min(1.0, 2 * expected.p)
    mean = rows["mean of 2 pairs"]
    assert (mean["mono"], mean["cross"], mean["gap"], mean["queries"]) == (0.6875, 0.4375, 0.25, 8)
    keys = tuple("abcd")
    whole = macro_difference(
        {"x": [1.0, 0.5, 0.5, 0.0], "y": [1.0, 1.0, 0.5, 1.0]},
        {"x": [0.5, 0.5, 0.0, 0.0], "y": [1.0, 0.0, 0.5, 1.0]},
        {"x": keys, "y": keys},
    )
    assert (mean["low"], mean["high"], mean["p"]) == (whole.low, whole.high, whole.p)
    assert gap_lines([mean])[0].startswith("mean of 2 pairs      RR@10  0.688 -> 0.438  gap +0.250 [")


def test_queries_are_paired_by_key_in_whatever_order() -> None:
    mono = scores("de", [1.0, 0.2, 0.6])
    cross = Scores(("en:c", "en:x", "en:a"), {"RR@10": np.array([0.5, 1.0, 0.4])})
    (row, mean) = cross_lingual_gap({("de", "de"): mono, ("en", "de"): cross}, KEYS | {"en:x": "x"})
    assert row["queries"] == 2 and row["paired"]
    assert row["gap"] == mean["gap"] == pytest.approx(((1.0 - 0.4) + (0.6 - 0.5)) / 2)


def test_queries_that_are_no_translations_are_two_samples() -> None:
    mono, cross = scores("de", [1.0, 0.0, 1.0, 1.0]), scores("en", [0.5, 0.0], keys="xy")
    rows = cross_lingual_gap({("de", "de"): mono, ("en", "de"): cross}, KEYS)
    assert len(rows) == 1 and not rows[0]["paired"]
    assert rows[0]["gap"] == 0.5
    expected = unpaired_difference([1.0, 0.0, 1.0, 1.0], [0.5, 0.0])
    assert (rows[0]["low"], rows[0]["high"], rows[0]["p"]) == (expected.low, expected.high, expected.p)


def test_what_gives_no_gap_is_refused() -> None:
    with pytest.raises(UserError, match="no cross-lingual gap.*have en-de"):
        cross_lingual_gap({("en", "de"): MEASURED["en", "de"]}, KEYS)
    with pytest.raises(UserError, match="did you mean 'RR@10'"):
        cross_lingual_gap(MEASURED, KEYS, "RR@100")
    with pytest.raises(UserError, match="en:a and en:b of one language have the key k"):
        cross_lingual_gap(MEASURED, KEYS | {"en:a": "k", "en:b": "k"})
