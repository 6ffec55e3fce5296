"""Runs' files as columns: the quick way against the slow one, MS MARCO's format, BEIR's qrels, zstd."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation import blocks, run_lines, trec
from colbertxm.evaluation.runs import load_run, rank_hits, read_qrels, read_run, write_qrels, write_run
from colbertxm.records import Hit, Judgement


def hits_of(seed: int, queries: int = 30, depth: int = 20) -> list[Hit]:
    rng = np.random.default_rng(seed)
    run: list[Hit] = []
    for query in range(queries):
        names = [f"{'long-' * int(n % 4)}p{n}" for n in rng.permutation(500)[:depth]]
        scores = np.sort(rng.normal(size=depth) * rng.choice([1e-6, 1, 1e6]))[::-1]
        run += rank_hits(f"q{query * 7}", names, scores)
    return run


def test_numbers_are_read_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of a few lines; the slow way is Python's own float."""
    run = hits_of(0)
    write_run(tmp_path / "a.run", run, "t")
    monkeypatch.setattr(trec.read_blocks, "__defaults__", (200,))
    assert read_run(tmp_path / "a.run") == run


def test_plain_blocks_are_not_looked_at_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = hits_of(1)
    write_run(tmp_path / "a.run.gz", run, "t")
    monkeypatch.setattr(run_lines, "_plain", lambda *arguments: pytest.fail("a plain block was looked at"))
    assert read_run(tmp_path / "a.run.gz") == run


def outcome(path: Path) -> list[Hit] | str:
    try:
        return read_run(path)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(4))
def test_the_quick_way_and_the_slow_one_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Odd characters put in at random places: the same hits or the same refusal, though every block is looked at."""
    rng = np.random.default_rng(seed)
    write_run(tmp_path / "a.run", hits_of(seed, 3, 5), "t")
    whole = (tmp_path / "a.run").read_text()
    odd = [" ", "\t", "\n", "\r", "\0", "\x01", "\x1c", "é", "\u00a0", "_", "x", "-", "9", "\ufeff"]
    for number in range(60):
        at = int(rng.integers(len(whole)))
        text = whole[:at] + str(rng.choice(odd)) + whole[at + int(rng.integers(2)) :]
        (tmp_path / f"{number}.run").write_text(text, newline="")
    quick = [outcome(tmp_path / f"{number}.run") for number in range(60)]
    made_plain: set[bytes] = set()
    plain, parse = run_lines._plain, blocks.parse

    def remembered(*arguments: Any) -> list[bytes]:
        lines = list(plain(*arguments))
        made_plain.add(b"".join(lines))
        return lines

    monkeypatch.setattr(run_lines, "_plain", remembered)
    monkeypatch.setattr(run_lines, "parse", lambda block, *rest: parse(block, *rest) if block in made_plain else None)
    assert quick == [outcome(tmp_path / f"{number}.run") for number in range(60)]
    assert made_plain and {type(found) for found in quick} == {list, str}


def test_faults_name_their_line_in_mingled_queries(tmp_path: Path) -> None:
    lines = ["b Q0 x 1 2 t", "a Q0 x 1 9 t", "b Q0 y 2 1 t", "a Q0 x 2 8 t", "b Q0 z 3 5 t"]
    (tmp_path / "a.run").write_text("\n".join(lines))
    with pytest.raises(UserError, match="line 4: query a: passage x comes twice"):
        read_run(tmp_path / "a.run")
    (tmp_path / "a.run").write_text("\n".join([*lines[:3], "a Q0 w 2 8 t", lines[4]]))
    with pytest.raises(UserError, match="line 5: query b: the score rises from 1.0 to 5.0 at rank 3"):
        read_run(tmp_path / "a.run")
    with pytest.raises(UserError, match="line 4: .*an id longer"):
        (tmp_path / "a.run").write_text("\n".join([*lines[:3], f"a Q0 {'w' * 1001} 2 8 t", lines[4]]))
        read_run(tmp_path / "a.run")


def test_scores_decide_where_asked_whatever_the_ranks(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("q Q0 low 0 1.5 t\nq Q0 b 0 2.5 t\nq Q0 c 0 2.5 t\n")
    with pytest.raises(UserError, match=r"line 2: .*rank 0 comes after rank 0.*ties=trec"):
        load_run(tmp_path / "a.run")
    found = load_run(tmp_path / "a.run", ties="trec")
    assert [hit.passage_id for hit in found] == ["c", "b", "low"]
    with pytest.raises(UserError, match="did you mean 'trec'"):
        load_run(tmp_path / "a.run", ties="trek")
    (tmp_path / "a.run").write_text("q Q0 p 1 1.5 t\nq Q0 p 2 1.5 t\n")
    with pytest.raises(UserError, match="line 2: query q: passage p comes twice"):
        load_run(tmp_path / "a.run", ties="trec")


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_ms_marcos_runs_both_ways(tmp_path: Path, name: str) -> None:
    run = hits_of(2, 5, 6)
    write_run(tmp_path / name, run, "t", layout="msmarco")
    raw = (tmp_path / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith("gz") else raw
    assert text.startswith(f"{run[0].query_id}\t{run[0].passage_id}\t1\n".encode())
    assert read_run(tmp_path / name) == [hit._replace(score=-float(hit.rank)) for hit in run]
    with pytest.raises(UserError, match="did you mean 'msmarco'"):
        write_run(tmp_path / "b", run, "t", layout="msmarko")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("q\tp\n", "2 columns instead of 3"),
        ("q\tp\tx\n", "rank 'x'"),
        ("q\tr\t1\n", "rank 1 comes after rank 1"),
        ("q\tp0\t2\n", "passage p0 comes twice"),
    ],
)
def test_a_damaged_ms_marco_run_is_refused_by_line(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "a.tsv").write_text("q\tp0\t1\n" + line)
    with pytest.raises(UserError, match=rf"a\.tsv, line 2: .*{why}"):
        read_run(tmp_path / "a.tsv")


def test_beirs_qrels_both_ways(tmp_path: Path) -> None:
    judgements = [Judgement("q2", "水#1", 3), Judgement("q1", "p", 0)]
    write_qrels(tmp_path / "test.tsv", judgements, layout="beir")
    assert (tmp_path / "test.tsv").read_text() == "query-id\tcorpus-id\tscore\nq2\t水#1\t3\nq1\tp\t0\n"
    assert read_qrels(tmp_path / "test.tsv") == judgements
    (tmp_path / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp\tx\n")
    with pytest.raises(UserError, match=r"test\.tsv, line 2: relevance 'x'"):
        read_qrels(tmp_path / "test.tsv")
    (tmp_path / "test.tsv").write_text("q\tp\t1\n")
    with pytest.raises(UserError, match="3 columns instead of 4"):
        read_qrels(tmp_path / "test.tsv")
    with pytest.raises(UserError, match="did you mean 'beir'"):
        write_qrels(tmp_path / "b", judgements, layout="bier")


def test_zstd_both_ways(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    run = hits_of(3)
    write_run(tmp_path / "a.run.zst", run, "t")
    assert (tmp_path / "a.run.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert read_run(tmp_path / "a.run.zst") == run
    whole = (tmp_path / "a.run.zst").read_bytes()
    (tmp_path / "a.run.zst").write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"a\.run\.zst.*damaged zstd"):
        read_run(tmp_path / "a.run.zst")


def test_an_empty_file_is_an_empty_run(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("")
    assert read_run(tmp_path / "a.run") == []
