"""Training speed beside PyLate and sentence-transformers, and the memory of large batches: `make bench-train`.

The same weights, triples, loss, optimiser and schedule; each library trains with its own trainer in an environment of
its own, in turns on one machine. Written: benchmarks/results/train.json, and with --picture the loss curves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import row, write
from benchmarks.train import cached, gpu
from benchmarks.train.figures import KEYS, apart, curve, curve_table, draw, speeds, table
from benchmarks.train.turns import OURS, SIDES, Turn, take_turns
from benchmarks.train.workloads import prepare
from colbertxm.errors import UserError

PICTURE = Path(__file__).parent / "curves.png"
CURVE_BATCH, CURVE_TURNS = 16, (3,) * 10
SPEED_BATCH, SPEED_TURNS = 32, (1,) * 5
PARTS = ("curves", "speed", "memory", "gpu")
Found = Mapping[str, Sequence[Turn]]


def trained(workload: str, turns: Sequence[int], batch_size: int, threads: int) -> Found:
    """The turns of all sides over one workload."""
    print(f"{workload}: batch {batch_size}, turns of {turns[0]}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(workload, Path(folder), sum(turns), batch_size, threads)
        return take_turns(SIDES, job, threads, turns)


def curve_rows(found: Found, batch_size: int, picture: Path | None) -> list[dict[str, Any]]:
    """The loss curves: table, picture, figures."""
    print(f"\nLoss, smart_home, batch {batch_size}\n\n{curve_table(found, 5)}")
    if picture is not None:
        draw(found, picture)
        print(f"\npicture: {picture}")
    distances = apart(found)
    curves = {side: curve(turns) for side, turns in found.items()}
    return [
        row(f"loss_apart_from_{KEYS[side]}", values["largest"], "nats", at_first_step=values["first"],
            end=values["end"], our_end=distances[OURS]["end"], steps=len(curves[OURS]), batch=batch_size,
            losses=curves[side], our_losses=curves[OURS])
        for side, values in distances.items() if side != OURS
    ]  # fmt: skip


def speed_rows(found: Found, batch_size: int, workload: str, prefix: str = "") -> list[dict[str, Any]]:
    """The speeds: table and figures."""
    rows = speeds(found, batch_size)
    print(f"\nSpeed, {workload}, batch {batch_size}\n\n{table(rows)}")
    ours = next(entry for entry in rows if entry["side"] == OURS)
    made = [
        row(f"{prefix}speedup_vs_{KEYS[entry['side']]}", entry["ours_is_faster"], "x", batch=batch_size,
            ours=ours, peer=entry, workload=workload)
        for entry in rows if entry["side"] != OURS
    ]  # fmt: skip
    return [*made, row(f"{prefix}triples_per_s", ours["triples_per_s"], "triples/s", batch=batch_size)]


def memory_rows(threads: int, shorter: int) -> list[dict[str, Any]]:
    """The memory of a large batch."""
    found = cached.compare(threads, shorter)
    print(
        f"\nMemory: {found['large_batch']} with cached gradients holds {found['ratio']:.2f} times what "
        f"{found['plain_batch']} holds plain ({found['large_peak'] / 1e9:.2f} and {found['plain_peak'] / 1e9:.2f} GB); "
        f"above the {found['baseline'] / 1e9:.2f} GB of a trained model, {found['ratio_above_baseline']:.2f} times"
    )
    settings = {name: value for name, value in found.items() if name != "ratio"}
    return [row("cached_gradient_memory_ratio", found["ratio"], "x", **settings)]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part; writes no results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="triples a batch, for a look; writes no results")
    parser.add_argument("--shorter", type=int, default=cached.SHORTER, help="divides the memory step's lengths (8)")
    parser.add_argument("--picture", action="store_true", help=f"draw {PICTURE.name}")
    return parser.parse_args()


def part(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run one part, print its figures, return its rows."""
    if name == "curves":
        batch = given.batch or CURVE_BATCH
        found = trained("smart_home", CURVE_TURNS, batch, given.threads)
        rows = curve_rows(found, batch, PICTURE if given.picture else None)
        return [*rows, *speed_rows(found, batch, "smart_home", "smart_home_")]
    if name == "speed":
        batch = given.batch or SPEED_BATCH
        return speed_rows(trained("ms_marco", SPEED_TURNS, batch, given.threads), batch, "ms_marco")
    return memory_rows(given.threads, given.shorter) if name == "memory" else gpu.rows()


def main() -> None:
    """All parts, or one. A part that fails does not cost the others their figures, but nothing is written then."""
    given, started = options(), time.perf_counter()
    rows: list[dict[str, Any]] = []
    failed = []
    for name in (given.only,) if given.only else PARTS:
        try:
            rows += part(name, given)
        except UserError as error:
            failed.append(name)
            print(f"\nerror: {name}: {error}", file=sys.stderr, flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    if failed:
        sys.exit(f"no results are written: {', '.join(failed)} failed")
    if not given.only and not given.batch:
        write("train", rows)


if __name__ == "__main__":
    main()
