"""How long measuring takes: MS MARCO's 6,980 queries at depth 1,000, and smart_home in its 17 languages.

    make bench-evaluation                                   # both: minutes
    make bench-evaluation ARGS='--only measure'             # the run of seven million lines alone
    make bench-evaluation ARGS='--only smart_home --cross all'

`measure_7k_x_1000_s` is what `evaluate` takes for RR@10, R@1000 and nDCG@10 of a run in columns; reading its file,
plain and gzipped, and the whole command `colbertxm evaluate --run`, with start and intervals, have rows of their own.
The run is generated: random passages of 8.8 million, scores of 32 bits as `write_run` writes them. `smart_home_s` is
the whole command `colbertxm evaluate` with the untrained base: every text encoded once, every pair of languages
searched, measured, written and drawn. Seconds are of the clock; `cpu_s` in the settings tells how much of them was work
where the machine had others to serve.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from record import row, write

from colbertxm.evaluation.metrics import evaluate
from colbertxm.evaluation.runs import load_run, rank_hits, read_qrels, write_qrels, write_run
from colbertxm.records import Hit, Judgement

QUERIES, DEPTH, PASSAGES = 6_980, 1_000, 8_841_823  # MS MARCO's small dev set
MEASURES = ("RR@10", "R@1000", "nDCG@10")
Row = dict[str, Any]


def hits_of(query: int, rng: np.random.Generator) -> list[Hit]:
    """A query's thousand passages."""
    passages = rng.choice(PASSAGES, DEPTH, replace=False)
    scores = np.sort(rng.gamma(3, 4, DEPTH).astype(np.float32))[::-1]
    return rank_hits(str(query * 131 + 7), list(map(str, passages.tolist())), scores)


def make(folder: Path, queries: int) -> None:
    """run.trec, run.trec.gz and qrels.txt, in which a query has one relevant passage, mostly found."""
    rng = np.random.default_rng(0)
    judgements: list[Judgement] = []

    def hits() -> Any:
        for query in range(queries):
            found = hits_of(query, rng)
            place = int(rng.geometric(0.1))
            judgements.append(Judgement(found[0].query_id, found[place].passage_id if place < DEPTH else "none", 1))
            yield from found

    write_run(folder / "run.trec", hits(), "generated")
    write_qrels(folder / "qrels.txt", judgements)
    subprocess.run(["gzip", "-k", "-5", "run.trec"], cwd=folder, check=True)


def seconds(work: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Medians of the clock's and the processor's seconds."""
    taken = []
    for _ in range(repeats):
        started, busy = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - started, time.process_time() - busy))
    return statistics.median(clock for clock, _ in taken), statistics.median(cpu for _, cpu in taken)


def command(arguments: list[str], environment: dict[str, str] | None = None) -> tuple[float, float, str]:
    """Seconds of the clock and of the processor for one run of `colbertxm ARGUMENTS`, and what it printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "colbertxm.cli", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu, done.stdout


def measure(folder: Path, queries: int, repeats: int) -> list[Row]:
    """Reading, measuring, and both from the command line."""
    make(folder, queries)
    settings = {"queries": queries, "depth": DEPTH, "measures": MEASURES, "file_mb": mb(folder / "run.trec")}
    rows = []
    for name in ("run.trec", "run.trec.gz"):
        clock, cpu = seconds(lambda name=name: load_run(folder / name), 1)  # type: ignore[misc]
        rows.append(shown(row(f"read_7k_x_1000_{'gz_' * name.endswith('gz')}s", clock, "s", cpu_s=cpu, **settings)))
    run, qrels = load_run(folder / "run.trec"), read_qrels(folder / "qrels.txt")

    def measured() -> Any:
        for derived in ("query", "rank", "keys"):  # what a run keeps once it was computed
            run.__dict__.pop(derived, None)
        return evaluate(run, qrels, MEASURES)

    clock, cpu = seconds(measured, repeats)
    rows.append(shown(row("measure_7k_x_1000_s", clock, "s", cpu_s=cpu, **settings)))
    files = ["--run", str(folder / "run.trec.gz"), "--qrels", str(folder / "qrels.txt"), "--measures"]
    clock, cpu, _ = command(["evaluate", *files, " ".join(MEASURES)])
    rows.append(shown(row("evaluate_run_7k_x_1000_gz_s", clock, "s", cpu_s=cpu, **settings)))
    return rows


def smart_home(folder: Path, cross: str) -> list[Row]:
    """The whole evaluation of the untrained base."""
    clock, cpu, printed = command(
        ["evaluate", "checkpoints=[]", "baselines=[untrained]", f"cross={cross}", f"output={folder / 'out'}",
         "logger.mode=disabled"]
    )  # fmt: skip
    print(printed)
    pairs = len(list((folder / "out" / "qrels").iterdir()))
    return [shown(row("smart_home_s", clock, "s", cpu_s=cpu, cross=cross, pairs=pairs, systems=["untrained"]))]


def shown(line: Row) -> Row:
    """Print a row and give it back."""
    print(f"{line['name']:32}{line['value']:8.2f} {line['unit']}   (cpu {line['settings']['cpu_s']:.2f} s)", flush=True)
    return line


def mb(path: Path) -> float:
    """Megabytes of a file."""
    return round(path.stat().st_size / 1e6, 1)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--only", choices=("measure", "smart_home"), help="one half; the file then holds its rows alone"
    )
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cross", choices=("english", "all"), default="english", help="pairs of languages")
    asked = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if asked.only != "smart_home":
            rows += measure(Path(folder), asked.queries, asked.repeats)
        if asked.only != "measure":
            rows += smart_home(Path(folder), asked.cross)
    write("evaluation", rows)


if __name__ == "__main__":
    main()
