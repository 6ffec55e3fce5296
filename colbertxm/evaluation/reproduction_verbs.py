"""`colbertxm reproduce`: what list, page, check and run do."""

from __future__ import annotations

import sys
from pathlib import Path

from colbertxm.errors import UserError, nearest
from colbertxm.evaluation import reproduction_miniature as tiny
from colbertxm.evaluation.reproduction import Row, load_rows
from colbertxm.evaluation.reproduction_check import WITHIN, compare, from_runs, lines, measured_points, model_of
from colbertxm.evaluation.reproduction_page import page, state
from colbertxm.evaluation.reproduction_run import Execute, as_process, fill, proposal, steps, write_text
from colbertxm.evaluation.reproduction_run import run as run_steps
from colbertxm.evaluation.results import read_rows


def do(
    folder: Path,
    action: str,
    row: str | None,
    results: Path | None,
    data: Path | None,
    work: Path,
    published: bool,
    miniature: bool,
    model: str | None,
    execute: Execute = as_process,
) -> int:
    """One action; the command's exit status."""
    rows = load_rows(folder)
    if action == "list":
        for name, found in rows.items():
            print(f"{name:20}{found.title:64}{state(found)}")
        return 0
    if action == "page":
        write_text(folder / "README.md", page(rows))
        print(f"page: {folder / 'README.md'}")
        return 0
    chosen, way = choose(rows, row), "published" if published else "trained"
    if action == "check":
        if results is None:
            raise UserError("check needs a results.json: colbertxm reproduce check ROW RESULTS")
        return check(chosen, results, way, model)
    return run(chosen, data, work, way, miniature, execute)


def choose(rows: dict[str, Row], name: str | None) -> Row:
    """The row of that name. Raises UserError for none."""
    if name not in rows:
        what = "no row is named" if name is None else f"there is no row {name!r}{nearest(name, rows)}"
        raise UserError(f"{what}: choose {', '.join(rows)}")
    return rows[name]


def measured(row: Row, results: Path, model: str | None) -> dict[str, dict[str, float]]:
    """The figures of a results.json, and what the runs beside it add."""
    rows = read_rows(results)
    return from_runs(row, measured_points(row, rows, model), results, model_of(row, rows, model))


def check(row: Row, results: Path, way: str, model: str | None = None) -> int:
    """Print published, measured and difference; 0 where all is within the tolerance, else 1."""
    compared = compare(row, measured(row, results, model), way)
    print(f"{row.name}: {row.title} ({way})\nmeasure lang     publ. measured   diff.")
    for line in lines(compared):
        print(line)
    return 0 if all(c.verdict == WITHIN for c in compared) else 1


def run(row: Row, data: Path | None, work: Path, way: str, small: bool, execute: Execute) -> int:
    """Run a row and check its figures. A miniature's figures mean nothing: its status is 0 once they are there."""
    if small:
        if way == "published":
            raise UserError("--miniature trains on invented words; the published weights are of another base")
        work = work / "miniature"
        data = work / "data"
        tiny.write(row, data)
    if data is None:
        raise UserError(f"give --data FOLDER with {', '.join(row.files)}; or --miniature")
    wanted = steps(row, str(data), str(work), way, tiny.extra(row) if small else None)
    run_steps(wanted, work, execute, lambda line: print(line, file=sys.stderr, flush=True))
    results = Path(fill(row.results, {"work": str(work)}))
    code = check(row, results, way)
    if small:
        print("a miniature of invented words: that these figures are there is all that they say")
        return 0
    path = results.with_name("measured.yaml")
    write_text(path, proposal(row, measured(row, results, None), way, results))
    print(f"measured: {path}, to be looked at and put into the row's status by hand")
    return code
