"""Two runs query by query: who wins, what is printed, and files that do not fit one another."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest
from test_config import call
from test_matches import read

from colbertxm.errors import UserError
from colbertxm.evaluation.diagnosis_distributions import auc, dicts_csv, length_lines, score_lines
from colbertxm.evaluation.diagnosis_runs import Task, compare, largest, lines_csv, read_tasks, summaries
from colbertxm.evaluation.diagnosis_runs_page import comparison_page
from colbertxm.evaluation.runs import rank_hits, write_qrels, write_run
from colbertxm.records import Judgement, Text

QRELS = [Judgement("q1", "a", 1), Judgement("q2", "b", 1), Judgement("q3", "c", 1), Judgement("q4", "d", 1)]
FIRST = [*rank_hits("q1", ["a", "x"], [3, 2]), *rank_hits("q2", ["x", "b"], [3, 2]), *rank_hits("q3", ["y"], [1])]
SECOND = [
    *rank_hits("q1", ["x", "y", "a"], [9, 8, 7]),
    *rank_hits("q2", ["b"], [3]),
    *rank_hits("q3", ["x", "c"], [2, 1]),
]
TASK = Task("t", tuple(QRELS), (tuple(FIRST), tuple(SECOND)))
TEXTS = {"q1": Text("q1", "<b>first</b>", "ar"), "a": Text("a", "answer", "en")}


def test_wins_losses_ties_and_ranks() -> None:
    lines = {line.query_id: line for line in compare(TASK, "RR@10", top=1)}
    assert {name: line.outcome for name, line in lines.items()} == {"q1": "loss", "q2": "win", "q3": "win", "q4": "tie"}
    assert lines["q1"].values == pytest.approx((1, 1 / 3)) and lines["q1"].ranks == (1, 3)
    assert lines["q3"].ranks == (None, 2) and lines["q4"].ranks == (None, None)
    assert [[hit.passage_id for hit in hits] for hits in lines["q1"].top] == [["a"], ["x"]]
    (one,) = summaries(lines.values())
    assert (one.wins, one.losses, one.ties, one.queries) == (2, 1, 1, 4)
    assert one.means == pytest.approx((1.5 / 4, (1 / 3 + 1 + 0.5) / 4))
    assert one.difference.mean == pytest.approx(one.means[1] - one.means[0])
    assert [line.query_id for line in largest(lines.values(), "win", 5)] == ["q2", "q3"]


def test_several_tasks_are_corrected_together() -> None:
    tasks = [Task(name, tuple(QRELS), TASK.runs) for name in "ab"]
    found = summaries(line for task in tasks for line in compare(task, "RR@10"))
    assert [one.p_holm for one in found] == pytest.approx([min(1.0, 2 * found[0].difference.p)] * 2)


def test_csv_and_page() -> None:
    lines = compare(TASK, "RR@10")
    rows = list(csv.DictReader(io.StringIO(lines_csv(lines, ("old", "new"), "RR@10", TEXTS))))
    assert rows[0]["query"] == "q1" and rows[0]["text"] == "<b>first</b>" and rows[0]["lang"] == "ar"
    assert [row["outcome"] for row in rows] == ["loss", "tie", "win", "win"]
    assert rows[0]["first relevant new"] == "3" and rows[1]["first relevant old"] == ""
    page = comparison_page(lines, summaries(lines), ("old", "new"), "RR@10", TEXTS, show=1)
    reader = read(page)
    assert "<b>first</b>" in reader.text and "answer" in reader.text and "script" not in {tag for tag, _ in reader.used}
    assert ("h3", {"lang": "ar", "dir": "rtl"}) in reader.used
    assert "2 wins, 1 losses, 1 ties of 4 queries" in reader.text and "first relevant at rank 3" in reader.text
    assert page.count('<section class="card win"') == page.count('<section class="card loss"') == 1


def test_folders_are_read_by_equal_names(tmp_path: Path) -> None:
    for name in ("de-de", "en-en"):
        write_qrels(tmp_path / "qrels" / f"{name}.qrels", QRELS)
        write_run(tmp_path / "old" / f"{name}.trec.gz", FIRST, "old")
    write_run(tmp_path / "new" / "en-en.trec", SECOND, "new")
    tasks = read_tasks([tmp_path / "old", tmp_path / "new"], tmp_path / "qrels")
    assert [(task.name, task.runs) for task in tasks] == [("en-en", (tuple(FIRST), tuple(SECOND)))]
    with pytest.raises(UserError, match="do not go together"):
        read_tasks([tmp_path / "old"], tmp_path / "qrels" / "de-de.qrels")
    with pytest.raises(UserError, match="nothing at"):
        read_tasks([tmp_path / "older"], tmp_path / "qrels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file of .* has a run of the same name"):
        read_tasks([tmp_path / "empty"], tmp_path / "qrels")


def test_auc_counts_pairs() -> None:
    rng = random.Random(0)
    good, bad = [rng.randrange(9) for _ in range(50)], [rng.randrange(6) for _ in range(70)]
    naive = sum((g > b) + (g == b) / 2 for g in good for b in bad) / (50 * 70)
    assert auc(good, bad) == pytest.approx(naive)


def test_spreads_of_scores_and_lengths() -> None:
    good, best, others = score_lines(Task("t", tuple(QRELS), (tuple(SECOND),)))
    assert good["count"] == 3 and good["missed"] == 1 and good["p50"] == 3
    assert best["count"] == 2 and best["p50"] == pytest.approx(np.median([9, 2])) and others["count"] == 3
    assert good["median margin"] == pytest.approx(np.median([7 - 9, 1 - 2]))
    with pytest.raises(UserError, match="none of the judged queries"):
        score_lines(Task("t", (Judgement("other", "a", 1),), (tuple(SECOND),)))
    german, *_ = length_lines("passage", {"de": [4, 5, 300]}, 256)
    assert german["cut"] == pytest.approx(1 / 3, abs=1e-6) and german["longest"] == 300
    rows = list(csv.DictReader(io.StringIO(dicts_csv([good, best]))))
    assert rows[1]["missed"] == "" and rows[0]["missed"] == "1"


def test_the_commands(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from test_matches import encoder_of

    from colbertxm.model.checkpoints import save_model

    write_qrels("q.qrels", QRELS)
    write_run("old.trec", FIRST, "old")
    write_run("new.trec", SECOND, "new")
    Path("queries.tsv").write_text("q1\tturn it off\nq2\tlamp\n", encoding="utf-8")
    Path("corpus.jsonl").write_text('{"id": "a", "text": "lamp on fan light motion", "lang": "en"}\n', encoding="utf-8")
    both = ["qrels=q.qrels", "queries=queries.tsv", "corpus=corpus.jsonl", "lang=en", "output=out"]
    call(monkeypatch, "diagnose", "runs", "runs=[old.trec,new.trec]", *both)
    assert "wins and losses of new" in capsys.readouterr().out
    assert "turn it off" in Path("out/comparison.html").read_text(encoding="utf-8")
    assert Path("out/queries.csv").read_text(encoding="utf-8").count("\n") == 5
    save_model(Path("m/model"), encoder_of(passage_maxlen=6), {})
    call(monkeypatch, "diagnose", "distributions", "run=new.trec", "checkpoint=m/model", *both)
    out = capsys.readouterr().out
    passages = next(line for line in out.splitlines() if line.startswith("passage"))
    assert passages.split()[1:3] == ["en", "1"] and passages.split()[-2:] == ["6", "1"], "the one passage is cut"
    assert all(
        Path(f"out/{name}").stat().st_size for name in ("scores.png", "lengths.png", "scores.json", "lengths.csv")
    )
    for arguments, message in (
        (["runs", "runs=[old.trec]", "qrels=q.qrels"], "give two"),
        (["runs", "runs=[old.trec,old.trec]", "qrels=q.qrels"], "are one run"),
        (["distributions"], "nothing to look at"),
        (["distributions", "run=old.trec"], "need both run=... and qrels=..."),
    ):
        with pytest.raises(SystemExit):
            call(monkeypatch, "diagnose", *arguments)
        assert message in capsys.readouterr().err
