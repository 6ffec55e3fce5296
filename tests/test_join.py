"""Joined parts hold what the small ones held."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_compressed import some_documents, some_queries

from colbertxm.engine import join, room
from colbertxm.engine.build import build_index
from colbertxm.engine.index import CompressedIndex, verify_compressed


@pytest.mark.parametrize(("part", "expected"), [(1, 5), (900, 3), (10**6, 1)])
def test_joining_changes_nothing_that_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, expected: int
) -> None:
    documents = some_documents(300)
    queries = some_queries(documents, 5)
    monkeypatch.setattr(join, "PART", 1)
    monkeypatch.setattr(room, "CHUNK", 450)
    single = build_index(tmp_path / "single", lambda n: documents[n:])
    assert len(single.parts) == 5
    monkeypatch.setattr(join, "PART", part)
    index = build_index(tmp_path / "joined", lambda n: documents[n:])
    verify_compressed(tmp_path / "joined")
    assert len(index.parts) == expected
    assert list(index.ids) == [d.id for d in documents]
    assert list(index.texts) == [d.text for d in documents]
    assert list(index.langs) == [d.lang for d in documents]
    assert index.guesses == {d.id: (d.lang, d.sure) for d in documents if d.sure is not None}
    assert index.texts_of(["p7", "p299", "nobody"]) == {"p7": "text 7 ü", "p299": "text 299 ü"}
    for one, other in zip(index.engine.search(queries, 20), single.engine.search(queries, 20), strict=True):
        assert one[0] == other[0]
        assert np.array_equal(one[1], other[1])


def test_a_build_killed_while_joining_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = some_documents(300)
    monkeypatch.setattr(room, "CHUNK", 200)
    monkeypatch.setattr(join, "PART", 700)
    build_index(tmp_path / "whole", lambda n: documents[n:])
    written = 0
    inner = join._join

    def killed(*arguments: object) -> object:
        nonlocal written
        written += 1
        if written == 20:
            raise KeyboardInterrupt
        return inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(join, "_join", killed)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "again", lambda n: documents[n:])
    build_index(tmp_path / "again", lambda n: iter([]))
    assert written < 20 + 2 * 13 + 1  # the first part was not joined again
    names = [{p.name: p.read_bytes() for p in (tmp_path / f).iterdir() if p.is_file()} for f in ("whole", "again")]
    assert names[0] == names[1]
    assert len(CompressedIndex(tmp_path / "again").parts) > 1
