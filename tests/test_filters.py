"""Filters against brute force, alone and through the exhaustive engine, and the mistakes that they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.filters import documents
from colbertxm.errors import UserError

IDS = ["alpha", "beta", "gamma", "delta"]
LANGS = ["de", "en", "de", "fr"]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 30), lang=st.sampled_from([None, "de", "en"]))
def test_positions_are_those_of_a_loop(data: st.DataObject, count: int, lang: str | None) -> None:
    langs = ["de", "en", *data.draw(st.lists(st.sampled_from(["de", "en"]), min_size=count, max_size=count))]
    ids = [f"d{n}" for n in range(len(langs))]
    marked = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    expected = [n for n in range(len(ids)) if marked[n] and lang in (None, langs[n])]
    names = [ids[n] for n in range(len(ids)) if marked[n]]
    shuffled = data.draw(st.permutations(names * 2))
    for wanted in (shuffled, set(names), tuple(names), np.array(marked), torch.tensor(marked)):
        found = documents(ids, langs, lang, wanted)
        assert found.tolist() == expected and found.dtype == np.int64


def test_no_filter_is_everything_and_an_empty_one_is_nothing() -> None:
    assert documents(IDS, LANGS).tolist() == [0, 1, 2, 3]
    assert documents(IDS, LANGS, "de").tolist() == [0, 2]
    assert documents(IDS, LANGS, None, []).tolist() == []
    assert documents(IDS, LANGS, "fr", ["alpha"]).tolist() == []  # both exist, but not together: no mistake


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("lang", [None, "de"])
def test_a_filtered_search_ranks_what_is_left(dtype: str, lang: str | None) -> None:
    """Filtering before ranking: the hits are those of the whole ranking with the others struck out."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 5, (300,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    vectors = torch.randint(-2, 3, (int(offsets[-1]), 8), generator=generator).float()
    ids, langs = [f"d{n}" for n in range(300)], ["de" if n % 3 else "en" for n in range(300)]
    engine = ExactEngine(vectors, offsets, ids, langs, dtype)
    mask = torch.rand(300, generator=generator) < 0.2
    chosen = {id for id, keep in zip(ids, mask.tolist(), strict=True) if keep}
    queries = [torch.randint(-2, 3, (n, 8), generator=generator).float() for n in (1, 3, 2)]
    every = engine.score_all(queries).tolist()
    for wanted in (chosen, mask, mask.numpy()):
        for row, (found, scores) in zip(every, engine.search(queries, 10, lang, ids=wanted), strict=True):
            left = [n for n in range(300) if mask[n] and lengths[n] and lang in (None, langs[n])]
            assert found == [ids[n] for n in sorted(left, key=lambda n: (-row[n], n))[:10]]
            assert len(found) == 10 and (np.diff(scores) < 0).all()


@pytest.mark.parametrize(
    ("lang", "wanted", "message"),
    [
        ("dee", None, r"no passage in 'dee' is indexed \(did you mean 'de'\?\); the index has de, en, fr"),
        (None, ["beta", "gamm"], r"no passage 'gamm' is indexed \(did you mean 'gamma'\?\)"),
        (None, ["zeta", "beta", "xi"], r"no passage 'xi' and 1 more is indexed$"),
        (None, [7], r"no passage 7 is indexed"),
        (None, "beta", r"one string: give a collection of passage ids, \['beta'\]"),
        (None, np.ones(3, bool), r"bool \[3\].* 4 passages"),
        (None, np.arange(4), r"int64 \[4\]"),
        (None, torch.ones(4), r"float32 \[4\]"),
    ],
)
def test_mistakes_are_named(lang: str | None, wanted: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        documents(IDS, LANGS, lang, wanted)
