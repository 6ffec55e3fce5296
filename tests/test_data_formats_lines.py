"""The line reader: what ends a line, what is refused, what is counted, in plain, gzip and zstd files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from colbertxm.data.formats import lines
from colbertxm.data.formats.lines import read_lines
from colbertxm.errors import UserError


def write(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.zst"])
def test_only_lf_and_crlf_end_a_line(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path / name, "\ufeffa\u2028b\x85\x0b\x0c\rc\r\nzwei\n\r\n\ufeffdrei".encode().replace(b"\n\r\n", b"\n")
    )
    assert list(read_lines(path)) == [(1, "a\u2028b\x85\x0b\x0c\rc"), (2, "zwei"), (3, "\ufeffdrei")]


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.zst"])
@pytest.mark.parametrize(
    ("bad", "reason"), [(b"x\0y", "holds a NUL byte"), (b"x\xff", "is not UTF-8 text"), (b"", "is empty")]
)
def test_a_bad_line_is_named_or_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, bad: bytes, reason: str
) -> None:
    path = write(tmp_path / name, b"one\n" + bad + b"\nthree\n" + bad + b"\nfive\n")
    rows = read_lines(path)
    assert next(rows) == (1, "one")
    with pytest.raises(UserError, match=rf"{name}:2: {reason}"):
        next(rows)
    assert capsys.readouterr().err == ""
    counted = read_lines(path, on_error="count")
    assert list(counted) == [(1, "one"), (3, "three"), (5, "five")]
    assert counted.skipped.counts == {reason: 2} and counted.skipped.total == 2
    assert capsys.readouterr().err == f"2 of 5 lines left out: 2 x {reason} (first: {path}:2)\n"


def test_empty_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    assert list(read_lines(write(tmp_path / "a", b"one\n\n\r\n\n"))) == [(1, "one")]
    assert list(read_lines(write(tmp_path / "b", b""))) == []


@pytest.mark.parametrize("on_error", ["raise", "count"])
@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
def test_a_compressed_file_that_ends_early_or_is_damaged_is_refused(tmp_path: Path, name: str, on_error: str) -> None:
    content = "".join(f"{i}\tline {i * 7919 % 1000}\n" for i in range(4000)).encode()
    whole = write(tmp_path / name, content).read_bytes()
    rows = list(read_lines(tmp_path / name))
    for kept in range(5, len(whole), len(whole) // 9):
        (tmp_path / name).write_bytes(whole[:kept])
        with pytest.raises(UserError, match=rf"{name}:\d+: the compressed file (ends early|is damaged)"):
            for row in (reader := read_lines(tmp_path / name, on_error)):
                assert row == rows[row[0] - 1]
        assert reader.skipped.total == 0
    if name == "a.gz":  # gzip has a checksum at its end, zstd's is optional
        damaged = bytearray(whole)
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=r"a.gz:\d+: the compressed file is damaged|is not UTF-8|NUL"):
            list(read_lines(tmp_path / name))


def test_parts_put_together_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\ntw") + gzip.compress(b"o\n"))
    assert [line for _, line in read_lines(tmp_path / "a.gz")] == ["one", "two"]
    compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    (tmp_path / "a.zst").write_bytes(compress(b"one\ntw") + compress(b"o\n"))
    assert [line for _, line in read_lines(tmp_path / "a.zst")] == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>\n"])
def test_a_name_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a.tsv.gz:1: (is empty|does not start)"):
        list(read_lines(tmp_path / "a.tsv.gz"))


def test_content_says_how_a_file_is_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"one\n"))
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one")]


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 100)
    with pytest.raises(UserError, match="a:2: longer than"):
        list(read_lines(write(tmp_path / "a", b"one\n" + b"x" * 101)))


def test_mistakes_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"on_error='cuont' \(did you mean 'count'\?\)"):
        read_lines(tmp_path / "a", on_error="cuont")
    for path, why in ((tmp_path / "nowhere", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=f"cannot read .*{why}"):
            list(read_lines(path))
