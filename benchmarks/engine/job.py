"""One engine's turn: build its index in a process of its own, search it in others, and score what was found."""

from __future__ import annotations

import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.engines import Engine, Setting
from colbertxm.errors import UserError

Record = dict[str, Any]
ROOT = Path(__file__).parents[2]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS",
           "LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS")  # fmt: skip
BUILD_MINUTES, SEARCH_MINUTES = 120, 60
HITS = (10, 100)


@dataclass(frozen=True)
class Job:
    """What every engine is given. `truth` [queries, k]: the documents that exact MaxSim finds, best first; `hits`: how
    many a search asks for, once for each number."""

    vectors: Path
    truth: np.ndarray
    work: Path
    hits: tuple[int, ...] = HITS
    build_threads: int = 2
    threads: tuple[int, ...] = (1, 2)


def recall(found: Sequence[Sequence[int]], truth: np.ndarray, depth: int) -> float:
    """Share of the true best `depth` that is among the best `depth` found; mean over the queries."""
    shares = [
        len(set(hits[:depth]) & set(true[:depth].tolist())) / min(depth, len(true))
        for hits, true in zip(found, truth, strict=True)
    ]
    return float(np.mean(shares))


def _call(engine: Engine, job: Job, threads: int, minutes: int, first: int = 0, **more: Any) -> Record:
    """Run the engine's script on so many processors, from the `first` on, where there are as many. Raises UserError
    with the last lines that it printed."""
    command, own = engine.command()
    job.work.mkdir(parents=True, exist_ok=True)
    asked, out = job.work / "job.json", job.work / "out.json"
    out.unlink(missing_ok=True)
    given = {"vectors": str(job.vectors.resolve()), "index": str(job.work / "index"), "out": str(out), "hits": job.hits,
             "queries": len(job.truth), "threads": threads, **more}  # fmt: skip
    asked.write_text(json.dumps(given), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(THREADS, str(threads)), **own}

    def held() -> None:
        # Some have no setting for their pools of threads, or start them whatever it says.
        if hasattr(os, "sched_setaffinity"):
            there = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, there[first : first + threads] or there[:threads])

    with (job.work / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
        try:
            done = subprocess.run([*command, str(asked)], env=environment, cwd=job.work, preexec_fn=held,
                                  timeout=60 * minutes, stdout=log, stderr=log).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UserError(f"{engine.name}: {given['action']} took more than {minutes} minutes") from None
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    if done or not out.is_file():
        raise UserError(f"{engine.name}: {given['action']} ended with {done}: {' | '.join(said[-2:]) or 'no message'}")
    result: Record = json.loads(out.read_text(encoding="utf-8"))
    return result


def search(engine: Engine, job: Job, threads: int, settings: Sequence[Setting], index: Path | None = None) -> Record:
    """What the engine finds with each setting, and in what time. `index`: where it is, if not in `work`."""
    more = {} if index is None else {"index": str(index.resolve())}
    asked = [dict(setting) for setting in settings]
    return _call(engine, job, threads, SEARCH_MINUTES, action="search", settings=asked, **more)


def built(engine: Engine, job: Job, first: int = 0) -> Record:
    """What building its index took, in `work`, on the processors from the `first` on; why it failed, as `not_run`."""
    shutil.rmtree(job.work, ignore_errors=True)
    started = time.perf_counter()
    try:
        size = _call(engine, job, job.build_threads, BUILD_MINUTES, first, action="build", build=dict(engine.build))
    except UserError as error:
        return _not_run(engine, error)
    print(f"  {engine.name}: built in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return size


def _not_run(engine: Engine, error: UserError) -> Record:
    print(f"  not run: {error}", file=sys.stderr, flush=True)
    return {"engine": engine.name, "not_run": str(error)}


def measured(engine: Engine, job: Job, size: Record) -> list[Record]:
    """A record for each setting, number of hits and of threads of an index that was `built` by `size`; one that says
    why where the engine could not run. The index is removed."""
    records: list[Record] = []
    try:
        for threads in job.threads:
            found = search(engine, job, threads, engine.settings)
            for setting in found["settings"]:
                records.append(record(engine, job, size, threads, setting, found["peak_mb"]))
                print(
                    f"  {engine.name}, {setting['name']}, {setting['hits']} hits, {threads} threads: "
                    f"{records[-1]['p50_ms']:.1f} ms, recall@10 {records[-1]['recall_10']:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
    except UserError as error:
        records.append(_not_run(engine, error))
    finally:
        shutil.rmtree(job.work, ignore_errors=True)
    return records


def together(engines: Sequence[Engine], job: Job, builds: int) -> list[Record]:
    """All engines' records: `builds` indexes are built at a time, each on processors of its own, then each engine
    searches alone. Nothing is left in `work`."""
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(builds):
        slots.put(slot)

    def build(task: tuple[Engine, Job]) -> Record:
        slot = slots.get()
        try:
            return built(*task, slot * job.build_threads)
        finally:
            slots.put(slot)

    tasks = [(engine, replace(job, work=job.work / str(number))) for number, engine in enumerate(engines)]
    records: list[Record] = []
    try:
        with ThreadPoolExecutor(builds) as pool:
            sizes = list(pool.map(build, tasks))
        for task, size in zip(tasks, sizes, strict=True):
            records += [size] if "not_run" in size else measured(*task, size)
    finally:
        shutil.rmtree(job.work, ignore_errors=True)
    return records


def record(engine: Engine, job: Job, size: Record, threads: int, setting: Record, peak_mb: float) -> Record:
    """One setting's figures for one number of hits."""
    return {
        "engine": engine.name,
        "setting": setting["name"],
        "hits": setting["hits"],
        "threads": threads,
        "p50_ms": statistics.median(setting["ms"]),
        "p95_ms": float(np.percentile(setting["ms"], 95)),
        "cpu_ms": setting["cpu_ms"],  # of all threads, mean: the better guide on a busy machine
        "recall_10": recall(setting["ids"], job.truth, 10),
        "recall_100": recall(setting["ids"], job.truth, 100) if setting["hits"] >= 100 else None,
        "bytes_per_vector": size["bytes"] / size["vectors"],
        "build_s": size["seconds"],
        "build_cpu_s": size["cpu_seconds"],
        "build_peak_mb": size["peak_mb"],
        "build_before_mb": size["before_mb"],
        "search_peak_mb": peak_mb,
        "documents": size["documents"],
        "vectors": size["vectors"],
        "queries": len(setting["ids"]),
        "our": engine.peer is None,
    }
