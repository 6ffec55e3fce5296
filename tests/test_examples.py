"""Examples: pure functions of (epoch, index), with exactly the negatives that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import numbered_triple as triple

from colbertxm.data.examples import InMemory, OnDisk
from colbertxm.data.sampling import LanguageMix
from colbertxm.data.store_build import build_store
from colbertxm.data.triples import write_triples
from colbertxm.errors import UserError
from colbertxm.records import Text


def on_disk(folder: Path, mix: LanguageMix | None = None) -> OnDisk:
    for lang in ("en", "de"):
        build_store(folder / "q", lang, [Text(str(i), f"{lang} query {i}", lang) for i in range(4)])
        passages = build_store(folder / "p", lang, [Text(str(i), f"{lang} passage {i}", lang) for i in range(20)])
    queries = build_store(folder / "q", "fr", [Text(str(i), f"fr query {i}", "fr") for i in range(4)])
    rows = np.array([[i, i, *range(i + 4, i + 9)] for i in range(4)], np.int32)
    kept = write_triples(folder / "t", type(queries)(folder / "q", "en"), type(passages)(folder / "p", "en"), [rows])
    return OnDisk(kept, 3, mix)


def test_in_memory_the_first_negative_changes_with_the_epoch() -> None:
    examples = InMemory([triple(0), triple(1)], seed=5)
    drawn = [examples.read([(epoch, 0)], 2)[0].negatives for epoch in range(16)]
    assert {d[0].id for d in drawn} == {"n00", "n01", "n02", "n03"} and all(len(set(d)) == 2 for d in drawn)
    assert drawn == [InMemory([triple(0), triple(1)], seed=5).read([(e, 0)], 2)[0].negatives for e in range(16)]
    with pytest.raises(UserError, match=r"4 hard negatives, but trainer\.negatives=5"):
        examples.check(5)


def test_on_disk_other_negatives_each_epoch_and_all_when_asked(tmp_path: Path) -> None:
    examples = on_disk(tmp_path)
    (whole,) = examples.read([(0, 2)], 5)
    assert (whole.query.text, whole.positive.text) == ("en query 2", "en passage 2")
    assert [n.id for n in whole.negatives] == ["6", "7", "8", "9", "10"]
    drawn = [tuple(n.id for n in examples.read([(epoch, 2)], 2)[0].negatives) for epoch in range(40)]
    assert {i for pair in drawn for i in pair} == {"6", "7", "8", "9", "10"} and all(len(set(p)) == 2 for p in drawn)
    assert examples.read([(7, 2), (8, 1)], 2) == [*examples.read([(7, 2)], 2), *examples.read([(8, 1)], 2)]
    with pytest.raises(UserError, match=r"5 hard negatives a query, but trainer\.negatives=6"):
        examples.check(6)


def test_a_mix_gives_the_same_ids_in_other_languages(tmp_path: Path) -> None:
    examples = on_disk(tmp_path, LanguageMix({"en": 0.5, "de": 0.5}, 1))
    found = examples.read([(epoch, i) for epoch in range(10) for i in range(4)], 5)
    assert {t.query.lang for t in found} == {"en", "de"}
    for t in found:
        assert {x.lang for x in (t.positive, *t.negatives)} == {t.query.lang}
        assert t.query.text == f"{t.query.lang} query {t.query.id}" and t.positive.id == t.query.id
