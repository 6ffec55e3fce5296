"""Engines on the same vectors: time, recall, size and build: `make bench-engine`.

fast-plaid, tachiom, xtr-warp-rs and LanceDB in environments of their own, and ours; each builds an index from the same
generated vectors and answers the same queries, one at a time. Recall is against exact MaxSim over float32 vectors.
Written: benchmarks/results/engine.json (engine-FOLDER.json with --vectors FOLDER), and with --picture
frontier.png; with --add beside the sizes that an earlier run measured.
Without the peers, `make bench-engine PEERS=`: 5,000 documents, minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.engines import ENGINES
from benchmarks.engine.figures import draw, table
from benchmarks.engine.job import HITS, Job, Record, together
from benchmarks.engine.oracle import truth
from benchmarks.engine.ours import BUDGETS, ours
from benchmarks.engine.vectors import Shape, make
from benchmarks.record import read, row, write
from colbertxm.engine.compressed import BUDGET, PER_HIT
from colbertxm.errors import UserError
from colbertxm.sources import cache_folder

PICTURE = Path(__file__).parent / "frontier.png"
SIZES, FEW = "5000,20000,50000", "5000"
"""Numbers of documents beside the peers, and alone."""
K = max(HITS)
DEFAULT = f"budget {max(BUDGET, PER_HIT * K)}"


def compare(folder: Path, given: argparse.Namespace) -> list[Record]:
    """All engines on one folder of vectors."""
    started = time.perf_counter()
    true = truth(folder, given.queries, K)
    print(f"{folder.name}: exact MaxSim took {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        at_once = max(given.threads) if given.builds == 1 else 1
        job = Job(folder, true, Path(work) / "engine", HITS, at_once, tuple(given.threads))
        engines = [*(ENGINES[name] for name in given.peers), *ours(given.budgets)]
        return together(engines, job, given.builds)


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records as a benchmark's figures."""
    made = []
    for record in records:
        if "not_run" in record:
            made.append({"name": "engine_not_run", "value": None, "unit": "", "settings": dict(record)})
            continue
        settings = {name: value for name, value in record.items() if name != "p50_ms"}
        made.append(row("engine_query_ms", record["p50_ms"], "ms", **settings))
    run = [r for r in records if "not_run" not in r and r["threads"] == 1]
    for size in sorted({record["documents"] for record in run}):
        for hits in HITS:
            made += headlines([r for r in run if r["documents"] == size and r["hits"] == hits])
    return made


def headlines(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One size's figures, for one number of hits, that one is asked for by name: 4 bits at the default budget beside
    the peers' defaults; one thread. Speedups are above 1 where ours is faster, ratios below 1 where it takes less."""
    ours = {r["engine"].split()[1]: r for r in records if r["engine"].endswith("bits") and r["setting"] == DEFAULT}
    peers = {r["engine"].split()[0]: r for r in records if r["setting"] == "defaults" and not r["our"]}
    if not {"2", "4"} <= ours.keys():
        return []
    four, size = ours["4"], {"documents": ours["4"]["documents"], "hits": ours["4"]["hits"]}
    made = [
        row("ms_per_query_4bit", four["p50_ms"], "ms", **size),
        row("recall10_4bit", four["recall_10"], "", **size),
        row("bytes_per_vector_2bit", ours["2"]["bytes_per_vector"], "bytes", **size),
        row("bytes_per_vector_4bit", four["bytes_per_vector"], "bytes", **size),
    ]
    for peer, name in (("fast-plaid", "fast_plaid"), ("tachiom", "tachiom"), ("xtr-warp-rs", "xtr_warp")):
        if peer in peers:
            made.append(row(f"speedup_vs_{name}", peers[peer]["p50_ms"] / four["p50_ms"], "x", **size))
    if plaid := peers.get("fast-plaid"):
        for name, field in (("cpu", "build_cpu_s"), ("memory", "build_peak_mb")):
            made.append(row(f"build_{name}_ratio_vs_fast_plaid", four[field] / plaid[field], "", **size))
    return made


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UserError for an engine that nobody knows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", help=f"sizes, joined by commas ({SIZES}; without peers {FEW})")
    parser.add_argument("--peers", default=",".join(ENGINES), help="joined by commas; '' for none (all)")
    parser.add_argument("--vectors", type=Path, help="a folder of vectors instead of generated ones")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--budgets", type=int, nargs="*", default=list(BUDGETS), help=f"of ours {BUDGETS}")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="of a search (1 2)")
    parser.add_argument("--builds", type=int, default=1, help="at a time, if more than 1 on one processor each (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--add", action="store_true", help="to the figures of other sizes that were written before")
    parser.add_argument("--work", type=Path, help="folder for indexes, removed again (the system's temporary folder)")
    parser.add_argument("--picture", action="store_true", help=f"draw {PICTURE.name}")
    given = parser.parse_args(arguments)
    given.peers = [name.strip() for name in given.peers.split(",") if name.strip()]
    if unknown := set(given.peers) - set(ENGINES):
        raise UserError(f"no engine {', '.join(sorted(unknown))}: the peers are {', '.join(ENGINES)}")
    given.documents = given.documents or (SIZES if given.peers else FEW)
    if given.budgets and min(given.budgets) < K:
        raise UserError(f"--budgets {min(given.budgets)}: {K} hits are asked for, give at least as many")
    return given


def folders(given: argparse.Namespace) -> list[Path]:
    """The folders of vectors, made once and kept in the cache."""
    if given.vectors is not None:
        return [given.vectors]
    made = []
    for count in (int(text) for text in given.documents.split(",")):
        shape = Shape(count, max(200, given.queries), given.seed)
        name = f"vectors-{count}-{given.seed}" + (f"-{shape.queries}" if shape.queries != 200 else "")
        made.append(make(cache_folder() / "engine" / name, shape))
    return made


def run(arguments: Sequence[str] | None = None) -> list[Record]:
    """All sizes: tables, figures, picture. Written after each size, so that no hour is lost."""
    given = options(arguments)
    name = "engine" if given.vectors is None else f"engine-{given.vectors.name}"
    before = [line for line in read(name) if line["name"] == "engine_query_ms"] if given.add else []
    records: list[Record] = []
    for folder in folders(given):
        found = compare(folder, given)
        records += found
        measured_here = next((r for r in found if "not_run" not in r), None)
        head = (
            f"{measured_here['documents']:,} documents, {measured_here['vectors']:,} vectors" if measured_here else ""
        )
        print(f"\n{head}\n\n{table(found)}\n", flush=True)
        sizes = {r["documents"] for r in records if "not_run" not in r}
        others = [
            {**line["settings"], "p50_ms": line["value"]}
            for line in before
            if line["settings"]["documents"] not in sizes
        ]
        write(name, rows([*others, *records]))
    if given.picture:
        draw([*others, *records], PICTURE)
        print(f"picture: {PICTURE}")
    return records


if __name__ == "__main__":
    try:
        run()
    except UserError as error:
        sys.exit(f"error: {error}")
