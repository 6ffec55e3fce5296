"""Two runs, query by query: who wins where, and by how much.

Everywhere `a` is the first run and `b` the second; a win is a query for which b is better. Queries are those of the
qrels; one without hits counts as zero, as in `metrics.evaluate`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colbertxm.errors import UserError
from colbertxm.evaluation.metrics import evaluate, relevant_by_query
from colbertxm.evaluation.runs import read_qrels, read_run
from colbertxm.evaluation.significance import Difference, holm, paired_difference
from colbertxm.records import Hit, Judgement, Text

SAME = 1e-12  # values of the same hits can differ in their last bit
RUN_ENDINGS = (".trec.gz", ".trec", ".run.gz", ".run", ".txt")


@dataclass(frozen=True)
class Task:
    """Judgements and the runs that were made for them; `name` is that of the files, such as de-en."""

    name: str
    judgements: tuple[Judgement, ...]
    runs: tuple[tuple[Hit, ...], ...]


@dataclass(frozen=True)
class QueryLine:
    """One query under both runs: the measure, the rank of the first relevant passage (None: not found), and the best
    hits of each."""

    task: str
    query_id: str
    values: tuple[float, float]
    ranks: tuple[int | None, int | None]
    relevant: tuple[str, ...]
    top: tuple[tuple[Hit, ...], tuple[Hit, ...]]

    @property
    def difference(self) -> float:
        return self.values[1] - self.values[0]

    @property
    def outcome(self) -> str:
        """win, loss or tie, for the second run."""
        return "tie" if abs(self.difference) <= SAME else "win" if self.difference > 0 else "loss"


@dataclass(frozen=True)
class TaskSummary:
    """Both means, how many queries the second run wins, loses and ties, the paired test and its p after Holm's
    correction over the tasks."""

    task: str
    means: tuple[float, float]
    wins: int
    losses: int
    ties: int
    difference: Difference
    p_holm: float

    @property
    def queries(self) -> int:
        return self.wins + self.losses + self.ties


def read_tasks(runs: Sequence[Path], qrels: Path) -> list[Task]:
    """One task of files, or, of folders as `evaluate` writes them, one for each file of qrels that all runs have by the
    same name. Raises UserError where nothing fits, or files and folders are mixed."""
    for path in (*runs, qrels):
        if not path.exists():
            raise UserError(f"there is nothing at {path}: give a run file, or a folder of runs as evaluate writes it")
        if path.is_dir() != qrels.is_dir():
            raise UserError(f"{path} and {qrels} do not go together: give files, or folders, of runs and of qrels")
    if not qrels.is_dir():
        return [Task(qrels.name.split(".")[0], tuple(read_qrels(qrels)), tuple(tuple(read_run(p)) for p in runs))]
    tasks = []
    for file in sorted(qrels.rglob("*.qrels*")):
        name = str(file.relative_to(qrels)).split(".qrels")[0]
        found = [next((p for e in RUN_ENDINGS if (p := folder / f"{name}{e}").is_file()), None) for folder in runs]
        if all(found):
            tasks.append(Task(name, tuple(read_qrels(file)), tuple(tuple(read_run(p)) for p in found if p)))
    if not tasks:
        folders = " and ".join(map(str, runs))
        raise UserError(f"no file of {qrels} has a run of the same name in {folders}: look at the names of both")
    return tasks


def compare(task: Task, measure: str, top: int = 5) -> list[QueryLine]:
    """Every judged query of a task with two runs, in the order of the qrels. `top` hits of each run are kept."""
    relevant = relevant_by_query(task.judgements)
    values, ranks, hits = [], [], []
    for run in task.runs:
        scores = evaluate(run, task.judgements, [measure])
        values.append(dict(zip(scores.query_ids, scores.values[measure].tolist(), strict=True)))
        of_query: dict[str, list[Hit]] = {}
        first: dict[str, int] = {}
        for hit in run:
            if len(found := of_query.setdefault(hit.query_id, [])) < top:
                found.append(hit)
            if hit.passage_id in relevant.get(hit.query_id, ()):
                first.setdefault(hit.query_id, hit.rank)
        ranks.append(first)
        hits.append(of_query)
    return [
        QueryLine(
            task.name,
            query_id,
            (values[0][query_id], values[1][query_id]),
            (ranks[0].get(query_id), ranks[1].get(query_id)),
            tuple(passages),
            (tuple(hits[0].get(query_id, ())), tuple(hits[1].get(query_id, ()))),
        )
        for query_id, passages in relevant.items()
    ]


def summaries(lines: Iterable[QueryLine]) -> list[TaskSummary]:
    """One for each task, with `significance.paired_difference` of b - a."""
    tasks: dict[str, list[QueryLine]] = {}
    for line in lines:
        tasks.setdefault(line.task, []).append(line)
    tested = {
        name: paired_difference([line.values[1] for line in own], [line.values[0] for line in own])
        for name, own in tasks.items()
    }
    corrected = holm({name: difference.p for name, difference in tested.items()})
    found = []
    for name, own in tasks.items():
        means = np.array([line.values for line in own]).mean(axis=0).tolist()
        wins, losses, ties = (sum(line.outcome == outcome for line in own) for outcome in ("win", "loss", "tie"))
        found.append(TaskSummary(name, (means[0], means[1]), wins, losses, ties, tested[name], corrected[name]))
    return found


def largest(lines: Iterable[QueryLine], outcome: str, count: int) -> list[QueryLine]:
    """The `count` largest wins or losses; of equal ones the first."""
    chosen = [line for line in lines if line.outcome == outcome]
    return sorted(chosen, key=lambda line: -abs(line.difference))[:count]


def lines_csv(lines: Iterable[QueryLine], names: tuple[str, str], measure: str, texts: Mapping[str, Text]) -> str:
    """One line a query, the largest loss first and the largest win last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    a, b = names
    writer.writerow(
        ["task", "query", "text", "lang", f"{measure} {a}", f"{measure} {b}", "difference", "outcome",
         f"first relevant {a}", f"first relevant {b}", "relevant", f"top {a}", f"top {b}"]
    )  # fmt: skip
    for line in sorted(lines, key=lambda line: line.difference):
        query = texts.get(line.query_id)
        writer.writerow(
            [line.task, line.query_id, query.text if query else "", query.lang if query else "", *line.values,
             line.difference, line.outcome, *("" if rank is None else rank for rank in line.ranks),
             " ".join(line.relevant), *(hits[0].passage_id if hits else "" for hits in line.top)]
        )  # fmt: skip
    return text.getvalue()
