"""What all engines' scripts share: a folder of vectors, and a job that builds an index or searches it.

Every library's process uses this file, so it needs NumPy and the standard library alone. A job is a JSON file:

    action    "build" or "search"; each in a process of its own
    vectors   folder of vectors (benchmarks/engine/vectors.py)
    index     folder of the index
    build     the build's arguments
    settings  of a search: [{"name": ..., argument: value, ...}, ...]
    hits      of a search: how many are asked for, [k, ...]
    queries, threads, out (the file to write)

T vectors in all, N documents, E dimensions, Q vectors a query.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM = 5
"""Queries before the clock runs: pages are mapped and pools of threads started by then."""


@dataclass(frozen=True)
class Corpus:
    """vectors [T, E] float16 or float32, offsets [N + 1] int64, tokens [T] uint32: each vector's word (tachiom builds
    clusters from it), None where nobody knows."""

    vectors: np.ndarray
    offsets: np.ndarray
    tokens: np.ndarray | None

    def documents(self) -> Iterator[np.ndarray]:
        """Each document's vectors [t, E]."""
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.vectors[start:end]


Searcher = Callable[[np.ndarray, int, dict[str, Any]], Sequence[int]]
"""A query [Q, E] float32, k and a setting's arguments: the positions of at most k documents, best first."""
Build = Callable[[Corpus, Path, dict[str, Any]], None]
Open = Callable[[Path, int], Searcher]


def shards(folder: Path) -> Iterator[Corpus]:
    """The folder's parts, mapped from their files. One that benchmarks/engine/vectors.py made, or one with the whole
    in emb.npy, off.npy and perhaps tok.npy."""
    if (folder / "emb.npy").is_file():
        tokens = np.load(folder / "tok.npy", mmap_mode="r") if (folder / "tok.npy").is_file() else None
        yield Corpus(np.load(folder / "emb.npy", mmap_mode="r"), np.load(folder / "off.npy"), tokens)
        return
    names = sorted(folder.glob("vectors-*.npy"))
    if not names:
        raise FileNotFoundError(f"{folder} holds neither vectors-*.npy nor emb.npy: no folder of vectors")
    for name in names:
        number = name.stem.removeprefix("vectors-")
        lengths = np.load(folder / f"lengths-{number}.npy")
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        tokens = np.load(folder / f"tokens-{number}.npy", mmap_mode="r")
        yield Corpus(np.load(name, mmap_mode="r"), offsets, tokens)


def load(folder: Path, dtype: type = np.float32) -> Corpus:
    """The whole folder in memory. Filled shard by shard: never held twice."""
    parts = list(shards(folder))
    counts = np.cumsum([0, *(len(part.vectors) for part in parts)])
    vectors = np.empty((counts[-1], parts[0].vectors.shape[1]), dtype)
    for part, start in zip(parts, counts, strict=False):
        vectors[start : start + len(part.vectors)] = part.vectors
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    known = [part.tokens for part in parts if part.tokens is not None]
    tokens = np.concatenate(known).astype(np.uint32) if len(known) == len(parts) else None
    return Corpus(vectors, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), tokens)


def queries(folder: Path, count: int) -> list[np.ndarray]:
    """The first queries, each [Q, E] float32. One array [queries, Q, E], or where their lengths stand beside it
    (query-lengths.npy) all of them end to end."""
    name = "q.npy" if (folder / "q.npy").is_file() else "queries.npy"
    vectors = np.ascontiguousarray(np.load(folder / name), dtype=np.float32)
    if (folder / "query-lengths.npy").is_file():
        return np.split(vectors, np.cumsum(np.load(folder / "query-lengths.npy"))[:-1])[:count]
    return list(vectors[:count])


def memory_mb(field: str) -> float:
    """MiB of this process: VmRSS is what it holds, VmHWM what it held at most. 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), 0.0)


def cpu_seconds() -> float:
    """Seconds of processor time of this process and of those that it started and that have ended."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def built(build: Build, job: dict[str, Any]) -> dict[str, Any]:
    """Build the index: what that took, and how large it is. The vectors lie in memory before the clock starts."""
    corpus = load(Path(job["vectors"]))
    folder = Path(job["index"])
    folder.mkdir(parents=True)
    before, cpu, started = memory_mb("VmRSS"), cpu_seconds(), time.perf_counter()
    build(corpus, folder, job["build"])
    seconds = time.perf_counter() - started
    children_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - cpu,
        "before_mb": before,
        "peak_mb": max(memory_mb("VmHWM"), children_mb),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "vectors": len(corpus.vectors),
        "documents": len(corpus.offsets) - 1,
    }


def searched(opened: Open, job: dict[str, Any]) -> dict[str, Any]:
    """Search one query at a time with every setting, for each number of hits: what was found, milliseconds a query."""
    asked = queries(Path(job["vectors"]), job["queries"])
    search = opened(Path(job["index"]), job["threads"])
    found = []
    for setting in job["settings"]:
        arguments = {name: value for name, value in setting.items() if name != "name"}
        for k in job["hits"]:
            for query in asked[:WARM]:
                search(query, k, arguments)
            found.append({"name": setting["name"], "hits": k, **_asked(search, asked, k, arguments)})
    return {"settings": found, "peak_mb": memory_mb("VmHWM")}


def _asked(search: Searcher, queries: Sequence[np.ndarray], k: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """What is found, each query's milliseconds, and those of processor time on the average."""
    ids, taken, cpu = [], [], cpu_seconds()
    for query in queries:
        started = time.perf_counter()
        found = search(query, k, arguments)
        taken.append(1000 * (time.perf_counter() - started))
        ids.append([int(number) for number in found])
    return {"ids": ids, "ms": taken, "cpu_ms": 1000 * (cpu_seconds() - cpu) / len(queries)}


def main(build: Build, opened: Open) -> None:
    """A script's whole run: read the job, do it, write what came of it."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = built(build, job) if job["action"] == "build" else searched(opened, job)
    out = Path(job["out"])
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, out)
