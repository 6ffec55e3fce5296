"""From systems to a finished report: what `evaluate`, `demo` and `report` share."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from colbertxm.data.collection import Collection
from colbertxm.evaluation.baselines import System
from colbertxm.evaluation.compare import MEASURES, Measured, differences, measure
from colbertxm.evaluation.plots import plot_languages, plot_matrix
from colbertxm.evaluation.results import provenance, replacing, write_json
from colbertxm.evaluation.tables import cross_lingual_matrix, monolingual_table
from colbertxm.progress import progress
from colbertxm.retriever import Retriever
from colbertxm.stages import Clock
from colbertxm.training.logger import log_table


class Evaluation:
    """Collects rows of several systems on the same collections, then writes results.json and the report."""

    def __init__(
        self, output: Path, collections: Sequence[Collection], pair_of: Callable[[str], str], clock: Clock
    ) -> None:
        self.output, self.collections, self.pair_of, self.clock = output, collections, pair_of, clock
        self.rows: list[dict[str, Any]] = []
        self.measured: dict[str, Measured] = {}

    def add(self, name: str, system: System) -> None:
        """Run one system on every collection. Each distinct text is encoded once."""
        with self.clock.phase(f"evaluate {name}"):
            if isinstance(system, Retriever):
                texts = {(t.lang, t.text) for c in self.collections for t in c.queries}
                texts |= {("p" + t.lang, t.text) for c in self.collections for t in c.passages}
                system.prepare(self.collections, progress(len(texts), f"{name}: texts"))
            rows, self.measured[name] = measure(
                name,
                system,
                self.collections,
                self.output,
                progress=progress(len(self.collections), f"{name}: runs"),
            )
            self.rows += rows

    def finish(self, config: Mapping[str, Any], seed: int, logger: Any) -> None:
        """Write everything, print the tables and the paired tests against the untrained base."""
        with self.clock.phase("report"):
            compared = []
            if "untrained" in self.measured:
                keys = {q.id: self.pair_of(q.id) for c in self.collections for q in c.queries}
                for name in [n for n in self.measured if n not in ("bm25", "untrained", "untrained_single")]:
                    for line in differences(self.measured["untrained"], self.measured[name], keys):
                        compared.append({"model": name, "against": "untrained", **line})
            write_report(self.rows, self.output)
        print_differences(compared)
        results = {
            "seconds": {name: round(value, 2) for name, value in self.clock.seconds.items()},
            "peak_mb": round(peak_mb()),
            "rows": self.rows,
            "differences": compared,
            "provenance": provenance(config, seed, {}),
        }
        write_json(self.output / "results.json", results)
        log_table(logger, "results", self.rows)
        log_table(logger, "differences", compared)
        total = sum(self.clock.seconds.values())
        training = sum(v for name, v in self.clock.seconds.items() if name.startswith("train"))
        for name, value in self.clock.seconds.items():
            print(f"  {name:28}{value:8.1f} s")
        print(f"  {'total':28}{total:8.1f} s   training {training / max(total, 1e-9):.0%}, peak {peak_mb():.0f} MB")


def write_report(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Per-language tables of every measure and the cross-lingual matrices, as csv, markdown and PNG in `output`; the
    RR@10 tables go to the terminal too."""
    output.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 140)
    markdown = []
    for name in MEASURES:
        table = monolingual_table(rows, name)
        write_text(output / f"languages_{slug(name)}.csv", table.csv())
        markdown.append(table.markdown())
        if name == "RR@10":
            console.print(table.terminal())
    models = list(dict.fromkeys(row["model"] for row in rows))
    if any(row["query_lang"] != row["passage_lang"] for row in rows):
        for model in models:
            matrix = cross_lingual_matrix(rows, model, "RR@10")
            write_text(output / f"cross_lingual_{model}.csv", matrix.csv())
            markdown.append(matrix.markdown())
            if model == models[-1]:
                console.print(matrix.terminal())
            plot_matrix(rows, model, output / f"cross_lingual_{model}.png")
    write_text(output / "report.md", "\n\n".join(markdown) + "\n")
    plot_languages(rows, output / "languages.png", "RR@10")
    print(f"report: {output / 'report.md'}  pictures: {output / 'languages.png'}")


def print_differences(lines: Sequence[Mapping[str, Any]]) -> None:
    """English and the mean of the other languages, against the untrained base's raw MaxSim."""
    for line in lines:
        if line["scope"] in ("en", "mean of others"):
            print(f"  {line['model']:14} - {line['against']}  {line['scope']:15} {line['difference']:+.3f} "
                  f"[{line['low']:+.3f}, {line['high']:+.3f}]  p = {line['p']:.4f}")  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def slug(measure_name: str) -> str:
    """RR@10 as rr10, for file names."""
    return measure_name.replace("@", "").lower()


def peak_mb() -> float:
    """The process's peak resident memory in MB (10^6 bytes); Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
