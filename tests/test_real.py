"""The real wheels (160 MB, fetched once): the collection has the pairs that the README speaks of, and the real model
finds them. `make test-slow`."""

from __future__ import annotations

import pytest

from colbertxm import stages
from colbertxm.evaluation.metrics import evaluate
from colbertxm.model.tokens import TokenSettings

pytestmark = pytest.mark.slow


def test_smart_home_has_twenty_languages_with_400_test_pairs() -> None:
    home = stages.smart_home()
    langs = home.languages("test")
    assert len(langs) == 20 and {"de", "es", "ja", "ko", "ru", "zh", "zh-hant", "sr-latn"} <= set(langs)
    assert len(home.keys("test", "en")) == 677 and len(home.keys("train", "en")) == 1613


def test_the_base_ranks_as_it_should() -> None:
    home = stages.smart_home()
    base = stages.load_base(TokenSettings("query: ", "passage: "), ["en", "de"])
    for lang in ("en", "de"):
        collection = home.collection("test", lang, lang, 60)
        found = {}
        for pooling in ("single", "multi"):
            run = base.retriever(pooling).run(collection)
            found[pooling] = evaluate(run, collection.judgements, ("RR@10",)).mean("RR@10")
        assert found["multi"] > found["single"] > 0.7
