"""From finished jobs to a question's folder: results.csv, comparisons.csv, picture, and the README's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from colbertxm.errors import UserError
from colbertxm.evaluation.experiment_languages import BY_LANGUAGE
from colbertxm.evaluation.experiment_page import COMPARED, fill_readme
from colbertxm.evaluation.experiment_plots import draw
from colbertxm.evaluation.experiment_rows import ACROSS, OTHERS, Row, pairs_of, write_csv
from colbertxm.evaluation.experiment_tests import ByPair, compare, read_queries
from colbertxm.evaluation.significance import holm
from colbertxm.questions.command import jobs_of
from colbertxm.questions.jobs import compose_job, finished, job_folder
from colbertxm.questions.work import condition_of, group_of

ENGLISH = "en-en"


@dataclass(frozen=True)
class Done:
    """A finished job."""

    cfg: DictConfig
    rows: list[Row]
    folder: Path


def write_question(question: str, folder: Path, overrides: Sequence[str] = ()) -> str:
    """Write what the finished jobs of a question's sweeps give, both sizes; what was done, in a line."""
    jobs: dict[Path, Done | None] = {}
    for job in jobs_of(question, overrides):
        cfg = compose_job(job)
        place = job_folder(cfg)
        found = finished(cfg)
        jobs[place] = None if found is None else Done(cfg, found["rows"], place)
    done = [job for job in jobs.values() if job is not None]
    target = folder / question
    rows = [row for job in done for row in job.rows]
    if overrides and not done:
        raise UserError(f"no job of {question} is finished with {' '.join(overrides)}: run them first, with -m")
    target.mkdir(parents=True, exist_ok=True)
    if rows:
        write_csv(target / "results.csv", rows)
        write_csv(target / "comparisons.csv", comparisons(question, done), COMPARED)
        draw(question, target)
    fill_readme(question, target)
    return f"{question}: {len(done)} of {len(jobs)} jobs are finished, {len(rows)} rows: {target}"


def comparisons(question: str, done: Sequence[Done]) -> list[Row]:
    """Each condition against the one that its sweep names, with the seeds that both have; p after Holm over all lines
    of one size and scope."""
    groups: dict[str, dict[str, dict[int, ByPair]]] = {}
    against: dict[str, str] = {}
    for job in done:
        if job.cfg.against is None:
            continue
        for path in sorted(job.folder.glob("queries*.npz")):
            condition = condition_of(job.cfg, path.stem.removeprefix("queries").strip())
            runs = groups.setdefault(group_of(job.cfg), {}).setdefault(condition, {})
            runs[int(job.cfg.seed)] = read_queries(path)
            against[group_of(job.cfg)] = str(job.cfg.against)
    found: list[Row] = []
    for group, conditions in groups.items():
        if against[group] in conditions:
            found += _against(question, group, conditions, against[group])
    return found


def _against(question: str, group: str, conditions: dict[str, dict[int, ByPair]], name: str) -> list[Row]:
    rows: list[Row] = []
    base = conditions[name]
    several = next(iter(base.values())) if question in BY_LANGUAGE else {}
    for scope in (ENGLISH, OTHERS, ACROSS, *pairs_of(OTHERS, several)):
        lines = []
        for condition, runs in conditions.items():
            seeds = sorted(runs.keys() & base.keys())
            if condition == name or not seeds:
                continue
            first, second = [base[s] for s in seeds], [runs[s] for s in seeds]
            if pairs := pairs_of(scope, first[0]):
                lines.append(_line(question, condition, group, name, scope, seeds, first, second, pairs))
        corrected = holm({str(n): line["p"] for n, line in enumerate(lines)})
        rows += [{**line, "p_holm": corrected[str(n)]} for n, line in enumerate(lines)]
    return rows


def _line(
    question: str, condition: str, group: str, name: str, scope: str, seeds: Sequence[int],
    first: Sequence[ByPair], second: Sequence[ByPair], pairs: Sequence[str],
) -> Row:  # fmt: skip
    found = compare(first, second, pairs)
    line: dict[str, Any] = {
        "question": question, "settings": f"{condition} {group}", "against": name, "scope": scope,
        "seeds": len(seeds), "difference": found.difference, "low": found.low, "high": found.high, "p": found.p,
        "seed_least": min(found.by_seed), "seed_most": max(found.by_seed),
    }  # fmt: skip
    return line
