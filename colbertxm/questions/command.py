"""`colbertxm experiment all | table | wandb`: what goes over whole sweeps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from colbertxm.entry import config_folder
from colbertxm.errors import UserError, nearest
from colbertxm.questions.jobs import Job, compose_job, expand, finished, sweep_of, sweeps

ORDER = (
    "single_or_multi", "data_scaling", "energy", "compression", "cross_lingual", "distillation", "adapters", "freezing",
    "added_language",
)  # fmt: skip
"""Of `all`: questions that share models stand together; those that are not named follow."""


@dataclass(frozen=True)
class Asked:
    """What stands behind a verb: its own words, and overrides of every job."""

    size: str
    questions: list[str]
    overrides: list[str]
    folder: Path
    keep_models: bool


def asked(arguments: Sequence[str]) -> Asked:
    """Raises UserError for an unknown size, question, or what is no key=value."""
    found = {"size": "full", "question": "", "folder": str(config_folder().parent / "experiments"), "models": "drop"}
    overrides = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign:
            raise UserError(
                f"{argument!r} is no key=value: size=small, question=NAME, folder=PLACE, models=keep or a setting"
            )
        if key in found:
            found[key] = value
        else:
            overrides.append(argument)
    known = list(sweeps(found["size"]))
    names = found["question"].strip("[]").split(",") if found["question"] else sorted(known, key=_place)
    for name in names:
        sweep_of(name, found["size"])
    if found["models"] not in ("drop", "keep"):
        raise UserError(f"models={found['models']}{nearest(found['models'], ('drop', 'keep'))}: choose drop or keep")
    return Asked(found["size"], names, overrides, Path(found["folder"]), found["models"] == "keep")


def _place(question: str) -> tuple[int, str]:
    return (ORDER.index(question) if question in ORDER else len(ORDER), question)


def run_all(arguments: Sequence[str]) -> int:
    """All jobs of the questions in this process, one after the other, with a line each and the time left; then the
    tables. A job that a user can mend does not stop the others; the exit status is 1 where one failed. A model that no
    later job needs is deleted (half a gigabyte each), unless models=keep."""
    from colbertxm.questions.tables import write_question

    wanted = asked(arguments)
    plan = [
        (question, compose_job(job))
        for question in wanted.questions
        for job in expand(sweep_of(question, wanted.size), wanted.overrides)
    ]
    failures = run_plan(plan, wanted.keep_models)
    for question in wanted.questions:
        if not wanted.overrides:
            write_question(question, wanted.folder)
    for line in failures:
        print(f"failed: {line}")
    return 1 if failures else 0


def run_plan(plan: Sequence[tuple[str, DictConfig]], keep_models: bool = True) -> list[str]:
    """Run the jobs that are missing; what failed, a line each."""
    from colbertxm.questions.work import run_job, title
    from colbertxm.questions.workshop import here, models_of

    missing = [(question, cfg) for question, cfg in plan if finished(cfg) is None]
    print(f"{len(plan)} jobs, {len(plan) - len(missing)} finished before", flush=True)
    failures: list[str] = []
    seconds: dict[str, list[float]] = {}
    for number, (question, cfg) in enumerate(missing, start=1):
        started = time.perf_counter()
        try:
            run_job(cfg, here())
        except UserError as error:
            if error.code != 1:  # a signal asked the training to stop
                raise
            failures.append(f"{title(cfg)}: {error}")
        if not keep_models:
            needed = set[Path]().union(*(models_of(later) for _, later in missing[number:]))
            for folder in models_of(cfg) - needed:
                shutil.rmtree(folder, ignore_errors=True)
        took = time.perf_counter() - started
        seconds.setdefault(question, []).append(took)
        left = time_left(seconds, [name for name, _ in missing[number:]])
        print(f"[{number}/{len(missing)}] {title(cfg)}: {took:.0f} s; about {left / 60:.0f} min left", flush=True)
    return failures


def time_left(seconds: dict[str, list[float]], coming: Sequence[str]) -> float:
    """Of the jobs that come: as long as their question's took, or else as all."""
    every = [s for took in seconds.values() for s in took]
    mean = sum(every) / len(every)
    return sum(sum(seconds[q]) / len(seconds[q]) if q in seconds else mean for q in coming)


def write_tables(arguments: Sequence[str]) -> int:
    """results.csv, comparisons.csv, the picture and the README's table, of the finished jobs."""
    from colbertxm.questions.tables import write_question

    wanted = asked(arguments)
    for question in wanted.questions:
        print(write_question(question, wanted.folder, wanted.overrides))
    return 0


def write_wandb(arguments: Sequence[str]) -> int:
    """sweep.yaml of each question, and the dashboard's definition."""
    from colbertxm.questions.wandb_files import write_files

    wanted = asked(arguments)
    for path in write_files(wanted.questions, wanted.folder):
        print(path)
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {"all": run_all, "table": write_tables, "wandb": write_wandb}


def jobs_of(question: str, overrides: Sequence[str] = ()) -> list[Job]:
    """Of both sizes."""
    found = []
    for size in ("small", "full"):
        if question in sweeps(size):
            found += expand(sweep_of(question, size), overrides)
    return found


def check_verb(word: str) -> None:
    """Raise UserError for a word that is neither a verb nor a setting."""
    if "=" not in word and not word.startswith("-"):
        raise UserError(f"unknown verb {word!r}{nearest(word, VERBS)}; there are {', '.join(VERBS)}")
