"""What `colbertxm report` does beside writing files: what each model cost, the terminal, and W&B."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.report_collect import Collected
from colbertxm.evaluation.report_pictures import Cost
from colbertxm.evaluation.report_write import Report
from colbertxm.evaluation.tables import Table
from colbertxm.training.logger import log_table
from colbertxm.training_notes import cost_of, find_model


def costs(found: Collected, examples: Mapping[str, int] | None = None) -> dict[str, Cost]:
    """By model: what its rows say, else what its own notes say; `examples` has the last word. Raises UserError for
    examples of a model without rows."""
    known: dict[str, Cost] = {}
    for name, (path, own_name) in found.sources.items():
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
        notes = content.get("provenance") if isinstance(content, dict) else None
        config = (notes or {}).get("config") or {}
        folder = find_model(path, own_name, config.get("checkpoints"))
        cost = Cost() if folder is None else cost_of(folder)
        row = next(row for rows in found.rows.values() for row in rows if row["model"] == name)
        if isinstance(row.get("examples"), int):
            cost = replace(cost, examples=row["examples"])
        known[name] = cost
    for name, number in (examples or {}).items():
        if name not in known:
            raise UserError(
                f"examples of {name!r}, which has no rows{nearest(name, known)}; there are {', '.join(known)}"
            )
        if not isinstance(number, int) or number < 1:
            raise UserError(f"examples={{{name}:{number}}}: give a number of training examples")
        known[name] = replace(known[name], examples=number)
    return known


def show_report(report: Report, notes: Sequence[str] = (), short: bool = False) -> None:
    """The main tables and where everything lies; unless `short`, also `notes` and which pictures have no data."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in report.main:
        console.print(table.terminal())
    for line in () if short else (*notes, *report.missing):
        print(f"  {line}")
    page = report.output / "report.md"
    print(f"report: {page}  LaTeX: {page.with_suffix('.tex')}  tables: {len(report.tables)} csv")
    print("pictures: " + (" ".join(str(path) for path in report.pictures) or "none"))


def log_report(logger: Any, report: Report) -> None:
    """The same in W&B: tables, a bar chart of the means of each main table, and the pictures; then the run's end."""
    if not logger:
        return
    import wandb

    for name, table in report.tables.items():
        log_table(logger, f"report/{name}", table_rows(table))
    for place, table in enumerate(report.main):
        means = [list(pair) for pair in means_of(table)]
        if means:
            data = wandb.Table(columns=["model", "mean"], data=means)
            chart = wandb.plot.bar(data, "model", "mean", title=table.title)
            logger.experiment.log({f"report/means{f'-{place}' if place else ''}": chart})
    for path in report.pictures:
        name = path.stem if len(report.main) < 2 else f"{path.parent.name}/{path.stem}"
        logger.log_image(key=f"report/{name}", images=[str(path)])
    logger.experiment.finish()


def table_rows(table: Table) -> list[dict[str, Any]]:
    """A table as rows of equal keys: the line's name, then each column's value."""
    return [
        {table.columns[0]: name, **dict(zip(table.columns[1:], (cell.value for cell in cells), strict=True))}
        for name, cells in table.lines
    ]


def means_of(table: Table) -> list[tuple[str, float]]:
    """(model, mean of all languages), of those that have one."""
    cells = next((cells for name, cells in table.lines if name == "mean of all"), ())
    return [
        (model, cell.value) for model, cell in zip(table.columns[1:], cells, strict=False) if cell.value is not None
    ]
