"""TREC files: what is written comes back, and what is damaged is refused by file and line."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation.runs import rank_hits, read_qrels, read_run, write_qrels, write_run
from colbertxm.records import Hit, Judgement


def falling_by_loop(scores: list[float]) -> list[float]:
    """The slow reference: one nextafter at a time."""
    out: list[np.float32] = []
    for score in np.asarray(scores, dtype=np.float32):
        below = np.nextafter(out[-1], np.float32(-np.inf)) if out else np.float32(np.inf)
        out.append(min(score, below))
    return [float(score) for score in out]


@pytest.mark.parametrize("seed", range(20))
def test_rank_hits_equals_the_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.integers(-3, 4, size=50) * rng.choice([1.0, 1 / 7, 1e-44, 1e38]))[::-1]
    hits = rank_hits("q", [str(number) for number in range(50)], scores)
    assert [hit.score for hit in hits] == falling_by_loop(scores.tolist())
    assert [hit.rank for hit in hits] == list(range(1, 51))
    assert [hit.passage_id for hit in hits] == [str(number) for number in range(50)]
    kept = np.asarray([hit.score for hit in hits], dtype=np.float32)
    assert (np.diff(kept) < 0).all()


def test_rank_hits_leaves_distinct_scores_alone_and_takes_none() -> None:
    scores = np.array([3.25, 0.1, 0.0, -7.5], dtype=np.float32)
    assert [hit.score for hit in rank_hits("q", list("abcd"), scores)] == scores.tolist()
    assert rank_hits("q", [], []) == []


def test_scores_that_tie_only_in_float32_are_parted() -> None:
    first, second = rank_hits("q", ["a", "b"], [1.0 + 1e-12, 1.0])
    assert np.float32(first.score) > np.float32(second.score)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_rank_hits_refuses_scores_that_are_not_finite(bad: float) -> None:
    with pytest.raises(UserError, match="query q7"):
        rank_hits("q7", ["a"], [bad])


def test_rank_hits_refuses_what_is_not_in_rank_order() -> None:
    with pytest.raises(ValueError, match="rise"):
        rank_hits("q", ["a", "b"], [1.0, 2.0])
    with pytest.raises(ValueError, match="2 passages"):
        rank_hits("q", ["a", "b"], [1.0])


def random_run(seed: int) -> list[Hit]:
    rng = np.random.default_rng(seed)
    hits = []
    for query in range(5):
        scores = np.sort(rng.normal(size=20).astype(np.float32) * rng.choice([1e-30, 1, 1e30]))[::-1]
        hits += rank_hits(f"q{query}ß", [f"p{number}#水" for number in rng.permutation(20)], scores)
    return hits


@pytest.mark.parametrize("name", ["a.run", "a.run.gz", "deep/er/a.trec"])
def test_a_run_comes_back_to_the_last_bit(tmp_path: Path, name: str) -> None:
    hits = random_run(3)
    write_run(tmp_path / name, iter(hits), "tag")
    assert read_run(tmp_path / name) == hits
    assert [file.name for file in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_a_run_is_written_in_six_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "a.run", [Hit("1", "x", 1, float(np.float32(0.5))), Hit("1", "y", 2, -2)], "bm25")
    assert (tmp_path / "a.run").read_bytes() == b"1 Q0 x 1 0.5 bm25\n1 Q0 y 2 -2.0 bm25\n"


def test_the_same_run_gives_the_same_packed_bytes(tmp_path: Path) -> None:
    write_run(tmp_path / "a.gz", random_run(1), "t")
    write_run(tmp_path / "b.gz", random_run(1), "t")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes()[4:8] == bytes(4), "a time stands in the gzip header"


@pytest.mark.parametrize(
    ("hits", "why"),
    [
        ([Hit("a b", "p", 1, 1.0)], "query id 'a b'"),
        ([Hit("q", "p\u2028x", 1, 1.0)], "passage id"),
        ([Hit("q", "", 1, 1.0)], "empty"),
        ([Hit("q", "\ufeffp", 1, 1.0)], "passage id"),
        ([Hit("q", "\ud800", 1, 1.0)], "no valid Unicode"),
        ([Hit("q", "p", 0, 1.0)], "rank 0"),
        ([Hit("q", "p", 1, 1.0), Hit("q", "r", 3, 0.5)], "rank 3 comes after rank 1"),
        ([Hit("q", "p", 1, 1.0), Hit("q", "r", 2, 1.0)], "does not lie below"),
        ([Hit("q", "p", 1, 1.0), Hit("q", "r", 2, 1.0 - 1e-12)], "does not lie below"),
        ([Hit("q", "p", 1, 1.0), Hit("q", "p", 2, 0.5)], "passage p comes twice"),
        ([Hit("q", "p", 1, float("nan"))], "not finite"),
        ([Hit("q", "p", 1, 1e300)], "not finite"),
    ],
)
def test_the_writer_refuses_and_leaves_nothing(tmp_path: Path, hits: list[Hit], why: str) -> None:
    with pytest.raises(UserError, match=why):
        write_run(tmp_path / "a.run", [Hit("0", "p", 1, 1.0), *hits], "t")
    assert list(tmp_path.iterdir()) == []


def test_the_writer_refuses_a_tag_with_white_space(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tag"):
        write_run(tmp_path / "a.run", [], "my run")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["a.run", "a.run.gz"])
def test_a_full_disk_keeps_the_old_file_and_no_part(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"old")
    (tmp_path / f"{name}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left"):
        write_run(tmp_path / name, random_run(0), "t")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


GOOD = "q Q0 p1 1 2.5 t\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("q Q0 p2 2 1.5\n", "5 columns instead of 6"),
        ("q Q0 p2 2 1.5 my tag\n", "7 columns"),
        ("\n", "0 columns"),
        ("q Q0 p2 two 1.5 t\n", "rank 'two'"),
        ("q Q0 p2 1_0 1.5 t\n", "rank '1_0'"),
        ("q Q0 p2 2.0 1.5 t\n", "rank '2.0'"),
        ("q Q0 p2 2 high t\n", "score 'high'"),
        ("q Q0 p2 2 nan t\n", "score 'nan'"),
        ("q Q0 p2 2 -inf t\n", "score '-inf'"),
        ("q Q0 p1 2 1.5 t\n", "passage p1 comes twice"),
        ("q Q0 p2 1 1.5 t\n", "rank 1 comes after rank 1"),
        ("q Q0 p2 2 3.5 t\n", "score rises"),
        ("q Q0 p\u00a02 2 1.5 t\n", "white space inside an id"),
        ("q Q0 p\u2028 2 1.5 t\n", "white space inside an id"),
        ("q Q0 p\x1f 2 1.5 t\n", "white space inside an id"),
        ("q Q0 p\0 2 1.5 t\n", "NUL"),
        ("q Q0 p2 2 1.5 t\rq Q0 p3 3 1.0 t\n", "12 columns"),
    ],
)
def test_a_damaged_run_is_refused_by_file_and_line(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "a.run").write_bytes((GOOD + line).encode())
    with pytest.raises(UserError, match=rf"a\.run, line 2: .*({why})"):
        read_run(tmp_path / "a.run")


def test_invalid_utf8_missing_and_damaged_gzip_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_bytes(GOOD.encode() + b"q Q0 p\xff 2 1.5 t\n")
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_run(tmp_path / "a.run")
    with pytest.raises(UserError, match="no file at"):
        read_run(tmp_path / "absent.run")
    with pytest.raises(UserError, match="cannot read"):
        read_run(tmp_path)
    packed = gzip.compress(GOOD.encode() * 1)
    for damaged in (packed[:-9], packed[:5], b"", b"no gzip", packed[:12] + b"\xff\xff" + packed[14:]):
        (tmp_path / "a.gz").write_bytes(damaged)
        with pytest.raises(UserError, match="a.gz.*damaged gzip"):
            read_run(tmp_path / "a.gz")


def test_foreign_runs_are_taken(tmp_path: Path) -> None:
    """Tabs, CRLF, a byte order mark, ranks from 0 with gaps, ties, mingled queries, no final newline."""
    text = "\ufeffb\tQ0\tx\t0\t2\tt\r\na Q0 x 1 9e0 t\r\nb Q0 y 4 2 t\r\n  a Q0 z 2 -1 t"
    (tmp_path / "a.run").write_bytes(text.encode())
    assert read_run(tmp_path / "a.run") == [
        Hit("b", "x", 1, 2.0),
        Hit("b", "y", 2, 2.0),
        Hit("a", "x", 1, 9.0),
        Hit("a", "z", 2, -1.0),
    ]


def test_damage_anywhere_gives_rows_or_an_error_never_a_crash(tmp_path: Path) -> None:
    write_run(tmp_path / "good.run", random_run(5), "t")
    whole = (tmp_path / "good.run").read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "bad.run").write_bytes(bytes(data[: rng.randrange(1, len(data))]))
        try:
            hits = read_run(tmp_path / "bad.run")
        except UserError as error:
            assert "bad.run" in str(error)
        else:
            lines = (tmp_path / "bad.run").read_bytes().rstrip(b"\n").split(b"\n")
            assert len(hits) == len(lines)


@pytest.mark.parametrize("name", ["qrels.txt", "qrels.tsv.gz"])
def test_qrels_come_back(tmp_path: Path, name: str) -> None:
    judgements = [Judgement("q2", "水#1", 3), Judgement("q1", "p", 0), Judgement("q2", "p", -1)]
    write_qrels(tmp_path / name, iter(judgements))
    assert read_qrels(tmp_path / name) == judgements


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"q 0 p\n", "3 columns instead of 4"),
        (b"q 0 p 1.5\n", "relevance '1.5'"),
        (b"q 0 p 99999999999999999999\n", "relevance"),
        (b"q 0 first 0\n", "q first is judged twice"),
        (b"q 0 \xe2\x80\xa8 1\n", "white space inside an id"),
        (b"q 0 \xc3 1\n", "not UTF-8"),
    ],
)
def test_damaged_qrels_are_refused_by_file_and_line(tmp_path: Path, line: bytes, why: str) -> None:
    (tmp_path / "qrels").write_bytes(b"q\t0\tfirst\t1\r\n" + line)
    with pytest.raises(UserError, match=f"qrels, line 2: {why}"):
        read_qrels(tmp_path / "qrels")


def test_the_qrels_writer_refuses_repeats_and_white_space(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="judged twice"):
        write_qrels(tmp_path / "q", [Judgement("q", "p", 1), Judgement("q", "p", 0)])
    with pytest.raises(UserError, match="query id"):
        write_qrels(tmp_path / "q", [Judgement("q\t", "p", 1)])
    assert list(tmp_path.iterdir()) == []
