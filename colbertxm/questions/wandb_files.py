"""W&B's side of the questions, generated from the same grids: a sweep.yaml each, and one dashboard of all.

    wandb sweep experiments/single_or_multi/sweep.yaml      an agent then runs the jobs, with the hashes of `-m`
    dashboard.json                                          panels by question: what to draw of which logged figures

The sweeps are held against W&B's own code that makes an agent's command line (tests). The dashboard is a plain list
of panels - type, title, metrics, grouping - that names figures as jobs log them; nobody has posted it to a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from colbertxm.evaluation.results import write_json, write_text
from colbertxm.questions.jobs import compose_job, expand, grid, sweep_of

MAIN = "RR@10"
HEAD = "# Written by `colbertxm experiment wandb` from conf/sweep/{sweep}.yaml: change that file, not this one.\n"
ENERGY = ("training_kwh/all", "indexing_a_million_kwh/all", "a_thousand_queries_kwh/all")


def write_files(questions: Sequence[str], folder: Path) -> list[Path]:
    """The files of `questions` in `folder`, and the dashboard's; returns their paths."""
    written = []
    for question in questions:
        path = folder / question / "sweep.yaml"
        text = yaml.safe_dump(sweep_file(question), sort_keys=False, allow_unicode=True, width=120)
        write_text(path, HEAD.format(sweep=sweep_of(question)) + text)
        written.append(path)
    dashboard = folder / "dashboard.json"
    write_json(dashboard, {"name": "colbertxm experiments", "sections": [section(question) for question in questions]})
    return [*written, dashboard]


def sweep_file(question: str) -> dict[str, Any]:
    """A W&B sweep over the question's own grid; its agent starts one job at a time."""
    sweep = sweep_of(question)
    return {
        "name": question,
        "project": "colbertxm",
        "program": "colbertxm/experiment.py",
        "method": "grid",
        "metric": {"name": metrics_of(question)[0], "goal": "minimize" if is_energy(question) else "maximize"},
        "parameters": {key: {"values": values} for key, values in grid(sweep).items()},
        "command": [
            "${env}", "${interpreter}", "-m", "colbertxm.experiment", f"sweep={sweep}", "${args_no_hyphens}",
        ],
    }  # fmt: skip


def is_energy(question: str) -> bool:
    """Whether less is better."""
    return first_job(question).task == "energy"


def metrics_of(question: str) -> list[str]:
    """The logged figures that a question is about, the main one first."""
    cfg = first_job(question)
    if cfg.task == "energy":
        return [f"summary/{name}" for name in ENERGY]
    scopes = ["others", "en-en", *([] if cfg.evaluation.cross in (None, "none") else ["across"])]
    found = [f"summary/{MAIN}/{scope}" for scope in scopes]
    return [*found, "summary/bytes_per_vector/all"] if cfg.task == "compression" else found


def first_job(question: str) -> Any:
    """The configuration of its first job."""
    return compose_job(expand(sweep_of(question))[0])


def section(question: str) -> dict[str, Any]:
    """A dashboard's section: a bar of each figure by condition with the seeds' spread, the loss, the rows."""
    found = metrics_of(question)
    panels: list[dict[str, Any]] = [
        {"type": "bar", "title": name.removeprefix("summary/"), "metric": name, "group_by": ["config.condition"],
         "error_bars": "stddev"}
        for name in found
    ]  # fmt: skip
    if question == "data_scaling":
        panels.append({"type": "scatter", "title": "data scaling", "x": "config.condition", "y": found[0]})
    if len(found) > 2 and first_job(question).task == "compression":
        panels.append({"type": "scatter", "title": "quality against size", "x": found[-1], "y": found[0]})
    panels.append({"type": "line", "title": "training loss", "x": "step", "metric": "train/loss"})
    panels.append({"type": "table", "title": "rows", "key": "rows"})
    return {"name": question, "filter": {"config.question": question}, "panels": panels}
