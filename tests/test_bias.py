"""Language bias of a mixed pool on cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation.bias import language_bias, language_bias_matrix
from colbertxm.evaluation.columns import Run
from colbertxm.evaluation.runs import rank_hits
from colbertxm.evaluation.significance import bootstrap_interval
from colbertxm.records import Hit, Judgement

PASSAGES = {**{f"en{n}": "en" for n in range(4)}, "de0": "de", "de1": "de", "fr0": "fr", "fr1": "fr"}
QUERIES = {"q": "en", "r": "de", "empty": "en", "none": "fr"}


def ranked(query: str, passages: str) -> list[Hit]:
    names = passages.split()
    return rank_hits(query, names, [float(-place) for place in range(len(names))])


RUN = [*ranked("q", "en0 en1 en2 de0 fr0"), *ranked("r", "de0 en0 fr0 de1"), *ranked("none", "en0")]
QRELS = [
    *(Judgement("q", name, 1) for name in ("en0", "de0", "de1", "fr0")),
    *(Judgement("r", name, 1) for name in ("de1", "fr0")),
    Judgement("empty", "en0", 1),
    Judgement("none", "en0", 0),
]


def test_by_hand() -> None:
    bias = language_bias(RUN, QRELS, PASSAGES, QUERIES, k=4)
    assert bias.languages == ("de", "en", "fr")
    assert bias.found.tolist() == [[1 / 4, 3 / 4, 0], [2 / 4, 1 / 4, 1 / 4]]
    assert bias.truth.tolist() == [[2 / 4, 1 / 4, 1 / 4], [1 / 2, 0, 1 / 2]]
    assert bias.pool.tolist() == [2 / 8, 4 / 8, 2 / 8]
    assert bias.skipped == 2
    # (3/8, 4/8, 1/8) against (4/8, 1/8, 3/8)
    assert bias.total_variation() == pytest.approx((1 / 8 + 3 / 8 + 2 / 8) / 2)
    # q: en0 above de0, de1 (not found), fr0; r: de1 below fr0.
    assert bias.own_first.tolist() == [1.0, 0.0]
    row = bias.row()
    assert (row["queries"], row["total_variation"]) == (2, pytest.approx(3 / 8))
    assert row["languages"]["en"]["excess"] == pytest.approx(3 / 8)
    assert (row["languages"]["en"]["low"], row["languages"]["en"]["high"]) == bootstrap_interval([1 / 2, 1 / 4])
    assert row["own_first"]["mean"] == 0.5 and row["own_first"]["queries"] == 2


def test_the_same_from_columns_and_for_few_hits() -> None:
    first, second = (language_bias(run, QRELS, PASSAGES, QUERIES, k=10) for run in (RUN, Run.of(RUN)))
    assert first.row() == second.row()
    assert first.found[1].tolist() == [1 / 2, 1 / 4, 1 / 4], "shares are of the hits that there are"


def test_the_matrix_takes_queries_apart() -> None:
    matrix = language_bias_matrix(RUN, QRELS[:-2], PASSAGES, QUERIES, k=4)
    assert list(matrix) == ["de", "en"]
    assert matrix["en"].found.tolist() == [[1 / 4, 3 / 4, 0]]
    assert matrix["de"].total_variation() == pytest.approx(1 / 4)


def test_a_fair_run_has_no_bias_and_a_biased_one_much() -> None:
    """Per query wrong in either direction, in the mean right: that is error, and no bias."""
    qrels = [Judgement(query, name, 1) for query in "qr" for name in ("en0", "de0")]
    langs = {"q": "en", "r": "en"}
    fair = [*ranked("q", "en0 en1"), *ranked("r", "de0 de1")]
    biased = [*ranked("q", "en0 en1"), *ranked("r", "en0 en1")]
    assert language_bias(fair, qrels, PASSAGES, langs, 2).total_variation() == 0
    assert language_bias(biased, qrels, PASSAGES, langs, 2).total_variation() == 0.5
    assert language_bias(biased, qrels, PASSAGES, langs, 2).own_first.tolist() == [1.0, 1.0]
    unfound = [Judgement("q", "en3", 1), Judgement("q", "de1", 1)]
    assert language_bias(biased, unfound, PASSAGES, langs, 2).own_first.tolist() == [0.5]


def test_a_share_without_a_language_is_refused() -> None:
    with pytest.raises(UserError, match="passage 'fr0' has no language"):
        language_bias(RUN, QRELS, {name: lang for name, lang in PASSAGES.items() if name != "fr0"}, QUERIES)
    with pytest.raises(UserError, match="query 'r' has no language"):
        language_bias(RUN, QRELS, PASSAGES, {"q": "en"})
    with pytest.raises(UserError, match="no judged query has both"):
        language_bias(RUN, QRELS[-2:], PASSAGES, QUERIES)
    with pytest.raises(UserError, match="k=0"):
        language_bias(RUN, QRELS, PASSAGES, QUERIES, k=0)
    assert np.isfinite(language_bias(RUN, QRELS, PASSAGES, QUERIES, k=1).found).all()
