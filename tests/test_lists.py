"""Inverted lists beside plain loops, and searches through them beside searches without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_compressed import laid_out, some_documents, some_queries

from colbertxm.engine import compressed, index, lists
from colbertxm.engine.build import build_index
from colbertxm.engine.codec import fit_codec
from colbertxm.engine.compressed import CompressedEngine, Part
from colbertxm.engine.index import CompressedIndex, verify_compressed
from colbertxm.engine.kernels import LANES, Array
from colbertxm.engine.lists import Lists, best, write_lists
from colbertxm.engine.update import add, compact, delete
from colbertxm.errors import UserError
from colbertxm.files import _encode, _own_checksum

K, BLOCK = 40, 16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lists, index):
        monkeypatch.setattr(module, "BLOCK", BLOCK)
    monkeypatch.setattr(compressed, "FROM", 0)


def some_parts(seed: int) -> list[dict[str, Array]]:
    """Three parts of 50 documents in all, some of them empty."""
    rng = np.random.default_rng(seed)
    made = []
    for count in (7, 30, 13):
        lengths = rng.integers(0, 9, count)
        made.append(
            {"centroids": rng.integers(0, K, lengths.sum()).astype(np.uint16), "ends": np.cumsum(lengths).astype("<i8")}
        )
    return made


def opened(folder: Path, parts: list[dict[str, Array]], k: int = K) -> Lists:
    """What `write_lists` wrote, read."""
    count = sum(len(part["ends"]) for part in parts)
    files = write_lists(folder, parts, k)
    arrays = {name: np.load(folder / files[f"lists-{name}"]["file"], mmap_mode="r") for name in lists.FILES}
    return Lists(count=count, **arrays)


def sets(parts: list[dict[str, Array]]) -> list[set[int]]:
    """The centroids of each document."""
    found = []
    for part in parts:
        for first, last in zip(np.concatenate([[0], part["ends"][:-1]]), part["ends"], strict=True):
            found.append(set(part["centroids"][first:last].tolist()))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_lists_name_each_document_once_by_each_of_its_centroids(tmp_path: Path, seed: int) -> None:
    parts = some_parts(seed)
    found = opened(tmp_path, parts)
    held: list[set[int]] = [set() for _ in range(found.count)]
    for block in range(len(found.ends)):
        begin = 0
        for c, end in enumerate(found.ends[block].tolist()):
            first = int(found.begins[block])
            names = found.documents[first + begin : first + end].tolist()
            assert names == sorted(set(names))
            for name in names:
                held[block * BLOCK + name].add(c)
            begin = end
    assert held == sets(parts)
    assert found.sizes.tolist() == [sum(c in s for s in held) for c in range(K)]
    assert sorted(p.name.split("-")[1] for p in tmp_path.iterdir()) == ["begins", "documents", "ends", "sizes"]


@pytest.mark.parametrize("used", [1, 5, LANES])
@pytest.mark.parametrize("entries", [1, 30, 10**6])
def test_gains_are_those_of_the_best_centroid_that_is_reached(tmp_path: Path, used: int, entries: int) -> None:
    parts = some_parts(used)
    found = opened(tmp_path, parts)
    table = np.random.default_rng(entries).integers(0, 256, (K, LANES)).astype(np.uint8)
    table[:, used:] = 0
    expected = np.zeros(found.count, np.int64)
    for lane in range(used):
        floor = 255
        while floor > 1 and found.sizes[table[:, lane] >= floor].sum() < entries:
            floor -= 1
        for n, centroids in enumerate(sets(parts)):
            expected[n] += max(
                (int(table[c, lane]) - floor + 1 for c in centroids if table[c, lane] >= floor), default=0
            )
    assert found.gains(table, used, map, entries).tolist() == expected.tolist()
    assert expected.any()


def test_best_keeps_ties_and_the_allowed() -> None:
    gains = np.array([5, 0, 9, 5, 1, 9], np.uint16)
    assert best(gains, None, 1).tolist() == [2, 5]
    assert best(gains, None, 3).tolist() == [0, 2, 3, 5]
    assert best(gains, None, 100).tolist() == [0, 2, 3, 4, 5]
    assert best(gains, np.array([1, 1, 0, 1, 1, 0], bool), 2).tolist() == [0, 3]
    assert best(np.zeros(3, np.uint16), None, 2).tolist() == []


def engines(tmp_path: Path, count: int = 500, listed: int | None = None) -> tuple[CompressedEngine, CompressedEngine]:
    """Over the same documents without lists and with lists of the first `listed`."""
    documents = some_documents(count)
    vectors, offsets = laid_out(documents)
    codec = fit_codec(vectors, offsets, 4, 64, rounds=3)
    ids, langs = [d.id for d in documents], [d.lang for d in documents]
    half = count // 3
    cut = int(offsets[half])
    parts = [
        Part.of(codec.encode(vectors[:cut], offsets[: half + 1]), offsets[: half + 1].numpy()),
        Part.of(codec.encode(vectors[cut:], offsets[half:] - cut), (offsets[half:] - cut).numpy()),
    ]
    arrays: list[dict[str, Array]] = [{"centroids": p.codes.centroids, "ends": p.ends} for p in parts]
    if listed is not None:
        arrays = [{"centroids": arrays[0]["centroids"], "ends": arrays[0]["ends"][:listed]}]
    alive = np.arange(count) % 7 != 3
    plain = CompressedEngine(codec, parts, ids, langs, alive)
    return plain, CompressedEngine(codec, parts, ids, langs, alive, lists=opened(tmp_path, arrays, 64))


@pytest.mark.parametrize("listed", [None, 100])
def test_lists_change_no_hit_where_they_leave_enough(tmp_path: Path, listed: int | None) -> None:
    plain, through = engines(tmp_path, listed=listed)
    documents = some_documents(500)
    for query in some_queries(documents, 6, 5) + some_queries(documents, 2, 70):
        for filters in ({}, {"lang": "de"}, {"ids": [f"p{n}" for n in range(0, 400, 2)]}):
            wanted = plain.search([query], 10, budget=60, **filters)[0]  # type: ignore[arg-type]
            for threads in (1, 3):
                ids, scores = through.search([query], 10, budget=60, threads=threads, **filters)[0]  # type: ignore[arg-type]
                assert ids == wanted[0]
                assert np.array_equal(scores, wanted[1])


def test_few_candidates_hold_most_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, through = engines(tmp_path)
    documents = some_documents(500)
    monkeypatch.setattr(compressed, "CANDIDATES", 60)
    monkeypatch.setattr(compressed, "CANDIDATES_PER_BUDGET", 1)
    queries = some_queries(documents, 40)
    seen = 0

    def first(question: object, part: Part, chosen: Array, inner=plain._first) -> Array:  # type: ignore[no-untyped-def]
        nonlocal seen
        seen += len(chosen)
        return inner(question, part, chosen)

    through._first = first  # type: ignore[method-assign]
    truth = [set(ids) for ids, _ in plain.search(queries, 10)]
    hits = [set(ids) for ids, _ in through.search(queries, 10, budget=50)]
    assert np.mean([len(a & b) / 10 for a, b in zip(truth, hits, strict=True)]) > 0.9
    assert seen < 40 * 120  # of 40 * 420


def test_lists_that_lie_read_nothing_outside(tmp_path: Path) -> None:
    parts = some_parts(0)
    true = opened(tmp_path, parts)
    table = np.random.default_rng(0).integers(0, 256, (K, LANES)).astype(np.uint8)
    rng = np.random.default_rng(1)
    for _ in range(50):
        ends = rng.integers(0, 2**32, true.ends.shape).astype(np.uint32)
        found = Lists(true.documents, ends, true.begins, true.sizes, true.count)
        assert len(found.gains(table, LANES, map, 10**6)) == true.count


def test_lists_are_built_kept_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "FROM", 100)
    folder = tmp_path / "index"
    documents, more = some_documents(180), some_documents(60, seed=9, prefix="n")

    def state() -> tuple[int, set[str]]:
        opened = CompressedIndex(folder)
        verify_compressed(folder)
        return opened.manifest["listed"], {
            e["file"] for n, e in opened.manifest["files"].items() if n.startswith("lists-")
        }

    build_index(folder, lambda n: documents[n:90], bits=2)
    assert state() == (0, set())  # few documents
    build_index(folder, lambda n: documents[n:], bits=2)
    listed, first = state()
    assert listed == 180 and len(first) == 4
    add(folder, more[:10])
    assert state() == (180, first)
    delete(folder, ["p3", "n2"])
    assert state() == (180, first)
    found, _ = CompressedIndex(folder).engine.search([more[8].vectors], 2)[0]
    assert found[0] == "n8"  # without lists and found all the same
    add(folder, more[10:])
    listed, second = state()
    assert listed == 240 and not first & second
    wanted = CompressedIndex(folder).engine.search([more[8].vectors, documents[5].vectors], 5)
    compact(folder)
    assert state()[0] == 238
    for (ids, scores), (same, equal) in zip(
        wanted, CompressedIndex(folder).engine.search([more[8].vectors, documents[5].vectors], 5), strict=True
    ):
        assert ids == same
        assert np.array_equal(scores, equal)


@pytest.mark.parametrize("listed", [-1, 10**9, "many"])
def test_a_manifest_that_lies_about_lists_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: object
) -> None:
    monkeypatch.setattr(lists, "FROM", 50)
    build_index(tmp_path, lambda n: some_documents(80)[n:], bits=2)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes()) | {"listed": listed}
    manifest["sha256"] = _own_checksum(manifest)
    (tmp_path / "manifest.json").write_bytes(_encode(manifest))
    with pytest.raises(UserError, match="lists|describe"):
        _ = CompressedIndex(tmp_path).engine
