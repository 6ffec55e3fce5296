"""From systems to a finished report: what `evaluate`, `demo` and `report` share."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from colbertxm.data.collection import Collection
from colbertxm.data.lazy import StoredTexts
from colbertxm.evaluation.baselines import System
from colbertxm.evaluation.compare import MEASURES, Measured, differences, gaps, measure
from colbertxm.evaluation.plots import plot_languages, plot_matrix
from colbertxm.evaluation.results import provenance, write_json, write_text
from colbertxm.evaluation.tables import Cell, Table, cross_lingual_matrix, monolingual_table, order_models, value_of
from colbertxm.progress import progress
from colbertxm.records import Hit
from colbertxm.retriever import Retriever
from colbertxm.stages import Clock
from colbertxm.training.logger import log_table

UNTRAINED = ("bm25", "untrained", "untrained_single")
"""Systems that are not compared with the untrained base."""
INDEX_BITS = 2
"""Of a dimension, in the indexes of corpora that do not fit into memory."""


class Evaluation:
    """Collects rows of several systems on the same collections, then writes results.json and the report."""

    def __init__(
        self, output: Path, collections: Sequence[Collection], pair_of: Callable[[str, str], str], clock: Clock
    ) -> None:
        self.output, self.collections, self.pair_of, self.clock = output, collections, pair_of, clock
        self.rows: list[dict[str, Any]] = []
        self.measured: dict[str, dict[str, Measured]] = {}

    def add(self, name: str, system: System) -> None:
        """Run one system on every collection. Each distinct text is encoded once; passages that are not held in memory
        are not encoded into it either, but into an index on disk."""
        with self.clock.phase(f"evaluate {name}"):
            if isinstance(system, Retriever):
                in_memory = [c for c in self.collections if not isinstance(c.passages, StoredTexts)]
                texts = {(t.lang, t.text) for c in in_memory for t in c.queries}
                texts |= {("p" + t.lang, t.text) for c in in_memory for t in c.passages}
                system.prepare(in_memory, progress(len(texts), f"{name}: texts"))
                if len(in_memory) < len(self.collections):
                    system = Indexed(system, self.output / "indexes" / name)
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
            compared, crossed = self._compared(), self._gaps()
            write_report(self.rows, self.output)
        print_differences(compared)
        print_bias(self.rows)
        print_gaps(crossed)
        results = {
            "seconds": {name: round(value, 2) for name, value in self.clock.seconds.items()},
            "peak_mb": round(peak_mb()),
            "rows": self.rows,
            "differences": compared,
            "gaps": crossed,
            "provenance": provenance(config, seed, {}),
        }
        write_json(self.output / "results.json", results)
        log_table(logger, "results", self.rows)
        log_table(logger, "differences", compared)
        log_table(logger, "gaps", crossed)
        total = sum(self.clock.seconds.values())
        training = sum(v for name, v in self.clock.seconds.items() if name.startswith("train"))
        for name, value in self.clock.seconds.items():
            print(f"  {name:28}{value:8.1f} s")
        print(f"  {'total':28}{total:8.1f} s   training {training / max(total, 1e-9):.0%}, peak {peak_mb():.0f} MB")

    def _compared(self) -> list[dict[str, Any]]:
        """Every trained system against the untrained base, by the main measure of each collection."""
        compared: list[dict[str, Any]] = []
        main = self._main()
        for name in self.measured if "untrained" in self.measured else ():
            if name in UNTRAINED:
                continue
            for collection, base in self.measured["untrained"].items():
                about = {"model": name, "against": "untrained"}
                if len(main) > 1:
                    about["collection"] = collection
                lines = differences(base, self.measured[name][collection], self.pair_of, main[collection])
                compared += [{**about, **line} for line in lines]
        return compared

    def _gaps(self) -> list[dict[str, Any]]:
        """What crossing languages costs each system, by the main measure of each collection."""
        main = self._main()
        return [
            {"model": name, "collection": collection, **line}
            for name, places in self.measured.items()
            for collection, measured in places.items()
            for line in gaps(measured, self.pair_of, main[collection])
        ]

    def _main(self) -> dict[str, str]:
        return {c.name: c.measures[0] if c.measures else MEASURES[0] for c in self.collections}


@dataclass
class Indexed:
    """A retriever that searches corpora of millions out of compressed indexes, built here once a language."""

    retriever: Retriever
    folder: Path
    built: set[Path] = field(default_factory=set)

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        """The run of a whole collection; a killed build goes on where it was."""
        if not isinstance(collection.passages, StoredTexts):
            return self.retriever.run(collection, k)
        folder = self.folder / f"{collection.name.replace('/', '-')}.{collection.passage_lang}"
        if folder not in self.built:
            bar = progress(len(collection.passages), f"{collection.passage_lang}: passages")
            meta = {"corpus": collection.name, "lang": collection.passage_lang}
            self.retriever.write(folder, collection.passages, meta, progress=bar, bits=INDEX_BITS)
            self.built.add(folder)
        self.retriever.open(folder)
        return [hit for hits in self.retriever.search(collection.queries, k) for hit in hits]


def write_report(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Per-language tables of every measure and the cross-lingual matrices, as csv, markdown and PNG in `output`; the
    tables of the main measure go to the terminal too. Several collections (BEIR's) make one table of a line each; the
    queries over a mixed pool, a line a language."""
    output.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 140)
    names = str(rows[0].get("official") or " ".join(MEASURES)).split() if rows else list(MEASURES)
    one_language = [row for row in rows if row["query_lang"] == row["passage_lang"] != Collection.MIXED]
    by_language = not _several(rows) and all(row["passage_lang"] != Collection.MIXED for row in rows)
    markdown = []
    for name in names:
        stem, table = _table(rows, name)
        write_text(output / f"{stem}_{slug(name)}.csv", table.csv())
        markdown.append(table.markdown())
        if name == names[0]:
            console.print(table.terminal())
    if by_language and len(one_language) < len(rows):
        markdown += _matrices(rows, names[0], output, console)
    write_text(output / "report.md", "\n\n".join(markdown) + "\n")
    pictures = ""
    if by_language and one_language:
        plot_languages(rows, output / "languages.png", names[0])
        pictures = f"  pictures: {output / 'languages.png'}"
    print(f"report: {output / 'report.md'}{pictures}")


def _table(rows: Sequence[dict[str, Any]], name: str) -> tuple[str, Table]:
    """What its file is called after, and the table of one measure that suits these rows."""
    pooled = [row for row in rows if row["passage_lang"] == Collection.MIXED]
    if pooled and not _several(rows):
        return "pool", pool_table(pooled, name)
    if _several(rows) or all(row["query_lang"] != row["passage_lang"] for row in rows):
        return "collections", collections_table(rows, name)
    return "languages", monolingual_table(rows, name)


def _several(rows: Sequence[dict[str, Any]]) -> bool:
    return len({row.get("collection") for row in rows}) > 1


def _matrices(rows: Sequence[dict[str, Any]], name: str, output: Path, console: Console) -> list[str]:
    """Each model's query languages by passage languages; the last model's on the terminal."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    markdown = []
    for model in models:
        matrix = cross_lingual_matrix(rows, model, name)
        write_text(output / f"cross_lingual_{model}.csv", matrix.csv())
        markdown.append(matrix.markdown())
        if model == models[-1]:
            console.print(matrix.terminal())
        plot_matrix(rows, model, output / f"cross_lingual_{model}.png", name)
    return markdown


def collections_table(rows: Sequence[dict[str, Any]], name: str) -> Table:
    """One line per collection (and pair of languages where there are several), then their mean, as BEIR reports it."""
    pairs = {(row["query_lang"], row["passage_lang"]) for row in rows}
    languages = " {query_lang}-{passage_lang}" if len(pairs) > 1 else ""
    named = [(f"{row.get('collection')}{languages.format(**row)}", row) for row in rows]
    return _lines(named, name, "collection", f"{name} by collection", mean="mean of all")


def pool_table(rows: Sequence[dict[str, Any]], name: str) -> Table:
    """One line per language of the queries, all searching one pool; the last line is all queries together."""
    ordered = sorted(rows, key=lambda row: (row["query_lang"] == Collection.MIXED, row["query_lang"]))
    named = [("all queries" if r["query_lang"] == Collection.MIXED else r["query_lang"], r) for r in ordered]
    title = f"{name}, queries of a language over one pool of passages in all languages, {rows[0].get('collection')}"
    return _lines(named, name, "queries in", title)


def _lines(named: Sequence[tuple[str, dict[str, Any]]], name: str, head: str, title: str, mean: str = "") -> Table:
    models = order_models(row["model"] for _, row in named)
    cells = {(line, row["model"]): Cell(value_of(row, name)) for line, row in named}
    lines = list(dict.fromkeys(line for line, _ in named))
    made = [(line, tuple(cells.get((line, model), Cell()) for model in models)) for line in lines]
    if mean:
        columns = [[cells.get((line, model), Cell()).value for line in lines] for model in models]
        made.append((mean, tuple(_mean(values) for values in columns)))
    return Table(title, (head, *models), tuple(made))


def _mean(values: Sequence[float | None]) -> Cell:
    """None where a model misses a line: it would not be comparable."""
    known = [value for value in values if value is not None]
    return Cell(round(sum(known) / len(known), 6)) if len(known) == len(values) else Cell()


def print_differences(lines: Sequence[Mapping[str, Any]]) -> None:
    """English and the mean of the other languages, against the untrained base's raw MaxSim."""
    for line in lines:
        if line["scope"] in ("en", "mean of others"):
            print(f"  {line['model']:14} - {line['against']}  {line['scope']:15} {line['difference']:+.3f} "
                  f"[{line['low']:+.3f}, {line['high']:+.3f}]  p = {line['p']:.4f}")  # fmt: skip


def print_gaps(lines: Sequence[Mapping[str, Any]]) -> None:
    """The mean over pairs of languages."""
    for line in lines:
        if str(line["scope"]).startswith("mean of"):
            print(f"  {line['model']:14} cross-lingual gap, {line['scope']}: {line['gap']:+.3f} "
                  f"[{line['low']:+.3f}, {line['high']:+.3f}]: {line['mono']:.3f} in one language, "
                  f"{line['cross']:.3f} across")  # fmt: skip


def print_bias(rows: Sequence[Mapping[str, Any]]) -> None:
    """How far the languages of the first hits in a mixed pool are from those of the relevant passages."""
    for row in rows:
        if "bias" in row and row["query_lang"] == Collection.MIXED:
            bias = row["bias"]
            print(f"  {row['model']:14} language bias among the first {bias['k']}: total variation "
                  f"{bias['total_variation']:.3f}")  # fmt: skip


def slug(measure_name: str) -> str:
    """RR@10 as rr10, for file names."""
    return measure_name.replace("@", "").lower()


def peak_mb() -> float:
    """The process's peak resident memory in MB (10^6 bytes); Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
