"""From systems to a finished report: what `evaluate`, `demo` and `report` share."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colbertxm.collecting import costs, show_report
from colbertxm.data.collection import Collection
from colbertxm.data.lazy import StoredTexts
from colbertxm.evaluation.baselines import System
from colbertxm.evaluation.compare import MEASURES, Measured, differences, gaps, measure
from colbertxm.evaluation.report_collect import collect
from colbertxm.evaluation.report_write import write_collected
from colbertxm.evaluation.results import provenance, write_json
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
        with self.clock.phase("paired tests"):
            compared, crossed = self._compared(), self._gaps()
        results = {
            "seconds": {name: round(value, 2) for name, value in self.clock.seconds.items()},
            "peak_mb": round(peak_mb()),
            "rows": self.rows,
            "differences": compared,
            "gaps": crossed,
            "provenance": provenance(config, seed, {}),
        }
        write_json(self.output / "results.json", results)
        with self.clock.phase("report"):
            found = collect([self.output / "results.json"])
            show_report(write_collected(found, self.output, costs(found)), short=True)
        print_differences(compared)
        print_bias(self.rows)
        print_gaps(crossed)
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
        return self.retriever.answers(collection, k)


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


def peak_mb() -> float:
    """The process's peak resident memory in MB (10^6 bytes); Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
