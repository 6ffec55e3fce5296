"""The user's own passages: rows, or an error with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from colbertxm.data.corpus import read_corpus
from colbertxm.errors import UserError
from colbertxm.records import Text


def test_tsv_and_jsonl(tmp_path: Path) -> None:
    tsv, jsonl = tmp_path / "a.tsv", tmp_path / "a.jsonl"
    tsv.write_bytes(b"\xef\xbb\xbf1\tone\xe2\x80\xa8line\r\n2\ttwo")
    assert read_corpus(tsv, ["German"]) == [Text("1", "one\u2028line", "de"), Text("2", "two", "de")]
    jsonl.write_text('{"id": 1, "text": "eins", "lang": "de"}\n{"id": "2", "text": "two"}\n', encoding="utf-8")
    assert read_corpus(jsonl, ["en"]) == [Text("1", "eins", "de"), Text("2", "two", "en")]


@pytest.mark.parametrize(
    ("name", "content", "langs", "message"),
    [
        ("a.tsv", b"1\tone\n2\n", ["en"], "a.tsv:2: expected id<TAB>text, found 1 fields"),
        ("a.tsv", b"1\tone\ttwo\n", ["en"], "a.tsv:1: expected id<TAB>text, found 3 fields"),
        ("a.tsv", b"1\tone\n1\ttwo\n", ["en"], "a.tsv:2: the id '1' stands here a second time"),
        ("a.tsv", b"1\tone\n", [], "does not say its language"),
        ("a.tsv", b"1\tone\n", ["en", "de"], "needs one language"),
        ("a.tsv", b"1\tone\n2\t\xff\xfe\n", ["en"], "is not UTF-8 text"),
        ("a.tsv", b"", ["en"], "holds no passage"),
        ("a.jsonl", b'{"id": 1}\n', ["en"], "a.jsonl:1: expected"),
        ("a.jsonl", b"{\n", ["en"], "a.jsonl:1: not JSON"),
        ("a.jsonl", b'{"id": 1, "text": "x"}\n', [], "no language"),
        ("a.jsonl", b'{"id": 1, "text": "x", "lang": "xx"}\n', [], "unknown language 'xx'"),
        ("a.csv", b"1,one\n", ["en"], "give smart_home, a .tsv file or a .jsonl file"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, langs: list[str], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_corpus(tmp_path / name, langs)
    assert message in str(caught.value)


def test_a_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"1\tone\n"))
    assert read_corpus(tmp_path / "a.tsv.gz", ["en"]) == [Text("1", "one", "en")]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.tsv: No such file"):
        read_corpus(tmp_path / "nowhere.tsv", ["en"])
