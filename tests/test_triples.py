"""Triples on disk: every row comes back with its texts, whatever the ids; nothing grows with their number."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from colbertxm.data import blocks
from colbertxm.data.store import Store
from colbertxm.data.store_build import build_store
from colbertxm.data.triples import Triples, to_rows, triples_from_tsv, write_triples
from colbertxm.errors import UserError
from colbertxm.records import Text, Triple

QUERY_IDS = {"ints": ["1185869", "0", "700"], "strings": ["q1", "q2", "q3"], "sparse": ["3", "12", "900000000000"]}


def stores(folder: Path, ids: list[str], passages: int = 50) -> tuple[Store, Store]:
    for lang, word in (("en", "text"), ("de", "Wort")):
        build_store(folder / "queries", lang, [Text(id, f"{word} of {id}", lang) for id in ids])
        build_store(folder / "passages", lang, [Text(str(n), f"{word} {n}", lang) for n in range(passages)])
    return Store(folder / "queries", "en"), Store(folder / "passages", "en")


def random_ids(ids: list[str], count: int, negatives: int = 1) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [
        [ids[rng.integers(len(ids))], *map(str, rng.integers(50, size=1 + negatives).tolist())] for _ in range(count)
    ]


def tsv(path: Path, rows: list[list[str]], end: str = "\n") -> Path:
    path.write_bytes("".join("\t".join(row) + end for row in rows).encode())
    return path


@pytest.mark.parametrize("name", list(QUERY_IDS))
@pytest.mark.parametrize(("end", "negatives", "block"), [("\n", 1, 2**21), ("\r\n", 3, 50), ("\n", 0, 50)])
def test_a_file_of_ids_comes_back_with_its_texts(
    tmp_path: Path, name: str, end: str, negatives: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    queries, passages = stores(tmp_path, QUERY_IDS[name])
    ids = random_ids(QUERY_IDS[name], 200, negatives)
    triples = triples_from_tsv(tmp_path / "triples", queries, passages, tsv(tmp_path / "t.tsv", ids, end))
    assert len(triples) == 200 and triples.width == 1 + negatives and triples.scores([0]) is None
    for index in (0, 5, 199):
        query, *others = ids[index]
        (read,) = triples.read([index])
        positive, *rest = [Text(id, f"text {id}", "en") for id in others]
        assert read == Triple(Text(query, f"text of {query}", "en"), positive, tuple(rest))
    assert [[t.query.id, t.positive.id, *(n.id for n in t.negatives)] for t in triples.read(range(200))] == ids
    triples.verify()


def test_translate_train_is_the_same_ids_in_another_language(tmp_path: Path) -> None:
    queries, passages = stores(tmp_path, QUERY_IDS["ints"])
    triples = write_triples(tmp_path / "t", queries, passages, [[[0, 3, 4], [2, 5, 6]]])
    english, german = triples.read([1, 0]), triples.read([1, 0], "de", "de")
    assert [t.positive.id for t in english] == [t.positive.id for t in german] == ["5", "3"]
    assert german[0].positive == Text("5", "Wort 5", "de") and german[0].query.text == "Wort of 1185869"
    mixed = triples.read([1, 0], ["en", "de"], ["de", "en"])
    assert [t.query.lang for t in mixed] == ["en", "de"]
    assert [(t.positive.lang, t.negatives[0].lang) for t in mixed] == [("de", "de"), ("en", "en")]


def test_blocks_of_rows_and_scores_of_any_size(tmp_path: Path) -> None:
    queries, passages = stores(tmp_path, QUERY_IDS["ints"])
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.integers(3, size=100), rng.integers(50, size=(100, 4))])
    scores = rng.normal(size=(100, 4)).astype(np.float32)
    parts = [(rows[a:b], scores[a:b]) for a, b in ((0, 0), (0, 1), (1, 1), (1, 60), (60, 100))]
    triples = write_triples(tmp_path / "a", queries, passages, iter(parts))
    write_triples(tmp_path / "b", queries, passages, [(rows, scores)])
    assert np.array_equal(triples.rows(range(100)), rows) and triples.rows([3]).dtype == np.int32
    found = triples.scores([7, 2])
    assert found is not None and np.array_equal(found, scores[[7, 2]])
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in (tmp_path / "b").iterdir()}
    copied = pickle.loads(pickle.dumps(triples))
    assert np.array_equal(copied.rows([5]), rows[5:6])


@pytest.mark.parametrize("name", list(QUERY_IDS))
def test_ids_become_rows(tmp_path: Path, name: str) -> None:
    queries, passages = stores(tmp_path, QUERY_IDS[name])
    if name == "strings":
        with pytest.raises(UserError, match="triple 0: the store .*queries has no id '1'"):
            to_rows([[1, 2]], queries, passages)
        return
    ids = np.array(random_ids(QUERY_IDS[name], 20), np.int64)
    rows = to_rows(ids, queries, passages)
    assert [queries.ids.id(r) for r in rows[:, 0].tolist()] == [str(i) for i in ids[:, 0].tolist()]
    assert np.array_equal(rows[:, 1:], ids[:, 1:])
    ids[7, 2] = 50
    with pytest.raises(UserError, match="triple 7: the store .*passages has no id '50'"):
        to_rows(ids, queries, passages)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("700\t1\t2\n700\t1\n", r"t.tsv:2: expected 3 fields between tabs, found 2"),
        ("700\t1\t2\n\n700\t1\t2\n", r"t.tsv:2: expected 3 fields between tabs, found 1"),
        ("700\t1\t2\n700\t1\t2\t3\n", r"t.tsv:2: expected 3 fields .* found 4"),
        ("700\n", r"t.tsv:1: expected query id, positive's id"),
        ("700\t1\t2\n701\t1\t2\n", r"t.tsv:2: the store .*queries has no id '701' \(query, field 1\)"),
        ("700\t1\t2\n700\t1\t50\n", r"t.tsv:2: the store .*passages has no id '50' \(passage, field 3\)"),
        ("700\t1\t2\n700\t\t2\n", r"t.tsv:2: .*passages has no id '' \(passage, field 2\)"),
        ("700\t1\t2\n700\t1\t02\n", r"t.tsv:2: .* has no id '02'"),
        ("700\t1\t2\n700\t1\t2 \n", r"t.tsv:2: .* has no id '2 '"),
        ("700\t1\t2\n700\t1\t-2\n", r"t.tsv:2: .* has no id '-2'"),
        ("700\t1\t2\n700\t1\t2\0\n", r"t.tsv:2: .* has no id '2.x00'"),
        ("", "the source is empty"),
    ],
)
def test_bad_lines_are_refused_by_file_and_line_and_leave_nothing(tmp_path: Path, lines: str, match: str) -> None:
    queries, passages = stores(tmp_path, QUERY_IDS["ints"])
    (tmp_path / "t.tsv").write_text(lines)
    with pytest.raises(UserError, match=match):
        triples_from_tsv(tmp_path / "triples", queries, passages, tmp_path / "t.tsv")
    assert not (tmp_path / "triples").exists()


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    queries, passages = stores(tmp_path, QUERY_IDS["ints"])
    whole = gzip.compress(tsv(tmp_path / "t.tsv", random_ids(QUERY_IDS["ints"], 500)).read_bytes())
    for damage in (whole[:-9], whole[:200], whole[:100] + b"\xff" * 50 + whole[150:], b"not gzip\n"):
        (tmp_path / "t.tsv.gz").write_bytes(damage)
        with pytest.raises(UserError, match=r"t.tsv.gz is truncated or damaged"):
            triples_from_tsv(tmp_path / "triples", queries, passages, tmp_path / "t.tsv.gz")
    with pytest.raises(UserError, match="cannot read .*absent.tsv: No such file"):
        triples_from_tsv(tmp_path / "triples", queries, passages, tmp_path / "absent.tsv")


@pytest.mark.parametrize(
    ("block", "match"),
    [
        ([[0, 1], [3, 1]], "query rows between 0 and 3, but .*queries has 3: are these ids"),
        ([[0, 50]], "passage rows between 50 and 50"),
        ([[0, -1]], "passage rows between -1"),
        ([[0.5, 1]], "whole numbers"),
        ([0, 1], "whole numbers"),
        ([[0]], "whole numbers"),
        (([[0, 1]], [[np.nan]]), "finite"),
        (([[0, 1]], [[1.0, 2.0]]), "finite numbers .b, k., one a passage"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, block: list[object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        write_triples(tmp_path / "t", *stores(tmp_path, QUERY_IDS["ints"]), [block])  # type: ignore[list-item]
    assert not (tmp_path / "t").exists()


def test_blocks_of_different_shapes_are_refused(tmp_path: Path) -> None:
    both = stores(tmp_path, QUERY_IDS["ints"])
    for second in ([[0, 1, 2]], ([[0, 1]], [[1.0]])):
        with pytest.raises(UserError, match="triple 1: all triples have as many passages"):
            write_triples(tmp_path / "t", *both, [[[0, 1]], second])  # type: ignore[list-item]
    triples = write_triples(tmp_path / "t", *both, [[[0, 1]]])
    with pytest.raises(UserError, match="holds triples already"):
        write_triples(tmp_path / "t", *both, [[[0, 1]]])
    with pytest.raises(IndexError, match="has 1"):
        triples.rows([1])


def test_triples_of_other_stores_and_damaged_files_are_refused(tmp_path: Path) -> None:
    queries, passages = stores(tmp_path, QUERY_IDS["ints"])
    write_triples(tmp_path / "t", queries, passages, [[[0, 1, 2], [1, 2, 3]]])
    other = stores(tmp_path / "other", QUERY_IDS["sparse"], passages=51)
    with pytest.raises(UserError, match="other queries than those of .*other/queries"):
        Triples(tmp_path / "t", other[0], passages)
    with pytest.raises(UserError, match="other passages"):
        Triples(tmp_path / "t", queries, other[1])
    (path,) = (tmp_path / "t").glob("rows-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=path.name):
        Triples(tmp_path / "t", queries, passages)
    path.write_bytes(whole[:-1] + b"\x01")
    damaged = Triples(tmp_path / "t", queries, passages)
    for look in (damaged.verify, lambda: damaged.read([1])):
        with pytest.raises(UserError, match=path.name):
            look()


def slow_blocks() -> Iterator[np.ndarray]:
    for _ in range(100):
        yield np.ones((1000, 3), np.int32)
    time.sleep(60)


def write_until_killed(folder: Path) -> None:
    write_triples(folder / "t", Store(folder / "queries"), Store(folder / "passages"), slow_blocks())


def test_kill_9_leaves_nothing_that_opens_and_the_next_build_sweeps(tmp_path: Path) -> None:
    both = stores(tmp_path, QUERY_IDS["ints"])
    process = multiprocessing.get_context("spawn").Process(target=write_until_killed, args=(tmp_path,))
    process.start()
    part, deadline = tmp_path / "t" / "rows.npy.part", time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 10**6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with pytest.raises(UserError, match="holds no set of triples"):
        Triples(tmp_path / "t", *both)
    assert len(write_triples(tmp_path / "t", *both, [[[0, 1]]])) == 1
    assert len([p for p in (tmp_path / "t").iterdir() if p.name != ".lock"]) == 2


TRAIN = """
import re, sys
from pathlib import Path
import numpy as np
from colbertxm.data.order import Order
from colbertxm.data.store import Store
from colbertxm.data.triples import Triples
folder = Path(sys.argv[1])
def own():  # KiB of memory that belongs to this process alone: pages of mapped files are the system's
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = own()
triples = Triples(folder / sys.argv[2], Store(folder / "queries", "en"), Store(folder / "passages", "en"))
for batch in Order(len(triples), 128, 300, 1):
    triples.read([index for _, index in batch])
print(own() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_memory_of_a_training_process_does_not_grow_with_the_triples(tmp_path: Path) -> None:
    both = stores(tmp_path, QUERY_IDS["ints"])
    block = np.ones((10**5, 3), np.int32)
    taken = {}
    for name, count in (("small", 1), ("large", 50)):  # 50: 60 MB of rows
        write_triples(tmp_path / name, *both, (block for _ in range(count)))
        taken[name] = int(subprocess.check_output([sys.executable, "-c", TRAIN, str(tmp_path), name]))
    assert abs(taken["large"] - taken["small"]) < 2048, taken
