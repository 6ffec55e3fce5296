"""`evaluate --run`: anyone's runs from their files, printed and written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation.measure_run import command, main
from colbertxm.evaluation.metrics import evaluate
from colbertxm.evaluation.results import read_rows
from colbertxm.evaluation.runs import rank_hits, read_run, write_qrels, write_run
from colbertxm.evaluation.significance import bootstrap_interval, holm, paired_difference
from colbertxm.records import Hit, Judgement

JUDGED = [Judgement(f"q{query}", f"p{query % 5}", 1) for query in range(20)]


def some_run(seed: int) -> list[Hit]:
    rng = np.random.default_rng(seed)
    return [
        hit
        for query in range(1, 21)
        for hit in rank_hits(f"q{query}", [f"p{n}" for n in rng.permutation(12)], np.arange(12)[::-1])
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, seed in (("first", 0), ("second", 1)):
        for lang in ("de", "fr"):
            write_run(tmp_path / name / f"{lang}.trec.gz", some_run(seed + 5 * (lang == "fr")), name)
    write_run(tmp_path / "marco.tsv", some_run(0), "t", layout="msmarco")
    write_qrels(tmp_path / "q.txt", JUDGED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--run first/de.trec.gz --qrels q.txt --measures RR@10,P@3 --output out.json --per-query out.csv"
    content = main(arguments.split())
    scores = evaluate(read_run("first/de.trec.gz"), JUDGED, ("RR@10", "P@3", "Judged@10"))
    (row,) = content["rows"]
    assert (row["RR@10"], row["P@3"], row["queries"], row["hits"]) == (
        scores.mean("RR@10"), scores.mean("P@3"), 20, 240)  # fmt: skip
    assert row["intervals"]["P@3"] == list(bootstrap_interval(scores.values["P@3"]))
    assert (row["empty"], row["queries_without_judgements"], row["tied_queries"]) == (1, 1, 0)
    assert row["unjudged@10"] == pytest.approx(1 - scores.values["Judged@10"].sum() / 19)
    printed = capsys.readouterr().out
    low, high = row["intervals"]["RR@10"]
    assert f"RR@10  {row['RR@10']:.4f}  [{low:.4f}, {high:.4f}]" in printed
    assert "ties: none" in printed and "1 judged queries have no results" in printed
    written = json.loads(Path("out.json").read_text())
    assert written["rows"] == read_rows("out.json") == json.loads(json.dumps(content["rows"]))
    assert set(written["provenance"]["checksums"]) == {"first/de.trec.gz", "q.txt"}
    lines = list(csv.reader(Path("out.csv").read_text().splitlines()))
    assert lines[0] == ["run", "lang", "query_id", "RR@10", "P@3"] and len(lines) == 21
    assert [float(line[3]) for line in lines[1:]] == scores.values["RR@10"].tolist()


def test_ms_marcos_format_gives_the_same_figures(folder: Path) -> None:
    first, second = (main(["--run", name, "--qrels", "q.txt"])["rows"][0] for name in ("first/de.trec.gz", "marco.tsv"))
    assert {**first, "model": "", "file": ""} == {**second, "model": "", "file": ""}


def test_two_runs_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["first/de.trec.gz", "second/de.trec.gz"]
    content = main(["--run", files[0], "--run", files[1], "--qrels", "q.txt", "--measures", "RR@10"])
    a, b = (evaluate(read_run(file), JUDGED, ("RR@10",)).values["RR@10"] for file in files)
    expected = paired_difference(b, a)
    (line,) = content["differences"]
    assert (line["difference"], line["low"], line["high"], line["p"]) == (
        expected.mean, expected.low, expected.high, expected.p)  # fmt: skip
    assert (line["model"], line["against"], line["p_holm"]) == ("2:de", "1:de", line["p"])
    assert f"{expected.mean:+.4f}" in capsys.readouterr().out


def test_languages_are_corrected_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [f"{lang}={name}/{lang}.trec.gz" for name in ("first", "second") for lang in ("de", "fr")]
    content = main(["--run", *runs, "--qrels", "q.txt", "--measures", "nDCG@10"])
    assert [(row["model"], row["query_lang"]) for row in content["rows"]] == [
        ("first", "de"), ("first", "fr"), ("second", "de"), ("second", "fr")]  # fmt: skip
    tests = {line["scope"]: line for line in content["differences"]}
    assert list(tests) == ["de", "fr", "mean of languages"]
    assert {lang: tests[lang]["p_holm"] for lang in ("de", "fr")} == holm({x: tests[x]["p"] for x in ("de", "fr")})
    mean = (tests["de"]["difference"] + tests["fr"]["difference"]) / 2
    assert tests["mean of languages"]["difference"] == pytest.approx(mean)
    means = [row["nDCG@10"] for row in content["rows"]]
    assert [mean["nDCG@10"] for mean in content["means"]] == pytest.approx([sum(means[:2]) / 2, sum(means[2:]) / 2])
    low, high = content["means"][0]["intervals"]["nDCG@10"]
    assert low < content["means"][0]["nDCG@10"] < high
    assert "Holm's correction over the 2 comparisons" in capsys.readouterr().out


def test_ties_are_counted_and_the_other_rule_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tied.run").write_text("q1 Q0 p1 1 5 t\nq1 Q0 p9 2 5 t\nq2 Q0 p2 1 5 t\nq2 Q0 p9 2 4 t\n")
    Path("two.txt").write_text("q1 0 p1 1\nq2 0 p2 1\n")
    arguments = ["--run", "tied.run", "--qrels", "two.txt", "--measures", "RR@10 R@10"]
    by_rank, by_score = main(arguments)["rows"][0], main([*arguments, "--ties", "trec"])["rows"][0]
    assert (by_rank["RR@10"], by_rank["other_ties"], by_rank["tied_queries"]) == (1.0, {"RR@10": 0.75}, 1)
    assert (by_score["RR@10"], by_score["other_ties"], by_score["tied_queries"]) == (0.75, {"RR@10": 1.0}, 1)
    printed = capsys.readouterr().out
    assert "1 queries, taken in rank order" in printed and "--ties trec would give RR@10 0.7500 (-0.2500)" in printed
    assert "--ties rank would give RR@10 1.0000 (+0.2500)" in printed
    Path("tied.run").write_text("q1 Q0 p1 0 5 t\nq1 Q0 p9 0 5 t\n")
    assert main([*arguments, "--ties", "trec"])["rows"][0]["other_ties"] is None
    assert "ranks give no order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--run first/de.trec.gz", "required: --qrels"),
        ("--run absent --qrels q.txt", "no file at absent"),
        ("--run marco.tsv --qrels q.txt --measures MRR@10", "did you mean 'RR@10'"),
        ("--run marco.tsv --qrels q.txt --measure RR@10", "did you mean '--measures'"),
        ("--run marco.tsv --qrels q.txt --ties trek", "invalid choice"),
        ("--run marco.tsv de=first/de.trec.gz --qrels q.txt", "marco.tsv says no language"),
        ("--run de=first/de.trec.gz --qrels dk=q.txt", "has none for 'de'"),
        ("--run de=first/de.trec.gz --qrels de=q.txt fr=q.txt", "--run has none for 'fr'"),
        ("--run de=a de=b fr=c --qrels q.txt", "a file of every system; there are de 2, fr 1"),
        ("--run marco.tsv --qrels q.txt q.txt", "a second file"),
        ("--run q.txt --qrels marco.tsv", "3 columns instead of 4"),
    ],
)
def test_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, why: str) -> None:
    with pytest.raises(UserError, match=why.replace("(", r"\(")):
        main(arguments.split())
    if "absent" in arguments:
        with pytest.raises(SystemExit) as left:
            command(arguments.split())
        assert left.value.code == 1 and capsys.readouterr().err == "error: no file at absent; give the right path\n"


def test_the_command_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\nsys.argv = ['evaluate', '--run', 'marco.tsv', '--qrels=q.txt']\n"
        "from colbertxm.evaluate import main\nmain()\n"
        "assert not {'torch', 'transformers', 'lightning'} & set(sys.modules), 'slow to start'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "marco: 20 judged queries, 240 hits" in done.stdout
