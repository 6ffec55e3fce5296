"""Our engine as the collection grows: `python -m benchmarks.engine.growth` (5,000, 50,000 and 500,000 documents).

The vectors are those of benchmarks/engine/vectors.py. 500,000 documents are 42 million of them, 21 GB in float32, so
they are never together, neither in memory nor on disk: each shard is made, shown to exact MaxSim, given to the build
and forgotten. The build itself keeps them as float16 while it runs (11 GB). A killed run goes on where it was.

Kept in --keep (the cache folder): `growth-DOCUMENTS-BITS`, the index, with what building took among its notes, and
`growth-DOCUMENTS-truth-QUERIES`, queries and what exact MaxSim finds. Where both are there they are only measured
again. Written: benchmarks/results/engine_growth.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine.engines import Engine
from benchmarks.engine.figures import table
from benchmarks.engine.job import HITS, Job, Record, record, search
from benchmarks.engine.oracle import Oracle
from benchmarks.engine.peers import common
from benchmarks.engine.vectors import Shape, World, queries, save, shard, shards
from benchmarks.record import row, write
from colbertxm.engine.build import build_index
from colbertxm.engine.index import CompressedIndex, Document
from colbertxm.errors import UserError
from colbertxm.files import MANIFEST, put
from colbertxm.progress import progress
from colbertxm.sources import cache_folder

SIZES = "5000,50000,500000"
K = max(HITS)
BUDGETS = "256,500,1024"
MEMORY_MB = 2048  # enough for the paper's number of centroids at 500,000 documents
EVERY_S = 10.0


class Clock:
    """Seconds and processor seconds of a build through any number of kills: written to `file` every EVERY_S. What a
    `pause` takes (making vectors, exact MaxSim) does not count."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = (
            json.loads(file.read_bytes()) if file.is_file() else {"seconds": 0.0, "cpu_seconds": 0.0, "kills": -1}
        )
        self.paused = [0.0, 0.0]
        self.started = [time.perf_counter(), common.cpu_seconds()]
        self.rss_mb = common.memory_mb("VmRSS")
        self._over = threading.Event()

    def __enter__(self) -> Clock:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            put(self.file, json.dumps(self.taken()).encode())
            if self._over.wait(EVERY_S):
                return

    def pause(self, work: Callable[[], Any]) -> Any:
        """`work()`, off the clock."""
        started = [time.perf_counter(), common.cpu_seconds()]
        result = work()
        for i, now in enumerate([time.perf_counter(), common.cpu_seconds()]):
            self.paused[i] += now - started[i]
        return result

    def taken(self) -> dict[str, float]:
        """What building took so far. Peak memory has a shard and the exact search in it."""
        now = [time.perf_counter(), common.cpu_seconds()]
        seconds, cpu = (now[i] - self.started[i] - self.paused[i] for i in range(2))
        return {
            "seconds": self.before["seconds"] + seconds,
            "cpu_seconds": self.before["cpu_seconds"] + cpu,
            "kills": self.before["kills"] + 1,
            "peak_mb": max(self.before.get("peak_mb", 0.0), common.memory_mb("VmHWM")),
            "before_mb": self.rss_mb,
        }


class Stream:
    """The documents of all shards, none kept, and beside them exact MaxSim over each shard once."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.shape, self.world = shape, World(shape)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "queries.npy").is_file():
            save(folder / "queries.npy", queries(self.world))
        self.oracle = Oracle(
            common.queries(folder, shape.queries), K, folder / "state.npz", json.dumps(asdict(shape), sort_keys=True)
        )
        self.advance = progress(shards(shape), "shards made and searched exactly", 60)

    def shard(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors [t, E] float32 and offsets [n + 1] of one shard. It is searched before it is used: whatever a build
        holds was searched already."""
        vectors, lengths, _ = shard(self.world, number)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        if number == self.oracle.shards:
            self.oracle.add(vectors, offsets)
            self.advance(1)
        return vectors, offsets

    def documents(self, first: int, clock: Clock) -> Iterator[Document]:
        """From document `first` on."""
        for number in range(first // self.shape.per_shard, shards(self.shape)):
            vectors, offsets = clock.pause(lambda number=number: self.shard(number))
            before = number * self.shape.per_shard
            for place in range(max(0, first - before), len(offsets) - 1):
                rows = torch.from_numpy(vectors[offsets[place] : offsets[place + 1]])
                yield Document(str(before + place), "en", rows)

    def finish(self) -> None:
        """Search exactly what no build asked for."""
        while self.oracle.shards < shards(self.shape):
            self.shard(self.oracle.shards)


def grown(shape: Shape, bits: int, memory_mb: int, folder: Path, stream: Stream) -> dict[str, Any]:
    """The index in `folder`, built where it is not there: what building took. Raises UserError for another one."""
    described = asdict(shape) | {"queries": 0}
    if not (folder / MANIFEST).is_file():
        clock_file = folder.with_name(folder.name + "-clock.json")
        with Clock(clock_file) as clock:
            build_index(
                folder,
                lambda first: stream.documents(first, clock),
                bits,
                memory_mb=memory_mb,
                source=json.dumps(described),
                meta=lambda: {"shape": described, "built": clock.taken()},
            )
        clock_file.unlink(missing_ok=True)
    index = CompressedIndex(folder)
    if index.meta.get("shape") != described or index.manifest["bits"] != bits:
        raise UserError(f"{folder} holds another index than asked for: name another folder with --keep, or remove it")
    return {
        **index.meta["built"],
        "bytes": sum(entry["bytes"] for entry in index.manifest["files"].values()) + (folder / MANIFEST).stat().st_size,
        "vectors": sum(part["vectors"] for part in index.manifest["parts"]),
        "documents": len(index.ids),
    }


def warmed(folder: Path) -> None:
    """Read all files once: the system then has them in memory, if there is room."""
    for entry in CompressedIndex(folder).manifest["files"].values():
        with (folder / entry["file"]).open("rb") as file:
            while file.read(2**24):
                pass


def measure(count: int, given: argparse.Namespace) -> list[Record]:
    """One size's records: for each budget and number of hits."""
    shape = Shape(count, given.queries)
    told = given.keep / f"growth-{count}-truth-{given.queries}"
    folder = given.keep / f"growth-{count}-{given.bits}"
    stream = Stream(shape, told)
    size = grown(shape, given.bits, given.memory_mb, folder, stream)
    stream.finish()
    engine = Engine(f"colbertxm, {given.bits} bits", "benchmarks.engine.compressed")
    settings = [{"name": f"budget {budget}", "budget": budget} for budget in given.budgets]
    records = []
    with tempfile.TemporaryDirectory() as work:
        job = Job(told, stream.oracle.numbers, Path(work))
        for threads in given.threads:
            warmed(folder)
            found = search(engine, job, threads, settings, folder)
            records += [record(engine, job, size, threads, setting, found["peak_mb"]) for setting in found["settings"]]
    return records


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", default=SIZES, help=f"sizes, joined by commas ({SIZES})")
    parser.add_argument("--bits", type=int, default=2, help="of the index: 1, 2, 4 or 8 (2)")
    parser.add_argument("--memory-mb", type=int, default=MEMORY_MB, help=f"of the build ({MEMORY_MB})")
    parser.add_argument("--keep", type=Path, help="folder for indexes and truth (the cache folder)")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--budgets", default=BUDGETS, help=f"of a search, at least {K} each ({BUDGETS})")
    parser.add_argument("--threads", type=int, nargs="*", default=[1], help="of a search (1)")
    given = parser.parse_args(arguments)
    given.keep = given.keep or cache_folder() / "engine"
    given.budgets = [int(text) for text in given.budgets.split(",")]
    if min(given.budgets) < K:
        raise UserError(f"--budgets {min(given.budgets)}: {K} hits are asked for, give at least as many")
    return given


def run(arguments: Sequence[str] | None = None) -> list[Record]:
    """All sizes: tables and figures, written after each size."""
    given = options(arguments)
    records: list[Record] = []
    for count in (int(text) for text in given.documents.split(",")):
        found = measure(count, given)
        records += found
        print(f"\n{found[0]['documents']:,} documents, {found[0]['vectors']:,} vectors\n\n{table(found)}\n", flush=True)
        made = [
            row("growth_query_ms", r["p50_ms"], "ms", **{n: v for n, v in r.items() if n != "p50_ms"}) for r in records
        ]
        write("engine_growth", made)
    return records


if __name__ == "__main__":
    try:
        run()
    except UserError as error:
        sys.exit(f"error: {error}")
