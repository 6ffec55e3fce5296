"""Tokenised training batches: colbertxm's loader, `datasets` streaming and PyLate's, by turns: `make bench-loaders`.

The same triples, tokenizer, lengths, batch size and number of workers, nobody to eat the batches. The others run in the
environment that `make parity` makes. Memory is that of the process and its workers together, each page counted once
(PSS, Linux); PyLate's holds its model, because its collator tokenises with it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.loaders import material
from benchmarks.parity import environments
from benchmarks.record import row, write

HERE = Path(__file__).parent / "peers"
SCRIPTS = {"ours": "ours.py", "datasets": "streaming.py", "pylate": "pylate_loader.py"}
LOOK = 0.25  # seconds between two looks at the memory


def python_of(name: str) -> str:
    """Ours is this one; the two others are in one environment."""
    return sys.executable if name == "ours" else str(environments.ready(environments.PEERS["PyLate 1.6.0"])[0])


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found


def pss_mb(pid: int) -> float:
    """MiB of a process and those below it, a page that several share counted once."""
    total = 0
    for process in tree(pid):
        try:
            total += int(Path(f"/proc/{process}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
        except (OSError, IndexError):
            continue
    return total / 1024


def measured(name: str, job: Path) -> dict[str, Any]:
    """What a script reports, with its peak memory."""
    own = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python_of(name), str(HERE / SCRIPTS[name]), str(job)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=out, stderr=said, cwd=job.parent)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, pss_mb(process.pid))
            time.sleep(LOOK)
        out.seek(0)
        said.seek(0)
        if process.returncode:
            sys.exit(f"{name} failed: {' | '.join(said.read().strip().splitlines()[-3:])}")
        found: dict[str, Any] = json.loads(out.read().strip().splitlines()[-1])
    found["peak_mb"] = peak
    print(f"{name:10}" + "  ".join(f"{k} {v:,.5g}" for k, v in found.items()), flush=True)
    return found


def main() -> None:
    """Take turns, print and write medians."""
    parser = argparse.ArgumentParser(description="Training loaders side by side")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batches", type=int, default=150, help="timed batches a turn (150)")
    parser.add_argument("--only", choices=list(SCRIPTS), nargs="*", default=list(SCRIPTS))
    arguments = parser.parse_args()
    settings = {"size": 128, "workers": 2, "seed": 42, "buffer": 10_000, "warm": 10, "batches": arguments.batches}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(json.dumps({**material.make(Path(folder)), **settings}), encoding="utf-8")
        for _ in range(arguments.turns):
            for name, found in turns.items():
                found.append(measured(name, job))
    rows = []
    for name, found in turns.items():
        medians = {key: statistics.median(turn[key] for turn in found) for key in ("per_s", "first_s", "peak_mb")}
        notes = {**settings, **medians, "turns": [turn["per_s"] for turn in found], "triples": material.TRIPLES}
        exact = all(turn["exact"] for turn in found)
        rows.append(row(f"loader_triples_per_s_{name}", medians["per_s"], "triples/s", **notes, exact_restart=exact))
    write("loaders", rows)


if __name__ == "__main__":
    main()
