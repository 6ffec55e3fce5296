"""From a collection to rows, tests and tables: mixed pools, several data sets, measures that look deep."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS
from hydra.core.global_hydra import GlobalHydra
from test_collections import beir, squad, write

from colbertxm.data import lazy
from colbertxm.data.collection import Collection
from colbertxm.evaluation.compare import depth, differences, find, measure
from colbertxm.evaluation.report_collect import collect
from colbertxm.evaluation.report_write import Report, write_collected
from colbertxm.evaluation.results import write_json
from colbertxm.records import Hit, Judgement, Text


def write_report(rows: list[dict[str, Any]], folder: Path) -> Report:
    write_json(folder / "results.json", {"rows": rows})
    return write_collected(collect([folder / "results.json"]), folder, {})


class Fixed:
    """A system that gives the same ranking to every query."""

    def __init__(self, *ranking: str) -> None:
        self.ranking = ranking

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        return [Hit(q.id, p, n, -float(n)) for q in collection.queries for n, p in enumerate(self.ranking[:k], 1)]


def pool() -> Collection:
    """Two questions in two languages; everybody's answers are p0 and p1 in the second question, nothing else."""
    queries = [Text(f"{lang}:q:{n}", "x", lang) for lang in ("en", "de") for n in (0, 1)]
    passages = tuple(Text(f"p{n}", "x", lang) for n, lang in enumerate(("en", "de", "en")))
    answers = {"0": ["p2"], "1": ["p0", "p1"]}
    marks = [Judgement(q.id, p, 1) for q in queries for p in answers[q.id[-1]]]
    mixed = Collection.MIXED
    return Collection("x/pool", mixed, mixed, tuple(queries), passages, tuple(marks), ("R@2", "RR@10"))


def pair_of(lang: str, query_id: str) -> str:
    return query_id[-1]


def test_a_pool_has_a_row_for_all_queries_and_one_a_language(
    tmp_path: Path,
) -> None:
    rows, measured = measure("m", Fixed("p0", "p2", "p1"), [pool()], tmp_path)
    assert [(r["query_lang"], r["passage_lang"], r["queries"]) for r in rows] == [
        ("mixed", "mixed", 4), ("en", "mixed", 2), ("de", "mixed", 2),
    ]  # fmt: skip
    assert rows[0]["R@2"] == pytest.approx(0.75) and rows[1]["RR@10"] == pytest.approx(0.75)
    assert rows[0]["official"] == "R@2 RR@10" and rows[0]["collection"] == "x/pool"
    report = write_report(rows, tmp_path)
    table = (tmp_path / "pool_r2.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in table] == [
        ["queries in", "m"],
        ["de", "0.75"],
        ["en", "0.75"],
        ["all queries", "0.75"],
    ]
    assert "over one pool" in report.main[0].title and [p.name for p in tmp_path.glob("*.png")] == ["languages.png"]
    _, better = measure("n", Fixed("p0", "p1", "p2"), [pool()], tmp_path)
    found = differences(measured["x/pool"], better["x/pool"], pair_of, "R@2")
    assert [line["scope"] for line in found] == ["en", "de", "mean of others"]
    assert found[0]["difference"] == pytest.approx((0 + 1) / 2 - 0.75)


def test_several_data_sets_make_one_table_and_files_of_their_own(tmp_path: Path) -> None:
    def one(name: str, right: str) -> Collection:
        texts = Text("q", "x", "en"), Text("a", "x", "en")
        return Collection(name, "en", "en", texts[:1], texts[1:], (Judgement("q", right, 1),), ("nDCG@10",))

    rows, _ = measure("m", Fixed("a", "b"), [one("beir/x", "a"), one("beir/y", "b")], tmp_path)
    write_report(rows, tmp_path)
    table = (tmp_path / "collections_ndcg10.csv").read_text().splitlines()
    assert table[0].startswith("collection,m") and table[1].startswith("beir/x,1.0")
    assert table[2].startswith("beir/y,0.63")
    assert table[3].startswith(f"mean of all,{(1 + rows[1]['nDCG@10']) / 2:.6f}")
    assert sorted(p.name for p in (tmp_path / "runs/m").iterdir()) == ["beir-x.en-en.trec.gz", "beir-y.en-en.trec.gz"]


def test_queries_in_one_language_over_passages_in_another(tmp_path: Path) -> None:
    texts = Text("q", "x", "en"), Text("a", "x", "de")
    across = Collection("local/x", "en", "de", texts[:1], texts[1:], (Judgement("q", "a", 1),))
    write_report(measure("m", Fixed("a"), [across], tmp_path)[0], tmp_path)
    assert (tmp_path / "collections_rr10.csv").read_text().splitlines()[1].startswith("local/x,1.0")
    assert (tmp_path / "cross_lingual_m.png").exists() and not (tmp_path / "languages.png").exists()


def test_a_passage_under_the_querys_own_id_is_no_hit_in_beir(tmp_path: Path) -> None:
    texts = (Text("q", "x", "en"),)
    plain = Collection("c", "en", "en", texts, texts, (Judgement("q", "a", 1),))
    itself = Collection("c", "en", "en", texts, texts, (Judgement("q", "a", 1),), without_itself=True)
    system = Fixed("q", "a", "b")
    assert [h.passage_id for h in find(system, plain, 2)] == ["q", "a"]
    assert [(h.passage_id, h.rank) for h in find(system, itself, 2)] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("measures", "expected"), [(["RR@10"], 10), (["RR@10", "R@1000"], 1000), (["AP", "RR@10"], 1000), (["AP@50"], 50)]
)
def test_runs_are_as_deep_as_their_measures_look(measures: list[str], expected: int) -> None:
    assert depth(measures) == expected


QUIET = "logger.mode=disabled"
BM25 = ["baselines=[bm25]", QUIET]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["colbertxm evaluate", "checkpoints=[]", *arguments])
    importlib.import_module("colbertxm.evaluate").main()


def test_evaluate_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for lang in ("en", "de"):
        write(tmp_path / f"x/xquad.{lang}.json", squad(lang))
    call(
        monkeypatch,
        "collection=xquad",
        "folder=x",
        "baselines=[bm25]",
        "cross=english",
        "output=o",
        "logger.mode=disabled",
    )
    printed = capsys.readouterr()
    assert "xquad en -> de: 2 queries, 2 judgements, 2 passages" in printed.err
    rows = json.loads((tmp_path / "o/results.json").read_text())["rows"]
    assert {(r["query_lang"], r["passage_lang"]) for r in rows} == {
        ("en", "en"),
        ("de", "de"),
        ("en", "de"),
        ("de", "en"),
    }
    assert all(r["collection"] == "xquad" and r["official"].startswith("RR@10") for r in rows)
    found = json.loads((tmp_path / "o/results.json").read_text())["gaps"]
    assert [(g["model"], g["scope"]) for g in found] == [
        ("bm25", "de-en"), ("bm25", "en-de"), ("bm25", "mean of 2 pairs")
    ]  # fmt: skip
    figure = {(r["query_lang"], r["passage_lang"]): r["RR@10"] for r in rows}
    assert found[0]["gap"] == pytest.approx(figure["en", "en"] - figure["de", "en"], abs=1e-5)
    assert "bm25           cross-lingual gap, mean of 2 pairs" in printed.out
    beir(tmp_path / "b/scifact")
    beir(tmp_path / "b/fiqa")
    call(
        monkeypatch,
        "collection=beir",
        "folder=b",
        "subsets=[fiqa]",
        "output=p",
        "baselines=[bm25]",
        "logger.mode=disabled",
    )
    assert [r["collection"] for r in json.loads((tmp_path / "p/results.json").read_text())["rows"]] == ["beir/fiqa"]
    for lang in ("en", "de"):
        write(tmp_path / f"r/{lang}.json", squad(lang))
    call(monkeypatch, "collection=xquad_r", "folder=r", "output=r", *BM25)
    rows = json.loads((tmp_path / "r/results.json").read_text())["rows"]
    assert [(r["query_lang"], r["queries"]) for r in rows] == [("mixed", 4), ("de", 2), ("en", 2)] and "AP" in rows[0]
    assert rows[0]["bias"]["queries"] + rows[0]["bias"]["skipped"] == 4
    assert set(rows[1]["bias"]["languages"]) == {"en", "de"}
    assert "language bias among the first 10" in capsys.readouterr().out
    assert (tmp_path / "r/pool_ap.csv").exists() and (tmp_path / "r/runs/bm25/mixed-mixed.trec.gz").exists()
    call(monkeypatch, "collection=list")
    assert "non-commercial" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collection=mrtidy"], "unknown collection 'mrtidy' (did you mean 'mrtydi'?)"),
        (["collection=xquad", "folder=x", "split=tset"], "split='tset' (did you mean 'test'?)"),
        (["collection=mrtydi", "langs=[fi]", "folder=x"], "no corpus to search"),
        (["collection=local"], "needs queries=FILE and qrels=FILE"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x/topics.mrtydi-v1.1-fi.test.txt", "1\tx\n")
    write(tmp_path / "x/qrels.mrtydi-v1.1-fi.test.txt", "1 0 a 1\n")
    with pytest.raises(SystemExit):
        call(monkeypatch, *arguments)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_a_corpus_beyond_memory_is_searched_out_of_an_index(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same passages held in memory and, as if they were millions, indexed on disk: nearly the same rows."""
    monkeypatch.setenv("COLBERTXM_CACHE", str(world / "cache"))
    texts = [f"{a} the {b}" for a in ("open", "close", "start", "stop") for b in WORDS[:16]]
    write(world / "c.tsv", "".join(f"p{n}\t{text}\n" for n, text in enumerate(texts)))
    write(world / "q.tsv", "".join(f"q{n}\t{texts[n]} now\n" for n in range(0, 64, 4)))
    write(world / "k.qrels", "".join(f"q{n} 0 p{n} 1\n" for n in range(0, 64, 4)))
    common = [
        "collection=local",
        "corpus=c.tsv",
        "queries=q.tsv",
        "qrels=k.qrels",
        "langs=[en]",
        "logger.mode=disabled",
    ]
    call(monkeypatch, *common, "baselines=[untrained]", "output=held")
    monkeypatch.setattr(lazy, "SMALL", 10)
    call(monkeypatch, *common, "baselines=[bm25,untrained]", "output=stored")
    held, stored = (json.loads((world / f"{name}/results.json").read_text())["rows"] for name in ("held", "stored"))
    assert list((world / "stored/indexes/untrained").iterdir()) and not (world / "held/indexes").exists()
    found = {row["model"]: row["RR@10"] for row in stored}
    assert found["untrained"] == pytest.approx(held[0]["RR@10"], abs=0.1) and found["untrained"] > 0.3
    assert found["bm25"] > 0.3 and list((world / "cache/collections/stores").glob("en-*/manifest.json"))
