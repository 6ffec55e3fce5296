"""Building: what a kill costs, what overlaps, what is refused, which ids are seen, what memory is taken."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Killed
from index_jobs import documents, files

from colbertxm.engine import build, room, sample, seen, spool, update
from colbertxm.engine.build import build_index
from colbertxm.engine.chunks import chunks
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.index import Document, verify_compressed
from colbertxm.engine.room import Room
from colbertxm.engine.sample import Sample
from colbertxm.engine.seen import Seen, places
from colbertxm.engine.strings import Strings, kept, packed
from colbertxm.errors import UserError

SOME = documents(300)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 400 vectors, and no waiting for the disk."""
    monkeypatch.setattr(room, "CHUNK", 400)
    monkeypatch.setattr(spool.os, "fsync", lambda handle: None)


def stream(first: int) -> Iterator[Document]:
    return iter(SOME[first:])


def draw(seed: int) -> Iterator[Document]:
    return (SOME[n] for n in np.random.default_rng(seed).permutation(len(SOME)).tolist())


def laid_out() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([d.vectors for d in SOME]), torch.tensor([0, *np.cumsum([len(d.vectors) for d in SOME]).tolist()])


ROADS = {"spool": None, "sample": Sample(draw, len(SOME))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of an undisturbed build by each road."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "CHUNK", 400)
        patch.setattr(spool.os, "fsync", lambda handle: None)
        for road, drawn in ROADS.items():
            folder = tmp_path_factory.mktemp("whole") / road
            build_index(folder, stream, 2, sample=drawn)
            found[road] = dict(files(folder))
    return found


@pytest.mark.parametrize("at", [0, 1, 5, 13, 40, 75])
@pytest.mark.parametrize("road", ROADS)
def test_killed_at_a_rename_it_ends_with_the_same_bytes(
    road: str,
    at: int,
    small: None,
    whole: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace, count, asked = spool.os.replace, 0, []

    def killing(source: Path, target: Path) -> None:
        nonlocal count
        if count == at:
            raise Killed
        count += 1
        replace(source, target)

    def noted(first: int) -> Iterator[Document]:
        asked.append(first)
        return stream(first)

    monkeypatch.setattr(spool.os, "replace", killing)
    with pytest.raises(Killed):
        build_index(tmp_path / "cut", noted, 2, sample=ROADS[road])
    monkeypatch.setattr(spool.os, "replace", replace)
    build_index(tmp_path / "cut", noted, 2, sample=ROADS[road])
    assert dict(files(tmp_path / "cut")) == whole[road]
    if at == 40:
        assert asked[-1] > 0  # what is there is not asked for again


def test_both_roads_find_the_same(small: None, tmp_path: Path) -> None:
    found = []
    for name, drawn in ROADS.items():
        index = build_index(tmp_path / name, stream, 8, sample=drawn)
        verify_compressed(tmp_path / name)
        assert list(index.ids) == [d.id for d in SOME] and list(index.langs) == [d.lang for d in SOME]
        assert [index.texts[n] for n in (0, 150, 299)] == [SOME[n].text for n in (0, 150, 299)]
        assert len(index.parts) > 3
        queries = [d.vectors[:3] for d in SOME[:40] if len(d.vectors) > 2]
        found.append([ids[0] for ids, _ in index.engine.search(queries, 3, budget=300)])
        truth = ExactEngine(*laid_out(), [d.id for d in SOME], [d.lang for d in SOME]).search(queries, 3)
        assert np.mean([first == ids[0] for first, (ids, _) in zip(found[-1], truth, strict=True)]) > 0.9
    assert np.mean([one == other for one, other in zip(*found, strict=True)]) > 0.9


def test_the_spool_goes_as_its_parts_come_and_a_sample_needs_none(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: dict[str, set[int]] = {}
    publish = build.publish
    for name, drawn in ROADS.items():
        work = tmp_path / name / ".build"

        def looking(*given: object, work: Path = work, name: str = name) -> None:
            met[name] = {len(list(work.glob(kind))) for kind in ("chunk-*.bin", "spooled")}
            publish(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(build, "publish", looking)
        build_index(tmp_path / name, stream, sample=drawn)
    assert met == {"spool": {0, 1}, "sample": {0}}


def test_a_chunk_is_encoded_while_the_next_is_made(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoding, made = build.encode_blocks, threading.Event(), threading.Event()
    waited = []

    def slow(*given: object) -> object:
        encoding.set()
        waited.append(made.wait(60))
        return encode(*given)  # type: ignore[arg-type]

    def producing(first: int) -> Iterator[Document]:
        for n, document in enumerate(SOME):
            if n == 100:  # in the second chunk
                assert encoding.wait(60)
                made.set()
            yield document

    monkeypatch.setattr(build, "encode_blocks", slow)
    build_index(tmp_path / "index", producing, sample=ROADS["sample"])
    assert all(waited)


@pytest.mark.parametrize("road", ROADS)
def test_errors_of_stream_and_disk_come_out_and_what_is_done_stays(
    road: str, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(first: int) -> Iterator[Document]:
        yield from SOME[first:200]
        raise RuntimeError("the encoder is out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        build_index(tmp_path / "index", failing, sample=ROADS[road])
    kind = {"spool": "chunk", "sample": "part"}[road]
    held = len(list((tmp_path / "index/.build").glob(f"{kind}-*.json")))
    assert held > 1
    with monkeypatch.context() as patch:
        patch.setattr(spool, "put", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="No space left on device; free some space"):
            build_index(tmp_path / "index", stream, sample=ROADS[road])
    assert len(list((tmp_path / "index/.build").glob(f"{kind}-*.json"))) == held
    twice = SOME[5]._replace(text="another")
    with pytest.raises(UserError, match="'p5' occurs twice"):
        build_index(tmp_path / "index", lambda n: iter([*SOME, twice][n:]), sample=ROADS[road])
    assert not (tmp_path / "index/.build").exists()  # of a wrong stream nothing is kept


def test_another_source_begins_anew(small: None, tmp_path: Path) -> None:
    asked = []

    def failing(first: int) -> Iterator[Document]:
        asked.append(first)
        yield from SOME[first:]
        raise RuntimeError

    for source in ("model a", "model a", "model b"):
        with pytest.raises(RuntimeError):
            build_index(tmp_path / "index", failing, source=source)
    assert asked[0] == asked[2] == 0 < asked[1]
    (tmp_path / "index/.build/settings.json").unlink()  # killed while it was thrown away
    index = build_index(tmp_path / "index", stream, source="model b")
    assert list(index.ids) == [d.id for d in SOME]


def test_wrong_documents_are_refused(tmp_path: Path) -> None:
    def of(*vectors: torch.Tensor) -> None:
        build_index(tmp_path / "index", lambda n: [Document(f"d{i}", "en", v) for i, v in enumerate(vectors)][n:])

    with pytest.raises(UserError, match="'d1' has vectors of shape .2, 16.: all must be .vectors, 8."):
        of(torch.ones(2, 8), torch.ones(2, 16))
    with pytest.raises(UserError, match="'d0' has vectors of shape .8.: all must be"):
        of(torch.ones(8))
    with pytest.raises(UserError, match="12 dimensions cannot be compressed: a multiple of 8"):
        of(torch.ones(2, 12))
    with pytest.raises(UserError, match="'d1' has vectors that are not finite"):
        of(torch.ones(2, 8), torch.full((2, 8), 1e6))  # float16 ends at 65504
    with pytest.raises(UserError, match="no passage has a vector"):
        of(torch.ones(0, 8))
    with pytest.raises(UserError, match="memory_mb = 399: a build needs at least 400 MB"):
        build_index(tmp_path / "index", stream, memory_mb=399)


@pytest.mark.parametrize("road", ROADS)
def test_a_chunk_without_vectors_or_texts(road: str, small: None, tmp_path: Path) -> None:
    empty = [Document(f"e{n}", "en", torch.ones(0, 16), "x" * 600_000 * (n == 1)) for n in range(3)]
    some = [*(d._replace(text="") for d in SOME), *empty]
    index = build_index(tmp_path / "index", lambda n: iter(some[n:]), sample=ROADS[road])
    assert list(index.ids) == [d.id for d in some]
    assert len(index.engine.search([SOME[0].vectors], 5)[0][0]) == 5
    verify_compressed(tmp_path / "index")
    alone = build_index(tmp_path / "alone", lambda n: iter([empty[1], SOME[0], empty[1]._replace(id="e9")][n:]))
    assert [len(part["ends"]) for part in alone.parts] == [2, 1] and len(alone.engine.search([SOME[0].vectors], 5)) == 1


def test_chunks_hold_the_stream_in_order() -> None:
    languages: list[str] = []
    found = list(chunks(SOME, languages, lambda dim: 400))
    assert languages == ["en", "de", "sw"] == found[-1].languages and found[0].languages == ["en"]
    assert max(len(c.vectors) for c in found) <= 400 and min(len(c.vectors) for c in found[:-1]) > 380
    vectors = torch.from_numpy(np.concatenate([c.vectors for c in found])).float()
    assert torch.equal(vectors, torch.cat([d.vectors for d in SOME]).half().float())
    assert [name for c in found for name in Strings([c.rows.ids])] == [d.id for d in SOME]
    large = Document("large", "en", torch.ones(900, 16))
    assert [len(c.vectors) for c in chunks([*SOME[:2], large, *SOME[:2]], [], lambda dim: 400)][1] == 900
    wordy = [d._replace(text="x" * 600_000) for d in SOME[:10]]
    assert [len(c.rows.ends) for c in chunks(wordy, [], lambda dim: 400)] == [1] * 10


@pytest.mark.parametrize("collide", [False, True])
@pytest.mark.parametrize("limit", [0, 20, 10_000])
def test_repeated_ids_are_seen_sooner_or_later(
    limit: int, collide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if collide:  # three hashes for all
        monkeypatch.setattr(seen, "hashes", lambda pair: np.arange(len(pair[1]), dtype=np.uint64) % np.uint64(3))

    def fill(pieces: list[list[str]]) -> None:
        held = Seen(limit)
        for n, names in enumerate(pieces):
            raw, ends = packed(names)
            held.check((raw, ends))
            np.save(tmp_path / f"{n}.npy", raw)
            np.save(tmp_path / f"{n}-ends.npy", ends)
            held.add(tmp_path / f"{n}.npy", tmp_path / f"{n}-ends.npy")
        held.finish()

    names = [f"{'ü' * (n % 3)}{n}" for n in range(60)] + ["", "\ud800"]
    pieces = [names[:25], names[25:30], [], names[30:]]
    fill(pieces)
    for piece, repeated in ((0, names[3]), (1, names[0]), (3, ""), (3, names[26]), (3, names[29])):
        wrong = [[*names, repeated] if n == piece else names for n, names in enumerate(pieces)]
        with pytest.raises(UserError, match="occurs twice"):
            fill(wrong)


def test_hashes_are_the_same_everywhere_and_differ() -> None:
    found = seen.hashes(packed([f"d{n}" for n in range(50_000)]))
    assert len(np.unique(found)) == 50_000
    assert seen.hashes(packed(["", "a", "passage-1"])).tolist() == [
        17665956581633026203,
        198367012849983736,
        15405953639586183669,
    ]


def test_places_are_those_of_a_table() -> None:
    rng = np.random.default_rng(0)
    names = [f"{n}" for n in range(200)]
    parts = [packed(names[:70]), packed([]), packed(names[70:]), packed(names[:20])]
    alive = [rng.random(len(ends)) < 0.5 for _, ends in parts]
    alive[3] &= ~alive[0][:20]
    everything = [*names, *names[:20]]
    table = {everything[n]: n for n in np.flatnonzero(np.concatenate(alive)).tolist()}
    wanted = [*names[::3], "missing", "1000"]
    assert places(parts, alive, wanted) == {name: table[name] for name in wanted if name in table}
    assert places(parts, alive, []) == {}


def test_kept_strings() -> None:
    names = ["a", "", "ü", "long one", ""]
    flags = np.array([True, True, False, True, False])
    assert list(Strings([kept(packed(names), flags)])) == ["a", "", "long one"]


def test_what_is_drawn_says_how_large_the_collection_is() -> None:
    many = [Document(str(n), "en", torch.ones(1 + n % 3, 128)) for n in range(5000)]
    for count in (5000, 50_000_000):
        drawn = sample.drawn(Sample(lambda seed: iter(many), count), 0, Room(400))
        assert drawn.total == pytest.approx(2 * count, rel=0.01)
        assert int(drawn.offsets[-1]) == len(drawn.vectors) <= Room(400).sample(128)
    assert len(drawn.vectors) == 9999  # all there is
    longer = [Document(str(n), "en", torch.ones(60, 8)) for n in range(1200)]
    drawn = sample.drawn(Sample(lambda seed: iter(longer), 1000), 0, Room(400))
    assert len(drawn.offsets) == 1001  # 20 vectors for each of 2048 centroids, and 1000 documents, are enough


def test_too_little_memory_for_the_papers_centroids_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Room, "sample", lambda self, dim: 2400)
    vectors = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    drawn = sample.Drawn(vectors, torch.arange(0, 2001, 4), 100_000_000)
    codec, error = sample.fitted(drawn, 1, 0, Room(400))
    assert len(codec.rows) == 512 and error > 0
    assert "memory_mb=400 holds a sample for 512 centroids instead of 131072" in capsys.readouterr().err


def test_an_id_that_is_not_there_is_refused_with_a_like_one(small: None, tmp_path: Path) -> None:
    build_index(tmp_path / "index", stream)
    with pytest.raises(UserError, match="no passage 'p1000' is in .* .did you mean 'p1\\d*'.*nothing was deleted"):
        update.delete(tmp_path / "index", ["p7", "p1000"])
    update.delete(tmp_path / "index", ["p7", "p8"])
    with pytest.raises(UserError, match="no passage 'p7'"):
        update.delete(tmp_path / "index", ["p7"])
    again = update.add(tmp_path / "index", [SOME[7], SOME[8]])
    alive = [name for name, lives in zip(again.ids, again.alive.tolist(), strict=True) if lives]
    assert sorted(alive) == sorted(d.id for d in SOME)
    with pytest.raises(UserError, match="'new' occurs twice"):
        update.add(tmp_path / "index", [SOME[1]._replace(id="new"), SOME[2]._replace(id="new")])
    with pytest.raises(UserError, match="'p8' is in .* already"):
        update.add(tmp_path / "index", [SOME[1]._replace(id="new"), SOME[8]])


MEMORY = """
import json, sys
from pathlib import Path
import numpy as np, torch
from colbertxm.engine.build import build_index
from colbertxm.engine.exact import ExactEngine
from colbertxm.engine.index import Document
from colbertxm.engine.sample import Sample
torch.set_num_threads(1)
def status(name):  # MiB; ru_maxrss would start from the parent's
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024
def stream(first):
    generator = torch.Generator().manual_seed(0)
    for n in range(first, COUNT):
        yield Document(f"passage-{n}", "en", torch.randn(200, 128, generator=generator), "text " * 50)
COUNT, found = 500, {}
for road in ("spool", "sample"):  # what is compiled once is not the build's
    build_index(Path(sys.argv[1]) / f"warm {road}", stream, 1, memory_mb=400)
COUNT = int(sys.argv[2])
for road in ("spool", "sample"):
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    sample = Sample(lambda seed: stream(0), COUNT) if road == "sample" else None
    build_index(Path(sys.argv[1]) / road, stream, 1, memory_mb=400, sample=sample)
    found[road] = status("VmHWM") - before
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the memory from /proc")
def test_a_build_takes_no_more_than_its_memory(tmp_path: Path) -> None:
    run = [sys.executable, "-c", MEMORY, str(tmp_path), "1000"]  # 200,000 vectors, 100 MB of float32
    taken = json.loads(subprocess.check_output(run, stderr=subprocess.DEVNULL))
    assert all(50 < peak < 400 for peak in taken.values()), taken
