"""Groups of an index and their merge: one engine's answer, ties included, or one that says what it lacks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from colbertxm.cluster import groups as groups_of
from colbertxm.cluster.groups import Found, Group, ends_of, merged, plan
from colbertxm.cluster.searching import ClusterEngine
from colbertxm.cluster.window import Lost
from colbertxm.engine import build, join, room, update
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.index import CompressedIndex, Document
from colbertxm.engine.opening import open_index
from colbertxm.engine.store import write_index
from colbertxm.engine.ties import strictly_falling
from colbertxm.errors import UserError

DIM, COUNT = 16, 120


def vectors(count: int, seed: int) -> list[torch.Tensor]:
    """Of few values, and every document twice: many ties. Some are empty."""
    rng = np.random.default_rng(seed)
    half = [torch.from_numpy(rng.integers(-2, 3, (n % 5, DIM)).astype(np.float32)) for n in range(count // 2)]
    return half + half


@pytest.fixture(scope="module", params=["exact", "compressed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, found = tmp_path_factory.mktemp("groups") / "index", vectors(COUNT, 1)
    langs, ids = [("en", "de", "fr")[n * 3 // COUNT] for n in range(COUNT)], [f"d{n}" for n in range(COUNT)]
    if request.param == "exact":
        offsets = torch.tensor([0, *(len(v) for v in found)]).cumsum(0)
        write_index(path, torch.cat(found), offsets, ids, langs, {})
        return path

    def documents(first: int) -> Iterator[Document]:
        yield from (Document(ids[n], langs[n], found[n], f"text {n}") for n in range(first, COUNT))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "CHUNK", 64)
        patch.setattr(join, "PART", 100)
        build.build_index(path, documents, 4)
    update.delete(path, ["d7", "d70"])
    assert len(CompressedIndex(path).parts) > 2
    return path


class Local:
    """`Searchers` in this process; group `dead` is lost so many times."""

    def __init__(self, folder: Path, count: int, dead: int = -1, times: int = 0) -> None:
        self.groups = plan(ends_of(open_index(folder)), count)
        self.found = [Group(folder, *edges) for edges in self.groups]
        self.dead, self.times, self.renewed = dead, times, 0

    def ask(self, group: int, queries: Sequence[torch.Tensor], k: int, lang: str | None) -> Hashable:
        self.asked = queries, k, lang
        return group

    def answer(self, handle: Hashable) -> list[Found]:
        if handle == self.dead and self.times:
            self.times -= 1
            raise Lost("killed")
        assert isinstance(handle, int)
        return self.found[handle].search(*self.asked)

    def renew(self, group: int) -> None:
        self.renewed += 1


QUERIES = [torch.from_numpy(np.random.default_rng(n).integers(-2, 3, (n, DIM)).astype(np.float32)) for n in (1, 4, 33)]


@pytest.mark.parametrize("count", [1, 3, 11])
@pytest.mark.parametrize("lang", [None, "de"])
def test_groups_answer_as_one_engine(folder: Path, count: int, lang: str | None) -> None:
    index = open_index(folder)
    cluster = ClusterEngine(Local(folder, count), index.langs, 0, False, print)
    for k in (1, 5, 200):
        for (ids, scores), (other, others) in zip(
            index.engine.search(QUERIES, k, lang), cluster.search(QUERIES, k, lang), strict=True
        ):
            assert other == ids and others.tolist() == scores.tolist()
    assert cluster.incomplete() is None


def test_the_plan_has_every_document_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        ends = np.cumsum(rng.integers(0, 9, rng.integers(1, 40)))
        groups = plan(ends, int(rng.integers(1, 12)))
        assert [n for first, last in groups for n in range(first, last)] == list(range(len(ends)))
        assert all(first < last for first, last in groups)
    even = plan(np.arange(1, 1001) * 3, 4)
    assert [last - first for first, last in even] == pytest.approx([250] * 4, abs=1)


def test_a_merge_is_the_best_of_everything() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scores = rng.integers(0, 4, 30).astype(np.float32)
        cuts, k = sorted(rng.integers(0, 31, 3).tolist()), int(rng.integers(1, 12))
        parts = []
        for some in np.split(np.arange(30), cuts):
            best = some[np.argsort(-scores[some], kind="stable")][:k]
            parts.append(Found(best, scores[best], [f"d{n}" for n in best]))
        order = np.argsort(-scores, kind="stable")[:k]
        ids, falling = merged(parts, k)
        assert ids == [f"d{n}" for n in order] and falling.tolist() == strictly_falling(scores[order]).tolist()


def test_a_lost_worker_is_asked_again(folder: Path) -> None:
    searchers, notes = Local(folder, 3, dead=1, times=2), []
    index = open_index(folder)
    cluster = ClusterEngine(searchers, index.langs, 2, False, notes.append)
    assert cluster.search(QUERIES, 9)[1][0] == index.engine.search(QUERIES, 9)[1][0]
    assert searchers.renewed == 2 and len(notes) == 2 and cluster.incomplete() is None


def test_an_answer_without_a_group_says_so(folder: Path) -> None:
    searchers = Local(folder, 3, dead=1, times=99)
    index = open_index(folder)
    first, last = searchers.groups[1]
    with pytest.raises(UserError, match=f"1 of 3 workers are lost \\(passages {first} to {last}.*ray.partial=true"):
        ClusterEngine(searchers, index.langs, 1, False, print).search(QUERIES, 5)
    cluster = ClusterEngine(searchers, index.langs, 1, True, print)
    ids = {name for found, _ in cluster.search(QUERIES, COUNT) for name in found}
    assert ids and not ids & {f"d{n}" for n in range(first, last)}
    assert cluster.incomplete() == (
        f"incomplete: {last - first} of {COUNT} passages were not searched (their workers are lost)"
    )
    searchers.times = 0
    cluster.search(QUERIES, 5)
    assert cluster.incomplete() is None
    with pytest.raises(UserError, match="not narrowed to ids"):
        cluster.search(QUERIES, 5, ids=["d1"])


def test_more_documents_than_a_budget_are_searched_no_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbertxm.engine.compressed.BUDGET", 12)
    rng = np.random.default_rng(3)
    found = [torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((4, DIM))).float()) for _ in range(200)]
    build.build_index(tmp_path / "i", lambda first: (Document(f"d{n}", "en", found[n]) for n in range(first, 200)), 8)
    index = open_index(tmp_path / "i")
    truth = index.engine_of(0, 200).search(QUERIES, 2, budget=200)
    one = [set(ids) for ids, _ in index.engine.search(QUERIES, 2)]
    many = [
        set(ids) for ids, _ in ClusterEngine(Local(tmp_path / "i", 4), index.langs, 0, False, print).search(QUERIES, 2)
    ]
    best = [set(ids) for ids, _ in truth]
    assert sum(len(m & b) for m, b in zip(many, best, strict=True)) >= sum(
        len(o & b) for o, b in zip(one, best, strict=True)
    )


def test_an_exact_group_is_an_exact_engine(folder: Path) -> None:
    group = Group(folder, 10, 40)
    assert group.version == groups_of.version(folder) and len(group.engine.ids) == 30
    if isinstance(group.engine, ExactEngine):
        assert group.engine.ids[0] == "d10"
