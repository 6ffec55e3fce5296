"""Texts by memory map: what is written comes back, by either way in; damage, kills and mistakes are told by name."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertxm.data import blocks
from colbertxm.data.store import Store
from colbertxm.data.store_build import build_store, build_store_from_tsv
from colbertxm.errors import UserError
from colbertxm.records import Text

CONTENTS = ["A lamp.", "Licht \u2028 ein", "消す", "", "a\rb \x85 c", "x" * 5000, "\U0001f4a1", "last"]
ID_SETS = {
    "dense": [str(n) for n in range(8)],
    "dense shuffled": [str(n) for n in (3, 1, 0, 2, 7, 6, 5, 4)],
    "ints": ["5", "10", "70", "71", "800", "801", "9000", "123456789012345678"],
    "ints shuffled": ["70", "5", "800", "10", "71", "9000", "801", "123456"],
    "strings": ["a", "b/ü", "007", "7", "msmarco_passage_1", "9" * 19, "-1", "x" * 300],
    "late strings": ["1", "2", "3", "4", "5", "6", "7", "d"],
}


def texts(ids: list[str], lang: str = "en") -> list[Text]:
    return [Text(id, CONTENTS[n % 8], lang) for n, id in enumerate(ids)]


def tsv(path: Path, rows: list[Text], end: str = "\n", head: str = "", last: bool = True) -> Path:
    content = head + end.join(f"{t.id}\t{t.text}" for t in rows) + (end if last else "")
    path.write_bytes(content.encode())
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("name", list(ID_SETS))
@pytest.mark.parametrize("block", [7, 64, 2**21])
def test_both_ways_in_give_the_same_bytes_and_every_text_back(
    tmp_path: Path, name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = texts(ID_SETS[name])
    store = build_store(tmp_path / "a", "en", iter(rows))
    monkeypatch.setattr(blocks, "BLOCK", block)
    build_store_from_tsv(tmp_path / "b", "English", tsv(tmp_path / "rows.tsv", rows))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(store) == 8 and store.ids.kind == ("strings" if "late" in name else name.split()[0])
    assert [store[t.id] for t in rows] == rows
    assert store.texts([store.row(t.id) for t in rows]) == rows
    assert sorted(store.all(), key=lambda t: t.id) == sorted(rows, key=lambda t: t.id)
    store.verify()
    for unknown in ("", "8x", "11", "00", "-0", "99999999999999999999", "\udc80", "٣"):
        assert unknown not in store
        with pytest.raises(UserError, match="has no id"):
            store[unknown]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("head", ["", "\ufeff"])
@pytest.mark.parametrize("last", [0, 1, 4])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("block", [1, 2, 2**21])
def test_line_ends_bom_last_newline_and_gzip_make_no_difference(
    tmp_path: Path, end: str, head: str, last: int, packed: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    rows = texts(ID_SETS["ints"])
    source = tsv(tmp_path / "rows.tsv", rows, end, head, last > 0)
    source.write_bytes(source.read_bytes() + end.encode() * (last - 1))  # empty lines at the end
    if packed:
        (tmp_path / "rows.tsv.gz").write_bytes(gzip.compress(source.read_bytes()))
        source = tmp_path / "rows.tsv.gz"
    assert list(build_store_from_tsv(tmp_path / "s", "en", source).all()) == rows


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"1\ta\n2\tb\tc\n", r"rows.tsv:2: expected 2 fields between tabs, found 3"),
        (b"1\ta\n\n2\tb\n", r"rows.tsv:2: expected 2 fields between tabs, found 1"),
        (b"1\ta\n2\n3\tb\tc\n", r"rows.tsv:2: expected 2 fields .* found 1"),
        (b"1\ta\n\tb\n", r"rows.tsv:2: the id is empty"),
        (b"1\ta\n2\tb\x00\n", r"rows.tsv:2: holds a NUL byte"),
        (b"1\ta\n2\t\xff\n", r"rows.tsv:2: is not UTF-8"),
        (b"1\ta\n2\t\xe2\x82\n\x82\t\n", r"rows.tsv:2: is not UTF-8"),
        (b"1\ta\n2\tb\n1\tc\n2\td\n", r"rows.tsv:3: the id '1' stands here a second time, first at .*rows.tsv:1"),
        (b"x\ta\n2\tb\nx\tc\n2\td\n", r"rows.tsv:3: the id 'x' stands here a second time, first at .*rows.tsv:1"),
        (b"1\ta\n\r\n2\tb\n\n", r"rows.tsv:2: expected 2 fields"),
        (b"\n1\ta\n", r"rows.tsv:1: expected 2 fields"),
        (b"", "the source is empty"),
        (b"\n\r\n\n", "the source is empty"),
        (b"\xef\xbb\xbf", "the source is empty"),
    ],
)
@pytest.mark.parametrize("block", [1, 2**21])
def test_bad_lines_are_refused_by_file_and_line_and_leave_nothing(
    tmp_path: Path, content: bytes, match: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    (tmp_path / "rows.tsv").write_bytes(content)
    with pytest.raises(UserError, match=match):
        build_store_from_tsv(tmp_path / "s", "en", tmp_path / "rows.tsv")
    assert not (tmp_path / "s").exists()


PIECES = [b"1", b"2", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"\xc3\xa4", b"\xc3", b"a", "\u2028".encode()]


@settings(deadline=None, max_examples=200)
@given(raw=st.binary(max_size=60).map(b"1\tgood\n".__add__) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_bytes_are_rows_as_a_plain_reader_sees_them_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.mktemp("any")
    (path / "rows.tsv").write_bytes(raw)
    lines = [line.removesuffix(b"\r") for line in raw.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    cells = [line.split(b"\t") for line in lines]
    try:
        decoded = [[cell.decode() for cell in line] for line in cells]
        ids = [line[0] for line in decoded]
        good = all(len(line) == 2 and line[0] for line in decoded) and len({*ids}) == len(ids) > 0 and b"\0" not in raw
    except UnicodeDecodeError:
        good = False
    if good:
        store = build_store_from_tsv(path / "s", "en", path / "rows.tsv")
        assert [store[id].text for id in ids] == [text for _, text in decoded] and len(store) == len(ids)
    else:
        with pytest.raises(UserError, match=r"rows\.tsv:\d+|source is empty"):
            build_store_from_tsv(path / "s", "en", path / "rows.tsv")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (Text("2", "b", "de"), "text 2 .* is in 'de', not in 'en'"),
        (Text("2", "\udc80", "en"), "text 2 .* cannot be written as UTF-8"),
        (Text("2", "a\0", "en"), "text 2 .* NUL"),
        (Text("", "b", "en"), "text 2 has the id ''"),
        (Text("a\nb", "b", "en"), "text 2 has the id 'a.nb'"),
        (Text("1", "b", "en"), "text 2: the id '1' stands here a second time, first at text 1"),
    ],
)
def test_texts_that_cannot_be_kept_are_refused(tmp_path: Path, text: Text, match: str) -> None:
    with pytest.raises(UserError, match=match):
        build_store(tmp_path / "s", "en", [Text("1", "a\tb\nc", "en"), text])
    assert build_store(tmp_path / "s", "en", [Text("1", "a\tb\nc", "en")])["1"].text == "a\tb\nc"


@pytest.mark.parametrize("name", list(ID_SETS))
def test_a_further_language_comes_in_any_order_and_may_lack_texts(tmp_path: Path, name: str) -> None:
    ids = ID_SETS[name]
    build_store(tmp_path, "en", texts(ids))
    german = [Text(id, f"Text {n}", "de") for n, id in enumerate(ids)]
    build_store_from_tsv(tmp_path, "de", tsv(tmp_path / "de.tsv", german[::-1]))
    build_store(tmp_path, "fr", [Text(id, "texte", "fr") for id in ids[2:5]])
    store = Store(tmp_path, "de")
    assert store.languages == ("en", "de", "fr") and [store[id] for id in ids] == german
    rows = [store.row(id) for id in ids]
    assert [t.text for t in store.texts(rows[2:4], ["en", "fr"])] == [CONTENTS[2], "texte"]
    assert [t.lang for t in store.texts(rows[:3], "English")] == ["en"] * 3
    assert len(list(store.all("fr"))) == 3
    with pytest.raises(UserError, match="has no text in 'fr' for the id"):
        store.texts([rows[0]], "fr")
    with pytest.raises(UserError, match="has no texts in 'nl'"):
        store.texts([0], "Dutch")
    with pytest.raises(UserError, match="say which one to read"):
        Store(tmp_path).texts([0])
    assert Store(tmp_path).fingerprint == Store(tmp_path, "fr").fingerprint
    store.verify()


def test_a_further_language_in_order_needs_no_table_of_rows(tmp_path: Path) -> None:
    build_store(tmp_path, "en", texts(ID_SETS["dense"]))
    build_store(tmp_path, "de", texts(ID_SETS["dense"], "de"))
    assert not list(tmp_path.glob("rows-*"))


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (["0", "99"], "text 2: the id '99' is not among those"),
        (["1", "0", "1"], "text 3: the id '1' .* first at text 1"),
    ],
)
def test_a_further_language_that_does_not_fit_is_refused(tmp_path: Path, ids: list[str], match: str) -> None:
    build_store(tmp_path, "en", texts(ID_SETS["dense"]))
    before = files(tmp_path)
    with pytest.raises(UserError, match=match):
        build_store(tmp_path, "de", texts(ids, "de"))
    with pytest.raises(UserError, match="texts in 'en' already"):
        build_store(tmp_path, "en", texts(ids))
    assert files(tmp_path) == before


def test_two_ids_with_one_hash_are_two_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbertxm.data.ids._hash", lambda id: len(id) % 2)
    rows = texts(["a", "bb", "c", "dd", "eee"])
    store = build_store(tmp_path, "en", rows)
    assert [store[t.id] for t in rows] == rows and "f" not in store
    with pytest.raises(UserError, match="text 4: the id 'bb' .* first at text 2"):
        build_store(tmp_path / "x", "en", texts(["a", "bb", "c", "bb"]))


def test_rows_outside_are_refused(tmp_path: Path) -> None:
    store = build_store(tmp_path, "en", texts(ID_SETS["dense"]))
    assert store.texts([]) == []
    for wrong in (-1, 8):
        with pytest.raises(IndexError, match="has 8"):
            store.texts([0, wrong])


def stored(folder: Path, name: str) -> Path:
    (path,) = folder.glob("manifest.json" if name == "manifest" else f"{name}-*")
    return path


@pytest.mark.parametrize("name", ["manifest", "texts-en", "offsets-en", "rows-de", "ids"])
def test_truncated_missing_and_foreign_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    build_store(tmp_path, "en", texts(ID_SETS["ints"]))
    build_store(tmp_path, "de", texts(ID_SETS["ints"][::-1], "de"))
    path = stored(tmp_path, name)
    whole = path.read_bytes()
    for damage in (whole[:-1], whole + b" ", b""):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=path.name):
            Store(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        Store(tmp_path)


@pytest.mark.parametrize("name", ["manifest", "texts-en", "offsets-en", "id_bytes", "id_hashes", "id_rows"])
def test_a_flipped_bit_is_found_by_verify(tmp_path: Path, name: str) -> None:
    build_store(tmp_path, "en", texts(ID_SETS["strings"]))
    path = stored(tmp_path, name)
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        Store(tmp_path).verify()


def test_damaged_offsets_and_texts_are_found_when_they_are_read(tmp_path: Path) -> None:
    store = build_store(tmp_path, "en", texts(ID_SETS["dense"]))
    offsets, contents = stored(tmp_path, "offsets-en"), stored(tmp_path, "texts-en")
    array, raw = np.load(offsets), contents.read_bytes()
    array[3] = 2**40
    np.save(tmp_path / "new.npy", array)
    offsets.write_bytes((tmp_path / "new.npy").read_bytes())
    with pytest.raises(UserError, match=r"texts-en.*damaged offsets"):
        Store(tmp_path).texts([2])
    contents.write_bytes(b"\xff" + raw[1:])
    with pytest.raises(UserError, match="texts-en.* is not UTF-8"):
        Store(tmp_path).texts([0])
    assert store.lang == "en"


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no store of texts"):
        Store(tmp_path)
    for manifest, match in (
        ("[]", "does not describe"),
        ("{", "is not JSON"),
        ('{"format": "colbertxm-texts"}', "version"),
    ):
        (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(UserError, match=match):
            Store(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "colbertxm-index", "version": 1}))
    with pytest.raises(UserError, match="does not describe a store of texts"):
        build_store(tmp_path, "en", texts(["1"]))
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == ["manifest.json"]


def slow_rows() -> Iterator[Text]:
    for n in range(30_000):
        yield Text(str(n) + "x", "text " * 20, "en")
    time.sleep(60)


def build_until_killed(folder: Path) -> None:
    build_store(folder, "en", slow_rows())


def test_kill_9_leaves_the_old_state_and_the_next_build_sweeps(tmp_path: Path) -> None:
    (tmp_path / "mine.part").write_text("not ours")
    (tmp_path / "notes-for-me.txt").write_text("not ours")
    process = multiprocessing.get_context("spawn").Process(target=build_until_killed, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "texts-en.bin.part").exists() or (tmp_path / "texts-en.bin.part").stat().st_size < 10**6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(UserError, match="written by another process"):
        build_store(tmp_path, "en", texts(["1"]))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert (tmp_path / "texts-en.bin.part").exists()
    with pytest.raises(UserError, match="holds no store"):
        Store(tmp_path)
    (tmp_path / "texts-en-0123456789ab.bin").write_text("renamed, but never published")
    build_store(tmp_path, "en", texts(["1"]))
    kinds = sorted(p.name.split("-")[0] for p in tmp_path.iterdir() if p.name != ".lock")
    assert kinds == ["manifest.json", "mine.part", "notes", "offsets", "texts"] or "ids" in kinds
    assert (tmp_path / "mine.part").exists() and not (tmp_path / "texts-en.bin.part").exists()
    assert not (tmp_path / "texts-en-0123456789ab.bin").exists()


def test_a_full_disk_is_an_error_and_leaves_the_old_store(tmp_path: Path) -> None:
    build_store(tmp_path, "en", texts(ID_SETS["dense"]))
    before = files(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write to .*: File too large"):
            build_store(tmp_path, "de", [Text(str(n), "x" * 5000, "de") for n in range(8)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(tmp_path) == before


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="written by another process"):
        build_store(tmp_path, "en", texts(["1"]))


def test_processes_share_a_store(tmp_path: Path) -> None:
    rows = texts(ID_SETS["strings"])
    store = build_store(tmp_path, "en", rows)
    copied = pickle.loads(pickle.dumps(store))
    assert copied[rows[2].id] == rows[2] and copied.lang == "en"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(store.__getitem__, [t.id for t in rows]) == rows


BUILD = """
import sys
from pathlib import Path
from colbertxm.data.store_build import build_store_from_tsv
def most():  # KiB; ru_maxrss would start from the parent's
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = most()
build_store_from_tsv(Path(sys.argv[1]) / "s", "en", Path(sys.argv[1]) / "rows.tsv")
print((most() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    with (tmp_path / "rows.tsv").open("w") as file:
        for n in range(100_000):
            file.write(f"{n}\t{'long text ' * 150}\n")  # 150 MB
    taken = int(subprocess.check_output([sys.executable, "-c", BUILD, str(tmp_path)], stderr=subprocess.DEVNULL))
    assert 0 < taken < 60, f"{taken} MiB"
