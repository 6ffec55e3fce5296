"""One job from its configuration to its rows; a finished one is told of and left alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from colbertxm import stages
from colbertxm.entry import plain
from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.experiment_rows import ALL, Row
from colbertxm.evaluation.results import provenance, write_json
from colbertxm.files import refusals
from colbertxm.questions import adapters, compression, energy, quality
from colbertxm.questions.jobs import finished, job_folder, job_hash
from colbertxm.questions.measured import Measured
from colbertxm.questions.workshop import Ready, Workshop
from colbertxm.training.logger import log_table, make_logger

TASKS: dict[str, Callable[[DictConfig, Ready, Path], list[Measured]]] = {
    "quality": quality.measure,
    "compression": compression.measure,
    "energy": energy.measure,
    "adapters": adapters.measure,
}
MAIN = "summary"
"""What a W&B sweep is steered by: `summary/others`, `summary/en-en`."""


def run_job(cfg: DictConfig, workshop: Workshop) -> bool:
    """Do what `cfg` says, unless a finished job has its hash; whether anything was done. Raises UserError for an
    unknown task, and where another process works on the same job."""
    if cfg.task not in TASKS:
        raise UserError(f"task={cfg.task!r}{nearest(cfg.task, TASKS)}: choose from {', '.join(TASKS)}")
    if cfg.trainer.devices != 1 or cfg.trainer.nodes != 1:
        raise UserError("a job trains in one process: give trainer.devices=1, and a launcher for jobs side by side")
    folder = job_folder(cfg)
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(str(folder / ".lock"), timeout=0):
            if finished(cfg) is not None:
                stages.say(f"{title(cfg)}: finished before, {folder}")
                return False
            started = time.perf_counter()
            stages.say(f"{title(cfg)}: starts, {folder}")
            ready = workshop.model(cfg)
            measured = TASKS[cfg.task](cfg, ready, folder)
            leave(cfg, measured, ready, folder, time.perf_counter() - started)
            return True
    except Timeout:
        raise UserError(f"another process works on {folder}: wait for it") from None


def leave(cfg: DictConfig, measured: list[Measured], ready: Ready, folder: Path, seconds: float) -> None:
    """Write rows.json, which makes the job a finished one, and log the same."""
    notes = provenance(plain(cfg), cfg.seed)
    rows = [to_row(cfg, one, notes["revision"]) for one in measured]
    write_json(folder / "rows.json", {"rows": rows, "seconds": round(seconds, 1), "provenance": notes})
    logger = ready.logger or make_logger(folder, cfg.logger.project, title(cfg), cfg.logger.mode, plain(cfg))
    if logger:
        # What trained logs its settings below `config`: a dashboard wants these in one place.
        about = {"question": cfg.question, "condition": cfg.condition, "size": cfg.size, "config_hash": job_hash(cfg)}
        logger.experiment.config.update(about, allow_val_change=True)
        log_table(logger, "rows", rows)
        means = {f"{MAIN}/{r['metric']}/{r['language_pair']}": r["value"] for r in rows if r["value"] is not None}
        logger.experiment.log(means)
        logger.experiment.finish()


def to_row(cfg: DictConfig, one: Measured, revision: str | None) -> Row:
    """A line of results.csv."""
    return {
        "question": str(cfg.question),
        "settings": f"{condition_of(cfg, one.condition)} {group_of(cfg)}",
        "seed": int(cfg.seed),
        "language_pair": one.pair or ALL,
        "metric": one.metric,
        "value": _rounded(one.value),
        "low": _rounded(one.low),
        "high": _rounded(one.high),
        "seconds": _rounded(one.cost.seconds),
        "kwh": _rounded(one.cost.kwh),
        "method": one.cost.method,
        "config_hash": job_hash(cfg),
        "git_revision": revision or "unknown",
    }


def condition_of(cfg: DictConfig, more: str = "") -> str:
    """What tells a job, or a part of it, from the others of its question."""
    return f"{cfg.condition} {more}".strip()


def group_of(cfg: DictConfig) -> str:
    """What jobs must share to be compared: size, data and base."""
    return f"size={cfg.size} data={str(cfg.data._target_).rpartition('.')[2]} model={cfg.model.base}"


def title(cfg: DictConfig) -> str:
    """A job in a few words."""
    return f"{cfg.question} {cfg.condition} seed={cfg.seed}"


def _rounded(value: Any) -> float | None:
    return None if value is None else float(f"{float(value):.6g}")
